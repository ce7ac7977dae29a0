# SPDX-License-Identifier: Apache-2.0
"""RobustSemaphore's handles, and the sets that this process has joined.

This process joins each set once: it is one user, whatever number of objects it has on the set. Each
object keeps a handle; so do its calls in flight, and what ends its with statements. What a process
holds is recorded in the kernel alone.

- When the last handle is collected, the process leaves the set, and the last user removes it. A
  process that holds tokens stays a user; it is asked again whenever it opens or closes a semaphore.
- A child of fork joins the sets anew. It holds nothing.
- At exit the process leaves all sets. What it still holds, the kernel puts back.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock
from itertools import repeat, starmap
from operator import not_
from weakref import WeakValueDictionary, ref

from . import _set
from ._base import ending
from ._cleanup import at_exit
from ._common import FIRST_SLICE, TYPE_CHECKING, clock
from ._libc import call
from ._sets import open_set
from ._sysv import NOWAIT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

    from ._sysv import SysV


class Waiter:
    """A transition that does not wait, and one that does, as calls; see ``_base``."""

    __slots__ = ("is_steady", "later", "library", "now")
    # A waiter that begins a new slice stands behind the others again, so slices grow.
    slices = (FIRST_SLICE, 100_000_000, 1_000_000_000, 10_000_000_000, 60_000_000_000)

    def __init__(self, library: SysV, now: Any, later: Any) -> None:
        self.library, self.now, self.later = library, now, later
        self.is_steady = library.semtimedop is not None  # its time is relative

    def try_once(self) -> Iterator[int]:
        return call(self.library.semop, *self.now)

    def wait(self, nanoseconds: int) -> Iterator[int]:
        if self.library.semtimedop is None:
            return call(self.library.semop, *self.later)
        return call(self.library.semtimedop, *self.later, self.library.timeout(nanoseconds))


class Calls:
    """The calls that take and give n tokens of a set. All handles share them."""

    def __init__(self, semset: _set.Set, n: int) -> None:
        library, account, bias = semset.library, semset.account, semset.library.bias
        give = _set.give(account, n)
        transitions = [_set.take(account, n, bias, flags) for flags in (NOWAIT, 0)] + [give]
        if n > 1:
            notice = library.operations > 5
            for flags in (NOWAIT, 0):
                transitions.append(_set.take_first(account, bias, flags))
                transitions.append(_set.take_rest(account, n, bias, notice, flags))
            transitions.append(_set.give_up(account))
        _, arguments = semset.prepare(*transitions)  # in the same order:
        self.now, self.later, given, *several = arguments
        self.tries = map(not_, starmap(library.semop_now, repeat(self.now)))
        self.posts = starmap(library.semop_now, repeat(given))
        # ctypes calls the last argument with semop's status.
        ended = Ended(semset.give_what_is_left, n)
        self.exit = library.end_of_with(given, len(give), ended.__getitem__)
        self.first_waits = self.tries
        if several:  # waits for the first one, and then for the rest: see _several
            first_now, rest_now, first_later, rest_later, give_up = several
            self.first = Waiter(library, first_now, first_later)
            self.rest = Waiter(library, rest_now, rest_later)
            self.give_up = starmap(library.semop_now, repeat(give_up))
        elif library.semtimedop is not None:
            within = (*self.later, library.first_slice)
            self.first_waits = map(not_, starmap(library.semtimedop, repeat(within)))


class Ended(dict):  # type: ignore[type-arg]
    """What the end of a with statement returns: None for semop's status 0, without Python code.

    If the system refuses to give the tokens back, ``refused`` is called with its argument.
    """

    __slots__ = ("argument", "refused")

    def __init__(self, refused: Callable[[Any], object], argument: object) -> None:
        super().__init__({0: None})
        self.refused, self.argument = refused, argument

    def __missing__(self, status: int) -> None:
        self.refused(self.argument)


# By the id of the set, which the calls keep alive, and n.
_calls: WeakValueDictionary[tuple[int, int], Calls] = WeakValueDictionary()


class Handle(Waiter):
    """One use of a set, for n tokens at a time. The process leaves the set with the last one."""

    __slots__ = ("__weakref__", "calls", "first_waits", "n", "other", "posts", "set", "tries")
    is_robust = True

    def __init__(self, semset: _set.Set, n: int) -> None:
        # The callback is C code: the reference is removed with this handle even if a signal
        # handler's exception ends __del__ before its first line. The reference has no name: a
        # traceback would keep one that is not in the set yet, so without a hash, and discard fails.
        semset.handles.add(ref(self, semset.handles.discard))
        self.set, self.n = semset, n
        calls = _calls.get((id(semset), n))
        if calls is None:
            calls = _calls[id(semset), n] = Calls(semset, n)
        super().__init__(semset.library, calls.now, calls.later)
        self.calls = calls
        self.other: Handle | None = None  # for another n, the last one; see RobustSemaphore
        self.tries, self.first_waits, self.posts = calls.tries, calls.first_waits, calls.posts

    @property
    def exit(self) -> Any:
        """What ends a with statement. It keeps this handle; ``calls.exit`` is the same without."""
        return ending(self.calls.exit, self)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing() or not hasattr(self, "set"):  # leave_all has run, or __init__ failed
            return
        semset = self.set
        semset.handles.discard(ref(self))
        if not semset.has_handles():
            _unused.append(semset)
            _leave_unused()


# --- The sets of this process ---------------------------------------------------------------------

_joined: dict[int, _set.Set] = {}  # by id
_unused: list[_set.Set] = []  # their last handle was collected; they may have a new one
_lock = RLock()  # to find a set in _joined, and to leave one; a child of fork has another


def _leave_unused() -> None:
    """Leave the sets that have no handle, or let the thread do it that has the lock.

    Never waits: the collector may call this in a thread that has another library's lock, for which
    a thread that has ours may wait.
    """
    held = []  # by a with statement of a generator that is being collected, for example
    has_lock = True
    while _unused and has_lock:
        lock = _lock  # a signal handler may fork meanwhile
        # As in _base, no signal leaves the lock taken: "with" has a gap in CPython 3.14.
        for has_lock in map(lock.acquire, (False,)):
            if not has_lock:
                break
            try:
                semset = _unused.pop()
                if semset.has_handles():  # it was opened again
                    continue
                if not semset.leave():
                    held.append(semset)
                elif _joined.get(semset.id) is semset:
                    del _joined[semset.id]
            except IndexError:  # another thread, or the collector in this one, was faster
                pass
            finally:
                lock.release()
    _unused.extend(held)


def open_handle(library: SysV, name: str, **options: Any) -> tuple[Handle, bool]:
    """Join the set of this name, unless this process has; ``options`` are those of ``open_set``.

    Return a handle for one token at a time, and whether the semaphore was created.
    """
    while True:
        found, created = open_set(library, name, known=_joined, **options)
        lock = _lock
        for _ in map(lock.acquire, (True,)):  # see _leave_unused
            try:
                semset = _joined.get(found.id, found)
                if not semset.is_usable():  # another thread has closed the last handle since
                    semset = found
                _joined[found.id] = semset
                # C code, or a signal handler that came before the last line, may have forked.
                if semset.pid != os.getpid():
                    semset.join_anew()
                handle = Handle(semset, 1)
            finally:
                lock.release()
        if semset is not found:  # another thread, or a signal handler, has joined it meanwhile
            found.leave()
        _leave_unused()
        if semset.is_usable():  # the last other handle may have been closed since open_set
            return handle, created


def _begin_child() -> None:
    """In a child of fork: join the sets. The child holds nothing."""
    global _lock
    _lock = RLock()  # a thread that the child does not have may have had it
    for semset in list(_joined.values()):
        if semset.has_handles():  # else another thread was leaving it, or the parent holds tokens
            semset.join_anew()
            semset.inherited = None
        else:
            semset.semid.value = _set.LOST


def _note_fork() -> None:
    if _joined:
        _set.Set.forked_at = clock()


def leave_all() -> None:
    """At the process's end: leave all sets. What is held stays to the kernel."""
    for semset in list(_joined.values()):
        semset.leave()
        semset.semid.value = _set.LEFT


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child, after_in_parent=_note_fork)
    at_exit.append(leave_all)
