# SPDX-License-Identifier: Apache-2.0
"""RobustSemaphore: the kernel gives a dead holder's tokens back. ``_set`` says how.

This process joins each set once, whatever number of objects it has on it: ``_joined``. Each object
has a handle, and so have its calls in flight and what ends its with statements. The process leaves
the set when the last handle was collected. What it holds is the kernel's knowledge alone.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from _thread import RLock
from collections import namedtuple
from functools import partial
from itertools import repeat, starmap
from operator import attrgetter, not_

from . import _base
from ._base import (
    DEFAULT_MODE,
    FIRST_SLICE,
    ONE,
    RETRY,
    Bound,
    Flags,
    Semaphore,
    check_existence,
    refuse_closed,
    too_late,
)
from ._checks import (
    check_integer,
    check_mode,
    check_name,
    check_wait,
    clock,
    deadline_of,
    without_ctypes,
)
from ._cleanup import Owner, at_exit

try:
    from . import _set
    from ._c import call
except ImportError as error:  # no ctypes; the constructor says so
    _why_not: ImportError | None = error
else:
    _why_not = None

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

    from ._sysv import SysV


# --- Handles --------------------------------------------------------------------------------------


class _Waiter:
    """A list of operations as calls; see ``_base``."""

    slices = (100_000_000, 1_000_000_000, 10_000_000_000, 60_000_000_000)
    first_waits = tries = None  # type: Any

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


class _Calls(_Waiter):
    """The calls that take and give n tokens of a set. All handles share them."""

    def __init__(self, semset: _set.Set, n: int) -> None:
        self.set, self.n = semset, n
        library, account, bias = semset.library, semset.account, semset.library.system.bias
        lists = [
            _set.take(account, n, bias, _set.NOWAIT),
            _set.take(account, n, bias),
            _set.give(account, n),
        ]
        if n > 1:
            notice = library.system.many_operations
            for flags in (_set.NOWAIT, 0):
                lists.append(_set.take_first(account, bias, flags))
                lists.append(_set.take_rest(account, n, bias, notice, flags))
            lists.append(_set.give_up(account))
        self.block = _set.Block(semset, *lists)  # kept, so that a fork finds it
        now, later, give, *several = self.block.arguments
        super().__init__(library, now, later)
        self.give = give
        self.tries = map(not_, starmap(library.semop_now, repeat(now)))
        self.posts = starmap(library.semop_now, repeat(give))
        self.exit = library.semop_exit(_Ended(semset, n).__getitem__)
        if n == 1:
            first: Any = (library.semop, repeat(later))
            if library.semtimedop is not None:
                arguments = (*later, library.timeout(FIRST_SLICE))
                first = (library.semtimedop, repeat(arguments))
            self.first_waits = map(not_, starmap(*first))
        else:
            self.first_waits = self.tries
            self.first = _Waiter(library, several[0], several[2])
            self.rest = _Waiter(library, several[1], several[3])
            self.give_up = starmap(library.semop_now, repeat(several[4]))

    def exit_function(self) -> Any:
        return partial(self.exit, *self.give[:2], 3)

    def post_once(self) -> Iterator[int]:
        return call(self.library.semop, *self.give)


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


class _Handle:
    """One use of a set, for n tokens at a time. The process leaves the set with the last one."""

    __slots__ = ("calls", "first_waits", "posts", "set", "tries")
    is_robust = True

    def __init__(self, semset: _set.Set, n: int) -> None:
        self.set = semset
        semset.handles.add(id(self))
        calls = semset.calls.get(n)
        if calls is None:
            calls = semset.calls[n] = _Calls(semset, n)
        self.calls = calls
        self.tries, self.first_waits, self.posts = calls.tries, calls.first_waits, calls.posts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.calls, name)

    @property
    def leave(self) -> Any:
        """What ends a with statement. It keeps this handle."""
        leave = self.calls.exit_function()
        leave.handle = self  # type: ignore[attr-defined]
        return leave

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_finalizing():  # _leave_all has run
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


def _locked(blocking: bool = True) -> Iterator[bool]:
    """Return an iterator that takes the lock. ``for`` as in ``_base``: no signal leaves it locked."""
    return map(_lock.acquire, (blocking,))


def _leave_unused() -> None:
    # Never waits: the collector may call this in a thread that has another library's lock, for
    # which a thread that has ours may wait. Who has the lock calls this again.
    while _unused:
        lock = _lock
        for has_lock in _locked(False):
            if not has_lock:
                return
            try:
                semset = _unused.pop()
                if not semset.handles and semset.leave() and _joined.get(semset.id) is semset:
                    del _joined[semset.id]
            except IndexError:  # another thread was faster
                pass
            finally:
                lock.release()


def _open(library: SysV, name: str, **options: Any) -> tuple[_Handle, bool]:
    """Return a handle, and whether the semaphore was created."""
    while True:
        opened = _set.open_set(library, name, known=_joined, **options)
        lock = _lock
        for _ in _locked():
            try:
                semset = _joined.setdefault(opened.set.id, opened.set)
                handle = _Handle(semset, 1)
            finally:
                lock.release()
        if semset is not opened.set:
            opened.set.leave()  # another thread has joined it meanwhile
        _leave_unused()
        if not semset.has_left():
            return handle, opened.created


def _begin_child() -> None:
    """In a child of fork: join the sets. The child holds nothing."""
    global _lock
    _lock = RLock()  # a thread that the child does not have may have had it
    for semset in list(_joined.values()):
        semset.join_anew(is_hooked=True)


def _note_fork() -> None:
    if _joined:
        _set.Set.forked_at = clock()


def _leave_all() -> None:
    """At the process's end: leave all sets. What is held stays to the kernel."""
    for semset in list(_joined.values()):
        semset.leave()
        semset.semid.value = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child, after_in_parent=_note_fork)


# --- The class ------------------------------------------------------------------------------------


Holder = namedtuple("Holder", ("pid", "tokens"))
Holder.__doc__ = "A process that holds tokens; see ``RobustSemaphore.holders``."


class RobustSemaphore(Semaphore):
    """A counted limit that processes of this machine share by its name. A dead holder's tokens come
    back.

        with RobustSemaphore("builds", 3):
            ...  # at most three of these at once, in whatever process

    The interface is that of ``threading.BoundedSemaphore``, on a System V semaphore: its names are
    apart from those of NamedSemaphore and other POSIX semaphores.

    A token belongs to the process that took it: any thread of it may release it, and when the
    process ends, by whatever signal, the kernel gives it back at once. A child of fork holds
    nothing; a program executed in the process's place (``os.execvp``) keeps the tokens until it
    ends. Linux serves waiters in the order in which they came; so that signals are noticed, a wait
    begins again behind the others after 10 and 110 ms, and after 1, 11 and every 60 s.

    **Several tokens** are taken all or none. While a process waits for several, it has the first
    of them and the turn: newcomers wait until it has the rest. So nobody starves. Give such a wait
    a timeout, and take in one call what is needed together: a process that holds some tokens and
    waits for more of the same name can wait for ever.

    **The number named last holds**: a process that opens the semaphore with another number resizes
    it, at once and for everybody. Those inside stay; newcomers wait until enough have left. If
    other processes have it open, a RuntimeWarning tells both numbers before the change. Name the
    number in one place, and None elsewhere.

    The name disappears when the last process that has it open closes it or dies. A subprocess that
    was started with ``preexec_fn`` has it open until it ends. After this package's atexit function
    every use is a ValueError, and what the process still holds goes back when it ends.

    Args:
        name: one or more letters, digits, ``-``, ``_`` and ``.``, with or without a ``/`` before.
        initial_value: the number of tokens, 1 to 16,383 (8,191 on FreeBSD). None: what an existing
            semaphore has, else 1.
        handle_existence: what to do if the semaphore exists, or does not; a member of
            ``RobustSemaphore.Flags``.
        unlink_on_delete: None: the name disappears with its last user. False: it exists until
            ``unlink()``, also without users. True: it is unlinked when this object is closed or
            deleted, or the interpreter ends.
        mode: its permission bits if it is created, e.g. 0o660. The umask does not cut them.

    Raises:
        ValueError: a bad argument.
        TypeError: a name that is no str.
        FileExistsError: as ``handle_existence`` says; or another program's semaphore is in its
            place.
        FileNotFoundError: as ``handle_existence`` says.
        PermissionError: it belongs to another user.
        OSError: the system's limit of semaphores is reached (ENOSPC), its memory is full (ENOMEM),
            or the name is too long.
        NotImplementedError: this system has no System V semaphores, its calls would end the
            process (Cygwin, Android), it does not give a dead process's tokens back (gVisor), or
            this Python has no ctypes.
    """

    _library = None  # type: SysV | None  # None: the running system's
    _owner = None  # type: Owner | None
    _set = None  # type: _set.Set  # type: ignore[assignment]

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
        self._start_closed()
        name = check_name(name)
        check_existence(name, handle_existence)
        if _why_not is not None:
            raise without_ctypes(_why_not)
        library = self._library or _set.system()
        most = library.system.bias - 1
        if initial_value is not None:
            initial_value = check_integer(name, "initial_value", initial_value, 1, most)
        mode = check_mode(name, mode)
        self._name = name
        at_exit(_leave_all)
        while True:
            handle, created = _open(
                library,
                name,
                total=initial_value or 1,
                link=handle_existence in (Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS),
                create=handle_existence is not Flags.RAISE_IF_NOT_EXISTS,
                anew=handle_existence is Flags.UNLINK_AND_CREATE,
                mode=mode,
            )
            try:
                if initial_value is not None and not created:
                    self._warn_and_resize(handle.set, initial_value)
                if unlink_on_delete is not None and not unlink_on_delete:
                    handle.set.operate(_set.STAY)
                break
            except FileNotFoundError:  # another process removed it meanwhile
                pass
        self._set = handle.set
        self._linked = not created
        if unlink_on_delete:
            self._owner = Owner(handle.set.remove)
        self._use(handle)
        # In "with RobustSemaphore(name):" only __exit__ lives until the end of the block.
        self._exit.owner = self._owner  # type: ignore[attr-defined]

    def _warn_and_resize(self, semset: _set.Set, total: int) -> None:
        old = semset.total()
        if old != total and semset.users() > 1:
            warnings.warn(
                f"semaphore {self._name!r} has {old} tokens, and other processes have it open: "
                f"now it has {total}",
                RuntimeWarning,
                stacklevel=3,
            )
        semset.resize(total)

    @property
    def value(self) -> int:
        """The number of free tokens now; 0 also while more are taken than ``total``.

        Raises:
            ValueError: the semaphore is closed.
            FileNotFoundError: it was unlinked.
        """
        return max(0, self._shown_value())

    def _shown_value(self) -> int:
        self._open_handle()
        return self._set.free()

    @property
    def total(self) -> int:
        """The number of tokens there are, free and taken."""
        self._open_handle()
        return self._set.total()

    @property
    def waiting(self) -> int:
        """The number of threads, in all processes, that wait for tokens or for the turn.

        One waits for all tasks of a loop at this object.
        """
        self._open_handle()
        return self._set.waiting()

    @property
    def holders(self) -> list[Holder]:
        """The processes that hold tokens, as named tuples ``(pid, tokens)``.

        The kernel tells, so the list is exact also after kills. pid 0 is a process of another PID
        namespace. Processes that share the last account, where the set has no other left, are one
        entry with pid None. After ``os.execv`` a process holds what it held before.
        """
        self._open_handle()
        return [Holder(*holder) for holder in self._set.holders()]

    @property
    def unlink_on_delete(self) -> bool:
        """Whether the name is unlinked with this object."""
        return self._owner is not None

    def acquire(self, blocking: bool = True, timeout: float | None = None, *, n: int = 1) -> bool:
        """Take ``n`` tokens, all or none; wait for them if they are not free.

        Signal handlers run during the wait. If one raises, its exception is raised here, and no
        token is taken; if it returns, the wait goes on.

        Args:
            blocking: False returns at once. It must be a bool: ``acquire(5)`` is a ValueError,
                and not five seconds.
            timeout: the longest wait, in seconds: any number from 0, infinity too; None waits
                without an end. Unlike in ``threading``, a negative one is a ValueError. It runs
                on the monotonic clock, and never ends early.
            n: how many tokens. While this waits for several, newcomers wait.

        Returns:
            True with the tokens, False without any.

        Raises:
            ValueError: a bad argument, or more tokens than there are; the semaphore is closed.
            FileNotFoundError: it was unlinked.
        """
        if n is ONE:
            if timeout is None and blocking is True:  # what follows, without another call
                for taken in self._tries:
                    if taken:
                        return True
                    break
            return super().acquire(blocking, timeout)
        check_wait(self._name, blocking, timeout)
        handle = self._handle_for(self._check_number(n))
        return self._take(handle, timeout if blocking else 0)

    async def acquire_async(self, timeout: float | None = None, *, n: int = 1) -> bool:
        """Take ``n`` tokens as ``acquire`` does, in a task of asyncio: the loop runs meanwhile.

        A cancelled task has no token. See ``NamedSemaphore.acquire_async``.

        Args:
            timeout: the longest wait, in seconds, as for ``acquire``.
            n: how many tokens.

        Returns:
            True with the tokens, False without any.
        """
        check_wait(self._name, True, timeout)
        handle = self._open_handle() if n is ONE else self._handle_for(self._check_number(n))
        return await self._acquire_async(handle, timeout)

    def slot(self, timeout: float | None = None) -> Slot:
        """Return a context manager that holds a token and a number: ``with sem.slot() as k:``.

        The number is the lowest from 0 to ``total - 1`` that nobody has; the kernel gives both
        back when the process ends. Also async. Numbers serve for GPUs, ports, accounts.

        Args:
            timeout: the longest wait, in seconds, as for ``acquire``.

        Raises:
            ValueError: a bad argument, more than 32 tokens in all, or the semaphore is closed.
            TimeoutError: raised on entering, if no token was free in time.
        """
        check_wait(self._name, True, timeout)
        handle = self._open_handle()
        total = self._set.total()
        if total > _set.NUMBERS:
            raise ValueError(
                f"semaphore {self._name!r}: slots have {_set.NUMBERS} numbers, "
                f"and there are {total} tokens"
            )
        return Slot(self, handle, timeout)

    def _handle_for(self, n: int) -> Any:
        handle = self._open_handle()
        return handle if n == 1 else _Handle(self._set, n)

    def _check_number(self, n: object) -> int:
        self._open_handle()
        total = self._set.total()
        return check_integer(self._name, "n", n, 1, total, ", the number of tokens there are")

    def _who_holds(self) -> str:
        try:
            found = self._set.holders()
        except OSError:
            return ""
        return f": {shown_holders(found)}" if found else ""

    def _wait_endless(self, handle: Any = None) -> bool:
        if handle is not None and handle.n > 1:
            return self._wait(None, handle)
        return super()._wait_endless(handle)

    def _wait(self, deadline: int | None, handle: Any) -> bool:
        if handle.n == 1:
            return super()._wait(deadline, handle)
        # Take the first token together with the turn, in the queue like everybody; then the rest,
        # before everybody.
        posts, give_up, first, rest = handle.posts, handle.give_up, handle.first, handle.rest
        took_first: list[int] = []
        took_rest: list[int] = []
        try:
            for call in _base.calls(first, deadline):
                took_first.extend(call)
                if not took_first[0]:
                    break
                error = took_first.pop()
                took_first.clear()
                self._raise_unless_free_later(handle.n, error)
            else:
                return False
            for call in _base.calls(rest, deadline):
                took_rest.extend(call)
                if not took_rest[0]:
                    return True
                error = took_rest.pop()
                took_rest.clear()
                self._raise_unless_free_later(handle.n, error)
            for _ in give_up:
                break
            return False
        except BaseException:  # no call before one that gives back: a second signal may come
            if took_rest and not took_rest[0]:
                for _ in posts:
                    break
            elif took_first and not took_first[0]:
                for _ in give_up:
                    break
            raise

    def _take_for_tasks(self, handle: Any, until: int, is_wanted: Callable[[], bool]) -> bool:
        if handle.n == 1:
            return super()._take_for_tasks(handle, until, is_wanted)
        status, error = handle.first.wait_until(until)
        if status:
            self._raise_unless_free_later(handle.n, error)
            return False
        try:
            while is_wanted():
                status, error = handle.rest.wait_until(clock() + _base.FIRST_SLICE)
                if not status:
                    return True
                self._raise_unless_free_later(handle.n, error)
        except BaseException:
            next(handle.give_up)
            raise
        next(handle.give_up)
        return False

    def _raise_unless_free_later(self, n: int, error: int) -> None:
        self._raise_unless_retry(-1, error)
        if error == errno.EAGAIN:
            self._set.check_total(n)

    def _raise_unless_retry(self, status: int, error: int) -> None:
        if error not in RETRY:
            raise self._set.failure(error)

    def release(self, n: int = 1) -> None:
        """Give ``n`` tokens back, all or none, in one step that no signal interrupts.

        Any thread of the process that took them may. If the semaphore was unlinked meanwhile, there
        is nothing to give back, and this does nothing.

        Args:
            n: how many, in whatever numbers they were taken.

        Raises:
            ValueError: n is no int of at least 1, or more than this process holds (a child of fork
                holds nothing); the semaphore is closed.
        """
        if n is ONE:
            for failed in self._posts:
                if not failed:
                    return
                break
        n = check_integer(self._name, "n", n, 1)
        semset = self._open_handle().set
        held = semset.held() if n >= semset.library.system.bias else semset.give_refused(n)
        if semset.has_left():
            refuse_closed(self._name)
        if held is not None:
            raise ValueError(
                f"semaphore {self._name!r}: cannot release {n}: this process holds {held}"
            )

    def resize(self, total: int) -> None:
        """Let there be ``total`` tokens, for everybody and at once. It never waits.

        If that is fewer, those inside stay, and newcomers wait until enough have left. Who waits
        for more tokens than there are now gets a ValueError.

        Raises:
            ValueError: total is no int from 1 to 16,383; the semaphore is closed.
            FileNotFoundError: it was unlinked.
        """
        semset = self._open_handle().set
        most = semset.library.system.bias - 1
        semset.resize(check_integer(self._name, "total", total, 1, most))

    def unlink(self) -> None:
        """Remove the semaphore. Those who wait for it, or acquire, get FileNotFoundError.

        The end of a with statement does nothing then.

        Raises:
            FileNotFoundError: it was removed.
            PermissionError: it belongs to another user.
            ValueError: this object is closed.
        """
        self._open_handle().set.remove()

    def close(self) -> None:
        """Close the semaphore; the last process that closes it removes it.

        Threads already waiting still get a token. Every other use is a ValueError from now on, but
        a with statement that began before gives its token back. A second call does nothing. This
        process remains a user while it holds tokens.
        """
        handle = self._handle
        if handle is None:
            return
        super().close()
        owner, self._owner = self._owner, None
        try:
            if not handle.set.holds():
                # Nothing is held, so no with statement needs this handle. ExitStack looks __exit__
                # up after __enter__ has returned, so it stays valid.
                self._exit = handle.exit_function()
        except OSError:  # removed, or this process has lost its rights to it
            self._exit = handle.exit_function()
        if owner is not None:
            owner.unlink()

    def _link(self, name: str) -> None:
        RobustSemaphore.__init__(self, name, None, Flags.RAISE_IF_NOT_EXISTS)


# --- Numbered slots -------------------------------------------------------------------------------


class Slot:
    """Holds a token and a number during a with statement. ``RobustSemaphore.slot`` returns it."""

    def __init__(self, sem: RobustSemaphore, handle: Any, timeout: float | None) -> None:
        self._sem, self._handle, self._timeout = sem, handle, timeout
        semset, library = handle.set, handle.set.library
        self._block = _set.Block(semset, _set.take_number(0), _set.give_number(semset.account, 0))
        take, give = self._block.arguments
        self._tries = starmap(library.semop_now, repeat(take))
        ended = _SlotEnded({0: None})
        ended.set, ended.array = semset, self._block.array
        self._exit = partial(library.semop_exit(ended.__getitem__), *give[:2], 4)

    def __enter__(self) -> int:
        posts = self._handle.posts
        self._sem._open_handle()
        if not self._sem._take(self._handle, self._timeout):
            raise too_late(self._sem, 1, self._timeout)
        try:
            return self._take_number()
        except BaseException:  # a signal handler's
            for _ in posts:
                break
            raise

    def _take_number(self) -> int:
        """Take the lowest free number. This process holds a token, so there is one, or will be."""
        array = self._block.array
        while True:
            for number in range(_set.NUMBERS):
                for place in (0, 1, -1):
                    array[place].sem_num = _set.NUMBER + number
                for failed in self._tries:
                    break
                if not failed:
                    return number

    __exit__ = Bound(attrgetter("_exit"), doc="Give token and number back. Swallows no exception.")

    async def __aenter__(self) -> int:
        self._sem._open_handle()
        if not await self._sem._acquire_async(self._handle, self._timeout):
            raise too_late(self._sem, 1, self._timeout)
        return self._take_number()

    async def __aexit__(self, *exception: object) -> None:
        self._exit(*exception)

    def __repr__(self) -> str:
        return f"<Slot of semaphore {self._sem._name!r}>"


class _SlotEnded(dict):  # type: ignore[type-arg]
    """As ``_Ended``, for a token with a number."""

    set: Any
    array: Any

    def __missing__(self, status: int) -> None:
        # Somebody released the token inside the block; or it is a parent's. The number is this
        # process's if it changed it last.
        semset, number = self.set, self.array[-1].sem_num
        try:
            if semset.library.pid(semset.semid, number) == os.getpid():
                semset.operate([(number, -1, _set.UNDO | _set.NOWAIT)])
                semset.give_refused(1)
        except OSError:  # removed
            pass


def shown_holders(found: list[tuple[int | None, int]]) -> str:
    """Return the holders for a sentence: "held by 12, 13 (2 tokens)"."""
    return "held by " + ", ".join(
        ("others" if pid is None else str(pid)) + (f" ({tokens} tokens)" if tokens > 1 else "")
        for pid, tokens in found
    )
