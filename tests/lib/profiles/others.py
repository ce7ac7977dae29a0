# SPDX-License-Identifier: Apache-2.0
"""Cygwin and illumos.

From the sources of Cygwin (winsup/cygwin/posix_ipc.cc, thread.cc) and illumos
(usr/src/lib/libc/port/rt/sem.c, threads/synch.c). One sem_close there ends all openings of a name.
"""

from __future__ import annotations

import ctypes
import errno
import time
from ctypes import c_int
from typing import Any, Callable

from named_semaphores import NamedSemaphore
from named_semaphores._libc import Libc

from .fake import Fake, host, nanoseconds, wait_for, wait_until


class Cygwin(Fake):
    """Timed waits return their errno, and leave errno alone; sem_post past the maximum does nothing
    and says it worked.
    """

    files = "/dev/shm/sem."
    longest_name = 251
    needs_slash = True
    value_max = 1147483648
    hosts = ("sem_wait", "sem_trywait", "sem_getvalue")

    def path(self, name: bytes) -> bytes:
        if b"\\" in name:
            raise OSError(errno.EINVAL, "name")
        return super().path(name)

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


class CygwinSemaphore(NamedSemaphore):
    _libc = Libc(Cygwin(), "cygwin")


class Illumos(Fake):
    files = "/dev/shm/~"
    sem_failed = -1
    longest_name = 255
    needs_slash = True

    def do_sem_timedwait(self, address: int, when: Any) -> int:
        return wait_until(address, time.CLOCK_REALTIME, when.contents)

    def do_sem_reltimedwait_np(self, address: int, left: Any) -> int:
        return wait_for(address, nanoseconds(left.contents))


class IllumosSemaphore(NamedSemaphore):
    _libc = Libc(Illumos(), "sunos5")
