# SPDX-License-Identifier: Apache-2.0
"""Policy: unlink the names that are ours, each once, and no others.

Who frees what, when, in which process:

| what | by | when | in a child of fork |
|---|---|---|---|
| the open semaphore | SemLock's deallocator, or ``_libc._Mapping`` | with the last call and object that use it | its own copy |
| the name, if ``unlink_on_delete`` | ``Owner`` | on ``close()``, or when its object and the with statements in it are gone | never |
| the same, after a signal's exception cut that short | ``_unlink_orphans`` | when the next semaphore with an owner is made | never |
| the same, at the interpreter's end | ``_unlink_all`` | at exit | never |

A ``RobustSemaphore`` has no name to unlink: ``robust`` says who leaves its set.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref

from . import _files
from ._errors import explained

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._libc import Handle, Libc

_names: set[OwnedName] = set()  # that are still to be unlinked by this process
_orphans: list[OwnedName] = []  # those whose owner is gone; it has unlinked them, or a signal's exception kept it from that
_prepared: list[bool] = []  # whether this process unlinks its names at its end


class Owner:
    """Unlinks a name when it is garbage-collected. The semaphore object has it, and so has what ends a with statement."""

    __slots__ = ("__weakref__", "name")

    def __init__(self, libc: Libc, name: str) -> None:
        self.name = OwnedName(self, libc, name)

    def __del__(self) -> None:
        if hasattr(self, "name"):  # else a signal came first
            self.name.unlink_or_warn()


class OwnedName(weakref.ref):  # type: ignore[type-arg]
    """A name that this process unlinks if it still stands for the same semaphore. Refers weakly to its owner."""

    __slots__ = ("_once", "created", "handle", "libc", "name")

    def __new__(cls, owner: Owner, libc: Libc, name: str) -> OwnedName:
        # The callback is C code, which no signal can interrupt.
        return super().__new__(cls, owner, _orphans.append)

    def __init__(self, owner: Owner, libc: Libc, name: str) -> None:
        super().__init__(owner, _orphans.append)  # type: ignore[call-arg]
        self.libc = libc
        self.name = name
        self.created: list[Any] = []  # gets what Libc.create opens, in the step that opens it
        self.handle: Handle | None = None  # the same, opened; keeps the address in use while it is compared
        self._once = [True]  # list.pop is atomic: whoever gets the item unlinks
        _unlink_orphans()
        _prepare_exit()
        _names.add(self)

    # Those of weakref.ref are its owner's.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def unlink(self) -> None:
        """Unlink the name if it is ours. OSError if the system refuses; then a second call tries again."""
        try:
            self._once.pop()
        except IndexError:  # it is done, or another thread is at it
            return
        try:
            if self in _names and self._is_ours():
                self.libc.unlink(os.fsencode(self.name))
        except FileNotFoundError:
            pass
        except OSError as error:
            self._once.append(True)
            if isinstance(error, PermissionError):  # nor will it be allowed later
                _names.discard(self)
            raise explained(error, self.libc, self.name) from None
        except BaseException:  # a signal's
            self._once.append(True)
            raise
        _names.discard(self)
        self.created, self.handle = [], None  # this may be among the orphans, and live longer

    def unlink_or_warn(self) -> None:
        """Unlink where nobody could catch an exception."""
        try:
            self.unlink()
        except OSError as error:
            import warnings  # at run time only when needed

            try:
                warnings.warn(f"a semaphore's name could not be removed: {error}", RuntimeWarning, stacklevel=2)
            except RuntimeWarning:  # python -W error
                sys.excepthook(*sys.exc_info())

    def _is_ours(self) -> bool:
        """Return whether the name stands for the semaphore it stood for. True where the system cannot tell (macOS, NetBSD, OpenBSD)."""
        libc = self.libc
        if self.handle is not None:
            address = self.handle.address
        elif self.created:
            address = libc.address_of(self.created[0])
        else:  # a signal came before it was opened
            return False
        if not libc.same_address:
            return True
        try:
            return libc.link(os.fsencode(self.name)).address == address
        except FileNotFoundError:
            return False
        except OSError:
            # Its mode keeps us from opening it, or descriptors or musl's 256 places are used up.
            file = _files.path(libc, self.name)
            if file is None or not libc.platform.startswith("linux"):
                raise
            try:
                return _files.is_mapped_at(file, address)
            except OSError:  # not even /proc can be read
                pass
            raise


def _unlink_orphans() -> None:
    while True:
        try:
            name = _orphans.pop()
        except IndexError:  # none, or another thread has the last
            return
        name.unlink_or_warn()


def _prepare_exit() -> None:
    """See to it that this process unlinks its names at its end, after the children of multiprocessing, which may need them."""
    if _prepared:
        return
    # Of two functions the one registered later runs earlier: atexit is right if multiprocessing comes later, or not at all. A child of
    # multiprocessing leaves without atexit (before 3.14), but not without these finalizers; those below 0 come last.
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        atexit.register(_unlink_all)
    else:
        util.Finalize(None, _unlink_all, exitpriority=-100)
    _prepared.append(True)


def _unlink_all() -> None:
    for name in list(_names):
        if not name._once:  # a signal's exception left it so; at the end there is no other thread to wait for
            name._once.append(True)
        name.unlink_or_warn()


def _forget_all() -> None:
    """In a child of fork: the names are its parent's."""
    _names.clear()
    _prepared.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
