# SPDX-License-Identifier: Apache-2.0
"""Entering a with statement in C code, as CPython before 3.11 and PyPy do: here on every interpreter."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading

import pytest
from support import run_python, wait_for

from named_semaphores import NamedSemaphore, _interruptible
from named_semaphores._waits import waits


class Entering(NamedSemaphore):
    __enter__ = _interruptible.__enter__
    _wait = _interruptible._wait
    _wait_endless = _interruptible._wait_endless


def test_it_takes_a_token_and_gives_the_semaphore(name):
    sem = Entering(name, 2)
    with sem as same, sem:
        assert same is sem
        assert sem.value == 0
    assert sem.value == 2
    sem.close()


def test_the_class_has_it_too(name):
    sem = Entering(name, 1)
    with contextlib.ExitStack() as stack:  # which calls type(sem).__enter__(sem)
        assert stack.enter_context(sem) is sem
        assert sem.value == 0
    assert sem.value == 1
    sem.close()


def test_a_closed_one_is_refused_by_either_way(name):
    sem = Entering(name)
    sem.close()
    with pytest.raises(ValueError, match="closed"), sem:
        pass
    with contextlib.ExitStack() as stack, pytest.raises(ValueError, match="closed"):
        stack.enter_context(sem)


def test_closing_in_an_exit_stack_costs_no_token(name):
    sem, link = Entering(name), NamedSemaphore(name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sem)
        sem.close()
    assert link.value == 1
    link.close()


def test_it_waits(name, monkeypatch):
    def enter():
        with sem:
            inside.append(sem.value)

    def noting(*arguments):
        for call in waits(*arguments):
            slices.append(call)
            yield call

    monkeypatch.setattr(_interruptible, "waits", noting)
    slices, inside = [], []
    sem = Entering(name, 0)
    thread = threading.Thread(target=enter)
    thread.start()
    wait_for(lambda: len(slices) > 1)  # it was not there in the first second either
    sem.release()
    thread.join()
    assert inside == [0]
    assert sem.value == 1
    sem.close()


@pytest.mark.parametrize("taken", [False, True])
def test_what_a_handler_raises_leaves_no_token_with_the_caller(name, monkeypatch, taken):
    # In the two places where it can come: while the call waits, or once it has a token.
    class Mine(Exception):
        pass

    def handler(*_):
        raise Mine

    def struck(libc, handle, deadline):
        sem.release()
        yield itertools.chain(libc.trywait(handle), map(handler, (None,)))

    sem = Entering(name, 0)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        if taken:
            monkeypatch.setattr(_interruptible, "waits", struck)
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Mine), sem:
            pytest.fail("it entered")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sem.value == (1 if taken else 0)
    sem.close()


@pytest.mark.parametrize("timeout", [None, 60])
def test_acquire_waits_so_too(name, timeout):
    def wait():
        got.append(sem.acquire(timeout=timeout))

    got = []
    sem = Entering(name, 0)
    thread = threading.Thread(target=wait)
    thread.start()
    sem.release()
    thread.join()
    assert got == [True]
    assert not sem.acquire(timeout=0.01)
    sem.close()


def test_old_interpreters_get_it():
    code = """
import sys
sys.version_info = (3, 10, 0, "final", 0)
import named_semaphores
from named_semaphores import _interruptible
for what in ("__enter__", "_wait", "_wait_endless"):
    assert named_semaphores.NamedSemaphore.__dict__[what] is getattr(_interruptible, what)
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")
