# SPDX-License-Identifier: Apache-2.0
"""One set of System V semaphores for each name. The kernel keeps the ledger: who holds how many.

A hash of the name is the set's key. All sets have one size. The semaphores of a set:

==========  ====================================================================================
TOKENS      BIAS + free tokens; free is below 0 after a resize to fewer, until enough are back
TOTAL       all tokens, free and taken; 0: the set is not ready
TURN        1 while a process that wants several tokens has the first of them
USERS       how many processes have the set open
DEAD        how many processes are about to remove the set
PERSIST     1: the set stays without users
ZERO        always 0; see ``check_undo``
NUMBER...   for numbered slots: 1 while a process has that number
NAME...     the name, 15 bits in each semaphore, and an end mark
account...  one for each user: 0 if it is nobody's, else 1 + the tokens that the process holds.
            All users that find no other share the last one, which has a 1 from the beginning.
==========  ====================================================================================

A transition is a list of operations (semaphore, change, flags), at most five, as macOS allows. The
kernel carries all of them out in one step, or none. A change of 0 asks whether the semaphore is 0.
With UNDO the kernel takes the change back when the process ends, by whatever signal. Whatever gives
back has NOWAIT, since it is called with the GIL held. SETVAL and SETALL are never used: they clear
every process's undo. A process may die between any two transitions: tests/test_sysv_model.py
searches all ways.

A set is idle if it has no users and is not persistent. An idle set counts as not there: any process
that finds one replaces it, or joins it if it may not remove it.
"""

from __future__ import annotations

import errno
import os
from binascii import crc32
from collections import namedtuple
from ctypes import c_int
from itertools import starmap
from weakref import ref

from ._common import TYPE_CHECKING, check_integer, clock, os_error
from ._sysv import NOWAIT, UNDO, Removed, SysV, prepare, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Callable, TypeVar

    from ._sysv import Operation

    Result = TypeVar("Result")

TOKENS, TOTAL, TURN, USERS, DEAD, PERSIST, ZERO, NUMBER = range(8)
NUMBERS = 32
NAME = NUMBER + NUMBERS
FORKING = 1_000_000_000  # nanoseconds that a fork's child has to join: see Set.leave
LEFT, LOST = -1, -2  # instead of the id: this process left, or is a child that could not join

Holder = namedtuple("Holder", ("pid", "tokens"))  # noqa: PYI024  # typing is not imported
Holder.__doc__ = "A process that holds tokens; see ``RobustSemaphore.holders``."

# --- The name -------------------------------------------------------------------------------------


def key(name: str) -> int:
    """Return 31 bits, since key_t is an int on some systems. Never 0, which is IPC_PRIVATE."""
    return crc32(b"named_semaphores:" + name.encode()) & 0x7FFFFFFF or 1


def words(name: str) -> list[int]:
    """Return the name and an end mark in words of 15 bits, of which none is 0."""
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
    return data.decode(errors="replace")


# --- The transitions ------------------------------------------------------------------------------


def take(account: int, n: int, bias: int, flags: int = 0) -> list[Operation]:
    """Wait, or fail with NOWAIT, while fewer are free or somebody has the turn.

    The kernel waits while a value would fall below 0, so BIAS is subtracted too, and put back.
    """
    tokens = [(TOKENS, -bias - n, UNDO | flags), (TOKENS, bias, UNDO)]
    return [(TURN, 0, flags), *tokens, (account, n, UNDO)]


def give(account: int, n: int) -> list[Operation]:
    """Fail if this process holds fewer."""
    return [(account, -n - 1, UNDO | NOWAIT), (account, 1, UNDO), (TOKENS, n, UNDO)]


def take_first(account: int, bias: int, flags: int = 0) -> list[Operation]:
    """Take the first of several tokens, in the queue like everybody, and the turn."""
    return [*take(account, 1, bias, flags), (TURN, 1, UNDO)]


def take_rest(account: int, n: int, bias: int, notice: bool, flags: int = 0) -> list[Operation]:
    """Take the other n - 1 tokens, before everybody, and end the turn.

    Fail if this process has no first one (its account is below 2): it is a child that a signal
    handler forked during the wait, or another thread has released the token. With ``notice`` fail,
    also during the wait, as soon as there are fewer than n tokens in all.
    """
    enough = [(TOTAL, -n, NOWAIT), (TOTAL, n, 0)] if notice else []
    first = [(account, -2, UNDO | NOWAIT), (account, n + 1, UNDO)]
    tokens = [(TOKENS, -bias - n + 1, UNDO | flags), (TOKENS, bias, UNDO)]
    return [*enough, *first, *tokens, (TURN, -1, UNDO | NOWAIT)]


END_TURN: list[Operation] = [(TURN, -1, UNDO | NOWAIT)]


def give_up(account: int) -> list[Operation]:
    """Give the first of several tokens back, and the turn."""
    return [*give(account, 1), *END_TURN]


def give_inherited(account: int, n: int) -> list[Operation]:
    """Give back what was taken by the account of a parent, who may have left it since."""
    return [(account, -n, UNDO | NOWAIT), (TOKENS, n, UNDO)]


def take_number(number: int) -> list[Operation]:
    return [(NUMBER + number, 0, NOWAIT), (NUMBER + number, 1, UNDO)]


def give_number(account: int, number: int) -> list[Operation]:
    return [*give(account, 1), (NUMBER + number, -1, UNDO | NOWAIT)]


def join(account: int) -> list[Operation]:
    return [(DEAD, 0, NOWAIT), (account, 0, NOWAIT), (account, 1, UNDO), (USERS, 1, UNDO)]


JOIN_LAST: list[Operation] = [(DEAD, 0, NOWAIT), (USERS, 1, UNDO)]


def leave(account: int, is_shared: bool = False) -> list[Operation]:
    """Fail while this process holds tokens, or any of those that share the last account."""
    unused = [(account, -1, UNDO | NOWAIT), (account, 0, NOWAIT)]
    kept = [(account, 1, UNDO)] if is_shared else []
    return [*unused, *kept, (USERS, -1, UNDO | NOWAIT)]


def resize(old: int, new: int) -> list[Operation]:
    """Fail if the number of tokens is not ``old``. It never waits."""
    total = [(TOTAL, -old, NOWAIT), (TOTAL, 0, NOWAIT), (TOTAL, new, NOWAIT)]
    return [*total, (TOKENS, new - old, NOWAIT)]


STAY: list[Operation] = [(PERSIST, 0, NOWAIT), (PERSIST, 1, NOWAIT)]

# The marks before IPC_RMID: without one, a newcomer could join just before it. Another process that
# finds a mark adds its own, and calls IPC_RMID too. If all die before, the kernel undoes the marks.
MARK_UNUSED: list[Operation] = [(USERS, 0, NOWAIT), (DEAD, 1, UNDO)]
MARK_IDLE: list[Operation] = [(PERSIST, 0, NOWAIT), *MARK_UNUSED]
# TOTAL keeps a set that is not ready from being made ready. MARK_AGAIN finishes its removal.
MARK_AGAIN: list[Operation] = [(TOTAL, 1, UNDO), *MARK_UNUSED]
MARK_UNREADY: list[Operation] = [(TOTAL, 0, NOWAIT), *MARK_AGAIN]


def take_over(account: int) -> list[Operation]:
    """Join an idle set that this process may not remove."""
    return [(USERS, 0, NOWAIT), *join(account)]


def write_name(place: int, words: list[int], last: int) -> list[Operation]:
    """Write words of the name, once: no word is 0. The last account gets its 1."""
    begin = [(last, 1, 0)] if place == 0 else []
    written = [(NAME + place + i, word, 0) for i, word in enumerate(words)]
    return [(NAME + place, 0, NOWAIT), *begin, *written]


def make_ready(account: int, total: int, bias: int) -> list[Operation]:
    tokens = [(TOTAL, 0, NOWAIT), (TOTAL, total, 0), (TOKENS, bias + total, 0)]
    return [*tokens, (account, 1, UNDO), (USERS, 1, UNDO)]


# --- One set --------------------------------------------------------------------------------------


class Set:
    """A set that this process has joined, once: one user, with one account.

    semid: the id, as all calls have it; LEFT once this process has left.
    accounts, account: the places of the first one, and of this process's.
    pid: the process that has joined.
    """

    forked_at = -FORKING  # when this process forked last

    def __init__(self, library: SysV, name: str, semid: int) -> None:
        self.library, self.name, self.id = library, name, semid
        self.accounts, self.account, self.pid = NAME + len(words(name)), 0, 0
        self.semid = c_int(semid)
        self.arrays: list[ref[Any]] = []  # made by ``prepare``
        self.handles: set[ref[Any]] = set()  # of the module _handles
        self.inherited: tuple[int, int] | None = None  # account and pid of who forked this in C

    def enter(self, account: int, operations: list[Operation]) -> bool:
        """Become a user by these operations. Return False if they are not possible now."""
        pid = os.getpid()
        if not self.library.operate(self.id, operations):
            return False
        self.account, self.pid = account, pid
        return True

    def join(self) -> bool:
        """Become a user. Return False if the set is about to be removed."""
        last = self.library.size - 1
        account = self.accounts + os.getpid() % (last - self.accounts)  # usually it is free
        while not self.enter(account, join(account)):
            values = self.library.values(self.id)
            free = [place for place in range(self.accounts, last) if not values[place]]
            if values[DEAD] or not free:
                return not free and self.enter(last, JOIN_LAST)
            account = free[os.getpid() % len(free)]
        return True

    def join_anew(self) -> None:
        """In a child of fork: join the set for this process.

        It holds nothing, but for what it took by its parent's account if C code has forked.
        """
        parents = self.account, self.pid
        try:
            if not self.join():
                raise Removed
        except OSError:  # it was removed, or will be; or the kernel has no memory for it
            self.semid.value, self.pid = LOST, os.getpid()
        self.inherited = None if self.account == parents[0] else parents
        for array in filter(None, [reference() for reference in list(self.arrays)]):
            self._write_account(array)

    def prepare(self, *transitions: list[Operation]) -> tuple[Any, list[tuple[Any, ...]]]:
        """As ``_sysv.prepare``. A child of fork writes its own account into the array."""
        array, arguments = prepare(self.semid, *transitions)
        self.arrays.append(ref(array, self.arrays.remove))
        self._write_account(array)  # again: a signal handler may have forked meanwhile
        return array, arguments

    def _write_account(self, array: Any) -> None:
        # Three 16-bit numbers are a sembuf, the first its semaphore's: faster than its attributes.
        numbers = memoryview(array).cast("B").cast("H")
        for place in range(0, len(numbers), 3):
            if numbers[place] >= self.accounts:
                numbers[place] = self.account

    def has_handles(self) -> bool:
        # On PyPy a finalizer cannot find its object's reference here, which is dead already.
        return any(reference() for reference in list(self.handles))

    def is_usable(self) -> bool:
        return self.semid.value >= 0

    def leave(self) -> bool:
        """Stop being a user; the last one removes the set. False: this process holds tokens."""
        library, semid = self.library, self.id
        if self.pid != os.getpid() or not self.is_usable():  # forked in C: the parent is the user
            return True
        operations = leave(self.account, self.account == library.size - 1)
        _, (arguments,) = self.prepare(operations)  # a signal handler may fork meanwhile
        for failed in starmap(library.semop_now, (arguments,)):
            if not failed:  # no call before this, so that a signal cannot make it leave twice
                self.semid.value = LEFT
            break
        try:
            if failed:
                library.value(semid, self.account)  # fails if the set was removed
                return False
            # A daemon's parent ends within a millisecond after the fork, before its child has
            # joined. So a process that has just forked leaves the set idle, and the child joins it.
            is_forking = clock() - Set.forked_at <= FORKING
            if not (is_forking or library.value(semid, USERS) or library.value(semid, PERSIST)):
                remove_marked(library, semid, MARK_IDLE)
        except OSError as error:  # it was removed, or this process has lost its rights to it
            if not error.errno:  # a signal handler's, say TimeoutError
                raise
            self.semid.value = LEFT
        return True

    def give_refused(self, n: int) -> int | None:
        """Give n tokens back where the call that is ready was refused, or there is none for n.

        Return None if nothing is left to be given; else how many tokens this process holds, fewer
        than n, and none was given. OSError: it has lost its rights to the set (setuid).
        """
        try:
            if n >= self.library.bias:  # more than an operation can give, and than there are
                return self.held()
            if not self.is_usable() or self.operate(give(self.account, n)):
                return None
            if self.pid != os.getpid():  # C code has forked: until now, it was the parent's account
                self.join_anew()
            if self.inherited is not None:
                account, parent = self.inherited
                # A parent that lives has a 1 in its account, which this process must not take.
                transition = give if os.getppid() == parent else give_inherited
                if self.operate(transition(account, n)):
                    return None
            return self.held()
        except FileNotFoundError:  # it was removed: there is nothing to give back
            return None

    def give_what_is_left(self, n: int) -> None:
        """The same at the end of a with statement, inside which somebody released some."""
        if held := self.give_refused(n):
            self.give_refused(held)

    def end_turn(self) -> None:
        """End the turn where ``give_up`` was refused: if it is this process's, not a parent's."""
        try:
            if self.library.pid(self.semid, TURN) == os.getpid():
                self.library.operate(self.semid, END_TURN)
        except OSError:  # the set was removed
            pass

    def operate(self, operations: list[Operation]) -> bool:
        """Return False if one with NOWAIT would have to wait."""
        return self.ask(self.library.operate, operations)

    def free(self) -> int:
        return self.ask(self.library.value, TOKENS) - self.library.bias

    def total(self) -> int:
        return self.ask(self.library.value, TOTAL)

    def users(self) -> int:
        return self.ask(self.library.value, USERS)

    def held(self) -> int:
        return max(0, self.ask(self.library.value, self.account) - 1)

    def waiting(self) -> int:
        return self.ask(self.library.waiting, TOKENS, TURN)

    def holders(self) -> list[Holder]:
        library, accounts = self.library, self.accounts
        return self.ask(lambda semid: holders_of(library, semid, library.values(semid), accounts))

    def resize(self, total: int, tell: Callable[[str], object] | None = None) -> None:
        """Change the number of tokens. If others have the set open, first ``tell`` both numbers."""
        while (old := self.total()) != total:
            if tell and self.users() > 1:
                tell(f"semaphore {self.name!r}: now {total} tokens for all processes, before {old}")
            if self.operate(resize(old, total)):
                break  # else another process has resized it meanwhile

    def remove(self) -> None:
        """Remove the set. Waiters fail with EIDRM."""
        try:
            self.library.remove(self.id)
        except OSError as error:  # also a FileNotFoundError after this process has left
            raise failure(self.library, error, self.name) from None

    def check_number(self, n: object) -> int:
        """Return n. ValueError: there are fewer than n tokens in all."""
        return check_integer(self.name, "n", n, 1, self.total(), ", the number of tokens there are")

    def ask(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Make a call of the library on this set. Its error is ``failure``."""
        try:
            return call(self.semid, *arguments)
        except OSError as error:
            raise self.failure(error) from None

    def failure(self, error: OSError | int) -> Exception:
        """Return the exception for a failed call on this set, or for a failed semop's errno."""
        if self.semid.value == LEFT:
            return ValueError(f"semaphore {self.name!r} is closed")
        if not isinstance(error, OSError):
            error = self.library.error(error, self.semid)
        return failure(self.library, error, self.name)


def holders_of(library: SysV, semid: int, values: list[int], accounts: int) -> list[Holder]:
    """Return the processes that hold tokens; pid None: those with the last account."""
    found: dict[int, Holder] = {}
    for account in range(accounts, len(values)):
        if values[account] > 1:
            pid = None if account == len(values) - 1 else library.pid(semid, account)
            holder = pid or -account  # after exec, a process has two accounts
            before = found[holder].tokens if holder in found else 0
            found[holder] = Holder(pid, before + values[account] - 1)
    return [found[holder] for holder in sorted(found, key=lambda one: (one < 0, abs(one)))]


def remove_marked(library: SysV, semid: int, mark: list[Operation]) -> bool:
    """Remove the set, if this process may and can mark it. Return whether it did."""
    if not library.may_remove(semid) or not library.operate(semid, mark):
        return False
    library.remove(semid)
    return True


# --- Errors ---------------------------------------------------------------------------------------

_HINTS = {
    errno.ENOENT: "no process has a semaphore of this name open",
    errno.EEXIST: "a process has a semaphore of this name open, or it is persistent",
    errno.EACCES: "it belongs to another user; that user or root can remove it: unlink; mode 0o660 "
    "from the start lets a group use it",
    errno.ENOSPC: "a limit of System V semaphores is reached: ipcs -s lists them, ipcrm removes "
    "one, {limits} sets the limit",
    errno.EINVAL: "{limits} allows no set of this size, or no more of them for one process",
}
_HINTS[errno.EPERM] = _HINTS[errno.EACCES]


def failure(library: SysV, error: OSError, name: str) -> Exception:
    """Return the exception for the caller: with the name, and a hint that helps."""
    if not (number := error.errno):  # a signal handler's, say TimeoutError
        return error
    if number == errno.ENOSYS:
        return NotImplementedError(refusal(library.platform))
    hint = error.strerror or _HINTS.get(number, "").format(limits=library.limits)
    return os_error(number, name, hint)
