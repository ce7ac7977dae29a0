# SPDX-License-Identifier: Apache-2.0
"""Mechanism: the C library's named semaphores through ctypes.

Every symbol, prototype, constant and errno of POSIX semaphores is here. ``Libc`` binds the library object it is given, so that a test can
hand in one that behaves like another platform's; ``_semlock.system`` returns the running system's. ``Libc`` asks the library which symbols it has. The
platform's name decides only what cannot be asked: all of that is in ``_SYSTEMS``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from ctypes import c_char_p, c_int, c_int64, c_long, c_ssize_t, c_uint, c_void_p
from functools import partial
from itertools import islice, repeat, starmap
from operator import not_
from types import MethodType

from ._c import TIMESPEC64, Ignored, address_of, call, system_of, timespec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

_SECOND = 1_000_000_000  # in nanoseconds
_PYTHONAPI: int = getattr(
    ctypes, "_FUNCFLAG_PYTHONAPI", 0
)  # a call keeps the GIL; PyPy's ctypes has no flag for it


class _System:
    """What a library cannot be asked. The defaults are those of an unknown POSIX system."""

    libraries: tuple[str | None, ...] = (
        None,
    )  # where sem_open may be, in this order; None is the process itself
    sem_failed = 0  # what a failed sem_open returns
    same_address = True  # POSIX: a process that opens a name again gets the same address, if it is the same semaphore
    counted = True  # sem_close must be called once for each open
    longest_name: int | None = None  # in bytes, the slash included
    value_max: int | None = None  # None: sysconf tells
    checks_post = True  # sem_post fails, and says so, past the maximum
    time_t: Any = c_long  # what the plain symbols of timed waits take
    opens_any_file = False  # of the right name, and maps it as a semaphore
    files: str | None = None  # the path of a semaphore's file, up to its name; None: it has no file

    def __init__(self, **differences: Any) -> None:
        self.__dict__.update(differences)


# glibc before 2.34 has sem_* in libpthread.
_LINUX = _System(
    libraries=(None, "libpthread.so.0"),
    longest_name=252,
    value_max=2**31 - 1,
    opens_any_file=True,
    files="/dev/shm/sem.",
)
_MUSL = _System(longest_name=256, value_max=2**31 - 1, opens_any_file=True, files="/dev/shm/")
# XNU: a handle is a file descriptor, so 0 is a valid one.
_MACOS = _System(
    sem_failed=-1, same_address=False, longest_name=30, value_max=32767, checks_post=False
)
# time_t has 32 bits on i386 alone, which aligns 64-bit integers to 4 bytes.
_FREEBSD = _System(
    time_t=c_long if ctypes.alignment(c_int64) == 4 else c_int64,
    longest_name=252,
    value_max=2**31 - 1,
    files="/tmp/SEMD",
)
_DRAGONFLY = _System(libraries=(None, "libpthread.so"))
# NetBSD and OpenBSD allow values up to 2**32 - 1, but sem_getvalue's int does not tell them.
_NETBSD = _System(
    libraries=(None, "libpthread.so"),
    same_address=False,
    longest_name=255,
    value_max=2**31 - 1,
    time_t=c_int64,
)
_OPENBSD = _System(
    libraries=(None, "libpthread.so"),
    same_address=False,
    value_max=2**31 - 1,
    checks_post=False,
    time_t=c_int64,
)
_ILLUMOS = _System(sem_failed=-1, counted=False, longest_name=255)
# The process itself is only the .exe there. Past the maximum sem_post returns 0, and leaves the value as it is.
_CYGWIN = _System(
    libraries=("cygwin1.dll", "msys-2.0.dll"),
    counted=False,
    longest_name=251,
    value_max=1147483648,
    files="/dev/shm/sem.",
    checks_post=False,
)
_NOWHERE = _System(
    libraries=()
)  # Emscripten's stubs do nothing and say it worked, so they are not asked

_SYSTEMS = {
    "linux": _LINUX,
    "darwin": _MACOS,
    "freebsd": _FREEBSD,
    "netbsd": _NETBSD,
    "openbsd": _OPENBSD,
    "dragonfly": _DRAGONFLY,
    "sunos": _ILLUMOS,
    "cygwin": _CYGWIN,
    "msys": _CYGWIN,
    "win32": _NOWHERE,
    "emscripten": _NOWHERE,
    "wasi": _NOWHERE,
}


def _system(platform: str) -> _System:
    return system_of(platform, _SYSTEMS) or _System()


def load(platform: str = sys.platform) -> ctypes.CDLL:
    """Return the library that has ``sem_open`` here. NotImplementedError where there is none."""
    for name in _system(platform).libraries:
        try:
            library = ctypes.CDLL(name)
        except (OSError, TypeError):
            continue
        if hasattr(library, "sem_open"):
            return library
    raise NotImplementedError(
        f"this system ({platform}) has no POSIX named semaphores; on Windows, run Python under Cygwin, MSYS2 or WSL"
    )


def _prototype(restype: Any, *argtypes: Any) -> Any:
    """Return a function type as PYFUNCTYPE does, whose calls keep the GIL, and save errno."""
    # glibc's sem_open and sem_close take a lock that fork does not reset: without the GIL, a fork in another thread would copy it locked, and
    # the child's next sem_open would hang. (PYFUNCTYPE itself cannot save errno.)
    base: Any = ctypes.CFUNCTYPE(restype, *argtypes, use_errno=True)
    return type(
        "prototype",
        base.__bases__,
        {"_restype_": restype, "_argtypes_": argtypes, "_flags_": base._flags_ | _PYTHONAPI},
    )


class _Mapping:
    """Closes the semaphore when garbage-collected."""

    __slots__ = ("address", "close")

    def __init__(self, address: int, close: Callable[[int], int]) -> None:
        self.close = close
        self.address = address

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the interpreter's end the kernel closes it. Until then a generator may still be finalized, and leave its with statement.
        if hasattr(self, "address") and not is_finalizing():
            self.close(self.address)


_mappings: set[_Mapping] = set()


class _Pointer:
    """The semaphore as an argument of C calls, each of which keeps it alive.

    The collector runs all finalizers before it frees anything. A generator suspended inside a with statement may post in its finalizer. So
    ``_mappings`` keeps the mapping alive until this object's finalizer has run; the mapping is freed with this object.
    """

    __slots__ = ("_as_parameter_", "_forget", "_mapping")

    def __init__(self, mapping: _Mapping) -> None:
        self._as_parameter_ = mapping.address
        self._mapping = mapping
        self._forget = _mappings.discard
        _mappings.add(mapping)

    def __del__(self) -> None:
        self._forget(self._mapping)


class Handle:
    """An open semaphore and its calls.

    Calls that take or give a token are iterators: a for statement makes the call and stores its result before Python looks at signals again, so
    that no handler can come between a token and its owner. The first four are endless, made once, and hold what they need.

    tries: each step takes a token if one is free. True or False.
    first_waits: the same, and may wait for ``_base.FIRST_SLICE`` (without an end where the library has no timed wait).
    posts: each step puts a token back. False, or None; True, or ValueError, if it would pass the maximum.
    leave: a C function that puts a token back and ignores the three arguments of ``__exit__``.
    """

    is_robust = False  # whether the kernel gives tokens back when the process ends
    tries: Iterator[bool]
    first_waits: Iterator[bool]
    posts: Iterator[bool | None]
    leave: Callable[..., None]

    def __init__(self, libc: Libc, address: int) -> None:
        self.libc = libc
        self.address = address  # on macOS, a descriptor
        self.pointer: Any = _Pointer(_Mapping(address, libc.sem_close))
        arguments = (self.pointer,)
        self.tries = self.first_waits = map(not_, starmap(libc.sem_trywait, repeat(arguments)))
        self.posts = map(bool, starmap(libc.checked_post, repeat(arguments)))
        self.leave = MethodType(libc.leave, self.pointer)

    @property
    def is_steady(self) -> bool:
        """Whether wait_until serves: no step of a clock can lengthen or shorten it."""
        return self.libc.is_steady

    def leave_of(self, owner: object) -> Callable[..., None]:
        """Return ``leave`` as another function, which has the owner, too."""
        leave = partial(self.leave)
        leave.owner = owner  # type: ignore[attr-defined]
        return leave

    # The rest makes one call, and gives its status, 0 for success, and errno.

    def try_once(self) -> Iterator[tuple[int, int]]:
        """Take a token if one is free; EAGAIN if not."""
        return call(self.libc.sem_trywait, self.pointer)

    def wait(self, nanoseconds: int) -> Iterator[tuple[int, int]]:
        """Wait for a token, at most so long (without an end where the library has no timed wait)."""
        if self.libc.has_timed_wait:
            return self.wait_until(time.monotonic_ns() + nanoseconds)
        return call(self.libc.sem_wait, self.pointer)

    def wait_until(self, deadline: int) -> Iterator[tuple[int, int]]:
        """Wait for a token until ``time.monotonic_ns()`` is ``deadline``; then ETIMEDOUT."""
        return call(self.libc.sem_timedwait, self.pointer, *self.libc.until(deadline))

    def post_once(self) -> Iterator[tuple[int, int]]:
        """Put back a token that was taken, so that there is room for it."""
        return call(self.libc.sem_post, self.pointer)


class Libc:
    """The sem_* functions of one library. Methods raise OSError with the plain errno; ``_errors`` adds what helps."""

    def __init__(self, lib: Any, platform: str = sys.platform) -> None:
        self.lib = lib
        self.is_glibc = hasattr(lib, "gnu_get_libc_version")
        system = _system(platform)
        if system is _LINUX and not self.is_glibc:
            system = _MUSL
        self.platform = platform
        self.longest_name = system.longest_name
        self.value_max = system.value_max or os.sysconf("SC_SEM_VALUE_MAX")  # type: ignore[attr-defined,unused-ignore]
        self.same_address = system.same_address
        self.files = system.files
        self.opens_any_file = system.opens_any_file
        self.sem_failed = system.sem_failed
        self._bind(system)
        self._choose_wait(system)

    def _function(self, symbol: str, *argtypes: Any, keep_gil: bool = False) -> Any:
        prototype = (
            _prototype(c_int, *argtypes)
            if keep_gil
            else ctypes.CFUNCTYPE(c_int, *argtypes, use_errno=True)
        )
        function: Any = prototype(address_of(self.lib, symbol))
        function.library = self.lib  # a test's callbacks must live as long as what calls them
        return function

    def _bind(self, system: _System) -> None:
        # sem_t *sem_open(const char *name, int oflag, ... /* mode_t mode, unsigned int value */);
        # Two parameters are declared, so that ctypes makes a variadic call: Apple's arm64 passes the others on the stack. They are c_uint,
        # whatever mode_t is. The result is an integer: as a c_void_p, macOS's handle 0 would become None.
        self.sem_open = self._function("sem_open", c_char_p, c_int, keep_gil=True)
        self.sem_open.restype = c_ssize_t
        # int sem_close(sem_t *sem);
        self.sem_close = self._function("sem_close", c_void_p, keep_gil=True)
        if not system.counted:
            from ._refcount import counted

            self.sem_open, self.sem_close = counted(self.sem_open, self.sem_close, self.sem_failed)
        # int sem_unlink(const char *name);
        self.sem_unlink = self._function("sem_unlink", c_char_p)
        # int sem_getvalue(sem_t *sem, int *value);
        self.sem_getvalue = self._function(
            "sem_getvalue", c_void_p, ctypes.POINTER(c_int), keep_gil=True
        )
        # int sem_wait(sem_t *sem);
        self.sem_wait = self._function("sem_wait", c_void_p)
        # int sem_trywait(sem_t *sem);
        self.sem_trywait = self._function("sem_trywait", c_void_p, keep_gil=True)
        # int sem_post(sem_t *sem);
        self.sem_post = self._function("sem_post", c_void_p, keep_gil=True)
        self.checked_post = self.sem_post if system.checks_post else self._post_unless_full
        # sem_post once more, as the end of a with statement: it drops the exception's three arguments, and returns None, so that no exception is
        # swallowed. It puts back what was taken, so there is no maximum to check.
        self.leave = self._function("sem_post", c_void_p, Ignored, Ignored, Ignored, keep_gil=True)
        self.leave.restype = None

    def _choose_wait(self, system: _System) -> None:
        """Take the best timed wait this library has: one on the clock that does not jump, if there is one."""
        # Asked for by symbol, since neither Python's time_t nor ctypes' tells: on 32 bits the plain symbols of glibc and musl keep the
        # 32-bit time of old binaries.
        plain, wide = timespec(system.time_t), TIMESPEC64
        monotonic = (time.CLOCK_MONOTONIC,)  # type: ignore[attr-defined,unused-ignore]
        waits: tuple[Any, ...] = (
            # int sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *abstime);  glibc 2.30, Cygwin 3.3
            ("__sem_clockwait64", wide, _steady_clock, monotonic, ()),
            ("sem_clockwait", plain, _steady_clock, monotonic, ()),
            # int sem_clockwait_np(sem_t *sem, clockid_t clock, int flags, const struct timespec *abstime, struct timespec *left);
            (
                "sem_clockwait_np",
                plain,
                _steady_clock,
                (*monotonic, 1),
                (None,),
            ),  # FreeBSD; 1 is TIMER_ABSTIME
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
        if best is None:
            return
        symbol, self._timespec, self._clock, self._before, self._after = best
        types = (
            [c_int] * len(self._before)
            + [ctypes.POINTER(self._timespec)]
            + [c_void_p] * len(self._after)
        )
        self.sem_timedwait = self._function(symbol, c_void_p, *types)
        # A wait until a time of the wall clock: most systems compute what is left of it and sleep that long, so that a step of the clock
        # costs a slice at most. glibc hands the time itself to the kernel (futex_abstimed_wait), and sleeps on if the clock is set back.
        self.is_steady = self._clock is not _wall_clock or not self.is_glibc

    def until(self, deadline: int) -> tuple[Any, ...]:
        """Return what ``sem_timedwait`` takes after the semaphore, to wait until ``time.monotonic_ns()`` is ``deadline``."""
        return (
            *self._before,
            self._timespec(*divmod(self._clock(deadline), _SECOND)),
            *self._after,
        )

    @staticmethod
    def failure(status: int, error: int) -> int:
        """Return 0 for a call that worked, else its errno."""
        # Cygwin's and bionic's timed waits and old FreeBSD's sem_post return the errno itself.
        return error if status < 0 else status

    def link(self, name: str) -> Handle:
        """Open an existing semaphore."""
        # Without O_CREAT: with it, the sysctl fs.protected_regular refuses another user's semaphore in the sticky /dev/shm, whatever its mode.
        return self._opened(*next(self._open(name, 0)))

    def create(self, name: str, mode: int, value: int, created: list[tuple[Any, int]]) -> Handle:
        """Create a semaphore. The list gets what was opened, and errno, in the step that opens it: no signal comes between."""
        created.extend(self._open(name, os.O_CREAT | os.O_EXCL, c_uint(mode), c_uint(value)))
        return self._opened(*created[0])

    def _open(self, name: str, *arguments: Any) -> Iterator[tuple[Any, int]]:
        return call(self.sem_open, self.encoded(name), *arguments)

    def encoded(self, name: str) -> bytes:
        encoded = os.fsencode(name)
        if (
            self.longest_name is not None and len(encoded) > self.longest_name
        ):  # some systems say EINVAL
            raise _oserror(errno.ENAMETOOLONG)
        return encoded

    def _opened(self, address: int, error: int) -> Handle:
        if address == self.sem_failed:
            raise _oserror(error)
        return Handle(self, address)

    @staticmethod
    def address_of(opened: Any) -> int:
        """Return the address of what was opened; it may be ``sem_failed``."""
        return opened  # type: ignore[no-any-return]

    def unlink(self, name: str) -> None:
        """Remove the name."""
        self._checked(self.sem_unlink, os.fsencode(name))

    def value(self, handle: Handle) -> int:
        """Return the number of tokens."""
        value = c_int()
        self._checked(self.sem_getvalue, handle.pointer, ctypes.byref(value))
        return max(
            0, value.value
        )  # POSIX lets a system tell the number of waiters as a negative value

    def _checked(self, function: Any, *arguments: Any) -> None:
        for status, error in call(function, *arguments):
            break
        if status:
            raise _oserror(self.failure(status, error))

    def post_all(self, handle: Handle, n: int) -> bool:
        """Put n tokens back, in C, so that no signal ends it half-way. Return whether that went well; there must be room for all."""
        return not any(islice(starmap(self.sem_post, repeat((handle.pointer,))), n))

    def _post_unless_full(self, pointer: Any) -> int:
        # For systems that do not check. A post of another process between the two calls is not noticed; where there is no value (macOS), no
        # maximum is.
        value = c_int()
        if self.sem_getvalue(pointer, value) == 0 and value.value >= self.value_max:
            return errno.EOVERFLOW
        return self.sem_post(pointer)  # type: ignore[no-any-return]


def _oserror(error: int) -> OSError:
    return OSError(error, os.strerror(error))


def _steady_clock(deadline: int) -> int:
    return deadline


def _wall_clock(deadline: int) -> int:
    return time.time_ns() + deadline - time.monotonic_ns()


def _time_left(deadline: int) -> int:
    return max(0, deadline - time.monotonic_ns())
