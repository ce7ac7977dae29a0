# SPDX-License-Identifier: Apache-2.0
"""One set of System V semaphores for each name. The kernel keeps the ledger: who holds how many.

A hash of the name is the set's key. All sets have one size. The semaphores of a set:

=========  =====================================================================================
TOKENS     BIAS + free tokens; free is below 0 after a resize to fewer, until enough came back
TOTAL      all tokens, free and taken; 0: the set is not ready
TURN       1 while a process that wants several tokens has the first of them
USERS      how many processes have the set open
DEAD       how many processes are about to remove the set
PERSIST    1: the set stays without users
ZERO       always 0; see ``keeps_undo``
NUMBER...  for numbered slots: 1 while a process has that number
NAME...    the name, 15 bits in each semaphore, and an end mark
account... one for each user: 0 if it is nobody's, else 1 + the tokens that the process holds
=========  =====================================================================================

The last account is shared by all processes that find no other; it has a 1 from creation on.

A transition is a list of operations (semaphore, change, flags). The kernel carries all of them out
in one step, or none. A change of 0 asks whether the semaphore is 0. With UNDO the kernel takes the
change back when the process ends, by whatever signal. A process may die between any two
transitions; tests/test_sysv_model.py searches all ways to do so.

A set is idle if it has no users and is not persistent. An idle set counts as not there: any
process that finds one replaces it, or joins it if it may not remove it.

Rules: no transition but Linux's own has more than five operations, the most that macOS allows.
SETVAL and SETALL are never used: they clear what the kernel would undo, for every process.
Whatever gives back has NOWAIT: it is called with the GIL held.
"""

from __future__ import annotations

import errno
import os
import weakref
from binascii import crc32
from ctypes import byref, c_int, c_size_t, sizeof
from itertools import starmap

from ._checks import clock
from ._sysv import IPC_CREAT, IPC_EXCL, NOWAIT, UNDO, Removed, SysV, sembuf
from ._sysv import system as system

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

    from ._sysv import Operation

TOKENS, TOTAL, TURN, USERS, DEAD, PERSIST, ZERO, NUMBER = range(8)
NUMBERS = 32
NAME = NUMBER + NUMBERS
LONGEST_NAME = 255  # in bytes, with the slash; systems with small sets allow less
FORKING = 1_000_000_000  # nanoseconds that a fork's child has to join: see Set.leave

# --- The transitions ------------------------------------------------------------------------------


def take(account: int, n: int, bias: int, flags: int = 0) -> list[Operation]:
    """Take n tokens. Wait, or fail with NOWAIT, while fewer are free or somebody has the turn."""
    return [
        (TURN, 0, flags),
        (TOKENS, -bias - n, UNDO | flags),
        (TOKENS, bias, UNDO),
        (account, n, UNDO),
    ]


def give(account: int, n: int) -> list[Operation]:
    """Give n tokens back. Fail if this process holds fewer."""
    return [(account, -n - 1, UNDO | NOWAIT), (account, 1, UNDO), (TOKENS, n, UNDO)]


def take_first(account: int, bias: int, flags: int = 0) -> list[Operation]:
    """Take the first of several tokens, in the queue like everybody, and the turn."""
    return [*take(account, 1, bias, flags), (TURN, 1, UNDO)]


def take_rest(account: int, n: int, bias: int, notice: bool, flags: int = 0) -> list[Operation]:
    """Take the other n - 1 tokens, before everybody, and end the turn.

    notice: fail, also during the wait, as soon as there are fewer than n tokens in all.
    """
    return [
        *([(TOTAL, -n, NOWAIT), (TOTAL, n, 0)] if notice else ()),
        (TOKENS, -bias - n + 1, UNDO | flags),
        (TOKENS, bias, UNDO),
        (account, n - 1, UNDO),
        (TURN, -1, UNDO),
    ]


def give_up(account: int) -> list[Operation]:
    """Give the first of several tokens back, and the turn. Fail if this process has neither."""
    return [
        (account, -2, UNDO | NOWAIT),
        (account, 1, UNDO),
        (TOKENS, 1, UNDO),
        (TURN, -1, UNDO | NOWAIT),
    ]


def give_inherited(account: int, n: int) -> list[Operation]:
    """Give back what was taken by the account of a parent, which may have left it since."""
    return [(account, -n, UNDO | NOWAIT), (TOKENS, n, UNDO)]


def take_number(number: int) -> list[Operation]:
    return [(NUMBER + number, 0, NOWAIT), (NUMBER + number, 1, UNDO)]


def give_number(account: int, number: int) -> list[Operation]:
    """Give a token and its number back."""
    return [*give(account, 1), (NUMBER + number, -1, UNDO | NOWAIT)]


def join(account: int) -> list[Operation]:
    return [(DEAD, 0, NOWAIT), (account, 0, NOWAIT), (account, 1, UNDO), (USERS, 1, UNDO)]


JOIN_LAST: list[Operation] = [(DEAD, 0, NOWAIT), (USERS, 1, UNDO)]


def leave(account: int) -> list[Operation]:
    """End the use. Fail while this process holds tokens: then it stays a user."""
    return [(account, -1, UNDO | NOWAIT), (account, 0, NOWAIT), (USERS, -1, UNDO | NOWAIT)]


def leave_last(account: int) -> list[Operation]:
    """The same of the last account, whose 1 stays. Fail while any of its processes holds tokens."""
    return [*leave(account)[:2], (account, 1, UNDO), (USERS, -1, UNDO | NOWAIT)]


def resize(old: int, new: int) -> list[Operation]:
    """Change the number of tokens at once. Fail if it is not ``old``. It never waits."""
    return [
        (TOTAL, -old, NOWAIT),
        (TOTAL, 0, NOWAIT),
        (TOTAL, new, NOWAIT),
        (TOKENS, new - old, NOWAIT),
    ]


STAY: list[Operation] = [(PERSIST, 0, NOWAIT), (PERSIST, 1, NOWAIT)]

# IPC_RMID follows; the process must have the right to it. Another process that finds the mark adds
# its own, and calls IPC_RMID too. If all of them die before the call, the kernel takes the marks
# back. A mark is needed since a newcomer could join the set just before IPC_RMID.
REMOVE_IDLE: list[Operation] = [(PERSIST, 0, NOWAIT), (USERS, 0, NOWAIT), (DEAD, 1, UNDO)]
REMOVE_UNUSED: list[Operation] = REMOVE_IDLE[1:]  # also a persistent set
# The mark on a set that was never made ready: TOTAL keeps a newcomer from making it ready.
REMOVE_UNREADY: list[Operation] = [(TOTAL, 0, NOWAIT), (TOTAL, 1, UNDO), (DEAD, 1, UNDO)]


def take_over(account: int) -> list[Operation]:
    """Join an idle set that this process may not remove."""
    return [(USERS, 0, NOWAIT), *join(account)]


def write_name(place: int, words: list[int], last: int) -> list[Operation]:
    """Write at most three words of the name; with the first ones, the 1 of the last account.

    No word is 0, so words are written once.
    """
    first = [(last, 1, 0)] if place == 0 else []
    written = [(NAME + place + i, word, 0) for i, word in enumerate(words)]
    return [(NAME + place, 0, NOWAIT), *first, *written]


def make_ready(account: int, total: int, bias: int) -> list[Operation]:
    """Give a new set its tokens, and join it."""
    return [
        (TOTAL, 0, NOWAIT),
        (TOTAL, total, 0),
        (TOKENS, bias + total, 0),
        (account, 1, UNDO),
        (USERS, 1, UNDO),
    ]


# --- Names ----------------------------------------------------------------------------------------


def key(name: str) -> int:
    """Return 31 bits, since key_t is an int on some systems. Never 0, which is IPC_PRIVATE."""
    return crc32(b"named_semaphores:" + name.encode()) & 0x7FFFFFFF or 1


def words(name: str) -> list[int]:
    """Return the name, and an end mark, in words of 15 bits.

    No word is 0: each has a whole byte of the name, or bits of the mark.
    """
    data = name.encode() + b"\xff"
    count = -(-len(data) * 8 // 15)
    number = int.from_bytes(data, "big") << count * 15 - len(data) * 8
    return [number >> 15 * i & 0x7FFF for i in reversed(range(count))]


def name_of(stored: Iterable[int]) -> str | None:
    """Return the name that begins these words and ends with a mark, or None."""
    number = count = 0
    for word in stored:
        number, count = number << 15 | word, count + 15
    data, mark, _ = (number << -count % 8).to_bytes(-(-count // 8), "big").partition(b"\xff")
    if not mark or data[:1] != b"/" or b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


# --- Opening --------------------------------------------------------------------------------------


class Opened:
    """What ``open_set`` returns."""

    def __init__(self, semset: Set, created: bool) -> None:
        self.set = semset
        self.created = created  # no process had the set open before


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
) -> Opened:
    """Open the set of this name, which begins with "/".

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
    opening = _Opening(library, name, total, mode)
    while True:
        try:
            opened = opening.attempt(link and not anew, create or anew, anew, known or {})
            if opened is None:  # another process came between
                continue
            semset = opened.set
            if semset.pid != os.getpid():  # a signal handler has forked, and this is its child
                semset.join_anew()
            return opened
        except Removed:
            pass
        except OSError as error:
            raise failure(library, error, name) from None


class _Opening:
    """The steps of opening a set. Each returns None if another process came between."""

    def __init__(self, library: SysV, name: str, total: int, mode: int) -> None:
        self.library, self.name, self.total, self.mode = library, name, total, mode
        self.words = words(name)
        self.accounts = NAME + len(self.words)
        self.last = library.system.size - 1
        if len(name.encode()) > LONGEST_NAME or self.accounts + 2 > self.last:
            raise failure(library, OSError(errno.ENAMETOOLONG, ""), name)

    def attempt(self, link: bool, create: bool, anew: bool, known: dict[int, Set]) -> Opened | None:
        try:
            semid = self.library.get(key(self.name), self.last + 1)
        except FileNotFoundError:
            if not create:
                raise OSError(errno.ENOENT, "") from None
            return self._create()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise self._too_small() from None
        semset = known.get(semid)
        if semset is None or semset.name != self.name or semset.has_left():
            return self._link(semid, link, create, anew)
        if anew:
            self.library.remove(semid)
            return None
        if not link:
            raise OSError(errno.EEXIST, "")
        return Opened(semset, False)

    def _link(self, semid: int, link: bool, create: bool, anew: bool) -> Opened | None:
        library = self.library
        values = library.values(semid)
        if values is None or not self._is_ours(values):
            raise self._foreign(semid, values)
        check_undo(library, semid)
        if not values[TOTAL]:
            if not create:
                raise OSError(errno.ENOENT, "")
            return self._make_ready(semid)
        if anew:
            library.remove(semid)
            return None
        if values[DEAD]:  # another process is about to remove it, and may be stopped
            if library.may_remove(semid):
                remove_marked(library, semid, REMOVE_UNUSED)
            else:
                library.sleep(0.001)
            return None
        if not values[USERS] and not values[PERSIST]:
            return self._replace_idle(semid, create, values)
        if not link:
            raise OSError(errno.EEXIST, "")
        account = find_account(library, semid, self.accounts)
        return None if account is None else self._opened(semid, account, False)

    def _is_ours(self, values: list[int]) -> bool:
        stored = values[NAME : self.accounts]
        if values[TOTAL]:
            return stored == self.words
        return all(word in (0, right) for word, right in zip(stored, self.words))

    def _create(self) -> Opened | None:
        library = self.library
        try:
            semid = library.get(key(self.name), self.last + 1, IPC_CREAT | IPC_EXCL | self.mode)
        except FileExistsError:
            return None
        except OSError as error:
            if (
                error.errno == errno.ENOSPC and _sets().remove_idle()
            ):  # exec and kill leave idle sets
                return None
            raise
        try:
            check_undo(library, semid)
        except NotImplementedError:
            library.remove(semid)
            raise
        return self._make_ready(semid)

    def _make_ready(self, semid: int) -> Opened | None:
        """Write the name, and join. Another process may do the same, with the same words."""
        library, account = self.library, self.accounts + os.getpid() % (self.last - self.accounts)
        ready = make_ready(account, self.total, library.system.bias)
        name = [
            write_name(place, self.words[place : place + 3], self.last)
            for place in range(0, len(self.words), 3)
        ]
        if library.system.many_operations:
            try:
                done = library.operate(semid, [step for steps in name for step in steps] + ready)
                return (
                    self._opened(semid, account, True) if done else self._finish(semid, name, ready)
                )
            except OSError as error:
                if error.errno != errno.E2BIG:  # a limit of 32 operations in one call
                    raise
        return self._finish(semid, name, ready)

    def _finish(
        self, semid: int, name: list[list[Operation]], ready: list[Operation]
    ) -> Opened | None:
        wrote = [self.library.operate(semid, steps) for steps in name]
        if not all(wrote):  # another process wrote them: the same name, or another with this key
            values = self.library.values(semid)
            if values is None or values[NAME : self.accounts] != self.words:
                raise self._foreign(semid, values)
        account = ready[3][0]
        return self._opened(semid, account, True) if self.library.operate(semid, ready) else None

    def _replace_idle(self, semid: int, create: bool, values: list[int]) -> Opened | None:
        if self.library.may_remove(semid):
            remove_marked(self.library, semid, REMOVE_IDLE)
            return None
        if not create:
            raise OSError(errno.ENOENT, "")
        free = [i for i in range(self.accounts, self.last) if not values[i]]
        if not free or not self.library.operate(semid, take_over(free[0])):
            return None
        opened = self._opened(semid, free[0], True)
        opened.set.resize(self.total)
        return opened

    def _opened(self, semid: int, account: int, created: bool) -> Opened:
        return Opened(Set(self.library, self.name, semid, self.accounts, account), created)

    def _too_small(self) -> OSError:
        """Return why there is no set of our size: another program's is smaller, or the limit is."""
        try:
            self.library.get(key(self.name), 0)
        except FileNotFoundError:
            limits = self.library.system.limits
            return OSError(errno.EINVAL, f"{limits} allows no set of {self.last + 1} semaphores")
        except OSError as error:
            return error
        return self._foreign(None, None)

    def _foreign(self, semid: int | None, values: list[int] | None) -> OSError:
        other = name_of(values[NAME:]) if values else None
        owner = (
            "another program's semaphores have" if other is None else f"the semaphore {other!r} has"
        )
        where = "" if semid is None else f" (set {semid})"
        return OSError(
            errno.EEXIST,
            f"{owner} the key {key(self.name):#x}{where}, which this name stands for: "
            "use another name",
        )


def find_account(library: SysV, semid: int, accounts: int) -> int | None:
    """Join the set, and return the account. None: the set is about to be removed."""
    last = library.system.size - 1
    account = accounts + os.getpid() % (last - accounts)
    if library.operate(semid, join(account)):
        return account
    while True:
        values = library.values(semid)
        if values is None or values[DEAD]:
            return None
        free = [i for i in range(accounts, last) if not values[i]]
        for account in free:
            if library.operate(semid, join(account)):
                return account
        if not free:
            return last if library.operate(semid, JOIN_LAST) else None


_undo_checked: dict[SysV, bool] = {}


def check_undo(library: SysV, semid: int) -> None:
    """NotImplementedError: this kernel ignores UNDO (gVisor does), so no token would come back.

    Linux refuses an undo sum below -32,768 with ERANGE, and then changes nothing.
    """
    if not library.system.can_ignore_undo:
        return
    if library not in _undo_checked:
        try:
            _undo_checked[library] = not library.operate(
                semid, [(ZERO, 32767, UNDO), (ZERO, -32767, NOWAIT)] * 2
            )
        except Removed:
            raise
        except OSError as error:
            if error.errno != errno.ERANGE:
                raise
            _undo_checked[library] = True
    if not _undo_checked[library]:
        raise NotImplementedError(
            "this kernel does not give a dead process's semaphores back (it ignores SEM_UNDO, as "
            "gVisor does): use NamedSemaphore"
        )


# --- One set --------------------------------------------------------------------------------------


class Block:
    """Lists of operations in C, each as the arguments of ``semop``.

    A child of fork writes its own account into them: threads that wait in ``semop`` during the
    fork are the parent's.
    """

    __slots__ = ("__weakref__", "_places", "arguments", "array")

    def __init__(self, semset: Set, *lists: list[Operation]) -> None:
        flat = [operation for operations in lists for operation in operations]
        array: Any = (sembuf * len(flat))(*flat)
        self.array = array
        self._places = [place for place in array if place.sem_num == semset.account]
        self.arguments = []
        start = 0
        size = sizeof(sembuf)
        for operations in lists:
            pointer = byref(array, start * size)
            self.arguments.append((semset.semid, pointer, c_size_t.from_param(len(operations))))
            start += len(operations)
        semset.blocks.add(self)

    def move(self, account: int) -> None:
        for place in self._places:
            place.sem_num = account


class Set:
    """A set that this process has joined: one user, with one account."""

    forked_at = -FORKING  # when this process has forked last; of the class

    def __init__(self, library: SysV, name: str, semid: int, accounts: int, account: int) -> None:
        self.library = library
        self.name = name
        self.id = semid
        self.accounts = accounts  # the first one's index
        self.account = account
        self.pid = os.getpid()  # the process that has joined
        # The set in every call's arguments. -1, which no set has, once this process has left: then
        # somebody else may have its account.
        self.semid = c_int(semid)
        self.blocks: weakref.WeakSet[Block] = weakref.WeakSet()
        # robust's: the ids of the handles, and the calls for each number of tokens
        self.handles: set[int] = set()
        self.calls: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._inherited: int | None = None  # the account of the parent that forked in C

    @property
    def last(self) -> int:
        return self.library.system.size - 1

    def has_left(self) -> bool:
        return self.semid.value == -1  # type: ignore[no-any-return]

    def leave(self) -> bool:
        """Stop being a user; the last one removes the set. Return False if this process holds
        tokens: then it stays a user.
        """
        if self.pid != os.getpid() or self.has_left():  # forked in C: it is the parent's use
            return True
        operations = leave_last if self.account == self.last else leave
        arguments = Block(self, operations(self.account)).arguments
        for failed in starmap(self.library.semop_now, arguments):
            if not failed:  # no call here: another process may have the account the next instant
                self.semid.value = -1
            break
        if self.has_left():
            # A daemon's parent ends within a millisecond after the fork, before its child has
            # joined. So a process that has just forked leaves the set idle, and the child joins it.
            if clock() - Set.forked_at > FORKING:
                self._remove_if_idle()
            return True
        try:
            return not self.holds()
        except OSError:  # the set was removed, or this process has lost its rights to it
            self.semid.value = -1
            return True

    def _remove_if_idle(self) -> None:
        library, semid = self.library, self.id
        try:
            if not library.value(semid, USERS) and not library.value(semid, PERSIST):
                if library.may_remove(semid):
                    remove_marked(library, semid, REMOVE_IDLE)
        except OSError:  # removed meanwhile
            pass

    def holds(self) -> bool:
        return self.library.value(self.id, self.account) > 1

    def join_anew(self, is_hooked: bool = False) -> None:
        """In a child of fork: join the set for this process.

        Args:
            is_hooked: called by Python's fork hook. Else C code forked this process; then it has
                used its parent's account since.
        """
        account = None
        try:
            account = find_account(self.library, self.id, self.accounts)
        except OSError:  # removed; or the kernel has no memory for it
            pass
        self._inherited = None if is_hooked else self.account
        self.pid = os.getpid()
        if account is None:
            self.semid.value = -1
        else:
            self.account = account
            for block in list(self.blocks):
                block.move(account)

    def give_refused(self, n: int) -> int | None:
        """Give n tokens back after the first attempt failed. Return how many are held if it fails.

        Raises:
            OSError: this process has lost its rights to the set (setuid).
        """
        try:
            if self.has_left() or self.operate(give(self.account, n)):
                return None
            if self.pid != os.getpid():
                self.join_anew()
            if self._inherited is not None:
                if self.operate(give_inherited(self._inherited, n)):
                    return None
            return self.held()
        except FileNotFoundError:  # removed: there is nothing to give back
            return None

    def operate(self, operations: list[Operation]) -> bool:
        return self._ask(self.library.operate, operations)  # type: ignore[return-value]

    def free(self) -> int:
        """Return the number of free tokens; below 0 after a resize, until enough came back."""
        return self._ask(self.library.value, TOKENS) - self.library.system.bias

    def total(self) -> int:
        return self._ask(self.library.value, TOTAL)

    def users(self) -> int:
        return self._ask(self.library.value, USERS)

    def held(self) -> int:
        """Return how many tokens this process holds."""
        return max(0, self._ask(self.library.value, self.account) - 1)

    def waiting(self) -> int:
        """Return how many wait for tokens, and for the turn."""
        return self._ask(self.library.waiters, TOKENS) + self._ask(self.library.zero_waiters, TURN)

    def _ask(self, call: Callable[..., int], *arguments: Any) -> int:
        try:
            return call(self.semid, *arguments)
        except OSError as error:
            raise self.failure(error) from None

    def holders(self) -> list[tuple[int | None, int]]:
        """Return (pid, tokens) of each process that holds tokens; see ``holders_of``."""
        try:
            values = self.library.values(self.semid)
            return holders_of(self.library, self.id, values or [], self.accounts)
        except OSError as error:
            raise self.failure(error) from None

    def resize(self, total: int) -> None:
        """Let there be so many tokens, for everybody and at once."""
        while True:
            old = self.total()
            if old == total or self.operate(resize(old, total)):
                return

    def remove(self) -> None:
        """Remove the set. Waiters fail with EIDRM."""
        try:
            self.library.remove(self.id)
        except OSError as error:
            raise self.failure(error) from None

    def failure(self, error: OSError | int) -> Exception:
        """Return the exception for a failed call on this set, or for a failed semop's errno."""
        if not isinstance(error, OSError):
            is_removed = self.library.is_removed(error, self.semid)
            error = Removed() if is_removed else OSError(error, "")
        if self.has_left():
            return ValueError(f"semaphore {self.name!r} is closed")
        return failure(self.library, error, self.name)

    def take(self, n: int, deadline: int | None) -> bool:
        """Take n tokens, for the command line, where no Python signal handler runs.

        Returns:
            False: they were not free when ``clock()`` was the deadline (None: never; 0: at once).

        Raises:
            ValueError: there are fewer than n in all.
        """
        library, bias = self.library, self.library.system.bias
        try:
            self.check_total(n)
            if library.operate(self.semid, take(self.account, n, bias, NOWAIT)):
                return True
            if deadline == 0:
                return False
            if n == 1:
                return library.wait(self.semid, take(self.account, 1, bias), deadline)
            if not library.wait(self.semid, take_first(self.account, bias), deadline):
                self.check_total(n)
                return False
            notice = library.system.many_operations
            if library.wait(self.semid, take_rest(self.account, n, bias, notice), deadline):
                return True
            library.operate(self.semid, give_up(self.account))
            self.check_total(n)
            return False
        except OSError as error:
            raise self.failure(error) from None

    def check_total(self, n: int) -> None:
        """ValueError: there are fewer than n tokens in all, so n are never free."""
        total = self.total()
        if n > total:
            raise ValueError(
                f"semaphore {self.name!r}: n must be at most {total}, the number of tokens there "
                f"are, not {n}: it would wait for ever"
            )


def holders_of(
    library: SysV, semid: int, values: list[int], accounts: int
) -> list[tuple[int | None, int]]:
    """Return (pid, tokens) of each process that holds tokens, sorted.

    pid None: the processes that share the last account. pid 0: one of another PID namespace.
    """
    tokens: dict[int, int] = {}
    found: list[tuple[int | None, int]] = []
    for number in range(accounts, len(values) - 1):
        if values[number] > 1:
            pid = library.pid(semid, number)
            if pid:  # a process has two accounts after exec
                tokens[pid] = tokens.get(pid, 0) + values[number] - 1
            else:
                found.append((0, values[number] - 1))
    found += sorted(tokens.items())
    if values and values[-1] > 1:
        found.append((None, values[-1] - 1))
    return found


def failure(library: SysV, error: OSError, name: str) -> Exception:
    return _sets().failure(library, error, name)


def _sets() -> Any:
    from . import _sets  # which imports this module

    return _sets


def remove_marked(library: SysV, semid: int, operations: list[Operation]) -> bool:
    """Remove the set if the mark (REMOVE_...) can be made; this process must have the right to.

    Return whether it was removed.
    """
    if library.operate(semid, operations):
        library.remove(semid)
        return True
    return False
