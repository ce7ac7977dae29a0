# SPDX-License-Identifier: Apache-2.0
"""What the command line writes to standard output: lists, as tables and as JSON."""

from __future__ import annotations

import errno
import os
import sys
import time

from ..listing import user_name

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ..listing import SemaphoreInfo

_COLUMNS = "NAME KIND FREE SLOTS WAITING USERS HOLDERS PIDS MODE OWNER AGE".split()


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


def printable(text: str) -> str:
    """Return the text without control sequences for a terminal: other programs chose it."""
    return text if text.isprintable() else ascii(text)[1:-1]


def show_semaphores(found: Iterable[SemaphoreInfo], as_json: bool) -> None:
    if as_json:
        _show_json([_json_of(info) for info in found])
    else:
        _show_table(_COLUMNS, map(_row_of, found))


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
    return [printable(info.name[1:]), info.kind, value, *numbers, *processes, *whose]


def show_processes(holders: Iterable[tuple[int | None, int | None]], as_json: bool) -> None:
    """Show the processes (pid, tokens). None: not known."""
    found = [_process(*holder) for holder in holders]
    if as_json:
        _show_json(found)
        return
    rows = []
    for process in found:
        if process["elapsed"] is not None:
            process["elapsed"] = _shown_time(process["elapsed"])
        rows.append(["?" if it is None else printable(str(it)) for it in process.values()])
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
            clock: int = time.CLOCK_BOOTTIME  # type: ignore[attr-defined,unused-ignore]
            elapsed = round(time.clock_gettime(clock) - begin / os.sysconf("SC_CLK_TCK"), 2)
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


def _show_json(found: list[dict[str, Any]]) -> None:
    import json

    show(json.dumps(found, indent=2))


def _shown_time(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"
