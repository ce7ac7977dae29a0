# SPDX-License-Identifier: Apache-2.0
"""The semaphores of this machine, of both kinds, on systems that list them.

Import it with ``from named_semaphores.listing import list_semaphores``; the package itself does
not.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import NamedTuple

from . import _sets
from ._libc import OTHER_SIZE, OTHERS, SIZE
from ._semlock import system
from .robust import Holder

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from ._libc import Libc

# In glibc's struct new_sem the int "private" follows the value; it is 128 in a named semaphore.
_PRIVATE = (128).to_bytes(4, sys.byteorder)
# O_NONBLOCK: a fifo's writer and another process's lease (F_SETLEASE) are not waited for.
_LOOK = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))


class SemaphoreInfo(NamedTuple):
    """One semaphore, as it was when it was looked at."""

    name: str
    """With its slash. Other programs' names may have characters that NamedSemaphore refuses."""
    value: int | None
    """The number of free tokens; None if it could not be read. Negative after a resize to fewer
    tokens than are taken: so many must come back before one is free."""
    why_no_value: str | None
    """Why ``value`` is None: no permission, the semaphore of a 32-bit program..."""
    pids: tuple[int, ...] | None
    """The processes that have it open; None for robust ones, and outside Linux: unknown."""
    all_pids: bool
    """Whether every process could be looked at. Only root may look into other users' processes."""
    mode: int
    """The permission bits."""
    uid: int
    """The owner's user id."""
    created: float
    """When it was created, as ``time.time`` counts."""
    kind: str = "posix"
    """"posix" for a NamedSemaphore, "robust" for a RobustSemaphore."""
    total: int | None = None
    """The number of tokens, free and taken; robust ones only."""
    waiting: int | None = None
    """The number of waiters; robust ones only."""
    users: int | None = None
    """How many processes have it open; robust ones only."""
    holders: tuple[Holder, ...] | None = None
    """Who holds tokens, as ``RobustSemaphore.holders`` tells; robust ones only."""
    stays: bool | None = None
    """Whether it exists also without users; robust ones only."""

    @property
    def owner(self) -> str:
        """The owner's name, or the number of a user without a name."""
        return user_name(self.uid)

    @property
    def age(self) -> float:
        """Seconds since it was created."""
        return max(0.0, time.time() - self.created)


def user_name(uid: int) -> str:
    """Return the user's name, or the number of a user without a name."""
    import pwd

    try:
        return str(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def list_semaphores() -> list[SemaphoreInfo]:
    """Return the semaphores of this machine, sorted by name.

    Returns:
        ``list_posix()`` and ``list_robust()``; one of them where the system lists one kind only.

    Raises:
        NotImplementedError: this system lists neither kind (macOS, NetBSD, OpenBSD, illumos), or
            has no semaphores.
    """
    return list_what_can_be()[0]


def list_what_can_be() -> tuple[list[SemaphoreInfo], list[str]]:
    """Return what ``list_semaphores`` does, and why one kind is not in it, if so."""
    found: list[SemaphoreInfo] = []
    refusals = []
    for look in (list_posix, list_robust):
        try:
            found += look()
        except NotImplementedError as error:
            refusals.append(str(error))
    if len(refusals) == 2:
        raise NotImplementedError("; ".join(dict.fromkeys(refusals)))
    return sorted(found, key=lambda info: (info.name, info.kind)), refusals


def list_robust() -> list[SemaphoreInfo]:
    """Return the robust semaphores that this user may read, sorted by name; Linux only.

    A set that nobody has open and that is not to stay counts as not there.

    Raises:
        NotImplementedError: this system has none, or does not list them.
    """
    found = []
    try:
        for each in _sets.listed():
            if each.name is not None and (each.users or each.persistent):
                found.append(_robust(each.name, each))
    except OSError as error:
        raise NotImplementedError(
            f"this system does not list robust semaphores: {error.filename}: {error.strerror}"
        ) from None
    return sorted(found, key=lambda info: info.name)


def _robust(name: str, found: _sets.Listed) -> SemaphoreInfo:
    return SemaphoreInfo(
        name=name,
        value=found.free,
        why_no_value=None,
        pids=None,
        all_pids=False,
        mode=found.row.mode & 0o777,
        uid=found.row.uid,
        created=float(found.row.created),
        kind="robust",
        total=found.total,
        waiting=found.waiting,
        users=found.users,
        holders=tuple(Holder(*holder) for holder in found.holders),
        stays=found.persistent,
    )


def list_posix() -> list[SemaphoreInfo]:
    """Return the POSIX named semaphores, sorted by name.

    Values are read from the files, which takes no token and wakes nobody. ``pids`` are those of
    this PID namespace: a container's own. On Linux a semaphore is a regular file of /dev/shm with
    glibc's prefix "sem.", and the size and contents of a semaphore. musl has no prefix: other
    shared memory that looks the same is listed, too.

    Raises:
        NotImplementedError: this system does not tell (macOS, NetBSD, OpenBSD, illumos), or has
            no semaphores.
    """
    return _list(system())


def _list(libc: Libc) -> list[SemaphoreInfo]:
    if libc.files is None:
        raise NotImplementedError(f"this system ({libc.platform}) does not list POSIX semaphores")
    linux = libc.opens_any_file
    files = _candidates(libc.files, linux)
    openers, all_pids = _openers(set(map(_identity, files.values()))) if linux else ({}, False)
    found = []
    for name, status in files.items():
        try:
            value, why = (_read if linux else _ask)(libc, name)
        except (FileNotFoundError, ValueError):  # removed since, or other shared memory
            continue
        found.append(
            SemaphoreInfo(
                name=name,
                value=value,
                why_no_value=why,
                pids=tuple(openers.get(_identity(status), ())) if linux else None,
                all_pids=all_pids,
                mode=stat.S_IMODE(status.st_mode),
                uid=status.st_uid,
                created=status.st_mtime,
            )
        )
    return found


def _candidates(files: str, linux: bool) -> dict[str, os.stat_result]:
    """Return the files that may be semaphores, by the semaphore's name."""
    directory, prefix = os.path.split(files)
    found: dict[str, os.stat_result] = {}
    try:
        entries = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):  # then there can be none
        return found
    for entry in entries:
        if entry.startswith(prefix) and entry != prefix:
            try:
                status = os.lstat(os.path.join(directory, entry))
            except FileNotFoundError:  # removed since
                continue
            sized = not linux or status.st_size in (SIZE, OTHER_SIZE)
            if stat.S_ISREG(status.st_mode) and sized:
                found["/" + entry[len(prefix) :]] = status
    return found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _read(libc: Libc, name: str) -> tuple[int | None, str | None]:
    """Return the value, and why there is none. ValueError: it is no semaphore."""
    try:
        start = _start_of(libc.path(name) or "")
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        return None, error.strerror
    if len(start) == OTHER_SIZE:
        return None, f"it is the semaphore of a {OTHERS} program, which works differently"
    if len(start) != SIZE:  # truncated or extended since
        raise ValueError("no semaphore")
    return _value_of(libc, start), None


def _start_of(path: str) -> bytes:
    # Read, not mapped: if its owner truncates the file, a mapping raises SIGBUS.
    with open(path, "rb", 0, opener=lambda path, flags: os.open(path, flags | _LOOK)) as file:
        return file.read(33)


def _value_of(libc: Libc, start: bytes) -> int:
    """Return the value that a semaphore's file tells. ValueError: it is other shared memory."""
    # glibc's 64-bit struct new_sem: the value is the low half of 64 bits, the high half counts
    # waiters. Its 32-bit one: value << 1, and a bit that says that there are waiters.
    # musl's sem_t is an int[]: the value (its top bit says that there are waiters), the waiters,
    # "private" (0).
    value = int.from_bytes(start[:4], sys.byteorder)
    if libc.is_glibc:
        if start[len(start) // 4 : len(start) // 4 + 4] != _PRIVATE:
            raise ValueError("no semaphore")
        if len(start) == 16:
            return value >> 1
        return int.from_bytes(start[:8], sys.byteorder) & 0xFFFFFFFF
    if start[8:12] != bytes(4):
        raise ValueError("no semaphore")
    return 0 if value == 0xFFFFFFFF else value & 0x7FFFFFFF  # musl 1.2.3: -1 for 0 with waiters


def _ask(libc: Libc, name: str) -> tuple[int | None, str | None]:
    """As ``_read``, where only the C library knows the format."""
    try:
        return libc.link(name).value(), None
    except FileNotFoundError:
        raise
    except OSError as error:
        return None, error.strerror


def _openers(files: set[tuple[int, int]]) -> tuple[dict[tuple[int, int], list[int]], bool]:
    """Return who has the files mapped, by device and inode, and whether all could be looked at."""
    openers: dict[tuple[int, int], list[int]] = {}
    try:
        pids = sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    except FileNotFoundError:
        pids = []
    # Without 1, /proc is not mounted, or with hidepid, which hides other users' processes.
    all_pids = 1 in pids
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
    """Return device and inode of the file in a line of /proc/PID/maps."""
    _, _, _, device, inode, *_ = line.split(None, 5)
    major, minor = (int(number, 16) for number in device.split(b":"))
    return os.makedev(major, minor), int(inode)
