# SPDX-License-Identifier: Apache-2.0
"""How a wait for several tokens ends: no token stays behind, and no turn."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

import pytest
from holders import (
    held,
    holder,
    three,
    turn,
)
from kinds import ROBUST
from support import (
    SLOW,
    Struck,
    thread,
    wait_for,
)

from named_semaphores import (
    RobustSemaphore,
    _several,
)

KINDS = ROBUST

if sys.version_info >= (3, 12):
    pytestmark = pytest.mark.filterwarnings(
        "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"
    )


@pytest.fixture
def sem(kind, name):
    with three(kind.cls, name) as sem:
        yield sem


@pytest.fixture
def native(name):
    """The same on the running system alone."""
    with three(RobustSemaphore, name) as sem:
        yield sem


# --- A wait for several ends early: no token stays behind, and no turn ----------------------------

PHASES = pytest.mark.parametrize("phase", ["the first", "the rest"])


def fill(sem, phase):
    """Take so much that a wait for two is one for the first of them, or for the rest. Return a
    condition: somebody waits like that.
    """
    assert sem.acquire(n=3 if phase == "the first" else 2)
    return lambda: turn(sem) == (phase == "the rest") and (sem.waiting or not sem._handle.is_steady)


def empty(sem, phase, left=0):
    """Assert that nothing was left behind, and give back what ``fill`` took."""
    wait_for(lambda: (turn(sem), sem.waiting) == (0, 0))
    n = (3 if phase == "the first" else 2) - left
    assert held(sem) == n
    sem.release(n)


@PHASES
def test_a_wait_for_several_gets_them_before_newcomers(sem, phase):
    waits = fill(sem, phase)
    with thread(sem.acquire, n=2) as got:
        wait_for(waits)
        if phase == "the rest":
            assert sem.value == 0
            assert not sem.acquire(False)
            assert not sem.acquire(timeout=0.01)
            assert not sem.acquire(timeout=0.01, n=2)
        assert not got
        sem.release(2)
    assert (got, turn(sem)) == ([True], 0)
    sem.release(held(sem))


@PHASES
def test_a_wait_for_several_times_out(sem, phase):
    fill(sem, phase)
    assert not sem.acquire(timeout=0.05, n=2)
    with pytest.raises(TimeoutError), sem.hold(2, timeout=0.05):
        pytest.fail("it entered")
    assert not asyncio.run(sem.acquire_async(0.05, n=2))
    empty(sem, phase)


@pytest.mark.exact
@PHASES
@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGUSR1, signal.SIGUSR2)])
def test_a_signal_handler_ends_a_wait_for_several(native, phase, numbers):
    def handler(number, _):
        raise Struck(number)

    def send():
        wait_for(waits)
        for number in numbers:
            signal.pthread_kill(threading.main_thread().ident, number)

    before = {number: signal.signal(number, handler) for number in numbers}
    waits = fill(native, phase)
    try:
        for wait in (
            lambda: native.acquire(n=2),
            lambda: native.acquire(timeout=60, n=2),
            lambda: native.hold(2).__enter__(),
        ):
            with pytest.raises(Struck), thread(send):
                wait()
            assert turn(native) == 0
        empty(native, phase)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.exact
@PHASES
def test_a_handlers_exception_that_comes_with_the_tokens_gives_them_back(
    native, monkeypatch, phase
):
    def calls(waiter, deadline):
        made.append(waiter)
        if len(made) == (1 if phase == "the first" else 2):
            native.release()
            yield struck(waiter.try_once())  # which succeeds
        yield from real(waiter, deadline)

    def struck(call):
        yield from call
        raise Struck

    made, real = [], _several.waits
    fill(native, phase)
    monkeypatch.setattr(_several, "waits", calls)
    with pytest.raises(Struck):
        native.acquire(timeout=60, n=2)
    empty(native, phase, left=1)


@PHASES
def test_a_cancelled_task_that_waits_for_several(native, phase):
    async def main():
        tasks = [asyncio.ensure_future(native.acquire_async(n=2)) for _ in range(3)]
        while not waits():
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    waits = fill(native, phase)
    asyncio.run(main())
    empty(native, phase)


@PHASES
def test_a_loop_that_stands_still_gives_the_turn_up(native, phase):
    waits = fill(native, phase)
    loop = asyncio.new_event_loop()
    task = loop.create_task(native.acquire_async(n=2))

    async def begin():
        while not waits():
            await asyncio.sleep(0.001)

    loop.run_until_complete(begin())
    wait_for(lambda: turn(native) == 0)
    native.release(2)
    assert loop.run_until_complete(asyncio.wait_for(task, 20 * SLOW))
    loop.close()
    wait_for(lambda: native.waiting == 0)
    assert turn(native) == 0
    native.release(held(native))


@PHASES
def test_closing_leaves_a_wait_for_several_waiting(native, phase):
    other = RobustSemaphore(native.name)
    waits = fill(native, phase)
    with thread(other.acquire, n=2) as got:
        wait_for(waits)
        other.close()
        native.release(2)
    assert (got, turn(native)) == ([True], 0)
    native.release(held(native))


@PHASES
@pytest.mark.parametrize("way", ["thread", "task"])
def test_who_waits_for_several_is_told_of_unlink_and_of_too_few(sem, phase, way):
    def wait():
        try:
            if way == "thread":
                sem.acquire(n=2)
            else:
                asyncio.run(sem.acquire_async(n=2))
        except Exception as error:
            return error
        return None

    if not sem._handle.is_steady and (way, phase) == ("task", "the rest"):
        pytest.skip("a loop that polls takes all at once, without the turn")
    waits = fill(sem, phase)
    with thread(wait) as resized:
        wait_for(waits)
        sem.resize(1)
        sem.release(3 if phase == "the first" else 2)  # without timed waits it looks then
    assert isinstance(resized[0], ValueError)
    assert "n must be" in str(resized[0])
    wait_for(lambda: (turn(sem), sem.waiting) == (0, 0))
    sem.resize(3)
    waits = fill(sem, phase)
    with thread(wait) as unlinked:
        wait_for(waits)
        sem.unlink()
    assert isinstance(unlinked[0], FileNotFoundError)
    assert unlinked[0].filename == sem.name


@PHASES
@pytest.mark.parametrize("way", ["thread", "task"])
def test_a_resize_below_what_is_waited_for_is_told_at_once(native, phase, way):
    def wait():
        with pytest.raises(ValueError, match="n must be at most 1"):
            if way == "thread":
                native.acquire(n=2)
            else:
                asyncio.run(native.acquire_async(n=2))

    waits = fill(native, phase)
    with thread(wait):
        wait_for(waits)
        native.resize(1)
    native.resize(3)
    empty(native, phase)


@PHASES
@pytest.mark.parametrize("child", ["raises", "waits on"])
def test_a_fork_in_a_signal_handler_of_who_waits_for_several(native, phase, child):
    def handler(*_):
        pids.append(os.fork())
        if not pids[-1] and child == "raises":
            raise Struck

    def send():
        wait_for(waits)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        wait_for(lambda: pids)
        if child == "raises":
            assert os.waitpid(pids[0], 0)[1] == 0
        wait_for(lambda: native.waiting >= (1 if child == "raises" else 2))
        assert turn(native) == (phase == "the rest")
        native.release(2)

    pids, before = [], signal.signal(signal.SIGUSR1, handler)
    waits = fill(native, phase)
    try:
        with thread(send):
            try:
                native.acquire(n=2)
            except Struck:
                os._exit(held(native))
            finally:
                if pids and not pids[0]:
                    os._exit(held(native) != 2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    native.release(held(native))
    if child == "waits on":
        assert os.waitpid(pids[0], 0)[1] == 0


@pytest.mark.parametrize("way", ["thread", "task"])
def test_another_thread_releases_the_first_of_several(native, way):
    with holder(native.name, "sem.acquire(n=2)"):
        call = (
            native.acquire if way == "thread" else lambda n: asyncio.run(native.acquire_async(n=n))
        )
        with thread(call, n=2) as got:
            wait_for(lambda: turn(native) == 1 and native.waiting)
            native.release()
            wait_for(lambda: held(native) == 1 and turn(native) == 1)  # it begins anew
            assert not got
            native.resize(4)
        assert (got, held(native)) == ([True], 2)
        native.release(2)


def test_a_handlers_exception_between_token_and_number_gives_the_token_back(native, monkeypatch):
    def struck(slot):
        raise Struck

    monkeypatch.setattr("named_semaphores._slot.Slot._take_number", struck)
    with pytest.raises(Struck), native.slot():
        pytest.fail("it entered")


@PHASES
@pytest.mark.parametrize("end", ["SIGKILL", "exec"])
def test_the_death_of_who_waits_for_several(native, phase, end):
    waits = fill(native, phase)
    code = "threading.Thread(target=sem.acquire, kwargs={'n': 2}, daemon=True).start()"
    if end == "exec":
        code += "\nprint('ready', flush=True); input()\nos.execv('/bin/sh', ['sh', '-c', 'exit 3'])"
    with holder(native.name, code) as process:
        wait_for(waits)
        if end == "exec":
            process.stdin.write("\n")
            process.stdin.flush()
        else:
            process.kill()
        process.wait()
        empty(native, phase)
