# SPDX-License-Identifier: Apache-2.0
"""System V semaphores through ctypes: every symbol, prototype and constant."""

from __future__ import annotations

import ctypes
import errno
import sys
import time
from ctypes import c_int, c_long, c_short, c_size_t, c_ushort
from functools import cache, partial
from itertools import chain
from struct import pack

from ._common import FIRST_SLICE, TYPE_CHECKING
from ._libc import Ignored, Timespec, Timespec64, address_of, bind, call, system_of

if TYPE_CHECKING:
    from typing import Any

    Operation = tuple[int, int, int]  # semaphore, change, flags

# sys/ipc.h and sys/sem.h of every system named here
IPC_CREAT = 0o1000
IPC_EXCL = 0o2000
NOWAIT = 0o4000
UNDO = 0o10000

# PyPy has no PYFUNCTYPE.
_PYFUNCTYPE = getattr(ctypes, "PYFUNCTYPE", ctypes.CFUNCTYPE)
_SEMOP_EXIT = _PYFUNCTYPE(c_int, c_int, ctypes.c_void_p, c_size_t, Ignored, Ignored, Ignored)

# What a library cannot be asked, where it is not as on Linux: see SysV.
_BSD_COMMANDS = {"GETPID": 4, "GETVAL": 5, "GETALL": 6, "GETNCNT": 3, "GETZCNT": 7}
_ILLUMOS_COMMANDS = {**_BSD_COMMANDS, "IPC_RMID": 10, "IPC_SET": 11, "IPC_STAT": 12}
_BSD: dict[str, Any] = {
    **_BSD_COMMANDS,
    "operations": 5,
    "can_ignore_undo": False,
}
_FREEBSD = {
    **_BSD,
    "limits": "kern.ipc",
    "size": 80,  # the whole system has 340 semaphores by default
    "bias": 8192,  # an undo sum ends at 16384 (SEMAEM); DragonFly's does too
}
_NETBSD = {
    **_BSD,
    "limits": "kern.ipc",  # OpenBSD: kern.seminfo
    "size": 60,  # so many semaphores has the whole system by default
}
_SYSTEMS: dict[str, dict[str, Any]] = {
    "linux": {},
    "darwin": {**_BSD, "limits": "kern.sysv"},
    "freebsd": _FREEBSD,
    "dragonfly": _FREEBSD,
    "netbsd": _NETBSD,
    "openbsd": _NETBSD,
    "sunos": {**_BSD, **_ILLUMOS_COMMANDS, "limits": "project.max-sem-ids"},
}


class sembuf(ctypes.Structure):
    _fields_ = [("sem_num", c_ushort), ("sem_op", c_short), ("sem_flg", c_short)]


def prepare(semid: Any, *transitions: list[Operation]) -> tuple[Any, list[tuple[Any, ...]]]:
    """Return the operations in one array, and for each transition the arguments of ``semop``."""
    operations = list(chain(*transitions))
    array_type: Any = sembuf * len(operations)
    # An array of tuples would keep a dict for each.
    array = array_type.from_buffer_copy(pack("Hhh" * len(operations), *chain(*operations)))
    arguments, place = [], 0
    for transition in transitions:
        count = len(transition)
        pointer = ctypes.byref(array, place * ctypes.sizeof(sembuf))
        arguments.append((semid, pointer, c_size_t.from_param(count)))
        place += count
    return array, arguments


class Removed(OSError):
    """The set was removed."""

    def __init__(self) -> None:
        super().__init__(errno.ENOENT, "it was removed")


class SysV:
    """The System V semaphore calls of one library.

    Three are ctypes functions, for arguments of ``prepare``: without argtypes, which is fastest.
    They return 0, or -1 if they fail:

    - ``semop`` releases the GIL; ``ctypes.get_errno()`` has the errno.
    - ``semop_now`` is for operations that cannot wait: it keeps the GIL, has no errno, is faster.
    - ``semtimedop`` takes ``timeout(nanoseconds)``, too. None where the library lacks it.
    """

    IPC_RMID, IPC_SET, IPC_STAT = 0, 1, 2
    GETPID, GETVAL, GETALL, GETNCNT, GETZCNT = 11, 12, 13, 14, 15
    limits = "kernel.sem"  # where the system's limits are set
    size = 250  # of every set: SEMMSL of older kernels, and of hosts tuned for databases
    bias = 16384  # half of SEMVMX, 32767; an undo sum has that limit too
    operations = 32  # in one call: so many on hosts tuned for databases, else 500
    can_ignore_undo = True  # until it has refused an undo sum: gVisor says that it is Linux
    sleep = staticmethod(time.sleep)

    def __init__(self, lib: Any, platform: str = sys.platform) -> None:
        self.platform = platform
        self.__dict__.update(system_of(platform, _SYSTEMS) or {})
        self.most = self.bias - 1  # tokens that a semaphore can have
        # int semget(key_t key, int nsems, int semflg);  key_t is an int or a long: 31 bits do
        self._semget = bind(lib, "semget", c_long, c_int, c_int)
        # int semctl(int semid, int semnum, int cmd, ... /* union semun */);
        # Variadic, as sem_open in _libc. The fourth is always a pointer here: an int would be in
        # the wrong half of the union on 64-bit big-endian machines. NetBSD's plain semctl is for
        # programs built before 5.0.
        symbol = "__semctl50" if hasattr(lib, "__semctl50") else "semctl"
        self._semctl = bind(lib, symbol, c_int, c_int, c_int)
        # int semop(int semid, struct sembuf *sops, size_t nsops);
        self.semop = bind(lib, "semop")
        self._semop = address_of(lib, "semop")
        self.semop_now = _PYFUNCTYPE(c_int)(self._semop)
        # int semtimedop(int semid, struct sembuf *sops, size_t nsops,
        #                const struct timespec *timeout);  relative
        # On 32 bits the plain symbols of glibc and musl take the 32-bit time of old binaries.
        timespecs = {
            "__semtimedop64": Timespec64,
            "__semtimedop_time64": Timespec64,
            "semtimedop": Timespec,
        }
        symbol = next((each for each in timespecs if hasattr(lib, each)), "")
        self._timespec: Any = timespecs.get(symbol)
        self.semtimedop = bind(lib, symbol) if symbol else None
        self.first_slice = self.timeout(FIRST_SLICE) if symbol else None

    def end_of_with(self, arguments: tuple[Any, ...], count: int, result: Any) -> Any:
        """Return a C function that ends a with statement by ``count`` operations.

        ctypes calls ``result`` with the status of ``semop``, and returns what that returns.
        """
        function = _SEMOP_EXIT(self._semop)  # drops the three arguments that tell an exception
        function.restype = result
        semid, pointer, _ = arguments
        return partial(function, semid, pointer, count)

    def timeout(self, nanoseconds: int) -> Any:
        """Return the last argument of ``semtimedop``."""
        return ctypes.byref(self._timespec(*divmod(max(0, nanoseconds), 1_000_000_000)))

    # Each of these raises an OSError without a name if it fails: Removed if the set was removed.

    def get(self, key: int, size: int = 0, flags: int = 0) -> int:
        """Return the id of the key's set, whatever its size. The flags may create one."""
        semid, error = call(self._semget, key, size, flags)
        if semid == -1:
            raise OSError(error, "")
        return semid

    def operate(self, semid: Any, operations: list[Operation], within: int | None = None) -> bool:
        """Return False if one with NOWAIT would have to wait, or so many nanoseconds are over."""
        _, (arguments,) = prepare(semid, operations)
        try:
            if within is None:
                self._on_set(self.semop, *arguments)
            else:
                self._on_set(self.semtimedop, *arguments, self.timeout(within))
        except BlockingIOError:
            return False
        return True

    def value(self, semid: Any, number: int) -> int:
        return self._on_set(self._semctl, semid, number, self.GETVAL)

    def pid(self, semid: Any, number: int) -> int:
        """Return the process that changed the semaphore last; 0 in another PID namespace."""
        return self._on_set(self._semctl, semid, number, self.GETPID)

    def waiting(self, semid: Any, growing: int, ending: int) -> int:
        """Return how many wait for one semaphore to grow, and for another to be 0."""
        count = self._on_set(self._semctl, semid, growing, self.GETNCNT)
        return count + self._on_set(self._semctl, semid, ending, self.GETZCNT)

    def values(self, semid: Any) -> list[int]:
        """Return all values; none if the set has not the size of ours: it is another program's."""
        size = self.size
        status, _ = call(self._semctl, semid, size, self.GETVAL)
        if status != -1:  # GETALL would write past the end of the array
            return []
        array = (c_ushort * size)()
        array[-1] = 0xFFFF  # stays in a smaller set; no value is above 32,767
        self._on_set(self._semctl, semid, 0, self.GETALL, ctypes.byref(array))
        return [] if array[-1] == 0xFFFF else list(array)

    def may_remove(self, semid: Any) -> bool:
        """Return whether IPC_SET, which needs the same right, may set what IPC_STAT returned."""
        status = ctypes.create_string_buffer(1024)  # a semid_ds has at most some hundred bytes
        try:
            self._on_set(self._semctl, semid, 0, self.IPC_STAT, ctypes.byref(status))
            self._on_set(self._semctl, semid, 0, self.IPC_SET, ctypes.byref(status))
        except PermissionError:
            return False
        return True

    def remove(self, semid: Any) -> None:
        self._on_set(self._semctl, semid, 0, self.IPC_RMID)

    def _on_set(self, function: Any, semid: Any, *arguments: Any) -> int:
        status, error = call(function, semid, *arguments)
        if status == -1:
            raise self.error(error, semid)
        return status

    def error(self, error: int, semid: Any) -> OSError:
        if error == errno.EINVAL:  # on the BSDs and macOS also: too many semaphores to undo
            status, reason = call(self._semctl, semid, 0, self.GETVAL)
            if status == -1 and reason in (errno.EINVAL, errno.EIDRM):
                error = errno.EIDRM
        return Removed() if error == errno.EIDRM else OSError(error, "")


def load(platform: str = sys.platform) -> SysV:
    """Return the running system's calls. NotImplementedError: it lacks them, or they kill."""
    if hasattr(sys, "getandroidapilevel"):  # before 3.13 the platform is "linux" there too
        platform = "android"
    library = ctypes.CDLL(None) if system_of(platform, _SYSTEMS) is not None else None
    if not hasattr(library, "semget"):
        raise NotImplementedError(refusal(platform))
    return SysV(library, platform)


system = cache(load)


def refusal(platform: str) -> str:
    if platform.startswith(("cygwin", "msys", "android")):
        # Cygwin without cygserver, and Android's seccomp filter, answer with SIGSYS.
        return (
            f"a System V semaphore call can kill the process on this system ({platform}): "
            "use NamedSemaphore if it works here"
        )
    hint = "; run Python under WSL" if platform == "win32" else ""
    return f"this system ({platform}) has no System V semaphores{hint}"
