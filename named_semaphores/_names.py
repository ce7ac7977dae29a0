# SPDX-License-Identifier: Apache-2.0
"""Policy: clean up what is ours, each once, and nothing else.

Who frees what, when, and in which process:

| what | by | when | in a child of fork |
|---|---|---|---|
| an open POSIX semaphore | SemLock's deallocator, or ``_libc._Mapping`` | when the last call has returned and the last object was collected | frees its own copy |
| an open System V set, as one of its users | ``_holding.Opening`` | the same, once nothing is held; at the latest after the interpreter's last collection | a user of its own |
| a name, if ``unlink_on_delete`` | ``Owner`` | on ``close()``, or when the object and its with statements were collected | never |
| a name that a signal's exception kept ``Owner`` from unlinking, or that still has an owner at the end | ``_clean_up_orphans``, ``_clean_up_all`` | when the next owner is made; at exit | never |

Whatever else ends the process, the kernel frees the first two.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_names: set[_Name] = set()  # this process still has to unlink them
_orphans: list[
    _Name
] = []  # their owners were collected; most are unlinked, but a signal's exception may have prevented it
_at_exit: list[Callable[[], None]] = []  # what this process does at its end


class Owner:
    """Unlinks a name when it is garbage-collected. The semaphore object has it, and so has what ends a with statement.

    unlink_if_ours: a function without arguments that unlinks the name if it still stands for the same semaphore, and raises OSError if the
        system refuses.
    """

    __slots__ = ("__weakref__", "_name")

    def __init__(self, unlink_if_ours: Callable[[], None]) -> None:
        self._name = _Name(self, unlink_if_ours)

    def unlink(self) -> None:
        """Unlink the name, unless that was done. OSError if the system refuses; then a second call tries again."""
        self._name.unlink()

    def __del__(self) -> None:
        if hasattr(self, "_name"):  # else a signal came first
            self._name.unlink_or_warn()


class _Name(weakref.ref):  # type: ignore[type-arg]
    """A name that this process unlinks. Refers weakly to its owner."""

    __slots__ = ("_once", "_unlink_if_ours")

    def __new__(cls, owner: Owner, unlink_if_ours: Callable[[], None]) -> _Name:
        # The callback is C code, which no signal can interrupt.
        return super().__new__(cls, owner, _orphans.append)

    def __init__(self, owner: Owner, unlink_if_ours: Callable[[], None]) -> None:
        super().__init__(owner, _orphans.append)  # type: ignore[call-arg]
        self._unlink_if_ours: Any = unlink_if_ours
        self._once = [True]  # list.pop is atomic: whoever gets the item unlinks
        _clean_up_orphans()
        at_exit(_clean_up_all)
        _names.add(self)

    # Those of weakref.ref are its owner's.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def unlink(self) -> None:
        try:
            self._once.pop()
        except IndexError:  # it is done, or another thread is at it
            return
        try:
            if self in _names:  # not in a child of fork
                self._unlink_if_ours()
        except FileNotFoundError:
            pass
        except BaseException as error:  # a signal's, too
            self._once.append(True)
            if isinstance(error, PermissionError):  # nor will it be allowed later
                _names.discard(self)
            raise
        _names.discard(self)
        self._unlink_if_ours = (
            None  # and with it the semaphore: this may be among the orphans, and live longer
        )

    def unlink_or_warn(self) -> None:
        """Unlink where nobody could catch an exception."""
        try:
            self.unlink()
        except OSError as error:
            import warnings  # at run time only when needed

            try:
                warnings.warn(
                    f"a semaphore's name could not be removed: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            except RuntimeWarning:  # python -W error
                sys.excepthook(*sys.exc_info())

    def retry(self) -> None:
        if (
            not self._once and self in _names
        ):  # a signal's exception interrupted unlink(); at exit no other thread can be in it
            self._once.append(True)
        self.unlink_or_warn()


def _clean_up_orphans() -> None:
    while True:
        try:
            name = _orphans.pop()
        except IndexError:  # none, or another thread has the last
            return
        try:
            name.unlink_or_warn()
        except BaseException:  # a signal's
            _orphans.append(name)
            raise


def _clean_up_all() -> None:
    for name in list(_names):
        name.retry()


def at_exit(function: Callable[[], None]) -> None:
    """Call the function at this process's end, after the children of multiprocessing, which may need the names."""
    if function not in _at_exit:
        _register(function)
        _at_exit.append(function)


def _register(function: Callable[[], None]) -> None:
    _finalize(function)
    register_after_fork = getattr(
        sys.modules.get("multiprocessing.util"), "register_after_fork", None
    )
    if (
        register_after_fork is not None
    ):  # a child of multiprocessing, however it was started, forgets its finalizers and then calls this
        register_after_fork(function, _finalize)


def _finalize(function: Callable[[], None]) -> None:
    # Of two functions the one registered later runs earlier: atexit is right if multiprocessing is imported later, or not at all. A child of
    # multiprocessing ends without atexit (before 3.14), but not without these finalizers; those below 0 are called last.
    finalize = getattr(
        sys.modules.get("multiprocessing.util"), "Finalize", None
    )  # None also while another thread imports it
    if finalize is None:
        atexit.register(function)
    else:
        finalize(None, function, exitpriority=-100)


def _forget_all() -> None:
    """In a child of fork: the names are its parent's. What it is to do at its own end is registered again."""
    _names.clear()
    for function in _at_exit:
        _register(function)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
