# SPDX-License-Identifier: Apache-2.0
"""The calls that run hot, made by the interpreter's own C object for a semaphore.

``multiprocessing.Semaphore`` is made of ``_multiprocessing.SemLock`` (CPython, PyPy).
``SemLock._rebuild(address, 1, maximum, None)`` takes over an open semaphore; with a name instead of
None it opens that name itself. Its methods are C: half the time of a ctypes call. Its deallocator
closes the semaphore, and it is not a finalizer: the collector never runs it before the last call.
It opens and closes with the GIL kept, as ``_libc`` does. ``multiprocessing`` itself is never
imported: its resource tracker removes other processes' names.
"""

from __future__ import annotations

import os
import sys
from ctypes import c_uint, get_errno
from itertools import chain, repeat, starmap

from ._libc import Handle, Libc, load
from ._waiting import FIRST_SLICE

try:
    from _multiprocessing import SemLock  # type: ignore[import-not-found,unused-ignore]
except ImportError:  # an interpreter built without it
    SemLock = None

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_SEMAPHORE = 1  # its kind: not a recursive mutex

# The arguments of its calls, for all handles.
_TRY = repeat((False,))
_FIRST_WAIT = repeat((True, FIRST_SLICE / 1e9))
_NOTHING: Iterator[tuple[()]] = repeat(())


def semlock(platform: str) -> Any:
    """Return the type, or None where it does not serve."""
    # Cygwin and illumos: one sem_close ends all openings of the name.
    if platform.startswith(("cygwin", "msys", "sunos")):
        return None
    return SemLock if hasattr(SemLock, "_rebuild") else None


class _Handle(Handle):
    def __init__(self, libc: Libc, lock: Any) -> None:
        self.libc, self.is_steady = libc, libc.is_steady
        self.lock, self.pointer = lock, lock.handle  # the lock closes it
        acquire = lock.acquire
        self.tries = starmap(acquire, _TRY)
        # Given a time, SemLock polls where there is no timed wait.
        self.first_waits = starmap(acquire, _FIRST_WAIT) if libc.has_timed_wait else self.tries
        self.posts = starmap(lock.release, _NOTHING)
        self.exit = lock.__exit__


class SemLockLibc(Libc):
    """The running system's library, with SemLock's calls where they are as good."""

    def __init__(self, lib: Any) -> None:
        super().__init__(lib)
        self._rebuild = semlock(self.platform)._rebuild

    def link(self, name: str) -> Handle:
        return _Handle(self, self._rebuild(0, _SEMAPHORE, self.value_max, name))

    def create(self, name: str, mode: int, value: int) -> Handle:
        # SemLock can create, too, but with mode 0600 alone.
        arguments = (name.encode(), os.O_CREAT | os.O_EXCL, c_uint(mode), c_uint(value))
        # The result, then errno, as in _c.call.
        address, error = chain(starmap(self.sem_open, (arguments,)), starmap(get_errno, ((),)))
        if address == self.sem_failed:
            raise OSError(error, os.strerror(error))
        return _Handle(self, self._rebuild(address, _SEMAPHORE, self.value_max, None))


_system: Libc | None = None


def system() -> Libc:
    """Return the running system's library. NotImplementedError where there is none."""
    global _system
    if _system is None:
        library = load()
        _system = SemLockLibc(library) if semlock(sys.platform) else Libc(library)
    return _system
