# SPDX-License-Identifier: Apache-2.0
"""trio's tasks cannot wait for a semaphore; the error names it, and what can."""

from __future__ import annotations

import pytest
from programs import IMPORT, assert_well

from named_semaphores import NamedSemaphore, RobustSemaphore

trio = pytest.importorskip("trio")


async def statement(sem):
    async with sem:
        pass


async def hold(sem):
    async with sem.hold(timeout=1):
        pass


async def acquire(sem):
    await sem.acquire_async()


async def slot(sem):
    async with sem.slot():
        pass


@pytest.mark.parametrize("cls", [NamedSemaphore, RobustSemaphore])
@pytest.mark.parametrize("free", [0, 1])
def test_a_task_of_trio_is_told_to_wait_in_a_thread(cls, free, name):
    waits = (
        (statement, hold, acquire, slot) if cls is RobustSemaphore else (statement, hold, acquire)
    )
    with cls(name, 1 + free) as sem:
        for wait in waits:
            with pytest.raises(RuntimeError, match=rf"{name}.*asyncio.*trio\.to_thread"):
                trio.run(wait, sem)
            assert sem.value == free
    sem.close()


def test_what_the_error_advises_works(name):
    # In a process of its own: trio keeps its threads for ten seconds.
    code = """
import trio

async def work(sem, entered):
    await trio.to_thread.run_sync(sem.acquire)
    entered.append(sem.value)
    sem.release()

async def main(sem, entered):
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(work, sem, entered)

for cls in NamedSemaphore, RobustSemaphore:
    sem, entered = cls(sys.argv[1], 2), []
    trio.run(main, sem, entered)
    assert len(entered) == 10 and sem.value == 2
    sem.close()
"""
    assert assert_well(name, IMPORT, code) == ""
