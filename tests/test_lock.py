# SPDX-License-Identifier: Apache-2.0
"""The package's own lock, in with statements."""

from __future__ import annotations

import signal
import threading
import time
from types import BuiltinMethodType, SimpleNamespace

import pytest
from support import thread

from named_semaphores import _lock
from named_semaphores._lock import new_lock


class Interrupt(Exception):
    pass


def is_free(lock):
    got = []
    other = threading.Thread(
        target=lambda: got.append(lock.acquire(False)) or (got[0] and lock.release())
    )
    other.start()
    other.join()
    return got[0]


@pytest.fixture(params=[(3, 13), (3, 14)], ids="CPython {0[0]}.{0[1]}".format)
def lock(request, monkeypatch):
    """A lock as new_lock() makes it on either Python, whichever this one is."""
    monkeypatch.setattr(_lock, "sys", SimpleNamespace(version_info=request.param))
    return new_lock()


def test_one_thread_has_it_at_a_time_and_may_take_it_again(lock):
    inside, most = [], []

    def count():
        for _ in range(1000):
            with lock, lock:
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    with thread(count), thread(count):
        pass
    assert max(most) == 1
    assert is_free(lock)


def test_acquire_and_release_are_c_code(lock):
    # A hook of a fork in C looks at no signal.
    assert isinstance(lock.acquire, BuiltinMethodType)
    assert isinstance(lock.release, BuiltinMethodType)
    lock.acquire()
    assert not is_free(lock)
    lock.release()
    assert is_free(lock)


def test_an_exception_in_the_block_frees_it(lock):
    with pytest.raises(ZeroDivisionError), lock:
        assert not is_free(lock)
        raise ZeroDivisionError
    assert is_free(lock)


@pytest.mark.exact
def test_a_storm_of_signals_never_leaves_it_locked():
    def interrupt(*_):
        raise Interrupt

    def use(lock):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with lock:
                pass

    lock = new_lock()
    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        for n in range(500):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + n % 50 * 1e-6)
                use(lock)
            except Interrupt:
                pass
            assert is_free(lock)
    finally:
        signal.signal(signal.SIGALRM, former)
