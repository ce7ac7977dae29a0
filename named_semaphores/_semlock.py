# SPDX-License-Identifier: Apache-2.0
"""Mechanism: the calls that run hot, made by the interpreter's own C object for a semaphore.

``_multiprocessing.SemLock`` is what ``multiprocessing.Semaphore`` is made of (CPython 3.8 to 3.15, PyPy). ``SemLock._rebuild(address, 1, maximum,
None)`` takes over an open semaphore; with a name instead of None it opens that name itself. Its methods are C: half the time of a ctypes call.
Its deallocator closes the semaphore, and it is not a finalizer: the collector never runs it before the last call. It opens and closes with the
GIL kept, as ``_libc._prototype`` explains. ``multiprocessing`` itself is never imported: its resource tracker removes other processes' names.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from ctypes import c_ssize_t
from itertools import repeat, starmap

from ._base import FIRST_SLICE
from ._libc import Handle, Libc, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_SEMAPHORE = 1  # its kind: not a recursive mutex

# The arguments of its calls, for all handles.
_TRY = repeat((False,))
_WAIT = repeat((True,))
_FIRST_WAIT = repeat((True, FIRST_SLICE / 1e9))
_NOTHING: Iterator[tuple[()]] = repeat(())


def semlock(platform: str) -> Any:
    """Return the type, or None where it does not serve."""
    if platform.startswith(
        ("cygwin", "msys", "sunos")
    ):  # one sem_close there ends all opens of the name: see _refcount
        return None
    try:
        from _multiprocessing import SemLock  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # an interpreter built without it
        return None
    return SemLock if hasattr(SemLock, "_rebuild") else None


class _Handle(Handle):
    def __init__(self, libc: Libc, lock: Any) -> None:
        self.libc = libc
        self.lock = lock
        acquire = lock.acquire
        self.tries = starmap(acquire, _TRY)
        self.first_waits = starmap(acquire, _FIRST_WAIT if libc.has_timed_wait else _WAIT)
        self.posts = starmap(lock.release, _NOTHING)
        self.leave = lock.__exit__

    @property
    def pointer(self) -> int:
        # An int: who makes a call by ctypes must keep this object, and so the lock, until it returns.
        return self.lock.handle  # type: ignore[no-any-return]

    @property
    def address(self) -> int:  # type: ignore[override]
        return self.libc.address_of(self.lock)

    def wait(self, nanoseconds: int) -> Iterator[tuple[int, int]]:
        # On the wall clock: if that is set back, the wait takes longer, and ends with a token, or a signal, nevertheless. Without a timed wait
        # SemLock polls when given a time, so there it waits without an end.
        arguments = (True, nanoseconds / 1e9) if self.libc.has_timed_wait else (True,)
        # True and False become 0 and -1.
        return zip(map((-1).__add__, starmap(self.lock.acquire, (arguments,))), (errno.ETIMEDOUT,))


class InterpretersLibc(Libc):
    """The running system's library, with SemLock's calls where they are as good."""

    def __init__(self, lib: Any) -> None:
        super().__init__(lib)
        self._rebuild = semlock(self.platform)._rebuild

    def link(self, name: str) -> Handle:
        # SemLock encodes a name as UTF-8, whatever the file system's encoding; and some systems have wrong errors for one that is too long.
        if not name.isascii() or len(name) > (self.longest_name or sys.maxsize):
            return super().link(name)
        return _Handle(self, self._rebuild(0, _SEMAPHORE, self.value_max, name))

    def _open(self, name: str, *arguments: Any) -> Iterator[tuple[Any, int]]:
        addresses = starmap(self.sem_open, ((self.encoded(name), *arguments),))
        return zip(
            map(self._rebuild, addresses, (_SEMAPHORE,), (self.value_max,), (None,)),
            iter(ctypes.get_errno, None),
        )

    def _opened(self, lock: Any, error: int) -> Handle:
        if self.address_of(lock) == self.sem_failed:  # SemLock's deallocator leaves that alone
            raise OSError(error, os.strerror(error))
        return _Handle(self, lock)

    @staticmethod
    def address_of(opened: Any) -> int:
        return c_ssize_t(
            opened.handle
        ).value  # sem_open's result is signed, SemLock's handle is not


def system() -> Libc:
    """Return the running system's library, found once. NotImplementedError where there is none."""
    if not _found:
        library = load()
        _found.setdefault(
            "libc", InterpretersLibc(library) if semlock(sys.platform) else Libc(library)
        )
    return _found["libc"]


_found: dict[str, Libc] = {}  # setdefault is atomic: all threads share one, which on Cygwin counts
semlock(sys.platform)  # imports it now, and not with the first semaphore: see _base.importing
