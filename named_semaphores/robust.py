# SPDX-License-Identifier: Apache-2.0
"""Policy: RobustSemaphore. The kernel remembers what each process took, and gives it back when the process ends; ``_sysv`` says how. ``_holding``
knows what this process holds.
"""

from __future__ import annotations

import ctypes
import operator
import sys
from functools import partial
from itertools import repeat, starmap
from operator import itemgetter
from time import monotonic_ns

from . import _sysv
from ._base import (
    DEFAULT_MODE,
    FIRST_SLICE,
    RETRY,
    Flags,
    Semaphore,
    check_existence,
    check_integer,
    check_name,
    check_wait,
    deadline_of,
)
from ._holding import Ended, Giver, Opening, Taker, call, leave_ended, renewed
from ._names import Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable, NoReturn

_ONE = 1  # acquire and release compare by identity, for speed; another object that is 1 takes the longer way
# Before CPython 3.12, calls of C functions count towards the recursion limit, too. So many are made by the end of a with statement, nested. Before
# 3.11 "call" is a methodcaller, which makes two. (PyPy's iter(step, None) is a generator, which threads cannot share.)
_DEPTH = (
    0
    if sys.version_info >= (3, 12) or sys.implementation.name != "cpython"
    else 3
    if sys.version_info >= (3, 11)
    else 2
)
_NO_ENTRY = (0, None, 1)  # semop refuses the null pointer with EFAULT


def _deep(arguments: Iterator[Any]) -> Iterator[Any]:
    """Return an iterator of the same that makes ``_DEPTH`` nested calls before each step.

    So near the recursion limit taking fails before the system call: recording what was taken, and giving it back, need fewer.
    """
    step: Callable[[], Any] = arguments.__next__
    for _ in range(_DEPTH):
        step = partial(call, step)
    return iter(step, None) if _DEPTH else arguments


class _Handle:
    """The calls that take and give ``n`` tokens at once; see ``_libc.Handle``."""

    is_robust = True

    def __init__(self, opening: Opening, n: int) -> None:
        semset, library = opening.user.set, opening.user.set.library
        self.opening = opening
        self.set = semset
        self.n = n
        self.giver = giver = Giver(semset, opening.user.holding, n)
        # What semop returns is looked up, and what is found is called: 0 records an entry, and becomes None; -1 stays -1.
        record = partial(giver.held.append, giver.held.entry)
        record.opening = opening  # type: ignore[attr-defined]
        self._outcomes = {0: record, -1: partial(int, -1)}
        self._take = semset.take(n)
        self.is_steady = library.has_timed_wait  # semtimedop's time is relative
        self.tries = map(
            operator.not_, self._taken(library.semop_now, repeat(semset.try_to_take(n)))
        )
        self.posts = giver.posts
        self.first_waits = map(operator.not_, self._taken(*self._waiting(FIRST_SLICE)))
        entries = map(next, map(iter, repeat(Taker(giver.held))), repeat(_NO_ENTRY))
        self.leave = partial(
            library.semop_leaving(Ended(giver).__getitem__),
            semset.id,
            map(itemgetter(1), entries),
            1,
        )
        self.leave.opening = opening  # type: ignore[attr-defined]

    def _taken(self, function: Any, arguments: Iterator[tuple[Any, ...]]) -> Iterator[int | None]:
        return map(call, map(self._outcomes.__getitem__, starmap(function, _deep(arguments))))

    def _waiting(self, nanoseconds: int) -> tuple[Any, Iterator[tuple[Any, ...]]]:
        library = self.set.library
        if library.semtimedop is None:
            return library.semop, repeat(self._take)
        return library.semtimedop, repeat((*self._take, library.timeout(nanoseconds / 1e9)))

    def _once(self, function: Any, arguments: tuple[Any, ...]) -> Iterator[tuple[int | None, int]]:
        return zip(self._taken(function, iter((arguments,))), iter(ctypes.get_errno, None))

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
        except (
            ValueError,
            OSError,
        ):  # another thread released it, or this process lost its rights to the set
            pass
        return iter(())


class _Robust(Semaphore):
    """What RobustSemaphore and several of its tokens have in common."""

    _set = None  # type: _sysv.Set  # type: ignore[assignment]

    def _use(self, handle: _Handle) -> None:
        super()._use(handle)
        renewed[id(self)] = self  # by id: a subclass may have no hash

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

    def _end(self) -> None:
        """After the interpreter's last collection: this process is no user any more, and must take nothing."""
        handle: _Handle | None = self._handle
        if handle is not None and not handle.opening.user.holding.tokens():
            super().close()

    def _raise_unless_retry(self, status: int, error: int) -> None:
        if error not in RETRY:
            raise self._set.failure(error)

    def close(self) -> None:
        if self._handle is not None:
            super().close()
            leave: Any = self._exit
            opening = getattr(
                leave, "opening", None
            )  # None: another thread, or a signal handler, closed it at the same time
            if opening is not None and not opening.user.holding.tokens():
                # Nothing is held: this process is no user any more. ExitStack looks __exit__ up after __enter__ has returned, so it stays valid.
                self._exit = partial(leave.func, *leave.args)
            leave_ended()


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
    is a user until it ends. At the interpreter's end, a finalizer that runs when modules are cleared finds the semaphore closed (ValueError).

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
        opening = Opening(self._set)
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
        """The number of threads, in all processes, that wait for tokens now. One waits for all tasks of a loop at this object."""
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
        return self._set.resize(
            total, None if timeout is None or deadline is None else float(timeout)
        )

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
