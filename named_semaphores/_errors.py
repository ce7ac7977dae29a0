# SPDX-License-Identifier: Apache-2.0
"""Policy: turn an errno into an exception that names the semaphore and says what helps."""

from __future__ import annotations

import errno
import os
import stat

from . import _files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._libc import Libc


def oserror(error: int, libc: Libc, name: str, hint: str | None = None) -> OSError:
    """Return the OSError, of the subclass Python has for this errno, with the semaphore's name as its filename."""
    hint = hint or _hint(error, libc, name)
    return OSError(error, os.strerror(error) + (f" ({hint})" if hint else ""), name)


def explained(error: OSError, libc: Libc, name: str) -> OSError:
    """Return what a call of ``Libc`` raised, with the semaphore's name and what helps."""
    # An error from the library has strerror's text; a reason of our own is kept.
    reason = error.strerror if error.strerror != os.strerror(error.errno or 0) else None
    return oserror(error.errno or 0, libc, name, reason)


def open_error(error: OSError, libc: Libc, name: str, creating: bool = False) -> Exception:
    """Return the exception for a semaphore that could not be opened."""
    number = error.errno or 0
    directory = os.path.dirname(libc.files) if libc.files else None
    if (
        directory
        and number in (errno.ENOENT, errno.ENOTDIR, errno.ENOSYS, errno.EINVAL)
        and not os.path.isdir(directory)
    ):
        # glibc from 2.34 on says ENOENT, also when it creates, older ones ENOSYS, Cygwin EINVAL.
        hint = f"{directory}, the shared memory file system that holds semaphores, is missing: mount a tmpfs there"
        return oserror(errno.ENOSYS, libc, name, hint)
    if number == errno.ENOSYS:
        return NotImplementedError(
            f"this system ({libc.platform}) has no POSIX named semaphores (ENOSYS): cannot open {name!r}"
        )
    if creating and number == errno.ENOENT:
        # "There is none" is no reason not to create it. glibc says so where this user may not search the directory.
        return oserror(errno.EACCES, libc, name)
    return explained(error, libc, name)


def _hint(error: int, libc: Libc, name: str) -> str | None:
    path = _files.path(libc, name)
    if error == errno.ENAMETOOLONG:
        return f"a name has at most {libc.longest_name} bytes here, its slash included, and this one {len(os.fsencode(name))}"
    if error == errno.EMFILE:
        return "this process has too many open files, or on musl 256 semaphores"
    if error == errno.ENFILE:
        return "this system has too many open files"
    if error == errno.EOVERFLOW:
        return f"its value is the maximum, {libc.value_max}"
    if error == errno.EEXIST:
        return "a semaphore of this name exists"
    if error == errno.ENOENT:
        return "there is no semaphore of this name"
    if path is None:
        return None
    directory = os.path.dirname(path)
    if error == errno.ENOSPC:
        return f"{directory}, the file system that holds semaphores, is full"
    if error == errno.EROFS:
        return f"{directory}, the file system that holds semaphores, is mounted read-only"
    try:
        status = os.lstat(path)
    except OSError:
        status = None
    if status is None:
        if error in (errno.EACCES, errno.EPERM):
            return f"this user may not write in {directory}"
        return None
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is no regular file, so no semaphore"
    if error in (errno.EACCES, errno.EPERM):
        return f"it belongs to user {status.st_uid}, group {status.st_gid}, with mode {stat.S_IMODE(status.st_mode):04o}"
    return None
