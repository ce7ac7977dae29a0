# SPDX-License-Identifier: Apache-2.0
"""Waiting in event loops: a thread waits for the loop's tasks, which blocks nobody.

No token is lost or kept.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import random
import sys
import threading
import time
import unittest
import weakref
from types import SimpleNamespace

import profiles
import pytest
from kinds import bound, exists, tokens
from support import (
    PYPY,
    SLOW,
    Struck,
    collect,
    elapsed,
    in_threads,
    run_python,
    start_python,
    wait_for,
)

from named_semaphores import NamedSemaphore, _async

# A thread on each engine, and systems whose waits poll.
KINDS = ["native", "native-ctypes", "macos", "robust-native", "robust-macos"]
MANY = 500  # as many tokens may be released
START = """
import asyncio, sys, threading, time
from named_semaphores import NamedSemaphore
sem = NamedSemaphore(sys.argv[1])
"""

try:
    import uvloop
except ImportError:
    uvloop = None


@pytest.fixture
def sem(kind, name):
    """A semaphore without tokens."""
    sem = kind.cls(name, MANY if kind.is_bounded else 0)
    if kind.is_bounded:
        sem.acquire(n=MANY)
    yield sem
    if kind.is_bounded:
        wait_for(lambda: sem.waiting == 0)
        sem.release(sum(tokens for _, tokens in sem.holders))
    sem.close()


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("waits for ")]


def assert_nothing_is_left(sem, count):
    """Assert that there are so many tokens, no thread, and nothing that is remembered."""
    wait_for(lambda: not threads())
    assert tokens(sem) == count
    collect()
    if PYPY:  # it finalizes a chain of objects one by one
        wait_for(lambda: collect() and not list(_async._queues.items()))
    assert not list(_async._queues.items())


async def begin(sem, timeout=None):
    """Return a task that waits for the semaphore."""
    task = asyncio.ensure_future(sem.acquire_async(timeout))
    await asyncio.sleep(0)
    assert not task.done()
    return task


# --- One loop -------------------------------------------------------------------------------------


def test_the_loop_runs_while_a_task_waits(sem):
    async def main():
        waiter = await begin(sem)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiter.done()
        sem.release()
        assert await asyncio.wait_for(waiter, 60)

    asyncio.run(main())
    assert_nothing_is_left(sem, 0)


def test_tasks_get_tokens_in_the_order_they_came(sem):
    async def enter(number):
        async with sem:
            order.append(number)
            await asyncio.sleep(0)

    async def main():
        tasks = [asyncio.ensure_future(enter(number)) for number in range(20)]
        await asyncio.sleep(0)
        sem.release()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)

    order = []
    asyncio.run(main())
    assert order == list(range(20))
    assert_nothing_is_left(sem, 1)


def test_a_task_does_not_overtake_those_that_wait(sem):
    async def main():
        first = await begin(sem)
        sem.release()
        second = await begin(sem)  # it would find the token
        assert await asyncio.wait_for(first, 60)
        assert not second.done()
        sem.release()
        assert await asyncio.wait_for(second, 60)

    asyncio.run(main())
    assert_nothing_is_left(sem, 0)


@pytest.mark.parametrize("timeout", [0, 0.001, 0.05])
def test_a_timeout_is_never_early(sem, timeout):
    async def main():
        start = time.monotonic()
        assert not await sem.acquire_async(timeout)
        return time.monotonic() - start

    assert timeout <= asyncio.run(main()) < timeout + 5 * SLOW
    assert_nothing_is_left(sem, 0)


def test_a_timer_that_comes_early_is_set_again(sem, monkeypatch):
    # uvloop's do, by a millisecond.
    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(
            loop,
            "call_later",
            lambda delay, *rest, later=loop.call_later: later(delay / 3, *rest),
            raising=False,
        )
        start = time.monotonic()
        assert not await sem.acquire_async(0.05)
        return time.monotonic() - start

    assert 0.05 <= asyncio.run(main()) < 5 * SLOW


def test_a_token_that_arrives_with_the_deadline_is_the_tasks(sem):
    async def main():
        waiter = await begin(sem, 0.02)
        sem.release()
        wait_for(
            lambda: asyncio.get_running_loop()._ready or not threads()
        )  # the thread has sent it
        time.sleep(0.03)  # then the loop has both to do
        assert await waiter

    asyncio.run(main())
    assert_nothing_is_left(sem, 0)


@pytest.mark.parametrize("by", ["its own timeout", "wait_for"])
def test_a_token_that_is_there_at_the_deadline_is_taken_or_left(sem, by):
    async def main():
        if by == "wait_for":
            try:
                return await asyncio.wait_for(sem.acquire_async(), 0.05)
            except asyncio.TimeoutError:
                return False
        return await sem.acquire_async(0.05)

    timer = threading.Timer(0.05, sem.release)
    timer.start()
    taken = asyncio.run(main())
    timer.join()
    wait_for(lambda: not threads())
    assert tokens(sem) == (0 if taken else 1)


def test_a_refusal_of_the_system_reaches_the_task(sem, monkeypatch):
    async def main(timeout):
        waiter = await begin(sem, timeout)
        for call in ("try_once", "wait_until"):
            monkeypatch.setattr(type(sem._handle), call, lambda *_: iter([-1, errno.EINVAL]))
        with pytest.raises(OSError, match=sem.name) as raised:
            await asyncio.wait_for(waiter, 60)
        assert raised.value.errno == errno.EINVAL
        monkeypatch.undo()

    for timeout in (None, 60, 0.02):
        asyncio.run(main(timeout))
    assert_nothing_is_left(sem, 0)


def test_a_refusal_at_the_deadline_reaches_the_task(sem, monkeypatch):
    async def main():
        waiter = await begin(sem, 0.02)
        monkeypatch.setattr(type(sem._handle), "try_once", lambda *_: iter([-1, errno.EINVAL]))
        monkeypatch.setattr(
            type(sem._handle),
            "wait_until",
            lambda *_: time.sleep(0.01) or iter([-1, errno.ETIMEDOUT]),
        )
        with pytest.raises(OSError, match=sem.name):
            await asyncio.wait_for(waiter, 60)
        monkeypatch.undo()

    asyncio.run(main())
    assert_nothing_is_left(sem, 0)


def test_a_refusal_reaches_those_that_still_wait(sem):
    async def main():
        loop = asyncio.get_running_loop()
        queue = _async._Queue(loop, sem, sem._handle)
        done, waiting = loop.create_future(), loop.create_future()
        queue.waiters.update({done: None, waiting: None})
        done.set_result(True)
        queue._fail(error)
        assert done.result()
        assert waiting.exception() is error

    error = OSError(errno.EINVAL, "")
    asyncio.run(main())


ENTERED = {
    "acquire_async": lambda sem: sem.acquire_async(),
    "async with": lambda sem: sem.__aenter__(),
    "hold": lambda sem: sem.hold().__aenter__(),
}


@pytest.mark.parametrize("way", ENTERED)
@pytest.mark.parametrize("count", [0, 1])
def test_outside_of_asyncio_a_sentence_tells_what_helps(sem, way, count):
    # As in trio, whose loop runs coroutines too.
    if count:
        sem.release()
    with pytest.raises(RuntimeError) as raised:
        ENTERED[way](sem).send(None)
    assert f"semaphore {sem.name!r}: " in str(raised.value)
    assert "asyncio only" in str(raised.value)
    assert "to_thread" in str(raised.value)
    assert tokens(sem) == count


# --- Cancelled ------------------------------------------------------------------------------------


def test_a_task_that_is_cancelled_with_a_token_on_its_way_has_none(sem):
    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        waiter = await begin(sem)
        sem.release()
        time.sleep(
            0.05
        )  # the token is with the thread, or was handed over, and the task has not run
        assert waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    complaints = []
    asyncio.run(main())
    assert not complaints
    assert_nothing_is_left(sem, 1)


def test_a_task_that_is_cancelled_after_it_was_handed_a_token_and_before_it_runs_gives_it_back(
    sem, monkeypatch
):
    def hand_over_and_cancel(queue):
        hand_over(queue)
        assert waiter.cancel()

    async def main():
        nonlocal waiter
        waiter = await begin(sem)
        sem.release()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    waiter = None
    hand_over = _async._Queue._hand_over
    monkeypatch.setattr(_async._Queue, "_hand_over", hand_over_and_cancel)
    asyncio.run(main())
    waiter = None  # Python 3.9 and 3.10 keep its exception, and so the queue
    assert_nothing_is_left(sem, 1)


def test_a_task_that_is_cancelled_after_its_deadline_and_before_it_runs_gives_nothing(sem):
    async def main():
        waiter = await begin(sem, 60)
        (queue,) = _async._queues.values()
        (future,) = queue.waiters
        queue._expire(future, _async.clock())
        assert waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(main())
    assert_nothing_is_left(sem, 0)


def test_a_token_on_its_way_to_a_cancelled_task_goes_to_the_next(sem):
    async def main():
        first, second = await begin(sem), await begin(sem)
        sem.release()
        time.sleep(0.05)  # it is on its way to the first
        first.cancel()
        assert await asyncio.wait_for(second, 60)

    asyncio.run(main())
    assert_nothing_is_left(sem, 0)


def new_eager_loop():
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


LOOPS = {"asyncio": asyncio.new_event_loop}
if hasattr(asyncio, "eager_task_factory"):
    LOOPS["eager"] = new_eager_loop
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.mark.parametrize("new_loop", list(LOOPS.values()), ids=list(LOOPS))
def test_a_storm_of_cancellations_loses_nothing(kind, sem, full, new_loop):
    async def use():
        several = chance.randrange(1, 4) if kind.is_bounded else 1
        async with sem if several == 1 else sem.hold(several):
            await asyncio.sleep(0)

    async def main():
        cancelled = 0
        while cancelled < count:
            tasks = [asyncio.ensure_future(use()) for _ in range(40)]
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(chance.choice((0, 0, 0.0005)))
            cancelled += sum(task.cancel() for task in tasks if chance.random() < 0.8)
            await asyncio.gather(*tasks, return_exceptions=True)

    count = 20_000 if full else 1_000
    chance = random.Random(3)
    sem.release(3)
    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    assert_nothing_is_left(sem, 3)


# --- Closed, stopped, ended -----------------------------------------------------------------------


def test_closing_the_semaphore_leaves_its_tasks_waiting(kind, sem):
    async def enter():
        async with link:
            assert tokens(sem) == 0

    async def main():
        waiter = await begin(link)
        task = asyncio.ensure_future(enter())
        await asyncio.sleep(0)
        link.close()
        with pytest.raises(ValueError, match="closed"):
            await link.acquire_async()
        sem.release(2)
        assert await asyncio.wait_for(waiter, 60)
        await asyncio.wait_for(task, 60)

    link = kind.cls(sem.name)
    asyncio.run(main())
    assert_nothing_is_left(sem, 1)


def test_a_loop_that_is_closed_while_tasks_wait_keeps_nothing(sem, name):
    other = [NamedSemaphore(name + "x", 0)]
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(each.acquire_async()) for each in (sem, sem, other[0])]
    loop.run_until_complete(asyncio.sleep(0.01))
    sem.release()
    loop.close()
    references = [weakref.ref(loop), weakref.ref(tasks[0]), weakref.ref(other[0])]
    for task in tasks:
        task._log_destroy_pending = False
    del loop, tasks, task
    other.clear()
    wait_for(lambda: not threads())
    wait_for(lambda: collect() and not any(reference() for reference in references))
    assert not exists(name + "x")
    assert_nothing_is_left(sem, 1)


@pytest.fixture
def quick(monkeypatch):
    """Let the thread look every 10 ms whether its loop runs, and take slices of a millisecond."""
    monkeypatch.setattr(_async, "_CHECK", 0.01)
    monkeypatch.setattr(_async, "_SLICES", (1_000_000, 1_000_000))


def test_a_loop_that_stands_still_keeps_no_token(sem, quick):
    loop = asyncio.new_event_loop()
    waiter = loop.create_task(sem.acquire_async())
    loop.run_until_complete(asyncio.sleep(0.05))
    sem.release()  # its thread may take the token, and cannot hand it over
    wait_for(lambda: sem.acquire(False))
    time.sleep(0.05)
    assert not waiter.done()
    sem.release()
    assert loop.run_until_complete(asyncio.wait_for(waiter, 60))  # it goes on where it stopped
    loop.close()
    assert_nothing_is_left(sem, 0)


def test_a_busy_loop_gets_its_token_later(sem, quick):
    async def main():
        waiter = await begin(sem)
        sem.release()
        time.sleep(0.05)
        assert await asyncio.wait_for(waiter, 60)

    asyncio.run(main())
    assert_nothing_is_left(sem, 0)


def test_a_token_on_its_way_is_given_once(sem, quick):
    # The thread gives it back while the loop begins to run again: whoever is first has it.
    loop = asyncio.new_event_loop()
    queue = _async._Queue(loop, sem, sem._handle)
    queue.waiters[loop.create_future()] = None
    queue._deliver()  # too late: the thread has given it back
    assert tokens(sem) == 0

    def arrive(seconds):
        queue.arrived.clear()

    queue.delivered = SimpleNamespace(clear=list, wait=arrive)
    queue._send()  # too late: it has arrived
    assert tokens(sem) == 0
    loop.close()


def test_the_thread_gives_back_a_token_that_nobody_can_get(sem):
    loop = asyncio.new_event_loop()
    queue = _async._Queue(loop, sem, sem._handle)
    queue._send()  # nobody waits
    assert tokens(sem) == 1
    assert sem.acquire(False)
    queue.waiters[loop.create_future()] = None
    loop.close()
    queue._send()
    assert tokens(sem) == 1


END = {
    "tasks pending": "loop.create_task(sem.acquire_async()); loop.create_task(enter())",
    "a task inside": "loop.create_task(enter())",
    "a task inside and one that waits": "loop.create_task(enter()); loop.create_task(enter())",
}
END_CODE = """
async def enter():
    async with sem:
        await asyncio.sleep(1000)
loop = asyncio.new_event_loop()
{}
loop.run_until_complete(asyncio.sleep(0.05))
{}
"""


@pytest.mark.parametrize("end", ["", "loop.close()"], ids=["stopped", "closed"])
@pytest.mark.parametrize(("count", "code"), list(zip((0, 1, 1), END.values())), ids=END)
def test_the_end_of_the_interpreter_keeps_no_token_and_is_not_held_up(name, count, code, end):
    sem = NamedSemaphore(name, count)
    done, seconds = elapsed(run_python, START + END_CODE.format(code, end), name)
    assert done.returncode == 0
    assert "Error" not in done.stderr
    assert sem.value == count or (
        PYPY and sem.value == 0
    )  # which finalizes nothing at the end, so not what is inside either
    assert seconds < 30 * SLOW
    sem.close()


# A daemon thread that runs until the interpreter ends can crash CPython 3.13 then: seen with musl
# and free-threaded, without this package too.
LOOP_IN_A_DAEMON_THREAD = """
loop = asyncio.new_event_loop()
runner = threading.Thread(target=loop.run_forever, daemon=True)
runner.start()
def stop():
    loop.call_soon_threadsafe(loop.stop)
    runner.join()
"""


def test_a_loop_in_a_daemon_thread_goes_on_while_other_threads_do(name):
    code = """
async def enter():
    async with sem:
        await asyncio.sleep(0.01)
def use():
    threading.main_thread().join()
    for future in [asyncio.run_coroutine_threadsafe(enter(), loop) for _ in range(3)]:
        future.result(20)
    stop()
    print("done", flush=True)
threading.Thread(target=use).start()
"""
    sem = NamedSemaphore(name, 1)
    done = run_python(START + LOOP_IN_A_DAEMON_THREAD + code, name)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    sem.close()


@pytest.mark.parametrize("cls", ["NamedSemaphore", "RobustSemaphore"])
def test_a_loop_in_a_thread_may_pause_when_the_main_thread_has_ended(name, cls):
    code = f"""
import asyncio, sys, threading, time
from named_semaphores import {cls}
sem, loop = {cls}(sys.argv[1]), asyncio.new_event_loop()
def work():
    threading.main_thread().join()
    sem.acquire()
    task = loop.create_task(sem.acquire_async())
    loop.run_until_complete(asyncio.sleep(0.05))
    time.sleep(0.5)  # longer than a slice of the thread that waits for the task
    sem.release()
    loop.run_until_complete(asyncio.wait_for(task, 20 * {SLOW}))
    sem.release()
    loop.close()
    print("done", flush=True)
threading.Thread(target=work).start()
"""
    done = run_python(code, name)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("cls", ["NamedSemaphore", "RobustSemaphore"])
def test_an_atexit_function_waits_for_a_task_of_a_daemon_threads_loop(name, cls):
    code = f"""
import asyncio, atexit, subprocess, sys, threading, time
from named_semaphores import {cls}
sem = {cls}(sys.argv[1])
HOLDER = "import sys; from named_semaphores import {cls}; sem = {cls}(sys.argv[1]); "
HOLDER += "sem.acquire(); print(); input(); sem.release()"
command = [sys.executable, "-c", HOLDER, sys.argv[1]]
holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
holder.stdout.readline()
{LOOP_IN_A_DAEMON_THREAD}
async def flush():
    async with sem:
        pass
def end():
    task = asyncio.run_coroutine_threadsafe(flush(), loop)
    time.sleep(0.5)  # longer than a slice of the thread that waits for the task
    holder.communicate(b"\\n")
    task.result(20 * {SLOW})
    stop()
    print("flushed", flush=True)
atexit.register(end)
"""
    done = run_python(code, name)
    assert (done.returncode, done.stdout) == (0, "flushed\n"), done.stderr


def test_a_callback_that_a_signal_handler_ends_before_it_begins_is_called_again(name, monkeypatch):
    def deliver(queue):
        if not ended:
            ended.append(1)
            raise TimeoutError  # the handler's
        _deliver(queue)

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        tasks = [await begin(sem) for _ in range(3)]
        sem.release(3)
        assert await asyncio.wait_for(asyncio.gather(*tasks), 20 * SLOW) == [True] * 3

    _deliver, ended = _async._Queue._deliver, []
    monkeypatch.setattr(_async._Queue, "_deliver", deliver)
    sem = NamedSemaphore(name, 0)
    asyncio.run(main())
    assert ended
    assert_nothing_is_left(sem, 0)
    sem.close()


@pytest.mark.refcounts
@pytest.mark.parametrize("timeout", [None, 100])
def test_a_wait_leaves_nothing_to_the_collector(name, timeout):
    async def main(sem):
        task = await begin(sem, timeout)
        sem.release()
        assert await task

    sem = NamedSemaphore(name, 0)
    gone = weakref.ref(sem)
    gc.disable()
    try:
        asyncio.run(main(sem))
        wait_for(lambda: not threads())
        del sem
        assert gone() is None
    finally:
        gc.enable()


def test_the_end_of_the_interpreter_keeps_no_token_of_a_loop_in_a_daemon_thread(name):
    code = """
async def main():
    asyncio.ensure_future(sem.acquire_async())
    await asyncio.sleep(0.05)
    waits.set()
    await asyncio.sleep(1000)
waits = threading.Event()
threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
waits.wait()
"""
    sem = NamedSemaphore(name, 0)
    done, seconds = elapsed(run_python, START + code, name)
    assert done.returncode == 0, done.stderr
    assert seconds < 30 * SLOW
    sem.release()
    assert sem.acquire(False)
    sem.close()


def test_aexit_without_aenter_puts_a_token_back(sem):
    # As AsyncExitStack.push_async_exit and subclasses call it.
    class Patient(type(sem)):
        async def __aenter__(self):
            assert await self.acquire_async(timeout=5)
            return self

    async def main():
        async with Patient(sem.name):
            assert tokens(sem) == 0
        await sem.acquire_async()
        await type(sem).__aexit__(sem, None, None, None)

    sem.release()
    asyncio.run(main())
    assert tokens(sem) == 1


def test_a_coroutine_closed_without_a_loop_puts_its_token_back(sem):
    async def enter():
        async with sem:
            await asyncio.sleep(1000)

    async def main():
        task = asyncio.ensure_future(enter())
        await asyncio.sleep(0)
        coroutines.append(task.get_coro())

    coroutines = []
    sem.release()
    coroutine = enter()
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert tokens(sem) == 0
    coroutine.close()
    assert tokens(sem) == 1
    task._log_destroy_pending = False
    loop.close()


# --- Several loops, processes, semaphores ---------------------------------------------------------


def test_loops_of_several_threads_use_one_object(sem):
    async def main():
        for _ in range(100):
            async with sem:
                await asyncio.sleep(0)

    sem.release(2)
    in_threads(4, lambda: asyncio.run(main()))
    assert_nothing_is_left(sem, 2)


def test_tasks_wait_for_two_semaphores(sem, kind, name):
    async def main():
        waiter = await begin(other, 60)
        assert not await sem.acquire_async(0.01)
        other.release()
        assert await waiter

    other = kind.cls(name + "x", 1)
    other.acquire()
    asyncio.run(main())
    assert_nothing_is_left(sem, 0)
    kind.discard(other)


def test_500_tasks_wait_with_one_thread(sem):
    async def main():
        waiting = [asyncio.ensure_future(sem.acquire_async()) for _ in range(MANY)]
        await asyncio.sleep(0.01)
        assert len(threads()) == (1 if sem._handle.is_steady else 0)
        sem.release(MANY)
        assert all(await asyncio.wait_for(asyncio.gather(*waiting), 60))

    asyncio.run(main())
    assert_nothing_is_left(sem, 0)


@pytest.mark.skipif(
    profiles.why_impossible() is not None,
    reason=f"NO PLATFORM PROFILES: {profiles.why_impossible()}",
)
def test_where_it_polls_500_tasks_cost_what_one_does(name):
    from profiles.posix import MacOS

    class Counting(MacOS):
        def do_sem_trywait(self, descriptor):
            looks.append(time.monotonic())
            return super().do_sem_trywait(descriptor)

    async def main():
        waiting = [asyncio.ensure_future(sem.acquire_async()) for _ in range(500)]
        await asyncio.sleep(0.1)
        looks.clear()
        await asyncio.sleep(0.2)
        seen = len(looks)
        sem.release(500)
        assert all(await asyncio.gather(*waiting))
        return seen

    looks = []
    sem = bound(Counting(), "darwin")(name, 0)
    start = time.monotonic()
    seen = asyncio.run(main())
    # The loop's clock decides, so late timers only make it fewer. One may have been due at the
    # beginning, one at the end.
    assert 1 <= seen <= (time.monotonic() - start) * 100
    sem.close()


def test_where_no_thread_can_be_started_it_polls(name, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    async def main():
        waiter = await begin(sem)
        timed = await begin(sem, 0.02)
        assert not threads()
        assert not await asyncio.wait_for(timed, 60)
        sem.release()
        assert await asyncio.wait_for(waiter, 60)
        monkeypatch.undo()
        await asyncio.sleep(0.05)
        again = await begin(sem)
        assert threads()  # the next that waits tries again
        sem.release()
        assert await again

    sem = NamedSemaphore(name, 0)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    asyncio.run(main())
    assert_nothing_is_left(sem, 0)
    sem.close()


@pytest.mark.native
def test_a_signal_handler_that_ends_the_start_of_the_thread(sem, monkeypatch):
    def strike(self):
        raise Struck

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", strike)
            with pytest.raises(Struck):
                await sem.acquire_async()
        waiter = await begin(sem)  # the next starts one
        sem.release()
        assert await asyncio.wait_for(waiter, 60)

    asyncio.run(main())
    assert_nothing_is_left(sem, 0)


def test_a_task_that_comes_while_the_thread_ends_has_another(sem):
    class Taken(list):
        def append(self, item):
            queue.waiters[loop.create_future()] = None  # and it has the item already

    loop = asyncio.new_event_loop()
    queue = _async._Queue(loop, sem, sem._handle)
    queue.idle = Taken()
    assert not queue._is_wanted()
    loop.close()


def test_processes_share_a_semaphore(name):
    code = """
async def task():
    for _ in range(25):
        async with sem:
            await asyncio.sleep(0)
async def main():
    await asyncio.gather(*(task() for _ in range(4)))
asyncio.run(main())
"""
    sem = NamedSemaphore(name, 2)
    children = [start_python(START + code, name) for _ in range(3)]
    for child in children:
        assert child.communicate(timeout=60 * SLOW) == ("", "")
    assert sem.value == 2
    sem.close()


# --- The standard library's own tests -------------------------------------------------------------

# These look at attributes of asyncio's class in the step in which its release() hands a token over.
# Here the kernel does, a moment later.
NOT_OURS = (
    "test_repr",
    "test_semaphore_value",
    "test_initial_value_zero",
    "test_acquire",
    "test_acquire_fifo_order_4",
)


class Adapter(NamedSemaphore):
    """Made and asked like asyncio.Semaphore."""

    made = []
    prefix = ""

    def __init__(self, value=1, **keywords):
        super().__init__(f"{self.prefix}.{len(self.made)}", value)
        self.made.append(self)
        self.due, self.asking = (
            value,
            0,
        )  # tokens that no task has, though they may be on their way; tasks that want one

    async def acquire_async(self, timeout=None):
        self.asking += 1
        try:
            taken = await super().acquire_async(timeout)
            self.due -= taken
            return taken
        finally:
            self.asking -= 1

    async def acquire(self):
        return await self.acquire_async()

    def release(self):
        self.due += 1
        super().release()

    async def __aexit__(self, *exception):
        self.due += 1
        await super().__aexit__(*exception)

    @property
    def _value(self):
        return self.value

    @property
    def _waiters(self):
        return [
            waiter
            for queue in list(_async._queues.values())
            if queue.sem is self
            for waiter in queue.waiters
        ]

    def locked(self):
        return self.value == 0 or any(not waiter.cancelled() for waiter in self._waiters)


Adapter.__name__ = "Semaphore"  # they read error messages


@pytest.mark.skipif(sys.version_info < (3, 10), reason="until 3.9 they are about the loop argument")
def test_the_standard_librarys_own_semaphore_tests(name, monkeypatch):
    # They let the loop run once and expect a token to have arrived. Here it comes from the kernel,
    # so the loop runs until it has.
    pytest.importorskip(
        "test.test_asyncio", reason="this Python has no tests of the standard library"
    )
    from test.test_asyncio import test_locks

    async def sleep(delay, *arguments, sleep=asyncio.sleep):
        result, end = await sleep(max(delay, 0.02), *arguments), time.monotonic() + 20 * SLOW
        while any(sem.due and sem.asking for sem in Adapter.made) and time.monotonic() < end:
            await sleep(0.001)
        return result

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(
        asyncio,
        "wait_for",
        lambda task, timeout, wait_for=asyncio.wait_for: wait_for(task, 60 * SLOW),
    )
    monkeypatch.setattr(asyncio, "Semaphore", Adapter)
    monkeypatch.setattr(Adapter, "prefix", name)
    mine = type("Tests", (test_locks.SemaphoreTests,), {})
    tests = [
        test for test in unittest.defaultTestLoader.getTestCaseNames(mine) if test not in NOT_OURS
    ]
    result = unittest.TestResult()
    unittest.TestSuite(map(mine, tests)).run(result)
    while Adapter.made:
        Adapter.made.pop().close()
    for test, trace in (*result.errors, *result.failures):
        print(test, trace)
    assert not result.errors
    assert not result.failures
    assert result.testsRun > 5
