# SPDX-License-Identifier: Apache-2.0
"""Policy: free what is ours, once, and nothing else.

Who frees what, when, and in which process:

| what | who and when | in a child of fork |
|---|---|---|
| an open POSIX semaphore | SemLock's deallocator; without SemLock, the end of the process | its own |
| an open System V set, as a user of it | ``robust``: the last ``close()`` or finalizer, at exit | its own |
| a name, if ``unlink_on_delete`` | ``Owner``: ``close()``, its finalizer, or at exit | never |
"""

from __future__ import annotations

import atexit
import os
import sys
from functools import partial

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Callable

# The names that still have to be unlinked: the process that has to do it, and how.
_names: dict[object, tuple[int, Callable[[], None]]] = {}
_at_exit: dict[Callable[[], None], None] = {}  # what this process does at its end


class Owner:
    """Unlinks a name once: on ``unlink()``, when garbage-collected, or at the process's end.

    Only the process that made this object does it, and no child, however it was forked.

    Args:
        unlink: Unlinks the name. It may raise OSError.
    """

    _key: object = None  # for __del__, if a signal's exception ends __init__ early

    def __init__(self, unlink: Callable[[], None]) -> None:
        at_exit(_unlink_all)
        self._key = object()
        _names[self._key] = (os.getpid(), unlink)

    def unlink(self) -> None:
        """Unlink the name, unless that was done.

        Raises:
            OSError: The system refuses.
        """
        _unlink(self._key)

    def __del__(self) -> None:
        _unlink_or_warn(self._key)


def _unlink(key: object) -> None:
    found = _names.pop(key, None)  # atomic, so one thread gets it
    if found is None:
        return
    pid, unlink = found
    if pid != os.getpid():  # forked, perhaps by C code, which calls no hooks of Python
        return
    try:
        unlink()
    except FileNotFoundError:
        pass
    except PermissionError:  # nor will it be allowed later
        raise
    except BaseException:  # a signal handler's, too: leave the name to _unlink_all
        _names[key] = found
        raise


def _unlink_or_warn(key: object) -> None:
    try:
        _unlink(key)
    except OSError as error:
        import warnings  # at run time only when needed

        try:
            warnings.warn(
                f"a semaphore's name could not be unlinked: {error}", RuntimeWarning, stacklevel=2
            )
        except RuntimeWarning:  # python -W error
            sys.excepthook(*sys.exc_info())


def _unlink_all() -> None:
    for key in list(_names):
        _unlink_or_warn(key)


def at_exit(function: Callable[[], None]) -> None:
    """Call the function once at this process's end, and at the end of each of its children.

    It is called after the children of multiprocessing have ended: they may need the names.
    """
    if function not in _at_exit:
        _register()
        _at_exit[function] = None


def _register() -> None:
    # Of two atexit functions the one registered later runs first. So atexit is right if
    # multiprocessing is imported later, or not at all. Its own finalizers with a priority below 0
    # run after its children have ended. Its children run them, but (before 3.14) no atexit
    # functions. Each child first forgets its finalizers, and then calls what is registered to be
    # called after a fork. multiprocess is pathos' copy of multiprocessing.
    utils = [sys.modules.get(f"{package}.util") for package in ("multiprocessing", "multiprocess")]
    # One that another thread is importing has no such functions yet.
    utils = [util for util in utils if hasattr(util, "register_after_fork")]
    for util in utils:
        finalize = partial(util.Finalize, None, exitpriority=-100)  # type: ignore[union-attr]
        finalize(_run)
        util.register_after_fork(_run, finalize)  # type: ignore[union-attr]
    if not utils:
        atexit.register(_run)


def _run() -> None:
    try:
        while _at_exit:
            function, _ = _at_exit.popitem()
            function()
    finally:
        if _at_exit:  # a signal handler's exception ended that function
            _run()


def _register_in_child() -> None:
    # multiprocessing may have been imported since the parent called _register.
    if _at_exit:
        _register()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_register_in_child)
