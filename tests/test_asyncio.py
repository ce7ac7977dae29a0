# SPDX-License-Identifier: Apache-2.0
"""Waiting in event loops: nobody is kept from running, and no token is lost to a cancellation."""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
import time

import pytest
from support import SLOW, in_threads, run_python, start_python

from named_semaphores import NamedSemaphore, _async
from named_semaphores._libc import Libc


def test_async_with_takes_and_returns_a_token(Semaphore, name):
    async def main():
        async with sem as entered:
            assert entered is sem
            assert not sem.acquire(False)

    sem = Semaphore(name)
    asyncio.run(main())
    assert sem.acquire(False)
    sem.close()


def test_the_loop_runs_while_a_task_waits(name):
    async def main():
        waiter = asyncio.ensure_future(sem.acquire_async())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiter.done()
        sem.release()
        assert await waiter

    sem = NamedSemaphore(name, 0)
    asyncio.run(main())
    sem.close()


def test_tasks_get_tokens_in_the_order_they_came(name):
    async def worker(number):
        async with sem:
            order.append(number)
            await asyncio.sleep(0)

    async def main():
        await sem.acquire_async()
        tasks = [asyncio.ensure_future(worker(number)) for number in range(20)]
        await asyncio.sleep(0)
        sem.release()
        await asyncio.gather(*tasks)

    order: list[int] = []
    sem = NamedSemaphore(name)
    asyncio.run(main())
    assert order == list(range(20))
    assert sem.value == 1
    sem.close()


@pytest.mark.parametrize("timeout", [0, 0.001, 0.05])
def test_a_timeout_is_never_early(name, timeout):
    async def main():
        start = time.monotonic()
        assert not await sem.acquire_async(timeout)
        return time.monotonic() - start

    sem = NamedSemaphore(name, 0)
    assert timeout <= asyncio.run(main()) < timeout + 5 * SLOW
    sem.close()


def test_a_timer_that_comes_early_is_set_again(name, monkeypatch):
    # uvloop's do, by a millisecond.
    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", lambda delay, *rest, later=loop.call_later: later(delay / 3, *rest), raising=False)
        start = time.monotonic()
        assert not await sem.acquire_async(0.05)
        return time.monotonic() - start

    sem = NamedSemaphore(name, 0)
    assert 0.05 <= asyncio.run(main()) < 5 * SLOW
    sem.close()


def test_a_token_that_is_there_at_the_deadline_is_taken(name, monkeypatch):
    async def main():
        waiter = asyncio.ensure_future(sem.acquire_async(0.5))
        for _ in range(3):  # it has begun to wait, and there was one look
            await asyncio.sleep(0)
        sem.release()
        return await waiter

    # As if the poller's next look came after the deadline.
    monkeypatch.setattr(_async, "FIRST_PAUSE", 100)
    monkeypatch.setattr(_async, "LONGEST_PAUSE", 100)
    sem = NamedSemaphore(name, 0)
    assert asyncio.run(main())
    assert sem.value == 0
    sem.close()


def test_what_the_system_refuses_reaches_the_task(name, monkeypatch):
    async def main():
        waiter = asyncio.ensure_future(sem.acquire_async())
        await asyncio.sleep(0.01)
        monkeypatch.setattr(type(sem._libc), "trywait", lambda self, handle: itertools.repeat((-1, errno.EINVAL)))
        with pytest.raises(OSError, match=name) as raised:
            await waiter
        assert raised.value.errno == errno.EINVAL

    sem = NamedSemaphore(name, 0)
    asyncio.run(main())
    monkeypatch.undo()
    sem.close()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", 1j])
def test_a_bad_timeout_takes_nothing(name, timeout):
    sem = NamedSemaphore(name)
    with pytest.raises(ValueError, match="timeout must be a number"):
        asyncio.run(sem.acquire_async(timeout))
    assert sem.value == 1
    sem.close()


def test_closed_while_a_task_is_inside_or_waits(name):
    async def main():
        async with sem:
            waiter = asyncio.ensure_future(sem.acquire_async())
            await asyncio.sleep(0)
            sem.close()
        assert await waiter
        with pytest.raises(ValueError, match="closed"):
            await sem.acquire_async()

    sem = NamedSemaphore(name)
    link = NamedSemaphore(name)
    asyncio.run(main())
    assert link.value == 0
    link.close()


def test_closed_while_it_waits_it_gives_its_token_back(name):
    async def enter():
        async with sem:
            assert link.value == 0

    async def main():
        task = asyncio.ensure_future(enter())
        await asyncio.sleep(0.01)
        sem.close()
        link.release()
        await task

    sem, link = NamedSemaphore(name, 0), NamedSemaphore(name)
    asyncio.run(main())
    assert link.value == 1
    link.close()


def test_loops_of_several_threads_use_one_object(name):
    async def main():
        for _ in range(200):
            async with sem:
                await asyncio.sleep(0)

    sem = NamedSemaphore(name, 2)
    in_threads(4, lambda: asyncio.run(main()))
    assert sem.value == 2
    assert sem._count.held() <= 0  # without CPython's GIL it may be less: what is given back at the end is never too much
    sem.close()


def test_a_loop_that_has_ended_is_forgotten(name):
    async def main():
        assert not await sem.acquire_async(0.001)
        waiter = asyncio.ensure_future(sem.acquire_async())
        await asyncio.sleep(0)
        waiter.cancel()

    sem = NamedSemaphore(name, 0)
    asyncio.run(main())
    assert not _async._pollers
    sem.close()


def test_when_one_semaphores_waiters_go_anothers_stay(name):
    async def main():
        waiter = asyncio.ensure_future(other.acquire_async(60))
        assert not await sem.acquire_async(0.01)
        other.release()
        assert await waiter

    sem, other = NamedSemaphore(name, 0), NamedSemaphore(f"{name}-", 0)
    asyncio.run(main())
    assert not _async._pollers
    sem.close()
    other.close()


def test_a_poller_that_has_ended_leaves_the_next_one_alone(name):
    async def main():
        loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(sem.acquire_async())
        await asyncio.sleep(0)
        sem.release()
        _async._pollers[loop].look()  # it hands out the token and ends, and before the task runs there is a new one
        loop.call_later(0.01, other.release)
        assert await other.acquire_async(60)
        assert await first

    sem, other = NamedSemaphore(name, 0), NamedSemaphore(f"{name}-", 0)
    asyncio.run(main())
    assert not _async._pollers
    sem.close()
    other.close()


def test_a_cancelled_task_has_no_token(name):
    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        # Cancelled after the poller gave it a token and before it ran: the one moment in which a token could go with the task.
        waiter = asyncio.ensure_future(sem.acquire_async())
        await asyncio.sleep(0)
        sem.release()
        while sem.value:
            await asyncio.sleep(0)
        assert waiter.cancel() or not waiter.done()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await asyncio.sleep(0.05)

    complaints = []
    sem = NamedSemaphore(name, 0)
    asyncio.run(main())
    assert not complaints
    assert sem.value == 1
    sem.close()


def test_a_storm_of_cancellations_loses_nothing(name, full):
    async def task():
        async with sem:
            await asyncio.sleep(0)

    async def main():
        cancelled = 0
        while cancelled < count:
            tasks = [asyncio.ensure_future(task()) for _ in range(40)]
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(chance.choice((0, 0, 0.0005)))
            victims = [one for one in tasks if chance.random() < 0.8]
            cancelled += sum(one.cancel() for one in victims)
            await asyncio.gather(*tasks, return_exceptions=True)

    count = 20_000 if full else 2_000
    chance = random.Random(3)
    sem = NamedSemaphore(name, 3)
    asyncio.run(main())
    assert sem.value == 3
    sem.close()


def test_who_queues_before_the_last_was_woken_is_looked_at(name):
    async def use():
        async with sem:
            pass

    async def main():
        endless = asyncio.ensure_future(other.acquire_async())  # keeps the poller
        async with sem:
            first = asyncio.ensure_future(use())
            await asyncio.sleep(0.05)
        second = asyncio.ensure_future(use())  # when the first has been given its token, and did not run yet
        await asyncio.wait_for(asyncio.gather(first, second), 20 * SLOW)
        endless.cancel()

    sem, other = NamedSemaphore(name), NamedSemaphore(name + ".b", 0)
    asyncio.run(main())
    assert sem.value == 1
    other.close()
    sem.close()


def test_500_waiting_tasks_cost_what_one_does(name, monkeypatch):
    async def main():
        tasks = [asyncio.ensure_future(sem.acquire_async()) for _ in range(500)]
        await asyncio.sleep(0.2)
        looks.clear()
        await asyncio.sleep(0.5)
        seen = len(looks)
        sem.release(500)
        assert all(await asyncio.gather(*tasks))
        return seen

    looks = []
    trywait = Libc.trywait
    monkeypatch.setattr(Libc, "trywait", lambda *arguments: looks.append(1) or trywait(*arguments))
    sem = NamedSemaphore(name, 0)
    # The loop's clock decides, so late timers only make it fewer; one may have been due at the beginning, one at the end.
    start = time.monotonic()
    seen = asyncio.run(main())
    assert 1 <= seen <= (time.monotonic() - start) * 100
    sem.close()


def test_processes_share_a_semaphore_under_asyncio(name):
    code = """
import asyncio, sys
from named_semaphores import NamedSemaphore
async def task(sem):
    for _ in range(25):
        async with sem:
            await asyncio.sleep(0)
async def main():
    sem = NamedSemaphore(sys.argv[1], unlink_on_delete=False)
    await asyncio.gather(*(task(sem) for _ in range(4)))
asyncio.run(main())
"""
    sem = NamedSemaphore(name, 2)
    children = [start_python(code, name) for _ in range(3)]
    for child in children:
        assert child.communicate(timeout=60 * SLOW) == ("", "")
    assert sem.value == 2
    sem.close()


def test_the_package_does_not_import_asyncio():
    done = run_python("import sys, named_semaphores; print('asyncio' in sys.modules)")
    assert done.stdout == "False\n", done.stderr
