# SPDX-License-Identifier: Apache-2.0
"""A process of the storm: it enters and leaves until it is killed, and counts how many are inside with it.

Arguments: the server's address, the semaphore's name, the number of tokens, the file of the slots, the number of its own slot.
"""

from __future__ import annotations

import logging
import mmap
import random
import sys
import time
from typing import Any

from kazoo.client import KazooClient
from server import SESSION

from named_semaphores.zookeeper import ZooKeeperSemaphore

FIELDS = (
    "inside",
    "pid",
    "is_frozen",
    "continued",
    "entries",
    "most",
    "lost",
    "notice",
    "too_many",
)


class Slots:
    """One row of integers for each process, in memory that all share."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
            self._cells = memoryview(self._map).cast("q")

    def __len__(self) -> int:
        return len(self._cells) // len(FIELDS)

    def get(self, slot: int, field: str) -> int:
        return self._cells[slot * len(FIELDS) + FIELDS.index(field)]

    def set(self, slot: int, field: str, value: int) -> None:
        self._cells[slot * len(FIELDS) + FIELDS.index(field)] = value

    def inside(self) -> dict[int, int]:
        """Return who is inside: slot, and the number of the entry."""
        rows = {slot: self.get(slot, "inside") for slot in range(len(self))}
        return {slot: entry for slot, entry in rows.items() if entry}


def count(slots: Slots, sem: Any) -> tuple[int, int]:
    """Return how many are inside and have their session, and how many are inside at all.

    A process that the test stopped for longer than its session counts while ZooKeeper knows it as a holder. All others count always.
    """
    before = slots.inside()
    holders = {holder.pid for holder in sem.holders}
    after = slots.inside()
    both = [
        slot for slot, entry in before.items() if after.get(slot) == entry
    ]  # inside while ZooKeeper was asked
    return sum(
        not slots.get(slot, "is_frozen") or slots.get(slot, "pid") in holders for slot in both
    ), len(both)


def main(address: str, name: str, tokens: int, path: str, slot: int) -> None:
    logging.getLogger("kazoo").setLevel(logging.CRITICAL)  # not each lost connection
    slots = Slots(path)
    client = KazooClient(
        address,
        timeout=SESSION,
        connection_retry={"max_tries": -1, "delay": 0.05, "max_delay": 0.3},
    )
    client.start()
    sem = ZooKeeperSemaphore(name, tokens, client=client)
    while True:
        with sem:
            slots.set(slot, "entries", slots.get(slot, "entries") + 1)
            slots.set(slot, "inside", slots.get(slot, "entries"))
            with_session, all_inside = count(slots, sem)
            if with_session > tokens:
                slots.set(slot, "too_many", slots.get(slot, "too_many") + 1)
            slots.set(slot, "most", max(slots.get(slot, "most"), all_inside))
            stopped_before = slots.get(slot, "continued")
            for _ in range(random.randrange(50)):
                time.sleep(0.001)
            if (
                slots.get(slot, "continued") != stopped_before
            ):  # stopped inside, for longer than the session: works on until it knows
                end = time.monotonic() + 20
                while not sem.lost and time.monotonic() < end:
                    time.sleep(0.001)
            slots.set(slot, "inside", 0)
            if sem.lost:
                slots.set(slot, "lost", slots.get(slot, "lost") + 1)
                slots.set(slot, "notice", time.monotonic_ns() - slots.get(slot, "continued"))
        if slots.get(slot, "continued"):
            slots.set(slot, "is_frozen", 0)
            slots.set(slot, "continued", 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
