# SPDX-License-Identifier: Apache-2.0
"""What the classes have in common and a contract does not show: how they wait, and how old interpreters enter a with statement."""

from __future__ import annotations

import contextlib
import errno
import itertools
import sys

import kinds
import pytest
from kinds import tokens
from support import Struck, forget_copy, import_copy, strike, thread, wait_for

from named_semaphores import NamedSemaphore, _base

KINDS = [profile for profile in kinds.NATIVE if profile in kinds.POSIX]


@pytest.fixture
def sem(kind, name):
    sem = kind.cls(name, 0)
    yield sem
    sem.close()


# --- waiting --------------------------------------------------------------------------------------------------------------------------


class Timeless:
    """A handle on which nothing happens; the calls are noted with how long they may take, and take that long on the clock of the test."""

    def __init__(self, monkeypatch, is_steady=True):
        self.is_steady, self.now, self.notes = is_steady, 0, []
        self.tries, self.first_waits = iter(()), iter(())
        monkeypatch.setattr(_base, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr(_base, "sleep", lambda seconds: self.take(round(seconds * 1e9)))

    def take(self, nanoseconds):
        self.notes.append(nanoseconds)
        self.now += nanoseconds

    def wait(self, nanoseconds):
        return self.take(nanoseconds)

    def wait_until(self, deadline):
        return self.take(deadline - self.now)

    def try_once(self):
        self.notes.append("try")


def test_an_endless_waits_slices_are_short_at_first(monkeypatch):
    handle = Timeless(monkeypatch)
    for _ in itertools.islice(_base._calls(handle, None), 5):
        pass
    assert handle.notes == [
        10**8,
        10**9,
        10**9,
        10**9,
        10**9,
    ]  # after a first one of 10 ms, made beforehand


def test_a_handle_without_a_ready_wait_waits_shortly_at_first_too(monkeypatch):
    handle = Timeless(monkeypatch)
    handle.first_waits = handle.tries
    for _ in itertools.islice(_base._calls(handle, None), 3):
        pass
    assert handle.notes == [10**7, 10**8, 10**9]


def test_a_timed_waits_slices_end_at_the_deadline_with_a_last_try(monkeypatch):
    handle = Timeless(monkeypatch)
    for _ in _base._calls(handle, 2_500_000_000):
        pass
    assert handle.notes == [10**7, 10**8, 10**9, 10**9, 390_000_000, "try"]


def test_without_a_steady_wait_it_looks_soon_at_first_and_then_seldom(monkeypatch):
    handle = Timeless(monkeypatch, is_steady=False)
    for _ in _base._calls(handle, 10**9):
        pass
    pauses = handle.notes[:-1:2]
    assert set(handle.notes[1::2]) == {"try"}
    assert pauses[0] == 100_000
    assert max(pauses) == 15_000_000
    assert sum(pauses) == 10**9
    assert len(pauses) < 80


def test_a_deadline_in_the_past_still_tries_once(monkeypatch):
    handle = Timeless(monkeypatch)
    for _ in _base._calls(handle, -1):
        pass
    assert handle.notes == ["try"]


@pytest.mark.parametrize("taken", [False, True])
def test_what_a_handler_raises_leaves_no_token_with_the_caller(sem, monkeypatch, taken):
    # In the two places where it can come: while the call waits, or once it has a token.
    def handler(*_):
        raise Struck

    def struck(handle, deadline):
        sem.release()
        yield itertools.chain(handle.try_once(), map(handler, (None,)))

    if taken:
        monkeypatch.setattr(_base, "_calls", struck)
    for wait in (sem.acquire, sem.__enter__, lambda: sem.acquire(timeout=60)):
        strike(wait, 0 if taken else 0.02)
        assert sem.acquire(False) is taken  # it was put back


def test_what_the_system_refuses_ends_a_wait(sem, monkeypatch):
    def refused(handle, deadline):
        yield iter([(-1, errno.EINTR)])
        yield iter([(-1, errno.EINVAL)])

    monkeypatch.setattr(_base, "_calls", refused)
    for wait in (sem.acquire, sem.__enter__, lambda: sem.acquire(timeout=60)):
        with pytest.raises(OSError, match=sem.name) as raised:
            wait()
        assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize("enter", [False, True], ids=["acquire", "with"])
def test_a_wait_that_was_closed_in_its_first_slice_goes_on_after_it(kind, sem, enter, monkeypatch):
    def noting(*arguments):
        for call in calls(*arguments):
            made.append(call)
            yield call

    def wait():
        if enter:
            with link:
                return True
        return link.acquire()

    made, calls = [], _base._calls
    link = kind.cls(sem.name)
    monkeypatch.setattr(_base, "_calls", noting)
    with thread(wait) as got:
        wait_for(lambda: made)
        link.close()
        count = len(made)
        wait_for(lambda: len(made) > count + 1)
        sem.release()
    assert got == [True]
    assert sem.value == enter


# --- entering in C, as CPython before 3.11 and PyPy do: here on every interpreter -------------------------------------------------------


@pytest.fixture
def old(monkeypatch):
    """NamedSemaphore of a copy of the package that was imported by an old interpreter."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    copy = import_copy("nst_old")
    yield copy.NamedSemaphore
    forget_copy("nst_old")


def test_old_interpreters_enter_in_c(old, name):
    sem = old(name, 2)
    assert type(sem).__enter__.fget is not None
    with sem as same, sem:
        assert same is sem
        assert sem.value == 0
    assert sem.value == 2
    with contextlib.ExitStack() as stack:  # which calls type(sem).__enter__(sem)
        assert stack.enter_context(sem) is sem
        assert sem.value == 1
        sem.close()
    with pytest.raises(ValueError, match="closed"), sem:
        pytest.fail("it entered")
    with contextlib.ExitStack() as stack, pytest.raises(ValueError, match="closed"):
        stack.enter_context(sem)


def test_old_interpreters_wait_and_lose_nothing(old, name):
    def enter():
        with sem as same:
            return same is sem

    def fail():
        with sem:
            pytest.fail("it entered")

    sem = old(name, 0)
    with thread(enter) as got:
        sem.release()
    assert got == [True]
    assert sem.acquire(False)
    strike(fail)
    assert sem.value == 0
    sem.close()


# --- where this differs from threading ------------------------------------------------------------------------------------------------


def test_with_does_not_call_an_overridden_release(name):
    class Counting(NamedSemaphore):
        def release(self, n=1):
            raise AssertionError("called")

    sem = Counting(name)
    with sem:
        assert tokens(sem) == 0
    assert sem.value == 1
    sem.close()


@pytest.mark.parametrize("was_released", [False, True])
def test_an_interrupted_wait_gives_its_token_back(was_released):
    class Handle:
        """Its wait gets a token, and then an exception comes, as a signal handler's does."""

        tries = first_waits = None

        def __init__(self):
            self.given = []
            self.posts = map([].pop, [0]) if was_released else map(self.given.append, ["quickly"])

        def wait(self, _):
            yield 0, 0
            raise KeyError

        def post_once(self):
            self.given.append("otherwise")

    handle = Handle()
    with pytest.raises(KeyError):
        _base.Semaphore()._wait(None, handle)
    assert handle.given == ["otherwise" if was_released else "quickly"]
