# SPDX-License-Identifier: Apache-2.0
"""A worker of ``test_robust.py``: it enters a limit, and writes into a shared file how many tokens it has while it is inside.

The file has a byte for each worker, after one for the most that were seen inside at once. The starter adds DOOMED to a worker's byte before it
kills the worker: the kernel takes tokens back before the byte could be cleared.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
import time

LIMIT = 3
SLOTS = 4096
DOOMED = 0x80


def shared(path: str) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), SLOTS)


def inside(marks: mmap.mmap) -> int:
    """Return how many tokens the workers inside have."""
    return sum(mark for mark in marks[1:] if mark < DOOMED)


def work(name: str, path: str, slot: int, rounds: int) -> None:
    from named_semaphores import RobustSemaphore

    marks, chance = shared(path), random.Random(slot)
    for _ in range(rounds):
        with RobustSemaphore(
            name, LIMIT
        ) as sem:  # the first to come creates it, the last to go removes it
            pass
        n = chance.choice((1, 1, 2))
        with sem.tokens(n):
            if marks[slot] < DOOMED:
                marks[slot] = n
            marks[0] = max(marks[0], inside(marks))
            time.sleep(chance.random() / 200)
            if chance.random() < 0.05:
                marks[slot] = DOOMED
                os._exit(0)
            if marks[slot] < DOOMED:
                marks[slot] = 0
        sem.close()


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
