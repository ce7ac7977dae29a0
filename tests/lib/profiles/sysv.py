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

import ctypes
import errno
import os
import threading
from ctypes import CFUNCTYPE, POINTER, c_int, c_long, c_short, c_size_t, c_ushort, c_void_p
from typing import Any, Callable

from .fake import nanoseconds, timespec, timespec32, timespec64

# Linux's
_IPC_RMID, _IPC_SET, _IPC_STAT = 0, 1, 2
_GETPID, _GETVAL, _GETALL, _GETNCNT, _GETZCNT = 11, 12, 13, 14, 15
_IPC_CREAT = 0o1000
_SEM_UNDO = 0o10000

_ASKING = {3: _GETNCNT, 4: _GETPID, 5: _GETVAL, 6: _GETALL, 7: _GETZCNT}
_BSD = {0: _IPC_RMID, 1: _IPC_SET, 2: _IPC_STAT, **_ASKING}
_ILLUMOS = {10: _IPC_RMID, 11: _IPC_SET, 12: _IPC_STAT, **_ASKING}
_LINUX = {number: number for number in _BSD.values()}


class sembuf(ctypes.Structure):
    _fields_ = [("sem_num", c_ushort), ("sem_op", c_short), ("sem_flg", c_short)]


def _prototype(*arguments: Any) -> Any:
    return CFUNCTYPE(c_int, *arguments, use_errno=True)


# semctl is called with three arguments or four. The fourth may be whatever is in its place.
_PROTOTYPES = {
    "semget": _prototype(c_long, c_int, c_int),
    "semctl": _prototype(c_int, c_int, c_int, c_void_p),
    "__semctl50": _prototype(c_int, c_int, c_int, c_void_p),
    "semop": _prototype(c_int, POINTER(sembuf), c_size_t),
    "semtimedop": _prototype(c_int, POINTER(sembuf), c_size_t, POINTER(timespec)),
    "__semtimedop64": _prototype(c_int, POINTER(sembuf), c_size_t, POINTER(timespec64)),
    "__semtimedop_time64": _prototype(c_int, POINTER(sembuf), c_size_t, POINTER(timespec64)),
}


def _load_host() -> Any:
    host = ctypes.CDLL(None, use_errno=True)
    host.semget.argtypes = [c_int, c_int, c_int]
    host.semop.argtypes = [c_int, c_void_p, c_size_t]
    if hasattr(host, "semtimedop"):
        host.semtimedop.argtypes = [c_int, c_void_p, c_size_t, POINTER(timespec)]
    return host


HOST = None  # type: Any  # PyPy refuses an annotated global


def _host(symbol: str, *arguments: Any) -> int:
    # Result and errno in one step, as in fake.py.
    call = map(getattr(HOST, symbol), *((argument,) for argument in arguments))
    for status, error in zip(call, iter(ctypes.get_errno, None)):
        if status == -1:
            raise OSError(error, symbol)
        break
    return status  # type: ignore[no-any-return]


def _with_errno(method: Callable[..., int]) -> Callable[..., int]:
    def call(*arguments: Any) -> int:
        try:
            return method(*arguments)
        except OSError as error:
            ctypes.set_errno(error.errno or 0)
            return -1

    return call


class Fake:
    """Symbols are methods ``do_<symbol>``, or the host's if ``hosts`` names them, or missing."""

    hosts: tuple[str, ...] = ("semop",)
    commands = _BSD
    most_operations = 100  # SEMOPM
    most_sums: int | None = None  # SEMUME: semaphores of which a process has a sum to take back
    most_semaphores = 32000  # SEMMSL: in a set
    largest_sum = 32767  # SEMAEM

    def __init__(self) -> None:
        global HOST
        if HOST is None:
            HOST = _load_host()
        self.lock = threading.Lock()
        self.sums: dict[
            tuple[int, int, int], int
        ] = {}  # process, set, semaphore: what the kernel would take back
        for symbol, prototype in _PROTOTYPES.items():
            method = getattr(self, f"do_{symbol}", None)
            if method is not None:
                setattr(self, symbol, prototype(_with_errno(method)))
            elif symbol in self.hosts:
                setattr(self, symbol, getattr(HOST, symbol))

    def do_semget(self, key: int, size: int, flags: int) -> int:
        if not 0 < key < 2**31:
            raise AssertionError("a key of 31 bits: key_t is an int on some systems")
        if flags & _IPC_CREAT and size > self.most_semaphores:
            raise OSError(errno.EINVAL, "SEMMSL")
        return _host("semget", key, size, flags)

    def do_semctl(self, semid: int, number: int, command: int, argument: int | None) -> int:
        hosts = self.commands.get(command)
        if hosts is None:
            if command in (8, 9) or (command in (16, 17) and self.commands is _LINUX):
                raise AssertionError("SETVAL and SETALL take other processes' sums away")
            raise OSError(errno.EINVAL, "command")
        if hosts in (_IPC_SET, _IPC_STAT, _GETALL):
            return _host("semctl", semid, number, hosts, c_void_p(argument))
        return _host("semctl", semid, number, hosts)

    def check(self, semid: int, operations: Any, count: int) -> None:
        if count > self.most_operations:
            raise OSError(errno.E2BIG, "SEMOPM")
        if self.most_sums is None:
            return
        pid = os.getpid()
        mine = {
            place[1:]
            for place, value in list(self.sums.items())
            if value and place[0] == pid and self.is_there(place[1])
        }
        mine |= {
            (semid, op.sem_num) for op in operations[:count] if op.sem_flg & _SEM_UNDO and op.sem_op
        }
        if len(mine) > self.most_sums:
            raise OSError(errno.EINVAL, "SEMUME")

    @staticmethod
    def is_there(semid: int) -> bool:
        return HOST.semctl(semid, 0, _GETVAL) != -1  # type: ignore[no-any-return]

    def count(self, semid: int, operations: Any, count: int) -> None:
        for op in operations[:count]:
            if op.sem_flg & _SEM_UNDO:
                place = (os.getpid(), semid, op.sem_num)
                with self.lock:
                    self.sums[place] = self.sums.get(place, 0) - op.sem_op
                    if abs(self.sums[place]) > self.largest_sum:
                        raise AssertionError("ERANGE: SEMAEM")


class _Limited(Fake):
    """semop does less in one call, and for fewer sets of a process, than the host's."""

    hosts = ()

    def do_semop(self, semid: int, operations: Any, count: int) -> int:
        if not operations:
            raise OSError(errno.EFAULT, "NULL")
        self.check(semid, operations, count)
        status = _host("semop", semid, operations, count)
        self.count(semid, operations, count)
        return status


class MacOS(_Limited):
    most_operations = 5
    most_sums = 10


class FreeBSD(_Limited):
    """Undo sums end at 16,384 (SEMAEM), and a process has 50 of them (kern.ipc.semume)."""

    most_sums = 50
    most_semaphores = 340
    largest_sum = 16384


class NetBSD(_Limited):
    """semctl is for programs of before 5.0, and misreads the time in what it is given."""

    most_sums = 10
    most_semaphores = 60

    def do___semctl50(self, semid: int, number: int, command: int, argument: int | None) -> int:
        return super().do_semctl(semid, number, command, argument)

    def do_semctl(self, semid: int, number: int, command: int, argument: int | None) -> int:
        raise AssertionError("the old semctl")


class OpenBSD(_Limited):
    most_sums = 10
    most_semaphores = 60


class DragonFly(FreeBSD):
    pass


class Illumos(Fake):
    """Some commands have other numbers than on the BSDs; and there is semtimedop."""

    hosts = ("semop", "semtimedop")
    commands = _ILLUMOS
    most_operations = 512
    most_semaphores = 512


class Musl(Fake):
    hosts = ("semop", "semtimedop")
    commands = _LINUX


class _Short(Fake):
    """32 bits: the plain semtimedop is for old binaries, with a 32-bit time_t."""

    hosts = ("semop",)
    commands = _LINUX
    plain_calls = 0

    def do_semtimedop(self, semid: int, operations: Any, count: int, timeout: Any) -> int:
        self.plain_calls += 1
        return self.wait(
            semid, operations, count, timespec32.from_address(ctypes.addressof(timeout.contents))
        )

    @staticmethod
    def wait(semid: int, operations: Any, count: int, timeout: Any) -> int:
        left = timespec(*divmod(nanoseconds(timeout), 1_000_000_000))
        return _host("semtimedop", semid, operations, count, ctypes.byref(left))


class Glibc32(_Short):
    """From 2.34 on: both kinds of symbols."""

    def do___semtimedop64(self, semid: int, operations: Any, count: int, timeout: Any) -> int:
        return self.wait(semid, operations, count, timeout.contents)


class Musl32(_Short):
    """From 1.2 on."""

    def do___semtimedop_time64(self, semid: int, operations: Any, count: int, timeout: Any) -> int:
        return self.wait(semid, operations, count, timeout.contents)


class GVisor(Fake):
    """It says that it is Linux, accepts SEM_UNDO, and ignores it."""

    hosts = ()
    commands = _LINUX

    def do_semop(self, semid: int, operations: Any, count: int) -> int:
        copy = (sembuf * count)(*operations[:count])
        for op in copy:
            op.sem_flg &= ~_SEM_UNDO
        return _host("semop", semid, copy, count)


FAKES: dict[str, tuple[type[Fake], str]] = {
    "macos": (MacOS, "darwin"),
    "freebsd": (FreeBSD, "freebsd14"),
    "netbsd": (NetBSD, "netbsd10"),
    "openbsd": (OpenBSD, "openbsd7"),
    "dragonfly": (DragonFly, "dragonfly6"),
    "illumos": (Illumos, "sunos5"),
    "musl": (Musl, "linux"),
    "glibc32": (Glibc32, "linux"),
    "musl32": (Musl32, "linux"),
    "gvisor": (GVisor, "linux"),
}
