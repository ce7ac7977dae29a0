# SPDX-License-Identifier: Apache-2.0
"""A signal handler that raises costs no token; one that returns lets the wait go on."""

from __future__ import annotations

import sys

import pytest
from peers import Naive, Named, NamedCtypes, NamedPolling, Robust
from stress import storm
from support import EXACT, SLOW, run_python

pytestmark = pytest.mark.storm

# Before CPython 3.11 and on PyPy nothing is promised of what is lost. No token may be gained; but
# PyPy's ctypes calls are Python code, and so may count one twice.
LOST = 0 if EXACT else 1
GAINED = 0 if sys.implementation.name == "cpython" else 0.75


@pytest.fixture
def interrupts(full):
    return 100_000 if full else max(200, 1500 // SLOW)


def assert_nothing_lost(outcome, interrupts):
    assert outcome["interrupts"] == interrupts
    assert outcome["lost"] <= interrupts * LOST, outcome
    assert outcome["gained"] <= interrupts * GAINED, outcome


@pytest.mark.parametrize("statement", ["with", "body", "nested"])
@pytest.mark.parametrize("peer", [Named, NamedCtypes, Robust])
def test_a_storm_on_with(interrupts, peer, statement):
    assert_nothing_lost(storm.busy(peer(), interrupts, statement), interrupts)


@pytest.mark.parametrize(
    ("peer", "statement"),
    [(Named, "hold"), (Robust, "hold"), (Robust, "release"), (Robust, "slot")],
)
def test_a_storm_on_hold_slot_and_several(interrupts, peer, statement):
    assert_nothing_lost(storm.busy(peer(), interrupts, statement), interrupts)


@pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="PyPy promises nothing, and whether its compiled loop can be hit is luck",
)
def test_the_storm_would_show_a_naive_class():
    outcome = storm.busy(Naive(), 500, "with")
    assert outcome["lost"] > 0


WAITS = [
    *((peer, "with") for peer in (Named, NamedCtypes, NamedPolling, Robust)),
    (Named, "timed"),
    *((Robust, statement) for statement in ("timed", "first", "rest")),
]


@pytest.mark.parametrize(("peer", "statement"), WAITS)
def test_a_storm_on_waits(interrupts, peer, statement):
    count = interrupts // (10 if peer is NamedPolling else 1)
    outcome = storm.waiting(peer(), count, statement)
    assert outcome["interrupts"] == count
    if EXACT:
        assert (outcome["lost"], outcome["gained"]) == (0, 0)


@pytest.mark.parametrize("peer", [Named, Robust])
def test_a_signal_just_before_the_kernel_sleeps_is_noticed(full, peer):
    outcome = storm.noticed(peer(), *((40_000, 100) if full else (200, 20)))
    assert outcome["hangs"] == 0


@pytest.mark.exact
@pytest.mark.parametrize("name", ["NamedSemaphore", "RobustSemaphore"])
def test_two_signals_at_once_cost_no_token(name):
    # Both signals reach another thread, just before the token arrives: they do not end this
    # thread's sleep, and it looks at them when it has the token. The second handler's exception
    # comes as early as Python can raise it: while the token goes back because of the first.
    code = f"""
import signal, sys, threading, time
import support
from named_semaphores import {name}

def handler(signum, _):
    raise KeyError(signum)

def release():
    while not waits.is_set():
        time.sleep(0.001)
    time.sleep(0.05)
    for signum in (signal.SIGUSR1, signal.SIGUSR2):
        signal.pthread_kill(threading.get_ident(), signum)
    sem.release()

for signum in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(signum, handler)
sys.setswitchinterval(100)
sem, waits = {name}(support.unique_name(), 1), threading.Event()
sem.acquire()
thread = threading.Thread(target=release)
thread.start()
caught = []
try:
    try:
        waits.set()
        sem.acquire(timeout=60)
    except KeyError as error:
        caught.append(error)
        thread.join()
except KeyError as error:
    caught.append(error)
thread.join()
print(len(caught), sem.value)
"""
    done = run_python("import sys; sys.path[:0] = eval(sys.argv[1])" + code, repr(sys.path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "1", done.stdout
