# SPDX-License-Identifier: Apache-2.0
"""Mechanism: a reentrant lock that no signal leaves locked when used in a with statement.

Its own thread may have it when the collector or a signal handler wants it; so it is reentrant.
"""

from __future__ import annotations

import sys
from _thread import RLock
from itertools import repeat, starmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def new_lock() -> Any:
    """Return a new lock, with ``acquire`` and ``release`` in C."""
    lock = RLock()
    if sys.version_info < (3, 14):
        return lock

    # CPython 3.14 looks at signals after it has called a C __enter__, and before the block begins; not so after one in Python (see _base).
    class Lock:
        acquire, release, __exit__ = lock.acquire, lock.release, lock.__exit__
        acquired = starmap(lock.acquire, repeat(()))

        def __enter__(self) -> None:
            for _ in self.acquired:
                return

    return Lock()
