# SPDX-License-Identifier: Apache-2.0
"""Find the set of a name, or create it, and join it. ``_set`` says what a set is.

Another process may do the same at any time, or remove the set: then this begins again.
"""

from __future__ import annotations

import errno

from . import _set
from ._set import DEAD, NAME, PERSIST, TOKENS, TOTAL, USERS, ZERO, Set, failure, remove_marked
from ._sets import remove_idle
from ._sysv import IPC_CREAT, IPC_EXCL, NOWAIT, UNDO, Removed

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._sysv import SysV

_LONGEST_NAME = 255  # in bytes, with the slash; systems with small sets allow less


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
        anew: whether to remove an existing one first.
        mode: permissions of a new set, whatever the umask.
        known: the sets that this process has joined, by their ids.
    """
    if mode & 0o600 != 0o600:  # its owner could not even make it ready
        raise ValueError(
            f"semaphore {name!r}: mode must allow its owner to read and to change it (0o600), "
            f"not 0o{mode:o}"
        )
    link, create = link and not anew, create or anew
    size = library.system.size
    while True:
        try:
            semid = find(library, name)
            joined = known.get(semid) if known and semid is not None else None
            if joined is not None and link and joined.name == name and not joined.has_left():
                return joined, False
            stored = _set.words(name)
            accounts = NAME + len(stored)
            if len(name.encode()) > _LONGEST_NAME or accounts + 3 > size:
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
            semset = Set(library, name, semid, accounts)
            is_new = _join(semset, stored, values, total, link, create, anew)
        except Removed:
            continue
        except OSError as error:
            if error.errno == errno.ENOSPC and remove_idle():  # exec and kill leave some
                continue
            raise failure(library, error, name) from None
        if is_new is not None:
            return semset, is_new


def find(library: SysV, name: str) -> int | None:
    """Return the id of the set that has the name's key, or None."""
    try:
        return library.get(_set.key(name), library.system.size)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        try:
            library.get(_set.key(name), 0)
        except FileNotFoundError:
            raise error from None  # the system allows no set of this size
        raise _foreign(name) from None  # it is smaller


def _foreign(name: str) -> OSError:
    text = f"another program, or another name, has the key {_set.key(name):#x}: use another name"
    return OSError(errno.EEXIST, text)


def _join(
    semset: Set,
    stored: list[int],
    values: list[int],
    total: int,
    link: bool,
    create: bool,
    anew: bool,
) -> bool | None:
    """Join the set of these values, whose name ``stored`` is; see ``open_set``.

    Return whether it is new; None if another process came between.
    """
    library, semid = semset.library, semset.id
    if not _is_ours(values, stored):
        raise _foreign(semset.name)
    if not values[TOTAL]:
        if not create:
            raise OSError(errno.ENOENT, "")
        check_undo(library, semid)
        return _make_ready(semset, stored, values, total) or None
    if anew:
        library.remove(semid)
        return None
    if values[DEAD]:  # a process is about to remove it, and may be stopped
        mark = _set.MARK_UNUSED if values[TOKENS] else _set.MARK_AGAIN  # without TOKENS: not ready
        if not remove_marked(library, semid, mark):
            library.sleep(0.001)
        return None
    if values[USERS] or values[PERSIST]:
        if not link:
            raise OSError(errno.EEXIST, "")
        return False if semset.join() else None
    # It is idle, so it counts as not there.
    if remove_marked(library, semid, _set.MARK_IDLE) or library.may_remove(semid):
        return None
    if not create:
        raise OSError(errno.ENOENT, "")
    account = values.index(0, semset.accounts)  # a child that C code has forked may have the first
    if not semset.enter(account, _set.take_over(account)):
        return None
    library.operate(semid, _set.resize(values[TOTAL], total))
    return True


def _is_ours(values: list[int], stored: list[int]) -> bool:
    written = values[NAME : NAME + len(stored)]
    if values and values[TOTAL] and not values[DEAD]:
        return written == stored
    # Not ready, or removed before it was ready: half written.
    return [word or right for word, right in zip(written, stored)] == stored


def check_undo(library: SysV, semid: int) -> None:
    """Remove the new set, and raise NotImplementedError, if this kernel ignores UNDO.

    Linux refuses an undo sum below -32,768 with ERANGE, and changes nothing. gVisor does not.
    """
    if not library.can_ignore_undo:
        return
    try:
        library.operate(semid, [(ZERO, 32767, UNDO), (ZERO, -32767, NOWAIT)] * 2)
    except OSError as error:  # another error than ERANGE will come again
        library.can_ignore_undo = error.errno != errno.ERANGE
        return
    library.remove(semid)
    raise NotImplementedError(
        "this kernel does not give a dead process's tokens back (it ignores SEM_UNDO, as gVisor "
        "does): use NamedSemaphore"
    )


def _make_ready(semset: Set, stored: list[int], values: list[int], total: int) -> bool:
    """Write what is missing of the name, make the set ready, and join it, as its first user."""
    library = semset.library
    last = library.system.size - 1
    step = library.system.operations - 2  # write_name has up to two operations besides the words
    for place in range(0, len(stored), step):
        part = _set.write_name(place, stored[place : place + step], last)
        if not values[NAME + place] and not library.operate(semset.id, part):
            return False
    account = semset.accounts
    return semset.enter(account, _set.make_ready(account, total, library.system.bias))
