# SPDX-License-Identifier: Apache-2.0
"""Policy: what all semaphores of this package have in common. Subclasses open a handle; ``Semaphore`` makes its calls.

A signal must not cost a token. CPython runs signal handlers inside most calls, after the C function has returned and before its result is stored:
``taken = try_acquire()`` loses the token when the handler raises. A for statement does both in one instruction, which does not look at signals:
``for taken in tries: break`` (CPython 3.11 and later). Make no call between the for statement and ``return``.
"""

from __future__ import annotations

import enum
import errno
import os
import sys
from itertools import chain, repeat
from operator import attrgetter, index
from time import monotonic_ns, sleep

from ._check import check_name as check_name
from ._lock import new_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Callable, NoReturn, TypeVar

    Self = TypeVar("Self", bound="Semaphore")

# A signal that lands after Python's last look at signals and before the kernel sleeps does not end that sleep. So no sleep is longer than a
# second; the first ones are short, since most signals of that kind come soon after the wait began.
FIRST_SLICE = 10_000_000  # nanoseconds
LATER_SLICES = (100_000_000, 1_000_000_000)

# Where a timed wait must poll: soon at first, for tokens that are held shortly; then seldom enough to cost nothing (67 looks a second).
FIRST_PAUSE = 100_000
LONGEST_PAUSE = 15_000_000

_LONGEST_TIMEOUT = 2**62 / 1e9  # seconds


# For imports that are made only when needed. In a child of fork an import that another thread had begun would never end, so a fork waits for it.
# Only the first use takes this lock: it might be made with another lock, which a hook of a fork awaits.
importing = new_lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=importing.acquire,
        after_in_parent=importing.release,
        after_in_child=importing.release,
    )
_async: Any = None


class _Octal(int):
    """An int that help() shows as permission bits are written."""

    def __repr__(self) -> str:
        return f"0o{self:o}"


DEFAULT_MODE = _Octal(0o600)

RETRY = (
    errno.EAGAIN,
    errno.EINTR,
    errno.ETIMEDOUT,
)  # of a call that got no token: none was free, a signal came, time was over


# A special method that is a separate C function for each instance. (No docstring: help() of Python 3.8 would show it as the method's.)
#
# A Python __exit__ can be interrupted before its first statement, and its token is then never put back. The with statement looks __exit__ up on
# the instance before it enters, and gets the C function. contextlib.ExitStack and others look it up on the class, get this descriptor, and call
# it with the instance.
class _Bound(property):
    def __call__(self, sem: Semaphore, *arguments: Any) -> Any:
        return self.fget(sem)(*arguments)  # type: ignore[misc]


def _refuse_closed(name: str | None, *_: object) -> NoReturn:
    raise ValueError(f"semaphore {name!r} is closed")


_NEVER_OPENED: Iterator[Any] = map(
    _refuse_closed, repeat(None)
)  # the calls of an object whose constructor failed


class Semaphore:
    """The interface of ``threading.Semaphore`` on a handle.

    A handle has the endless iterators ``tries``, ``first_waits`` and ``posts``, the function ``leave``, and the calls ``try_once``, ``wait``,
    ``wait_until`` and ``post_once``; ``_libc.Handle`` says what they do.
    """

    class Flags(enum.Enum):
        """What to do if a semaphore of the name exists, and if there is none.

        RAISE_IF_EXISTS: create it; FileExistsError if there is one.
        LINK_OR_CREATE (the default): link to it, or create it if there is none.
        RAISE_IF_NOT_EXISTS: link to it; FileNotFoundError if there is none.
        UNLINK_AND_CREATE: create it, and unlink an existing one first. Users of an unlinked NamedSemaphore keep it; users of an unlinked
        RobustSemaphore get FileNotFoundError.

        A RobustSemaphore exists while a process has it open; one that was opened with ``unlink_on_delete=False`` exists until ``unlink()``.
        """

        RAISE_IF_EXISTS = 0
        LINK_OR_CREATE = 1
        RAISE_IF_NOT_EXISTS = 2
        UNLINK_AND_CREATE = 3

    # Defaults for an object whose constructor did not run, so that close() and repr() work. Attributes of the hot path (_tries, _posts, _exit)
    # have none: CPython 3.11 and later find an attribute of an object quickly only if its class has none of that name. The types are comments,
    # because help() would show annotations.
    _name = None  # type: str | None
    _handle = None  # type: Any
    _linked = False

    def _start_closed(self) -> None:
        self._name = self._handle = None
        self._linked = False
        self._tries: Iterator[Any] = _NEVER_OPENED
        self._posts: Iterator[Any] = _NEVER_OPENED
        self._exit: Callable[..., None] = _refuse_closed

    def _use(self, handle: Any) -> None:
        self._tries, self._posts, self._exit = handle.tries, handle.posts, handle.leave
        self._handle = handle

    @property
    def name(self) -> str:
        """The name, with its leading slash."""
        return self._name or ""

    @property
    def linked_existing_semaphore(self) -> bool:
        """Whether the semaphore existed before this object, and was not created by it."""
        return self._linked

    @property
    def closed(self) -> bool:
        """Whether the semaphore was closed."""
        return self._handle is None

    @property
    def value(self) -> int:
        """The number of free tokens now. ValueError: the semaphore is closed."""
        raise NotImplementedError

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a token; wait for one if none is free.

        blocking: False returns at once. It must be a bool: ``acquire(5)`` is a ValueError, and not five seconds.
        timeout: the longest wait, in seconds: any number from 0, infinity too; None waits without an end. Unlike in ``threading``, a negative
            one is a ValueError. It runs on the monotonic clock, and never ends early.

        Signal handlers run during the wait. If one raises, its exception is raised here, and no token is taken; if it returns, the wait goes on.

        Returns True with a token, False without one.
        Raises ValueError for a bad argument or a closed semaphore, and then takes nothing.
        """
        if timeout is None:
            if blocking is not True and blocking is not False:
                check_wait(self._name, blocking, timeout)
        else:
            try:
                if not (timeout >= 0 and blocking is True):
                    check_wait(self._name, blocking, timeout)
            except (TypeError, ArithmeticError):  # no number, or a Decimal's NaN
                check_wait(self._name, blocking, timeout)
        for taken in self._tries:
            if taken:
                return True
            break
        if timeout is not None:
            return self._wait(deadline_of(self._name, timeout))  # type: ignore[no-any-return]
        if blocking:
            return self._wait_endless()
        return self._wait(0)  # type: ignore[no-any-return]  # one more try, which tells errno

    def __enter__(self: Self) -> Self:
        """Take a token as ``acquire()`` does, and return this semaphore.

        The end of the with statement puts the token back. It does so in C. Neither calls ``acquire`` or ``release``, also if a subclass overrides
        them.
        """
        for taken in self._tries:
            if taken:
                return self
            break
        self._wait_endless()
        return self

    if TYPE_CHECKING:

        def __exit__(
            self,
            exc_type: type[BaseException] | None,
            exc: BaseException | None,
            tb: TracebackType | None,
        ) -> None: ...

    else:
        __exit__ = _Bound(
            attrgetter("_exit"), doc="Put the token back. Never swallows an exception."
        )

        # Before 3.11, and on PyPy, nearly every instruction looks at signals. There entering is a C function too, which takes a token and
        # returns the semaphore; only if none is free, it calls Python code to wait.
        if sys.version_info < (3, 11) or sys.implementation.name != "cpython":

            @_Bound
            def __enter__(self):
                """Take a token as ``acquire()`` does, and return this semaphore."""
                return map(_Entered({True: self}).__getitem__, self._tries).__next__

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """Take a token as ``acquire`` does, in a task of asyncio: the event loop runs during the wait.

        timeout: as for ``acquire``. Tasks of one loop that wait for one object get tokens in the order in which they came. A cancelled task has
        no token. A signal handler that raises may cost one, here and in ``async with``: use ``loop.add_signal_handler``.

        Returns True with a token, False without one.
        """
        global _async
        if _async is None:
            with importing:
                from . import _async  # so that the package does not import asyncio

        deadline = None if timeout is None else deadline_of(self._name, timeout)
        handle = self._open_handle()
        if not _async.is_waited_for(handle):
            for taken in handle.tries:
                if taken:
                    return True
                break
        return await _async.wait(self, handle, deadline)  # type: ignore[no-any-return]

    async def __aenter__(self: Self) -> Self:
        """Take a token as ``acquire_async()`` does, and return this semaphore."""
        await self.acquire_async()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Put the token back. Never swallows an exception."""
        self._exit(exc_type, exc, tb)

    def _wait_endless(self) -> bool:
        # The first slice is a call that is ready: most waits need no more, and building a call takes as long as a hand-over between two processes.
        # The local variable keeps the handle open until this returns, even if another thread closes the semaphore.
        handle = self._handle or self._open_handle()
        for taken in handle.first_waits:
            if taken:
                return True
            break
        return self._wait(None, handle)  # type: ignore[no-any-return]

    def _wait(self, deadline: int | None, handle: Any = None, result: Any = True) -> Any:
        """Return ``result`` with a token; False once ``time.monotonic_ns()`` is ``deadline`` (None: never)."""
        handle = handle or self._open_handle()
        outcome: list[
            tuple[int, int]
        ] = []  # extend() puts a call's status and errno here before Python looks at signals
        try:
            for call in _calls(handle, deadline):
                outcome.extend(call)
                status, error = outcome[0]
                if not status:
                    return result
                outcome.clear()
                self._raise_unless_retry(status, error)
            return False
        except BaseException:
            # Without a call of Python code, which would look for a second signal.
            if outcome and not outcome[0][0]:
                try:
                    for _ in handle.posts:
                        break
                except IndexError:  # RobustSemaphore: another thread's release(n) used this entry
                    handle.post_once()
            raise

    def _raise_unless_retry(self, status: int, error: int) -> None:
        raise NotImplementedError

    def _open_handle(self) -> Any:
        handle = self._handle
        if handle is None:
            _refuse_closed(self._name)
        return handle

    def close(self) -> None:
        """Close the semaphore. A second call does nothing.

        A thread that waits goes on waiting, and gets its token. Every other use is a ValueError from now on, ``release()`` too; but a with
        statement that began before puts its token back.
        """
        if self._handle is not None:
            self._tries = self._posts = map(_refuse_closed, repeat(self._name))
            self._handle = None
            # An ExitStack looks __exit__ up only when it unwinds. So what puts the token back stays valid, and keeps the semaphore open, as long
            # as this object lives.

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Pickle as a link: the copy has the same semaphore open, and never unlinks its name. It keeps a subclass's ``__dict__``."""
        self._open_handle()
        return (
            _linked,
            (type(self), self._name),
            {key: value for key, value in self.__dict__.items() if key not in _OURS},
        )

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
_OURS = frozenset(
    (
        "_name",
        "_handle",
        "_linked",
        "_tries",
        "_posts",
        "_exit",
        "_owner",
        "_unlinks",
        "_several",
        "_set",
    )
)


class _Entered(dict):  # type: ignore[type-arg]
    """What a C ``__enter__`` returns when a try succeeded, {True: the semaphore}; when it did not, it waits."""

    def __missing__(self, taken: object) -> Any:
        sem = self[True]
        return sem._wait(None, None, sem)


def _calls(handle: Any, deadline: int | None) -> Iterator[Iterator[tuple[int, int]]]:
    """Yield calls, each to be made when the one before it got no token; the last one is made when ``deadline`` has come."""
    pause = FIRST_PAUSE
    # _wait_endless has made the first call of an endless wait, if the handle has one that waits. (Before 3.11 a with statement does without it.)
    first = () if deadline is None and handle.first_waits is not handle.tries else (FIRST_SLICE,)
    for longest in chain(first, LATER_SLICES, repeat(LATER_SLICES[-1])):
        if deadline is None:
            yield handle.wait(longest)
            continue
        now = monotonic_ns()
        end = min(deadline, now + longest)
        while now < end:
            if handle.is_steady:
                yield handle.wait_until(end)
            else:
                sleep(min(pause, end - now) / 1e9)
                pause = min(2 * pause, LONGEST_PAUSE)
                yield handle.try_once()
            now = monotonic_ns()
        if end == deadline:
            break
    yield handle.try_once()


def _linked(cls: type[Self], name: str) -> Self:
    sem = cls.__new__(cls)
    sem._link(name)
    return sem


def check_integer(
    name: str | None, what: str, given: object, least: int, most: int | None = None, hint: str = ""
) -> int:
    """Return the given integer. ValueError: it is none, or out of bounds."""
    try:
        value = index(given)  # type: ignore[arg-type]
    except TypeError:
        value = None
    if value is None or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"semaphore {name!r}: {what} must be an int {bounds}{hint}, not {given!r}")
    return value


def check_existence(name: str, given: object) -> None:
    """ValueError: it is no member of Flags."""
    if not isinstance(given, Flags):
        raise ValueError(
            f"semaphore {name!r}: handle_existence must be a member of Flags, not {given!r}"
        )


def check_wait(name: str | None, blocking: object, timeout: object) -> None:
    """ValueError: acquire cannot wait like that."""
    if blocking is not True and blocking is not False:
        hint = (
            f"; for seconds, say timeout={blocking!r}" if isinstance(blocking, (int, float)) else ""
        )
        raise ValueError(
            f"semaphore {name!r}: blocking must be True or False, not {blocking!r}{hint}"
        )
    if timeout is None:
        return
    if blocking is False:
        raise ValueError(
            f"semaphore {name!r}: can't specify a timeout ({timeout!r}) for a non-blocking acquire"
        )
    try:
        if timeout >= 0:  # type: ignore[operator]
            return
    except (TypeError, ArithmeticError):  # no number, or a Decimal's NaN
        pass
    raise ValueError(
        f"semaphore {name!r}: timeout must be a number of seconds from 0, or None, not {timeout!r}"
    )


def deadline_of(name: str | None, timeout: float | None) -> int | None:
    """Return when the timeout ends, as ``time.monotonic_ns()`` counts; None for never. ValueError: it is no number from 0."""
    check_wait(name, True, timeout)
    # Later than the clock can tell is never; an infinity too. Rounded up, so that it is never early.
    if timeout is None or timeout > _LONGEST_TIMEOUT:
        return None
    return monotonic_ns() + int(float(timeout) * 1_000_000_000) + 1
