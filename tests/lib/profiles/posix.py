# SPDX-License-Identifier: Apache-2.0
"""The POSIX semaphores of other platforms, as ``fake.py`` says.

Facts are from sources: glibc 2.17 to 2.42 (sysdeps/pthread/sem_open.c, nptl/sem_timedwait.c,
sem_clockwait.c), musl 1.2.5 (src/thread/sem_open.c, sem_timedwait.c, __timedwait.c), XNU 11417
(bsd/kern/posix_sem.c, bsd/sys/posix_sem.h) and Libc, FreeBSD (lib/libc/gen/sem_new.c, lib/libthr),
NetBSD (lib/librt/sem.c, sys/kern/uipc_sem.c), OpenBSD (lib/librthread/rthread_sem.c), DragonFly
(lib/libthread_xu), Cygwin (winsup/cygwin/posix_ipc.cc, thread.cc), illumos
(usr/src/lib/libc/port/rt/sem.c, threads/synch.c); and from runs on i386, armhf and musl. Where the
kernel has the semaphores, files stand in for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from ctypes import c_int
from typing import Any, Callable

from .fake import (
    TIMER_ABSTIME,
    Fake,
    host,
    timespec,
    timespec32,
    timespec64,
    timespec_netbsd,
    wait_until,
)


def _wait(struct: Any) -> Callable[..., int]:
    """Return a symbol that waits until a time of a clock: the given one, or the wall clock.

    The symbol takes the struct for a time, whatever the caller passes.
    """

    def wait(_: Fake, address: int, *arguments: Any) -> int:
        clock = arguments[0] if len(arguments) > 1 else time.CLOCK_REALTIME
        when = struct.from_address(ctypes.addressof(arguments[-1].contents))
        return wait_until(address, clock, when)

    return wait


class _Timed(Fake):
    do_sem_timedwait = _wait(timespec)


class Musl(_Timed):
    """sem_open takes no bits for execution."""

    files = "/dev/shm/"
    longest_name = 256

    def new_file(self, path: bytes, mode: int) -> int:
        return super().new_file(path, mode & 0o666)


class Glibc217(Fake):
    """Of before 2.30: no sem_clockwait; and sem_timedwait sleeps until a time of the wall clock,
    however that is set meanwhile.
    """

    files = "/dev/shm/sem."
    longest_name = 252
    hosts = (*Fake.hosts, "sem_timedwait")

    def do_gnu_get_libc_version(self) -> int:
        raise AssertionError("nobody calls it, it is there")


# 32 bits: plain timed waits are for old binaries, with a 32-bit time_t.


class Glibc32(Glibc217):
    """From 2.34 on: both kinds of symbols."""

    do_sem_timedwait = do_sem_clockwait = _wait(timespec32)
    do___sem_timedwait64 = do___sem_clockwait64 = _wait(timespec64)


class Musl32(Musl):
    """From 1.2 on; there is no sem_clockwait."""

    do_sem_timedwait = _wait(timespec32)
    do___sem_timedwait_time64 = _wait(timespec64)


def _of_descriptor(symbol: str) -> Callable[..., int]:
    def call(self: MacOS, descriptor: int) -> int:
        return host(symbol, self.descriptors[descriptor])

    return call


class MacOS(Fake):
    """A handle is a file descriptor, a new one each time, 0 among them. There is no timed wait and
    no value; no maximum is checked, save at creation; the mode is taken without the umask.
    """

    files = "/dev/shm/~"
    sem_failed = -1
    longest_name = 30
    value_max = 32767
    hosts = ()

    def __init__(self) -> None:
        super().__init__()
        self.descriptors: list[int] = []  # by descriptor, the semaphore's address

    def new_file(self, path: bytes, mode: int) -> int:
        fd = super().new_file(path, mode)
        os.fchmod(fd, mode)
        return fd

    def do_sem_open(self, name: bytes, oflag: int, mode: int, value: int) -> int:
        address = super().do_sem_open(name, oflag, mode, value)
        with self.lock:
            self.descriptors.append(address)
            return len(self.descriptors) - 1

    do_sem_wait = _of_descriptor("sem_wait")
    do_sem_trywait = _of_descriptor("sem_trywait")
    do_sem_post = _of_descriptor("sem_post")

    def do_sem_getvalue(self, descriptor: int, value: Any) -> int:
        raise OSError(errno.ENOSYS, "sem_getvalue")


class FreeBSD(_Timed):
    files = "/tmp/SEMD"
    longest_name = 252

    def do_sem_clockwait_np(
        self, address: int, clock: int, flags: int, when: Any, left: int | None
    ) -> int:
        assert flags == TIMER_ABSTIME
        return wait_until(address, clock, when.contents)


class DragonFly(_Timed):
    files = "/dev/shm/~"


class NetBSD(Fake):
    """Values up to 2**32 - 1 are allowed; the host does not allow them: EINVAL. So on OpenBSD."""

    files = "/dev/shm/~"
    longest_name: int | None = 255

    do_sem_timedwait = _wait(timespec_netbsd)


class OpenBSD(NetBSD):
    """A file's name is a hash, which has room for any name; a semaphore is its maker's alone."""

    longest_name = None

    def new_file(self, path: bytes, mode: int) -> int:
        fd = super().new_file(path, mode)
        os.fchmod(fd, 0o600)
        return fd


class Illumos(_Timed):
    files = "/dev/shm/~"
    sem_failed = -1
    longest_name = 255


def _tells(wait: Callable[..., int]) -> Callable[..., int]:
    """Return the same, but it returns its errno, and leaves errno alone."""

    def call(*arguments: Any) -> int:
        before = ctypes.get_errno()
        try:
            return wait(*arguments)
        except OSError as error:
            ctypes.set_errno(before)
            return error.errno or 0

    return call


class Cygwin(Fake):
    """sem_post past the maximum does nothing and says it worked."""

    files = "/dev/shm/sem."
    longest_name = 251
    value_max = 1147483648
    hosts = ("sem_wait", "sem_trywait", "sem_getvalue")
    do_sem_timedwait = do_sem_clockwait = _tells(_wait(timespec))

    def do_sem_post(self, address: int) -> int:
        value = c_int()
        host("sem_getvalue", address, ctypes.byref(value))
        return 0 if value.value >= self.value_max else host("sem_post", address)


FAKES: dict[str, tuple[type[Fake], str]] = {
    "macos": (MacOS, "darwin"),
    "musl": (Musl, "linux"),
    "musl32": (Musl32, "linux"),
    "glibc2.17": (Glibc217, "linux"),
    "glibc32": (Glibc32, "linux"),
    "freebsd": (FreeBSD, "freebsd14"),
    "netbsd": (NetBSD, "netbsd10"),
    "openbsd": (OpenBSD, "openbsd7"),
    "dragonfly": (DragonFly, "dragonfly6"),
    "illumos": (Illumos, "sunos5"),
    "cygwin": (Cygwin, "cygwin"),
}
