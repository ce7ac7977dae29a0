# SPDX-License-Identifier: Apache-2.0
"""Mechanism: System V semaphores through ctypes. When a process ends, the kernel undoes what the process did to them.

Each name has one set of semaphores. A hash of the name is its key. The semaphores of a set:

=======  ========================================================  ============================
          meaning                                                   changed by
=======  ========================================================  ============================
TOKENS   free tokens                                               take, give, make_ready, resize
USERS    opens by living processes                                 make_ready, JOIN, TAKE_OVER, LEAVE
LIVE     0 until the set is ready, then the number it began with   make_ready
TOTAL    all tokens, free and taken                                make_ready, resize
DEAD     how many processes are removing the set                   REMOVE_IDLE
PERSIST  1: the set stays without users                            STAY
NAME...  the name, 15 bits in each semaphore                       write_name
=======  ========================================================  ============================

A transition is a list of operations (semaphore, change, flags). The kernel carries all of them out in one step, or none. A change of 0 asks
whether the semaphore is 0. A process may die between any two transitions; tests/test_sysv_model.py searches all ways to do so.

A set is idle if it has no users and is not persistent. An idle set counts as not there. Any process that finds one may remove it.

Two rules. No transition has more than five operations, the most that macOS allows. Nothing uses SETVAL or SETALL: they clear what the kernel
would undo, for every process.

A signal handler's exception in the middle of ``SysV.open``, ``Set.leave`` or ``Set.rejoin`` may leave USERS one too high until this process
ends. USERS is never too low. Such an exception may also leave DEAD at 1 until this process ends: other processes then finish the removal,
or, if they may not remove the set, wait.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from binascii import crc32
from ctypes import c_int, c_int64, c_long, c_short, c_size_t, c_ushort, c_void_p

from ._c import TIMESPEC64, Ignored, address_of, call, system_of, timespec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from typing import Any, NoReturn

    Operation = tuple[int, int, int]  # semaphore, change, flags

MAX_TOKENS = (
    32767  # SEMVMX. FreeBSD and DragonFly allow one process 16384 (SEMAEM), and fail with ERANGE.
)
LONGEST_NAME = 255  # in bytes, with the slash; systems with small sets allow less
SLICE = 1.0  # in seconds; a wait does not notice a signal that arrives just before it, so each wait is at most this long

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
    """Write at most four words of the name. The first is never 0, so they are written once."""
    return [
        (NAME + place, 0, NOWAIT),
        *((NAME + place + i, word, NOWAIT) for i, word in enumerate(words)),
    ]


def make_ready(total: int) -> list[Operation]:
    """Give a new set its tokens, and join it."""
    return [
        (LIVE, 0, NOWAIT),
        (LIVE, total, NOWAIT),
        (TOKENS, total, NOWAIT),
        (TOTAL, total, NOWAIT),
        (USERS, 1, NOWAIT | UNDO),
    ]


JOIN: list[Operation] = [(DEAD, 0, NOWAIT), (USERS, 1, NOWAIT | UNDO)]
LEAVE: list[Operation] = [(USERS, -1, NOWAIT | UNDO)]
NOTHING: list[Operation] = [
    (TOTAL, -1, NOWAIT),
    (TOTAL, 1, NOWAIT),
]  # needs the same rights as to give
STAY: list[Operation] = [(PERSIST, 0, NOWAIT), (PERSIST, 1, NOWAIT)]

# IPC_RMID follows; the process must have the right to it. Another process that finds the mark adds its own, and calls IPC_RMID too. If all
# of them die before the call, the kernel takes the marks back. Setting LIVE back to 0 is no mark: a newcomer could make the set ready again
# just before IPC_RMID.
REMOVE_IDLE: list[Operation] = [(PERSIST, 0, NOWAIT), (USERS, 0, NOWAIT), (DEAD, 1, NOWAIT | UNDO)]
# The same for a set that may be persistent.
REMOVE_UNUSED: list[Operation] = REMOVE_IDLE[1:]

# Join an idle set that this process may not remove.
TAKE_OVER: list[Operation] = [
    (PERSIST, 0, NOWAIT),
    (USERS, 0, NOWAIT),
    (DEAD, 0, NOWAIT),
    (USERS, 1, NOWAIT | UNDO),
]


def take(n: int, flags: int = 0) -> list[Operation]:
    return [(TOKENS, -n, UNDO | flags)]


def take_of_total(n: int) -> list[Operation]:
    """Take; but fail, also during the wait, as soon as there are fewer than n tokens in all."""
    return [(TOTAL, -n, NOWAIT), (TOTAL, n, NOWAIT), *take(n)]


def give(n: int) -> list[Operation]:
    return [(TOKENS, n, UNDO | NOWAIT)]


def resize(total: int, new: int) -> list[Operation]:
    """Change the number of tokens from ``total`` to ``new``; fail if it is not ``total``. A smaller number waits for free tokens."""
    return [
        (TOTAL, -total, NOWAIT),
        (TOTAL, 0, NOWAIT),
        (TOTAL, new, NOWAIT),
        (TOKENS, new - total, 0),
    ]


# --- Names --------------------------------------------------------------------------------------------------------------------------


def key(name: str) -> int:
    """Return 31 bits, since key_t is an int on some systems. Never 0, which is IPC_PRIVATE."""
    return crc32(b"named_semaphores:" + os.fsencode(name)) & 0x7FFFFFFF or 1


def words(name: str) -> list[int]:
    """Return the name, and an end mark, in words of 15 bits. No word is 0: each has a whole byte of the name, or bits of the mark."""
    data = os.fsencode(name) + b"\xff"
    count = -(-len(data) * 8 // 15)
    number = int.from_bytes(data, "big") << count * 15 - len(data) * 8
    return [number >> 15 * i & 0x7FFF for i in reversed(range(count))]


def name_of(stored: Iterable[int]) -> str | None:
    """Return the name in these words, or None if there is no name in them."""
    number = count = 0
    for word in stored:
        number, count = number << 15 | word, count + 15
    data = (number >> count % 8).to_bytes(count // 8, "big").rstrip(b"\0")
    return (
        os.fsdecode(data[:-1])
        if data[:1] == b"/" and data[-1:] == b"\xff" and b"\0" not in data
        else None
    )


# --- What cannot be asked of a library ----------------------------------------------------------------------------------------------


class _Linux:
    IPC_RMID, IPC_SET, IPC_STAT = 0, 1, 2
    GETVAL, GETALL, GETNCNT = 12, 13, 14
    time_t: Any = c_long  # what the plain semtimedop takes
    limits = "kernel.sem"  # where the system's limits are set


class _BSD(_Linux):
    GETVAL, GETALL, GETNCNT = 5, 6, 3
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


def arguments(semid: int, operations: list[Operation]) -> tuple[Any, ...]:
    """Return the arguments of ``semop``: the set, the operations in C, and their number."""
    array_type: Any = sembuf * len(operations)
    # Ready for a function without argtypes, which is the fastest: ctypes passes on what byref and from_param return as it is.
    return semid, ctypes.byref(array_type(*operations)), c_size_t.from_param(len(operations))


class _Next(c_void_p):
    from_param = next  # called with an iterator, in C


class Removed(OSError):
    """The set was removed."""


class SysV:
    """The System V semaphore calls of one library.

    ``semop``, ``semop_now`` and ``semtimedop`` are ctypes functions for the class that acquires and releases. ``Set.take`` and the like
    return their arguments. All return 0, or -1 if they fail.

    - ``int semop(int semid, struct sembuf *sops, size_t nsops)`` releases the GIL; ``ctypes.get_errno()`` has the errno.
    - ``semop_now``: the same for operations that cannot wait. It keeps the GIL, has no errno, and is faster.
    - ``int semtimedop(..., const struct timespec *timeout)``: as ``semop``, waits at most ``timeout(seconds)``. None where it is missing.
    """

    clock = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def __init__(self, lib: Any, platform: str = sys.platform) -> None:
        system = system_of(platform, _SYSTEMS)
        if system is None:
            raise NotImplementedError(_refusal(platform))
        self.lib = lib  # a test's library dies with its last reference
        self.platform = platform
        self.system = system
        # int semget(key_t key, int nsems, int semflg);  key_t is an int or a long: 31 bits do for both
        self._semget = self._function("semget", c_long, c_int, c_int)
        # int semctl(int semid, int semnum, int cmd, ... /* union semun */);  NetBSD's plain one is for programs built before 5.0
        # Three parameters are declared, so that ctypes makes a variadic call: Apple's arm64 passes the fourth on the stack. The fourth is
        # always a pointer here: an int would be in the wrong half of the union on 64-bit big-endian machines.
        self._semctl = self._function(
            "__semctl50" if hasattr(lib, "__semctl50") else "semctl", c_int, c_int, c_int
        )
        # int semop(int semid, struct sembuf *sops, size_t nsops);
        self.semop = self._function("semop")
        self.semop_now = _PYFUNCTYPE(c_int)(address_of(lib, "semop"))
        self._leaving = _PYFUNCTYPE(c_int, c_int, _Next, c_size_t, Ignored, Ignored, Ignored)
        # int semtimedop(int semid, struct sembuf *sops, size_t nsops, const struct timespec *timeout);  relative
        # On 32 bits the plain symbols of glibc and musl take the 32-bit time of old binaries.
        plain = timespec(system.time_t)
        timed = (
            ("__semtimedop64", TIMESPEC64),
            ("__semtimedop_time64", TIMESPEC64),
            ("semtimedop", plain),
        )
        symbol, self._timespec = next(
            (found for found in timed if hasattr(lib, found[0])), (None, plain)
        )
        self.has_timed_wait = symbol is not None
        self.semtimedop = self._function(symbol) if symbol else None

    def semop_leaving(self, result: Any) -> Any:
        """Return semop once more, as the end of a with statement.

        It takes an iterator instead of the operations, which gives their pointer; drops the exception's three arguments; and returns what
        ``result`` returns for the status.
        """
        function = self._leaving(address_of(self.lib, "semop"))
        function.restype = result
        return function

    def _function(self, symbol: str, *argtypes: Any) -> Any:
        return ctypes.CFUNCTYPE(c_int, *argtypes, use_errno=True)(address_of(self.lib, symbol))

    def timeout(self, seconds: float) -> Any:
        """Return the last argument of ``semtimedop``."""
        return ctypes.byref(
            self._timespec(*divmod(max(0, int(seconds * 1_000_000_000)), 1_000_000_000))
        )

    # The calls. Each raises an OSError without a name if it fails: Removed if the set was removed. The model in the tests replaces them.

    def get(self, key: int, size: int, flags: int) -> int:
        """Return the id of the key's set. EINVAL if the set has fewer semaphores than ``size``."""
        return _checked(self._semget, key, size, flags)

    def operate(self, semid: int, operations: list[Operation]) -> bool:
        """Carry out the operations. Return False if one of them would have to wait and has NOWAIT."""
        try:
            self._on_set(self.semop, *arguments(semid, operations))
        except BlockingIOError:
            return False
        return True

    def wait(self, semid: int, operations: list[Operation], seconds: float) -> bool:
        """As ``operate``, but wait for so long where NOWAIT is missing. InterruptedError if a signal arrives."""
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

    def values(self, semid: int, size: int) -> list[int] | None:
        """Return all values of a set with ``size`` semaphores; None if it has more, since GETALL would write past the end of the array."""
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
        """Return whether this process may remove the set. IPC_SET needs the same right; here it sets what IPC_STAT returned."""
        status = ctypes.create_string_buffer(1024)  # a semid_ds has at most some hundred bytes
        try:
            self._on_set(self._semctl, semid, 0, self.system.IPC_STAT, ctypes.byref(status))
            self._on_set(self._semctl, semid, 0, self.system.IPC_SET, ctypes.byref(status))
        except PermissionError:
            return False
        return True

    def remove(self, semid: int) -> None:
        self._on_set(self._semctl, semid, 0, self.system.IPC_RMID)

    def remove_unused(self, semid: int, operations: list[Operation]) -> bool:
        """Remove the set if ``operations`` (REMOVE_IDLE or REMOVE_UNUSED) can be done. Return whether it was removed.

        The set must be ready: a newcomer could make it ready in spite of the mark. And this process must have the right to remove it.
        """
        if self.operate(semid, operations):
            self.remove(semid)
            return True
        return False

    def _on_set(self, function: Any, semid: int, *arguments: Any) -> int:
        try:
            return _checked(function, semid, *arguments)
        except OSError as error:
            raise self.removed(error.errno, semid) or error from None

    def removed(self, error: int | None, semid: int) -> Removed | None:
        """Return the exception if this errno means that the set was removed."""
        if (
            error == errno.EINVAL
        ):  # on the BSDs and macOS also: this process has too many semaphores to undo
            try:
                _checked(self._semctl, semid, TOKENS, self.system.GETVAL)
            except OSError as reason:
                error = errno.EIDRM if reason.errno == errno.EINVAL else reason.errno
        return Removed(errno.ENOENT, "it was removed") if error == errno.EIDRM else None

    # Opening

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

        ``link`` and ``create``: link to the set, or create it. ``create`` only: FileExistsError if it is open in any process, or persistent.
        ``link`` only: FileNotFoundError if it is neither. ``anew``: remove the set if there is one, and create it.

        ``total``: the number of tokens, 1 to MAX_TOKENS. ValueError if the set was created with another. None: 1, or any.
        ``persist``: from now on, the set stays without users. ``mode``: permissions of a new set, whatever the umask.
        """
        if mode & 0o600 != 0o600:  # its owner could not even make it ready
            raise ValueError(
                f"semaphore {name!r}: mode must allow its owner to read and to change it (0o600), not 0o{mode:o}"
            )
        while True:
            process = os.getpid()
            try:
                opened = self._try_to_open(
                    name, total, link and not anew, create or anew, anew, mode
                )
                if opened is not None:
                    opened._joined = [
                        process
                    ]  # this may be the child of a signal handler that forked meanwhile
                    if persist:
                        self.operate(opened.id, STAY)
                    return opened
            except Removed:
                pass
            except OSError as error:
                raise self.failure(error, name) from None

    def _try_to_open(
        self, name: str, total: int | None, link: bool, create: bool, anew: bool, mode: int
    ) -> Set | None:
        """Return None if another process interfered: then try again."""
        stored = words(name)
        size = NAME + len(stored)
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise OSError(errno.ENAMETOOLONG, "")
        try:
            semid = self.get(key(name), size, 0)
        except FileNotFoundError:
            return self._begin(name, total, mode, stored) if create else _refuse(errno.ENOENT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            try:
                self.get(key(name), 0, 0)
            except (
                FileNotFoundError
            ):  # Linux looks first whether its limit allows a set of this size
                raise OSError(errno.ENAMETOOLONG, "") from None
            raise _foreign(name) from None
        values = self.values(semid, size)
        if values is None:
            raise _foreign(name, semid)
        if not values[LIVE]:
            if any(values[:NAME]) or any(
                word not in (0, right) for word, right in zip(values[NAME:], stored)
            ):
                raise _foreign(name, semid)
            return self._make_ready(semid, name, total, stored) if create else _refuse(errno.ENOENT)
        if values[NAME:] != stored:
            raise _foreign(name, semid, values[NAME:])
        if anew:
            self.remove(semid)
            return None
        if values[DEAD] and values[PERSIST]:  # another process is about to remove it
            self.sleep(0.001)
            return None
        if not values[USERS] and not values[PERSIST]:
            return self._replace_idle(semid, name, total, create, values)
        if not link:
            _refuse(errno.EEXIST)
        if total is not None and total != values[LIVE]:
            hint = (
                ""
                if values[USERS]
                else ": nobody has it open, but it is persistent, so unlink it first"
            )
            tokens = "token" if values[LIVE] == 1 else "tokens"
            raise ValueError(
                f"{name!r} was created with {values[LIVE]} {tokens}, not with {total}{hint}"
            )
        return Set(self, name, semid, values[LIVE], False) if self.operate(semid, JOIN) else None

    def _begin(self, name: str, total: int | None, mode: int, stored: list[int]) -> Set | None:
        try:
            semid = self.get(key(name), NAME + len(stored), IPC_CREAT | IPC_EXCL | mode)
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno == errno.ENOSPC and remove_idle_sets():  # exec and kill leave idle sets
                return None
            raise (
                OSError(errno.ENAMETOOLONG, "") if error.errno == errno.EINVAL else error
            ) from None
        return self._make_ready(semid, name, total, stored)

    def _make_ready(
        self, semid: int, name: str, total: int | None, stored: list[int]
    ) -> Set | None:
        wrote = True
        for place in range(0, len(stored), 4):
            wrote &= self.operate(semid, write_name(place, stored[place : place + 4]))
        if not wrote:  # another process did, the same name or another with this key
            values = self.values(semid, NAME + len(stored))
            if values is None or values[NAME:] != stored:
                raise _foreign(name, semid)
        total = total or 1
        return (
            Set(self, name, semid, total, True) if self.operate(semid, make_ready(total)) else None
        )

    def _replace_idle(
        self, semid: int, name: str, total: int | None, create: bool, values: list[int]
    ) -> Set | None:
        if self.may_remove(semid):
            self.remove_unused(semid, REMOVE_IDLE)
            return None
        if not create:
            _refuse(errno.ENOENT)
        if values[DEAD]:  # another process is about to remove it
            self.sleep(0.001)
            return None
        # Another user's. It will do if it is as a new one would be.
        if values[TOTAL] != values[LIVE] or total not in (None, values[LIVE]):
            hint = f"nobody has it open, but only its owner can remove the old one, of {values[LIVE]} tokens: ipcrm -s {semid}"
            raise PermissionError(errno.EPERM, hint)
        return (
            Set(self, name, semid, values[LIVE], True) if self.operate(semid, TAKE_OVER) else None
        )

    def failure(self, error: OSError, name: str) -> Exception:
        """Return the exception for the caller: with the name, and a hint that helps."""
        number = error.errno or 0
        if number == errno.ENOSYS:
            return NotImplementedError(_refusal(self.platform))
        hint = error.strerror or self._hint(number, name)
        return OSError(number, os.strerror(number) + (f" ({hint})" if hint else ""), name)

    def _hint(self, number: int, name: str) -> str | None:
        limits = self.system.limits
        if number in (errno.EACCES, errno.EPERM):
            for set_key, semid, mode, _, uid, gid, _ in _listed():
                if set_key == key(name):
                    return (
                        f"set {semid} belongs to user {uid}, group {gid}, with mode {mode:04o}; "
                        "if no process has it open, that user can remove it: unlink --unused"
                    )
        return {
            errno.ENOENT: "no process has a semaphore of this name open",
            errno.EEXIST: "a process has a semaphore of this name open, or it is persistent",
            errno.EACCES: "it belongs to another user, and its mode denies access",
            errno.EPERM: "it belongs to another user",
            errno.ENOSPC: f"a limit of System V semaphores is reached: ipcs -s lists them, ipcrm removes one, {limits} sets the limit",
            errno.ENOMEM: "the kernel has no memory for it",
            errno.E2BIG: f"{limits} allows too few operations in one call; five are needed",
            errno.ENAMETOOLONG: f"a name has at most {LONGEST_NAME} bytes with its slash, and fewer if {limits} allows only small sets",
            errno.ERANGE: f"more than {MAX_TOKENS} tokens or openings, or more tokens than this system allows one process",
            errno.EINVAL: f"{limits} does not allow one process to use more System V semaphores",
        }.get(number)


def _checked(function: Any, *arguments: Any) -> int:
    for status, error in call(function, *arguments):
        break
    if status == -1:
        raise OSError(error, "")
    return status  # type: ignore[no-any-return]


def _refuse(number: int) -> NoReturn:
    raise OSError(number, "")


def _foreign(name: str, semid: int | None = None, stored: Iterable[int] = ()) -> OSError:
    other = name_of(stored)
    owner = "another program's semaphores have" if other is None else f"the semaphore {other!r} has"
    where = "" if semid is None else f" (set {semid})"
    return OSError(
        errno.EEXIST,
        f"{owner} the key {key(name):#x}{where}, which this name stands for: use another name",
    )


class Set:
    """One opening of a set. It counts in USERS until ``leave()``, or until the process ends."""

    def __init__(
        self, library: SysV, name: str, semid: int, created_with: int, created: bool
    ) -> None:
        self.library = library
        self.name = name
        self.id = semid
        self.created = created
        self._created_with = created_with
        self._joined = [
            os.getpid()
        ]  # the process that counts in USERS; list.pop is atomic, so USERS is lowered once

    def leave(self) -> None:
        """Stop counting. The last process to leave removes the set, if it may, unless the set is persistent."""
        try:
            if self._joined.pop() != os.getpid():
                return
        except IndexError:
            return
        library, semid = self.library, self.id
        try:
            library.operate(semid, LEAVE)
            if (
                library.value(semid, USERS) == 0
                and library.value(semid, PERSIST) == 0
                and library.may_remove(semid)
            ):
                library.remove_unused(semid, REMOVE_IDLE)
        except OSError:
            pass  # The set was removed. Or this process lost its rights to it; then the kernel lowers USERS when the process ends.

    def rejoin(self) -> None:
        """In a child of fork: count for this process too. FileNotFoundError if the set was removed."""
        self._joined = []  # in another PID namespace the child may have its parent's process number
        try:
            if not self.library.operate(self.id, JOIN):
                raise Removed(errno.ENOENT, "it was removed")
        except OSError as error:
            raise self.failure(error) from None
        self._joined = [os.getpid()]

    def is_joined(self) -> bool:
        """Whether this process counts in USERS."""
        return self._joined == [os.getpid()]

    # Arguments of ``semop``. Operations on several tokens take all of them or none.

    def take(self, n: int = 1) -> tuple[Any, ...]:
        return arguments(self.id, take(n))

    def try_to_take(self, n: int = 1) -> tuple[Any, ...]:
        """As ``take``, but fail with EAGAIN instead of waiting."""
        return arguments(self.id, take(n, NOWAIT))

    def give(self, n: int = 1) -> tuple[Any, ...]:
        return arguments(self.id, give(n))

    def is_gone(self, change: bool = False) -> bool:
        """Whether it was removed. PermissionError: this process has lost its rights to look at it, or if that is asked, to change it."""
        try:
            if change:
                self.library.operate(self.id, NOTHING)
            else:
                self.library.value(self.id, TOKENS)
        except Removed:
            return True
        except OSError as error:
            raise self.failure(error) from None
        return False

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
        """Change the number of tokens, in one step. A smaller number waits until enough are free; return False if that takes too long."""
        library = self.library
        deadline = None if timeout is None else library.clock() + timeout
        most = (
            SLICE if library.has_timed_wait else 0.02
        )  # a poll does not notice that another process has resized
        try:
            while True:
                before = library.value(self.id, TOTAL)
                if before == total:
                    return True
                left = most if deadline is None else max(0.0, min(most, deadline - library.clock()))
                try:
                    if library.wait(self.id, resize(before, total), left):
                        return True
                except InterruptedError:
                    continue
                if (
                    deadline is not None
                    and library.clock() >= deadline
                    and library.value(self.id, TOTAL) == before
                ):
                    return False
        except OSError as error:
            raise self.failure(error) from None

    def remove(self) -> None:
        """Remove the set. Waiters fail with EIDRM."""
        try:
            self.library.remove(self.id)
        except OSError as error:
            raise self.failure(error) from None

    def failure(self, error: OSError | int) -> Exception:
        """Return the exception for a failed call on this set, or for the errno of a failed ``semop``."""
        if not isinstance(error, OSError):
            error = self.library.removed(error, self.id) or OSError(error, "")
        return self.library.failure(error, self.name)


_found: SysV | None = None


def system() -> SysV:
    """Return the running system's calls. NotImplementedError, before any call, where they are missing or kill the process."""
    global _found
    if _found is None:
        _found = load()
    return _found


def is_supported(platform: str | None = None) -> bool:
    return system_of(platform or sys.platform, _SYSTEMS) is not None


def load(platform: str = sys.platform) -> SysV:
    if hasattr(sys, "getandroidapilevel"):  # before 3.13 the platform is "linux" there too
        platform = "android"
    if not is_supported(platform):
        raise NotImplementedError(_refusal(platform))
    library = ctypes.CDLL(None)
    if not hasattr(library, "semget"):
        raise NotImplementedError(_refusal(platform))
    return SysV(library, platform)


def _refusal(platform: str) -> str:
    if platform.startswith(("cygwin", "msys", "android")):
        # Cygwin without cygserver, and Android's seccomp filter, answer with SIGSYS.
        return f"a System V semaphore call can kill the process on this system ({platform}): use NamedSemaphore if it works here"
    return f"this system ({platform}) has no System V semaphores" + (
        "; run Python under WSL" if platform == "win32" else ""
    )


class Listed:
    """A set of this package. Or, if this user may not read it, possibly another program's: then the name and the values are None."""

    name: str | None = None
    free: int | None = None
    total: int | None = None
    users: int | None = None
    waiting: int | None = None
    persistent: bool | None = None

    def __init__(self, semid: int, mode: int, uid: int, gid: int, ctime: int) -> None:
        self.id = semid
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.ctime = ctime  # of the creation, in seconds since 1970


def list_sets() -> list[Listed]:
    """Return the sets, idle ones too. Empty where the system has no /proc/sysvipc/sem, which is Linux's."""
    library = system()
    sets = []
    for set_key, semid, mode, size, uid, gid, ctime in _listed():
        listed = Listed(semid, mode, uid, gid, ctime)
        if set_key <= 0 or size <= NAME:
            continue
        try:
            values = library.values(semid, size)
            if values is None or not values[LIVE]:
                continue
            name = name_of(values[NAME:])
            if name is None or key(name) != set_key:
                continue
            listed.waiting = library.waiters(semid, TOKENS)
        except Removed:
            continue
        except PermissionError:
            pass
        else:
            listed.name = name
            listed.free, listed.total = values[TOKENS], values[TOTAL]
            listed.users, listed.persistent = values[USERS], bool(values[PERSIST])
        sets.append(listed)
    return sets


def _idle(names: Container[str] | None) -> list[Listed]:
    unused = [listed for listed in list_sets() if listed.users == 0]
    return [
        listed
        for listed in unused
        if (not listed.persistent if names is None else listed.name in names)
    ]


def idle_sets(names: Container[str] | None = None) -> list[str]:
    """Return the names of the idle sets, on Linux; with ``names``, of these sets without users, persistent ones included."""
    return sorted(listed.name or "" for listed in _idle(names))


def remove_idle_sets(names: Container[str] | None = None) -> list[str]:
    """Remove these sets, each if it is still without users, and return the names."""
    library, removed = system(), []
    for listed in _idle(names):
        try:
            if library.may_remove(listed.id) and library.remove_unused(
                listed.id, REMOVE_IDLE if names is None else REMOVE_UNUSED
            ):
                removed.append(listed.name or "")
        except OSError:  # removed meanwhile
            pass
    return removed


def _listed() -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """Yield each set's key, id, mode, size, user, group and time of creation."""
    try:
        with open("/proc/sysvipc/sem", encoding="ascii") as lines:
            next(lines)
            for line in lines:
                set_key, semid, mode, size, uid, gid, _, _, _, ctime = line.split()
                yield (
                    int(set_key),
                    int(semid),
                    int(mode, 8),
                    int(size),
                    int(uid),
                    int(gid),
                    int(ctime),
                )
    except OSError:  # there is no such file: not Linux, or /proc is missing
        pass
