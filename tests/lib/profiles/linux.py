# SPDX-License-Identifier: Apache-2.0
"""Linux: other C libraries than the one at hand.

From the sources of glibc 2.17 to 2.42 (sysdeps/pthread/sem_open.c, nptl/sem_timedwait.c,
sem_clockwait.c) and musl 1.2.5 (src/thread/sem_open.c, sem_timedwait.c, __timedwait.c), and from
runs on i386, armhf and musl.
"""

from __future__ import annotations

import ctypes
import errno
import time
from typing import Any

from named_semaphores import NamedSemaphore
from named_semaphores._libc import Libc

from .fake import Fake, timespec32, wait_until


class Glibc(Fake):
    files = "/dev/shm/sem."
    longest_name = 252

    def do_gnu_get_libc_version(self) -> int:
        raise AssertionError("nobody calls it, it is there")


class Glibc217(Glibc):
    """Of before 2.30: no sem_clockwait; and sem_timedwait sleeps until a time of the wall clock,
    however that is set meanwhile.

    sem_open is in libpthread there, as before 2.34, which is a matter of loading it: test_libc.py.
    """

    hosts = (*Fake.hosts, "sem_timedwait")


class Glibc217Semaphore(NamedSemaphore):
    _libc = Libc(Glibc217(), "linux")


class _Short:
    """The plain timed waits of 32-bit Linux: for old binaries, with a 32-bit time_t, whatever the
    caller passes.
    """

    plain_calls = 0

    def do_sem_timedwait(self, address: int, when: Any) -> int:
        return self.short_wait(address, time.CLOCK_REALTIME, when)

    def short_wait(self, address: int, clock: int, when: Any) -> int:
        self.plain_calls += 1
        return wait_until(address, clock, timespec32.from_address(ctypes.addressof(when.contents)))


class Glibc32(_Short, Glibc):
    """Of 32 bits, from 2.34 on: both kinds of symbols."""

    def do_sem_clockwait(self, address: int, clock: int, when: Any) -> int:
        return self.short_wait(address, clock, when)

    def do___sem_clockwait64(self, address: int, clock: int, when: Any) -> int:
        return wait_until(address, clock, when.contents)

    def do___sem_timedwait64(self, address: int, when: Any) -> int:
        return wait_until(address, time.CLOCK_REALTIME, when.contents)


class Glibc32Semaphore(NamedSemaphore):
    _libc = Libc(Glibc32(), "linux")


class Musl(Fake):
    """sem_open takes no bits for execution, and no names of directories."""

    files = "/dev/shm/"
    longest_name = 256

    def path(self, name: bytes) -> bytes:
        if name.lstrip(b"/") in (b".", b".."):
            raise OSError(errno.EINVAL, "name")
        return super().path(name)

    def new_file(self, path: bytes, mode: int) -> int:
        return super().new_file(path, mode & 0o666)

    def do_sem_timedwait(self, address: int, when: Any) -> int:
        return wait_until(address, time.CLOCK_REALTIME, when.contents)


class MuslSemaphore(NamedSemaphore):
    _libc = Libc(Musl(), "linux")


class Musl32(_Short, Musl):
    """Of 32 bits, from 1.2 on; there is no sem_clockwait."""

    def do___sem_timedwait_time64(self, address: int, when: Any) -> int:
        return wait_until(address, time.CLOCK_REALTIME, when.contents)


class Musl32Semaphore(NamedSemaphore):
    _libc = Libc(Musl32(), "linux")
