# SPDX-License-Identifier: Apache-2.0
"""macOS.

From the sources of XNU 11417 (bsd/kern/posix_sem.c, bsd/sys/posix_sem.h) and Libc. The kernel has
the semaphores; files stand in for it.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import Any

from named_semaphores import NamedSemaphore
from named_semaphores._libc import Libc

from .fake import Fake, host


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
            descriptor = next(
                number for number in itertools.count() if number not in self.descriptors
            )
            self.descriptors[descriptor] = address
        return descriptor

    def address(self, descriptor: int) -> int:
        if descriptor not in self.descriptors:
            raise OSError(errno.EBADF, "no descriptor of a semaphore")
        return self.descriptors[descriptor]

    def do_sem_wait(self, descriptor: int) -> int:
        return host("sem_wait", self.address(descriptor))

    def do_sem_trywait(self, descriptor: int) -> int:
        return host("sem_trywait", self.address(descriptor))

    def do_sem_post(self, descriptor: int) -> int:
        return host("sem_post", self.address(descriptor))

    def do_sem_getvalue(self, descriptor: int, value: Any) -> int:
        raise OSError(errno.ENOSYS, "sem_getvalue")


class MacOSSemaphore(NamedSemaphore):
    _libc = Libc(MacOS(), "darwin")
