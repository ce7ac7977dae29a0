# SPDX-License-Identifier: Apache-2.0
"""All sets of this machine: find the one of a name, create and join it; list and remove idle ones.

Another process may do the same at any time, or remove a set: then opening begins again. ``_set``
says what a set is.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from itertools import islice

from . import _set
from ._set import DEAD, NAME, PERSIST, TOKENS, TOTAL, USERS, ZERO, Holder, Set
from ._sysv import IPC_CREAT, IPC_EXCL, NOWAIT, UNDO, Removed, system

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from ._sysv import Operation, SysV

_LONGEST_NAME = 255  # in bytes, with the slash; systems with small sets allow less
_UNREADY = 60  # seconds after which a set without a number of tokens is left by a killed process


def open_set(
    library: SysV,
    name: str,
    total: int = 1,
    *,
    link: bool = True,
    create: bool = True,
    anew: bool = False,
    mode: int = 0o600,
    known: Mapping[int, Set] | None = None,
) -> tuple[Set, bool]:
    """Join the set of this name, which begins with "/". Return it, and whether it was created.

    Args:
        total: the number of tokens if the set is created.
        link, create: whether to link to an existing set, and to create a missing one.
        anew: whether to remove an existing one first, whatever ``link`` says.
        mode: permissions of a new set, whatever the umask.
        known: the sets that this process has joined, by their ids.
    """
    if mode & 0o600 != 0o600:  # its owner could not even make it ready
        raise ValueError(
            f"semaphore {name!r}: mode must allow its owner to read and to change it (0o600), "
            f"not 0o{mode:o}"
        )
    size = library.size
    longest = min(_LONGEST_NAME, (size - NAME - 3) * 15 // 8 - 1)  # there are three accounts, too
    while True:
        try:
            semid = find(library, name)
            joined = known.get(semid) if known and semid is not None else None
            if joined is not None and link and joined.name == name and joined.is_usable():
                return joined, False
            if len(name.encode()) > longest:
                raise OSError(errno.ENAMETOOLONG, "")
            if semid is not None:
                values = library.values(semid)
            elif create:
                try:
                    semid = library.get(_set.key(name), size, IPC_CREAT | IPC_EXCL | mode)
                except FileExistsError:
                    continue
                values = [0] * size  # if another process writes first, _join changes nothing
            else:
                raise OSError(errno.ENOENT, "")
            semset = Set(library, name, semid)
            if not _is_ours(values, _set.words(name)):
                others = f"another program, or another name, has the key {_set.key(name):#x}"
                raise OSError(errno.EEXIST, f"{others}: use another name")
            if anew and (values[USERS] or values[PERSIST]):  # else it counts as not there
                library.remove(semid)
                continue
            is_new = _join(semset, values, total, link, create)
        except Removed:
            continue
        except OSError as error:
            if error.errno == errno.ENOSPC and remove_idle():  # exec and kill leave some
                continue
            raise _set.failure(library, error, name) from None
        if is_new is not None:
            return semset, is_new


def find(library: SysV, name: str) -> int | None:
    """Return the id of the set that has the name's key, or None."""
    try:
        return library.get(_set.key(name))
    except FileNotFoundError:
        return None


def _is_ours(values: list[int], stored: list[int]) -> bool:
    written = values[NAME : NAME + len(stored)]
    if values and values[TOTAL] and not values[DEAD]:
        return written == stored
    # Not ready, or removed before it was ready: half written.
    return [word or right for word, right in zip(written, stored)] == stored


def _join(semset: Set, values: list[int], total: int, link: bool, create: bool) -> bool | None:
    """Join the set of these values. Return whether it is new; None: another process came first."""
    library, semid = semset.library, semset.id
    if not values[TOTAL]:  # it is not ready
        if not create:
            raise OSError(errno.ENOENT, "")
        check_undo(library, semid)
        return _make_ready(semset, values, total) or None
    if values[DEAD]:  # a process is about to remove it, and may be stopped
        mark = _set.MARK_UNUSED if values[TOKENS] else _set.MARK_AGAIN  # without TOKENS: not ready
        if not _set.remove_marked(library, semid, mark):
            library.sleep(0.001)
        return None
    if values[USERS] or values[PERSIST]:
        if not link:
            raise OSError(errno.EEXIST, "")
        return False if semset.join() else None
    # It is idle, so it counts as not there. Look again if it is removed now, or if another process
    # has changed it; go on only without the right to remove it.
    if _set.remove_marked(library, semid, _set.MARK_IDLE) or library.may_remove(semid):
        return None
    if not create:
        raise OSError(errno.ENOENT, "")
    account = values.index(0, semset.accounts)  # a child that C code has forked may have the first
    if not semset.enter(account, _set.take_over(account)):
        return None
    library.operate(semid, _set.resize(values[TOTAL], total))
    return True


def check_undo(library: SysV, semid: int) -> None:
    """Remove the new set, and raise NotImplementedError, if this kernel ignores UNDO.

    Linux refuses an undo sum below -32,768 with ERANGE, and changes nothing. gVisor does not.
    """
    if not library.can_ignore_undo:
        return
    try:
        library.operate(semid, [(ZERO, 32767, UNDO), (ZERO, -32767, NOWAIT)] * 2)
    except OSError as error:  # another error than ERANGE will come again
        if error.errno is None:  # a signal handler's, say TimeoutError
            raise
        library.can_ignore_undo = error.errno != errno.ERANGE
        return
    library.remove(semid)
    raise NotImplementedError(
        "this kernel does not give a dead process's tokens back (it ignores SEM_UNDO, as gVisor "
        "does): use NamedSemaphore"
    )


def _make_ready(semset: Set, values: list[int], total: int) -> bool:
    """Write what is missing of the name, make the set ready, and join it, as its first user."""
    library, stored = semset.library, _set.words(semset.name)
    step = library.operations - 2  # write_name has up to two operations besides the words
    for place in range(0, len(stored), step):
        part = _set.write_name(place, stored[place : place + step], library.size - 1)
        if not values[NAME + place] and not library.operate(semset.id, part):
            return False
    account = semset.accounts
    return semset.enter(account, _set.make_ready(account, total, library.bias))


# --- All sets -------------------------------------------------------------------------------------


class Row:
    """One line of /proc/sysvipc/sem."""

    def __init__(self, line: str) -> None:
        key, semid, mode, size, uid, _, _, _, otime, ctime = line.split()
        self.key, self.id, self.mode, self.size = int(key), int(semid), int(mode, 8), int(size)
        self.uid = int(uid)
        self.created = int(ctime)  # or changed by IPC_SET; seconds since 1970
        self.operated = int(otime)  # when semop changed it last; 0: never


def rows() -> Iterator[Row]:
    """Yield the sets that may be ours, by their size. OSError: the system does not list sets."""
    with open("/proc/sysvipc/sem", encoding="utf-8") as lines:
        next(lines)
        for row in map(Row, lines):
            if row.key and row.size == system().size:
                yield row


def remove_idle(names: Container[str] | None = None, most: int | None = None) -> list[str]:
    """Remove the sets that ``removable`` finds, if they still are, and return their names."""
    removed = []
    with suppress(OSError):  # the system does not list sets
        for name, semid, mark in removable(names, most):
            with suppress(OSError):  # removed meanwhile
                if _set.remove_marked(system(), semid, mark):
                    removed.append(name)
    return removed


def removable(
    names: Container[str] | None = None, most: int | None = None
) -> Iterator[tuple[str, int, list[Operation]]]:
    """Yield name, id and mark of this user's idle sets. OSError: the system does not list sets.

    The name is "" if the set was never made ready, since its creator was killed.

    Args:
        names: look for these only, of whatever user, persistent ones included.
        most: how many sets to look at, at most.
    """
    me = os.geteuid()
    found = (row for row in rows() if names is not None or row.uid == me)
    for row in islice(found, most):
        try:
            values = system().values(row.id)
        except OSError:  # removed meanwhile, or another user's
            continue
        name = _set.name_of(values[_set.NAME :])
        if not any(values[: _set.NAME]):  # never made ready
            # Another program's set has other values, or semop was called on it.
            is_ours = values[NAME] >> 7 == ord("/") if any(values) else not row.operated
            old = max(row.operated, row.created) < time.time() - _UNREADY
            if names is None and is_ours and old:
                yield "", row.id, _set.MARK_UNREADY
        elif name is None or _set.key(name) != row.key or values[_set.USERS]:
            continue
        elif not values[_set.TOKENS]:  # not ready, and another process removes it
            continue
        elif names is None and not values[_set.PERSIST]:
            yield name, row.id, _set.MARK_IDLE
        elif names is not None and name in names:
            yield name, row.id, _set.MARK_UNUSED


def held_by(holders: list[Holder], before: str) -> str:
    """Return the end of a sentence: "held by 12, 13 (2 tokens)", or nothing."""
    shown = ", ".join(
        str(pid or "others") + (f" ({tokens} tokens)" if tokens > 1 else "")
        for pid, tokens in holders
    )
    return f"{before}held by {shown}" if shown else ""
