# SPDX-License-Identifier: Apache-2.0
"""The System V semaphores of other platforms, made of the host's, which must be Linux.

A fake has the attributes of a library object: ``semget``, ``semop``, ``semctl`` and so on. Where a
platform does as the host does, the attribute is the host's own function; where it differs, it is
Python code behind a C callback. A fake does not show that the BSDs and macOS wake all waiters, not
the longest one; the limits of all processes together; and that FreeBSD takes back a dead process's
sums one by one, which ``test_sysv_model.py`` searches. No fake knows ``named_semaphores``.

Facts are from sources: XNU (bsd/kern/sysv_sem.c, bsd/sys/sem.h, sem_internal.h), FreeBSD, NetBSD,
OpenBSD, DragonFly (sys/kern/sysv_sem.c, sys/sys/sem.h, ipc.h; NetBSD's lib/libc/sys/semctl.c),
illumos (usr/src/uts/common/syscall/sem.c, sys/sem.h, sys/ipc.h), glibc 2.34
(sysdeps/unix/sysv/linux/semtimedop.c), musl 1.2.5 (src/ipc/semtimedop.c, include/sys/sem.h), gVisor
(pkg/sentry/kernel/semaphore, pkg/sentry/syscalls/linux/sys_sem.go).
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Any, Callable

from .fake import Library, host, nanoseconds, sembuf, timespec

# Linux's
_IPC_RMID, _IPC_SET, _IPC_STAT = 0, 1, 2
_GETPID, _GETVAL, _GETALL, _GETNCNT, _GETZCNT = 11, 12, 13, 14, 15
_IPC_CREAT = 0o1000
_SEM_UNDO = 0o10000

_ASKING = {3: _GETNCNT, 4: _GETPID, 5: _GETVAL, 6: _GETALL, 7: _GETZCNT}
_BSD = {0: _IPC_RMID, 1: _IPC_SET, 2: _IPC_STAT, **_ASKING}
_ILLUMOS = {10: _IPC_RMID, 11: _IPC_SET, 12: _IPC_STAT, **_ASKING}
_LINUX = {number: number for number in _BSD.values()}


class Fake(Library):
    hosts = ("semop",)
    commands = _BSD
    most_semaphores = 32000  # SEMMSL: in a set

    def do_semget(self, key: int, size: int, flags: int) -> int:
        assert 0 < key < 2**31, "a key of 31 bits: key_t is an int on some systems"
        if flags & _IPC_CREAT and size > self.most_semaphores:
            raise OSError(errno.EINVAL, "SEMMSL")
        return host("semget", key, size, flags)

    def do_semctl(self, semid: int, number: int, command: int, argument: int | None) -> int:
        if command not in self.commands:
            assert command not in (8, 9, 16, 17), "SETVAL, SETALL: they take others' sums away"
            raise OSError(errno.EINVAL, "command")
        return host("semctl", semid, number, self.commands[command], argument)


class _Limited(Fake):
    """semop does less in one call, and for fewer sets of a process, than the host's."""

    hosts = ()

    def __init__(
        self,
        operations: int = 100,  # SEMOPM
        sums: int = 10,  # SEMUME: semaphores of which a process has a sum to take back
        semaphores: int = 32000,
        largest: int = 32767,  # SEMAEM
    ) -> None:
        super().__init__()
        self.most_operations, self.most_sums, self.largest_sum = operations, sums, largest
        self.most_semaphores = semaphores
        # By process, set, semaphore: what the kernel would take back.
        self.sums: dict[tuple[int, int, int], int] = {}

    def do_semop(self, semid: int, operations: Any, count: int) -> int:
        if count > self.most_operations:
            raise OSError(errno.E2BIG, "SEMOPM")
        undone = [op for op in operations[:count] if op.sem_flg & _SEM_UNDO and op.sem_op]
        places = [(os.getpid(), semid, op.sem_num) for op in undone]
        mine = {place for place, change in list(self.sums.items()) if change and self.is_own(place)}
        if len(mine.union(places)) > self.most_sums:
            raise OSError(errno.EINVAL, "SEMUME")
        status = host("semop", semid, operations, count)
        with self.lock:
            for place, op in zip(places, undone):
                self.sums[place] = self.sums.get(place, 0) - op.sem_op
                assert abs(self.sums[place]) <= self.largest_sum, "ERANGE: SEMAEM"
        return status

    @staticmethod
    def is_own(place: tuple[int, int, int]) -> bool:
        """Return whether it is this process's, and the set is still there."""
        pid, semid, _ = place
        try:
            return pid == os.getpid() and host("semctl", semid, 0, _GETVAL, None) >= 0
        except OSError:
            return False


class NetBSD(_Limited):
    """semctl is for programs of before 5.0, and misreads the time in what it is given."""

    do___semctl50 = Fake.do_semctl

    def do_semctl(self, semid: int, number: int, command: int, argument: int | None) -> int:
        raise AssertionError("the old semctl")


class Illumos(Fake):
    """Some commands have other numbers than on the BSDs; and there is semtimedop."""

    hosts = ("semop", "semtimedop")
    commands = _ILLUMOS
    most_semaphores = 512


class Musl(Fake):
    hosts = ("semop", "semtimedop")
    commands = _LINUX


class _Short(Fake):
    """32 bits: the plain semtimedop is for old binaries, with a 32-bit time_t."""

    commands = _LINUX

    def do_semtimedop(self, semid: int, operations: Any, count: int, timeout: Any) -> int:
        raise AssertionError("the old semtimedop")

    def wait(self, semid: int, operations: Any, count: int, timeout: Any) -> int:
        left = timespec(*divmod(nanoseconds(timeout.contents), 1_000_000_000))
        return host("semtimedop", semid, operations, count, left)


class Glibc32(_Short):
    """From 2.34 on: both kinds of symbols."""

    do___semtimedop64 = _Short.wait


class Musl32(_Short):
    """From 1.2 on."""

    do___semtimedop_time64 = _Short.wait


class GVisor(Fake):
    """It says that it is Linux, accepts SEM_UNDO, and ignores it."""

    hosts = ()
    commands = _LINUX

    def do_semop(self, semid: int, operations: Any, count: int) -> int:
        copy = (sembuf * count)(*operations[:count])
        for op in copy:
            op.sem_flg &= ~_SEM_UNDO
        return host("semop", semid, copy, count)


_freebsd = partial(_Limited, sums=50, semaphores=340, largest=16384)
FAKES: dict[str, tuple[Callable[[], Fake], str]] = {
    "macos": (partial(_Limited, operations=5), "darwin"),
    "freebsd": (_freebsd, "freebsd14"),
    "netbsd": (partial(NetBSD, semaphores=60), "netbsd10"),
    "openbsd": (partial(_Limited, semaphores=60), "openbsd7"),
    "dragonfly": (_freebsd, "dragonfly6"),
    "illumos": (Illumos, "sunos5"),
    "musl": (Musl, "linux"),
    "glibc32": (Glibc32, "linux"),
    "musl32": (Musl32, "linux"),
    "gvisor": (GVisor, "linux"),
}
