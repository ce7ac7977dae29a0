# SPDX-License-Identifier: Apache-2.0
"""trio's tasks cannot wait for a semaphore; the error names it, and what can."""

from __future__ import annotations

import pytest
from support import run_python

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


@pytest.mark.parametrize("cls", [NamedSemaphore, RobustSemaphore])
@pytest.mark.parametrize("free", [0, 1])
@pytest.mark.parametrize("wait", [statement, hold, acquire])
def test_a_task_of_trio_is_told_to_wait_in_a_thread(cls, wait, free, name):
    sem = cls(name, 1)
    if not free:
        sem.acquire()
    with pytest.raises(RuntimeError, match=rf"{name}.*asyncio.*trio\.to_thread"):
        trio.run(wait, sem)
    assert sem.value == free
    if not free:
        sem.release()
    sem.close()


def test_a_slot_too(name):
    async def slot():
        async with sem.slot():
            pass

    sem = RobustSemaphore(name)
    with pytest.raises(RuntimeError, match=rf"{name}.*asyncio.*trio\.to_thread"):
        trio.run(slot)
    sem.close()


@pytest.mark.parametrize("cls", ["NamedSemaphore", "RobustSemaphore"])
def test_what_the_error_advises_works(cls, name):
    # In a process of its own: trio keeps its threads for ten seconds.
    code = f"""
import sys, trio
from named_semaphores import {cls}

async def work():
    await trio.to_thread.run_sync(sem.acquire)
    entered.append(sem.value)
    sem.release()

async def main():
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(work)

sem, entered = {cls}(sys.argv[1], 2), []
trio.run(main)
assert len(entered) == 10 and sem.value == 2
sem.close()
print("ok")
"""
    done = run_python(code, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
