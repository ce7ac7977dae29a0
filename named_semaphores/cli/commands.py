# SPDX-License-Identifier: Apache-2.0
"""The commands except run, and what they show. Each returns its exit code, None for 0.

Signals have their default actions (``__main__`` sets them). Acquire blocks them.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from contextlib import suppress

from .. import NamedSemaphore, RobustSemaphore, _sysv
from .._common import TYPE_CHECKING, check_integer, check_name, clock, deadline_of, os_error
from .._libc import system as posix_system
from .._set import NAME, PERSIST, TOTAL, USERS, Set, failure, name_of
from .._sets import find, removable, remove_idle
from ..core import unlink_name
from ..listing import list_posix, list_robust, user_name
from .run import ERROR, NO_TOKEN, SILENCE, complain, is_posix, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ..listing import SemaphoreInfo

    Options = dict[str, Any]  # see parser.parse

_SLICE = 0.1  # seconds that acquire blocks signals at a time

# --- Robust or POSIX ------------------------------------------------------------------------------


def _robust(name: str, idle_too: bool = False) -> Set:
    """Return the robust semaphore of this name, without becoming a user of it."""
    library = _sysv.system()
    try:
        semid = find(library, name)
        if semid is not None:
            values = library.values(semid)
            if values and values[TOTAL] and name_of(values[NAME:]) == name:
                if idle_too or values[USERS] or values[PERSIST]:
                    return Set(library, name, semid)
        raise OSError(errno.ENOENT, "")
    except OSError as error:
        raise failure(library, error, name) from None


def _robust_unless_posix(name: str, options: Options, idle_too: bool = False) -> Set | None:
    """Return the robust semaphore, or None if the command is for the POSIX one."""
    if "--posix" in options:
        return None
    if "--robust" in options or not is_posix(name):
        return _robust(name, idle_too)
    try:
        _robust(name, idle_too)
    except PermissionError:  # another user's
        pass
    except (NotImplementedError, OSError):
        return None
    raise ValueError(
        f"a POSIX and a robust semaphore have the name {name[1:]!r}: add --posix or --robust"
    )


def _posix(name: str) -> NamedSemaphore:
    try:
        return NamedSemaphore(name, 1, NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS, False)
    except FileNotFoundError:
        hint = "no POSIX semaphore has this name; run takes the tokens of a robust one"
        raise os_error(errno.ENOENT, name, hint) from None


def _listed(name: str) -> SemaphoreInfo | None:
    return next((info for info in list_posix() if info.name == name), None)


# --- The commands ---------------------------------------------------------------------------------


def do_value(options: Options) -> None:
    name = options["NAME"]
    robust = _robust_unless_posix(name, options)
    if robust:
        show(max(0, robust.free()))
        return
    try:
        found = _posix(name).value
    except PermissionError:
        found = None
        with suppress(NotImplementedError):  # where semaphores are listed, reading is enough
            found = getattr(_listed(name), "value", None)
        if found is None:
            raise
    show(found)


def do_holders(options: Options) -> None:
    name = options["NAME"]
    robust = _robust_unless_posix(name, options)
    if robust:
        _show_processes(options, robust.holders())
        return
    info = _listed(name)
    if info is None:
        raise os_error(errno.ENOENT, name)
    me = os.getpid()  # PyPy still has open what is_posix opened
    _show_processes(options, [(pid, None) for pid in info.pids or () if pid != me])
    others = "" if info.all_pids else ", and perhaps others that this user may not look into"
    complain(
        f"{name[1:]} is a POSIX semaphore: these processes have it open{others}; which of them "
        "hold tokens is not known"
    )


def do_acquire(options: Options) -> int | None:
    name = options["NAME"]
    semaphore = _posix(name)
    timeout = 0 if "--no-wait" in options else options.get("--timeout")
    deadline = deadline_of(timeout)
    tell_at = clock() + SILENCE if "--verbose" in options or os.isatty(2) else None
    while True:
        # The exit code must tell the truth: no signal may end this process once it has a token.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        left = _SLICE if deadline is None else min(_SLICE, (deadline - clock()) / 1e9)
        if semaphore.acquire(timeout=max(0.0, left)):
            return None
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if deadline is not None and clock() >= deadline:
            within = f" within {timeout:g} s" if timeout else ""
            complain(f"{name[1:]}: no token was free{within}")
            return NO_TOKEN
        if tell_at is not None and clock() > tell_at:
            tell_at = None
            complain(f"waiting for a token of {name[1:]}")


def do_release(options: Options) -> None:
    _posix(options["NAME"]).release(options.get("-n", 1))


def do_create(options: Options) -> None:
    name, slots, mode = options["NAME"], options.get("--slots", 1), options.get("--mode", 0o600)
    kind = NamedSemaphore if "--posix" in options else RobustSemaphore
    if kind is NamedSemaphore:
        check_integer(name, "--slots", slots, 0, posix_system().value_max)
    else:
        check_integer(name, "--slots", slots, 1, _sysv.system().most)
    os.umask(0)  # the mode is exact, as with mkdir -m
    kind(name, slots, kind.Flags.RAISE_IF_EXISTS, False, mode=mode)


def do_resize(options: Options) -> None:
    name, total = options["NAME"], options["N"]
    check_integer(name, "N", total, 1, _sysv.system().most)
    _robust(name).resize(total)


def do_unlink(options: Options) -> int | None:
    if "--unused" in options:
        return _unlink_unused(options)
    if not options["NAME"]:
        raise ValueError("unlink: which names?")
    code = None
    for typed in options["NAME"]:
        try:
            name = check_name(typed)
            robust = _robust_unless_posix(name, options, idle_too=True)
            if robust:
                robust.remove()
            else:  # not opened: its mode may forbid that to its owner
                unlink_name(posix_system(), name)
        except (NotImplementedError, OSError, ValueError) as error:
            complain(error)
            code = ERROR
    return code


def _unlink_unused(options: Options) -> int | None:
    if "--posix" in options:
        raise ValueError("unlink: POSIX semaphores are removed by name only, without --unused")
    names = list(map(check_name, options["NAME"]))
    unused = [name for name, *_ in removable(names or None)]
    if unused and "--yes" not in options:
        show("\n".join(map(_shown, unused)))
        try:
            answer = input(f"Remove {len(unused)}? [y/N] ")
        except (EOFError, RuntimeError, AttributeError):  # no input; AttributeError: PyPy's
            raise ValueError("unlink: without an answer or --yes nothing is removed") from None
        if answer.strip().lower() not in ("y", "yes"):
            return None
    removed = remove_idle(names or None) if unused else []  # looks again
    show("\n".join(map(_shown, removed)) or "nothing to remove")
    left = [name for name in names if name not in removed]
    for name in left:
        complain(f"{name[1:]}: not removed: a process has it open, you may not, or there is none")
    return ERROR if left else None


def do_list(options: Options) -> int | None:
    columns = "NAME KIND FREE SLOTS WAITING USERS HOLDERS PIDS MODE OWNER AGE"
    found, code = [], None
    for look in (list_posix, list_robust):
        try:
            found += look()
        except NotImplementedError as error:
            complain(error)
            code = ERROR
    found.sort(key=lambda info: (info.name, info.kind))
    _show(options, list(map(_json_of, found)), columns, map(_row_of, found))
    return code


# --- What they show -------------------------------------------------------------------------------


def _shown(name: str) -> str:
    return _cell(name[1:] or "(a set that was never made ready)")


def _cell(value: object, unknown: str = "?") -> str:
    """Return it as text, without the control sequences that another program may have put there."""
    text = unknown if value is None else str(value)
    return text if text.isprintable() else ascii(text)[1:-1]


def _json_of(info: SemaphoreInfo) -> dict[str, Any]:
    found = info._asdict()
    found["slots"] = found.pop("total")
    if info.holders is not None:
        found["holders"] = [holder._asdict() for holder in info.holders]
    found.update(name=info.name[1:], mode=f"{info.mode:04o}", owner=info.owner)
    return {**found, "age": round(info.age, 3)}


def _row_of(info: SemaphoreInfo) -> Sequence[str]:
    holders = [_cell(holder.pid or None) for holder in info.holders or ()]
    pids = [str(pid) for pid in info.pids or ()]
    if info.pids is not None and not info.all_pids:
        pids.append("?")
    return [
        _cell(info.name[1:]),
        info.kind,
        _cell(info.value),
        *(_cell(number, "-") for number in (info.total, info.waiting, info.users)),
        ",".join(holders) or "-",
        ",".join(pids) or "-",
        f"{info.mode:04o}",
        info.owner,
        _shown_time(info.age),
    ]


def _shown_time(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _show_processes(options: Options, holders: Sequence[tuple[int | None, int | None]]) -> None:
    """Show the processes (pid, tokens). None: not known."""
    found = [_process(*holder) for holder in holders]
    rows = []
    for process in found:
        elapsed = process["elapsed"]
        shown = {**process, "elapsed": None if elapsed is None else _shown_time(elapsed)}
        rows.append([_cell(each) for each in shown.values()])
    _show(options, found, "PID TOKENS USER ELAPSED COMMAND", rows)


def _process(pid: int | None, tokens: int | None) -> dict[str, Any]:
    user = elapsed = command = None
    if not pid:
        command = "(several processes)" if pid is None else "(of another PID namespace)"
    else:
        with suppress(OSError):  # it has ended, or this system has no /proc
            user = user_name(os.stat(f"/proc/{pid}").st_uid)
            ticks = int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])
            command = _read(f"/proc/{pid}/cmdline").rstrip("\0").replace("\0", " ")
            boottime: int = time.CLOCK_BOOTTIME  # type: ignore[attr-defined,unused-ignore]
            elapsed = round(time.clock_gettime(boottime) - ticks / os.sysconf("SC_CLK_TCK"), 2)
    return {"pid": pid, "tokens": tokens, "user": user, "elapsed": elapsed, "command": command}


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="backslashreplace") as file:
        return file.read()


def _show(options: Options, found: Any, columns: str, rows: Iterable[Sequence[str]]) -> None:
    if "--json" in options:
        show(json.dumps(found, indent=2))
        return
    table = [columns.split(), *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    show("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table))
