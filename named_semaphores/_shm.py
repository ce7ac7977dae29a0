# SPDX-License-Identifier: Apache-2.0
"""Mechanism: the files behind semaphores, on the systems where they are files."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._libc import Libc

# sizeof(sem_t) of glibc and of musl, and who made a file that has the other's.
_SIZE, _OTHER, _OTHERS = (32, 16, "32-bit") if sys.maxsize > 2**32 else (16, 32, "64-bit")
# In glibc's struct new_sem the int "private" comes after the value (64 bits, or 32), and is 128 in a named semaphore.
_FOREIGN_PRIVATE = (128 << 24).to_bytes(4, sys.byteorder)
# As sem_open does, and without a wait for a fifo's writer. (Windows has none of these, and no semaphores.)
_READ = (sum(getattr(os, flag, 0) for flag in ("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")),)


def path(libc: Libc, name: str) -> str | None:
    """Return the path of the semaphore's file; None where it has none."""
    return None if libc.files is None else libc.files + name[1:]


def why_no_link(libc: Libc, name: str) -> str | None:
    """Return why the file must not be taken for a semaphore, or None.

    Linux's libcs open any file. In one that is too short the first wait dies of SIGBUS; in a semaphore of a program of the other word size
    or byte order it reads wrong values and is never woken.
    """
    file = path(libc, name)
    if file is None or not libc.opens_any_file:
        return None
    try:
        start = _start(file)
    except OSError:  # sem_open will say why
        return None
    if len(start) == _OTHER:
        return f"it is the semaphore of a {_OTHERS} program, which works differently"
    if len(start) < _SIZE:
        return f"its file has {len(start)} bytes and is too short to be a semaphore"
    if libc.is_glibc and start[_SIZE // 4 : _SIZE // 4 + 4] == _FOREIGN_PRIVATE:
        return "it is the semaphore of a program of the other byte order"
    return None


def _start(file: str) -> bytes:
    """Return the bytes of a semaphore's file, and one more where it is longer. OSError for what is no regular file."""
    # Cheaper than lstat and a look into the mapped memory, whose page the system would have to find first.
    for fd in map(os.open, (file,), _READ):  # "for" as in core: no descriptor is lost
        break
    try:
        return os.pread(fd, 33, 0)  # type: ignore[attr-defined,no-any-return,unused-ignore]
    finally:
        os.close(fd)


def is_file_of(file: str, address: int) -> bool:
    """Return whether the file is the one mapped at the address; Linux only."""
    start = f"{address & (2 * sys.maxsize + 1):x}-".encode()  # on 32 bits addresses may be negative
    with open("/proc/self/maps", "rb") as maps:
        mapped = next((mapped_file(line) for line in maps if line.lstrip(b"0").startswith(start)), None)
    if mapped is None:
        raise OSError(f"nothing is mapped at {address:#x}")
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
