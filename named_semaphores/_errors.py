# SPDX-License-Identifier: Apache-2.0
"""Turn an errno into an exception that names the semaphore and says what helps."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any

    from ._libc import Libc

_HINTS = {
    errno.EMFILE: "this process has too many open files, or on musl 256 semaphores",
    errno.EEXIST: "a semaphore of this name exists",
    errno.ENOENT: "there is no semaphore of this name",
}
_NO_DIRECTORY = (errno.ENOSYS, errno.EINVAL, errno.ENOTDIR)  # old glibc, Cygwin; it is a file


def oserror(number: Any, libc: Libc, name: str, hint: str | None = None) -> OSError:
    """Return the OSError, of the subclass Python has for this errno, with the name as filename."""
    hint = hint or _HINTS.get(number) or _hint(number, libc.path(name))
    return OSError(number, os.strerror(number) + (f" ({hint})" if hint else ""), name)


def open_error(number: Any, libc: Libc, name: str, creating: bool) -> Exception:
    """Return the exception for a semaphore that could not be opened, or created."""
    length, most = len(name.encode()), libc.longest_name
    if length > most:  # some systems have another error
        hint = f"with its slash a name has at most {most} bytes here, this one {length}"
        return oserror(errno.ENAMETOOLONG, libc, name, hint)
    # glibc says so from 2.34 on, without /dev/shm, or if this user may not search it.
    lacks_directory = creating and number == errno.ENOENT
    if lacks_directory or number in _NO_DIRECTORY:
        directory = os.path.dirname(libc.files or "")
        if directory and not os.path.isdir(directory):
            hint = "the shared memory file system that holds semaphores, is missing"
            return oserror(errno.ENOSYS, libc, name, f"{directory}, {hint}: mount a tmpfs there")
    if number == errno.ENOSYS:
        reason = f"this system ({libc.platform}) has no POSIX named semaphores"
        return NotImplementedError(f"semaphore {name!r}: {reason}")
    return oserror(errno.EACCES if lacks_directory else number, libc, name)


def _hint(number: int, path: str | None) -> str | None:
    if path is None:
        return None
    directory = os.path.dirname(path)
    if number == errno.ENOSPC:
        return f"{directory}, the file system that holds semaphores, is full"
    is_refused = number in (errno.EACCES, errno.EPERM)
    try:
        status = os.lstat(path.encode())
    except OSError:
        return f"this user may not write in {directory}" if is_refused else None
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is no regular file, so no semaphore"
    if is_refused:
        mode = stat.S_IMODE(status.st_mode)
        return (
            f"it belongs to user {status.st_uid}, group {status.st_gid}, with mode {mode:04o}; "
            "opening it needs read and write permission, unlinking it its owner or root"
        )
    return None
