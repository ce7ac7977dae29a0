# SPDX-License-Identifier: Apache-2.0
"""How a wait for several tokens ends: no token stays behind, and no turn."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading

import pytest
from holders import beside, held, turn
from kinds import ROBUST
from support import SLOW, Struck, thread, wait_for

from named_semaphores import RobustSemaphore, _several

KINDS = ROBUST
# Waits for two tokens: how many of three are taken, so that it waits for the first, or the rest.
PHASES = pytest.mark.parametrize("taken", [3, 2], ids=["the first", "the rest"])
WAYS = pytest.mark.parametrize("way", ["thread", "task"])


def fill(sem, taken):
    """Take so many. Return a condition: somebody waits as the phase says."""
    assert sem.acquire(n=taken)
    return lambda: turn(sem) == (taken == 2) and (sem.waiting or not sem._handle.is_steady)


def empty(sem, left):
    """Assert that nothing was left behind, and give back what is left of what ``fill`` took."""
    # A thread that waits for tasks may take a token once more.
    wait_for(lambda: (turn(sem), sem.waiting, held(sem)) == (0, 0, left))
    sem.release(left)


def acquire(sem, way, n=2):
    if way == "thread":
        return sem.acquire(n=n)
    return asyncio.run(sem.acquire_async(n=n))


@contextlib.contextmanager
def handling(handler, *numbers):
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def interrupt(waits, *numbers):
    wait_for(waits)
    for number in numbers:
        signal.pthread_kill(threading.main_thread().ident, number)


@PHASES
def test_a_wait_for_several_gets_them_before_newcomers(sem, taken):
    waits = fill(sem, taken)
    with thread(sem.acquire, n=2) as got:
        wait_for(waits)
        if taken == 2:
            assert sem.value == 0
            assert not sem.acquire(False)
            assert not sem.acquire(timeout=0.01)
            assert not sem.acquire(timeout=0.01, n=2)
        assert not got
        sem.release(2)
    assert (got, turn(sem)) == ([True], 0)
    sem.release(held(sem))


@PHASES
def test_a_wait_for_several_times_out(sem, taken):
    fill(sem, taken)
    assert not sem.acquire(timeout=0.05, n=2)
    with pytest.raises(TimeoutError), sem.hold(2, timeout=0.05):
        pytest.fail("it entered")
    assert not asyncio.run(sem.acquire_async(0.05, n=2))
    empty(sem, taken)


@pytest.mark.exact
@PHASES
@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGUSR1, signal.SIGUSR2)])
def test_a_signal_handler_ends_a_wait_for_several(native, taken, numbers):
    def handler(number, _):
        raise Struck(number)

    waits = fill(native, taken)
    with handling(handler, *numbers):
        for wait in (
            lambda: native.acquire(n=2),
            lambda: native.acquire(timeout=60, n=2),
            lambda: native.hold(2).__enter__(),
        ):
            with pytest.raises(Struck), thread(interrupt, waits, *numbers):
                wait()
            assert turn(native) == 0
    empty(native, taken)


@pytest.mark.exact
@PHASES
def test_a_handlers_exception_that_comes_with_the_tokens_gives_them_back(
    native, monkeypatch, taken
):
    def calls(waiter, deadline):
        made.append(waiter)
        if len(made) == (1 if taken == 3 else 2):
            native.release()
            yield struck(waiter.try_once())  # which succeeds
        yield from real(waiter, deadline)

    def struck(call):
        yield from call
        raise Struck

    made, real = [], _several.waits
    fill(native, taken)
    monkeypatch.setattr(_several, "waits", calls)
    with pytest.raises(Struck):
        native.acquire(timeout=60, n=2)
    empty(native, taken - 1)


def test_a_handlers_exception_between_token_and_number_gives_the_token_back(native, monkeypatch):
    def struck(slot):
        raise Struck

    monkeypatch.setattr("named_semaphores.robust.Slot._take_number", struck)
    with pytest.raises(Struck), native.slot():
        pytest.fail("it entered")


@PHASES
def test_a_cancelled_task_that_waits_for_several(native, taken):
    async def main():
        tasks = [asyncio.ensure_future(native.acquire_async(n=2)) for _ in range(3)]
        while not waits():
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    waits = fill(native, taken)
    asyncio.run(main())
    empty(native, taken)


@PHASES
def test_a_loop_that_stands_still_gives_the_turn_up(native, taken):
    async def begin():
        while not waits():
            await asyncio.sleep(0.001)

    waits = fill(native, taken)
    loop = asyncio.new_event_loop()
    task = loop.create_task(native.acquire_async(n=2))
    loop.run_until_complete(begin())
    wait_for(lambda: turn(native) == 0)
    native.release(2)
    assert loop.run_until_complete(asyncio.wait_for(task, 20 * SLOW))
    loop.close()
    empty(native, taken)


@PHASES
def test_closing_leaves_a_wait_for_several_waiting(native, taken):
    other = RobustSemaphore(native.name)
    waits = fill(native, taken)
    with thread(other.acquire, n=2) as got:
        wait_for(waits)
        other.close()
        native.release(2)
    assert got == [True]
    empty(native, taken)


@PHASES
@WAYS
def test_who_waits_for_several_is_told_of_too_few_and_of_unlink(sem, taken, way):
    def wait(error, text):
        with pytest.raises(error, match=text):
            acquire(sem, way)

    is_steady = sem._handle.is_steady
    if not is_steady and (way, taken) == ("task", 2):
        pytest.skip("a loop that polls takes all at once, without the turn")
    waits = fill(sem, taken)
    with thread(wait, ValueError, "n must be .* 1,"):
        wait_for(waits)
        sem.resize(1)
        if not is_steady:
            sem.release(taken)  # without timed waits it looks then
    sem.resize(3)
    if is_steady:
        empty(sem, taken)
    waits = fill(sem, taken)
    with thread(wait, FileNotFoundError, sem.name):
        wait_for(waits)
        sem.unlink()


@PHASES
@pytest.mark.parametrize("child", ["raises", "waits on"])
def test_a_fork_in_a_signal_handler_of_who_waits_for_several(native, taken, child):
    def handler(*_):
        pids.append(os.fork())
        if not pids[-1] and child == "raises":
            raise Struck

    def send():
        interrupt(waits, signal.SIGUSR1)
        wait_for(lambda: pids)
        if child == "raises":
            assert os.waitpid(pids[0], 0)[1] == 0
        wait_for(lambda: native.waiting >= (1 if child == "raises" else 2))
        assert turn(native) == (taken == 2)
        native.release(2)

    pids, waits = [], fill(native, taken)
    with handling(handler, signal.SIGUSR1), thread(send):
        try:
            native.acquire(n=2)
        except Struck:
            os._exit(held(native))
        finally:
            if pids and not pids[0]:
                os._exit(held(native) != 2)
    native.release(held(native))
    if child == "waits on":
        assert os.waitpid(pids[0], 0)[1] == 0


@WAYS
def test_another_thread_releases_the_first_of_several(native, way):
    with beside(lambda: native.acquire(n=2)), thread(acquire, native, way) as got:
        wait_for(lambda: turn(native) == 1 and native.waiting)
        native.release()
        wait_for(lambda: held(native) == 1 and turn(native) == 1)  # it begins anew
        assert not got
        native.resize(4)
        wait_for(lambda: got)
        assert held(native) == 2
        native.release(2)


@PHASES
def test_the_death_of_who_waits_for_several(native, taken):
    def begin():
        threading.Thread(target=native.acquire, kwargs={"n": 2}, daemon=True).start()

    waits = fill(native, taken)
    with beside(begin):
        wait_for(waits)
    empty(native, taken)
