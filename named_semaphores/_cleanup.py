# SPDX-License-Identifier: Apache-2.0
"""Unlinks this process's names, each once, and calls what else is to be done at its end.

.github/CONTRIBUTING.md has the table of who frees what.
"""

from __future__ import annotations

import atexit
import os
import sys

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any, Callable

# Names that are still to be unlinked: by which process, and how.
_names: dict[object, tuple[int, Callable[..., None], tuple[Any, ...]]] = {}
# Called at the end of this process, and of each child, after names are unlinked.
at_exit: list[Callable[[], None]] = []


class Owner:
    """Unlinks a name once: by ``unlink()``, when garbage-collected, or at the process's end.

    Only the process that made this object does it, and no child, however it was forked.
    """

    _key: object = None  # for __del__, if a signal's exception ends __init__ early

    def __init__(self, unlink: Callable[..., None], *arguments: Any) -> None:
        self._key = object()
        _names[self._key] = (os.getpid(), unlink, arguments)

    def unlink(self) -> None:
        """Unlink the name, unless that was done. OSError: the system refuses."""
        _unlink(self._key)

    def __del__(self) -> None:
        if _names:  # None after the interpreter has cleared this module: all are unlinked
            _unlink(self._key)


def _unlink(key: object) -> None:
    # Atomic, so only one thread gets it; and no signal loses it: see _base.
    for found in map(_names.pop, (key,), (None,)):
        if found is None:
            return
        try:
            # A child may have been forked by C code, which calls no hooks of Python.
            if found[0] == os.getpid():
                found[1](*found[2])
        except FileNotFoundError:
            pass
        except PermissionError:  # it would be refused later, too
            raise
        except BaseException:  # a signal handler's, maybe a TimeoutError: try again later
            _names[key] = found
            raise


def _run() -> None:
    try:
        for key in list(_names):
            try:
                _unlink(key)
            except OSError:
                sys.excepthook(*sys.exc_info())
    finally:  # a signal handler may have raised
        for function in at_exit:
            function()


def _register() -> None:
    # Children of multiprocessing may need the names, so _run must be called after they have ended.
    # The atexit function registered last runs first: atexit is right unless multiprocessing was
    # imported before. Then its finalizers are: those below 0 run after its children have ended.
    # Before 3.14 its children run finalizers, but no atexit functions; a child forgets its
    # parent's, then calls what is registered for it. multiprocess is pathos' multiprocessing.
    utils = [sys.modules.get(f"{package}.util") for package in ("multiprocessing", "multiprocess")]
    utils = [util for util in utils if hasattr(util, "register_after_fork")]  # imported completely
    for util in utils:
        _finalize(util)
        util.register_after_fork(util, _finalize)  # type: ignore[union-attr]
    if not utils:
        atexit.register(_run)


def _finalize(util: Any) -> None:
    util.Finalize(None, _run, exitpriority=-100)


_register()
if hasattr(os, "register_at_fork"):
    # Again: multiprocessing may have been imported since.
    os.register_at_fork(after_in_child=_register)
