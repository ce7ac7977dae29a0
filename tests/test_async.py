# SPDX-License-Identifier: Apache-2.0
"""Waiting in event loops: a thread waits for the loop's tasks, which blocks nobody.

No token is lost or kept.
"""

from __future__ import annotations

import asyncio
import errno
import random
import selectors
import threading
import time
import weakref

import pytest
from holders import in_child
from kinds import exists, tokens
from support import PYPY, SLOW, Struck, collect, elapsed, in_threads, run_python, wait_for

from named_semaphores import NamedSemaphore, RobustSemaphore, _async

# A thread on each engine, and systems whose waits poll.
KINDS = ["native", "native-ctypes", "macos", "robust-native", "robust-macos"]
MANY = 500  # as many tokens may be released


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


def threads(sem):
    return [thread for thread in threading.enumerate() if thread.name == f"waits for {sem.name}"]


def queues_of(sem):
    return [queue for queue in list(_async._queues.values()) if queue.sem is sem]


def assert_nothing_is_left(sem, count):
    """Assert that there are so many tokens, no thread, and nothing that is remembered."""
    wait_for(lambda: not threads(sem))
    assert tokens(sem) == count
    collect()
    if PYPY:  # it finalizes a chain of objects one by one
        wait_for(lambda: collect() and not queues_of(sem))
    assert not queues_of(sem)


def run(main, sem, count):
    """Run it in an event loop. Then so many tokens are left, and nothing else."""
    asyncio.run(main)
    assert_nothing_is_left(sem, count)


async def begin(sem, timeout=None):
    """Return a task that waits for the semaphore."""
    task = asyncio.ensure_future(sem.acquire_async(timeout))
    await asyncio.sleep(0)
    assert not task.done()
    return task


# --- One loop -------------------------------------------------------------------------------------


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

    run(main(), sem, 0)


@pytest.mark.parametrize("early", [1, 3])  # uvloop's timers come early, by a millisecond
def test_a_timeout_is_never_early(sem, monkeypatch, early):
    async def main():
        loop = asyncio.get_running_loop()
        later = loop.call_later
        monkeypatch.setattr(
            loop, "call_later", lambda delay, *rest: later(delay / early, *rest), raising=False
        )
        for timeout in (0, 0.001, 0.02):
            start = time.monotonic()
            assert not await sem.acquire_async(timeout)
            assert timeout <= time.monotonic() - start < timeout + 20 * SLOW

    run(main(), sem, 0)


def test_a_timeout_that_is_over_at_once_lets_the_loop_run(sem):
    async def main():
        ran = []
        asyncio.get_running_loop().call_soon(ran.append, True)
        assert not await sem.acquire_async(0)
        assert ran
        assert not threads(sem)

    run(main(), sem, 0)


def test_a_token_that_arrives_with_the_deadline_is_the_tasks(sem):
    async def main():
        waiter = await begin(sem, 0.02)
        sem.release()
        loop = asyncio.get_running_loop()
        wait_for(lambda: loop._ready or not threads(sem))  # the thread has sent it
        time.sleep(0.03)  # then the loop has both to do
        assert await waiter

    run(main(), sem, 0)


@pytest.mark.parametrize("timeout", [None, 60, 0.02])
def test_a_refusal_of_the_system_reaches_the_tasks_that_still_wait(sem, monkeypatch, timeout):
    def refuse(*_):
        return iter([-1, errno.EINVAL])

    def end(*_):
        time.sleep(0.01)
        return iter([-1, errno.ETIMEDOUT])

    async def main():
        cancelled, waiter = await begin(sem, timeout), await begin(sem, timeout)
        cls = type(sem._handle)
        monkeypatch.setattr(cls, "try_once", refuse)
        monkeypatch.setattr(cls, "wait", end if timeout == 0.02 else refuse)
        time.sleep(0.03)  # the loop learns both at once
        assert cancelled.cancel()
        with pytest.raises(OSError, match=sem.name) as raised:
            await asyncio.wait_for(waiter, 60)
        assert raised.value.errno == errno.EINVAL
        monkeypatch.undo()

    run(main(), sem, 0)


@pytest.mark.parametrize(
    "enter",
    [
        lambda sem: sem.acquire_async(),
        lambda sem: sem.__aenter__(),
        lambda sem: sem.hold().__aenter__(),
    ],
)
def test_outside_of_asyncio_a_sentence_tells_what_helps(sem, enter):
    # As in trio, whose loop runs coroutines too.
    for count in (0, 1):
        if count:
            sem.release()
        with pytest.raises(RuntimeError, match=f"'{sem.name}': .*asyncio only.*to_thread"):
            enter(sem).send(None)
        assert tokens(sem) == count


# --- Cancelled ------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_next", [True, False])
def test_a_token_on_its_way_to_a_cancelled_task_goes_to_the_next_or_back(sem, has_next):
    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda *bad: complaints.append(bad))
        waiter = await begin(sem)
        following = await begin(sem) if has_next else None
        sem.release()
        time.sleep(0.02)  # the thread has it, or sent it, and the task has not run
        assert waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        if following:
            assert await asyncio.wait_for(following, 60)

    complaints = []
    asyncio.run(main())
    assert not complaints
    assert_nothing_is_left(sem, 0 if has_next else 1)


def test_a_task_that_is_cancelled_before_it_can_use_its_token_gives_it_back(sem):
    async def main():
        waiter = await begin(sem, 60)
        (queue,) = queues_of(sem)
        (future,) = queue.waiters
        future.set_result(True)  # handed over
        assert waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    run(main(), sem, 1)


@pytest.mark.parametrize("factory", {None, getattr(asyncio, "eager_task_factory", None)})
def test_a_storm_of_cancellations_loses_nothing(kind, sem, full, factory):
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

    count = 20_000 if full else 500
    chance = random.Random(3)
    sem.release(3)
    loop = asyncio.new_event_loop()
    loop.set_task_factory(factory)
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
    run(main(), sem, 1)


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
    wait_for(lambda: not threads(sem))
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
    loop.run_until_complete(asyncio.sleep(0.02))
    sem.release()  # its thread may take the token, and cannot hand it over
    wait_for(lambda: sem.acquire(False))
    time.sleep(0.02)
    assert not waiter.done()
    sem.release()
    assert loop.run_until_complete(asyncio.wait_for(waiter, 60))  # it goes on where it stopped
    loop.close()
    assert_nothing_is_left(sem, 0)


def test_a_busy_loop_gets_its_token_later(sem, quick):
    async def main():
        waiter = await begin(sem)
        sem.release()
        time.sleep(0.02)
        assert await asyncio.wait_for(waiter, 60)

    run(main(), sem, 0)


def test_the_thread_gives_back_once_what_no_task_can_get(sem, monkeypatch):
    loop = asyncio.new_event_loop()
    queue = _async._Queue(loop, sem, sem._handle)
    queue._send()  # nobody waits
    assert tokens(sem) == 1
    assert sem.acquire(False)
    queue.waiters[loop.create_future()] = None
    queue._deliver()  # too late: the thread has given it back
    assert tokens(sem) == 0
    with monkeypatch.context() as patch:
        patch.setattr(queue, "_can_deliver", queue.arrived.clear)
        queue._send()  # the loop does not run; but it has arrived just now
    assert tokens(sem) == 0
    for _ in range(2):
        queue._send()
        assert sem.acquire(False)
        loop.close()


START = """
import asyncio, atexit, subprocess, sys, threading, time
from named_semaphores import NamedSemaphore, RobustSemaphore, _async
_async._SLICES = _async._ROBUST_SLICES = (10_000_000,)
loop = asyncio.new_event_loop()
async def enter(sem):
    async with sem:
        await asyncio.sleep({seconds})
def wait_for_main_thread():  # beside its join() PyPy's threading._shutdown can fail
    while threading.main_thread().is_alive():
        time.sleep(0.01)
"""
ENDS = {
    "stopped": "loop.run_until_complete(asyncio.sleep(0.05))",
    "closed": "loop.run_until_complete(asyncio.sleep(0.05)); loop.close()",
    "in a daemon thread": """
waits = threading.Event()
loop.call_later(0.05, waits.set)
threading.Thread(target=loop.run_forever, daemon=True).start()
waits.wait()
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_the_interpreter_keeps_no_token_and_is_not_held_up(name, end):
    sems = [NamedSemaphore(f"{name}.{count}", count) for count in (0, 1)]
    code = START.format(seconds=1000) + "for sem in map(NamedSemaphore, sys.argv[1:]):\n"
    code += "    for _ in range(2): loop.create_task(enter(sem))\n" + ENDS[end]
    done, seconds = elapsed(run_python, code, *(sem.name for sem in sems))
    assert done.returncode == 0
    assert "Error" not in done.stderr
    values = [sem.value for sem in sems]
    # What is inside is lost where nothing finalizes it: PyPy, and threads that stop.
    assert values == [0, 1] or (values == [0, 0] and (PYPY or end == "in a daemon thread"))
    assert seconds < 30 * SLOW
    for sem in sems:
        sem.release()
        assert sem.acquire(False)  # nobody takes it any more
        sem.close()


# A daemon thread that runs until the interpreter ends can crash CPython 3.13 then: seen with musl
# and free-threaded, without this package too.
DAEMON = """
runner = threading.Thread(target=loop.run_forever, daemon=True)
runner.start()
def stop():
    loop.call_soon_threadsafe(loop.stop)
    runner.join()
"""
LONG = 0.05  # seconds, longer than a slice of the thread that waits for the task
SEMS = "sems = NamedSemaphore(sys.argv[1]), RobustSemaphore(sys.argv[1])"
PROGRAMS = {
    "a loop in a daemon thread goes on while other threads do": f"""
{DAEMON}
def use():
    wait_for_main_thread()
    for future in [asyncio.run_coroutine_threadsafe(enter(sem), loop) for sem in sems * 3]:
        future.result(20 * {SLOW})
    stop()
    print("done", flush=True)
threading.Thread(target=use).start()
""",
    "a loop in a thread may pause when the main thread has ended": f"""
def work():
    wait_for_main_thread()
    for sem in sems: sem.acquire()
    tasks = [loop.create_task(enter(sem)) for sem in sems]
    loop.run_until_complete(asyncio.sleep(0.05))
    time.sleep({LONG})
    for sem in sems: sem.release()
    loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks), 20 * {SLOW}))
    loop.close()
    print("done", flush=True)
threading.Thread(target=work).start()
""",
    "an atexit function waits for a task of a loop in a daemon thread": f"""
{DAEMON}
code = "import sys; from named_semaphores import NamedSemaphore, RobustSemaphore\\n{SEMS}\\n"
code += "with sems[0], sems[1]: print(flush=True); input()"
command = [sys.executable, "-c", code, sys.argv[1]]
holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
holder.stdout.readline()
def end():
    tasks = [asyncio.run_coroutine_threadsafe(enter(sem), loop) for sem in sems]
    time.sleep({LONG})
    holder.communicate(b"\\n")
    for task in tasks: task.result(20 * {SLOW})
    stop()
    print("done", flush=True)
atexit.register(end)
""",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_at_the_end_of_the_interpreter(name, program):
    done = run_python(START.format(seconds=0.01) + SEMS + PROGRAMS[program], name)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


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


def test_ctrl_c_while_the_loop_looks_for_tokens_leaves_it_looking(name, monkeypatch):
    def strike(queue):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(_async, "patched_sleep", lambda: time.sleep)  # so that no thread waits
    monkeypatch.setattr(_async._Queue, "_hand_over", strike)
    sem = NamedSemaphore(name, 0)
    loop = asyncio.new_event_loop()
    waiter = loop.run_until_complete(begin(sem))
    sem.release(2)
    with pytest.raises(KeyboardInterrupt):  # which may cost a token
        loop.run_until_complete(waiter)
    assert loop.run_until_complete(asyncio.wait_for(waiter, 20 * SLOW))
    loop.close()
    assert_nothing_is_left(sem, 0)
    sem.close()


# --- Several loops, processes, semaphores ---------------------------------------------------------


def test_loops_of_several_threads_use_one_object(sem):
    async def main():
        for _ in range(100):
            async with sem:
                await asyncio.sleep(0)

    sem.release(2)
    in_threads(4, lambda: asyncio.run(main()))
    assert_nothing_is_left(sem, 2)


@pytest.mark.parametrize("cls", [NamedSemaphore, RobustSemaphore])
def test_a_child_of_fork_that_goes_on_with_the_loop_has_its_own_thread(name, cls):
    def wait(timeout=60):
        return loop.run_until_complete(asyncio.wait_for(sem.acquire_async(timeout), 10 * SLOW))

    sem, loop = cls(name, 1), asyncio.SelectorEventLoop(selectors.SelectSelector())
    sem.acquire()
    assert not wait(0.12)
    threading.Timer(0.2, sem.release).start()
    assert in_child(wait) == "True"  # though the parent's thread waited still
    loop.close()
    sem.close()


def test_tasks_wait_for_two_semaphores(sem, kind, name):
    async def main():
        waiter = await begin(other, 60)
        assert not await sem.acquire_async(0.01)
        other.release()
        assert await waiter

    other = kind.cls(name + "x", 1)
    other.acquire()
    run(main(), sem, 0)
    kind.discard(other)


def test_500_tasks_wait_with_one_thread_or_cost_what_one_does(sem, monkeypatch):
    def count(queue, *arguments):
        looks.append(1)
        look(queue, *arguments)

    async def main():
        start = time.monotonic()
        waiting = [asyncio.ensure_future(sem.acquire_async()) for _ in range(MANY)]
        await asyncio.sleep(0.02)
        if sem._handle.is_steady:
            assert len(threads(sem)) == 1
        else:  # it polls: after 0, 1, 3, 7 and 15 milliseconds, then 100 times a second at most
            await asyncio.sleep(0.1)
            assert 1 <= len(looks) <= (time.monotonic() - start) * 100 + 5
        sem.release(MANY)
        assert all(await asyncio.wait_for(asyncio.gather(*waiting), 60))

    looks, look = [], _async._Queue._look
    monkeypatch.setattr(_async._Queue, "_look", count)
    run(main(), sem, 0)


def test_where_no_thread_can_be_started_it_polls(name, monkeypatch):
    def refuse(self):
        raise error("can't start new thread")

    async def main():
        nonlocal error
        with pytest.raises(Struck):  # a signal handler's
            await sem.acquire_async()
        error = RuntimeError
        waiter = await begin(sem)
        timed = await begin(sem, 0.02)
        assert not threads(sem)
        assert not await asyncio.wait_for(timed, 60)
        sem.release()
        assert await asyncio.wait_for(waiter, 60)
        monkeypatch.undo()
        again = await begin(sem)
        assert threads(sem)  # the next that waits tries again
        sem.release()
        assert await again

    error = Struck
    sem = NamedSemaphore(name, 0)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    run(main(), sem, 0)
    sem.close()


def test_a_task_that_comes_while_the_thread_ends_has_another(sem):
    class Ending(_async._Queue):
        def __setattr__(self, attribute, value):
            super().__setattr__(attribute, value)
            if attribute == "is_served" and not value and hasattr(self, "delivered"):
                self.waiters[loop.create_future()] = None

    loop = asyncio.new_event_loop()
    queue = Ending(loop, sem, sem._handle)
    queue._run()
    loop.run_until_complete(asyncio.sleep(0))
    assert queue.is_served
    loop.close()
    queue = None  # PyPy keeps the class for a while, and with it what its method uses
