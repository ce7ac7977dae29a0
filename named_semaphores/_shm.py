# SPDX-License-Identifier: Apache-2.0
"""Mechanism: the files behind semaphores, on the systems where they are files."""

from __future__ import annotations

import ctypes
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._libc import Libc, sem_t

# sizeof(sem_t) of glibc and of musl, and who made a file that has the other's.
_SIZE, _OTHER, _OTHERS = (32, 16, "32-bit") if ctypes.sizeof(ctypes.c_void_p) == 8 else (16, 32, "64-bit")


def path(libc: Libc, name: str) -> str | None:
    """Return the path of the semaphore's file; None where it has none."""
    return None if libc.files is None else libc.files + name[1:]


def address(handle: sem_t) -> int:
    """Return where the semaphore is mapped."""
    return ctypes.addressof(handle)


def why_no_link(libc: Libc, name: str) -> str | None:
    """Return why the file must not be taken for a semaphore, or None.

    Linux opens any file. In one that is too short the first wait dies of SIGBUS; in a semaphore of a program of the other word size or byte
    order it reads wrong values and is never woken.
    """
    file = path(libc, name)
    if file is None or not libc.platform.startswith("linux"):
        return None
    try:
        status = os.lstat(file)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    if status.st_size == _OTHER:
        return f"it is the semaphore of a {_OTHERS} program, which works differently"
    if status.st_size < _SIZE:
        return f"its file has {status.st_size} bytes and is too short to be a semaphore"
    return None


def is_other_endian(libc: Libc, handle: sem_t) -> bool:
    """Return whether a program of the other byte order made the semaphore."""
    if not (libc.platform.startswith("linux") and libc.is_glibc):
        return False
    # struct new_sem: after the value (64 bits, or 32) comes the int "private", which is 128 in a named semaphore.
    private = ctypes.c_uint32.from_address(address(handle) + _SIZE // 4)
    return private.value == 128 << 24


def is_file_of(file: str, handle: sem_t) -> bool:
    """Return whether the file is the one behind the open semaphore; Linux only."""
    start = f"{address(handle):x}-".encode()
    with open("/proc/self/maps", "rb") as maps:
        mapped = next(mapped_file(line) for line in maps if line.lstrip(b"0").startswith(start))
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return False
    return mapped == (status.st_dev, status.st_ino)


def mapped_file(line: bytes) -> tuple[int, int]:
    """Return device and inode of the file in a line of /proc/PID/maps: start-end permissions offset major:minor inode path."""
    device, inode = line.split(None, 5)[3:5]
    major, minor = (int(number, 16) for number in device.split(b":"))
    return os.makedev(major, minor), int(inode)  # type: ignore[attr-defined,unused-ignore]
