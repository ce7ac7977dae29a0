# SPDX-License-Identifier: Apache-2.0
"""What all semaphores of this package share. A subclass opens a handle; Semaphore uses it.

A signal must not cost a token. CPython runs signal handlers inside most calls, after the C
function has returned and before its result is stored: ``taken = try_acquire()`` loses the token
when the handler raises. A for statement calls and stores in one instruction, which does not look
at signals: ``for taken in tries: break`` (CPython 3.11 and later). Make no call between such a
for statement and ``return``.

A handle has these attributes. Each step of an iterator makes one C call.

- tries: endless; takes a token if one is free. True or False.
- first_waits: endless; the same, and may wait for FIRST_SLICE. It is ``tries`` if there is none.
- posts: endless; puts a token back. 0 or None; -1 or ValueError if the system refuses.
- exit: a C function that puts a token back, and ignores the three arguments of ``__exit__``.
- is_steady: whether ``wait`` ends in time, whatever steps the wall clock makes.
- is_robust: whether the kernel puts tokens back when the process ends.
- slices: how long later waits are, in nanoseconds; the last one repeats.
- try_once(), wait(nanoseconds): an iterator that takes a token, or tries to, and gives the status,
  0 for success, then errno.
"""

from __future__ import annotations

import enum
import errno
from _operator import attrgetter  # operator and functools would import half as much as ctypes
from itertools import repeat

from ._common import TYPE_CHECKING, check_integer, check_wait, deadline_of, patched_sleep, waits

try:
    from _functools import partial  # type: ignore[import-not-found,unused-ignore]
except ImportError:  # PyPy until 3.9
    from functools import partial

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable, NoReturn, TypeVar

    from ._cleanup import Owner

    Self = TypeVar("Self", bound="Semaphore")

# errno of a call that got no token: none was free, a signal came, or time was over.
RETRY = (errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT)

# Compared by identity, for speed; another object of the same value takes the longer way.
ONE, DEFAULT_MODE = 1, 0o600

_async: Any = None  # the module, once it is needed: the package does not import asyncio


class Bound(property):
    """A special method that is a separate C function for each instance.

    A Python ``__exit__`` can be interrupted before its first statement, and its token is then
    never put back. The with statement looks ``__exit__`` up for the instance, and gets the C
    function. contextlib.ExitStack looks it up on the class, and calls this with the instance.
    """

    def __init__(self, fget: Callable[[Any], Any], doc: str) -> None:
        super().__init__(fget)
        self.__doc__ = doc  # property's own would be hidden by this class's, before 3.12

    def __call__(self, instance: Any, *arguments: Any) -> Any:
        return self.fget(instance)(*arguments)  # type: ignore[misc]


def ending(end_of_with: Callable[..., None], *kept: object) -> Any:
    """Return a C function that ends a with statement, and keeps these objects alive until then.

    ``with NamedSemaphore(name):`` and ``with sem.hold():`` keep nothing else.
    """
    end = partial(end_of_with)
    end.kept = kept
    return end


def refuse_closed(name: str | None, *_: object) -> NoReturn:
    raise ValueError(f"semaphore {name!r} is closed")


class Semaphore:
    """The interface of ``threading.Semaphore`` on a handle."""

    class Flags(enum.Enum):
        """What to do if a semaphore of the name exists, and if there is none.

        RAISE_IF_EXISTS: create it; FileExistsError if there is one.
        LINK_OR_CREATE (the default): link to it, or create it if there is none.
        RAISE_IF_NOT_EXISTS: link to it; FileNotFoundError if there is none.
        UNLINK_AND_CREATE: create it, and unlink an existing one first. Users of an unlinked
        NamedSemaphore keep it; users of an unlinked RobustSemaphore get FileNotFoundError.
        """

        RAISE_IF_EXISTS = 0
        LINK_OR_CREATE = 1
        RAISE_IF_NOT_EXISTS = 2
        UNLINK_AND_CREATE = 3

    # For an object whose constructor did not run, so that close() and repr() work. Its class must
    # not have _tries, _posts and _exit: CPython would find the object's more slowly. The types are
    # comments, because help() would show annotations.
    _name = None  # type: str | None
    _handle = None  # type: Any
    _owner = None  # type: Owner | None
    _linked = False

    def _use(self, handle: Any, owner: Owner | None = None) -> None:
        # Always all attributes: CPython leaves no room for those that the first thirty objects of a
        # class did not have, and then gives each object a dict of its own.
        self._tries: Iterator[Any] = handle.tries
        self._posts: Iterator[Any] = handle.posts
        self._exit: Any = ending(handle.exit, owner) if owner else handle.exit
        self._handle, self._owner = handle, owner

    @property
    def name(self) -> str:
        """The name, with its leading slash."""
        return self._name or ""

    @property
    def linked_existing_semaphore(self) -> bool:
        """Whether this object opened an existing semaphore, and did not create it."""
        return self._linked

    @property
    def unlink_on_delete(self) -> bool:
        """Whether the name is unlinked when this object is closed or deleted."""
        return self._owner is not None

    @property
    def closed(self) -> bool:
        """Whether this object is closed."""
        return self._handle is None

    @property
    def value(self) -> int:
        raise NotImplementedError

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a token; wait for one if none is free.

        Signal handlers run during the wait. If one raises, no token is taken; if it returns, the
        wait goes on.

        Args:
            blocking: False returns at once. ``acquire(5)`` is a ValueError, not five seconds.
            timeout: the longest wait, in seconds: any number from 0, infinity too; None waits
                without an end. The wait never ends early.

        Returns:
            True with a token, False without one.

        Raises:
            ValueError: a bad argument, or this object is closed; no token is taken.
        """
        if timeout is None:
            if blocking is not True and blocking is not False:
                check_wait(self._name, blocking, timeout)
        else:
            try:  # numpy's arrays are compared item by item: the result is no bool
                is_usual = (timeout >= 0) is True and blocking is True
            except (TypeError, ArithmeticError):  # no number, or a Decimal's NaN
                is_usual = False
            if not is_usual:
                check_wait(self._name, blocking, timeout)
        for taken in self._tries:
            if taken:
                return True
            break
        return self._wait_for(timeout if blocking else 0, self._open_handle())

    def __enter__(self: Self) -> Self:
        """Take a token as ``acquire()`` does, and return this semaphore.

        The end of the with statement puts the token back. Neither step calls ``acquire`` or
        ``release``, even if a subclass overrides them.
        """
        for taken in self._tries:
            if taken:
                return self
            break
        self._wait_for(None, self._open_handle())
        return self

    __exit__ = Bound(attrgetter("_exit"), "Put the token back. Never swallows an exception.")

    def hold(self, n: int = 1, *, timeout: float | None = None) -> Hold:
        """Return a context manager that holds tokens: ``with sem.hold(timeout=5):``, also async.

        ``as`` gives this semaphore. The context manager can be used again, and by several threads.

        Args:
            n: how many tokens. RobustSemaphore takes them all at once; elsewhere n must be 1.
            timeout: the longest wait, in seconds, as for ``acquire``.

        Raises:
            ValueError: a bad argument, or this object is closed.
            TimeoutError: raised on entering, if the tokens were not free in time.
        """
        if n is not ONE:
            n = self._check_number(n)
        check_wait(self._name, True, timeout)
        return Hold(self, n, timeout)

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """Take a token as ``acquire`` does, in a task of asyncio: the loop runs during the wait.

        Tasks of one loop that wait for one object get tokens in their order. A cancelled task has
        no token. A signal handler that raises may cost one, here and in ``async with``: use
        ``loop.add_signal_handler``.

        A thread waits for the tasks, and may wait for up to a second after they have given up.
        Meanwhile ``waiting`` counts it, and a released token is free some milliseconds later.

        Args:
            timeout: the longest wait, in seconds, as for ``acquire``.

        Returns:
            True with a token, False without one.

        Raises:
            ValueError: a bad timeout, or this object is closed.
            RuntimeError: this is no task of asyncio.
        """
        check_wait(self._name, True, timeout)
        return await self._acquire_async(self._open_handle(), timeout)

    async def _acquire_async(self, handle: Any, timeout: float | None) -> bool:
        global _async
        if _async is None:
            from . import _async
        taken: bool = await _async.acquire(self, handle, deadline_of(timeout))
        return taken

    async def __aenter__(self: Self) -> Self:
        """Take a token as ``acquire_async()`` does, and return this semaphore."""
        await self.acquire_async()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Put the token back. Never swallows an exception."""
        self._exit(*exception)

    def _wait_for(self, timeout: float | None, handle: Any) -> bool:
        """Return True with a token; False without, after so many seconds."""
        # An endless wait's first slice is a call that is ready: most waits need no more, and
        # building a call takes as long as a hand-over between two processes.
        if timeout is None and patched_sleep() is None:
            for taken in handle.first_waits:
                if taken:
                    return True
                break
        return self._wait(deadline_of(timeout), handle)

    def _wait(self, deadline: int | None, handle: Any) -> bool:
        """Return True with a token; False without, once ``clock()`` is ``deadline``."""
        outcome: list[int] = []  # extend() puts a call's status here before Python runs handlers
        # If the loop's body ended in an if statement, CPython 3.13 and 3.14 would not run the
        # except block for a signal at the jump back.
        try:
            for call in waits(handle, deadline):
                outcome.extend(call)
                status, error = outcome
                if not status:
                    return True
                outcome.clear()
                self._raise_unless_retry(status, error)
            return False
        except BaseException:
            if outcome and not outcome[0]:  # no call before the next one: a second signal may come
                for _ in handle.posts:
                    break
            raise

    def _take_for_tasks(self, handle: Any, nanoseconds: int, is_wanted: Callable[[], bool]) -> bool:
        """Take a token in the thread that waits for tasks, where no signal handler runs.

        RobustSemaphore's wait for several tokens goes on while ``is_wanted()``.
        """
        status, error = handle.wait(nanoseconds)
        if status:
            self._raise_unless_retry(status, error)
        return not status

    def _raise_unless_retry(self, status: int, error: int) -> None:
        raise NotImplementedError

    def _open_handle(self) -> Any:
        handle = self._handle
        if handle is None:
            refuse_closed(self._name)
        return handle

    def _handle_for(self, n: int) -> Any:
        return self._open_handle()

    def _check_number(self, n: object) -> int:
        """Return n. ValueError: so many tokens cannot be taken at once."""
        hint = " (RobustSemaphore takes several at once)"
        return check_integer(self._name, "n", n, 1, 1, hint)

    def _who_holds(self) -> str:
        """Return the end of an error's text; empty where nothing tells."""
        return ""

    def close(self) -> None:
        """Close the semaphore, and unlink its name if ``unlink_on_delete`` says so.

        Threads already waiting still get a token, and a with statement that began before puts its
        token back. Every other use is a ValueError from now on. A second call does nothing.

        A newer semaphore of this name keeps the name where semaphores are files (Linux, FreeBSD,
        Cygwin), unless it was created during this call, or during the constructor's.

        Raises:
            PermissionError: the name may not be unlinked. The semaphore is closed nevertheless.
        """
        if self._handle is not None:
            self._tries = self._posts = map(refuse_closed, repeat(self._name))
            self._handle = None
            # ExitStack looks __exit__ up only when it unwinds, so _exit stays valid.
        if self._owner is not None:
            self._owner.unlink()

    def __getstate__(self) -> tuple[str, dict[str, Any]]:
        """Pickle as a link: the copy opens the name anew, or its successor, and never unlinks it.

        It keeps the attributes that a subclass added.
        """
        self._open_handle()
        own = {key: value for key, value in self.__dict__.items() if key not in _OURS}
        return self.name, own

    def __setstate__(self, state: tuple[str, dict[str, Any]]) -> None:
        name, own = state
        self._link(name)
        self.__dict__.update(own)

    def _link(self, name: str) -> None:
        """Open an existing semaphore, in an object whose constructor did not run."""
        raise NotImplementedError

    def __repr__(self) -> str:
        try:
            state = f"value={self.value}"
        except ValueError:
            state = "closed"
        except (NotImplementedError, OSError):
            state = "value=unknown"
        return f"<{type(self).__name__} {self._name!r} {state}>"


Flags = Semaphore.Flags

# The attributes of this package's classes: a pickle does not carry them.
_OURS = frozenset(("_name", "_handle", "_linked", "_tries", "_posts", "_exit", "_owner", "_set"))


def check_existence(name: str, given: object) -> None:
    if not isinstance(given, Flags):
        wrong = f"handle_existence must be a member of Flags, not {given!r}"
        raise ValueError(f"semaphore {name!r}: {wrong}")


class Hold:
    """Holds n tokens of a semaphore during a with statement. ``Semaphore.hold`` returns it."""

    __slots__ = ("_exit", "_handle", "_n", "_sem", "_timeout")

    def __init__(self, sem: Any, n: int, timeout: float | None) -> None:
        self._sem, self._n, self._timeout = sem, n, timeout
        self._handle = handle = sem._handle_for(n)
        self._exit = ending(handle.exit, sem, handle)

    def __enter__(self) -> Any:
        sem = self._sem
        sem._open_handle()
        for taken in self._handle.tries:
            if taken:
                return sem
            break
        if sem._wait_for(self._timeout, self._handle):
            return sem
        raise self._too_late()

    __exit__ = Bound(attrgetter("_exit"), "Put the tokens back. Never swallows an exception.")

    async def __aenter__(self) -> Any:
        self._sem._open_handle()
        if not await self._sem._acquire_async(self._handle, self._timeout):
            raise self._too_late()
        return self._sem

    async def __aexit__(self, *exception: object) -> None:
        self._exit(*exception)

    def _too_late(self) -> TimeoutError:
        wanted = "no token was" if self._n == 1 else f"{self._n} tokens were not"
        text = f"semaphore {self._sem.name!r}: {wanted} free within {self._timeout} seconds"
        return TimeoutError(text + self._sem._who_holds())


if not TYPE_CHECKING:
    Self = Semaphore  # for typing.get_type_hints
