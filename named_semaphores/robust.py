# SPDX-License-Identifier: Apache-2.0
"""Policy: RobustSemaphore. The kernel remembers what each process took, and gives it back when the process ends; ``_sysv`` says how.

A process may give back only what it holds: otherwise the kernel's sum of what it did gets negative, and takes a token away when it ends. So each
process keeps, for each set, an exact list of what it holds: one entry for each acquisition, which is the arguments of the very semop call that
gives it back. The list changes in C, in the same step that takes or gives, so that no signal comes between.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore]  # signal makes enums of its constants
import _thread
import ctypes
import gc
import operator
import os
import select
import sys
import weakref
from functools import partial
from itertools import repeat, starmap
from operator import attrgetter, itemgetter
from time import monotonic_ns

from . import _sysv
from ._base import DEFAULT_MODE, FIRST_SLICE, RETRY, Flags, Semaphore, check_existence, check_integer, check_name, check_wait, deadline_of
from ._lock import new_lock
from ._names import Owner, at_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, NoReturn

_ONE = 1  # acquire and release compare by identity, for speed; another object that is 1 takes the longer way
_call: Callable[[Any], Any] = getattr(operator, "call", operator.methodcaller("__call__"))  # 3.11 has the former, in C too
_NO_ENTRY = (0, None, 1)  # semop refuses the null pointer with EFAULT


# --- What a process holds -----------------------------------------------------------------------------------------------------------------


class _Held(list):  # type: ignore[type-arg]
    """One entry for each acquisition of ``n`` tokens at once that this process has not given back."""

    __slots__ = ("entry", "inherited", "n")

    def __init__(self, entry: Any, n: int, inherited: int = 0) -> None:
        self.n = n
        self.entry = entry
        self.inherited = inherited  # in a child of fork: how many entries its parent had


class _Taker:
    """``next(iter(taker), default)`` takes an entry off the list, or returns the default if the list is empty: in C, in one step also without a GIL.

    ``iter(taker)`` is a sequence iterator. It calls ``__getitem__(0)``, which is the list's ``pop``; an IndexError ends it.
    """

    __slots__ = ("__getitem__",)

    def __init__(self, held: _Held) -> None:
        self.__getitem__ = held.pop


class _Holding:
    """What this process holds of one set: all its objects on that set share this."""

    def __init__(self, semset: _sysv.Set) -> None:
        self.lists = {1: _Held(semset.give(1), 1)}
        self.kept: list[_sysv.Set] = []  # of collected objects, while tokens are held: keeps this process a user

    def held(self, n: int, semset: _sysv.Set) -> _Held:
        return self.lists.setdefault(n, _Held(semset.give(n), n))

    def tokens(self) -> int:
        with _lock:  # regroup() removes entries for a moment
            # In C, so that no other thread moves a token meanwhile.
            return sum(map(operator.mul, self.lists, map(len, self.lists.values())))

    def regroup(self, wanted: _Held) -> bool:
        """Make one entry of ``wanted`` from others of as many tokens, or more. Return False if not so many are held.

        Another thread may take an entry that it needs, and leave others: then it makes none, and returns True.
        """
        with _lock:
            ones = self.lists[1]
            moved: list[tuple[int, Any]] = []  # entries, and how many tokens each is; extended in C, so that no signal loses one
            try:
                # No while statement: its jump back looks at signals, and CPython 3.12 and 3.13 leave the jump out of the try block.
                for held in sorted(self.lists.values(), key=attrgetter("n")):
                    missing = wanted.n - sum(n for n, _ in moved)
                    moved.extend(zip(repeat(held.n), map(list.pop, repeat(held, min(len(held), -(-missing // held.n))))))
                got = sum(n for n, _ in moved)
            except BaseException as error:  # a signal's; or IndexError, if another thread took the last entry
                ones += [ones.entry] * sum(n for n, _ in moved)
                if isinstance(error, IndexError):
                    return True
                raise
            if got < wanted.n:
                ones += [ones.entry] * got
                return self.tokens() >= wanted.n
            ones += [ones.entry] * (got - wanted.n)
            wanted += [wanted.entry]
            return True

    def forget(self) -> None:
        """In a child of fork: hold nothing. Inherited ``__exit__`` functions have the old lists, now empty, and give nothing back."""
        old = self.lists
        self.lists = {n: _Held(held.entry, n, held.inherited + len(held)) for n, held in old.items()}
        for held in old.values():
            held.clear()
        self.kept.clear()

    def end(self, semset: _sysv.Set) -> list[_sysv.Set]:
        """A use of the set ends: return the uses to leave now. One stays as long as tokens are held, so that no other process begins anew."""
        holds = self.tokens()
        if holds and not self.kept:
            try:
                is_gone = semset.is_gone()
            except PermissionError:  # this process has lost its rights to the set
                is_gone = False
            if not is_gone:
                self.kept.append(semset)
                _kept[semset.id] = self
                return []
        leaving = [semset]
        if not holds:
            _kept.pop(semset.id, None)
            leaving += self.kept
            self.kept.clear()
        return leaving


# By the sets' ids, which the kernel does not use again soon.
_holdings: weakref.WeakValueDictionary[int, _Holding] = weakref.WeakValueDictionary()
_kept: dict[int, _Holding] = {}
_lock = new_lock()  # for what takes several steps: regroup, end, and making a _Holding
_ended: list[tuple[_Holding, _sysv.Set]] = []  # uses whose finalizer has run


def _leave_ended() -> None:
    # Never waits: the collector may call this in a thread that has another library's lock, for which a thread that has ours may wait.
    while _ended:
        for locked in map(_lock.acquire, (False,)):  # "for" as in _base: no signal leaves it locked
            break
        if not locked:
            return  # _User.__init__ calls this again
        try:
            holding, semset = _ended.pop()
            for one in holding.end(semset):
                one.leave()
        finally:
            _lock.release()


class _User:
    """Counts this process as a user of the set until garbage-collected."""

    def __init__(self, semset: _sysv.Set) -> None:
        self.set = semset
        with _lock:
            self.holding = _holdings.get(semset.id) or _holdings.setdefault(semset.id, _Holding(semset))
        _leave_ended()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # A signal's exception here leaves this process a user until it ends.
        if hasattr(self, "holding") and not is_finalizing():
            _ended.append((self.holding, self.set))
            _leave_ended()


_users: set[_User] = set()


class _Opening:
    """An open set. Its object has it, its calls in flight, and what ends a with statement.

    ``_users`` hides the user from the collector until this object's finalizer has run: see ``_libc._Pointer``.
    """

    __slots__ = ("_forget", "owner", "user")

    def __init__(self, semset: _sysv.Set) -> None:
        self.user = _User(semset)
        self._forget = _users.discard
        self.owner: Owner | None = None
        _users.add(self.user)
        at_exit(_leave_late)

    def __del__(self) -> None:
        if hasattr(self, "_forget"):
            self._forget(self.user)


def _leave_all() -> None:
    """Leave the sets; the last user removes a set. If a token is held, the kernel gives it back and lowers the count of users, and the next process
    that opens the name removes the set.
    """
    for user in list(_users):
        if not user.holding.tokens():
            user.set.leave()


def _leave_late() -> None:
    """At exit: leave when nothing can use the semaphores any more."""
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        # Other atexit functions may follow, and daemon threads run on. After them the interpreter collects garbage once more.
        # (PyPy tells nobody; there the kernel lowers the count of users.)
        callbacks: list[Any] = getattr(gc, "callbacks", [])
        callbacks.append(lambda *_: _leave_all() if sys.is_finalizing() else None)
    elif not _thread._count():  # a child of multiprocessing calls os._exit next; but a thread may still use them
        _leave_all()


# --- Forks --------------------------------------------------------------------------------------------------------------------------------

# Of each thread that forks. No lock is held meanwhile: a hook of another library may wait for one.
_pipes: dict[int, tuple[int, int]] = {}
_Mask = ctypes.c_char * 128  # a sigset_t has at most so many bytes
_masks: dict[int, Any] = {}  # of signals that were blocked before


def _open_pipe() -> None:
    if _users:
        try:
            _pipes[_thread.get_ident()] = os.pipe()
        except OSError:  # no descriptors are left: the parent will not wait
            pass


def _await_child() -> None:
    """Wait until the child is a user: if the parent left before, as the last user, it would remove the set."""
    ends = _pipes.pop(_thread.get_ident(), None)
    if ends:
        os.close(ends[1])
        try:
            poll = select.poll()  # type: ignore[attr-defined,unused-ignore]
            poll.register(ends[0])
            poll.poll(1000)  # milliseconds; until the child closes its end, or dies. It may also be stopped, or busy with hooks of others
        finally:
            os.close(ends[0])


def _begin_child() -> None:
    """A child of fork holds nothing, and is a user of its own."""
    global _lock
    _lock = new_lock()  # a thread that the child does not have may have had it
    _ended.clear()
    for holding in list(_holdings.values()):
        holding.forget()
    _kept.clear()
    for sem in list(_open.values()):
        sem._renew()
    for user in list(_users):
        try:
            user.set.rejoin()
        except OSError:  # removed, and every use says so; or the kernel has no memory for an undo, and this child is no user
            pass
    for ends in _pipes.values():
        os.close(ends[0])
        os.close(ends[1])
    _pipes.clear()


def _register() -> None:
    # "before" functions are called in the reverse order: block signals, open the pipe. Then the child begins, the parent waits for it, and both
    # restore their signals. A handler that raised in between would leave out the rest of a function, and its exception would be lost. So all signals
    # are blocked; not by signal.pthread_sigmask, which runs the handlers of those that wait.
    libc: Any = getattr(ctypes, "PyDLL", ctypes.CDLL)(None)
    every = _Mask()
    libc.sigfillset(every)
    own = map(_masks.setdefault, iter(_thread.get_ident, None), iter(_Mask, None))
    block = map(libc.pthread_sigmask, repeat(_signal.SIG_BLOCK), repeat(every), own)
    restore = map(libc.pthread_sigmask, repeat(_signal.SIG_SETMASK), map(_masks.pop, iter(_thread.get_ident, None)), repeat(None))
    register: Any = os.register_at_fork  # type: ignore[attr-defined,unused-ignore]
    register(before=_open_pipe, after_in_child=_begin_child, after_in_parent=_await_child)
    register(before=block.__next__, after_in_child=restore.__next__, after_in_parent=restore.__next__)


# Cygwin has no System V semaphores for us, and hides libc from CDLL(None).
if hasattr(os, "register_at_fork") and not sys.platform.startswith(("cygwin", "msys")):
    _register()


class _Giver:
    """Gives back what was taken ``n`` tokens at a time."""

    def __init__(self, semset: _sysv.Set, holding: _Holding, n: int) -> None:
        self.set = semset
        self.holding = holding
        self.held = held = holding.held(n, semset)
        # Each step gives an entry back; it does nothing if the set was removed. IndexError: the list is empty. (PyPy ends iter(held.pop, None)
        # with the first IndexError.)
        self.posts = starmap(semset.library.semop_now, starmap(held.pop, repeat(())))

    def give(self) -> None:
        """Give back n tokens, also if they were taken in other numbers. ValueError: not so many are held. Nothing if the set was removed."""
        while True:
            try:
                if next(self.posts):
                    self.check()
                return
            except IndexError:
                if self.set.is_gone():
                    return
                if not self.holding.regroup(self.held):
                    self.refuse(self.held.n)

    def check(self) -> None:
        """After a failed call: nothing if the set was removed. Else this process has lost its rights to the set (setuid): OSError, and it holds
        what it could not give back.
        """
        try:
            self.set.library.operate(self.set.id, _sysv.give(self.held.n))  # tells errno
        except _sysv.Removed:
            pass
        except OSError as error:
            self.held += (self.held.entry,)
            raise self.set.failure(error) from None

    def refuse(self, n: int) -> NoReturn:
        raise ValueError(f"semaphore {self.set.name!r}: cannot release {n}: this process holds {self.holding.tokens()}") from None


class _Ended(dict):  # type: ignore[type-arg]
    """What the end of a with statement returns, by semop's status: {0: None}, in C. For -1 it calls Python code."""

    def __init__(self, giver: _Giver) -> None:
        super().__init__({0: None})
        self.giver = giver

    def __missing__(self, status: int) -> None:
        giver = self.giver
        held = giver.held
        if held is not giver.holding.lists.get(held.n):  # the with statement began before a fork, in the parent
            return
        if held.inherited:  # the same, but an ExitStack or async with statement looked __exit__ up in the child
            held.inherited -= 1
        else:
            try:
                is_gone = giver.set.is_gone()
            except OSError:  # this process has lost its rights to the set
                held += (held.entry,)
                raise
            if not is_gone:  # there was no entry: another thread's release(n) used it
                giver.give()


class _Handle:
    """The calls that take and give ``n`` tokens at once; see ``_libc.Handle``."""

    is_robust = True

    def __init__(self, opening: _Opening, n: int) -> None:
        semset, library = opening.user.set, opening.user.set.library
        self.opening = opening
        self.set = semset
        self.n = n
        self.giver = giver = _Giver(semset, opening.user.holding, n)
        # What semop returns is looked up, and what is found is called: 0 records an entry, and becomes None; -1 stays -1.
        record = partial(giver.held.append, giver.held.entry)
        record.opening = opening  # type: ignore[attr-defined]
        self._outcomes = {0: record, -1: partial(int, -1)}
        self._take = semset.take(n)
        self.is_steady = library.has_timed_wait  # semtimedop's time is relative
        self.tries = map(operator.not_, self._recorded(starmap(library.semop_now, repeat(semset.try_to_take(n)))))
        self.posts = giver.posts
        self.first_waits = map(operator.not_, self._recorded(starmap(*self._waiting(FIRST_SLICE))))
        entries = map(next, map(iter, repeat(_Taker(giver.held))), repeat(_NO_ENTRY))
        self.leave = partial(library.semop_leaving(_Ended(giver).__getitem__), semset.id, map(itemgetter(1), entries), 1)
        self.leave.opening = opening  # type: ignore[attr-defined]

    def _recorded(self, statuses: Iterator[int]) -> Iterator[int | None]:
        return map(_call, map(self._outcomes.__getitem__, statuses))

    def _waiting(self, nanoseconds: int) -> tuple[Any, Iterator[tuple[Any, ...]]]:
        library = self.set.library
        if library.semtimedop is None:
            return library.semop, repeat(self._take)
        return library.semtimedop, repeat((*self._take, library.timeout(nanoseconds / 1e9)))

    def _once(self, function: Any, arguments: tuple[Any, ...]) -> Iterator[tuple[int | None, int]]:
        return zip(self._recorded(starmap(function, (arguments,))), iter(ctypes.get_errno, None))

    def try_once(self) -> Iterator[tuple[int | None, int]]:
        return self._once(self.set.library.semop, self.set.try_to_take(self.n))

    def wait(self, nanoseconds: int) -> Iterator[tuple[int | None, int]]:
        function, arguments = self._waiting(nanoseconds)
        return self._once(function, next(arguments))

    def wait_until(self, deadline: int) -> Iterator[tuple[int | None, int]]:
        return self.wait(max(0, deadline - monotonic_ns()))

    def post_once(self) -> Iterator[int]:
        """Give back what was just taken."""
        try:
            self.giver.give()
        except (ValueError, OSError):  # another thread released it, or this process lost its rights to the set
            pass
        return iter(())


class _Robust(Semaphore):
    """What RobustSemaphore and several of its tokens have in common."""

    _set = None  # type: _sysv.Set  # type: ignore[assignment]

    def _use(self, handle: _Handle) -> None:
        super()._use(handle)
        _open[id(self)] = self

    @property
    def value(self) -> int:
        """The number of free tokens now. ValueError: the semaphore is closed. FileNotFoundError: it was unlinked."""
        self._open_handle()
        return self._set.value()

    def _renew(self) -> None:
        """In a child of fork: take and give by the new lists of what is held."""
        handle: _Handle | None = self._handle
        if handle is not None:
            self._use(_Handle(handle.opening, handle.n))

    def _raise_unless_retry(self, status: int, error: int) -> None:
        if error not in RETRY:
            raise self._set.failure(error)

    def _close_exit(self) -> None:
        leave: Any = self._exit
        if not leave.opening.user.holding.tokens():
            # Nothing is held: this process is no user any more. ExitStack looks __exit__ up after __enter__ has returned, so it stays valid.
            self._exit = partial(leave.func, *leave.args)


_open: weakref.WeakValueDictionary[int, _Robust] = weakref.WeakValueDictionary()  # by id: a subclass may have no hash


class Tokens(_Robust):
    """Several tokens of a RobustSemaphore, taken and given back at once. ``RobustSemaphore.tokens(n)`` returns it."""

    def __init__(self, handle: _Handle, name: str) -> None:
        self._name = name
        self._n = handle.n
        self._set = handle.set
        self._linked = not handle.set.created
        self._use(handle)

    def __repr__(self) -> str:
        return f"<{self._n} tokens of semaphore {self._name!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle tokens of semaphore {self._name!r}: pickle the semaphore")

    def release(self) -> None:
        """Give the tokens back, as ``RobustSemaphore.release`` does."""
        self._open_handle().giver.give()

    def _raise_unless_retry(self, status: int, error: int) -> None:
        super()._raise_unless_retry(status, error)
        self._check_total()

    def _check_total(self) -> None:
        n, total = self._n, self._set.total()
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
    Linux serves waiters in the order in which they came, with two exceptions. A waiter for several tokens can be overtaken by waiters for fewer. And
    so that signals are noticed, a wait begins again after 10 ms, 110 ms, and then every second, behind those that came meanwhile.

    A name ends with its last user, a process that has it open, however that process ends. A subprocess that was started with ``preexec_fn``
    is a user until it ends.

    name: one or more letters, digits, ``-``, ``_`` and ``.``, with or without a ``/`` before them.
    initial_value: the number of tokens, 1 to 32,767. None, the default: 1 if the semaphore is created, whatever it has if it exists (to link only,
        say RAISE_IF_NOT_EXISTS). If it exists with another number: ValueError.
    handle_existence: what to do if the semaphore exists, or does not; a member of ``RobustSemaphore.Flags``. It exists while a process has it open.
    unlink_on_delete: None, the default: the name ends with its last user. False: it exists until ``unlink()``, also without users. True: it is
        unlinked when this object is closed or deleted, or the interpreter ends.
    mode: its permission bits if it is created, e.g. 0o660. They are exact: the umask does not cut them.

    Raises:
        ValueError: a bad argument, or another number than the existing one has. TypeError: a name that is no str.
        FileExistsError, FileNotFoundError: as ``handle_existence`` says. FileExistsError also if another program's semaphore is in its place.
        PermissionError: it belongs to another user.
        OSError: the system's limit of semaphores is reached (ENOSPC), or its memory is full (ENOMEM).
        NotImplementedError: this system has no System V semaphores, or its calls would end the process (Cygwin, Android).
    """

    _library = None  # type: _sysv.SysV | None  # None: the running system's
    _owner = None  # type: Owner | None
    _several = {}  # type: dict[int, Tokens]

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
        self._several = {}
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
            self._owner = opening.owner = Owner(self._set.remove)
        self._use(_Handle(opening, 1))

    @property
    def initial_value(self) -> int:
        """The number of tokens there are, free and taken: what it was created with, or what ``resize`` made of it."""
        self._open_handle()
        return self._set.total()

    @property
    def waiting(self) -> int:
        """The number of threads, in all processes, that wait for tokens now. One thread waits for all tasks of an event loop."""
        self._open_handle()
        return self._set.waiting()

    @property
    def unlink_on_delete(self) -> bool:
        """Whether the name is unlinked with this object."""
        return self._owner is not None

    def acquire(self, blocking: bool = True, timeout: float | None = None, *, n: int = 1) -> bool:
        """Take ``n`` tokens, all or none, in one step; wait for them if they are not free.

        blocking: False returns at once. It must be a bool: ``acquire(5)`` is a ValueError, and not five seconds.
        timeout: the longest wait, in seconds: any number from 0, infinity too; None waits without an end. Unlike in ``threading``, a negative
            one is a ValueError. It runs on the monotonic clock, and never ends early.

        Signal handlers run during the wait. If one raises, its exception is raised here, and no token is taken; if it returns, the wait goes on.

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
        tokens = self._several.get(n)
        if tokens is None or tokens.closed:
            tokens = self._several[n] = Tokens(_Handle(handle.opening, n), self.name)
        return tokens

    def release(self, n: int = 1) -> None:
        """Give ``n`` tokens back, all or none, in one step that no signal interrupts. Any thread of the process that took them may.

        ValueError: n is no int of at least 1, or more than this process holds (a child of fork holds nothing); the semaphore is closed. If it was
        unlinked meanwhile, there is nothing to give back, and this does nothing.
        """
        if n is not _ONE:
            n = check_integer(self._name, "n", n, 1)
            if n > _sysv.MAX_TOKENS:
                self._open_handle().giver.refuse(n)
            return self.tokens(n).release()
        try:
            for failed in self._posts:
                if failed:
                    self._open_handle().giver.check()
                return
        except IndexError:  # nothing that was taken singly is left
            self._open_handle().giver.give()

    def resize(self, total: int, timeout: float | None = None) -> bool:
        """Let there be ``total`` tokens, for everybody and in one step. If that is fewer, wait until enough tokens are free to remove.

        The number that programs name when they open it stays the one it was created with.

        timeout: in seconds, as for ``acquire``. Returns False if not enough tokens were free in time.
        """
        self._open_handle()
        total = check_integer(self._name, "total", total, 1, _sysv.MAX_TOKENS)
        deadline = deadline_of(self._name, timeout)
        return self._set.resize(total, None if timeout is None or deadline is None else float(timeout))

    def unlink(self) -> None:
        """Remove the semaphore. Whoever waits for it, or acquires, gets FileNotFoundError; the end of a with statement does nothing then.

        FileNotFoundError: it was removed. PermissionError: it belongs to another user. ValueError: this object is closed.
        """
        self._open_handle()
        self._set.remove()

    def close(self) -> None:
        """Close the semaphore; the last process that closes it removes it. A second call does nothing.

        A thread that waits goes on waiting, and gets its token. Every other use is a ValueError from now on, but a with statement that began
        before still gives its token back. This process remains a user while it holds tokens, and if it held some when this was called, until this
        object is deleted.
        """
        super().close()
        for tokens in list(self._several.values()):
            tokens.close()
        owner = self._owner
        if owner is not None:
            owner.unlink()
            self._owner = None

    def _link(self, name: str) -> None:
        RobustSemaphore.__init__(self, name, None, Flags.RAISE_IF_NOT_EXISTS)
