# SPDX-License-Identifier: Apache-2.0
"""In a process that gevent or eventlet has patched, a wait must let the other greenlets run: one of
them may hold the token. A wait in the kernel would never end.
"""

from __future__ import annotations

import importlib.util

import pytest
from programs import IMPORT, assert_well

# What a program does first. Threads are greenlets after each of these.
PATCHES = {
    "gevent": "import gevent; from gevent import monkey; monkey.patch_all()",
    "gevent-threads-only": "import gevent; from gevent import monkey; monkey.patch_thread()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "eventlet-threads-only": "import eventlet; eventlet.monkey_patch(all=False, thread=True)",
}

SETUP = """
import faulthandler, threading, time
faulthandler.dump_traceback_later(50, exit=True)
name = sys.argv[1]
pause = (sys.modules.get("gevent") or sys.modules["eventlet"]).sleep
"""

# A greenlet that holds the tokens ends only if the waiting one lets it run.
WAITS = """
def hold_for_a_while():
    with sem, sem, sem:
        held.append(True)
        pause(0.05)
        while stays:
            pause(0.001)

def while_held(wait):
    held.clear()
    holder = threading.Thread(target=hold_for_a_while)
    holder.start()
    while not held:
        pause(0.001)
    wait()
    stays.clear()
    holder.join()
    assert sem.value == 3, sem

def acquire(**timeout):
    assert sem.acquire(**timeout, **several)
    sem.release(several.get("n", 1))

def acquire_in_time():
    acquire(timeout=20)

def statement():
    with sem:
        pass

def hold():
    for timeout in (None, 20):
        with sem.hold(timeout=timeout, **several):
            assert not several or sem.value == 0, sem

def slot():
    with sem.slot() as number:
        assert number == 0, number

def too_late():
    stays.append(True)
    start = time.monotonic()
    assert not sem.acquire(timeout=0.01, **several)
    assert time.monotonic() - start >= 0.01
    try:
        with sem.hold(timeout=0.01, **several):
            raise AssertionError("entered")
    except TimeoutError:
        pass

def all_at_once():
    threads = [threading.Thread(target=wait) for wait in waits * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

held, stays = [], []
for cls, several in (NamedSemaphore, {}), (RobustSemaphore, {}), (RobustSemaphore, {"n": 3}):
    sem = cls(name, 3)
    waits = [acquire, acquire_in_time, hold, slot if several else statement]
    for wait in (*waits, too_late, all_at_once):
        while_held(wait)
    if cls is RobustSemaphore:
        assert not sem.holders, sem.holders
        assert not sem.waiting, sem.waiting
    sem.close()
"""

# The tasks wait for the thread that runs them.
TASKS = """
import asyncio

async def work(entered):
    async with sem:
        entered.append(True)
        await asyncio.sleep(0.001)

async def main():
    entered = []
    with sem, sem, sem:  # the tasks must wait
        tasks = [asyncio.ensure_future(work(entered)) for _ in range(20)]
        await asyncio.sleep(0.02)
        assert not entered
        assert not await sem.acquire_async(timeout=0.01)
    await asyncio.gather(*tasks)
    assert len(entered) == 20
    async with sem.hold(timeout=20):
        pass

for sem in (NamedSemaphore(name, 3), RobustSemaphore(name, 3)):
    asyncio.run(main())
    assert sem.value == 3, sem
    sem.close()
"""

KILLED = """
def want():
    with sem:
        got.append(True)

got = []
for sem in (NamedSemaphore(name, 3), RobustSemaphore(name, 3)):
    for _ in range(20):
        with sem, sem, sem:
            waiting = gevent.spawn(want)
            pause(0.003)
            waiting.kill()
        assert sem.value == 3, sem
    sem.close()
assert not got

# While it waits for several, in the queue and, with the first of them, for the rest.
sem = RobustSemaphore(name, 3)
for held in 3, 2, 1:
    for delay in 0, 0.001, 0.005:
        sem.acquire(n=held)
        waiting = gevent.spawn(sem.acquire, n=3)
        pause(delay)
        waiting.kill()
        assert sem.acquire(blocking=False) is (held < 3)  # nobody has the turn
        sem.release(min(held + 1, 3))
        assert sem.value == 3, sem
sem.close()
"""


def run_patched(name, *parts):
    assert_well(name, *parts, options=("-W", "ignore::DeprecationWarning"))


@pytest.fixture(params=PATCHES)
def patch(request: pytest.FixtureRequest) -> str:
    """The statement that patches a process."""
    package = request.param.partition("-")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return PATCHES[request.param]


@pytest.mark.parametrize("imported", ["first", "last"])
def test_a_waiting_greenlet_lets_the_holder_run(patch, imported, name):
    begin = [IMPORT, patch] if imported == "first" else [patch, IMPORT]
    run_patched(name, *begin, SETUP, WAITS)


def test_tasks_wait_in_a_patched_process(patch, name):
    run_patched(name, patch, IMPORT, SETUP, TASKS)


def test_a_greenlet_that_is_killed_while_it_waits_has_no_token(name):
    pytest.importorskip("gevent")
    run_patched(name, PATCHES["gevent"], IMPORT, SETUP, KILLED)
