# SPDX-License-Identifier: Apache-2.0
"""The semaphores of this machine, of both kinds: only Linux lists them.

The package does not import this module: ``from named_semaphores.listing import list_semaphores``.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import NamedTuple

from . import _set, _sets, _sysv
from ._libc import SIZE, system
from ._set import Holder


class SemaphoreInfo(NamedTuple):
    """One semaphore, as it was when it was looked at.

    Attributes:
        name: With its slash. Other programs' names may have characters that NamedSemaphore refuses.
        value: Free tokens; below 0 after a resize to fewer than are taken. None: this user may not
            read it.
        pids: The processes that have it open; POSIX ones only. A container knows its own.
        all_pids: Whether every process could be looked at. Only root may look into other users'.
        mode: The permission bits.
        created: When it was created, as ``time.time`` counts.
        kind: "posix" or "robust".
        total, waiting, holders: As for ``RobustSemaphore``; robust ones only.
        users: How many processes have it open; of POSIX ones, how many ``pids`` there are.
        stays: Whether it exists also without users; robust ones only.
    """

    name: str
    value: int | None
    pids: tuple[int, ...] | None
    all_pids: bool
    mode: int
    uid: int
    created: float
    kind: str = "posix"
    total: int | None = None
    waiting: int | None = None
    users: int | None = None
    holders: tuple[Holder, ...] | None = None
    stays: bool | None = None

    @property
    def owner(self) -> str:
        """The owner's name, or the number of a user without a name."""
        return user_name(self.uid)

    @property
    def age(self) -> float:
        """Seconds since it was created."""
        return max(0.0, time.time() - self.created)


def user_name(uid: int) -> str:
    import pwd

    try:
        return str(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def list_semaphores() -> list[SemaphoreInfo]:
    """Return both kinds, sorted by name.

    Raises:
        NotImplementedError: this system does not list both.
    """
    return sorted(list_posix() + list_robust(), key=lambda info: (info.name, info.kind))


def list_robust(idle_too: bool = False) -> list[SemaphoreInfo]:
    """Return the robust semaphores that this user may read, sorted by name.

    Idle ones, which nobody has open and which are not to stay, count as not there.

    Raises:
        NotImplementedError: this system has none, or does not list them.
    """
    library, found = _sysv.system(), []
    try:
        rows = list(_sets.rows())
    except OSError as error:
        raise NotImplementedError(
            f"this system does not list robust semaphores: {error.filename}: {error.strerror}"
        ) from None
    for row in rows:
        try:
            values = library.values(row.id)
            name = _set.name_of(values[_set.NAME :])
            if name is None or not values[_set.TOTAL] or _set.key(name) != row.key:
                continue
            accounts = _set.NAME + len(_set.words(name))
            holders = _set.holders_of(library, row.id, values, accounts)
            waiting = library.waiting(row.id, _set.TOKENS, _set.TURN)
        except (PermissionError, _sysv.Removed):  # another user's, or another program's
            continue
        info = SemaphoreInfo(
            name=name,
            value=values[_set.TOKENS] - library.bias,
            pids=None,
            all_pids=False,
            mode=row.mode & 0o777,
            uid=row.uid,
            created=float(row.created),
            kind="robust",
            total=values[_set.TOTAL],
            waiting=waiting,
            users=values[_set.USERS],
            holders=tuple(holders),
            stays=bool(values[_set.PERSIST]),
        )
        if idle_too or info.users or info.stays:
            found.append(info)
    return sorted(found, key=lambda info: info.name)


def list_posix() -> list[SemaphoreInfo]:
    """Return the POSIX named semaphores, sorted by name.

    They are the files of /dev/shm that have a semaphore's prefix, size and contents. musl has no
    prefix: other shared memory that looks the same is listed, too.

    Raises:
        NotImplementedError: this system has none, or does not list them.
    """
    libc = system()
    if libc.files is None or not libc.opens_any_file:
        raise NotImplementedError(f"this system ({libc.platform}) does not list POSIX semaphores")
    directory, prefix = os.path.split(libc.files)
    entries = sorted(os.listdir(directory)) if os.path.isdir(directory) else ()
    openers, all_pids = _openers()  # after the names: who made one has it open
    found = []
    for entry in entries:
        path = os.path.join(directory, entry)
        try:
            status = os.lstat(path)
            is_sized = stat.S_ISREG(status.st_mode) and status.st_size == SIZE
            if not entry.startswith(prefix) or not is_sized:
                continue
            value = _read(path, libc.is_glibc)
        except (OSError, ValueError):  # removed or replaced since, or other shared memory
            continue
        device = b"%02x:%02x" % (os.major(status.st_dev), os.minor(status.st_dev))
        pids = openers.get((device, b"%d" % status.st_ino), [])
        found.append(
            SemaphoreInfo(
                name="/" + entry[len(prefix) :],
                value=value,
                pids=tuple(pids),
                all_pids=all_pids,
                mode=stat.S_IMODE(status.st_mode),
                uid=status.st_uid,
                created=status.st_mtime,
                users=len(pids),
            )
        )
    return found


def _read(path: str, is_glibc: bool) -> int | None:
    """Return the value; None: this user may not read it. ValueError: it is no semaphore."""
    try:
        # Read, not mapped: if its owner truncates the file, a mapping raises SIGBUS.
        look = os.O_NOFOLLOW | os.O_NONBLOCK
        with open(path, "rb", 0, opener=lambda path, flags: os.open(path, flags | look)) as file:
            start = file.read(SIZE + 1)
    except PermissionError:
        return None
    if len(start) != SIZE:  # truncated or extended since
        raise ValueError("no semaphore")
    return _value_of(start, is_glibc)


def _value_of(start: bytes, is_glibc: bool) -> int:
    # glibc's 64-bit struct new_sem: the value is the low half of 64 bits, the high half counts
    # waiters; then "private", 128 in a named semaphore. Its 32-bit one: value << 1, and a bit that
    # says that there are waiters; "private". musl's sem_t is an int[]: the value (its top bit says
    # that there are waiters), the waiters, "private" (0).
    place, private = (len(start) // 4, 128) if is_glibc else (8, 0)
    if int.from_bytes(start[place : place + 4], sys.byteorder) != private:
        raise ValueError("no semaphore")
    value = int.from_bytes(start[:4], sys.byteorder)
    if not is_glibc:
        return 0 if value == 0xFFFFFFFF else value & 0x7FFFFFFF  # musl 1.2.3: -1 with waiters
    return value >> 1 if len(start) == 16 else int.from_bytes(start[:8], sys.byteorder) & 0xFFFFFFFF


def _openers() -> tuple[dict[tuple[bytes, ...], list[int]], bool]:
    """Return who has files mapped, by device and inode, and whether all could be looked at."""
    openers: dict[tuple[bytes, ...], list[int]] = {}
    entries = os.listdir("/proc") if os.path.isdir("/proc") else ()
    pids = sorted(int(entry) for entry in entries if entry.isdigit())
    # Without 1, /proc is missing, or mounted with hidepid, which hides other users' processes.
    all_pids = 1 in pids
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", "rb") as maps:
                files = {tuple(line.split(None, 5)[3:5]) for line in maps if b" rw-s " in line}
        except PermissionError:
            all_pids = False
        except (FileNotFoundError, ProcessLookupError):  # it has ended, or is the kernel's
            pass
        else:
            for file in files:
                openers.setdefault(file, []).append(pid)
    return openers, all_pids
