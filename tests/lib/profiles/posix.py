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
import itertools
import os
import time
from ctypes import c_int
from typing import Any, Callable

from .fake import (
    TIMER_ABSTIME,
    Fake,
    host,
    nanoseconds,
    timespec32,
    timespec_netbsd,
    wait_for,
    wait_until,
)


class _Timed(Fake):
    def do_sem_timedwait(self, address: int, when: Any) -> int:
        return wait_until(address, time.CLOCK_REALTIME, when.contents)


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


class _Short:
    """32-bit Linux. Plain timed waits are for old binaries: with a 32-bit time_t, whatever the
    caller passes.
    """

    def do_sem_timedwait(self, address: int, when: Any) -> int:
        return _short_wait(address, time.CLOCK_REALTIME, when)


def _short_wait(address: int, clock: int, when: Any) -> int:
    return wait_until(address, clock, timespec32.from_address(ctypes.addressof(when.contents)))


class Glibc32(_Short, Glibc217):
    """From 2.34 on: both kinds of symbols."""

    def do_sem_clockwait(self, address: int, clock: int, when: Any) -> int:
        return _short_wait(address, clock, when)

    def do___sem_clockwait64(self, address: int, clock: int, when: Any) -> int:
        return wait_until(address, clock, when.contents)

    def do___sem_timedwait64(self, address: int, when: Any) -> int:
        return wait_until(address, time.CLOCK_REALTIME, when.contents)


class Musl32(_Short, Musl):
    """From 1.2 on; there is no sem_clockwait."""

    def do___sem_timedwait_time64(self, address: int, when: Any) -> int:
        return wait_until(address, time.CLOCK_REALTIME, when.contents)


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
        self.descriptors: dict[int, int] = {}

    def new_file(self, path: bytes, mode: int) -> int:
        fd = super().new_file(path, mode)
        os.fchmod(fd, mode)
        return fd

    def do_sem_open(self, name: bytes, oflag: int, mode: int, value: int) -> int:
        address = super().do_sem_open(name, oflag, mode, value)
        with self.lock:
            free = (number for number in itertools.count() if number not in self.descriptors)
            descriptor = next(free)
            self.descriptors[descriptor] = address
        return descriptor

    def _call(self, symbol: str, descriptor: int) -> int:
        if descriptor not in self.descriptors:
            raise OSError(errno.EBADF, "no descriptor of a semaphore")
        return host(symbol, self.descriptors[descriptor])

    def do_sem_wait(self, descriptor: int) -> int:
        return self._call("sem_wait", descriptor)

    def do_sem_trywait(self, descriptor: int) -> int:
        return self._call("sem_trywait", descriptor)

    def do_sem_post(self, descriptor: int) -> int:
        return self._call("sem_post", descriptor)

    def do_sem_getvalue(self, descriptor: int, value: Any) -> int:
        raise OSError(errno.ENOSYS, "sem_getvalue")


class FreeBSD(_Timed):
    files = "/tmp/SEMD"
    longest_name = 252

    def do_sem_clockwait_np(
        self, address: int, clock: int, flags: int, when: Any, left: int | None
    ) -> int:
        if flags == TIMER_ABSTIME:
            return wait_until(address, clock, when.contents)
        return wait_for(address, nanoseconds(when.contents))


class DragonFly(_Timed):
    files = "/dev/shm/~"


class NetBSD(Fake):
    """Values up to 2**32 - 1 are allowed; the host does not allow them: EINVAL. So on OpenBSD."""

    files = "/dev/shm/~"
    longest_name: int | None = 255

    def do_sem_timedwait(self, address: int, when: Any) -> int:
        wide = timespec_netbsd.from_address(ctypes.addressof(when.contents))
        return wait_until(address, time.CLOCK_REALTIME, wide)


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

    def do_sem_reltimedwait_np(self, address: int, left: Any) -> int:
        return wait_for(address, nanoseconds(left.contents))


class Cygwin(Fake):
    """Timed waits return their errno, and leave errno alone; sem_post past the maximum does nothing
    and says it worked.
    """

    files = "/dev/shm/sem."
    longest_name = 251
    value_max = 1147483648
    hosts = ("sem_wait", "sem_trywait", "sem_getvalue")

    def do_sem_timedwait(self, address: int, when: Any) -> int:
        return _positive(wait_until, address, time.CLOCK_REALTIME, when.contents)

    def do_sem_clockwait(self, address: int, clock: int, when: Any) -> int:
        return _positive(wait_until, address, clock, when.contents)

    def do_sem_post(self, address: int) -> int:
        value = c_int()
        host("sem_getvalue", address, ctypes.byref(value))
        return 0 if value.value >= self.value_max else host("sem_post", address)


def _positive(wait: Callable[..., int], *arguments: Any) -> int:
    before = ctypes.get_errno()
    try:
        return wait(*arguments)
    except OSError as error:
        ctypes.set_errno(before)
        return error.errno or 0


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
