# SPDX-License-Identifier: Apache-2.0
"""The C library's named semaphores through ctypes: every symbol, prototype and constant.

``Libc`` binds the library object it is given, so that a test can hand in one that behaves like
another platform's. ``SemLockLibc`` makes hot calls by the interpreter's own C object, in half the
time.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from _operator import not_  # see _base
from ctypes import c_char_p, c_int, c_int64, c_long, c_ssize_t, c_uint, c_void_p
from itertools import chain, repeat, starmap
from types import MethodType

from ._common import FIRST_SLICE, TYPE_CHECKING

try:  # with the package: a fork in another thread would cut a later import off in the child
    from _multiprocessing import SemLock  # type: ignore[import-not-found,unused-ignore]
except ImportError:  # an interpreter built without it
    SemLock = None

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, TypeVar

    System = TypeVar("System")

# --- For System V semaphores, too


def system_of(platform: str, systems: Mapping[str, System]) -> System | None:
    """Return what the table has for this ``sys.platform``, which may end with a version."""
    return next((found for prefix, found in systems.items() if platform.startswith(prefix)), None)


def address_of(lib: Any, symbol: str) -> int:
    """Return the address of a function; a prototype on it leaves the library object as it is."""
    return ctypes.cast(getattr(lib, symbol), c_void_p).value or 0


def call(function: Any, *arguments: Any) -> Iterator[int]:
    """Return an iterator that calls the function, and gives its result, then errno.

    ``status, error = call(...)`` takes both in one instruction, so no signal handler changes errno
    in between. ``list.extend`` keeps the result even if an audit hook fails in ``get_errno``.
    """
    return chain(starmap(function, (arguments,)), starmap(ctypes.get_errno, repeat((), 1)))


def timespec(time_t: Any, long: Any) -> Any:
    """Return ``struct timespec`` with these types."""
    fields = [("tv_sec", time_t), ("tv_nsec", long)]
    return type("timespec", (ctypes.Structure,), {"_fields_": fields})


# Made here, because at the interpreter's end CPython 3.14 can make no new type.
Timespec, TimespecBSD = timespec(c_long, c_long), timespec(c_int64, c_long)
# Linux's 64-bit time on 32 bits: an int64 fits the long and its padding, in either byte order.
Timespec64 = timespec(c_int64, c_int64)


class Ignored(c_int):
    """The type of a parameter that the C function does not have: drops an argument of __exit__."""

    from_param = callable  # a cheap builtin; the C function does not look at the bool it returns


def bind(lib: Any, symbol: str, *argtypes: Any, keep_gil: bool = False) -> Any:
    """Return a function of the library, which sets ``ctypes.get_errno()``."""
    prototype: Any = ctypes.CFUNCTYPE(c_int, *argtypes, use_errno=True)
    if keep_gil:  # as PYFUNCTYPE, which cannot save errno
        flags = prototype._flags_ | getattr(ctypes, "_FUNCFLAG_PYTHONAPI", 0)  # not PyPy
        members = {"_restype_": c_int, "_argtypes_": argtypes, "_flags_": flags}
        prototype = type("prototype", prototype.__bases__, members)
    function: Any = prototype(address_of(lib, symbol))
    function.library = lib  # a test's callbacks must live as long as what calls them
    return function


# --- POSIX named semaphores

# sizeof(sem_t) of glibc and of musl, and the programs that have another.
SIZE, OTHERS = (32, "32-bit") if sys.maxsize > 2**32 else (16, "64-bit")

# What a library cannot be asked. Libc has the defaults, those of an unknown POSIX system.
_LINUX: dict[str, Any] = {
    "libraries": (None, "libpthread.so.0"),  # glibc before 2.34 has sem_* in libpthread
    "longest_name": 252,
    "value_max": 2**31 - 1,
    "opens_any_file": True,
    "files": "/dev/shm/sem.",
}
_MUSL = {**_LINUX, "longest_name": 256, "files": "/dev/shm/"}
# XNU: a handle is a file descriptor, so 0 is a valid one.
_MACOS = {"sem_failed": -1, "longest_name": 30, "value_max": 32767}
_FREEBSD = {
    # A time has 32 bits on i386 alone, which aligns 64-bit integers to 4 bytes.
    "timespec": Timespec if ctypes.alignment(c_int64) == 4 else TimespecBSD,
    "longest_name": 252,
    "value_max": 2**31 - 1,
    "files": "/tmp/SEMD",
}
_DRAGONFLY = {"libraries": (None, "libpthread.so")}
# NetBSD and OpenBSD allow values up to 2**32 - 1, but sem_getvalue's int does not tell them.
_OPENBSD = {**_DRAGONFLY, "value_max": 2**31 - 1, "timespec": TimespecBSD}
_CYGWIN = {
    "libraries": ("cygwin1.dll", "msys-2.0.dll"),  # the process itself is only the .exe
    "longest_name": 251,
    "value_max": 1147483648,
    "files": "/dev/shm/sem.",
}
_NOWHERE: dict[str, Any] = {"libraries": ()}  # Emscripten's stubs do nothing and report success

_SYSTEMS: dict[str, dict[str, Any]] = {
    "linux": _LINUX,
    "darwin": _MACOS,
    "freebsd": _FREEBSD,
    "netbsd": {**_OPENBSD, "longest_name": 255},
    "openbsd": _OPENBSD,
    "dragonfly": _DRAGONFLY,
    "sunos": {"sem_failed": -1, "longest_name": 255},
    "cygwin": _CYGWIN,
    "msys": _CYGWIN,
    "win32": _NOWHERE,
    "emscripten": _NOWHERE,
    "wasi": _NOWHERE,
}


def load(platform: str = sys.platform) -> ctypes.CDLL:
    """Return the library that has ``sem_open`` here. NotImplementedError where there is none."""
    for name in (system_of(platform, _SYSTEMS) or {}).get("libraries", Libc.libraries):
        try:
            library = ctypes.CDLL(name)
        except (OSError, TypeError):
            continue
        if hasattr(library, "sem_open"):
            return library
    raise NotImplementedError(
        f"this system ({platform}) has no POSIX named semaphores; on Windows, run Python under "
        "Cygwin, MSYS2 or WSL"
    )


class Handle:
    """An open semaphore and its calls, as ``_base`` says."""

    is_robust = False
    slices = (FIRST_SLICE, 100_000_000, 1_000_000_000)

    def __init__(self, libc: Libc, pointer: int) -> None:
        self.libc, self.is_steady = libc, libc.is_steady
        self.pointer = pointer  # on macOS, a descriptor
        self.tries: Iterator[Any] = map(not_, starmap(libc.sem_trywait, repeat((pointer,))))
        self.first_waits: Iterator[Any] = self.tries
        self.posts: Iterator[Any] = starmap(libc.sem_post, repeat((pointer,)))
        # The method is C code, which calls libc.exit with the pointer.
        self.exit: Any = MethodType(libc.exit, pointer)

    def value(self) -> int | None:
        """Return the number of tokens. None: the system does not tell."""
        value = c_int()
        if self.libc.sem_getvalue(self.pointer, ctypes.byref(value)):  # macOS: ENOSYS
            return None
        return max(0, value.value)  # POSIX allows the number of waiters, as a negative value

    def try_once(self) -> Iterator[int]:
        return call(self.libc.sem_trywait, self.pointer)

    def wait(self, nanoseconds: int) -> Iterator[int]:
        libc = self.libc
        if libc.sem_timedwait is None:
            return call(libc.sem_wait, self.pointer)  # without an end
        return call(libc.sem_timedwait, self.pointer, *libc.until(nanoseconds))


class Libc:
    """The sem_* functions of one library. An opened semaphore stays open until the process ends.

    Methods raise OSError with the plain errno; ``core`` adds what helps.
    """

    libraries: tuple[str | None, ...] = (None,)  # may have sem_open; None is the process itself
    sem_failed = 0  # what a failed sem_open returns
    longest_name = sys.maxsize  # in bytes, the slash included
    value_max = 0  # 0: sysconf tells
    timespec: Any = Timespec  # what the plain symbols of timed waits take
    opens_any_file = False  # sem_open takes a file of any size for a semaphore
    files: str | None = None  # the path of a semaphore's file, up to its name; None: it has no file

    sem_timedwait: Any = None  # or the best wait that the library has
    is_steady = False

    def __init__(self, lib: Any, platform: str = sys.platform) -> None:
        self.lib, self.platform = lib, platform
        self.is_glibc = hasattr(lib, "gnu_get_libc_version")
        system = system_of(platform, _SYSTEMS)
        if system is _LINUX and not self.is_glibc:
            system = _MUSL
        self.__dict__.update(system or {})
        self.value_max = self.value_max or os.sysconf("SC_SEM_VALUE_MAX")
        # sem_t *sem_open(const char *name, int oflag, ... /* mode_t mode, unsigned int value */);
        # glibc's takes a lock that fork does not reset. Without the GIL, a fork in another thread
        # would copy it locked, and the child's next sem_open would hang.
        # Two parameters are declared, so that ctypes makes a variadic call: Apple's arm64 passes
        # the other two on the stack. The result is an integer: as a c_void_p, macOS's handle 0
        # would become None.
        self.sem_open = bind(lib, "sem_open", c_char_p, c_int, keep_gil=True)
        self.sem_open.restype = c_ssize_t
        # int sem_unlink(const char *name);
        self.sem_unlink = bind(lib, "sem_unlink", c_char_p)
        # int sem_getvalue(sem_t *sem, int *value);
        pointer = ctypes.POINTER(c_int)
        self.sem_getvalue = bind(lib, "sem_getvalue", c_void_p, pointer, keep_gil=True)
        # int sem_wait(sem_t *sem);
        self.sem_wait = bind(lib, "sem_wait", c_void_p)
        # int sem_trywait(sem_t *sem);
        self.sem_trywait = bind(lib, "sem_trywait", c_void_p, keep_gil=True)
        # int sem_post(sem_t *sem);
        self.sem_post = bind(lib, "sem_post", c_void_p, keep_gil=True)
        # sem_post once more, to end a with statement: drops the exception, and returns None.
        self.exit = bind(lib, "sem_post", c_void_p, Ignored, Ignored, Ignored, keep_gil=True)
        self.exit.restype = None
        self._choose_wait()

    def _choose_wait(self) -> None:
        """Take the best timed wait this library has: on the clock that does not jump, if it can."""
        # Asked for by symbol, since neither Python's time_t nor ctypes' tells: on 32 bits the plain
        # symbols of glibc and musl keep the 32-bit time of old binaries.
        plain, wide = self.timespec, Timespec64
        monotonic = (time.CLOCK_MONOTONIC,)
        # Symbol, timespec, arguments before and after it. Those without a clock have the wall's.
        waits: tuple[Any, ...] = (
            # int sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *abstime);
            ("__sem_clockwait64", wide, monotonic, ()),  # glibc 2.34
            ("sem_clockwait", plain, monotonic, ()),  # glibc 2.30, Cygwin 3.3
            # int sem_clockwait_np(sem_t *sem, clockid_t clock, int flags,
            #     const struct timespec *abstime, struct timespec *left);  FreeBSD
            ("sem_clockwait_np", plain, (*monotonic, 1), (None,)),  # 1: TIMER_ABSTIME
            # int sem_timedwait(sem_t *sem, const struct timespec *abstime);
            ("__sem_timedwait_time64", wide, (), ()),  # musl
            ("sem_timedwait", plain, (), ()),
        )
        best = next((wait for wait in waits if hasattr(self.lib, wait[0])), None)
        if best is None:
            return
        symbol, self._timespec, self._before, self._after = best
        before, after = [c_int] * len(self._before), [c_void_p] * len(self._after)
        types = (c_void_p, *before, ctypes.POINTER(self._timespec), *after)
        self.sem_timedwait = bind(self.lib, symbol, *types)
        # On the wall clock, most systems compute what is left and sleep that long, so that a step
        # of the clock costs a slice at most. glibc hands the time itself to the kernel
        # (futex_abstimed_wait), and sleeps on if the clock is set back.
        self.is_steady = bool(before) or not self.is_glibc

    def until(self, nanoseconds: int) -> tuple[Any, ...]:
        """Return what ``sem_timedwait`` takes after the semaphore, to wait for so long."""
        clock = time.CLOCK_MONOTONIC if self._before else time.CLOCK_REALTIME
        end = time.clock_gettime_ns(clock) + nanoseconds
        return (*self._before, self._timespec(*divmod(end, 1_000_000_000)), *self._after)

    def link(self, name: str) -> Handle:
        # Without O_CREAT: with it, the sysctl fs.protected_regular refuses another user's semaphore
        # in the sticky /dev/shm, whatever its mode.
        return Handle(self, self._open(name, 0))

    def create(self, name: str, mode: int, value: int) -> Handle:
        return Handle(self, self._open_new(name, mode, value))

    def _open_new(self, name: str, mode: int, value: int) -> int:
        return self._open(name, os.O_CREAT | os.O_EXCL, c_uint(mode), c_uint(value))

    def _open(self, name: str, *arguments: Any) -> int:
        pointer, error = call(self.sem_open, name.encode(), *arguments)
        if pointer == self.sem_failed:
            raise OSError(error, os.strerror(error))
        return pointer

    def unlink(self, name: str) -> None:
        status, error = call(self.sem_unlink, name.encode())
        if status:
            raise OSError(error, os.strerror(error))


# The arguments of SemLock's calls, for all handles.
_TRY = repeat((False,))
_FIRST_WAIT = repeat((True, FIRST_SLICE / 1e9))
_NOTHING: Iterator[tuple[()]] = repeat(())


class SemLockHandle(Handle):
    """The same with a SemLock. Later waits are ctypes', on the clock that does not jump."""

    def __init__(self, libc: Libc, lock: Any) -> None:
        self.libc, self.is_steady = libc, libc.is_steady
        self.pointer = lock.handle  # the calls keep the lock, which closes it
        self.tries = starmap(lock.acquire, _TRY)
        # Given a time, SemLock polls where there is no timed wait.
        self.first_waits = starmap(lock.acquire, _FIRST_WAIT) if libc.sem_timedwait else self.tries
        self.posts = starmap(lock.release, _NOTHING)
        self.exit = lock.__exit__


class SemLockLibc(Libc):
    """The same with ``_multiprocessing.SemLock`` (CPython, PyPy).

    ``SemLock._rebuild(address, 1, maximum, None)`` takes over an open semaphore; with a name
    instead of None it opens that name. Its deallocator closes the semaphore; a finalizer could do
    so before the last call. Both keep the GIL. ``multiprocessing`` itself is never imported: its
    resource tracker removes other processes' names.
    """

    def link(self, name: str) -> Handle:
        return SemLockHandle(self, SemLock._rebuild(0, 1, self.value_max, name))

    def create(self, name: str, mode: int, value: int) -> Handle:
        if mode == 0o600:  # the only mode that SemLock can create
            return SemLockHandle(self, SemLock(1, value, self.value_max, name, False))
        pointer = self._open_new(name, mode, value)
        return SemLockHandle(self, SemLock._rebuild(pointer, 1, self.value_max, None))


_system: Libc | None = None


def system() -> Libc:
    """Return the running system's library. NotImplementedError where there is none."""
    global _system
    if _system is None:
        # Cygwin and illumos count no openings: SemLock's sem_close would end all of the name.
        counts = not sys.platform.startswith(("cygwin", "msys", "sunos"))
        engine = SemLockLibc if counts and hasattr(SemLock, "_rebuild") else Libc
        _system = engine(load())
    return _system
