# SPDX-License-Identifier: Apache-2.0
"""Find the set of a name, or create it, and join it. ``_set`` says what a set is.

Another process may do the same at any time, or remove the set: then it begins again.
"""

from __future__ import annotations

import errno
import os

from ._keys import LONGEST_NAME, key, name_of, words
from ._refusals import failure
from ._set import (
    DEAD,
    MARK_AGAIN,
    MARK_IDLE,
    MARK_UNUSED,
    NAME,
    PERSIST,
    TOKENS,
    TOTAL,
    USERS,
    ZERO,
    Set,
    find_account,
    make_ready,
    remove_marked,
    take_over,
    write_name,
)
from ._sets import remove_idle
from ._sysv import IPC_CREAT, IPC_EXCL, NOWAIT, UNDO, Removed

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any

    from ._sysv import SysV


def open_set(
    library: SysV,
    name: str,
    total: int = 1,
    *,
    link: bool = True,
    create: bool = True,
    anew: bool = False,
    mode: int = 0o600,
    known: dict[int, Set] | None = None,
) -> tuple[Set, bool]:
    """Join the set of this name, which begins with "/". Return it, and whether it was created.

    Args:
        total: the number of tokens if the set is created.
        link: whether to link to an existing set, else FileExistsError.
        create: whether to create a missing one, else FileNotFoundError.
        anew: whether to remove an existing one first.
        mode: permissions of a new set, whatever the umask.
        known: the sets that this process has joined, by their ids.
    """
    if mode & 0o600 != 0o600:  # its owner could not even make it ready
        raise ValueError(
            f"semaphore {name!r}: mode must allow its owner to read and to change it (0o600), "
            f"not 0o{mode:o}"
        )
    if anew:
        link, create = False, True
    semset = opening = None
    while semset is None:  # until no other process comes between
        pid = os.getpid()
        try:
            semid = find(library, name)
            semset = known.get(semid) if known and semid is not None else None
            if semset is None or anew or semset.name != name or semset.has_left():
                opening = opening or _Opening(library, name, total, mode)
                if semid is not None:
                    semset = opening.link(semid, link, create, anew)
                elif create:
                    semset = opening.create()
                else:
                    _refuse(errno.ENOENT)
                created = opening.created
            elif link:
                created = False
            else:
                _refuse(errno.EEXIST)
        except Removed:
            semset = None
        except OSError as error:
            raise failure(library, error, name) from None
    # C code or a signal handler in this function may have forked, also before semset.pid was set.
    if not pid == semset.pid == os.getpid():
        semset.join_anew()
    return semset, created


def find(library: SysV, name: str) -> int | None:
    """Return the id of the set that has the name's key, or None."""
    try:
        return library.get(key(name), library.system.size)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # The set is smaller, so another program's; or there is none, and none of this size is allowed.
    try:
        library.get(key(name), 0)
    except FileNotFoundError:
        limits, size = library.system.limits, library.system.size
        raise OSError(errno.EINVAL, f"{limits} allows no set of {size} semaphores") from None
    raise foreign(name)


class _Opening:
    """How to join a set that is there, or a new one.

    Each step returns None if another process came between.
    """

    created = False  # whether the set that was joined last is new

    def __init__(self, library: SysV, name: str, total: int, mode: int) -> None:
        self.library, self.name, self.total, self.mode = library, name, total, mode
        self.words = words(name)
        self.accounts = NAME + len(self.words)
        self.last = library.system.size - 1
        if len(name.encode()) > LONGEST_NAME or self.accounts + 2 > self.last:
            _refuse(errno.ENAMETOOLONG)

    def link(self, semid: int, link: bool, create: bool, anew: bool) -> Set | None:
        """Join the set that has the name's key. See ``open_set`` for the arguments."""
        library = self.library
        values = library.values(semid)
        if values is None or not self._is_ours(values):
            raise foreign(self.name, semid, values)
        check_undo(library, semid)
        if not values[TOTAL]:
            return self._make_ready(semid) if create else _refuse(errno.ENOENT)
        if anew:
            library.remove(semid)
            return None
        if values[DEAD]:  # a process is about to remove it, and may be stopped
            mark = MARK_UNUSED if values[TOKENS] else MARK_AGAIN  # without TOKENS: not ready
            if not remove_marked(library, semid, mark):
                library.sleep(0.001)
            return None
        if not values[USERS] and not values[PERSIST]:
            return self._replace_idle(semid, create, values)
        if not link:
            _refuse(errno.EEXIST)
        account = find_account(library, semid, self.accounts)
        return None if account is None else self._joined(semid, account)

    def _is_ours(self, values: list[int]) -> bool:
        stored = values[NAME : self.accounts]
        if values[TOTAL] and not values[DEAD]:
            return stored == self.words
        # Not ready, or removed before it was ready: half written.
        return all(word in (0, right) for word, right in zip(stored, self.words))

    def create(self) -> Set | None:
        """Make a set, and join it."""
        library = self.library
        try:
            semid = library.get(key(self.name), self.last + 1, IPC_CREAT | IPC_EXCL | self.mode)
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno == errno.ENOSPC and remove_idle():  # exec and kill leave some
                return None
            raise
        try:
            check_undo(library, semid)
        except NotImplementedError:
            library.remove(semid)
            raise
        return self._make_ready(semid)

    def _make_ready(self, semid: int) -> Set | None:
        """Write the name, and join: in one call, or in several where the system's limit is low."""
        library, account = self.library, self.accounts + os.getpid() % (self.last - self.accounts)
        places = range(0, len(self.words), 3)
        steps = [write_name(place, self.words[place : place + 3], self.last) for place in places]
        ready = make_ready(account, self.total, library.system.bias)
        try:
            if library.system.many_operations:
                everything = [operation for step in [*steps, ready] for operation in step]
                if library.operate(semid, everything):
                    return self._joined(semid, account, created=True)
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
        wrote = [library.operate(semid, step) for step in steps]
        if not all(wrote):  # another process has written: this name, or another with the same key
            values = library.values(semid)
            if values is None or values[NAME : self.accounts] != self.words:
                raise foreign(self.name, semid, values)
        return self._joined(semid, account, created=True) if library.operate(semid, ready) else None

    def _replace_idle(self, semid: int, create: bool, values: list[int]) -> Set | None:
        if remove_marked(self.library, semid, MARK_IDLE) or self.library.may_remove(semid):
            return None  # it was removed, or is not idle any more
        if not create:
            _refuse(errno.ENOENT)
        free = [account for account in range(self.accounts, self.last) if not values[account]]
        if not free or not self.library.operate(semid, take_over(free[0])):
            return None
        semset = self._joined(semid, free[0], created=True)
        try:
            semset.resize(self.total)
        except FileNotFoundError:  # its owner has unlinked it
            return None
        return semset

    def _joined(self, semid: int, account: int, created: bool = False) -> Set:
        self.created = created
        return Set(self.library, self.name, semid, self.accounts, account)


def foreign(name: str, semid: int | None = None, values: list[int] | None = None) -> OSError:
    other = name_of(values[NAME:]) if values else None
    owner = f"the semaphore {other!r} has" if other else "another program's semaphores have"
    where = "" if semid is None else f" (set {semid})"
    text = f"{owner} the key {key(name):#x}{where}, which this name stands for: "
    return OSError(errno.EEXIST, text + "use another name")


def _refuse(number: int) -> Any:
    raise OSError(number, "")


_undo_kept: dict[SysV, bool] = {}


def check_undo(library: SysV, semid: int) -> None:
    """NotImplementedError: this kernel ignores UNDO, so no token of a dead process would come back.

    Linux refuses an undo sum below -32,768 with ERANGE, and then changes nothing. gVisor does not.
    """
    if library.system.can_ignore_undo and library not in _undo_kept:
        too_much = [(ZERO, 32767, UNDO), (ZERO, -32767, NOWAIT)] * 2
        try:
            _undo_kept[library] = not library.operate(semid, too_much)
        except OSError as error:
            if error.errno != errno.ERANGE:
                raise
            _undo_kept[library] = True
    if not _undo_kept.get(library, True):
        raise NotImplementedError(
            "this kernel does not give a dead process's tokens back (it ignores SEM_UNDO, as "
            "gVisor does): use NamedSemaphore"
        )
