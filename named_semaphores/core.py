# SPDX-License-Identifier: Apache-2.0
"""Policy: the class, and every decision its user can see."""

from __future__ import annotations

import enum
import errno
import sys
from itertools import repeat
from operator import attrgetter, index
from time import monotonic_ns
from types import MethodType

from . import _ends
from ._claims import Owner
from ._ends import waiters
from ._errors import oserror
from ._opening import create, link, unlink
from ._waits import waits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable, Iterator, NoReturn, TypeVar

    from ._libc import Handle, Libc, WithCount

    Self = TypeVar("Self", bound="NamedSemaphore")

_ONE = 1  # release compares identities, for speed; another object that is 1 takes the longer way
_LONGEST_TIMEOUT = 2**62 / 1e9  # seconds


class _Exit(property):
    """``__exit__`` of a class whose instances each have a C function for it.

    A Python ``__exit__`` can be interrupted before its first statement, and its token is then never put back. The with statement looks
    ``__exit__`` up, and binds it, before it enters: for an instance it gets that function. ``contextlib.ExitStack`` and others call
    ``type(sem).__exit__(sem, ...)``: the class has this descriptor, which can be called.
    """

    def __call__(self, sem: NamedSemaphore, *exception: Any) -> None:
        count = sem._count
        if sem._handle is not None:
            if count.begun is None:
                _ends.enlist(count)
            if count.held() < 1:  # stack.push(sem) after sem.acquire()
                count.begun += 1  # type: ignore[operator]
            count.is_exact = False  # that may have been so too if another with statement is on its way
        sem._exit(*exception)


def _refuse_closed(name: str | None, *_: object) -> NoReturn:
    raise ValueError(f"semaphore {name!r} is closed")


class _NoCount:
    """Of a closed semaphore, whose _tries refuse before anything is counted."""

    begun = 0
    is_exact = True
    held = staticmethod(int)  # 0; of two threads that close at once, one asks


class NamedSemaphore:
    """A counted limit that all processes of this machine share by its name; the interface is that of ``threading.Semaphore``.

    Parameters:
        name: 1 or more letters, digits, ``-``, ``_`` and ``.``, with or without a ``/`` before them.
        initial_value: the number of tokens, from 0, if it is created. An existing semaphore keeps its own.
        handle_existence: what to do if there is a semaphore of this name, or none; see ``Flags``.
        unlink_on_delete: whether the name is removed when this object is closed or deleted, or the interpreter ends. None, the default:
            if this object created the semaphore.
        mode: its permission bits if it is created, cut by the umask (macOS takes them as they are).

    Raises:
        ValueError: a bad value. TypeError: a name that is no str. Nothing was opened.
        FileExistsError, FileNotFoundError: as ``handle_existence`` says.
        PermissionError: it belongs to somebody else, or this user may not create semaphores.
        OSError: the name is too long, the system's memory for semaphores is full or missing, or a file of this name is no semaphore, or
            one of a program that works differently (32 and 64 bits).
        NotImplementedError: this system has no named semaphores.
    """

    class Flags(enum.Enum):
        """What to do about an existing semaphore of the name."""

        RAISE_IF_EXISTS = 0
        """Create it; FileExistsError if there is one."""
        LINK_OR_CREATE = 1
        """Link to it, or create it if there is none."""
        RAISE_IF_NOT_EXISTS = 2
        """Link to it; FileNotFoundError if there is none."""
        UNLINK_AND_CREATE = 3
        """Create it, after removing the name of another. Who has that one open keeps it."""

    # The defaults are those of an object whose constructor did not run: it is closed, and can be shown. The calls of the hot path have none:
    # CPython 3.11 and later find an attribute of an object quickly only if its class has none of that name.
    _libc: Libc | None = None  # None: the running system's, found when it is first needed
    _name: str | None = None
    _handle: Handle | None = None
    _owner: Owner | None = None
    _linked = False
    _unlinks = False
    _tries: Iterator[int]
    _slices: Iterator[int]
    _posts: Iterator[int]
    _exit: Callable[..., None]
    _count: WithCount

    def __init__(
        self,
        name: str,
        initial_value: int = 1,
        handle_existence: Flags = Flags.LINK_OR_CREATE,
        unlink_on_delete: bool | None = None,
        *,
        mode: int = 0o600,
    ) -> None:
        # All but what "async with" adds, and always: CPython leaves no room for what the first thirty objects of a class did not have, and
        # then gives each a dict of its own.
        self._refuse(name)
        self._refuse_end(name)
        self._handle = self._owner = None
        self._linked = self._unlinks = False
        name = _checked_name(name)
        if not isinstance(handle_existence, NamedSemaphore.Flags):
            raise ValueError(f"semaphore {name!r}: handle_existence must be a member of NamedSemaphore.Flags, not {handle_existence!r}")
        libc = self._libc or _system_libc()
        initial_value = _checked_integer(name, "initial_value", initial_value, 0, libc.value_max)
        mode = _checked_integer(name, "mode", mode, 0, 0o777, " (0o777)")

        self._libc = libc
        self._name = name
        handle = self._open(libc, name, handle_existence, unlink_on_delete, mode, initial_value)
        self._tries, self._slices, self._posts, self._exit, self._count = libc.hot_calls(handle, self._owner)
        self._handle = handle
        self._unlinks = not self._linked if unlink_on_delete is None else bool(unlink_on_delete)

    def _open(self, libc: Libc, name: str, existence: Flags, unlink_on_delete: bool | None, mode: int, value: int) -> Handle:
        flags = NamedSemaphore.Flags
        while True:  # until no other process has come between two steps
            if existence is flags.LINK_OR_CREATE or existence is flags.RAISE_IF_NOT_EXISTS:
                try:
                    handle = link(libc, name)
                except FileNotFoundError:
                    if existence is flags.RAISE_IF_NOT_EXISTS:
                        raise
                else:
                    self._linked = True
                    if unlink_on_delete:
                        self._owner = Owner(libc, name)
                        self._owner.opened.append(handle)
                    return handle
            try:
                opened: list[Handle] = []
                if unlink_on_delete is None or unlink_on_delete:
                    self._owner = Owner(libc, name)
                    opened = self._owner.opened
                return create(libc, name, mode, value, opened)
            except FileExistsError:
                self._owner = None  # of nothing
                if existence is flags.RAISE_IF_EXISTS:
                    raise
            if existence is flags.UNLINK_AND_CREATE:
                try:
                    unlink(libc, name)
                except FileNotFoundError:
                    pass

    @property
    def name(self) -> str:
        """The name, with its leading slash."""
        return self._name or ""

    @property
    def value(self) -> int:
        """The number of tokens now. NotImplementedError where the system does not tell (macOS)."""
        libc, handle = self._open_handle()
        error, value = libc.value(handle)
        if error == errno.ENOSYS:
            raise NotImplementedError(f"semaphore {self._name!r}: this system ({libc.platform}) does not tell the value")
        if error:
            raise oserror(error, libc, self.name)
        return value

    @property
    def linked_existing_semaphore(self) -> bool:
        """Whether the semaphore was there before this object, and not created by it."""
        return self._linked

    @property
    def unlink_on_delete(self) -> bool:
        """Whether the name goes with this object: as given, else whether this object created the semaphore."""
        return self._unlinks

    @property
    def closed(self) -> bool:
        """Whether the semaphore was closed."""
        return self._handle is None

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a token, and wait for one if there is none.

        ``timeout`` is in seconds, any number from 0; None waits without an end. With ``blocking=False`` there is no wait. Signal handlers
        run while this waits. One that returns lets the wait go on, to the same end; what one raises is raised here, and no token is taken.

        Returns True with a token, False without one.
        ValueError: a bad argument, or a closed semaphore.
        """
        if timeout is None:
            if blocking is not True and blocking is not False:
                self._refuse_wait(blocking, timeout)
        else:
            try:
                if not (timeout >= 0 and blocking is True):
                    self._refuse_wait(blocking, timeout)
            except (TypeError, ArithmeticError):  # no number, or a Decimal's NaN
                self._refuse_wait(blocking, timeout)
        # "for" calls sem_trywait and stores its result in one instruction, which does not look at signals (CPython 3.11 and later), and
        # nothing from there to "return" does. A call, "rc = trywait(handle)", looks at them before it stores, and then the token is lost.
        for rc in self._tries:
            if not rc:
                return True
            break
        if timeout is not None:
            return self._wait(self._deadline(timeout))
        return self._wait_endless() if blocking else self._try()

    def release(self, n: int = 1) -> None:
        """Put ``n`` tokens back, all or none, in one step that no signal interrupts.

        ValueError: n is no int or less than 1, or the semaphore is closed. OSError EOVERFLOW: the value would pass the system's maximum
        (macOS does not tell, and does not check); of several tokens some are put back only if another process came between.
        """
        if n is not _ONE:
            self._release_many(_checked_integer(self.name, "n", n, 1))
            return
        for rc in self._posts:
            break
        if rc:
            self._release_many(1)

    def __enter__(self: Self) -> Self:
        """Take a token, wait for one if there is none, and return this semaphore."""
        count = self._count
        if count.begun is None:
            _ends.enlist(count)
        for rc in self._tries:  # as in acquire
            break
        if rc:
            leave = self._exit
            self._wait_endless()
            if self._count is not count:  # it was closed meanwhile; an ExitStack asks for the end of what it entered only when it ends it
                self._count, self._exit = count, leave
        count.begun += 1  # type: ignore[operator]
        return self

    if TYPE_CHECKING:

        def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None: ...

    else:
        __exit__ = _Exit(attrgetter("_exit"), doc="Put the token back. Never swallows an exception.")

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """Take a token as ``acquire`` does, in a task of asyncio: while it waits, the event loop runs on.

        A task that is cancelled has no token. Tasks of one loop get them in the order in which they came. A token that another process puts
        back is taken within about 10 milliseconds.
        """
        from . import _async  # so that the package does not import asyncio

        deadline = None if timeout is None else self._deadline(timeout)
        libc, handle = self._open_handle()
        if not _async.is_waited_for(handle) and self.acquire(False):
            return True
        return await _async.wait(libc, handle, self.name, deadline)

    async def __aenter__(self: Self) -> Self:
        """Take a token as ``acquire_async`` does, and return this semaphore."""
        count, leave = self._count, self._exit  # of now: it may be closed while this waits
        ends: list[Callable[..., None]] = self.__dict__.setdefault("_async_ends", [])
        if count.begun is None:
            _ends.enlist(count)
        await self.acquire_async()
        count.begun += 1  # type: ignore[operator]
        ends.append(leave)
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Put the token back. Never swallows an exception."""
        from . import _async

        self.__dict__["_async_ends"].pop()(exc_type, exc, tb)
        _async.released()

    def _wait_endless(self) -> bool:
        # The first slice is a call that is ready: for the hand-overs between two processes it is all there is. Another thread may close
        # meanwhile: before, _slices refuses; later, the iterator and these two hold what is waited for.
        libc, handle = self._libc, self._handle
        if monotonic_ns() >= libc.slice_end:  # type: ignore[union-attr]
            libc.start_slice()  # type: ignore[union-attr]
        waiters.number += 1
        try:
            for rc in self._slices:
                break
        finally:
            waiters.number -= 1
        if not rc:
            return True
        return self._wait(None, (libc, handle))  # type: ignore[arg-type]

    def _try(self) -> bool:
        libc, handle = self._open_handle()
        for status, error in libc.trywait(handle):  # once more, for the errno
            break
        if not status:
            return True
        self._raise_unless_in_vain(libc, status, error)
        return False

    def _wait(self, deadline: int | None, opened: tuple[Libc, Handle] | None = None) -> bool:
        libc, handle = opened or self._open_handle()
        waiters.number += 1
        try:
            for call in waits(libc, handle, deadline):
                for status, error in call:
                    break
                if not status:
                    return True
                self._raise_unless_in_vain(libc, status, error)
        finally:
            waiters.number -= 1
        return False

    if not TYPE_CHECKING and (sys.version_info < (3, 11) or sys.implementation.name != "cpython"):
        from ._interruptible import __enter__, _wait, _wait_endless

    def _raise_unless_in_vain(self, libc: Libc, status: int, error: int) -> None:
        """Raise if a wait failed for another reason than time, a token that was not there, or a signal."""
        error = libc.failure(status, error)
        if error not in (errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT):
            raise oserror(error, libc, self.name)

    def _release_many(self, n: int) -> None:
        libc, handle = self._open_handle()
        error, value = libc.value(handle)
        if error:  # macOS does not tell
            value = 0
        if value + n > libc.value_max:
            raise oserror(errno.EOVERFLOW, libc, self.name, f"its value is {value}, {n} more would pass the maximum, {libc.value_max}")
        if not libc.post_all(handle, n):
            raise oserror(errno.EOVERFLOW, libc, self.name)

    def _deadline(self, timeout: float) -> int | None:
        try:
            if timeout >= 0:
                # Rounded up, so that it is never early. Later than the clock can tell is never; an infinity too.
                return None if timeout > _LONGEST_TIMEOUT else monotonic_ns() + int(float(timeout) * 1_000_000_000) + 1
        except (TypeError, ArithmeticError):  # no number, or a Decimal's NaN
            pass
        self._refuse_wait(True, timeout)

    def _refuse_wait(self, blocking: object, timeout: object) -> NoReturn:
        if blocking is not True and blocking is not False:
            hint = f"; for seconds, say timeout={blocking!r}" if isinstance(blocking, (int, float)) else ""
            raise ValueError(f"semaphore {self._name!r}: blocking must be True or False, not {blocking!r}{hint}")
        if blocking is False:
            raise ValueError(f"semaphore {self._name!r}: can't specify a timeout ({timeout!r}) for a non-blocking acquire")
        raise ValueError(f"semaphore {self._name!r}: timeout must be a number of seconds from 0, or None, not {timeout!r}")

    def _open_handle(self) -> tuple[Libc, Handle]:
        libc, handle = self._libc, self._handle
        if libc is None or handle is None:
            _refuse_closed(self._name)
        return libc, handle

    def unlink(self) -> None:
        """Remove the name. Who has the semaphore open, this object too, goes on using it; the name is free for another.

        FileNotFoundError: there is no such name any more. PermissionError: it belongs to somebody else. ValueError: this is closed.
        """
        libc, _ = self._open_handle()
        unlink(libc, self.name)

    def close(self) -> None:
        """Give the semaphore back, and remove its name if ``unlink_on_delete`` says so and the name still stands for this semaphore.

        A thread that waits goes on waiting, and gets its token; a with statement puts its token back. A second call does nothing.
        PermissionError: the name may not be removed. Another OSError: it cannot be found out now whose it is; a second call tries again.
        The semaphore is closed nevertheless. What an ExitStack has entered (on a free-threaded build, any with statement) stays mapped until
        this object goes.
        """
        if self._handle is not None:
            # The calls first, so that nobody counts what is refused. An ExitStack asks for the end of what it entered only when it ends it:
            # so where there may be one, that stays, and with it the mapping, until the object goes.
            self._refuse(self._name)
            if self._count.is_exact and self._count.held() < 1:
                self._refuse_end(self._name)
            self._handle = None
        owner = self._owner
        if owner is not None:
            owner.settle()
            self._owner = None

    def _refuse(self, name: str | None) -> None:
        self._tries = self._slices = self._posts = map(_refuse_closed, repeat(name))

    def _refuse_end(self, name: str | None) -> None:
        self._exit = MethodType(_refuse_closed, name or "")  # None cannot be bound
        self._count = _NoCount  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle as a link: the other side's object has the same semaphore, and never removes its name."""
        self._open_handle()
        return _linked, (type(self), self._name)

    def __repr__(self) -> str:
        try:
            state = f"value={self.value}"
        except ValueError:
            state = "closed"
        except (NotImplementedError, OSError):
            state = "value=unknown"
        return f"<{type(self).__name__} {self._name!r} {state}>"


def _linked(cls: type[Self], name: str) -> Self:
    return cls(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS, unlink_on_delete=False)


_found: dict[str, Libc] = {}


def _system_libc() -> Libc:
    """Return the running system's Libc; NotImplementedError where there is none."""
    if NamedSemaphore._libc is None:
        try:
            from ._libc import Libc, load  # not with the package: importing ctypes takes as long as all else
        except ImportError as error:  # WASI's Python is one without it
            reason = f"this Python ({sys.platform}) has no ctypes, and without it no POSIX named semaphores"
            raise NotImplementedError(reason) from error
        NamedSemaphore._libc = _found.setdefault("libc", Libc(load()))  # one, whichever thread is first: on Cygwin it counts
    return NamedSemaphore._libc


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a semaphore's name must be a str, not {name!r}")
    bare = name[1:] if name.startswith("/") else name
    if not bare:
        raise ValueError(f"a semaphore's name must not be empty: {name!r}")
    others = bare.replace("-", "").replace("_", "").replace(".", "")
    if others and not others.isalnum():
        wrong = next(character for character in others if not character.isalnum())
        raise ValueError(f"a semaphore's name is made of letters, digits, '-', '_' and '.': {name!r} has {wrong!r}")
    return "/" + bare


def _checked_integer(name: str, what: str, given: object, least: int, most: int | None = None, hint: str = "") -> int:
    try:
        value = index(given)  # type: ignore[arg-type]
    except TypeError:
        value = None
    if value is None or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"semaphore {name!r}: {what} must be an int {bounds}{hint}, not {given!r}")
    return value
