# SPDX-License-Identifier: Apache-2.0
"""What the fakes of other platforms' C libraries have in common.

A fake has the attributes of a library object, ``sem_open`` and so on. Where a platform does as the
host does, the attribute is the host's own function; where it differs, it is Python code behind a C
callback. Facts are from the sources that ``posix.py`` and ``sysv.py`` name; what those do not say
is not faked. No fake knows anything of ``named_semaphores``.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import threading
import time
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_long,
    c_short,
    c_size_t,
    c_ssize_t,
    c_uint,
    c_ushort,
    c_void_p,
)
from functools import cache
from typing import Any, Callable

SIZE = 32 if ctypes.sizeof(c_void_p) == 8 else 16  # of the host's sem_t, glibc's and musl's
TIMER_ABSTIME = 1


class timespec(ctypes.Structure):
    """What plain symbols take."""

    _fields_ = [("tv_sec", c_long), ("tv_nsec", c_long)]


class timespec32(ctypes.Structure):
    """That of 32-bit programs with a 32-bit time_t."""

    _fields_ = [("tv_sec", c_int32), ("tv_nsec", c_int32)]


class timespec64(ctypes.Structure):
    """That of 32-bit programs with a 64-bit time_t: its padding comes last, or on big-endian
    machines before the nanoseconds.
    """

    _fields_ = [
        ("tv_sec", c_int64),
        *[("tv_nsec", c_int32), ("padding", c_int32)][:: 1 if sys.byteorder == "little" else -1],
    ]


class timespec_netbsd(ctypes.Structure):
    """NetBSD's and OpenBSD's, also on 32 bits."""

    _fields_ = [("tv_sec", c_int64), ("tv_nsec", c_long)]


def nanoseconds(when: Any) -> int:
    """Return a timespec's time. EINVAL, as everywhere, if its second part is out of range."""
    if not 0 <= when.tv_nsec < 1_000_000_000:
        raise OSError(errno.EINVAL, "tv_nsec")
    return when.tv_sec * 1_000_000_000 + when.tv_nsec  # type: ignore[no-any-return]


class sembuf(ctypes.Structure):
    _fields_ = [("sem_num", c_ushort), ("sem_op", c_short), ("sem_flg", c_short)]


# A POSIX semaphore's address is an integer here: macOS's may be 0. sem_open and semctl are called
# with all their variadic arguments, or semctl with three: the fourth may be whatever is in its
# place.
PROTOTYPES: dict[str, list[Any]] = {
    "sem_open": [c_char_p, c_int, c_uint, c_uint],
    "sem_unlink": [c_char_p],
    "sem_init": [c_void_p, c_int, c_uint],
    "sem_getvalue": [c_ssize_t, POINTER(c_int)],
    "sem_wait": [c_ssize_t],
    "sem_trywait": [c_ssize_t],
    "sem_post": [c_ssize_t],
    "sem_timedwait": [c_ssize_t, POINTER(timespec)],
    "sem_clockwait": [c_ssize_t, c_int, POINTER(timespec)],
    "sem_clockwait_np": [c_ssize_t, c_int, c_int, POINTER(timespec), c_void_p],
    "__sem_clockwait64": [c_ssize_t, c_int, POINTER(timespec64)],
    "__sem_timedwait64": [c_ssize_t, POINTER(timespec64)],
    "__sem_timedwait_time64": [c_ssize_t, POINTER(timespec64)],
    "gnu_get_libc_version": [],
    "semget": [c_int, c_int, c_int],
    "semctl": [c_int, c_int, c_int, c_void_p],
    "__semctl50": [c_int, c_int, c_int, c_void_p],
    "semop": [c_int, POINTER(sembuf), c_size_t],
    "semtimedop": [c_int, POINTER(sembuf), c_size_t, POINTER(timespec)],
    "__semtimedop64": [c_int, POINTER(sembuf), c_size_t, POINTER(timespec64)],
    "__semtimedop_time64": [c_int, POINTER(sembuf), c_size_t, POINTER(timespec64)],
}


@cache
def host_library() -> Any:
    """Return the running system's, which must be Linux."""
    library = ctypes.CDLL(None, use_errno=True)
    for symbol, arguments in PROTOTYPES.items():
        if hasattr(library, symbol):
            getattr(library, symbol).argtypes = arguments
    library.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
    library.mmap.restype = c_ssize_t  # signed, as all addresses here, also on 32 bits
    return library


def host(symbol: str, *arguments: Any) -> int:
    """Call the host's function; return what it returns, or raise the OSError.

    Result and errno are taken in one step: signal handlers run in the Python code of a fake too,
    and their calls set errno.
    """
    call = map(getattr(host_library(), symbol), *((argument,) for argument in arguments))
    for status, error in zip(call, iter(ctypes.get_errno, None)):
        if status == -1:
            raise OSError(error, symbol)
        break
    return status  # type: ignore[no-any-return]


class Library:
    """Each symbol is a method ``do_<symbol>``, which raises OSError to fail, or one of the host's
    functions, if ``hosts`` names it; others are missing.
    """

    hosts: tuple[str, ...] = ()
    sem_failed = 0

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a finalizer may make calls anywhere
        for symbol, arguments in PROTOTYPES.items():
            method = getattr(self, f"do_{symbol}", None)
            if method is not None:
                opens = symbol == "sem_open"
                prototype = CFUNCTYPE(c_ssize_t if opens else c_int, *arguments, use_errno=True)
                failed = self.sem_failed if opens else -1
                setattr(self, symbol, prototype(_with_errno(method, failed)))
            elif symbol in self.hosts:
                setattr(self, symbol, getattr(host_library(), symbol))


def _with_errno(method: Callable[..., int], failed: int) -> Callable[..., int]:
    def call(*arguments: Any) -> int:
        try:
            return method(*arguments)
        except OSError as error:
            ctypes.set_errno(error.errno or 0)
            return failed

    return call


class Fake(Library):
    """POSIX semaphores, to the letter. Subclasses say what differs.

    Each is a file, mapped, with a semaphore of the host's in it (``sem_init``), so that threads and
    processes really wait.
    """

    hosts = ("sem_wait", "sem_trywait", "sem_post", "sem_getvalue")
    files = ""  # what comes before a semaphore's name in its file's path
    longest_name: int | None = None  # in bytes, the slash included
    value_max = 2**31 - 1

    def __init__(self) -> None:
        super().__init__()
        # By file (device and inode): the address. Nothing is ever closed: without SemLock the
        # library does not, and there is no SemLock that uses a fake.
        self.opened: dict[tuple[int, int], int] = {}

    def path(self, name: bytes) -> bytes:
        """Return where the semaphore's file is; OSError for a name this platform refuses."""
        assert name.startswith(b"/"), "FreeBSD, NetBSD, Cygwin and illumos need it"
        if self.longest_name is not None and len(name) > self.longest_name:
            raise OSError(errno.ENAMETOOLONG, "name")
        return os.fsencode(self.files) + name[1:]

    def do_sem_open(self, name: bytes, oflag: int, mode: int, value: int) -> int:
        path = self.path(name)
        # Otherwise there would be races.
        assert oflag in (0, os.O_CREAT | os.O_EXCL), "it creates anew or links"
        with self.lock:
            if oflag:
                fd = self._create(path, mode, value)
            else:
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                return self._map(fd)
            finally:
                os.close(fd)

    def _create(self, path: bytes, mode: int, value: int) -> int:
        if value > self.value_max:
            raise OSError(errno.EINVAL, "value")
        sem = ctypes.create_string_buffer(SIZE)
        host("sem_init", sem, 1, value)
        # Another name at first, so that nobody sees a semaphore half made.
        hidden = os.path.dirname(path) + b"/~%d.%d" % (os.getpid(), threading.get_ident())
        fd = self.new_file(hidden, mode)
        try:
            os.write(fd, sem.raw)
            os.link(hidden, path)
        except BaseException:
            os.close(fd)
            raise
        finally:
            os.unlink(hidden)
        return fd

    def new_file(self, path: bytes, mode: int) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def _map(self, fd: int) -> int:
        status = os.fstat(fd)
        file = (status.st_dev, status.st_ino)
        if file not in self.opened:
            flags = mmap.PROT_READ | mmap.PROT_WRITE
            self.opened[file] = host("mmap", None, SIZE, flags, mmap.MAP_SHARED, fd, 0)
        return self.opened[file]

    def do_sem_unlink(self, name: bytes) -> int:
        os.unlink(self.path(name))
        return 0


def wait_until(address: int, clock: int, when: Any) -> int:
    """Wait on the host until a time of the clock. Like musl and the BSDs, what is left of it is
    computed once, at the start.
    """
    now = time.time_ns() if clock == time.CLOCK_REALTIME else time.clock_gettime_ns(clock)
    left = nanoseconds(when) - now
    if hasattr(host_library(), "sem_clockwait"):
        until = timespec(*divmod(max(0, time.monotonic_ns() + left), 1_000_000_000))
        return host("sem_clockwait", address, time.CLOCK_MONOTONIC, until)
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)  # the host's: a test may have set time.time_ns
    until = timespec(*divmod(max(0, now + left), 1_000_000_000))
    return host("sem_timedwait", address, until)
