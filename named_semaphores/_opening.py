# SPDX-License-Identifier: Apache-2.0
"""Policy: creating and linking so that each tells the truth, whatever other processes do meanwhile."""

from __future__ import annotations

import errno
import os

from . import _shm
from ._errors import open_error, oserror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._libc import Handle, Libc


def create(libc: Libc, name: str, mode: int, value: int, opened: list[Any]) -> Handle:
    """Create the semaphore and return its handle, which is put into ``opened`` as it comes to be. FileExistsError if there is one."""
    return _open(libc, name, opened, os.O_CREAT | os.O_EXCL, mode, value)


def link(libc: Libc, name: str) -> Handle:
    """Return a handle of the existing semaphore. FileNotFoundError if there is none."""
    # Without O_CREAT: with it, the sysctl fs.protected_regular refuses another user's semaphore in the sticky /dev/shm, whatever its mode.
    reason = _shm.why_no_link(libc, name)
    if reason:
        raise oserror(errno.EINVAL, libc, name, reason)
    return _open(libc, name, [])


def unlink(libc: Libc, name: str) -> None:
    """Remove the name. FileNotFoundError, PermissionError."""
    error = libc.unlink(os.fsencode(name))
    if error:
        raise oserror(error, libc, name)


def try_open(libc: Libc, name: str, opened: list[Any], oflag: int = 0, mode: int = 0, value: int = 0) -> Any:
    """Return the handle, or the errno, and leave it in ``opened``, which has it as soon as it comes to be."""
    encoded = os.fsencode(name)
    if libc.longest_name is not None and len(encoded) > libc.longest_name:
        return errno.ENAMETOOLONG
    while True:
        opened.extend(libc.open(encoded, oflag, mode, value))
        if is_handle(opened[0]) or opened[0] != errno.EINTR:
            return opened[0]
        opened.clear()


def is_handle(result: Any) -> bool:
    """Return whether ``try_open`` gave a handle and no errno. Both are integers, and macOS's handles small ones."""
    return type(result) is not int


def _open(libc: Libc, name: str, opened: list[Any], oflag: int = 0, mode: int = 0, value: int = 0) -> Handle:
    result = try_open(libc, name, opened, oflag, mode, value)
    if not is_handle(result):
        raise open_error(result, libc, name, creating=bool(oflag))
    return result  # type: ignore[no-any-return]
