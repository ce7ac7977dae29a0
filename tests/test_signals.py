# SPDX-License-Identifier: Apache-2.0
"""A signal handler that raises costs no token; one that returns lets the wait go on."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time

import pytest
from holders import in_child
from peers import Multiprocessing, Named, NamedCtypes, NamedPolling, Robust
from stress import storm
from support import EXACT, SLOW

from named_semaphores import NamedSemaphore, RobustSemaphore

pytestmark = pytest.mark.unmeasured

# Before CPython 3.11 and on PyPy nothing is promised of what is lost. No token may be gained; but
# PyPy's ctypes calls are Python code, and so may count one twice.
LOST = 0 if EXACT else 1
GAINED = 0 if sys.implementation.name == "cpython" else 0.75

BUSY = [
    *itertools.product((Named, NamedCtypes, Robust), ("with", "body", "nested")),
    *itertools.product((Named, Robust), ("hold",)),
    *itertools.product((Robust,), ("release", "slot")),
]
WAITS = [
    *itertools.product((Named, NamedCtypes, NamedPolling, Robust), ("with",)),
    *itertools.product((Named, Robust), ("timed",)),
    *itertools.product((Robust,), ("first", "rest")),
]


@pytest.fixture
def interrupts(full):
    return 100_000 if full else max(200, 600 // SLOW)


@pytest.mark.parametrize(("peer", "statement"), BUSY)
def test_a_storm_on_with_hold_slot_and_several(interrupts, peer, statement):
    outcome = storm.busy(peer(), interrupts, statement)
    assert outcome["interrupts"] == interrupts
    assert outcome["lost"] <= interrupts * LOST, outcome
    assert outcome["gained"] <= interrupts * GAINED, outcome


@pytest.mark.skipif(SLOW > 1, reason="under qemu 500 signals cost it no token")
@pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="PyPy promises nothing, and whether its compiled loop can be hit is luck",
)
def test_the_storm_would_show_lost_tokens():
    outcome = storm.busy(Multiprocessing(), 500, "with")
    assert outcome["lost"] > 0


@pytest.mark.parametrize(("peer", "statement"), WAITS)
def test_a_storm_on_waits(interrupts, peer, statement):
    count = interrupts // (10 if peer is NamedPolling else 1)
    outcome = storm.waiting(peer(), count, statement)
    assert outcome["interrupts"] == count
    if EXACT:
        assert (outcome["lost"], outcome["gained"]) == (0, 0)


@pytest.mark.parametrize("peer", [Named, Robust])
def test_a_signal_just_before_the_kernel_sleeps_is_noticed(full, peer, monkeypatch):
    monkeypatch.setattr(storm, "PATIENCE", 20.0)  # a busy machine may stand still for some seconds
    outcome = storm.noticed(peer(), *((40_000, 100) if full else (200, 20)))
    assert outcome["hangs"] == 0


@pytest.mark.exact
@pytest.mark.parametrize("cls", [NamedSemaphore, RobustSemaphore])
def test_two_signals_at_once_cost_no_token(name, cls):
    # Both signals reach another thread, just before the token arrives: they do not end this
    # thread's sleep, and it looks at them when it has the token. The second handler's exception
    # comes as early as Python can raise it: while the token goes back because of the first.
    def handler(number, _):
        raise KeyError(number)

    def release():
        waits.wait()
        time.sleep(0.05)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.pthread_kill(threading.get_ident(), number)
        sem.release()

    def child():
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, handler)
        sys.setswitchinterval(100)
        sem.acquire()
        thread = threading.Thread(target=release)
        thread.start()
        try:
            try:
                waits.set()
                sem.acquire(timeout=60)
            except KeyError:
                thread.join()
        except KeyError:
            pass
        thread.join()
        return sem.value

    sem, waits = cls(name, 1), threading.Event()
    assert in_child(child) == "1"
    sem.close()
