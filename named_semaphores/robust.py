# SPDX-License-Identifier: Apache-2.0
"""Policy: RobustSemaphore. The kernel remembers what each process took, and gives it back when the process ends; ``_sysv`` says how.

A process may give back only what it holds: otherwise the kernel's sum of what it did gets negative, and takes a token away when it ends. So each
process keeps, for each set, an exact list of what it holds: one entry for each acquisition, which is the very operation that gives it back. The
list changes in C, in the same step that takes or gives, so that no signal comes between.
"""

from __future__ import annotations

import ctypes
import operator
import os
import sys
from _thread import RLock
from ctypes import c_size_t, c_void_p
from functools import partial
from itertools import repeat, starmap
from time import monotonic_ns
from weakref import WeakSet, WeakValueDictionary

from . import _sysv
from ._base import DEFAULT_MODE, FIRST_SLICE, RETRY, Flags, Semaphore, check_existence, check_integer, check_name, check_wait, deadline_of
from ._names import Owner, at_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, NoReturn

_ONE = 1  # compared by identity, for speed; another object that is 1 takes the longer way
_call: Callable[[Any], Any] = getattr(operator, "call", operator.methodcaller("__call__"))  # 3.11 has the former, in C too
_OPERATIONS = c_size_t(1)  # of an entry
_FAST_OPERATIONS: Any = c_size_t.from_param(1)  # the same, as ctypes passes it on fastest to a function without argtypes


# --- What a process holds -----------------------------------------------------------------------------------------------------------------


class _Held(list):  # type: ignore[type-arg]
    """One entry for each acquisition of ``n`` tokens at once that this process has not given back."""

    __slots__ = ("entry", "n")

    def __init__(self, semset: _sysv.Set, n: int) -> None:
        self.n = n
        self.entry = semset.give(n)[1]

    def own(self) -> int:
        """Return how many entries are this process's own, and not its parent's."""
        return sum(entry is not _INHERITED for entry in self)


# In a child of fork, instead of each entry of its parent's: NULL, which semop refuses with EFAULT. Leaving the with statement in which a child was
# forked takes the entry off, and gives nothing.
_INHERITED = c_void_p()


class _Holding:
    """What this process holds of one set: all its objects on that set share this."""

    def __init__(self, semset: _sysv.Set) -> None:
        self.lists = {1: _Held(semset, 1)}
        self.kept: list[_sysv.Set] = []  # of an object that is gone although tokens are held: keeps the set in use

    def held(self, n: int, semset: _sysv.Set) -> _Held:
        if n not in self.lists:
            self.lists.setdefault(n, _Held(semset, n))
        return self.lists[n]

    def tokens(self) -> int:
        return sum(held.n * held.own() for held in list(self.lists.values()))

    def regroup(self, wanted: _Held) -> bool:
        """Make one entry of ``wanted`` from others of as many tokens, or more. Return False if not so many are held."""
        with _lock:
            if self.tokens() < wanted.n:
                return False
            ones = self.lists[1]
            got = 0
            try:
                for held in sorted(self.lists.values(), key=lambda held: held.n):
                    while got < wanted.n and held.own():
                        held.remove(held.entry)  # ValueError: another thread was faster
                        got += held.n
            except BaseException as error:  # or a signal's
                ones += [ones.entry] * got
                if isinstance(error, ValueError):
                    return False
                raise
            ones += [ones.entry] * (got - wanted.n)
            wanted.append(wanted.entry)
            return True

    def end(self, semset: _sysv.Set) -> None:
        """An opening of the set ends. It stays as long as tokens are held, so that no other process begins anew."""
        with _lock:
            if any(self.lists.values()) and not self.kept:
                self.kept.append(semset)
                _kept[semset.id] = self
                return
            leaving = [semset]
            if not any(self.lists.values()):
                _kept.pop(semset.id, None)
                leaving += self.kept
                self.kept.clear()
        for one in leaving:
            one.leave()


_holdings: WeakValueDictionary[int, _Holding] = WeakValueDictionary()  # by the sets' ids, which the kernel does not use again soon
_kept: dict[int, _Holding] = {}
_lock = RLock()  # the collector or a signal handler may open or close while its own thread has it


class _Opening:
    """One of the set's users, until it is garbage-collected. Its object has it, its calls in flight, and what ends a with statement."""

    def __init__(self, semset: _sysv.Set) -> None:
        self.set = semset
        with _lock:
            self.holding = _holdings.get(semset.id) or _holdings.setdefault(semset.id, _Holding(semset))
        _openings.add(self)
        at_exit(_leave_all)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # A signal's exception here leaves this process a user until it ends.
        if hasattr(self, "holding") and not is_finalizing():
            self.holding.end(self.set)


_openings: WeakSet[_Opening] = WeakSet()


def _leave_all() -> None:
    """At the process's end: the last user removes the set. If a token is held, the kernel gives it back first, and the set stays until somebody
    comes.
    """
    for opening in list(_openings):
        if not any(opening.holding.lists.values()):
            opening.set.leave()


def _after_fork() -> None:
    """In a child of fork: it holds nothing, and is a user of its own."""
    global _lock
    _lock = RLock()  # another thread of the parent may have had it
    for opening in list(_openings):
        for held in opening.holding.lists.values():
            held[:] = [_INHERITED] * len(held)
        opening.holding.kept.clear()
        try:
            opening.set.rejoin()
        except OSError:  # removed; every use will say so
            pass
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Handle:
    """The calls that take and give ``n`` tokens at once; see ``_libc.Handle``."""

    is_robust = True

    def __init__(self, opening: _Opening, n: int) -> None:
        semset, library = opening.set, opening.set.library
        self.opening = opening
        self.n = n
        self.held = held = opening.holding.held(n, semset)
        # What semop returns is looked up, and what is found is called: 0 records an entry, and becomes None; -1 stays -1.
        self._outcomes = {0: partial(held.append, held.entry), -1: partial(int, -1)}
        self._take = semset.take(n)
        self.is_steady = library.has_timed_wait  # semtimedop's time is relative
        self.tries = map(operator.not_, self._recorded(starmap(library.semop_now, repeat((*semset.try_to_take(n)[:2], _FAST_OPERATIONS)))))
        # (PyPy ends iter(held.pop, None) with the first IndexError.)
        self.posts = map(library.semop_now, repeat(semset.id), starmap(held.pop, repeat(())), repeat(_FAST_OPERATIONS))
        self.first_waits = map(operator.not_, self._recorded(starmap(*self._waiting(FIRST_SLICE))))
        self.leave_only = partial(library.semop_leaving, semset.id, held, _OPERATIONS)
        self.leave = partial(self.leave_only)
        self.leave.opening = opening  # type: ignore[attr-defined]

    def _recorded(self, statuses: Iterator[int]) -> Iterator[int | None]:
        return map(_call, map(self._outcomes.__getitem__, statuses))

    def _waiting(self, nanoseconds: int) -> tuple[Any, Iterator[tuple[Any, ...]]]:
        library = self.opening.set.library
        if library.semtimedop is None:
            return library.semop, repeat(self._take)
        return library.semtimedop, repeat((*self._take, library.timeout(nanoseconds / 1e9)))

    def _once(self, function: Any, arguments: tuple[Any, ...]) -> Iterator[tuple[int | None, int]]:
        return zip(self._recorded(starmap(function, (arguments,))), iter(ctypes.get_errno, None))

    def try_once(self) -> Iterator[tuple[int | None, int]]:
        return self._once(self.opening.set.library.semop, self.opening.set.try_to_take(self.n))

    def wait(self, nanoseconds: int) -> Iterator[tuple[int | None, int]]:
        function, arguments = self._waiting(nanoseconds)
        return self._once(function, next(arguments))

    def wait_until(self, deadline: int) -> Iterator[tuple[int | None, int]]:
        return self.wait(max(0, deadline - monotonic_ns()))

    def post_once(self) -> Iterator[int]:
        return self.posts


class _Robust(Semaphore):
    """What RobustSemaphore and several of its tokens have in common."""

    def _raise_unless_retry(self, status: int, error: int) -> None:
        if error not in RETRY:
            raise self._set.failure(error)

    _set: _sysv.Set


class Tokens(_Robust):
    """Several tokens of a RobustSemaphore, taken and given back at once. ``RobustSemaphore.tokens(n)`` returns it."""

    def __init__(self, handle: _Handle, name: str) -> None:
        self._name = name
        self._set = handle.opening.set
        self._use(handle)

    def __repr__(self) -> str:
        return f"<{self._handle.n} tokens of semaphore {self._name!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle tokens of semaphore {self._name!r}: pickle the semaphore")

    def _raise_unless_retry(self, status: int, error: int) -> None:
        super()._raise_unless_retry(status, error)
        self._check_total()

    def _check_total(self) -> None:
        n, total = self._handle.n, self._set.total()
        if n > total:
            raise ValueError(
                f"semaphore {self._name!r}: n must be at most {total}, the number of tokens there are, not {n}: it would wait for ever"
            )


class RobustSemaphore(_Robust):
    """A counted limit that processes of this machine share by its name. A dead holder's tokens come back.

        with RobustSemaphore("builds", 3):
            ...  # at most three of these at once, in whatever process

    The interface is that of ``threading.BoundedSemaphore``, on a System V semaphore: its names are apart from those of NamedSemaphore and other
    POSIX semaphores.

    A token belongs to the process that took it: any thread of it may release it, and when the process ends, by whatever signal, the kernel gives
    it back at once. A child of fork holds nothing; a program executed in the process's place (``os.execvp``) keeps the tokens until it ends.
    Waiters get tokens in the order in which they came (who waits for several at once can be overtaken; and a wait renews its place every second).

    A name lives as long as its users: it goes with the last process that has it open, however that process ends.

    name: one or more letters, digits, ``-``, ``_`` and ``.``, with or without a ``/`` before them.
    initial_value: the number of tokens, 1 to 32,767. None, the default: 1 if the semaphore is created, whatever it has if it exists. An existing
        one with another number is a ValueError; but if no process has it open, it begins anew with the given number.
    handle_existence: what to do if a process has a semaphore of this name open, or none has; a member of ``RobustSemaphore.Flags``.
    unlink_on_delete: None, the default: the name goes with its last user. False: it stays until ``unlink()``. True: it goes when this object is
        closed or deleted, or the interpreter ends.
    mode: its permission bits if it is created, e.g. 0o660. They are exact: the umask does not cut them.

    Raises:
        ValueError: a bad argument, or another number than the existing one has. TypeError: a name that is no str.
        FileExistsError, FileNotFoundError: as ``handle_existence`` says. FileExistsError also if another program's semaphore is in its place.
        PermissionError: it belongs to another user.
        OSError: the system's limit of semaphores is reached (ENOSPC), or its memory is full (ENOMEM).
        NotImplementedError: this system has no System V semaphores, or its calls would end the process (Cygwin, Android).
    """

    _library: _sysv.SysV | None = None  # None: the running system's
    _owner: Owner | None = None

    def __init__(
        self,
        name: str,
        initial_value: int | None = None,
        handle_existence: Flags = Flags.LINK_OR_CREATE,
        unlink_on_delete: bool | None = None,
        *,
        mode: int = DEFAULT_MODE,
    ) -> None:
        self._owner = None
        self._several: dict[int, Tokens] = {}
        self._start_closed()
        name = check_name(name)
        check_existence(name, handle_existence)
        if initial_value is not None:
            initial_value = check_integer(name, "initial_value", initial_value, 1, _sysv.MAX_TOKENS)
        mode = check_integer(name, "mode", mode, 0, 0o777, " (0o777)")
        library = self._library or _sysv.system()
        self._name = name
        self._set = library.open(
            name,
            initial_value,
            link=handle_existence in (Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS),
            create=handle_existence is not Flags.RAISE_IF_NOT_EXISTS,
            anew=handle_existence is Flags.UNLINK_AND_CREATE,
            persist=unlink_on_delete is not None and not unlink_on_delete,
            mode=mode,
        )
        self._linked = not self._set.created
        opening = _Opening(self._set)
        if unlink_on_delete:
            self._owner = opening.owner = Owner(self._set.remove)  # type: ignore[attr-defined]
        self._use(_Handle(opening, 1))

    @property
    def value(self) -> int:
        """The number of free tokens now. ValueError: the semaphore is closed. FileNotFoundError: it was unlinked."""
        self._open_handle()
        return self._set.value()

    @property
    def initial_value(self) -> int:
        """The number of tokens there are, free and taken: what it was created with, or what ``resize`` made of it."""
        self._open_handle()
        return self._set.total()

    @property
    def waiting(self) -> int:
        """How many processes, threads and tasks' loops wait for tokens now."""
        self._open_handle()
        return self._set.waiting()

    @property
    def unlink_on_delete(self) -> bool:
        """Whether the name is unlinked with this object."""
        return self._owner is not None

    def acquire(self, blocking: bool = True, timeout: float | None = None, *, n: int = 1) -> bool:
        """Take ``n`` tokens, all or none, in one step; wait for them if they are not free.

        blocking, timeout: as for ``NamedSemaphore.acquire``.

        Returns True with the tokens, False without any.
        ValueError: a bad argument, or more tokens than there are; the semaphore is closed. FileNotFoundError: it was unlinked.
        """
        if n is _ONE:
            if timeout is None and blocking is True:  # what follows, without another call
                for taken in self._tries:
                    if taken:
                        return True
                    break
            return super().acquire(blocking, timeout)
        check_wait(self._name, blocking, timeout)
        tokens = self.tokens(n)
        tokens._check_total()
        return tokens.acquire(blocking, timeout)

    async def acquire_async(self, timeout: float | None = None, *, n: int = 1) -> bool:
        """Take ``n`` tokens as ``acquire`` does, in a task of asyncio: the event loop runs during the wait. A cancelled task has none."""
        if n is _ONE:
            return await super().acquire_async(timeout)
        check_wait(self._name, True, timeout)
        tokens = self.tokens(n)
        tokens._check_total()
        return await tokens.acquire_async(timeout)

    def tokens(self, n: int) -> Tokens:
        """Return a context manager that takes ``n`` tokens, all or none, and gives them back: ``with sem.tokens(3):``, also async."""
        handle: _Handle = self._open_handle()
        n = check_integer(self._name, "n", n, 1, _sysv.MAX_TOKENS)
        return self._several.get(n) or self._several.setdefault(n, Tokens(_Handle(handle.opening, n), self.name))

    def release(self, n: int = 1) -> None:
        """Give ``n`` tokens back, all or none, in one step that no signal interrupts. Any thread of the process that took them may.

        ValueError: n is no int of at least 1, or more than this process holds (a child of fork holds nothing); the semaphore is closed. If it was
        unlinked meanwhile, there is nothing to give back, and this does nothing.
        """
        posts = self._posts
        if n is not _ONE:
            n = check_integer(self._name, "n", n, 1)
            if n > _sysv.MAX_TOKENS:
                self._refuse_release(n)
            posts = self.tokens(n)._posts
        try:
            for status in posts:
                break
            if not status or self._is_gone():
                return
            # What came off the list is the parent's, and semop refused it. Back to the bottom, for the with statement it belongs to.
            self.tokens(n)._handle.held.insert(0, _INHERITED)
        except IndexError:  # the list is empty: this process took no tokens in this number
            pass
        tokens = self.tokens(n)
        if not tokens._handle.opening.holding.regroup(tokens._handle.held):
            self._refuse_release(n)
        for _ in tokens._posts:
            break

    def _is_gone(self) -> bool:
        try:
            self._set.value()
        except FileNotFoundError:
            return True
        return False

    def _refuse_release(self, n: int) -> NoReturn:
        handle: _Handle = self._open_handle()
        raise ValueError(f"semaphore {self._name!r}: cannot release {n}: this process holds {handle.opening.holding.tokens()}")

    def resize(self, total: int, timeout: float | None = None) -> bool:
        """Let there be ``total`` tokens, for everybody and in one step. If that is fewer, wait until as many are free as go.

        The number that programs name when they open it stays the one it was created with.

        timeout: in seconds, as for ``acquire``. Returns False if not enough tokens were free in time.
        """
        self._open_handle()
        total = check_integer(self._name, "total", total, 1, _sysv.MAX_TOKENS)
        deadline_of(self._name, timeout)
        return self._set.resize(total, timeout)

    def unlink(self) -> None:
        """Remove the semaphore. Whoever waits for it, or acquires, gets FileNotFoundError; the end of a with statement does nothing then.

        FileNotFoundError: it was removed. PermissionError: it belongs to another user. ValueError: this object is closed.
        """
        self._open_handle()
        self._set.remove()

    def close(self) -> None:
        """Close the semaphore; the last process that closes it removes it. A second call does nothing.

        A thread that waits goes on waiting, and gets its token. Every other use is a ValueError from now on, but a with statement that began
        before still gives its token back, and until then this process remains a user.
        """
        super().close()
        for tokens in list(self._several.values()):
            tokens.close()
        owner = self._owner
        if owner is not None:
            owner.unlink()
            self._owner = None

    def _close_exit(self) -> None:
        leave: Any = self._exit
        if not any(leave.opening.holding.lists.values()):
            # Nothing is held: this process is a user no more. An ExitStack may still look for the end of a with statement whose beginning waits.
            self._exit = partial(leave.func, *leave.args)

    @classmethod
    def _attributes(cls) -> frozenset[str]:
        return super()._attributes() | {"_owner", "_several", "_set"}

    def _link(self, name: str) -> None:
        RobustSemaphore.__init__(self, name, None, Flags.RAISE_IF_NOT_EXISTS)
