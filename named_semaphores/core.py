# SPDX-License-Identifier: Apache-2.0
"""Policy: NamedSemaphore, and every decision its user can see that is not in ``_base``."""

from __future__ import annotations

import errno

from . import _files
from ._base import (
    DEFAULT_MODE,
    RETRY,
    Flags,
    Semaphore,
    check_existence,
    check_integer,
    check_name,
    importing,
)
from ._errors import explained, open_error, oserror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._libc import Handle, Libc
    from ._names import Owner

_ONE = 1  # compared by identity, for speed; another object that is 1 takes the longer way
_LINKS = (
    Flags.LINK_OR_CREATE,
    Flags.RAISE_IF_NOT_EXISTS,
)  # here, because before 3.12 looking a member up is slow
_MOST = 1_000_000  # tokens put back at once: all are posted with the GIL kept and signals unheard, some 50 ns each


class NamedSemaphore(Semaphore):
    """A counted limit that all processes of this machine share by its name; the interface is that of ``threading.Semaphore``.

        with NamedSemaphore("builds", initial_value=3, unlink_on_delete=False):
            ...  # at most three of these at once, in whatever process

    name: one or more letters, digits, ``-``, ``_`` and ``.``, with or without a ``/`` before them.
    initial_value: the number of tokens, from 0, if the semaphore is created. An existing semaphore keeps its own number, and another one here is
        no error.
    handle_existence: what to do if a semaphore of the name exists, or does not; a member of ``NamedSemaphore.Flags``.
    unlink_on_delete: whether the name is unlinked when this object is closed or deleted, or the interpreter ends. None, the default: if this
        object created the semaphore. Processes that have it open keep the nameless semaphore, and the next process creates another: so say False
        wherever processes come and go.
    mode: its permission bits if it is created, e.g. 0o660, cut by the umask: call ``os.umask(0o007)`` before. (macOS does not cut them.)

    A killed process (SIGKILL, or SIGTERM without a handler) keeps its token for ever; ``RobustSemaphore`` gets it back.

    Raises:
        ValueError: a bad argument. TypeError: a name that is no str.
        FileExistsError, FileNotFoundError: as ``handle_existence`` says.
        PermissionError: the semaphore belongs to another user, or this user may not create any.
        OSError: the name is too long; the system's memory for semaphores is full or missing; a file of this name is too short for a semaphore, or
            belongs to a program that keeps semaphores differently (32 and 64 bits), or another process has a lease on it (EAGAIN).
        NotImplementedError: this system has no named semaphores.
    """

    _libc = None  # type: Libc | None  # None: the running system's
    _owner = None  # type: Owner | None
    _unlinks = False

    def __init__(
        self,
        name: str,
        initial_value: int = 1,
        handle_existence: Flags = Flags.LINK_OR_CREATE,
        unlink_on_delete: bool | None = None,
        *,
        mode: int = DEFAULT_MODE,
    ) -> None:
        # All attributes, and always: CPython leaves no room for those that the first thirty objects of a class did not have, and then gives each
        # object a dict of its own.
        self._owner = None
        self._unlinks = False
        self._start_closed()
        name = check_name(name)
        check_existence(name, handle_existence)
        libc = self._libc or _running or _system()
        if initial_value is not _ONE:
            initial_value = check_integer(name, "initial_value", initial_value, 0, libc.value_max)
        if mode is not DEFAULT_MODE:
            mode = check_integer(name, "mode", mode, 0, 0o777, " (0o777)")
        self._name = name
        self._open(libc, name, handle_existence, unlink_on_delete, mode, initial_value)
        self._unlinks = not self._linked if unlink_on_delete is None else bool(unlink_on_delete)

    def _open(
        self,
        libc: Libc,
        name: str,
        existence: Flags,
        unlink_on_delete: bool | None,
        mode: int,
        value: int,
    ) -> None:
        owner = None
        while True:  # until no other process interferes between two steps
            try:
                if existence in _LINKS:
                    try:
                        handle = _link(libc, name)
                        self._linked = True
                        owner = _owner(_Ours(libc, name, handle)) if unlink_on_delete else None
                        break
                    except FileNotFoundError:
                        if existence is Flags.RAISE_IF_NOT_EXISTS:
                            raise
                ours = _Ours(libc, name)
                if unlink_on_delete is None or unlink_on_delete:
                    owner = _owner(
                        ours
                    )  # before it is created, so that no signal leaves a name without an owner
                try:
                    ours.handle = handle = _create(libc, name, mode, value, ours.created)
                    ours.created.clear()
                    break
                except FileExistsError:
                    if existence is Flags.RAISE_IF_EXISTS:
                        raise
                if existence is Flags.UNLINK_AND_CREATE:
                    try:
                        _unlink(libc, name)
                    except FileNotFoundError:  # another process was faster
                        pass
            except (
                InterruptedError
            ):  # POSIX allows sem_open to fail so; the signal's handler has run
                pass
        self._use(handle)
        if owner is not None:
            # In "with NamedSemaphore(name):" only __exit__ lives until the end of the block, so it refers to the owner too.
            self._exit = handle.leave_of(owner)
            self._owner = owner

    @property
    def value(self) -> int:
        """The number of free tokens now. ValueError: the semaphore is closed. NotImplementedError: the system does not tell (macOS)."""
        handle: Handle = self._open_handle()
        try:
            return handle.libc.value(handle)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                raise NotImplementedError(
                    f"semaphore {self._name!r}: this system ({handle.libc.platform}) does not tell the value"
                ) from None
            raise explained(error, handle.libc, self.name) from None

    @property
    def unlink_on_delete(self) -> bool:
        """Whether the name is unlinked with this object: as given, else whether this object created the semaphore."""
        return self._unlinks

    def release(self, n: int = 1) -> None:
        """Put ``n`` tokens back, all or none; no signal interrupts it. Any thread of any process may.

        OSError EOVERFLOW: the value would pass the system's maximum (macOS does not tell, and does not check). If another process releases at that
        moment too, some of several tokens may be put back. ValueError: n is no int of at least 1, or else more than 1,000,000; the semaphore is
        closed.
        """
        if n is not _ONE:
            return self._release_many(check_integer(self._name, "n", n, 1))
        try:
            for failed in self._posts:
                break
        except ValueError:  # SemLock raises it at the maximum; so does a closed semaphore
            self._open_handle()
            failed = True
        if failed:
            self._release_many(1)

    def _release_many(self, n: int) -> None:
        handle: Handle = self._open_handle()
        libc = handle.libc
        try:
            value = libc.value(handle)
        except OSError:  # macOS does not tell
            value = 0
        if value + n > libc.value_max:
            raise oserror(
                errno.EOVERFLOW,
                libc,
                self.name,
                f"its value is {value}, {n} more would pass the maximum, {libc.value_max}",
            )
        check_integer(self._name, "n", n, 1, _MOST)
        if not libc.post_all(handle, n):
            raise oserror(errno.EOVERFLOW, libc, self.name)

    def unlink(self) -> None:
        """Unlink the name. Processes that have the semaphore open, this object too, go on using it; the name is free for another.

        FileNotFoundError: the name is unlinked already. PermissionError: it belongs to another user. ValueError: this object is closed.
        """
        handle: Handle = self._open_handle()
        _unlink(handle.libc, self.name)

    def close(self) -> None:
        """Close the semaphore, and unlink its name if ``unlink_on_delete`` says so and the name still stands for this semaphore.

        A thread that waits goes on waiting, and gets its token. Every other use is a ValueError from now on, ``release()`` too; but a with
        statement that began before puts its token back. For that, the semaphore stays mapped until this object is deleted. A second call does
        nothing.

        Looking whether the name is ours and unlinking it are two system calls. If another process replaces the semaphore between the two, the
        new name is unlinked.

        PermissionError: the name may not be unlinked. Another OSError: the system does not tell whose it is; a second call tries again. The
        semaphore is closed nevertheless.
        """
        super().close()
        owner = self._owner
        if owner is not None:
            owner.unlink()
            self._owner = None

    def _raise_unless_retry(self, status: int, error: int) -> None:
        # A status above 0 is the errno itself: see Libc.failure.
        number = error if status < 0 else status
        if number not in RETRY:
            raise oserror(number, self._libc or _system(), self.name)

    def _link(self, name: str) -> None:
        NamedSemaphore.__init__(self, name, 1, Flags.RAISE_IF_NOT_EXISTS, False)


_running: Libc | None = None  # the running system's, once it is needed


def _system() -> Libc:
    global _running
    try:
        with importing:  # not with the package: importing ctypes takes as long as all else
            from . import _names  # noqa: F401  # for _owner
            from ._semlock import system
    except (
        ImportError
    ) as error:  # WASI's Python has no ctypes, an isolated subinterpreter cannot import it
        raise NotImplementedError(
            f"named semaphores need ctypes, and this Python cannot import it: {error}"
        ) from error
    _running = system()
    return _running


def _owner(ours: _Ours) -> Owner:
    from ._names import Owner  # _system has imported it

    return Owner(ours.unlink)


class _Ours:
    """A name, and the semaphore it stood for when it was opened."""

    __slots__ = ("created", "handle", "libc", "name")

    def __init__(self, libc: Libc, name: str, handle: Handle | None = None) -> None:
        self.libc = libc
        self.name = name
        self.created: list[
            tuple[Any, int]
        ] = []  # Libc.create adds what it opens, in C, so that no signal comes between
        self.handle = handle  # the same, opened; keeps the address in use while it is compared

    def unlink(self) -> None:
        """Unlink the name if it still stands for the same semaphore."""
        if self._is_ours():
            _unlink(self.libc, self.name)

    def _is_ours(self) -> bool:
        # POSIX: a process that opens a name again gets the same address if it is the same semaphore. macOS, NetBSD and OpenBSD cannot tell.
        libc = self.libc
        if self.handle is not None:
            address = self.handle.address
        elif self.created:
            address = libc.address_of(self.created[0][0])
        else:  # a signal came before it was opened
            return False
        if address == libc.sem_failed:
            return False
        if not libc.same_address:
            return True
        while True:
            try:
                _files.check_linkable(libc, self.name)
                return libc.link(self.name).address == address
            except InterruptedError:  # see _open
                pass
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno == errno.EINVAL:  # it is no semaphore, so not this one
                    return False
                # musl's 256 places are used up, its mode keeps us from opening it, or another process has a lease on it.
                file = _files.path(libc, self.name)
                if file is not None and libc.platform.startswith("linux"):
                    try:
                        return _files.is_mapped_at(file, address)
                    except OSError:  # no descriptor is left, or /proc cannot be read
                        pass
                raise explained(error, libc, self.name) from None


def _link(libc: Libc, name: str) -> Handle:
    try:
        _files.check_linkable(libc, name)
        return libc.link(name)
    except OSError as error:
        raise open_error(error, libc, name) from None


def _create(libc: Libc, name: str, mode: int, value: int, created: list[tuple[Any, int]]) -> Handle:
    try:
        return libc.create(name, mode, value, created)
    except OSError as error:
        raise open_error(error, libc, name, creating=True) from None


def _unlink(libc: Libc, name: str) -> None:
    try:
        libc.unlink(name)
    except OSError as error:
        raise explained(error, libc, name) from None
