# SPDX-License-Identifier: Apache-2.0
"""RobustSemaphore's handles, and the sets that this process has joined.

This process joins each set once, whatever number of objects it has on it. Each object has a handle,
and so have its calls in flight and what ends its with statements. The process leaves the set when
the last handle was collected. What it holds is the kernel's knowledge alone.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock
from functools import partial
from itertools import repeat, starmap
from operator import not_
from weakref import WeakValueDictionary

from . import _set
from ._c import call
from ._checks import clock
from ._cleanup import at_exit
from ._opening import open_set
from ._sysv import NOWAIT
from ._waiting import FIRST_SLICE

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

    from ._sysv import SysV


class _Waiter:
    """A list of operations as calls; see ``_base``."""

    __slots__ = ("later", "library", "now")
    slices = (100_000_000, 1_000_000_000, 10_000_000_000, 60_000_000_000)
    first_waits: Any = None
    tries: Any = None

    def __init__(self, library: SysV, now: Any, later: Any) -> None:
        self.library, self.now, self.later = library, now, later

    @property
    def is_steady(self) -> bool:
        return self.library.semtimedop is not None  # its time is relative

    def try_once(self) -> Iterator[int]:
        return call(self.library.semop, *self.now)

    def wait(self, nanoseconds: int) -> Iterator[int]:
        if self.library.semtimedop is None:
            return call(self.library.semop, *self.later)
        return call(self.library.semtimedop, *self.later, self.library.timeout(nanoseconds))

    def wait_until(self, deadline: int) -> Iterator[int]:
        return self.wait(deadline - clock())


class _Poller(_Waiter):
    """For the rest of several tokens, where nothing ends a wait that is resized below n."""

    __slots__ = ()

    def wait(self, nanoseconds: int) -> Iterator[int]:
        self.library.sleep(0.001)
        return self.try_once()


class _Calls:
    """The calls that take and give n tokens of a set. All handles share them."""

    __slots__ = (
        "__weakref__", "block", "exit", "first", "first_waits", "give", "give_up", "n", "posts", "rest",
        "tries", "waiter",
    )  # fmt: skip

    def __init__(self, semset: _set.Set, n: int) -> None:
        self.n = n
        library, account, bias = semset.library, semset.account, semset.library.system.bias
        lists = [_set.take(account, n, bias, flags) for flags in (NOWAIT, 0)]
        lists.append(_set.give(account, n))
        if n > 1:
            notice = library.system.many_operations
            for flags in (NOWAIT, 0):
                lists.append(_set.take_first(account, bias, flags))
                lists.append(_set.take_rest(account, n, bias, notice, flags))
            lists.append(_set.give_up(account))
        self.block = _set.Block(semset, *lists)  # kept, so that a child of fork finds it
        now, later, self.give, *several = self.block.arguments
        self.waiter = _Waiter(library, now, later)
        self.tries = map(not_, starmap(library.semop_now, repeat(now)))
        self.posts = starmap(library.semop_now, repeat(self.give))
        self.exit = library.semop_exit(_Ended(semset, n).__getitem__)
        self.first_waits = self.tries
        if n > 1:
            self.first = _Waiter(library, several[0], several[2])
            rest = _Waiter if notice or library.semtimedop else _Poller
            self.rest = rest(library, several[1], several[3])
            self.give_up = starmap(library.semop_now, repeat(several[4]))
        elif library.semtimedop is None:
            self.first_waits = map(not_, starmap(library.semop, repeat(later)))
        else:
            within = (*later, library.timeout(FIRST_SLICE))
            self.first_waits = map(not_, starmap(library.semtimedop, repeat(within)))


class _Ended(dict):  # type: ignore[type-arg]
    """What the end of a with statement returns, by semop's status: {0: None}, in C.

    For -1, which is refused, it calls Python code.
    """

    def __init__(self, semset: _set.Set, n: int) -> None:
        super().__init__({0: None})
        self.set, self.n = semset, n

    def __missing__(self, status: int) -> None:
        # Somebody released inside the block: then what is left goes back. A child of fork that
        # leaves its parent's block holds nothing.
        held = self.set.give_refused(self.n)
        if held:
            self.set.give_refused(held)


# By the id of the set, which the calls keep alive, and n.
_calls: WeakValueDictionary[tuple[int, int], _Calls] = WeakValueDictionary()


class Handle:
    """One use of a set, for n tokens at a time. The process leaves the set with the last one.

    See ``_base`` for the attributes.
    """

    __slots__ = ("calls", "first_waits", "posts", "set", "tries")
    is_robust = True
    slices = _Waiter.slices

    def __init__(self, semset: _set.Set, n: int) -> None:
        self.set = semset
        semset.handles.add(id(self))
        calls = _calls.get((id(semset), n))
        if calls is None:
            calls = _calls[id(semset), n] = _Calls(semset, n)
        self.calls = calls
        self.tries, self.first_waits, self.posts = calls.tries, calls.first_waits, calls.posts

    @property
    def n(self) -> int:
        return self.calls.n

    @property
    def is_steady(self) -> bool:
        return self.calls.waiter.is_steady

    def try_once(self) -> Iterator[int]:
        return self.calls.waiter.try_once()

    def wait(self, nanoseconds: int) -> Iterator[int]:
        return self.calls.waiter.wait(nanoseconds)

    def wait_until(self, deadline: int) -> Iterator[int]:
        return self.calls.waiter.wait_until(deadline)

    def post_once(self) -> Iterator[int]:
        return call(self.set.library.semop, *self.calls.give)

    @property
    def leave(self) -> Any:
        """What ends a with statement. It keeps this handle."""
        leave = self.leave_only()
        leave.handle = self
        return leave

    def leave_only(self) -> Any:
        """The same, without this handle."""
        return partial(self.calls.exit, *self.calls.give[:2], 3)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing() or not hasattr(self, "set"):  # leave_all has run, or __init__ failed
            return
        semset = self.set
        semset.handles.discard(id(self))
        if not semset.handles:
            _unused.append(semset)
            _leave_unused()


# --- The sets of this process ---------------------------------------------------------------------

_joined: dict[int, _set.Set] = {}  # by id
_unused: list[_set.Set] = []  # their last handle was collected; they may have a new one
_lock = RLock()  # to find a set and to leave one


def _locked(lock: Any, blocking: bool = True) -> Iterator[bool]:
    """Return an iterator that takes the lock. As in ``_base``, no signal leaves it locked."""
    return map(lock.acquire, (blocking,))


def _leave_unused() -> None:
    # Never waits: the collector may call this in a thread that has another library's lock, for
    # which a thread that has ours may wait. Who has the lock calls this again.
    holding = []  # asked again next time: a generator that is collected may still be inside
    while _unused:
        lock = _lock  # a signal handler may fork, and the child have another
        for has_lock in _locked(lock, False):
            if not has_lock:
                break
            try:
                semset = _unused.pop()
                if semset.handles:
                    pass
                elif not semset.leave():
                    holding.append(semset)
                elif _joined.get(semset.id) is semset:
                    del _joined[semset.id]
            except IndexError:  # another thread was faster
                pass
            finally:
                lock.release()
        if not has_lock:
            break
    _unused.extend(holding)


def open_handle(library: SysV, name: str, **options: Any) -> tuple[Handle, bool]:
    """Return a handle, and whether the semaphore was created."""
    while True:
        found, created = open_set(library, name, known=_joined, **options)
        lock = _lock
        for _ in _locked(lock):
            try:
                semset = _joined.get(found.id, found)
                if semset.has_left():  # its objects are closed
                    semset = found
                _joined[found.id] = semset
                handle = Handle(semset, 1)
            finally:
                lock.release()
        if semset is not found:
            found.leave()  # another thread has joined it meanwhile
        _leave_unused()
        if not semset.has_left():
            return handle, created


def _begin_child() -> None:
    """In a child of fork: join the sets. The child holds nothing."""
    global _lock
    _lock = RLock()  # a thread that the child does not have may have had it
    for semset in list(_joined.values()):
        semset.join_anew(is_hooked=True)
    _set.move_blocks()


def _note_fork() -> None:
    if _joined:
        _set.Set.forked_at = clock()


def leave_all() -> None:
    """At the process's end: leave all sets. What is held stays to the kernel."""
    for semset in list(_joined.values()):
        semset.leave()
        semset.semid.value = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child, after_in_parent=_note_fork)
    at_exit(leave_all)
