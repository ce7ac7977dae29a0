# SPDX-License-Identifier: Apache-2.0
"""All sets of this machine: list them, remove idle ones, and explain errors by them."""

from __future__ import annotations

import errno
import os
import time
from itertools import islice

from . import _set
from ._keys import LONGEST_NAME, key, name_of, words
from ._sysv import Removed, refusal, system

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from typing import Callable

    from ._sysv import Operation, SysV

_UNREADY = 60  # seconds after which a set without a number of tokens is left by a killed process
_SWEPT = 100  # sets that one sweep looks at, at most


class Row:
    """One line of /proc/sysvipc/sem: a set of whatever program."""

    def __init__(self, line: str) -> None:
        key, semid, mode, size, uid, gid, _, _, otime, ctime = line.split()
        self.key, self.id, self.mode, self.size = int(key), int(semid), int(mode, 8), int(size)
        self.uid, self.gid = int(uid), int(gid)
        self.created = int(ctime)  # or changed by IPC_SET; seconds since 1970
        self.changed = max(int(otime), int(ctime))


def rows() -> Iterator[Row]:
    """Yield all sets of this IPC namespace. OSError where the system does not list them."""
    with open("/proc/sysvipc/sem", encoding="utf-8") as lines:
        next(lines)
        yield from map(Row, lines)


class Listed:
    """A set of this package, as it was when it was looked at.

    If this user may not read it, it may be another program's; then ``name`` is None.
    """

    name: str | None = None
    free = total = users = waiting = 0
    persistent = False
    holders: list[tuple[int | None, int]] = []

    def __init__(self, library: SysV, row: Row, values: list[int]) -> None:
        self.row = row
        if not values:
            return
        self.name = name_of(values[_set.NAME :])
        self.free = values[_set.TOKENS] - library.system.bias
        self.total, self.users = values[_set.TOTAL], values[_set.USERS]
        self.persistent = bool(values[_set.PERSIST])
        self.waiting = library.waiters(row.id, _set.TOKENS)
        self.waiting += library.zero_waiters(row.id, _set.TURN)
        accounts = _set.NAME + len(words(self.name or ""))
        self.holders = _set.holders_of(library, row.id, values, accounts)


def listed(wanted: Callable[[Row], bool] = bool) -> Iterator[Listed]:
    """Yield this package's sets, idle ones too, and sets that this user may not read.

    Raises:
        OSError: the system does not list sets (only Linux does, in /proc/sysvipc/sem).
    """
    library = system()
    for row in rows():
        if row.key == 0 or row.size != library.system.size or not wanted(row):
            continue
        try:
            values = library.values(row.id) or []
            name = name_of(values[_set.NAME :])
            if name is not None and values[_set.TOTAL] and key(name) == row.key:
                yield Listed(library, row, values)
        except Removed:
            pass
        except PermissionError:
            yield Listed(library, row, [])


def remove_idle(names: Container[str] | None = None, most: int | None = None) -> list[str]:
    """Remove this user's idle sets, and return their names.

    Each is looked at once more in the step that removes it. Sets that were never made ready, since
    their creator was killed, are removed too.

    Args:
        names: remove only these, of whatever user, persistent ones included.
        most: how many sets to look at, at most.
    """
    library, removed = system(), []
    try:
        found = list(removable(names, most))
    except OSError:  # the system does not list sets
        found = []
    for name, semid, mark in found:
        try:
            if _set.remove_marked(library, semid, mark):
                removed.append(name)
        except OSError:  # removed meanwhile
            pass
    return removed


def removable(
    names: Container[str] | None = None, most: int | None = None
) -> Iterator[tuple[str, int, list[Operation]]]:
    """Yield name, id and mark of each set that ``remove_idle`` removes; "" for a nameless one.

    Raises:
        OSError: the system does not list sets.
    """
    library, me = system(), os.geteuid()
    mine = (row for row in rows() if row.key and row.size == library.system.size)
    mine = (row for row in mine if names is not None or row.uid == me)
    for row in islice(mine, most):
        try:
            values = library.values(row.id) or [1]
        except OSError:  # removed meanwhile, or another user's
            continue
        name = name_of(values[_set.NAME :])
        if not any(values[: _set.NAME]):  # never made ready
            if names is None and row.changed < time.time() - _UNREADY:
                yield "", row.id, _set.MARK_UNREADY
        elif name is None or key(name) != row.key or values[_set.USERS]:
            continue
        elif not values[_set.TOKENS]:  # not ready, and another process removes it
            continue
        elif names is None and not values[_set.PERSIST]:
            yield name, row.id, _set.MARK_IDLE
        elif names is not None and name in names:
            yield name, row.id, _set.MARK_UNUSED


def sweep() -> None:
    """Remove what earlier runs left: idle sets of this user, a bounded number."""
    remove_idle(most=_SWEPT)


def failure(library: SysV, error: OSError, name: str) -> Exception:
    """Return the exception for the caller: with the name, and a hint that helps."""
    number = error.errno or 0
    if number == errno.ENOSYS:
        return NotImplementedError(refusal(library.platform))
    hint = error.strerror or _hint(library, number, name)
    return OSError(number, os.strerror(number) + (f" ({hint})" if hint else ""), name)


def _hint(library: SysV, number: int, name: str) -> str | None:
    limits = library.system.limits
    if number in (errno.EACCES, errno.EPERM):
        return _whose(name)
    return {
        errno.ENOENT: "no process has a semaphore of this name open",
        errno.EEXIST: "a process has a semaphore of this name open, or it is persistent",
        errno.ENOSPC: "a limit of System V semaphores is reached: ipcs -s lists them, "
        f"ipcrm removes one, {limits} sets the limit",
        errno.ENOMEM: "the kernel has no memory for it",
        errno.E2BIG: f"{limits} allows too few operations in one call; five are needed",
        errno.ENAMETOOLONG: f"a name has at most {LONGEST_NAME} bytes with its slash, "
        "and fewer on systems with small sets",
        errno.ERANGE: f"at most {library.system.bias - 1} tokens are possible",
        errno.EINVAL: f"{limits} does not allow one process to use more System V semaphores",
    }.get(number)


def _whose(name: str) -> str:
    try:
        for row in rows():
            if row.key == key(name):
                advice = "; mode 0o660 from the start lets a group use it"
                return (
                    f"set {row.id} belongs to user {row.uid}, group {row.gid}, with mode "
                    f"{row.mode:04o}; that user or root can remove it: unlink"
                    + ("" if row.mode & 0o060 == 0o060 else advice)
                )
    except OSError:
        pass
    return "it belongs to another user"


def shown_holders(found: list[tuple[int | None, int]]) -> str:
    """Return the holders for a sentence: "held by 12, 13 (2 tokens)"."""
    return "held by " + ", ".join(
        ("others" if pid is None else str(pid)) + (f" ({tokens} tokens)" if tokens > 1 else "")
        for pid, tokens in found
    )
