# SPDX-License-Identifier: Apache-2.0
"""The commands except run; each returns its exit code, None for 0. ``parser`` reads the words.

Signals have their default actions (``__main__`` sets them). Only acquire can lose a token by a
signal, and blocks signals.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from contextlib import contextmanager

from .. import NamedSemaphore, _set, _sets, _sysv
from .._checks import check_integer, check_name
from .._opening import open_set
from .._semlock import system as posix_system
from ..core import unlink_name
from ..listing import list_posix, list_robust, list_what_can_be
from .run import ERROR, NO_TOKEN, complain
from .tables import bare, show, show_processes, show_semaphores

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from ..listing import SemaphoreInfo

_signal: Any = signal  # for mypy: Windows lacks some of it
_SLICE = 0.1  # seconds that acquire blocks signals at a time


# --- One semaphore --------------------------------------------------------------------------------


def _open_posix(name: str) -> NamedSemaphore:
    return NamedSemaphore(name, 1, NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS, False)


@contextmanager
def _open_robust(name: str) -> Iterator[_set.Set]:
    semset, _ = open_set(_sysv.system(), name, create=False)
    try:
        yield semset
    finally:
        semset.leave()


def _is_posix(name: str) -> bool:
    """Return whether there is a POSIX semaphore of this name."""
    try:
        _open_posix(name).close()
    except NotImplementedError:
        return False
    except OSError as error:
        # Other errors (no /dev/shm, a name that is too long) say that there can be none. EINVAL:
        # a file that is no semaphore.
        return error.errno in (errno.EACCES, errno.EPERM, errno.EINVAL)
    return True


def _is_robust(name: str) -> bool:
    try:
        with _open_robust(name):
            return True
    except PermissionError:
        return True
    except (NotImplementedError, OSError):
        return False


def _kind(name: str, options: argparse.Namespace) -> str:
    """Return the kind of the semaphore of this name, which must be clear."""
    if options.robust or options.posix:
        return "robust" if options.robust else "posix"
    posix, robust = _is_posix(name), _is_robust(name)
    if posix and robust:
        raise ValueError(
            f"a POSIX and a robust semaphore have the name {name!r}: add --posix or --robust"
        )
    if not posix and not robust:
        reason = f"{os.strerror(errno.ENOENT)} (there is no semaphore of this name)"
        raise FileNotFoundError(errno.ENOENT, reason, name)
    return "posix" if posix else "robust"


def _listed(name: str, kind: str) -> SemaphoreInfo | None:
    """Return what the list says: it needs no right to change the semaphore."""
    try:
        found = list_posix() if kind == "posix" else list_robust()
    except (NotImplementedError, OSError):
        return None
    return next((info for info in found if info.name == name), None)


def value(options: argparse.Namespace) -> None:
    name = check_name(options.name)
    kind = _kind(name, options)
    try:
        if kind == "posix":
            free = _open_posix(name).value
        else:
            with _open_robust(name) as semset:
                free = semset.free()
    except PermissionError:
        info = _listed(name, kind)
        if info is None or info.value is None:
            raise
        free = info.value
    show(max(0, free))


def _only_posix(options: argparse.Namespace, why: str) -> NamedSemaphore:
    name = check_name(options.name)
    try:
        return _open_posix(name)
    except (FileNotFoundError, NotImplementedError):
        if _is_robust(name):
            raise ValueError(f"{options.name} is robust: {why}") from None
        raise


def acquire(options: argparse.Namespace) -> int | None:
    semaphore = _only_posix(
        options, "the kernel would take the token back when this command ends; use run"
    )
    begin, told = time.monotonic(), not (options.verbose or os.isatty(2))
    limit = 0.0 if options.no_wait else options.timeout
    deadline = float("inf") if limit is None else begin + limit
    # The exit code must tell the truth: no signal may end this process between the acquire and
    # its exit. So signals are blocked during each slice of the wait, and with a token for good.
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, signal.valid_signals())
    while not semaphore.acquire(timeout=max(0.0, min(_SLICE, deadline - time.monotonic()))):
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
        now = time.monotonic()
        if now >= deadline:
            within = f" within {limit:g} s" if limit else ""
            complain(f"{options.name}: no token was free{within}")
            return NO_TOKEN
        if not told and now > begin + 1:
            told = True
            complain(f"waiting for a token of {options.name}")
        _signal.pthread_sigmask(_signal.SIG_BLOCK, signal.valid_signals())
    return None


def release(options: argparse.Namespace) -> None:
    why = "each holder gives its own tokens back; for more tokens use resize"
    _only_posix(options, why).release(options.n)


def create(options: argparse.Namespace) -> None:
    name = check_name(options.name)
    if options.posix:
        other = _is_robust(name)
        os.umask(0)  # the mode is exact, as with mkdir -m
        flag = NamedSemaphore.Flags.RAISE_IF_EXISTS
        NamedSemaphore(name, options.slots, flag, False, mode=options.mode)
    else:
        other = _is_posix(name)
        library = _sysv.system()
        total = check_integer(name, "--slots", options.slots, 1, library.system.bias - 1)
        semset, _ = open_set(library, name, total, link=False, mode=options.mode)
        semset.operate(_set.STAY)
        semset.leave()
    if other:
        complain(
            f"now a POSIX and a robust semaphore have the name {options.name}: two limits, which "
            "know nothing of each other"
        )


def resize(options: argparse.Namespace) -> None:
    name = check_name(options.name)
    total = check_integer(name, "N", options.total, 1, _sysv.system().system.bias - 1)
    try:
        with _open_robust(name) as semset:
            semset.resize(total)
    except FileNotFoundError:
        if _is_posix(name):
            raise ValueError(
                f"{options.name} is a POSIX semaphore, which does not store its number of tokens: "
                "use release and acquire"
            ) from None
        raise


# --- unlink ---------------------------------------------------------------------------------------


def unlink(options: argparse.Namespace) -> int | None:
    if options.unused:
        return _unlink_unused(options)
    if not options.names:
        options.parser.error("which names?")
    code = None
    for typed in options.names:
        try:
            _unlink(check_name(typed), options)
        except (NotImplementedError, OSError, ValueError) as error:
            complain(error, typed)
            code = ERROR
    return code


def _unlink(name: str, options: argparse.Namespace) -> None:
    set_before = _set_of(name)
    try:
        if _kind(name, options) == "posix":
            # Not opened: its mode may forbid that to its owner.
            unlink_name(posix_system(), name)
        else:
            with _open_robust(name) as semset:
                semset.remove()
    except FileNotFoundError:
        # An idle set counts as not there, and an attempt to open it removes it.
        if options.posix or set_before is None:
            raise
        if _set_of(name) == set_before:
            raise _not_permitted(name) from None


def _set_of(name: str) -> int | None:
    """Return the id of the set of this name, also of an idle one."""
    try:
        return _sysv.system().get(_set.key(name), 0)
    except (NotImplementedError, OSError):
        return None


def _not_permitted(name: str) -> Exception:
    return _set.failure(_sysv.system(), OSError(errno.EPERM, ""), name)


def _unlink_unused(options: argparse.Namespace) -> int | None:
    """Remove this user's idle sets, or the unused ones of these names. Name those that remain."""
    if options.posix:
        options.parser.error("POSIX semaphores are removed by name only, without --unused")
    typed = {check_name(name): name for name in options.names}
    names = list(typed) or None
    unused = [name for name, *_ in _sets.removable(names)]
    if unused and not options.yes:
        show("\n".join(map(_shown_set, unused)))
        if not _agrees(options, len(unused)):
            return None
    removed = _sets.remove_idle(names) if unused else []  # looks again
    if options.yes or not unused:
        show("\n".join(map(_shown_set, removed)) or "nothing to remove")
    left = [name for name in typed if name not in removed]
    for name in left:
        complain(f"{typed[name]}: not removed: {_why_not_removed(name)}")
    return ERROR if left else None


def _shown_set(name: str) -> str:
    return bare(name) if name else "(a set that was never made ready)"


def _why_not_removed(name: str) -> str:
    info = _listed(name, "robust")
    if info is not None and info.users:
        return "a process has it open"
    if _set_of(name) is None:
        return "there is no robust semaphore of this name"
    return str(_not_permitted(name).args[1])


def _agrees(options: argparse.Namespace, count: int) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        options.parser.error(f"refusing to remove {count} without --yes")
    try:
        answer = input(f"Remove {count}? [y/N] ")
    except EOFError:  # Ctrl-D
        show("")
        return False
    return answer.strip().lower() in ("y", "yes")


# --- list and holders -----------------------------------------------------------------------------


def list_(options: argparse.Namespace) -> None:
    found, refusals = list_what_can_be()
    show_semaphores(found, options.json)
    for refusal in refusals:
        complain(refusal)


def holders(options: argparse.Namespace) -> None:
    name = check_name(options.name)
    if _kind(name, options) == "robust":
        try:
            with _open_robust(name) as semset:
                found = semset.holders()
        except PermissionError:
            info = _listed(name, "robust")
            if info is None:
                raise
            found = list(info.holders or ())
        show_processes(found, options.json)
        return
    info = _listed(name, "posix")
    if info is None or info.pids is None:
        raise NotImplementedError(
            f"this system does not tell who has the POSIX semaphore {options.name} open"
        )
    show_processes([(pid, None) for pid in info.pids], options.json)
    others = "" if info.all_pids else ", and perhaps others that this user may not look into"
    complain(
        f"{options.name} is a POSIX semaphore: these processes have it open{others}; which of them "
        "hold tokens is not known"
    )
