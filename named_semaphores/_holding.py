# SPDX-License-Identifier: Apache-2.0
"""Policy: what this process holds and uses of RobustSemaphore's sets, exactly: under signals, across forks, until it ends.

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
import sys
import weakref
from collections import deque
from ctypes import c_int, c_short, c_ulong, c_void_p
from functools import partial
from itertools import repeat, starmap
from operator import attrgetter

from . import _sysv
from ._lock import new_lock
from ._names import Owner, at_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn


call: Callable[[Any], Any] = getattr(
    operator, "call", operator.methodcaller("__call__")
)  # 3.11 has the former, in C too


class Held(list):  # type: ignore[type-arg]
    """One entry for each acquisition of ``n`` tokens at once that this process has not given back."""

    __slots__ = ("entry", "inherited", "n")

    def __init__(self, entry: Any, n: int, inherited: int = 0) -> None:
        self.n = n
        self.entry = entry
        self.inherited = inherited  # in a child of fork: how many entries its parent had


class Taker:
    """``next(iter(taker), default)`` takes an entry off the list, or returns the default if the list is empty: in C, in one step also without a GIL.

    ``iter(taker)`` is a sequence iterator. It calls ``__getitem__(0)``, which is the list's ``pop``; an IndexError ends it.
    """

    __slots__ = ("__getitem__",)

    def __init__(self, held: Held) -> None:
        self.__getitem__ = held.pop


class _Holding:
    """What this process holds of one set: all its objects on that set share this."""

    def __init__(self, semset: _sysv.Set) -> None:
        self.lists = {1: Held(semset.give(1), 1)}
        self.kept: list[
            _sysv.Set
        ] = []  # of a collected object, while tokens are held: keeps this process a user

    def held(self, n: int, semset: _sysv.Set) -> Held:
        return self.lists.setdefault(n, Held(semset.give(n), n))

    def tokens(self) -> int:
        with _lock:  # regroup() removes entries for a moment
            # In C, so that no other thread moves a token meanwhile.
            return sum(map(operator.mul, self.lists, map(len, self.lists.values())))

    def regroup(self, wanted: Held) -> bool:
        """Make one entry of ``wanted`` from others of as many tokens, or more. Return False if not so many are held.

        Another thread may take an entry that it needs, and leave others: then it makes none, and returns True.
        """
        with _lock:
            ones = self.lists[1]
            moved: list[
                tuple[int, Any]
            ] = []  # entries, and how many tokens each is; extended in C, so that no signal loses one
            try:
                # No while statement: its jump back looks at signals, and CPython 3.12 and 3.13 leave the jump out of the try block.
                for held in sorted(self.lists.values(), key=attrgetter("n")):
                    missing = wanted.n - sum(n for n, _ in moved)
                    moved.extend(
                        zip(
                            repeat(held.n),
                            map(list.pop, repeat(held, min(len(held), -(-missing // held.n)))),
                        )
                    )
                got = sum(n for n, _ in moved)
            except (
                BaseException
            ) as error:  # a signal's; or IndexError, if another thread took the last entry
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
        self.lists = {n: Held(held.entry, n, held.inherited + len(held)) for n, held in old.items()}
        for held in old.values():
            held.clear()
        self.kept.clear()

    def end(self, semset: _sysv.Set) -> list[_sysv.Set]:
        """A use of the set ends: return the uses to leave now. One stays as long as tokens are held, so that no other process begins anew."""
        # First: at any later step a signal handler may take a token, and keep a use of its own.
        leaving, self.kept = [*self.kept, semset], []
        if self.tokens() and not self._is_gone(semset):
            self.kept.append(leaving.pop())
            _kept[semset.id] = self
        elif not self.kept:
            _kept.pop(semset.id, None)
        return leaving

    @staticmethod
    def _is_gone(semset: _sysv.Set) -> bool:
        try:
            return semset.is_gone()
        except PermissionError:  # this process has lost its rights to the set
            return False


# By the sets' ids, which the kernel does not use again soon.
_holdings: weakref.WeakValueDictionary[int, _Holding] = weakref.WeakValueDictionary()
_kept: dict[int, _Holding] = {}
_lock = new_lock()  # for what takes several steps: regroup, end, and making a _Holding
_ended: list[tuple[_Holding, _sysv.Set]] = []  # uses whose finalizer has run


def leave_ended() -> None:
    # Never waits: the collector may call this in a thread that has another library's lock, for which a thread that has ours may wait.
    lock = _lock  # a signal handler may fork, and the child have another
    while _ended:
        for locked in map(lock.acquire, (False,)):  # "for" as in _base: no signal leaves it locked
            break
        if not locked:
            return  # the next opening or closing calls this again
        try:
            holding, semset = _ended.pop()
        except IndexError:  # the collector, a signal handler or another thread was faster
            return
        else:
            for one in holding.end(semset):
                one.leave()
        finally:
            lock.release()


class _User:
    """Counts this process as a user of the set until garbage-collected."""

    def __init__(self, semset: _sysv.Set) -> None:
        self.set = semset
        with _lock:
            self.holding = _holdings.get(semset.id) or _holdings.setdefault(
                semset.id, _Holding(semset)
            )
        leave_ended()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # A signal's exception here leaves this process a user until it ends.
        if hasattr(self, "holding") and not is_finalizing():
            _ended.append((self.holding, self.set))
            leave_ended()


_users: set[_User] = set()


class Opening:
    """An open set. Its object has it, its calls in flight, and what ends a with statement.

    ``_users`` hides the user from the collector until this object's finalizer has run: see ``_libc._Pointer``.
    """

    __slots__ = ("_forget", "owner", "user")

    def __init__(self, semset: _sysv.Set) -> None:
        self.user = _User(semset)
        self._forget = _users.discard
        self.owner: Owner | None = None
        _users.add(self.user)
        if (
            not semset.is_joined()
        ):  # since it was opened, a signal handler has forked, and this is the child
            semset.rejoin()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if (
            hasattr(self, "_forget") and not is_finalizing()
        ):  # else other finalizers of this collection may use it, and _leave_last follows
            self._forget(self.user)


def _leave_all() -> None:
    """Leave the sets; the last user removes a set. If a token is held, the kernel gives it back and lowers the count of users, and the next process
    that opens the name removes the set.
    """
    kept = [(holding, semset) for holding in list(_kept.values()) for semset in holding.kept]
    for holding, semset in [*((user.holding, user.set) for user in list(_users)), *_ended, *kept]:
        if not holding.tokens():
            semset.leave()


def _leave_last(phase: str, _: object) -> None:
    """At the interpreter's last collection: leave after the finalizers."""
    global _lock
    if sys.is_finalizing():
        if phase == "start":
            _lock = (
                new_lock()
            )  # no other thread runs any more, but a daemon thread may have been frozen with it
        else:
            _leave_all()
            for sem in list(renewed.values()):
                sem._end()


def _leave_late() -> None:
    """At exit: leave when nothing can use the semaphores any more."""
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        if hasattr(gc, "callbacks"):
            # Other atexit functions may follow, and daemon threads run on. After them the interpreter collects garbage once more. (Not after
            # gc.disable(): then the sets stay without users, and count as not there.)
            gc.callbacks.append(_leave_last)
        else:  # PyPy
            _leave_all()
    elif (
        process.threading.active_count() == 1
    ):  # a child of multiprocessing calls os._exit next; but a thread may still use them
        _leave_all()


class Giver:
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
        raise ValueError(
            f"semaphore {self.set.name!r}: cannot release {n}: this process holds {self.holding.tokens()}"
        ) from None


class Ended(dict):  # type: ignore[type-arg]
    """What the end of a with statement returns, by semop's status: {0: None}, in C. For -1 it calls Python code."""

    def __init__(self, giver: Giver) -> None:
        super().__init__({0: None})
        self.giver = giver

    def __missing__(self, status: int) -> None:
        giver = self.giver
        held = giver.held
        if held is not giver.holding.lists.get(
            held.n
        ):  # the with statement began before a fork, in the parent
            return
        if held.inherited and not giver.holding.tokens():
            # It began before the fork, too, but an ExitStack or async with statement looked __exit__ up in the child.
            held.inherited -= 1
        else:
            try:
                is_gone = giver.set.is_gone(change=True)
            except OSError:  # this process has lost its rights to the set
                held += (held.entry,)
                raise
            if not is_gone:  # there was no entry: another thread's release(n) used it
                giver.give()


# --- Forks --------------------------------------------------------------------------------------------------------------------------------

renewed: weakref.WeakValueDictionary[int, Any] = (
    weakref.WeakValueDictionary()
)  # open objects: a child of fork calls _renew()

# What each thread that forks needs meanwhile. No lock is held: a hook of another library may wait for one.
_pipes: dict[int, list[int]] = {}  # the ends that are open
_steps: dict[int, tuple[Callable[[], Any], ...]] = {}  # by which the parent awaits its child
_POLLIN = 1
_Mask = ctypes.c_char * 128  # a sigset_t has at most so many bytes
_masks: dict[int, Any] = {}  # of signals that were blocked before


class _pollfd(ctypes.Structure):
    _fields_ = [("fd", c_int), ("events", c_short), ("revents", c_short)]


def _open_pipe(pipe: Any, poll: Any, close: Any) -> None:
    """Before a fork. The parent waits until its child is a user: if the parent left before, as the last user, it would remove the set."""
    if _users:
        ident = _thread.get_ident()
        ends = _pipes.setdefault(ident, [])
        if (
            not ends
        ):  # else the exception of a signal handler ended this function in an earlier fork
            both = (c_int * 2)()
            for failed in map(pipe, (both,), (os.O_CLOEXEC,)):  # type: ignore[attr-defined,unused-ignore]  # "for" as in _base
                break
            if failed:  # no descriptors are left: the parent will not wait
                return
            ends += both
        close_last = map(close, starmap(ends.pop, repeat(()))).__next__
        # Until the child closes its end, or dies. It may also be stopped, or busy with hooks of others: at most 1000 milliseconds.
        _steps[ident] = (
            close_last,
            partial(poll, ctypes.byref(_pollfd(ends[0], _POLLIN)), 1, 1000),
            close_last,
        )


def _begin_child() -> None:
    """A child of fork holds nothing, and is a user of its own."""
    global _lock
    _lock = new_lock()  # a thread that the child does not have may have had it
    _ended.clear()
    for holding in list(_holdings.values()):
        holding.forget()
    _kept.clear()
    for sem in list(renewed.values()):
        sem._renew()
    for user in list(_users):
        try:
            user.set.rejoin()
        except OSError:  # removed, and every use says so; or the kernel has no memory for an undo, and this child is no user
            pass
    for ends in _pipes.values():
        for end in ends:
            os.close(end)
    _pipes.clear()
    _steps.clear()


def _register() -> None:
    # "before" functions are called in the reverse order: block signals, open the pipe. Then the child begins, the parent waits for it, and both
    # restore their signals. A signal handler that raised in between would leave out the rest of a function, and its exception would be lost. So all
    # signals are blocked; not by signal.pthread_sigmask, which runs the handlers of those that wait. Another thread may receive them nevertheless:
    # so the parent waits in C, where no handler runs.
    #
    # PyDLL's calls keep the GIL. os.pipe does not: another thread may fork meanwhile, and its child inherits ends that it does not know of.
    libc: Any = getattr(ctypes, "PyDLL", ctypes.CDLL)(None)
    pipe = libc.pipe2 if hasattr(libc, "pipe2") else libc.pipe  # macOS's pipe ignores the flag
    # int poll(struct pollfd *fds, nfds_t nfds, int timeout);  without the GIL. (select.poll sets errno to 0. Before CPython 3.11.3 the errno of a
    # fork that failed is read only after these hooks.)
    poll = ctypes.CFUNCTYPE(c_int, c_void_p, c_ulong, c_int)(("poll", ctypes.CDLL(None)))
    every = _Mask()
    libc.sigfillset(every)
    thread = starmap(_thread.get_ident, repeat(()))
    own = map(_masks.setdefault, thread, starmap(_Mask, repeat(())))
    block = map(libc.pthread_sigmask, repeat(_signal.SIG_BLOCK), repeat(every), own)
    restore = map(
        libc.pthread_sigmask, repeat(_signal.SIG_SETMASK), map(_masks.pop, thread), repeat(None)
    )
    # Each step of this iterator calls the forking thread's _steps one after another: a deque of at most 0 items uses up the iterator that calls them.
    wait = map(deque, map(map, repeat(call), map(_steps.pop, thread, repeat(()))), repeat(0))
    register: Any = os.register_at_fork  # type: ignore[attr-defined,unused-ignore]
    register(
        before=partial(_open_pipe, pipe, poll, libc.close),
        after_in_child=_begin_child,
        after_in_parent=wait.__next__,
    )
    register(
        before=block.__next__, after_in_child=restore.__next__, after_in_parent=restore.__next__
    )


if hasattr(os, "register_at_fork") and _sysv.is_supported():
    _register()
    at_exit(_leave_late)
