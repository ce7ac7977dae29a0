# SPDX-License-Identifier: Apache-2.0
"""Mechanism: the files behind semaphores, on the systems where they are files."""

from __future__ import annotations

import errno
import os
import sys
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._libc import Libc

# sizeof(sem_t) of glibc and of musl, and the other word size's.
SIZE, OTHER_SIZE, _OTHERS = (32, 16, "32-bit") if sys.maxsize > 2**32 else (16, 32, "64-bit")
# In glibc's struct new_sem the int "private" follows the value (64 bits, or 32), and is 128 in a named semaphore.
_FOREIGN_PRIVATE = (128 << 24).to_bytes(4, sys.byteorder)
PRIVATE = (128).to_bytes(4, sys.byteorder)
# O_NONBLOCK: do not wait for a fifo's writer, nor for another process to give up its lease on the file (fcntl(2), F_SETLEASE).
# Windows has none of these, and no semaphores.
_LOOK = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))
_LOOK_TO_WRITE = _LOOK | os.O_RDWR  # as sem_open opens it: a lease may allow readers
_PAUSES = (
    0.0,
    0.001,
    0.01,
    0.1,
)  # seconds, before each look; listing.is_in_use has a lease for some microseconds


def path(libc: Libc, name: str) -> str | None:
    """Return the path of the semaphore's file; None where it has none."""
    return None if libc.files is None else libc.files + name[1:]


def check_linkable(libc: Libc, name: str) -> None:
    """Raise OSError with a reason if the file must not be opened as a semaphore.

    Linux's libcs open any file. In one that is too short the first wait dies of SIGBUS. A program of the other word size or byte order keeps a
    semaphore differently: its values are misread, and its waiters never woken. And sem_open waits, with the GIL, while another process has a
    lease on the file.
    """
    if not libc.opens_any_file:
        return
    for pause in _PAUSES:
        if pause:
            sleep(pause)
        try:
            start = read_start(f"{libc.files}{name[1:]}", _LOOK_TO_WRITE)
            break
        except BlockingIOError:
            pass
        except OSError:  # sem_open will say why
            return
    else:
        raise OSError(errno.EAGAIN, "another process has a lease on its file")
    reason = why_no_semaphore(libc, start)
    if reason:
        raise OSError(errno.EINVAL, reason)


def why_no_semaphore(libc: Libc, start: bytes) -> str | None:
    """Return why a file with these first bytes is no semaphore of this kind of program, or None."""
    if len(start) == OTHER_SIZE:
        return f"it is the semaphore of a {_OTHERS} program, which works differently"
    if len(start) < SIZE:
        return f"its file has {len(start)} bytes and is too short to be a semaphore"
    if libc.is_glibc and start[SIZE // 4 : SIZE // 4 + 4] == _FOREIGN_PRIVATE:
        return "it is the semaphore of a program of the other byte order"
    return None


def read_start(file: str, flags: int = _LOOK) -> bytes:
    """Return the first bytes of a semaphore's file, one more than a semaphore has. BlockingIOError: another process has a lease on it."""
    # Read, not mapped: whoever may write the file may truncate it, and a mapping then dies of SIGBUS.
    for fd in map(os.open, (file,), (flags,)):  # "for" as in _base: no descriptor is lost
        break
    try:
        return os.pread(fd, 33, 0)  # type: ignore[attr-defined,no-any-return,unused-ignore]
    finally:
        os.close(fd)


def is_mapped_at(file: str, address: int) -> bool:
    """Return whether the file is the one mapped at the address; Linux only."""
    start = f"{address & (2 * sys.maxsize + 1):x}-".encode()  # on 32 bits addresses may be negative
    with open("/proc/self/maps", "rb") as maps:
        mapped = next(
            (mapped_file(line) for line in maps if line.lstrip(b"0").startswith(start)), None
        )
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
