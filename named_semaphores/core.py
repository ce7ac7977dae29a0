# SPDX-License-Identifier: Apache-2.0
"""NamedSemaphore: what its user can see and ``_base`` does not have."""

from __future__ import annotations

import errno
import os
from itertools import islice

from ._base import DEFAULT_MODE, ONE, RETRY, Flags, Semaphore, check_existence
from ._cleanup import Owner
from ._common import TYPE_CHECKING, check_integer, check_mode, check_name, os_error, without_ctypes

if TYPE_CHECKING:
    from ._libc import Handle, Libc

try:
    from ._libc import OTHERS, SIZE, system
except ImportError as error:
    system = without_ctypes(error)


_LINKING = (Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS)
_MOST = 1_000_000  # tokens put back at once, with the GIL kept and signals unheard: some 50 ns each


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
            interpreter ends. None: only if this object created the semaphore. Users keep the
            unlinked semaphore, and the next process creates another. So use False where processes
            start and end at different times.
        mode: The permission bits of a new semaphore, e.g. 0o660. Except on macOS, the umask cuts
            them: call ``os.umask(0o007)`` before.

    Raises:
        ValueError, TypeError: A bad argument.
        FileExistsError, FileNotFoundError: As ``handle_existence`` says.
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
            raise os_error(errno.EINVAL, name, f"{hint} {OTHERS} program, which differs")
        self._name = name
        owner = None
        if unlink_on_delete or (unlink_on_delete is None and not self._linked):
            inode = file and (file.st_dev, file.st_ino)
            owner = Owner(unlink_name, libc, name, handle, inode)
        self._use(handle, owner)

    @property
    def value(self) -> int:
        """The number of free tokens now.

        Raises:
            NotImplementedError: The system does not tell (macOS).
            ValueError: This object is closed.
        """
        handle: Handle = self._open_handle()
        value = handle.value()
        if value is None:
            reason = f"this system ({handle.libc.platform}) does not tell the value"
            raise NotImplementedError(f"semaphore {self._name!r}: {reason}")
        return value

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
        try:
            if n is ONE:
                for failed in self._posts:
                    if not failed:
                        return
                    break
            else:
                n = check_integer(self._name, "n", n, 1, _MOST)
                handle: Handle = self._open_handle()
                fits = (handle.value() or 0) + n <= handle.libc.value_max
                # any() is C code, so that no signal ends it half-way.
                if fits and not any(islice(handle.posts, n)):
                    return
        except ValueError as error:
            # SemLock's own error, at the maximum, has one traceback entry: this line's. Others come
            # from Python code: a bad n, a closed semaphore, a signal handler, maybe after the post.
            if error.__traceback__ and error.__traceback__.tb_next:
                raise
        handle = self._open_handle()
        value, most = handle.value() or 0, handle.libc.value_max
        hint = f"its value is {value}, {n} more would pass the maximum, {most}"
        raise os_error(errno.EOVERFLOW, self.name, hint)

    def unlink(self) -> None:
        """Unlink the name. All that have the semaphore open, this object too, can still use it.

        Raises:
            FileNotFoundError: It is unlinked already.
            PermissionError: It belongs to another user.
            ValueError: This object is closed.
        """
        handle: Handle = self._open_handle()
        unlink_name(handle.libc, self.name)

    def _raise_unless_retry(self, status: int, error: int) -> None:
        number = error if status < 0 else status  # Cygwin's timed waits return the errno itself
        if number not in RETRY:
            raise _error(OSError(number, ""), self._libc or system(), self.name)

    def _link(self, name: str) -> None:
        NamedSemaphore.__init__(self, name, 1, Flags.RAISE_IF_NOT_EXISTS, False)


def _open(libc: Libc, name: str, existence: Flags, mode: int, value: int) -> tuple[Handle, bool]:
    """Return the open semaphore, and whether it existed."""
    while True:  # until no other process comes between two steps
        try:
            if existence in _LINKING:
                try:
                    return libc.link(name), True
                except FileNotFoundError:
                    if existence is Flags.RAISE_IF_NOT_EXISTS:
                        raise
            try:
                return libc.create(name, mode, value), False
            except FileNotFoundError:  # glibc from 2.34: /dev/shm is missing, or not searchable
                raise PermissionError(errno.EACCES, "") from None
            except FileExistsError as error:
                if existence is Flags.RAISE_IF_EXISTS or not error.errno:  # see _error
                    raise
            if existence is Flags.UNLINK_AND_CREATE:  # it stays if creating fails otherwise
                try:
                    libc.unlink(name)
                except FileNotFoundError:
                    pass
        except OSError as error:
            if error.errno != errno.EINTR:  # POSIX allows it; the signal's handler has run
                raise _error(error, libc, name) from None


def _file(libc: Libc, name: str) -> os.stat_result | None:
    """Return the status of the semaphore's file, or None. Its name is UTF-8 in any locale."""
    try:
        return os.lstat((libc.files + name[1:]).encode()) if libc.files else None
    except OSError as error:
        if not error.errno:  # see _error
            raise
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
        raise _error(error, libc, name) from None


# Of a directory that is missing (glibc before 2.34; Cygwin), or is a file; the last one: see _open.
_NO_DIRECTORY = (errno.ENOSYS, errno.EINVAL, errno.ENOTDIR, errno.EACCES)


def _error(error: OSError, libc: Libc, name: str) -> Exception:
    """Return the error with the semaphore's name, and with what helps."""
    number = error.errno
    if not number:  # a signal handler's, say TimeoutError
        return error
    length, longest = len(name.encode()), libc.longest_name
    directory, file = os.path.dirname(libc.files or ""), _file(libc, name)
    is_refused = number in (errno.EACCES, errno.EPERM)
    hint = ""
    if length > longest:  # some systems have another error
        number = errno.ENAMETOOLONG
        hint = f"with its slash a name has at most {longest} bytes here, this one {length}"
    elif number in _NO_DIRECTORY and directory and not os.path.isdir(directory):
        number = errno.ENOSYS
        missing = "the shared memory file system that holds semaphores, is missing"
        hint = f"{directory}, {missing}: mount a tmpfs there"
    elif number == errno.ENOSYS:
        reason = f"this system ({libc.platform}) has no POSIX named semaphores"
        return NotImplementedError(f"semaphore {name!r}: {reason}")
    elif number == errno.EMFILE:
        hint = "this process has too many open files, or on musl 256 semaphores"
    elif number == errno.EEXIST:
        hint = "a semaphore of this name exists"
    elif number == errno.ENOENT:
        hint = "there is no semaphore of this name"
    elif number == errno.ENOSPC and directory:
        hint = f"{directory}, the file system that holds semaphores, is full"
    elif file and is_refused:
        owner = f"it belongs to user {file.st_uid}, group {file.st_gid}"
        hint = (
            f"{owner}, with mode {file.st_mode & 0o777:04o}; "
            "opening it needs read and write permission, unlinking it its owner or root"
        )
    elif directory and is_refused:
        hint = f"this user may not write in {directory}"
    return os_error(number, name, hint)
