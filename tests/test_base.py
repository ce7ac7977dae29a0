# SPDX-License-Identifier: Apache-2.0
"""How waits are made of calls, whatever the class."""

from __future__ import annotations

import itertools
import sys
import threading
import time
import types

import kinds
import pytest
from support import Struck, run_python

from named_semaphores import _base, _common

KINDS = [profile for profile in kinds.NATIVE if profile in kinds.POSIX]


class Timeless:
    """A handle on which nothing happens. Its calls are noted with how long they may take, and take
    that long on the clock of the test.
    """

    slices = (10**7, 10**8, 10**9)

    def __init__(self, monkeypatch, is_steady=True):
        self.is_steady, self.now, self.notes = is_steady, 0, []
        monkeypatch.setattr(_common, "clock", lambda: self.now)
        monkeypatch.setattr(_common.time, "sleep", lambda seconds: self.take(round(seconds * 1e9)))

    def take(self, nanoseconds):
        self.notes.append(nanoseconds)
        self.now += nanoseconds

    def wait(self, nanoseconds):
        return self.take(nanoseconds)

    def try_once(self):
        self.notes.append("try")


@pytest.mark.parametrize(
    ("deadline", "notes"),
    [
        (None, [10**7, 10**8, 10**9, 10**9, 10**9, 10**9]),
        (2_500_000_000, [10**7, 10**8, 10**9, 10**9, 390_000_000, "try"]),
        (-1, ["try"]),  # in the past
    ],
)
def test_slices_are_short_at_first_and_end_at_the_deadline_with_a_try(monkeypatch, deadline, notes):
    handle = Timeless(monkeypatch)
    for _ in itertools.islice(_common.waits(handle, deadline), 6):
        pass
    assert handle.notes == notes


def test_without_a_steady_wait_it_looks_soon_at_first_and_then_seldom(monkeypatch):
    handle = Timeless(monkeypatch, is_steady=False)
    for _ in _common.waits(handle, 10**9):
        pass
    pauses = handle.notes[:-1:2]
    assert set(handle.notes[1::2]) == {"try"}
    assert (pauses[0], max(pauses), sum(pauses)) == (100_000, 15_000_000, 10**9)
    assert len(pauses) < 80


def test_what_a_handler_raises_once_the_call_has_a_token_leaves_none_with_the_caller(
    kind, name, monkeypatch
):
    def handler(*_):
        raise Struck

    def struck(handle, deadline):
        sem.release()
        yield itertools.chain(handle.try_once(), map(handler, (None,)))

    sem = kind.cls(name, 0)
    monkeypatch.setattr(_base, "waits", struck)
    for wait in (sem.acquire, sem.__enter__, lambda: sem.acquire(timeout=60)):
        with pytest.raises(Struck):
            wait()
        assert sem.acquire(False)  # it was put back
    sem.close()


# A package that looks like gevent: its sleep runs the others, of which one releases.
GREEN = """
import asyncio, sys, threading, time, types
import named_semaphores
sem = getattr(named_semaphores, sys.argv[1])(sys.argv[2], 1)
slept = []
def sleep(seconds=0):
    slept.append(seconds)
    if len(slept) == 3:
        sem.release()
sleep.__module__ = "gevent.hub"
sys.modules["gevent"] = green = types.ModuleType("gevent")
green.sleep = time.sleep = sleep
def wait(acquire):
    slept.clear()
    assert acquire()
    print(len(slept), max(slept) < 0.02)
sem.acquire()
wait(sem.acquire)
wait(lambda: sem.acquire(timeout=60))
wait(lambda: sem.__enter__())
wait(lambda: sem.hold(timeout=60).__enter__())
wait(lambda: sem.acquire(timeout=float("inf")))
sem.release()
async def main():  # the loop itself polls
    await sem.acquire_async()
    asyncio.get_running_loop().call_later(0.02, sem.release)
    threads = threading.active_count()
    assert await asyncio.wait_for(sem.acquire_async(), 60)
    assert threading.active_count() == threads
    sem.release()
asyncio.run(main())
"""


@pytest.mark.parametrize("package", ["gevent", "eventlet"])
def test_a_patched_process_is_one_whose_sleep_or_lock_is_a_greenlets(monkeypatch, package):
    green = types.ModuleType(package)
    green.sleep = lambda seconds: None
    green.sleep.__module__ = f"{package}.hub"
    monkeypatch.setitem(sys.modules, package, green)
    assert _common.patched_sleep() is None  # it has patched nothing
    for module, replaced in ((time, "sleep"), (threading, "Lock")):
        with monkeypatch.context() as patch:
            patch.setattr(module, replaced, green.sleep)
            found = _common.patched_sleep()
        assert found is green.sleep


@pytest.mark.parametrize("cls", ["NamedSemaphore", "RobustSemaphore"])
def test_in_a_patched_process_a_wait_sleeps_as_greenlets_do(name, cls):
    done = run_python(GREEN, cls, name)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {"3 True"}
