# SPDX-License-Identifier: Apache-2.0
"""NamedSemaphore: what its user can see and ``_base`` does not have."""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice

from ._base import DEFAULT_MODE, ONE, RETRY, Flags, Semaphore, check_existence
from ._checks import check_integer, check_mode, check_name, without_ctypes
from ._cleanup import Owner

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any

    from ._libc import Handle, Libc

try:
    from ._libc import OTHERS, SIZE, system
except ImportError as error:
    no_ctypes = error

    def system() -> Libc:
        raise without_ctypes(no_ctypes)


_RAISE_IF_EXISTS, _LINK_OR_CREATE, _RAISE_IF_NOT_EXISTS, _UNLINK_AND_CREATE = Flags
_MOST = 1_000_000  # tokens put back at once, with the GIL kept and signals unheard: some 50 ns each
_HINTS = {
    errno.EMFILE: "this process has too many open files, or on musl 256 semaphores",
    errno.EEXIST: "a semaphore of this name exists",
    errno.ENOENT: "there is no semaphore of this name",
}
_NO_DIRECTORY = (errno.ENOSYS, errno.EINVAL, errno.ENOTDIR)  # old glibc, Cygwin; it is a file


class NamedSemaphore(Semaphore):
    """A counter that processes of one machine share by name.

    The interface is that of ``threading.Semaphore``::

        with NamedSemaphore("builds", initial_value=3, unlink_on_delete=False):
            ...  # at most three of these at once, in whatever process

    A killed process keeps its token for ever; ``RobustSemaphore`` gets it back.

    Args:
        name: Letters, digits, ``-``, ``_`` and ``.``, with or without a ``/`` before them.
        initial_value: The number of tokens, from 0. Ignored if the semaphore exists.
        handle_existence: What to do if the semaphore exists, or does not.
        unlink_on_delete: Whether the name is unlinked when this object is closed or deleted, or the
            interpreter ends. None: only if this object created the semaphore. Processes that have
            it open keep the unlinked semaphore, and the next process creates another. So use False
            where processes start and end at different times.
        mode: The permission bits of a new semaphore, e.g. 0o660. Except on macOS, the umask cuts
            them: call ``os.umask(0o007)`` before.

    Raises:
        ValueError: A bad argument.
        TypeError: A name that is no str.
        FileExistsError: The semaphore exists, and ``handle_existence`` is RAISE_IF_EXISTS.
        FileNotFoundError: It does not exist, and ``handle_existence`` is RAISE_IF_NOT_EXISTS.
        PermissionError: It belongs to another user, or this user may not create any.
        OSError: The name is too long; the file system for semaphores is full or missing; a file of
            this name is no semaphore, or one of a program of the other word size (32 or 64 bits).
        NotImplementedError: This system has no named semaphores, or this Python no ctypes.
    """

    _libc = None  # type: Libc | None  # None: the running system's

    def __init__(
        self,
        name: str,
        initial_value: int = ONE,
        handle_existence: Flags = Flags.LINK_OR_CREATE,
        unlink_on_delete: bool | None = None,
        *,
        mode: int = DEFAULT_MODE,
    ) -> None:
        name = check_name(name)
        check_existence(name, handle_existence)
        libc = self._libc or system()
        if initial_value is not ONE:
            initial_value = check_integer(name, "initial_value", initial_value, 0, libc.value_max)
        if mode is not DEFAULT_MODE:
            mode = check_mode(name, mode)
        handle, self._linked = _open(libc, name, handle_existence, mode, initial_value)
        file = _file(libc, name)
        if self._linked and libc.opens_any_file and file is not None and file.st_size != SIZE:
            # In one that is too short the first wait would die of SIGBUS. A program of the other
            # word size keeps a semaphore differently, and would not wake our waiters.
            hint = f"its file has {file.st_size} bytes, not {SIZE}: it is no semaphore, or one of a"
            raise _oserror(errno.EINVAL, libc, name, f"{hint} {OTHERS} program, which differs")
        self._name = name
        if not self._linked if unlink_on_delete is None else unlink_on_delete:
            inode = file and (file.st_dev, file.st_ino)
            self._use(handle, Owner(unlink_name, libc, name, handle, inode))
        else:
            self._use(handle)

    @property
    def value(self) -> int:
        """The number of free tokens now.

        Raises:
            NotImplementedError: The system does not tell (macOS).
            ValueError: This object is closed.
        """
        handle: Handle = self._open_handle()
        try:
            return handle.value()
        except NotImplementedError:
            reason = f"this system ({handle.libc.platform}) does not tell the value"
            raise NotImplementedError(f"semaphore {self._name!r}: {reason}") from None

    def release(self, n: int = ONE) -> None:
        """Put ``n`` tokens back, all or none. Any process may; no signal interrupts it.

        Args:
            n: How many, from 1 to 1,000,000.

        Raises:
            OSError: EOVERFLOW: the value would pass the system's maximum. (macOS, OpenBSD and
                Cygwin do not check it.) If other processes release meanwhile, some of several
                tokens may have been put back.
            ValueError: A bad ``n``, or this object is closed.
        """
        if n is ONE:
            try:
                for failed in self._posts:
                    if not failed:
                        return
                    break
            except ValueError as error:
                _raise_unless_semlocks(error)
        n = check_integer(self._name, "n", n, 1, _MOST)
        handle: Handle = self._open_handle()
        libc = handle.libc
        try:
            value = handle.value()
        except NotImplementedError:
            value = 0
        try:  # any() is C code, so that no signal ends it half-way
            failed = value + n > libc.value_max or any(islice(handle.posts, n))
        except ValueError as error:  # another process has released meanwhile
            _raise_unless_semlocks(error)
            failed = True
        if failed:
            hint = f"its value is {value}, {n} more would pass the maximum, {libc.value_max}"
            raise _oserror(errno.EOVERFLOW, libc, self.name, hint)

    def unlink(self) -> None:
        """Unlink the name. All that have the semaphore open, this object too, can still use it.

        Raises:
            FileNotFoundError: The name is unlinked already.
            PermissionError: It belongs to another user.
            ValueError: This object is closed.
        """
        handle: Handle = self._open_handle()
        unlink_name(handle.libc, self.name)

    def close(self) -> None:
        """Close the semaphore, and unlink its name if ``unlink_on_delete`` says so.

        Threads already waiting still get a token. Every other use is a ValueError from now on,
        ``release()`` too; but a with statement that began before puts its token back. For that, the
        semaphore stays mapped until this object is deleted. A second call does nothing.

        A newer semaphore of this name keeps the name where semaphores are files (Linux, FreeBSD,
        Cygwin), unless it is created during this call.

        Raises:
            PermissionError: The name may not be unlinked. The semaphore is closed nevertheless.
        """
        super().close()

    def _raise_unless_retry(self, status: int, error: int) -> None:
        number = error if status < 0 else status  # Cygwin's timed waits return the errno itself
        if number not in RETRY:
            raise _oserror(number, self._libc or system(), self.name)

    def _link(self, name: str) -> None:
        NamedSemaphore.__init__(self, name, 1, Flags.RAISE_IF_NOT_EXISTS, False)


def _raise_unless_semlocks(error: ValueError) -> None:
    """Return if SemLock raised it: the value is at the maximum."""
    # If Python code did, the semaphore is closed, or it was a signal handler, after the post.
    if error.__traceback__ and error.__traceback__.tb_next:
        raise error


def _open(libc: Libc, name: str, existence: Flags, mode: int, value: int) -> tuple[Handle, bool]:
    """Return the open semaphore, and whether it existed."""
    while True:  # until no other process comes between two steps
        creating = False
        try:
            if existence is _LINK_OR_CREATE or existence is _RAISE_IF_NOT_EXISTS:
                try:
                    return libc.link(name), True
                except FileNotFoundError:
                    if existence is _RAISE_IF_NOT_EXISTS:
                        raise
            creating = True
            try:
                return libc.create(name, mode, value), False
            except FileExistsError:
                if existence is _RAISE_IF_EXISTS:
                    raise
            if existence is _UNLINK_AND_CREATE:
                try:
                    libc.unlink(name)
                except FileNotFoundError:  # another process was faster
                    pass
        except InterruptedError:  # POSIX allows it; the signal's handler has run
            pass
        except OSError as error:
            raise _open_error(error.errno, libc, name, creating) from None


def _file(libc: Libc, name: str) -> os.stat_result | None:
    """Return the status of the semaphore's file. None: it has none, or it cannot be looked at."""
    if libc.files is None:
        return None
    try:
        return os.lstat((libc.files + name[1:]).encode())  # UTF-8, whatever the locale
    except OSError:
        return None


def unlink_name(
    libc: Libc,
    name: str,
    handle: Handle | None = None,  # stays open until this returns, so that no file gets its inode
    inode: tuple[int, int] | None = None,
) -> None:
    """Unlink the name, unless it stands for a file with another device and inode by now."""
    file = inode and _file(libc, name)
    if file and (file.st_dev, file.st_ino) != inode:
        return
    try:
        libc.unlink(name)
    except OSError as error:
        raise _oserror(error.errno, libc, name) from None


# --- Errors name the semaphore and say what helps


def _oserror(number: Any, libc: Libc, name: str, hint: str | None = None) -> OSError:
    """Return the OSError, of the subclass Python has for this errno, with the name as filename."""
    hint = hint or _HINTS.get(number) or _hint(number, libc, name)
    return OSError(number, os.strerror(number) + (f" ({hint})" if hint else ""), name)


def _open_error(number: Any, libc: Libc, name: str, creating: bool) -> Exception:
    """Return the exception for a semaphore that could not be opened, or created."""
    length, most = len(name.encode()), libc.longest_name
    if length > most:  # some systems have another error
        hint = f"with its slash a name has at most {most} bytes here, this one {length}"
        return _oserror(errno.ENAMETOOLONG, libc, name, hint)
    # glibc says so from 2.34 on, without /dev/shm, or if this user may not search it.
    lacks_directory = creating and number == errno.ENOENT
    if lacks_directory or number in _NO_DIRECTORY:
        directory = os.path.dirname(libc.files or "")
        if directory and not os.path.isdir(directory):
            hint = "the shared memory file system that holds semaphores, is missing"
            return _oserror(errno.ENOSYS, libc, name, f"{directory}, {hint}: mount a tmpfs there")
    if number == errno.ENOSYS:
        reason = f"this system ({libc.platform}) has no POSIX named semaphores"
        return NotImplementedError(f"semaphore {name!r}: {reason}")
    return _oserror(errno.EACCES if lacks_directory else number, libc, name)


def _hint(number: int, libc: Libc, name: str) -> str | None:
    path = libc.path(name)
    if path is None:
        return None
    directory = os.path.dirname(path)
    if number == errno.ENOSPC:
        return f"{directory}, the file system that holds semaphores, is full"
    is_refused = number in (errno.EACCES, errno.EPERM)
    file = _file(libc, name)
    if file is None:
        return f"this user may not write in {directory}" if is_refused else None
    if not stat.S_ISREG(file.st_mode):
        return f"{path} is no regular file, so no semaphore"
    if not is_refused:
        return None
    mode = stat.S_IMODE(file.st_mode)
    return (
        f"it belongs to user {file.st_uid}, group {file.st_gid}, with mode {mode:04o}; "
        "opening it needs read and write permission, unlinking it its owner or root"
    )
