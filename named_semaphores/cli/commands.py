# SPDX-License-Identifier: Apache-2.0
"""The commands except run, and what they show. ``parser`` reads the words.

Each command returns its exit code, None for 0.

Signals have their default actions (``__main__`` sets them). Only acquire can lose a token by a
signal, and blocks signals.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time

from .. import NamedSemaphore, _sysv
from .._common import check_integer, check_name, clock, deadline_of
from .._libc import system as posix_system
from .._set import NAME, PERSIST, STAY, TOTAL, USERS, Set, failure, name_of
from .._sets import find, open_set, removable, remove_idle
from ..core import unlink_name
from ..listing import list_posix, list_robust, user_name
from .run import ERROR, NO_TOKEN, complain, is_posix

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ..listing import SemaphoreInfo

_SECOND = 1_000_000_000  # in nanoseconds, as clock() counts
_SLICE = 0.1  # seconds that acquire blocks signals at a time
_COLUMNS = "NAME KIND FREE SLOTS WAITING USERS HOLDERS PIDS MODE OWNER AGE".split()


def _open_posix(name: str) -> NamedSemaphore:
    return NamedSemaphore(name, 1, NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS, False)


def _listed(name: str) -> SemaphoreInfo | None:
    """Return what the list says of a POSIX semaphore: it needs no right to change it."""
    try:
        return next((info for info in list_posix() if info.name == name), None)
    except NotImplementedError:
        return None


def _robust(name: str, idle_too: bool = False) -> Set:
    """Return the robust semaphore of this name. This process does not become a user.

    FileNotFoundError: there is none, or it is idle.
    """
    library = _sysv.system()
    try:
        semid = find(library, name)
        values = None if semid is None else library.values(semid)
        if semid is not None and values and values[TOTAL] and name_of(values[NAME:]) == name:
            if idle_too or values[USERS] or values[PERSIST]:
                return Set(library, name, semid)
        raise OSError(errno.ENOENT, "")
    except OSError as error:
        raise failure(library, error, name) from None


def _is_robust(name: str, idle_too: bool = False) -> bool:
    try:
        _robust(name, idle_too)
    except (NotImplementedError, OSError) as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def _is_for_robust(name: str, options: argparse.Namespace, idle_too: bool = False) -> bool:
    """Return whether the command is for the robust semaphore of this name, not the POSIX one."""
    if options.robust or options.posix:
        return bool(options.robust)
    posix = is_posix(name)
    if posix and _is_robust(name, idle_too):
        raise ValueError(
            f"a POSIX and a robust semaphore have the name {name!r}: add --posix or --robust"
        )
    return not posix


def value(options: argparse.Namespace) -> None:
    name = check_name(options.name)
    if _is_for_robust(name, options):
        free = _robust(name).free()
    else:
        try:
            free = _open_posix(name).value
        except PermissionError:
            info = _listed(name)
            if info is None or info.value is None:
                raise
            free = info.value
    show(max(0, free))


def holders(options: argparse.Namespace) -> None:
    name = check_name(options.name)
    if _is_for_robust(name, options):
        _show_processes(_robust(name).holders(), options.json)
        return
    info = _listed(name)
    if info is None:
        raise NotImplementedError(
            f"this system does not tell who has the POSIX semaphore {options.name} open"
        )
    _show_processes([(pid, None) for pid in info.pids or ()], options.json)
    others = "" if info.all_pids else ", and perhaps others that this user may not look into"
    complain(
        f"{options.name} is a POSIX semaphore: these processes have it open{others}; which of them "
        "hold tokens is not known"
    )


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
    deadline = deadline_of(0 if options.no_wait else options.timeout)
    tell_at = clock() + _SECOND if options.verbose or os.isatty(2) else None
    while True:
        # The exit code must tell the truth: no signal may end this process between the acquire
        # and its exit. So signals are blocked during each slice of the wait, and with a token for
        # good.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        left = _SLICE if deadline is None else min(_SLICE, (deadline - clock()) / 1e9)
        if semaphore.acquire(timeout=max(0.0, left)):
            return None
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if deadline is not None and clock() >= deadline:
            within = f" within {options.timeout:g} s" if options.timeout else ""
            complain(f"{options.name}: no token was free{within}")
            return NO_TOKEN
        if tell_at is not None and clock() > tell_at:
            tell_at = None
            complain(f"waiting for a token of {options.name}")


def release(options: argparse.Namespace) -> None:
    why = "each holder gives its own tokens back; for more tokens use resize"
    _only_posix(options, why).release(options.n)


def create(options: argparse.Namespace) -> None:
    name = check_name(options.name)
    if options.posix:
        os.umask(0)  # the mode is exact, as with mkdir -m
        flag = NamedSemaphore.Flags.RAISE_IF_EXISTS
        NamedSemaphore(name, options.slots, flag, False, mode=options.mode)
    else:
        library = _sysv.system()
        check_integer(name, "--slots", options.slots, 1, library.system.bias - 1)
        semset, _ = open_set(library, name, options.slots, link=False, mode=options.mode)
        semset.operate(STAY)
        semset.leave()
    if is_posix(name) and _is_robust(name):
        complain(
            f"now a POSIX and a robust semaphore have the name {options.name}: two limits, which "
            "know nothing of each other"
        )


def resize(options: argparse.Namespace) -> None:
    name = check_name(options.name)
    check_integer(name, "N", options.total, 1, _sysv.system().system.bias - 1)
    _robust(name).resize(options.total)


def list_(options: argparse.Namespace) -> int | None:
    found, code = [], None
    for look in (list_posix, list_robust):
        try:
            found += look()
        except NotImplementedError as error:
            complain(error)
            code = ERROR
    found.sort(key=lambda info: (info.name, info.kind))
    if options.json:
        show(json.dumps([_json_of(info) for info in found], indent=2))
    else:
        _show_table(_COLUMNS, map(_row_of, found))
    return code


def unlink(options: argparse.Namespace) -> int | None:
    if options.unused:
        return _unlink_unused(options)
    if not options.names:
        raise ValueError("unlink: which names?")
    code = None
    for typed in options.names:
        try:
            name = check_name(typed)
            if _is_for_robust(name, options, idle_too=True):
                _robust(name, idle_too=True).remove()
            else:  # not opened: its mode may forbid that to its owner
                unlink_name(posix_system(), name)
        except (NotImplementedError, OSError, ValueError) as error:
            complain(error, typed)
            code = ERROR
    return code


def _unlink_unused(options: argparse.Namespace) -> int | None:
    """Remove this user's idle sets, or the unused ones of these names. Name those that remain."""
    if options.posix:
        raise ValueError("unlink: POSIX semaphores are removed by name only, without --unused")
    typed = {check_name(name): name for name in options.names}
    names = list(typed) or None
    unused = [name for name, *_ in removable(names)]
    if unused and not options.yes:
        question = "\n".join([*map(_shown, unused), f"Remove {len(unused)}? [y/N] "])
        try:
            answer = input(question)
        # Nobody answers, or a stream is closed: an AttributeError on PyPy.
        except (EOFError, RuntimeError, AttributeError):
            raise ValueError("unlink: without an answer or --yes nothing is removed") from None
        if answer.strip().lower() not in ("y", "yes"):
            return None
    removed = remove_idle(names) if unused else []  # looks again
    show("\n".join(map(_shown, removed)) or "nothing to remove")
    left = [typed[name] for name in typed if name not in removed]
    for name in left:
        complain(f"{name}: not removed: a process has it open, you may not, or there is none")
    return ERROR if left else None


def _shown(name: str) -> str:
    return _printable(name[1:]) or "(a set that was never made ready)"


# --- Standard output ------------------------------------------------------------------------------


def show(text: object, end: str = "\n") -> None:
    """Write to standard output. OSError: that failed, and will not be tried again at the end."""
    output = "standard output"
    if sys.stdout is None:  # it was closed at the start
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), output)
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, output) from None


def _printable(text: str) -> str:
    """Return the text without control sequences for a terminal: other programs chose it."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _json_of(info: SemaphoreInfo) -> dict[str, Any]:
    found = info._asdict()
    found["slots"] = found.pop("total")
    if info.holders is not None:
        found["holders"] = [holder._asdict() for holder in info.holders]
    found.update(name=info.name[1:], mode=f"{info.mode:04o}", owner=info.owner)
    return {**found, "age": round(info.age, 3)}


def _row_of(info: SemaphoreInfo) -> Sequence[str]:
    value = "?" if info.value is None else str(info.value)
    numbers = [
        "-" if number is None else str(number) for number in (info.total, info.waiting, info.users)
    ]
    holders = [str(holder.pid or "?") for holder in info.holders or ()]
    pids = [str(pid) for pid in info.pids or ()]
    if info.pids is not None and not info.all_pids:
        pids.append("?")
    processes = [",".join(holders) or "-", ",".join(pids) or "-"]
    whose = [f"{info.mode:04o}", info.owner, _shown_time(info.age)]
    return [_printable(info.name[1:]), info.kind, value, *numbers, *processes, *whose]


def _show_processes(holders: Iterable[tuple[int | None, int | None]], as_json: bool) -> None:
    """Show the processes (pid, tokens). None: not known."""
    found = [_process(*holder) for holder in holders]
    if as_json:
        show(json.dumps(found, indent=2))
        return
    rows = []
    for process in found:
        if process["elapsed"] is not None:
            process["elapsed"] = _shown_time(process["elapsed"])
        rows.append(["?" if it is None else _printable(str(it)) for it in process.values()])
    _show_table("PID TOKENS USER ELAPSED COMMAND".split(), rows)


def _process(pid: int | None, tokens: int | None) -> dict[str, Any]:
    """Return what is known of a process; None for what is not."""
    user = elapsed = command = None
    if not pid:
        command = "(several processes)" if pid is None else "(of another PID namespace)"
    else:
        try:
            user = user_name(os.stat(f"/proc/{pid}").st_uid)
            begin = int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])
            command = " ".join(_read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0"))
            # "begin" has ticks since the machine's start.
            boottime: int = time.CLOCK_BOOTTIME  # type: ignore[attr-defined,unused-ignore]
            elapsed = round(time.clock_gettime(boottime) - begin / os.sysconf("SC_CLK_TCK"), 2)
        except OSError:  # it has ended, or this system has no /proc
            pass
    return {"pid": pid, "tokens": tokens, "user": user, "elapsed": elapsed, "command": command}


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        return file.read()


def _show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    show("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table))


def _shown_time(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"
