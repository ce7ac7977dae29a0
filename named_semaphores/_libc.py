# SPDX-License-Identifier: Apache-2.0
"""Mechanism: the C library's named semaphores through ctypes.

Every symbol, prototype, constant and errno of this package is here. ``Libc`` binds a library object it is given, so that a test can hand in
one that behaves as another platform's; ``load`` finds the running system's. What a library has is asked of it. The platform's name decides
only what cannot be asked, and all of that is in ``_SYSTEMS``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from ctypes import c_char_p, c_int, c_int64, c_long, c_ssize_t, c_uint
from itertools import chain, islice, repeat, starmap
from operator import attrgetter
from types import MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

_SECOND = 1_000_000_000  # in nanoseconds

# PyPy has no PYFUNCTYPE.
_PYFUNCTYPE = getattr(ctypes, "PYFUNCTYPE", ctypes.CFUNCTYPE)


class _System:
    """What cannot be asked of a library. The defaults are those of a POSIX system nothing is known of."""

    libraries: tuple[str | None, ...] = (None,)  # where sem_open may be, in this order; None is the process itself
    sem_failed = 0  # what a failed sem_open returns
    same_address = True  # POSIX: a process that opens a name again gets the same address (as long as it is the same semaphore)
    counted = True  # ... and closes it once for each time
    longest_name: int | None = None  # in bytes, the slash included
    value_max: int | None = None  # None: sysconf tells
    checks_post = True  # sem_post fails, and says so, past the maximum
    time_t: Any = c_long  # what the plain symbols of timed waits take
    opens_any_file = False  # of the right name, and maps it as a semaphore
    files: str | None = None  # what comes before a semaphore's name in the path of its file, if it has one


class _Linux(_System):
    libraries = (None, "libpthread.so.0")  # glibc before 2.34 has sem_* in libpthread
    longest_name = 252
    value_max = 2**31 - 1
    opens_any_file = True
    files = "/dev/shm/sem."


class _Musl(_Linux):
    longest_name = 256
    files = "/dev/shm/"


class _MacOS(_System):  # XNU: a handle is a file descriptor, so 0 is a valid one
    sem_failed = -1
    same_address = False
    longest_name = 30
    value_max = 32767
    checks_post = False


class _FreeBSD(_System):
    time_t = c_long if ctypes.alignment(c_int64) == 4 else c_int64  # 32 bits on i386 alone, which aligns these to 4 bytes
    longest_name = 252
    value_max = 2**31 - 1
    files = "/tmp/SEMD"


class _NetBSD(_System):
    libraries = (None, "libpthread.so")
    same_address = False
    longest_name = 255
    value_max = 2**31 - 1  # more works, but sem_getvalue's int does not tell it
    time_t = c_int64


class _OpenBSD(_System):
    libraries = (None, "libpthread.so")
    same_address = False
    value_max = 2**31 - 1  # more works, but sem_getvalue's int does not tell it
    checks_post = False
    time_t = c_int64


class _DragonFly(_System):
    libraries = (None, "libpthread.so")


class _Illumos(_System):
    sem_failed = -1
    counted = False
    longest_name = 255


class _Cygwin(_System):  # the process itself is only the .exe there
    libraries = ("cygwin1.dll", "msys-2.0.dll")
    counted = False
    longest_name = 251
    value_max = 1147483648
    files = "/dev/shm/sem."
    checks_post = False  # returns 0 and leaves the value as it is


class _Nowhere(_System):  # Emscripten's stubs do nothing and say it worked, so they are not asked
    libraries = ()


_SYSTEMS = {
    "linux": _Linux,
    "darwin": _MacOS,
    "freebsd": _FreeBSD,
    "netbsd": _NetBSD,
    "openbsd": _OpenBSD,
    "dragonfly": _DragonFly,
    "sunos": _Illumos,
    "cygwin": _Cygwin,
    "msys": _Cygwin,
    "win32": _Nowhere,
    "emscripten": _Nowhere,
    "wasi": _Nowhere,
}


def _system(platform: str) -> type[_System]:
    # The BSDs' and illumos' names carry a version.
    return next((system for prefix, system in _SYSTEMS.items() if platform.startswith(prefix)), _System)


def load(platform: str = sys.platform) -> ctypes.CDLL:
    """Return the library that has ``sem_open`` here. NotImplementedError where there is none."""
    for name in _system(platform).libraries:
        try:
            library = ctypes.CDLL(name)
        except (OSError, TypeError):
            continue
        if hasattr(library, "sem_open"):
            return library
    raise NotImplementedError(f"this system ({platform}) has no POSIX named semaphores; on Windows, run Python under Cygwin, MSYS2 or WSL")


class Handle(int):
    """An open semaphore: its address, or what the system has instead.

    Each ``Libc`` has a subclass of its own whose finalizer is sem_close. It runs when the last reference goes, and a call in flight holds
    one, so no semaphore is unmapped under a waiter.
    """

    __slots__ = ()
    # One that is opened twice has two handles.
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__


# The garbage collector runs the finalizers of all it has found, in no order, before it clears any of it. It must not find a handle: a generator
# inside a with statement, finalized later, would post into nothing. So each is here, in sys, which the interpreter clears last, until the
# finalizer of the sem_t that refers to it takes it out.
_handles: set[Handle] = sys.__dict__.setdefault(f"_{__name__}._handles", set())


class sem_t(ctypes.Structure):
    """What is at a handle's address, with nothing to look into; a pointer to it is the argument that costs ctypes least."""

    _fields_ = []  # PyPy wants it said
    __slots__ = ("release",)
    __del__ = property(attrgetter("release"))  # C code: a finalizer in Python can be interrupted before its first statement


def _timespec(time_t: Any, long: Any) -> Any:
    return type("timespec", (ctypes.Structure,), {"_fields_": [("tv_sec", time_t), ("tv_nsec", long)]})


class _Ignored(c_int):
    from_param = callable  # a cheap builtin: its result, a bool, is passed to a function that does not look at it


class _Next(c_int):
    from_param = next  # of a WithCount, the pointer; a POINTER type would check it, for 140 ns


class WithCount(repeat):  # type: ignore[type-arg]
    """An iterator of the pointer, advanced by each sem_post that ends a with statement: what is left of MOST tells how many ended."""

    __slots__ = ("__weakref__", "begun", "is_exact", "owner")
    MOST = sys.maxsize
    leave: Callable[..., None]  # of each Libc; takes one of these, and three arguments it ignores
    begun: int | None  # how many with statements began; None until the first
    is_exact: bool  # whether each that ended had been counted when it began
    owner: object  # what is to live as long as one of them is on its way

    def held(self) -> int:
        """Return how many with statements have a token now."""
        return (self.begun or 0) - (self.MOST - self.__length_hint__())


class Libc:
    """The sem_* functions of one library.

    Calls that give or take something return iterators, which make the call when they are advanced: ``for status, error in
    libc.trywait(handle): break``. The for statement makes the call and stores its result before Python looks at signals again, so that no
    handler can come between a token and its owner. A call that failed has a status other than 0; ``failure`` gives its errno.
    """

    def __init__(self, lib: Any, platform: str = sys.platform) -> None:
        self.lib = lib  # a test's library dies with its last reference
        self.is_glibc = hasattr(lib, "gnu_get_libc_version")
        system = _system(platform)
        if system is _Linux and not self.is_glibc:
            system = _Musl
        self.platform = platform
        self.longest_name = system.longest_name
        self.value_max = system.value_max or os.sysconf("SC_SEM_VALUE_MAX")  # type: ignore[attr-defined,unused-ignore]
        self.same_address = system.same_address
        self.files = system.files
        self.opens_any_file = system.opens_any_file
        self._bind(system)
        self._choose_wait(system)

    def _address(self, symbol: str) -> int:
        # Prototypes of our own, on the symbol's address: those of the library object stay as they are, and a test's may be callbacks.
        return ctypes.cast(getattr(self.lib, symbol), ctypes.c_void_p).value or 0

    def _function(self, symbol: str, restype: Any, *argtypes: Any) -> Any:
        return ctypes.CFUNCTYPE(restype, *argtypes, use_errno=True)(self._address(symbol))

    def _bind(self, system: type[_System]) -> None:
        function, pointer = self._function, ctypes.c_void_p

        # sem_t *sem_open(const char *name, int oflag, ... /* mode_t mode, unsigned int value */);
        # Two parameters are declared, so that ctypes makes a variadic call: Apple's arm64 passes the others on the stack. They go as
        # c_uint, whatever mode_t is. The result is an integer: as a c_void_p, macOS's handle 0 would become None.
        sem_open = self.sem_open = function("sem_open", c_ssize_t, c_char_p, c_int)
        self._is_open = system.sem_failed.__ne__
        # int sem_close(sem_t *sem);
        sem_close = function("sem_close", c_int, pointer)
        if not system.counted:
            from ._uncounted import counted

            sem_open, sem_close = counted(sem_open, sem_close, self._is_open)
        self._sem_open = sem_open
        # C code again: the getter is MethodType(MethodType, sem_close), which called with a handle gives MethodType(sem_close, handle).
        self._handle_type: Any = type("Handle", (Handle,), {"__slots__": (), "__del__": property(MethodType(MethodType, sem_close))})
        # int sem_unlink(const char *name);
        self._sem_unlink = function("sem_unlink", c_int, c_char_p)
        # int sem_getvalue(sem_t *sem, int *value);
        self._sem_getvalue = function("sem_getvalue", c_int, pointer, ctypes.POINTER(c_int))
        # int sem_wait(sem_t *sem);
        self._sem_wait = function("sem_wait", c_int, pointer)
        # int sem_trywait(sem_t *sem);
        self._sem_trywait = function("sem_trywait", c_int, pointer)
        # int sem_post(sem_t *sem);
        self._sem_post = function("sem_post", c_int, pointer)

        # The two that never block again, for the hot path: they keep the GIL, and leave out the errno and the declaration of the pointer.
        # Together that saves a third (tests/bench).
        self._trywait = _PYFUNCTYPE(c_int)(self._address("sem_trywait"))
        self._unchecked_post = _PYFUNCTYPE(c_int)(self._address("sem_post"))
        self._post = self._unchecked_post if system.checks_post else self._post_unless_full
        # And sem_post as the end of a with statement: it drops the exception's three arguments, and its result is never true, which would
        # swallow the exception. It gives back what was taken, so there is no maximum to check.
        leave = _PYFUNCTYPE(None, _Next, _Ignored, _Ignored, _Ignored)(self._address("sem_post"))
        self._count_type: Any = type("WithCount", (WithCount,), {"__slots__": (), "leave": leave})

    def _choose_wait(self, system: type[_System]) -> None:
        """Take the best timed wait this library has: one on the clock that does not jump, if there is one."""
        # Asked for by symbol, since neither Python's time_t nor ctypes' tells: on 32 bits the plain symbols of glibc and musl keep the
        # 32-bit time of old binaries. There a 64-bit timespec has a 32-bit long and padding, which on big-endian machines comes first: an
        # int64 is both.
        plain, wide = _timespec(system.time_t, c_long), _timespec(c_int64, c_int64)
        monotonic = (time.CLOCK_MONOTONIC,)  # type: ignore[attr-defined,unused-ignore]
        waits: tuple[Any, ...] = (
            # int sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *abstime);  glibc 2.30, Cygwin 3.3
            ("__sem_clockwait64", wide, _steady_clock, monotonic, ()),
            ("sem_clockwait", plain, _steady_clock, monotonic, ()),
            # int sem_clockwait_np(sem_t *sem, clockid_t clock, int flags, const struct timespec *abstime, struct timespec *left);
            ("sem_clockwait_np", plain, _steady_clock, (*monotonic, 1), (None,)),  # FreeBSD; 1 is TIMER_ABSTIME
            # int sem_reltimedwait_np(sem_t *sem, const struct timespec *reltime);  illumos
            ("sem_reltimedwait_np", plain, _time_left, (), ()),
            # int sem_timedwait(sem_t *sem, const struct timespec *abstime);
            ("__sem_timedwait64", wide, _wall_clock, (), ()),  # glibc
            ("__sem_timedwait_time64", wide, _wall_clock, (), ()),  # musl
            ("sem_timedwait", plain, _wall_clock, (), ()),
        )
        best = next((wait for wait in waits if hasattr(self.lib, wait[0])), None)
        self.has_timed_wait = best is not None
        self.is_steady = False
        self.slice_end = 0
        self._timespec, self._clock = plain, _steady_clock
        self._slice_end = plain()
        self._slice_wait = ctypes.CFUNCTYPE(c_int)(self._address("sem_wait"))
        self._slice_arguments: tuple[Any, ...] = ()
        if best is None:
            return
        symbol, self._timespec, self._clock, self._before, self._after = best
        types = [c_int] * len(self._before) + [ctypes.POINTER(self._timespec)] + [ctypes.c_void_p] * len(self._after)
        self._sem_timedwait = self._function(symbol, c_int, ctypes.c_void_p, *types)
        # A wait until a time of the wall clock: most systems compute what is left of it and sleep that long, so that a step of the clock
        # costs a slice at most. glibc hands the time itself to the kernel (futex_abstimed_wait), and sleeps on if the clock is set back.
        self.is_steady = self._clock is not _wall_clock or not self.is_glibc
        # The same without the errno, for the hot path, and until a time that all threads share: it is only ever too soon, and by a second.
        self._slice_end = self._timespec()
        self._slice_wait = ctypes.CFUNCTYPE(c_int)(self._address(symbol))
        self._slice_arguments = (*self._before, ctypes.byref(self._slice_end), *self._after)

    @staticmethod
    def failure(status: int, error: int) -> int:
        """Return 0 for a call that worked, else its errno."""
        # Cygwin's and bionic's timed waits and old FreeBSD's sem_post return the errno itself.
        return error if status < 0 else status

    def open(self, name: bytes, oflag: int, mode: int = 0, value: int = 0) -> Iterator[Any]:
        """Return the iterator that opens the semaphore and gives its handle; or, if that fails, the errno."""
        arguments = (name, oflag, c_uint(mode), c_uint(value)) if oflag else (name, oflag)
        # A failure never becomes a handle: musl's sem_close of one would write to address 0.
        handles = map(self._handle_type, filter(self._is_open, starmap(self._sem_open, (arguments,))))
        return islice(chain(handles, iter(ctypes.get_errno, None)), 1)

    def unlink(self, name: bytes) -> int:
        """Remove the name. Return 0 or the errno."""
        return self.failure(*next(_call(self._sem_unlink, name)))

    def value(self, handle: Handle) -> tuple[int, int]:
        """Return 0 or the errno, and the value."""
        value = c_int()
        status = self._sem_getvalue(handle, value)
        error = self.failure(status, ctypes.get_errno()) if status else 0
        return error, max(0, value.value)  # POSIX lets a system tell the number of waiters as a negative value

    def hot_calls(
        self, handle: Handle, owner: object
    ) -> tuple[Iterator[int], Iterator[int], Iterator[int], Callable[..., None], WithCount]:
        """Return endless iterators of trywait, of a slice of a wait, and of post; and what ends a with statement, with what that counts.

        All of them hold the handle.
        """
        release = MethodType(_handles.discard, handle)
        for sem in map(sem_t.from_address, (handle,)):  # "for" as in core: it is never without what its finalizer needs
            sem.release = release
        _handles.add(handle)
        pointer = ctypes.byref(sem)
        count: WithCount = self._count_type(pointer, WithCount.MOST)
        count.begun = None
        count.is_exact = True
        if owner is not None:
            count.owner = owner
        # starmap calls with the tuple as it is, where map would make one for each call: a seventh of the time.
        arguments = repeat((pointer,))
        waits = starmap(self._slice_wait, repeat((pointer, *self._slice_arguments)))
        return starmap(self._trywait, arguments), waits, starmap(self._post, arguments), MethodType(count.leave, count), count

    def start_slice(self) -> None:
        """Let the waits of ``hot_calls`` end within a second; call it when ``time.monotonic_ns()`` has come to ``slice_end``.

        Where there is no timed wait they do not end.
        """
        now = time.monotonic_ns()
        self._slice_end.tv_sec = self._clock(now) // _SECOND + 1
        if self._clock is _steady_clock:  # else another's step of the clock would move the end: it is set anew for each wait
            self.slice_end = (now // _SECOND + 1) * _SECOND

    def trywait(self, handle: Handle) -> Iterator[tuple[int, int]]:
        """Take a token if there is one; EAGAIN if not."""
        return _call(self._sem_trywait, handle)

    def wait(self, handle: Handle) -> Iterator[tuple[int, int]]:
        """Wait for a token."""
        return _call(self._sem_wait, handle)

    def timedwait(self, handle: Handle, deadline: int) -> Iterator[tuple[int, int]]:
        """Wait for a token until ``time.monotonic_ns()`` is ``deadline``; then ETIMEDOUT."""
        timespec = self._timespec(*divmod(self._clock(deadline), _SECOND))
        return _call(self._sem_timedwait, handle, *self._before, timespec, *self._after)

    def post(self, handle: Handle) -> Iterator[tuple[int, int]]:
        """Put back a token that was taken, so that there is room for it."""
        return _call(self._sem_post, handle)

    def post_all(self, handle: Handle, n: int) -> bool:
        """Put n tokens back, in C, so that no signal ends it half-way. Return whether that went well; there must be room for all."""
        return not any(islice(starmap(self._unchecked_post, repeat((ctypes.c_void_p(handle),))), n))

    def _post_unless_full(self, handle: Any) -> int:
        # For systems that do not check. A post that comes between is not noticed; where there is no value (macOS), none is.
        error, value = self.value(handle)
        return errno.EOVERFLOW if not error and value >= self.value_max else self._sem_post(handle)


def _call(function: Any, *arguments: Any) -> Iterator[tuple[int, int]]:
    """Return the iterator that calls the function once, and gives its status and the errno."""
    return zip(starmap(function, (arguments,)), iter(ctypes.get_errno, None))


def _steady_clock(deadline: int) -> int:
    return deadline


def _wall_clock(deadline: int) -> int:
    return time.time_ns() + deadline - time.monotonic_ns()


def _time_left(deadline: int) -> int:
    return max(0, deadline - time.monotonic_ns())
