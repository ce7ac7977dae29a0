# SPDX-License-Identifier: Apache-2.0
"""What the fakes of other platforms' C libraries have in common.

A fake has the attributes of a library object, ``sem_open`` and so on. Each semaphore is a file,
mapped, with a semaphore of the host's in it (``sem_init``), so that threads and processes really
wait. Where a platform does as the host does, the attribute is the host's own function; where it
differs, it is Python code behind a C callback. Facts are from the project's notes, which name what
they were read in; what those do not say is not faked. No fake knows anything of
``named_semaphores``.
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
    c_size_t,
    c_ssize_t,
    c_uint,
    c_void_p,
)
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


def _load_host() -> Any:
    host = ctypes.CDLL(None, use_errno=True)
    host.sem_init.argtypes = [c_void_p, c_int, c_uint]
    for symbol in ("sem_wait", "sem_trywait", "sem_post"):
        getattr(host, symbol).argtypes = [c_void_p]
    host.sem_getvalue.argtypes = [c_void_p, c_void_p]
    host.sem_timedwait.argtypes = [c_void_p, POINTER(timespec)]
    if hasattr(host, "sem_clockwait"):
        host.sem_clockwait.argtypes = [c_void_p, c_int, POINTER(timespec)]
    host.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
    host.mmap.restype = c_ssize_t  # signed, as all addresses here, also on 32 bits
    return host


# A semaphore's address is an integer here: macOS's may be 0. sem_open is called with both its
# variadic arguments.
_ARGUMENTS: dict[str, list[Any]] = {
    "sem_open": [c_char_p, c_int, c_uint, c_uint],
    "sem_unlink": [c_char_p],
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
}


class Fake:
    """A C library, POSIX to the letter. Subclasses say what differs.

    Each symbol is a method ``do_<symbol>``, which raises OSError to fail, or one of the host's
    functions, if ``hosts`` names it; others are missing.
    """

    hosts: tuple[str, ...] = ("sem_wait", "sem_trywait", "sem_post", "sem_getvalue")
    files = ""  # what comes before a semaphore's name in its file's path
    sem_failed = 0
    longest_name: int | None = None  # in bytes, the slash included
    value_max = 2**31 - 1

    def __init__(self) -> None:
        global HOST
        if HOST is None:
            HOST = _load_host()
        self.lock = threading.RLock()  # a finalizer may make calls anywhere
        # By file (device and inode): the address. Nothing is ever closed: without SemLock the
        # library does not, and there is no SemLock that uses a fake.
        self.opened: dict[tuple[int, int], int] = {}
        for symbol, arguments in _ARGUMENTS.items():
            method = getattr(self, f"do_{symbol}", None)
            if method is not None:
                opens = symbol == "sem_open"
                prototype = CFUNCTYPE(c_ssize_t if opens else c_int, *arguments, use_errno=True)
                failed = self.sem_failed if opens else -1
                setattr(self, symbol, prototype(_with_errno(method, failed)))
            elif symbol in self.hosts:
                setattr(self, symbol, getattr(HOST, symbol))

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
        HOST.sem_init(sem, 1, value)
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
            self.opened[file] = HOST.mmap(None, SIZE, flags, mmap.MAP_SHARED, fd, 0)
        return self.opened[file]

    def do_sem_unlink(self, name: bytes) -> int:
        os.unlink(self.path(name))
        return 0


HOST = None  # type: Any  # PyPy refuses an annotated global


def _with_errno(method: Callable[..., int], failed: int) -> Callable[..., int]:
    def call(*arguments: Any) -> int:
        try:
            return method(*arguments)
        except OSError as error:
            ctypes.set_errno(error.errno or 0)
            return failed

    return call


def host(symbol: str, *arguments: Any) -> int:
    """Call the host's function; return 0, or raise the OSError.

    Result and errno are taken in one step: signal handlers run in the Python code of a fake too,
    and their calls set errno.
    """
    call = map(getattr(HOST, symbol), *((argument,) for argument in arguments))
    for status, error in zip(call, iter(ctypes.get_errno, None)):
        if status:
            raise OSError(error, symbol)
        break
    return 0


def wait_for(address: int, left: int) -> int:
    """Wait on the host for so many nanoseconds, whatever the wall clock does."""
    if hasattr(HOST, "sem_clockwait"):
        when = timespec(*divmod(max(0, time.monotonic_ns() + left), 1_000_000_000))
        return host("sem_clockwait", address, time.CLOCK_MONOTONIC, when)
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)  # the host's: a test may have set time.time_ns
    when = timespec(*divmod(max(0, now + left), 1_000_000_000))
    return host("sem_timedwait", address, when)


def wait_until(address: int, clock: int, when: Any) -> int:
    """Wait on the host until a time of the clock. Like musl and the BSDs, what is left of it is
    computed once, at the start.
    """
    now = time.time_ns() if clock == time.CLOCK_REALTIME else time.clock_gettime_ns(clock)
    return wait_for(address, nanoseconds(when) - now)
