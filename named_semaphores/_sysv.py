# SPDX-License-Identifier: Apache-2.0
"""Mechanism: System V semaphores through ctypes: the kernel takes back what a process did to them when the process ends.

Each name has one set of semaphores, found by a key made of the name:

=======  ========================================================  =====================================
TOKENS   free tokens                                               take, give (undo), make_ready, resize
USERS    opens by living processes                                 make_ready, JOIN, LEAVE (undo)
LIVE     0 until the set is ready, then the number it began with   make_ready
TOTAL    how many tokens there are, free and taken                 make_ready, resize
DEAD     not 0: the set is being removed, nobody may join          REMOVE_IDLE
PERSIST  1: the set stays without users                            STAY
NAME...  the name, 15 bits in each semaphore                       write_name
=======  ========================================================  =====================================

A transition is a list of operations (semaphore, change, flags), which the kernel carries out all at once or not at all. An operation of 0
means "is it 0?". A process may die between any two transitions. A set without users that is not persistent is idle: it counts as not there, and
whoever meets it removes it. Five operations are the most that macOS allows at once.

SETVAL and SETALL would clear what the kernel remembers for every process: nothing here uses them.

A signal handler's exception in the middle of ``SysV.open`` or ``Set.leave`` may leave USERS one too high until this process ends, never too
low.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from binascii import crc32
from ctypes import c_int, c_int64, c_long, c_short, c_size_t, c_ushort, c_void_p
from itertools import starmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Container, Iterable

    Operation = tuple[int, int, int]  # semaphore, change, flags

MAX_TOKENS = 32767  # SEMVMX and SEMAEM of every system: the most a semaphore, and a process's sum, can be
LONGEST_NAME = 255  # in bytes, the slash included; some systems have room for less
SLICE = 1.0  # seconds; a signal that arrives just before a wait begins is noticed at the end of a slice

TOKENS, USERS, LIVE, TOTAL, DEAD, PERSIST, NAME = range(7)

# sys/ipc.h and sys/sem.h of every system named here
IPC_CREAT = 0o1000
IPC_EXCL = 0o2000
NOWAIT = 0o4000
UNDO = 0o10000

# PyPy has no PYFUNCTYPE.
_PYFUNCTYPE = getattr(ctypes, "PYFUNCTYPE", ctypes.CFUNCTYPE)


# --- The transitions ----------------------------------------------------------------------------------------------------------------


def write_name(place: int, words: list[int]) -> list[Operation]:
    """Four words of the name at most; the first is never 0, so nobody writes them twice."""
    return [(NAME + place, 0, NOWAIT), *((NAME + place + i, word, NOWAIT) for i, word in enumerate(words))]


def make_ready(total: int) -> list[Operation]:
    """Whoever is first gives the set its tokens, and has it open."""
    return [(LIVE, 0, NOWAIT), (LIVE, total, NOWAIT), (TOKENS, total, NOWAIT), (TOTAL, total, NOWAIT), (USERS, 1, NOWAIT | UNDO)]


JOIN: list[Operation] = [(DEAD, 0, NOWAIT), (USERS, 1, NOWAIT | UNDO)]
LEAVE: list[Operation] = [(USERS, -1, NOWAIT | UNDO)]
STAY: list[Operation] = [(PERSIST, 0, NOWAIT), (PERSIST, 1, NOWAIT)]
# Only for a process that may then remove the set: IPC_RMID follows, by this process or by whoever meets the mark.
REMOVE_IDLE: list[Operation] = [(PERSIST, 0, NOWAIT), (USERS, 0, NOWAIT), (DEAD, 0, NOWAIT), (DEAD, 1, NOWAIT)]
# As REMOVE_IDLE, also for a persistent set.
REMOVE_UNUSED: list[Operation] = REMOVE_IDLE[1:]
# By a process that may not remove it.
TAKE_OVER: list[Operation] = [(PERSIST, 0, NOWAIT), (USERS, 0, NOWAIT), (DEAD, 0, NOWAIT), (USERS, 1, NOWAIT | UNDO)]
# 0 means "is it 0?": of TOKENS it would fail, or wait. DEAD is 0 as long as somebody has the set open.
NOTHING: list[Operation] = [(DEAD, 0, NOWAIT)]


def take(n: int, flags: int = 0) -> list[Operation]:
    return [(TOKENS, -n, UNDO | flags)]


def give(n: int) -> list[Operation]:
    return [(TOKENS, n, UNDO | NOWAIT)]


def resize(total: int, new: int) -> list[Operation]:
    """From ``total`` tokens, if there are as many, to ``new``. Waits until enough are free if it is fewer."""
    return [(TOTAL, -total, NOWAIT), (TOTAL, 0, NOWAIT), (TOTAL, new, NOWAIT), (TOKENS, new - total, 0)]


# --- Names --------------------------------------------------------------------------------------------------------------------------


def key(name: str) -> int:
    """31 bits, as key_t is an int on some systems; 0 is IPC_PRIVATE."""
    return crc32(b"named_semaphores:" + os.fsencode(name)) & 0x7FFFFFFF or 1


def words(name: str) -> list[int]:
    """Return the name in words of 15 bits, none of which is 0: each has a whole byte of it, or some of the end mark."""
    data = os.fsencode(name) + b"\xff"
    count = -(-len(data) * 8 // 15)
    number = int.from_bytes(data, "big") << count * 15 - len(data) * 8
    return [number >> 15 * i & 0x7FFF for i in reversed(range(count))]


def name_of(stored: Iterable[int]) -> str | None:
    """Return the name that is stored in these words; None if it is none."""
    number = count = 0
    for word in stored:
        number, count = number << 15 | word, count + 15
    data = (number >> count % 8).to_bytes(count // 8, "big").rstrip(b"\0")
    return os.fsdecode(data[:-1]) if data[:1] == b"/" and data[-1:] == b"\xff" and b"\0" not in data else None


# --- What cannot be asked of a library ----------------------------------------------------------------------------------------------


class _Linux:
    IPC_RMID, IPC_SET, IPC_STAT = 0, 1, 2
    GETPID, GETVAL, GETALL, GETNCNT = 11, 12, 13, 14
    time_t: Any = c_long  # what the plain semtimedop takes
    limits = "kernel.sem"  # where the system's limits are set


class _BSD(_Linux):
    GETPID, GETVAL, GETALL, GETNCNT = 4, 5, 6, 3
    time_t: Any = c_int64
    limits = "kern.ipc"


class _MacOS(_BSD):
    limits = "kern.sysv"


class _OpenBSD(_BSD):
    limits = "kern.seminfo"


class _Illumos(_BSD):
    IPC_RMID, IPC_SET, IPC_STAT = 10, 11, 12
    time_t = c_long
    limits = "project.max-sem-ids"


_SYSTEMS = {
    "linux": _Linux,
    "darwin": _MacOS,
    "freebsd": _BSD,
    "netbsd": _BSD,
    "dragonfly": _BSD,
    "openbsd": _OpenBSD,
    "sunos": _Illumos,
}


class sembuf(ctypes.Structure):
    _fields_ = [("sem_num", c_ushort), ("sem_op", c_short), ("sem_flg", c_short)]


def _timespec(time_t: Any, long: Any) -> Any:
    return type("timespec", (ctypes.Structure,), {"_fields_": [("tv_sec", time_t), ("tv_nsec", long)]})


def arguments(semid: int, operations: list[Operation]) -> tuple[Any, ...]:
    """Return the arguments of ``semop``: the set, the operations in C, and their number."""
    array_type: Any = sembuf * len(operations)
    array = array_type(*operations)
    return semid, ctypes.byref(array), c_size_t(len(operations))


class Gone(OSError):
    """The set was removed."""


class SysV:
    """The System V semaphore calls of one library.

    ``semop`` and ``semtimedop`` are for the class that takes and gives tokens, with what ``Set.take`` and so on return as arguments. They let
    other threads run, and ``ctypes.get_errno()`` has the errno. ``semop_now`` is for calls that cannot wait: it keeps the GIL, has no errno,
    and costs less. All return 0 or -1. ``semtimedop`` is None where there is none; ``timeout`` makes its last argument.
    """

    clock = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def __init__(self, lib: Any, platform: str = sys.platform) -> None:
        system = next((system for prefix, system in _SYSTEMS.items() if platform.startswith(prefix)), None)
        if system is None:
            raise NotImplementedError(_refusal(platform))
        self.lib = lib  # a test's library dies with its last reference
        self.platform = platform
        self.system = system
        # int semget(key_t key, int nsems, int semflg);  key_t is an int or a long: 31 bits do for both
        self._semget = self._function("semget", c_long, c_int, c_int)
        # int semctl(int semid, int semnum, int cmd, ... /* union semun */);  NetBSD's plain one is for programs of before 5.0
        # Three are declared, so that ctypes makes a variadic call: Apple's arm64 passes the other on the stack. The other is always a
        # pointer: an int would be in the wrong half of the union on big-endian machines.
        self._semctl = self._function("__semctl50" if hasattr(lib, "__semctl50") else "semctl", c_int, c_int, c_int)
        # int semop(int semid, struct sembuf *sops, size_t nsops);
        self.semop = self._function("semop", c_int, c_void_p, c_size_t)
        self.semop_now = _PYFUNCTYPE(c_int)(self._address("semop"))
        # int semtimedop(int semid, struct sembuf *sops, size_t nsops, const struct timespec *timeout);  relative
        # On 32 bits the plain symbols of glibc and musl keep the 32-bit time of old binaries. The others' long is padded there, and on
        # big-endian machines the padding comes first: an int64 is both.
        plain, wide = _timespec(system.time_t, c_long), _timespec(c_int64, c_int64)
        timed = (("__semtimedop64", wide), ("__semtimedop_time64", wide), ("semtimedop", plain))
        symbol, self._timespec = next(((symbol, timespec) for symbol, timespec in timed if hasattr(lib, symbol)), (None, plain))
        self.has_timed_wait = symbol is not None
        self.semtimedop = self._function(symbol, c_int, c_void_p, c_size_t, c_void_p) if symbol else None

    def _address(self, symbol: str) -> int:
        return ctypes.cast(getattr(self.lib, symbol), c_void_p).value or 0

    def _function(self, symbol: str, *argtypes: Any) -> Any:
        return ctypes.CFUNCTYPE(c_int, *argtypes, use_errno=True)(self._address(symbol))

    def timeout(self, seconds: float) -> Any:
        """Return the last argument of ``semtimedop``."""
        return ctypes.byref(self._timespec(*divmod(max(0, int(seconds * 1_000_000_000)), 1_000_000_000)))

    # The calls, each of which raises a bare OSError if it fails, and Gone if the set was removed. A model in the tests has calls of its own.

    def get(self, key: int, size: int, flags: int) -> int:
        """Return the id of the key's set. EINVAL if it has fewer semaphores."""
        return _checked(self._semget, key, size, flags)

    def operate(self, semid: int, operations: list[Operation]) -> bool:
        """Carry out the operations. Return whether they were: not if one of them would have to wait, and must not."""
        try:
            self._on_set(self.semop, *arguments(semid, operations))
        except BlockingIOError:
            return False
        return True

    def wait(self, semid: int, operations: list[Operation], seconds: float) -> bool:
        """The same, but wait until they can be, or the time is over. A signal ends it with InterruptedError."""
        if self.semtimedop:
            try:
                self._on_set(self.semtimedop, *arguments(semid, operations), self.timeout(seconds))
            except BlockingIOError:
                return False
            return True
        operations = [(number, change, flags | NOWAIT) for number, change, flags in operations]
        deadline, pause = self.clock() + seconds, 0.0005
        while not self.operate(semid, operations):
            left = deadline - self.clock()
            if left <= 0:
                return False
            self.sleep(min(pause, left))
            pause = min(pause * 2, 0.02)
        return True

    def value(self, semid: int, number: int) -> int:
        return self._on_set(self._semctl, semid, number, self.system.GETVAL)

    def waiters(self, semid: int, number: int) -> int:
        return self._on_set(self._semctl, semid, number, self.system.GETNCNT)

    def last(self, semid: int, number: int) -> int:
        """Return the process that last changed the semaphore."""
        return self._on_set(self._semctl, semid, number, self.system.GETPID)

    def values(self, semid: int, size: int) -> list[int] | None:
        """Return all values of a set. None if it has more semaphores than that: GETALL would write past the end of the array."""
        try:
            _checked(self._semctl, semid, size, self.system.GETVAL)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EIDRM):
                raise
        else:
            return None
        array = (c_ushort * size)()
        self._on_set(self._semctl, semid, 0, self.system.GETALL, ctypes.byref(array))
        return list(array)

    def may_remove(self, semid: int) -> bool:
        """Whether this process may remove the set. IPC_SET wants the same right, and changes nothing if it sets what is there."""
        status = ctypes.create_string_buffer(1024)  # a semid_ds, of some hundred bytes; nothing here looks into it
        try:
            self._on_set(self._semctl, semid, 0, self.system.IPC_STAT, ctypes.byref(status))
            self._on_set(self._semctl, semid, 0, self.system.IPC_SET, ctypes.byref(status))
        except PermissionError:
            return False
        return True

    def remove(self, semid: int) -> None:
        self._on_set(self._semctl, semid, 0, self.system.IPC_RMID)

    def _on_set(self, function: Any, semid: int, *arguments: Any) -> int:
        try:
            return _checked(function, semid, *arguments)
        except OSError as error:
            # The BSDs' EINVAL may also mean that this process has too many sums for the kernel to remember.
            if error.errno == errno.EIDRM or (error.errno == errno.EINVAL and self._is_gone(semid)):
                raise Gone(errno.ENOENT, "it was removed") from None
            raise

    def _is_gone(self, semid: int) -> bool:
        try:
            _checked(self._semctl, semid, TOKENS, self.system.GETVAL)
        except OSError as error:
            return error.errno in (errno.EINVAL, errno.EIDRM)
        return False

    def open(
        self,
        name: str,
        total: int | None,
        *,
        link: bool = True,
        create: bool = True,
        anew: bool = False,
        persist: bool = False,
        mode: int = 0o600,
    ) -> Set:
        """Open the set of this name, which begins with "/".

        ``link`` and ``create``: whichever it takes. ``create`` alone: FileExistsError if somebody has it open, or it is persistent. ``link``
        alone: FileNotFoundError if neither. ``anew``: remove the one there is, whoever waits on it, and create one.

        ``total``: how many tokens it has if it is created (None: 1). An existing one must have begun with as many (None: with any), else
        ValueError. ``persist``: it stays without users from now on. ``mode``: its permissions, which the umask does not cut.
        """
        give_up = 0.0
        while True:
            try:
                opened = self._try_to_open(name, total, link, create, anew, mode)
                if opened is None:
                    continue
                if persist:
                    self.operate(opened.id, STAY)
                return opened
            except Gone:
                continue
            except _BeingRemoved as error:
                # Another user's, who removes it now, or died in the middle of it.
                give_up = give_up or self.clock() + 1
                if self.clock() > give_up:
                    raise self.failure(error, name) from None
                self.sleep(0.001)
            except OSError as error:
                raise self.failure(error, name) from None

    def _try_to_open(self, name: str, total: int | None, link: bool, create: bool, anew: bool, mode: int) -> Set | None:
        """Return None where another process came between."""
        stored = words(name)
        size = NAME + len(stored)
        is_new = False
        try:
            semid = self.get(key(name), size, 0)
        except FileNotFoundError:
            if not (create or anew):
                raise
            made = self._make(key(name), size, mode)
            if made is None:
                return None
            semid, is_new = made, True
        except OSError as error:
            raise _foreign(name) if error.errno == errno.EINVAL else error from None
        if anew and not is_new:
            self.remove(semid)
            return None
        values = [0] * size if is_new else self.values(semid, size)
        if values is None:
            raise _foreign(name, semid)
        if not values[LIVE]:
            if not (create or anew):
                raise FileNotFoundError(errno.ENOENT, "")
            return self._make_ready(semid, name, total or 1, stored)
        if values[NAME:] != stored:
            raise _foreign(name, semid, values[NAME:])
        if values[DEAD]:
            if not self.may_remove(semid):
                raise _BeingRemoved(errno.EPERM, f"set {semid}, another user's, was removed only half: ipcrm -s {semid}")
            self.remove(semid)
            return None
        if not values[USERS] and not values[PERSIST]:
            if self.may_remove(semid):
                if self.operate(semid, REMOVE_IDLE):
                    self.remove(semid)
                return None
            return self._take_over(semid, name, total, create, values)
        if not link:
            raise FileExistsError(errno.EEXIST, "")
        if total is not None and total != values[LIVE]:
            hint = "" if values[USERS] else ": it stays without users, so unlink it first"
            raise ValueError(f"{name!r} was created with {values[LIVE]} tokens, not with {total}{hint}")
        return Set(self, name, semid, values[LIVE], False) if self.operate(semid, JOIN) else None

    def _make(self, key: int, size: int, mode: int) -> int | None:
        try:
            return self.get(key, size, IPC_CREAT | IPC_EXCL | mode)
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno == errno.ENOSPC and remove_idle_sets():  # exec and kill leave idle sets
                return None
            raise OSError(errno.ENAMETOOLONG, "") if error.errno == errno.EINVAL else error from None

    def _make_ready(self, semid: int, name: str, total: int, stored: list[int]) -> Set | None:
        wrote = True
        for place in range(0, len(stored), 4):
            wrote &= self.operate(semid, write_name(place, stored[place : place + 4]))
        if not wrote:  # another process wrote: the same name, or another of this key
            values = self.values(semid, NAME + len(stored))
            if values is None or values[NAME:] != stored:
                raise _foreign(name, semid)
        return Set(self, name, semid, total, True) if self.operate(semid, make_ready(total)) else None

    def _take_over(self, semid: int, name: str, total: int | None, create: bool, values: list[int]) -> Set | None:
        """Use another user's idle set, which this one may not remove. It must be as a new one would be."""
        if not create:
            raise FileNotFoundError(errno.ENOENT, "")
        if values[TOTAL] != values[LIVE] or total not in (None, values[LIVE]):
            hint = f"nobody has it open, but set {semid} with {values[LIVE]} tokens is another user's, who can remove it: ipcrm -s {semid}"
            raise PermissionError(errno.EPERM, hint)
        return Set(self, name, semid, values[LIVE], True) if self.operate(semid, TAKE_OVER) else None

    def failure(self, error: OSError, name: str) -> Exception:
        """Return the exception for the user: with the name, and what helps."""
        number = error.errno or 0
        if number == errno.ENOSYS:
            return NotImplementedError(_refusal(self.platform))
        hint = error.strerror or self._hint(number)
        return OSError(number, os.strerror(number) + (f" ({hint})" if hint else ""), name)

    def _hint(self, number: int) -> str | None:
        limits = self.system.limits
        return {
            errno.ENOENT: "nobody has a semaphore of this name open",
            errno.EEXIST: "somebody has a semaphore of this name open, or it stays without users",
            errno.EACCES: "it is another user's, and its mode does not let this one",
            errno.EPERM: "it is another user's",
            errno.ENOSPC: f"the system's limit of System V semaphores is reached: see {limits}, and ipcs -s for those there are",
            errno.ENOMEM: "the kernel has no memory for it",
            errno.ENAMETOOLONG: f"a name has at most {LONGEST_NAME} bytes, its slash included, and fewer if {limits} keeps sets small",
            errno.ERANGE: f"at most {MAX_TOKENS} tokens, and as many opens at once",
            errno.EINVAL: f"this process has as many System V semaphores in use as {limits} allows",
        }.get(number)


class _BeingRemoved(OSError):
    pass


def _checked(function: Any, *arguments: Any) -> int:
    # The errno is taken in C, before a signal handler can make calls of its own.
    for status, error in zip(starmap(function, (arguments,)), iter(ctypes.get_errno, None)):
        break
    if status == -1:
        raise OSError(error, "")
    return status  # type: ignore[no-any-return]


def _foreign(name: str, semid: int | None = None, stored: Iterable[int] = ()) -> OSError:
    other = name_of(stored)
    which = "another program's semaphores" if other is None else f"the semaphore {other!r}"
    where = "" if semid is None else f", set {semid}"
    return OSError(errno.EEXIST, f"{which}{where}, has the key {key(name):#x}, which this name stands for: use another name")


class Set:
    """One opening of a name's set: it counts in USERS until ``leave()``, or until this process ends."""

    def __init__(self, library: SysV, name: str, semid: int, created_with: int, created: bool) -> None:
        self.library = library
        self.name = name
        self.id = semid
        self.created = created
        self._created_with = created_with
        self._joined = [os.getpid()]  # the process that counts in USERS; taken off the list before USERS is lowered, so never lowered twice

    def leave(self) -> None:
        """Count no longer. The last one out removes the set, if it may, and if it does not stay without users."""
        try:
            if self._joined.pop() != os.getpid():
                return
        except IndexError:
            return
        library, semid = self.library, self.id
        try:
            library.operate(semid, LEAVE)
            if library.value(semid, USERS) == 0 and library.value(semid, PERSIST) == 0 and library.may_remove(semid):
                if library.operate(semid, REMOVE_IDLE):
                    library.remove(semid)
        except OSError:
            pass  # removed; or the kernel lowers USERS when this process ends

    def rejoin(self) -> None:
        """In a child of fork: count for this process too. FileNotFoundError if the set was removed meanwhile."""
        if self._joined == [os.getpid()]:
            return
        try:
            if not self.library.operate(self.id, JOIN):
                raise Gone(errno.ENOENT, "it was removed")
        except OSError as error:
            raise self.failure(error) from None
        self._joined = [os.getpid()]

    # Arguments for ``semop``.

    def take(self, n: int = 1) -> tuple[Any, ...]:
        """To wait for n tokens, all at once."""
        return arguments(self.id, take(n))

    def try_to_take(self, n: int = 1) -> tuple[Any, ...]:
        """To take n tokens if they are free, all at once."""
        return arguments(self.id, take(n, NOWAIT))

    def give(self, n: int = 1) -> tuple[Any, ...]:
        return arguments(self.id, give(n))

    def nothing(self) -> tuple[Any, ...]:
        """To change nothing, without a wait."""
        return arguments(self.id, NOTHING)

    def value(self) -> int:
        return self._ask(self.library.value, TOKENS)

    def total(self) -> int:
        return self._ask(self.library.value, TOTAL)

    def users(self) -> int:
        return self._ask(self.library.value, USERS)

    def waiting(self) -> int:
        return self._ask(self.library.waiters, TOKENS)

    def created_with(self) -> int:
        return self._created_with

    def _ask(self, call: Any, number: int) -> int:
        try:
            return call(self.id, number)  # type: ignore[no-any-return]
        except OSError as error:
            raise self.failure(error) from None

    def resize(self, total: int, timeout: float | None = None) -> bool:
        """Let there be so many tokens for everybody, in one step. If it is fewer, wait until enough are free; return False if they are not."""
        library = self.library
        deadline = None if timeout is None else library.clock() + timeout
        try:
            while True:
                before = library.value(self.id, TOTAL)
                if before == total:
                    return True
                left = SLICE if deadline is None else max(0.0, min(SLICE, deadline - library.clock()))
                try:
                    if library.wait(self.id, resize(before, total), left):
                        return True
                except InterruptedError:
                    continue
                if deadline is not None and library.clock() >= deadline and library.value(self.id, TOTAL) == before:
                    return False
        except OSError as error:
            raise self.failure(error) from None

    def wait_taking(self, n: int, seconds: float | None) -> int:
        """Take n tokens, waiting for so long (None: for ever). Return 0, or EAGAIN."""
        library = self.library
        deadline = None if seconds is None else library.clock() + seconds
        try:
            while True:
                left = SLICE if deadline is None else max(0.0, min(SLICE, deadline - library.clock()))
                try:
                    if library.wait(self.id, take(n), left):
                        return 0
                except InterruptedError:
                    continue
                if deadline is not None and library.clock() >= deadline:
                    return errno.EAGAIN
        except OSError as error:
            raise self.failure(error) from None

    def remove(self) -> None:
        """Remove the set: whoever waits fails with EIDRM."""
        try:
            self.library.remove(self.id)
        except OSError as error:
            raise self.failure(error) from None

    def failure(self, error: OSError | int) -> Exception:
        """Return the exception for a call on this set that failed; for the errno of ``semop`` too."""
        if not isinstance(error, OSError):
            if error == errno.EIDRM or (error == errno.EINVAL and self.library._is_gone(self.id)):
                error = Gone(errno.ENOENT, "it was removed")
            else:
                error = OSError(error, "")
        return self.library.failure(error, self.name)


_found: SysV | None = None


def system() -> SysV:
    """Return the running system's calls. NotImplementedError, without a call, where there are none or they kill the process."""
    global _found
    if _found is None:
        _found = load()
    return _found


def load(platform: str = sys.platform) -> SysV:
    # Before 3.13 Android's platform is "linux". There, and on Cygwin without its server, a call ends the process with SIGSYS.
    if hasattr(sys, "getandroidapilevel"):
        platform = "android"
    if not any(platform.startswith(prefix) for prefix in _SYSTEMS):
        raise NotImplementedError(_refusal(platform))
    library = ctypes.CDLL(None)
    if not hasattr(library, "semget"):
        raise NotImplementedError(_refusal(platform))
    return SysV(library, platform)


def _refusal(platform: str) -> str:
    return f"this system ({platform}) has no System V semaphores that a RobustSemaphore could use: use NamedSemaphore"


class Listed:
    """A set of ours, or, where this user may not read it, maybe another program's: then all its values are None."""

    name: str | None = None
    free: int | None = None
    total: int | None = None
    created_with: int | None = None
    users: int | None = None
    waiting: int | None = None
    stays: bool | None = None
    last: int | None = None  # the process that last took or gave a token

    def __init__(self, semid: int, mode: int, uid: int, gid: int, ctime: int) -> None:
        self.id = semid
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.ctime = ctime  # seconds since 1970


def list_sets() -> list[Listed]:
    """Return the sets there are, on Linux. FileNotFoundError where the system does not list them."""
    library = system()
    sets = []
    with open("/proc/sysvipc/sem", encoding="ascii") as lines:
        next(lines)
        for line in lines:
            its_key, semid, mode, size, uid, gid, _cuid, _cgid, _otime, ctime = line.split()
            listed = Listed(int(semid), int(mode, 8), int(uid), int(gid), int(ctime))
            if int(its_key) <= 0 or int(size) <= NAME:
                continue
            try:
                values = library.values(listed.id, int(size))
                if values is None or not values[LIVE]:
                    continue
                listed.name = name_of(values[NAME:])
                if listed.name is None or key(listed.name) != int(its_key):
                    continue
                listed.free, listed.total, listed.users = values[TOKENS], values[TOTAL], values[USERS]
                listed.created_with, listed.stays = values[LIVE], bool(values[PERSIST])
                listed.waiting, listed.last = library.waiters(listed.id, TOKENS), library.last(listed.id, TOKENS)
            except Gone:
                continue
            except PermissionError:
                pass
            sets.append(listed)
    return sets


def _idle(names: Container[str] | None) -> list[Listed]:
    try:
        sets = list_sets()
    except OSError:  # the system does not list them
        return []
    return [listed for listed in sets if not listed.users and (not listed.stays if names is None else listed.name in names) and listed.name]


def idle_sets(names: Container[str] | None = None) -> list[str]:
    """Return the names of the idle sets, on Linux; with ``names``, of these sets without users, persistent ones included."""
    return sorted(listed.name or "" for listed in _idle(names))


def remove_idle_sets(names: Container[str] | None = None) -> list[str]:
    """Remove these sets, each if it is still without users, and return the names."""
    library, removed = system(), []
    for listed in _idle(names):
        try:
            if library.may_remove(listed.id) and library.operate(listed.id, REMOVE_IDLE if names is None else REMOVE_UNUSED):
                library.remove(listed.id)
                removed.append(listed.name or "")
        except OSError:  # removed meanwhile
            pass
    return removed
