# SPDX-License-Identifier: Apache-2.0
"""A worker of ``test_robust.py``: it enters a limit, and writes into a shared file how many tokens
it has while it is inside.

The file has two bytes for each worker: the first half tells how many tokens each has, the second
half which of them are about to be killed. The kernel takes tokens back before a killed worker
could clear its byte. Each byte has one writer. The first worker's byte is the most that were seen
inside at once.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
import time

LIMIT = 3
SLOTS = 4096
SIZE = 2 * SLOTS  # of the file


def shared(path: str) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), SIZE)


def inside(marks: mmap.mmap) -> int:
    """Return how many tokens the workers inside have."""
    pairs = zip(marks[1:SLOTS], marks[SLOTS + 1 :])
    return sum(tokens for tokens, is_doomed in pairs if not is_doomed)


def doom(marks: mmap.mmap, slot: int) -> None:
    """Count this worker's tokens no more, since it is about to end."""
    marks[SLOTS + slot] = 1


def work(name: str, path: str, slot: int, rounds: int) -> None:
    from named_semaphores import RobustSemaphore

    marks, chance = shared(path), random.Random(slot)
    for _ in range(rounds):
        # The first to come creates it, the last to leave removes it.
        with RobustSemaphore(name, LIMIT) as sem:
            pass
        n = chance.choice((1, 1, 2))
        with sem.hold(n):
            marks[slot] = n
            marks[0] = max(marks[0], inside(marks))
            time.sleep(chance.random() / 200)
            if chance.random() < 0.05:
                doom(marks, slot)
                os._exit(0)
            marks[slot] = 0
        sem.close()


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
