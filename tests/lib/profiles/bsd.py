# SPDX-License-Identifier: Apache-2.0
"""The BSDs.

From the sources of FreeBSD (lib/libc/gen/sem_new.c, lib/libthr), NetBSD (lib/librt/sem.c,
sys/kern/uipc_sem.c), OpenBSD (lib/librthread/rthread_sem.c) and DragonFly (lib/libthread_xu).
NetBSD and OpenBSD allow values up to 2**32 - 1; the host does not, so here they fail with EINVAL.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from typing import Any

from named_semaphores import NamedSemaphore
from named_semaphores._libc import Libc

from .fake import TIMER_ABSTIME, Fake, nanoseconds, wait_for, wait_until


class _Timed(Fake):
    def do_sem_timedwait(self, address: int, when: Any) -> int:
        return wait_until(address, time.CLOCK_REALTIME, when.contents)


class timespec(ctypes.Structure):
    """NetBSD's and OpenBSD's, also on 32 bits."""

    _fields_ = [("tv_sec", ctypes.c_int64), ("tv_nsec", ctypes.c_long)]


class _Timed64(Fake):
    def do_sem_timedwait(self, address: int, when: Any) -> int:
        return wait_until(
            address, time.CLOCK_REALTIME, timespec.from_address(ctypes.addressof(when.contents))
        )


class FreeBSD(_Timed):
    """sem_open knows O_CREAT and O_EXCL only, which every fake insists on."""

    files = "/tmp/SEMD"
    longest_name = 252
    needs_slash = True
    inner_slash = errno.ENOENT

    def do_sem_clockwait_np(
        self, address: int, clock: int, flags: int, when: Any, left: int | None
    ) -> int:
        if flags == TIMER_ABSTIME:
            return wait_until(address, clock, when.contents)
        return wait_for(address, nanoseconds(when.contents))


class FreeBSDSemaphore(NamedSemaphore):
    _libc = Libc(FreeBSD(), "freebsd14")


class NetBSD(_Timed64):
    """The kernel has the semaphores; files stand in for it."""

    files = "/dev/shm/~"
    longest_name = 255
    needs_slash = True


class NetBSDSemaphore(NamedSemaphore):
    _libc = Libc(NetBSD(), "netbsd10")


class OpenBSD(_Timed64):
    """A file's name is a hash, which has room for any name; a semaphore is its maker's alone."""

    files = "/dev/shm/~"

    def new_file(self, path: bytes, mode: int) -> int:
        fd = super().new_file(path, mode)
        os.fchmod(fd, 0o600)
        return fd


class OpenBSDSemaphore(NamedSemaphore):
    _libc = Libc(OpenBSD(), "openbsd7")


class DragonFly(_Timed):
    files = "/dev/shm/~"


class DragonFlySemaphore(NamedSemaphore):
    _libc = Libc(DragonFly(), "dragonfly6")
