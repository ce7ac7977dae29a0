# SPDX-License-Identifier: Apache-2.0
"""An IPC namespace for one test: its sets are not seen elsewhere, and it sees no others."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from support import collect

_CLONE_NEWIPC = 0x08000000


@contextlib.contextmanager
def own_sets() -> Iterator[bool]:
    """Let this thread and its children have System V sets of their own, where that is allowed.

    A test that leaves an idle set needs it: any run of this user, say in another test suite,
    removes idle sets. Yields whether it is so.
    """
    libc = ctypes.CDLL(None)
    try:
        before = open("/proc/self/ns/ipc")
    except OSError:  # not Linux
        yield False
        return
    with before:
        collect()  # PyPy may have closed semaphores, which must leave sets of their own namespace
        if libc.unshare(_CLONE_NEWIPC):  # not root
            yield False
            return
        try:
            yield True
        finally:
            collect()
            assert libc.setns(before.fileno(), _CLONE_NEWIPC) == 0
