# SPDX-License-Identifier: Apache-2.0
"""Count opens where the system does not.

On Cygwin and illumos a process that opens a name twice gets the same address twice, and one sem_close ends both. ``counted`` counts the opens of
each address, and calls sem_close for the last.
"""

from __future__ import annotations

import os
from collections import Counter, deque

from ._lock import new_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def counted(sem_open: Any, sem_close: Any, sem_failed: int) -> tuple[Any, Any]:
    """Return sem_open and sem_close that close each address after its last open.

    A signal's exception at the wrong moment can leave an address open until the process ends. It never closes one that is in use.
    """
    opens: Counter[int] = Counter()
    closed: deque[int] = deque()
    # The collector or a signal handler may open or close at any time, also while its own thread is counting. The lock is reentrant, so such a call
    # gets it; close_due then leaves the queue to the call that was interrupted.
    lock = new_lock()
    counting: list[None] = []
    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
    )  # type: ignore[attr-defined,unused-ignore]

    def counting_open(*arguments: Any) -> int:
        with lock:
            counting.append(None)
            try:
                address: int = sem_open(*arguments)
                if address != sem_failed:
                    opens[address] += 1
            finally:
                counting.pop()
        close_due()
        return address

    def counting_close(address: int) -> None:
        closed.append(address)
        close_due()

    def close_due() -> None:
        # A thread that holds the lock calls this again when it has counted.
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
