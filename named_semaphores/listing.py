# SPDX-License-Identifier: Apache-2.0
"""The semaphores of this machine, of both kinds, on systems that list them.

Import it with ``from named_semaphores.listing import list_semaphores``; the package itself does not.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from typing import NamedTuple

from . import _sysv
from ._errors import open_error, oserror
from ._libc import OTHER_SIZE, OTHERS, SIZE
from ._semlock import system

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from ._libc import Libc

# In glibc's struct new_sem the int "private" follows the value (64 bits, or 32), and is 128 in a named semaphore.
_PRIVATE = (128).to_bytes(4, sys.byteorder)


class SemaphoreInfo(NamedTuple):
    """One semaphore, as it was when it was looked at."""

    name: str
    """With its slash. Other programs' names may have characters that NamedSemaphore refuses."""
    value: int | None
    """The number of free tokens; None if it could not be read."""
    why_no_value: str | None
    """Why ``value`` is None: no permission, the semaphore of a 32-bit program on a 64-bit system..."""
    pids: tuple[int, ...] | None
    """The processes that have it open; None for robust ones, and outside Linux: unknown."""
    all_pids: bool
    """Whether every process could be looked at. Only root may look into other users' processes."""
    mode: int
    """The permission bits."""
    uid: int
    """Whose it is."""
    created: float
    """When it was created, as ``time.time`` counts."""
    kind: str = "posix"
    """"posix" for a NamedSemaphore, "robust" for a RobustSemaphore."""
    total: int | None = None
    """The number of tokens, free and taken; robust ones only."""
    waiting: int | None = None
    """The number of waiters; robust ones only."""
    users: int | None = None
    """How many times living processes have it open; robust ones only."""
    stays: bool | None = None
    """Whether it exists also without users; robust ones only."""

    @property
    def owner(self) -> str:
        """The user's name, or the number of one without a name."""
        import pwd

        try:
            name: str = pwd.getpwuid(self.uid).pw_name  # type: ignore[attr-defined,unused-ignore]
            return name
        except KeyError:
            return str(self.uid)

    @property
    def age(self) -> float:
        """Seconds since it was created."""
        return max(0.0, time.time() - self.created)


def list_semaphores() -> list[SemaphoreInfo]:
    """Return the semaphores of this machine, sorted by name: ``list_posix()``, and ``list_robust()`` where the system lists those.

    NotImplementedError: this system lists neither kind (macOS, NetBSD, OpenBSD, illumos), or has no semaphores.
    """
    found: list[SemaphoreInfo] = []
    refusal = None
    for kind in (list_posix, list_robust):
        try:
            found += kind()
        except NotImplementedError as error:
            refusal = refusal or error
    if refusal and not found:
        raise refusal
    return sorted(found, key=lambda info: (info.name, info.kind))


def list_robust() -> list[SemaphoreInfo]:
    """Return the robust semaphores that this user may read, sorted by name; none but on Linux. An idle set is no semaphore, and is not listed.

    NotImplementedError: this system has none.
    """
    sets = _sysv.list_sets()
    # A set without a name may be another program's.
    found = [info for info in sets if info.name is not None and (info.users or info.persistent)]
    return sorted((_robust(info) for info in found), key=lambda info: info.name)


def _robust(found: _sysv.Listed) -> SemaphoreInfo:
    return SemaphoreInfo(
        name=found.name or "",
        value=found.free,
        why_no_value=None,
        pids=None,
        all_pids=False,
        mode=found.mode & 0o777,
        uid=found.uid,
        created=float(found.ctime),
        kind="robust",
        total=found.total,
        waiting=found.waiting,
        users=found.users,
        stays=found.persistent,
    )


def list_posix() -> list[SemaphoreInfo]:
    """Return the POSIX named semaphores, sorted by name.

    Values are read from the files, which takes no token and wakes nobody. ``pids`` are those of this PID namespace: a container's own. On Linux
    a semaphore is a regular file of /dev/shm with glibc's prefix "sem.", and the size and contents of a semaphore. musl has no prefix: other
    shared memory that looks the same is listed too.

    NotImplementedError: this system does not tell (macOS, NetBSD, OpenBSD, illumos), or has no semaphores.
    """
    return _list(system())


def _list(libc: Libc) -> list[SemaphoreInfo]:
    if libc.files is None:
        raise NotImplementedError(f"this system ({libc.platform}) cannot list its named semaphores")
    linux = libc.opens_any_file
    directory, prefix = os.path.split(libc.files)
    files: dict[str, os.stat_result] = {}
    try:
        for file in sorted(os.listdir(directory)):
            if file.startswith(prefix) and file != prefix:
                status = _status(os.path.join(directory, file))
                if status is not None and _may_be_semaphore(status, linux):
                    files["/" + file[len(prefix) :]] = status
    except (FileNotFoundError, NotADirectoryError) as error:
        raise open_error(error, libc, directory) from None

    openers, all_pids = (
        _openers({(status.st_dev, status.st_ino) for status in files.values()})
        if linux and files
        else ({}, False)
    )
    found = []
    for name, status in files.items():
        try:
            value, why = (_read if linux else _ask)(libc, name)
        except (FileNotFoundError, ValueError):  # removed since, or other shared memory
            continue
        pids = tuple(openers.get((status.st_dev, status.st_ino), ())) if linux else None
        found.append(
            SemaphoreInfo(
                name,
                value,
                why,
                pids,
                all_pids,
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_mtime,
            )
        )
    return found


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:  # removed since
        return None


def _may_be_semaphore(status: os.stat_result, linux: bool) -> bool:
    return stat.S_ISREG(status.st_mode) and (
        not linux or status.st_size in (SIZE, OTHER_SIZE)
    )


def _read(libc: Libc, name: str) -> tuple[int | None, str | None]:
    """Return value and why it has none. ValueError: it is no semaphore."""
    try:
        start = _read_start(libc.path(name) or "")
    except FileNotFoundError:
        raise
    except OSError as error:
        return None, error.strerror
    if len(start) == OTHER_SIZE:
        return None, f"it is the semaphore of a {OTHERS} program, which works differently"
    if len(start) != SIZE:  # truncated or extended since
        raise ValueError("no semaphore")
    return _value_of(libc, start), None


def _read_start(file: str) -> bytes:
    """Return the first bytes of a semaphore's file, one more than a semaphore has."""
    # Read, not mapped: whoever may write the file may truncate it, and a mapping then dies of SIGBUS.
    # O_NONBLOCK: do not wait for a fifo's writer.
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, 33)
    finally:
        os.close(fd)


def _ask(libc: Libc, name: str) -> tuple[int | None, str | None]:
    """As ``_read``, where only the C library knows the format."""
    try:
        return libc.link(name).value(), None
    except FileNotFoundError:
        raise
    except OSError as error:
        return None, error.strerror


def _openers(files: set[tuple[int, int]]) -> tuple[dict[tuple[int, int], list[int]], bool]:
    """Return who has the files (device, inode) mapped, and whether every process could be looked at; Linux only."""
    openers: dict[tuple[int, int], list[int]] = {}
    try:
        pids = sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    except FileNotFoundError:
        pids = []
    all_pids = (
        1 in pids
    )  # else /proc is not mounted, or with hidepid, which hides other users' processes
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", "rb") as maps:
                shared = {_mapped_file(line) for line in maps if b" rw-s " in line}
        except PermissionError:
            all_pids = False
        except (FileNotFoundError, ProcessLookupError):  # it has ended, or is the kernel's
            pass
        else:
            for file in shared & files:
                openers.setdefault(file, []).append(pid)
    return openers, all_pids


def _mapped_file(line: bytes) -> tuple[int, int]:
    """Return device and inode of the file in a line of /proc/PID/maps: start-end permissions offset major:minor inode path."""
    device, inode = line.split(None, 5)[3:5]
    major, minor = (int(number, 16) for number in device.split(b":"))
    return os.makedev(major, minor), int(inode)  # type: ignore[attr-defined,unused-ignore]


def _value_of(libc: Libc, start: bytes) -> int:
    """Return the value that the first bytes of a semaphore's file tell. ValueError: it is other shared memory."""
    value = int.from_bytes(start[:4], sys.byteorder)
    # glibc's 64-bit struct new_sem: the value is the low half of 64 bits, the high half counts waiters. Its 32-bit one: value << 1, and a bit
    # that says that there are waiters. musl's sem_t is an int[]: the value (its top bit says that there are waiters), waiters, "private" (0).
    if libc.is_glibc:
        if start[SIZE // 4 : SIZE // 4 + 4] != _PRIVATE:
            raise ValueError("no semaphore")
        if SIZE == 16:
            return value >> 1
        return int.from_bytes(start[:8], sys.byteorder) & 0xFFFFFFFF
    if start[8:12] != bytes(4):
        raise ValueError("no semaphore")
    return (
        0 if value == 0xFFFFFFFF else value & 0x7FFFFFFF
    )  # -1 in musl 1.2.3: 0, and there are waiters


def is_in_use(name: str) -> bool:
    """Return whether any process has the POSIX semaphore open, of whatever user or container. For its owner and root; Linux 5.3 and later.

    FileNotFoundError: there is none. NotImplementedError: this system does not tell. PermissionError: it is somebody else's, or its mode
    keeps its owner from reading it.
    """
    libc = system()
    name = name if name.startswith("/") else "/" + name
    path = libc.path(name)
    if (
        sys.platform != "linux" or path is None or not libc.is_glibc
    ):  # with musl, what looks like a semaphore may be other shared memory
        raise NotImplementedError(
            f"this system ({libc.platform}) cannot tell whether a semaphore is in use"
        )
    import fcntl

    # /proc hides other users' processes and other containers', the kernel's own count does not: it gives a lease for writing only while
    # nobody else has the file open for writing, as who has a semaphore mapped does. Earlier kernels also count what tmpfs itself holds.
    try:
        with open(
            path,
            "rb",
            0,
            opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK),
        ) as file:
            # Who opens it meanwhile waits until this is closed, and we get a signal: a harmless one, not SIGIO, which ends a process.
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(
                file, fcntl.F_SETLEASE, fcntl.F_UNLCK
            )  # closing does not end it, if another thread has forked meanwhile
    except BlockingIOError:
        return True
    except (FileNotFoundError, PermissionError) as error:
        raise oserror(error.errno or 0, libc, name) from None
    except OSError as error:
        raise NotImplementedError(
            f"this system cannot tell whether semaphore {name} is in use: {error.strerror}"
        ) from None
    return False
