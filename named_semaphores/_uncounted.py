# SPDX-License-Identifier: Apache-2.0
"""Counting opens where the system does not.

On Cygwin and illumos a process that opens a name twice gets the same address twice, and one sem_close ends both. So the opens of each
address are counted here, and sem_close is called for the last.
"""

from __future__ import annotations

import os
from _thread import RLock
from collections import Counter, deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


def counted(sem_open: Any, sem_close: Any, is_open: Callable[[int], bool]) -> tuple[Any, Any]:
    """Return sem_open and sem_close made so that each open is closed once.

    A signal's exception in the wrong place leaves a mapping that nobody closes any more; it never closes one that is in use.
    """
    opens: Counter[int] = Counter()
    closed: deque[int] = deque()
    # A collection or a signal handler may open or close anywhere, also while its own thread counts. So the thread that has the lock may come in
    # again; it only leaves closing to itself, for when it has counted.
    lock = RLock()
    counting: list[None] = []
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)  # type: ignore[attr-defined,unused-ignore]

    def counting_open(*arguments: Any) -> int:
        with lock:
            counting.append(None)
            try:
                address: int = sem_open(*arguments)
                if is_open(address):
                    opens[address] += 1
            finally:
                counting.pop()
        close_due()
        return address

    def counting_close(handle: Any) -> None:
        closed.append(int(handle))  # which dies
        close_due()

    def close_due() -> None:
        # Another thread that has the lock looks again when it has counted.
        while closed and lock.acquire(False):
            try:
                if counting:
                    return
                counting.append(None)
                try:
                    address = closed.popleft()
                    opens[address] -= 1
                    if not opens[address]:
                        del opens[address]
                        sem_close(address)
                finally:
                    counting.pop()
            finally:
                lock.release()

    return counting_open, counting_close
