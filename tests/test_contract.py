# SPDX-License-Identifier: Apache-2.0
"""What every class of the package does, on platform profiles.

``kinds.py`` says where they differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import itertools
import math
import multiprocessing
import pickle
import sys
import threading
import time
import weakref
from decimal import Decimal
from fractions import Fraction

import pytest
from holders import in_child
from kinds import NATIVE, POSIX, ROBUST, exists, tokens
from support import SLOW, alarm, collect, elapsed, in_threads, strike, thread, wait_for

from named_semaphores import NamedSemaphore

KINDS = [*POSIX, *ROBUST]
# They differ from others only in what test_core.py and test_libc.py try. Here they run with --full,
# or by name.
SIMILAR = "musl glibc32 openbsd dragonfly".split()
Flags = NamedSemaphore.Flags


@pytest.fixture
def sem(kind, name):
    """A new semaphore with two tokens; its name goes with it."""
    sem = kind.cls(name, 2, Flags.RAISE_IF_EXISTS)
    yield sem
    kind.discard(sem)


@pytest.fixture
def empty(sem):
    """A semaphore whose two tokens this object has taken, so that it may release them."""
    assert sem.acquire(False)
    assert sem.acquire(False)
    return sem


def link_to(sem):
    return type(sem)(sem.name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)


# --- Creating and linking -------------------------------------------------------------------------


def test_a_missing_semaphore_is_created(kind, name):
    for given in ((), (3, Flags.RAISE_IF_EXISTS), (3, Flags.UNLINK_AND_CREATE)):
        sem = kind.cls(name, *given)
        assert not sem.linked_existing_semaphore
        assert tokens(sem) == (given[0] if given else 1)
        sem.close()
        assert not kind.exists(name)


def test_an_existing_semaphore_is_linked_and_keeps_its_tokens(kind, sem):
    for link in (kind.cls(sem.name), link_to(sem)):
        assert (link.linked_existing_semaphore, sem.linked_existing_semaphore) == (True, False)
        assert len({sem, link}) == 2
        assert weakref.ref(link)() is link
        assert link.acquire()
        assert tokens(sem) == 1
        link.release()
        link.close()
        assert not sem.closed
        assert tokens(sem) == 2


def test_raise_if_not_exists_creates_nothing(kind, name):
    with pytest.raises(FileNotFoundError, match="semaphore of this name") as raised:
        kind.cls(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
    assert raised.value.filename == name
    assert not kind.exists(name)


def test_raise_if_exists_leaves_an_existing_semaphore(kind, sem):
    with pytest.raises(FileExistsError) as raised:
        kind.cls(sem.name, 1, Flags.RAISE_IF_EXISTS)
    assert raised.value.filename == sem.name
    collect()
    assert kind.exists(sem.name)
    assert tokens(sem) == 2


def test_unlink_and_create_makes_a_new_semaphore(kind, sem):
    new = kind.cls(sem.name, 5, Flags.UNLINK_AND_CREATE)
    assert not new.linked_existing_semaphore
    link = link_to(new)
    assert new.acquire(False)
    assert tokens(link) == 4
    new.release()
    link.close()
    new.close()


def test_names_have_letters_of_all_scripts_digits_three_signs_and_perhaps_a_slash(kind, name):
    sem = kind.cls(f"{name}_-.ñ7")
    assert sem.name == f"{name}_-.ñ7"
    link = kind.cls(sem.name[1:], handle_existence=Flags.RAISE_IF_NOT_EXISTS)
    assert link.name == sem.name
    link.close()
    sem.close()


# --- Taking and giving tokens ---------------------------------------------------------------------


def test_value_is_the_number_of_free_tokens(kind, sem):
    if not kind.tells_value:
        with pytest.raises(NotImplementedError, match=f"'{sem.name}'.*darwin.*value"):
            _ = sem.value
        return
    assert sem.value == 2
    assert sem.acquire() is True
    assert sem.value == 1
    assert sem.release() is None
    assert sem.value == 2


def test_acquire_without_waiting(sem):
    assert sem.acquire(False) is True
    assert sem.acquire(blocking=False) is True
    result, seconds = elapsed(sem.acquire, False)
    assert result is False
    assert seconds < 20 * SLOW
    sem.release(2)


def enter(manager):
    with manager:
        return True


WAITS = {
    **{str(t): lambda sem, t=t: sem.acquire(timeout=t) for t in (None, 60, math.inf)},
    "a huge int": lambda sem: sem.acquire(timeout=10**400),
    "with": enter,
    "hold": lambda sem: enter(sem.hold()),
}


def test_a_wait_of_several_slices_gets_its_token(empty, monkeypatch):
    monkeypatch.setattr(type(empty._handle), "slices", (1_000_000, 2_000_000))
    for way, wait in WAITS.items():
        with thread(elapsed, wait, empty) as results:
            time.sleep(0.005)
            assert not results
            empty.release()
        result, seconds = results[0]
        assert result is True
        assert seconds < 10 * SLOW
        assert empty.acquire(False) is (way in ("with", "hold"))


def test_a_timeout_is_never_early_and_takes_nothing(empty):
    class Narrow(float):
        def __mul__(self, other):  # numpy's float16 wraps
            return 0.0

    for timeout in (0, 1e-9, 0.001, Fraction(1, 200), Decimal("0.005"), Narrow(0.01), False):
        result, seconds = elapsed(empty.acquire, timeout=timeout)
        assert result is False
        assert timeout <= seconds < timeout + 20 * SLOW
    empty.release()
    assert tokens(empty) == 1


LONGEST = [math.inf, sys.float_info.max, 10**400, 2**63, 2**62 / 1e9]


def test_a_free_token_is_taken_whatever_the_timeout(sem):
    for timeout in [0, 1, 0.5, 1e-9, Fraction(1, 3), Decimal(1), *LONGEST]:
        assert sem.acquire(timeout=timeout) is True
        assert sem.acquire(True, timeout) is True
        assert tokens(sem) == 0
        sem.release(2)


def test_no_sleep_is_longer_than_the_readme_says_for_late_signals(sem):
    longest = max(sem._handle.slices)
    assert longest <= (60 if sem._handle.is_robust else 1) * 1_000_000_000


def test_release_puts_n_tokens_back_and_wakes_n_waiters(kind, name):
    class Three:  # as numpy's integers are
        def __index__(self):
            return 3

    sem = kind.cls(name, Three())
    for _ in range(3):
        assert sem.acquire(False)
    with contextlib.ExitStack() as stack:
        results = [stack.enter_context(thread(sem.acquire, timeout=60)) for _ in range(3)]
        sem.release(2)
        wait_for(lambda: sum(map(len, results)) == 2)
        sem.release()
    assert results == [[True]] * 3
    sem.release(n=Three())
    assert tokens(sem) == 3
    sem.close()


# --- Blocks ---------------------------------------------------------------------------------------


def in_with(context, work):
    with context as entered:
        work(entered)


def in_exit_stack(context, work):
    # It looks __exit__ up on the class, when it unwinds.
    with contextlib.ExitStack() as stack:
        work(stack.enter_context(context))


def in_async_with(context, work):
    async def main():
        async with context as entered:
            work(entered)

    asyncio.run(main())


class Overriding:
    """With statements call neither of them."""

    def acquire(self, blocking=True, timeout=None):
        raise AssertionError("called")

    release = acquire


class Noting:
    """Has its own enter and exit."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.notes = []

    def __enter__(self):
        self.notes.append("in")
        return super().__enter__()

    def __exit__(self, *exception):
        self.notes.append(exception[0])
        return super().__exit__(*exception)


class Patient:
    """Enters in its own way, and leaves as usual."""

    def __enter__(self):
        assert self.acquire(timeout=60)
        return self

    async def __aenter__(self):
        assert await self.acquire_async(timeout=60)
        return self


@pytest.mark.parametrize("way", [in_with, in_exit_stack, in_async_with])
@pytest.mark.parametrize("is_hold", [False, True])
def test_a_block_holds_a_token_and_puts_it_back(sem, way, is_hold):
    def block(work):
        way(link.hold() if is_hold else link, work)

    def look(entered):
        assert entered is link
        assert tokens(sem) == 1

    def look_and_fail(entered):
        look(entered)
        raise KeyError("x")

    def look_and_close(entered):
        entered.close()
        look(entered)

    for mixin in (Overriding, Noting, Patient):
        link = type(mixin.__name__, (mixin, type(sem)), {})(sem.name)
        block(look)
        with pytest.raises(KeyError, match="x"):
            block(look_and_fail)
        assert tokens(sem) == 2
        if mixin is Noting and not is_hold and way is not in_async_with:
            assert link.notes == ["in", None, "in", KeyError]
        block(look_and_close)
        assert tokens(sem) == 2
        with pytest.raises(ValueError, match=f"'{sem.name}' is closed"):
            block(pytest.fail)


def test_hold_is_a_with_statement_with_a_timeout(sem):
    async def wait():
        async with hold:
            pytest.fail("it entered")

    hold = sem.hold(timeout=0.01)
    for _ in range(2):
        with hold:
            assert tokens(sem) == 1
    with sem, sem:
        for way in (lambda: enter(hold), lambda: asyncio.run(wait())):
            with pytest.raises(TimeoutError) as raised:
                way()
            text = f"semaphore {sem.name!r}: no token was free within 0.01 seconds"
            assert str(raised.value).startswith(text)
    wait_for(lambda: tokens(sem) == 2)


# --- Closing --------------------------------------------------------------------------------------


def test_close_can_be_seen_and_may_be_repeated(kind, name):
    sem = kind.cls(name)
    assert sem.closed is False
    for _ in range(3):
        assert sem.close() is None
        assert sem.closed is True
    assert (sem.name, sem.linked_existing_semaphore) == (name, False)


USES = [
    lambda sem: sem.acquire(),
    lambda sem: sem.acquire(False),
    lambda sem: sem.acquire(timeout=1),
    lambda sem: sem.release(),
    lambda sem: sem.release(2),
    lambda sem: sem.value,
    lambda sem: sem.unlink(),
    lambda sem: sem.__enter__(),
    lambda sem: type(sem).__enter__(sem),
    lambda sem: sem.hold(),
    lambda sem: asyncio.run(sem.acquire_async()),
    lambda sem: asyncio.run(sem.__aenter__()),
    lambda sem: pickle.dumps(sem),
    lambda sem: copy.copy(sem),
]


def test_use_after_close(sem):
    link = link_to(sem)
    link.close()
    for use in USES:
        with pytest.raises(ValueError) as raised:
            use(link)
        assert str(raised.value) == f"semaphore {sem.name!r} is closed"


def test_an_object_that_no_constructor_has_made_is_closed(kind):
    sem = kind.cls.__new__(kind.cls)
    assert (sem.closed, sem.name) == (True, "")
    assert (sem.linked_existing_semaphore, sem.unlink_on_delete) == (False, False)
    assert repr(sem) == f"<{kind.cls.__name__} None closed>"
    for use in (lambda: sem.value, sem.unlink):
        with pytest.raises(ValueError, match="closed"):
            use()
    sem.close()


def test_close_leaves_waiting_threads_waiting(empty, monkeypatch):
    def acquire(timeout):
        with contextlib.suppress(ValueError):  # closed before this thread has begun to wait
            return link.acquire(timeout=timeout)

    monkeypatch.setattr(type(empty._handle), "slices", (1_000_000, 2_000_000))
    link = link_to(empty)
    with thread(acquire, None) as endless, thread(acquire, 60) as timed:
        time.sleep(0.01)  # there is no telling that they wait; too short a time only tests less
        link.close()
        time.sleep(0.01)
        assert True not in endless + timed
        empty.release(2)
    assert (endless + timed).count(True) + tokens(empty) == 2


def test_many_threads_close_at_once(kind, name):
    sem, barrier = kind.cls(name), threading.Barrier(8)

    def close():
        barrier.wait()
        sem.close()

    in_threads(8, close)
    assert not kind.exists(name)


# --- Clean-up -------------------------------------------------------------------------------------


def test_deletion_does_what_close_does(kind, name):
    for is_cycle in (False, True):
        sem = kind.cls(name)
        if is_cycle:
            sem.itself = sem
        del sem
        collect()
        assert not kind.exists(name)


def test_a_with_statement_whose_object_was_deleted_keeps_name_and_token(kind, name):
    for make in (kind.cls, lambda *given: kind.cls(*given).hold()):
        with make(name, 3):
            collect()
            link = kind.cls(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
            assert tokens(link) == 2
        assert tokens(link) == 3
        link.close()
        del link
        collect()
        assert not kind.exists(name)


def test_a_subclass_whose_constructor_fails_leaves_no_name(kind, name):
    class Failing(kind.cls):
        def __init__(self):
            super().__init__(name)
            raise KeyError

    with pytest.raises(KeyError):
        Failing()
    collect()
    assert not kind.exists(name)


def test_finalizers_in_a_cycle_may_still_use_it(sem):
    # The collector runs them in no order.
    class Holder:
        def __init__(self, held):
            self.held, self.itself = held, self
            held.acquire()

        def __del__(self):
            self.held.release()

    def hold(held):
        with held:
            yield

    def make():
        Holder(link_to(sem))
        generator = hold(link_to(sem))
        next(generator)
        cycle = [generator]
        cycle.append(cycle)

    for _ in range(10):
        make()
        collect()
        wait_for(lambda: collect() and tokens(sem) == 2)


def test_unlink_frees_the_name(kind, name):
    sem = kind.cls(name)
    link = link_to(sem)
    assert link.unlink() is None
    assert not kind.exists(name)
    with pytest.raises(FileNotFoundError) as raised:
        sem.unlink()
    assert raised.value.filename == name
    assert not sem.closed
    new = kind.cls(name, 3, Flags.RAISE_IF_EXISTS)
    assert tokens(new) == 3
    for each in (link, new, sem):
        each.close()
    assert not kind.exists(name)


# --- The object -----------------------------------------------------------------------------------


def test_repr_shows_name_and_value(kind, sem):
    value = 2 if kind.tells_value else "unknown"
    assert repr(sem) == f"<{kind.cls.__name__} '{sem.name}' value={value}>"
    link = link_to(sem)
    link.close()
    assert repr(link) == f"<{kind.cls.__name__} '{sem.name}' closed>"


# --- Copies and other processes -------------------------------------------------------------------


def test_a_copy_is_a_link_that_never_unlinks_the_name(kind, name):
    ways = [copy.copy, copy.deepcopy]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        ways.append(lambda sem, p=protocol: pickle.loads(pickle.dumps(sem, p)))
    sem = kind.cls(name, 2, unlink_on_delete=True)
    for way in ways:
        link = way(sem)
        again = way(link)
        assert type(again) is kind.cls
        assert (again.name, again.linked_existing_semaphore) == (name, True)
        assert (sem.unlink_on_delete, link.unlink_on_delete) == (True, False)
        with link, again:
            assert tokens(sem) == 0
        link.close()
        again.close()
        assert kind.exists(name)
    sem.close()
    assert not kind.exists(name)


def test_copies_of_a_subclass_keep_its_attributes(sem):
    link = type("Mine", (type(sem),), {})(sem.name)
    link.notes = ["mine"]
    copies = copy.copy(link), copy.deepcopy(link)
    link.close()
    for each in copies:
        assert type(each) is type(link)
        assert each.notes == ["mine"]
        with each:
            assert tokens(sem) == 1
        each.close()


def test_a_pickled_semaphore_needs_its_name_to_be_there(kind, name):
    sem = kind.cls(name)
    pickled = pickle.dumps(sem)
    sem.close()
    assert not kind.exists(name)
    with pytest.raises(FileNotFoundError) as raised:
        pickle.loads(pickled)
    assert raised.value.filename == name
    assert not kind.exists(name)


def enter_and_send_back(sems):
    for sem in sems:
        with sem:
            assert tokens(sem) == 1
    return sems


@pytest.mark.parametrize("kind", ["robust-native"], indirect=True)
def test_a_child_gets_it_and_sends_it_back(kind, sem, name):
    sems = [sem, NamedSemaphore(name, 2)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:  # PyPy 3.9's ProcessPoolExecutor cannot spawn
        received = pool.apply_async(enter_and_send_back, (sems,)).get(60 * SLOW)
    for sent, back in zip(sems, received):
        assert type(back) is type(sent)
        assert (back.linked_existing_semaphore, back.unlink_on_delete) == (True, False)
        with back:
            assert tokens(sent) == 1
        back.close()
        assert exists(name, type(sent))
    sems[1].close()


def test_a_forked_child_uses_the_semaphore_and_leaves_the_name(kind, sem):
    def child():
        with sem:
            assert tokens(sem) == 1
        assert tokens(sem) == 2
        sem.close()
        del inherited[:]
        collect()

    inherited = [kind.cls(f"{sem.name}.x")]
    assert in_child(child) == "None"
    assert kind.exists(sem.name)
    assert kind.exists(inherited[0].name)
    assert tokens(sem) == 2
    inherited[0].close()


# --- What is refused names the semaphore and the value at fault, and changes nothing --------------


class NotANumber:
    def __repr__(self):
        return "<no number>"


NO_INTS = [1.5, "1", b"1", math.inf, Decimal(2), NotANumber()]
NO_TIMEOUTS = [-1, -1e-9, -math.inf, math.nan, "1", "", b"", [], 1j, NotANumber()]
NO_TIMEOUTS += [Decimal("nan"), Decimal("snan"), -(10**400)]
NO_BOOLS = [0, 1, None, "yes", 0.5, []]
TIMEOUT = "timeout must be a number of seconds from 0, or None, not {!r}"
NUMBER = "n must be an int from 1 to"
ALL, ROBUST = ["native", "robust-native"], ["robust-native"]  # the same on every platform


def new(sem, *arguments, **keywords):
    return type(sem)(f"{sem.name}.new", *arguments, **keywords)


REFUSED = [
    (ALL, "initial_value must be an int from", [-1, 2**32, 2**64, *NO_INTS], new),
    (
        ALL,
        "handle_existence must be a member of Flags, not {!r}",
        [1, "LINK_OR_CREATE", None, Flags],
        lambda sem, bad: new(sem, 1, bad),
    ),
    (ALL, "mode must be an int", [-1, 0o1000, None, *NO_INTS], lambda s, bad: new(s, mode=bad)),
    (ALL, "did you mean 0o660?", [660], lambda sem, bad: new(sem, mode=bad)),
    (ALL, TIMEOUT, NO_TIMEOUTS, lambda sem, bad: sem.acquire(True, bad)),
    (ALL, TIMEOUT, NO_TIMEOUTS, lambda sem, bad: sem.hold(timeout=bad)),
    (ALL, TIMEOUT, NO_TIMEOUTS, lambda sem, bad: asyncio.run(sem.acquire_async(bad))),
    (
        ALL,
        "can't specify a timeout ({!r}) for a non-blocking acquire",
        [0, 1, 0.5, math.inf, *NO_TIMEOUTS],
        lambda sem, bad: sem.acquire(False, bad),
    ),
    (ALL, "blocking must be True or False, not {!r}", NO_BOOLS, lambda sem, bad: sem.acquire(bad)),
    (ALL, "blocking must be True or False", NO_BOOLS, lambda sem, bad: sem.acquire(bad, 1)),
    (ALL, "; for seconds, say timeout=", [5, 0.5], lambda sem, bad: sem.acquire(bad)),
    (ALL, "n must be an int ", [0, -1, False, None, *NO_INTS], lambda sem, bad: sem.release(bad)),
    (ALL, NUMBER, [0, -1, 3, None, *NO_INTS], lambda sem, bad: sem.hold(bad)),
    (ROBUST, f"{NUMBER} 2,", [0, -1, 3, None, *NO_INTS], lambda sem, bad: sem.acquire(n=bad)),
    (ROBUST, f"{NUMBER} 2,", [3], lambda sem, bad: sem.acquire(False, n=bad)),
    (ROBUST, NUMBER, [0, 3, *NO_INTS], lambda sem, bad: asyncio.run(sem.acquire_async(n=bad))),
    (ROBUST, TIMEOUT, NO_TIMEOUTS, lambda sem, bad: sem.acquire(True, bad, n=2)),
    (ROBUST, TIMEOUT, NO_TIMEOUTS, lambda sem, bad: sem.slot(timeout=bad)),
    (
        ROBUST,
        "total must be an int from 1 to",
        [0, -1, 2**15, None, *NO_INTS],
        lambda sem, bad: sem.resize(bad),
    ),
    (ROBUST, "initial_value must be an int from 1 to", [0, 2**14], new),
    (
        ROBUST,
        "mode must allow its owner to read and to change it (0o600), not",
        [0, 0o400, 0o200, 0o066],
        lambda sem, bad: new(sem, mode=bad),
    ),
]


@pytest.mark.parametrize(
    ("kind", "text", "bads", "call"),
    [(kind, *row) for kinds, *row in REFUSED for kind in kinds],
    indirect=["kind"],
)
def test_what_is_refused(kind, sem, text, bads, call):
    for bad in bads:
        with pytest.raises(ValueError) as raised:
            call(sem, bad)
        said = str(raised.value)
        assert f"semaphore '{sem.name}" in said
        assert text.format(bad) in said
        assert repr(bad) in said or f"0o{bad:o}" in said
    assert tokens(sem) == 2
    assert not kind.exists(f"{sem.name}.new")


def test_names_that_are_refused(kind):
    for bad in ["", "/"]:
        with pytest.raises(ValueError, match=f"must not be empty: {bad!r}"):
            kind.cls(bad)
    for character in ["/", "@", " ", "\0", "\n", "\\", "*", ":", "~", "\udcff", "\u0301"]:
        for bad in (f"a{character}b", f"/{character}", f"a{character}", f"/a{character}/"):
            with pytest.raises(ValueError) as raised:
                kind.cls(bad)
            assert f"{bad!r} has {character!r}" in str(raised.value)
    for bad in [None, 7, b"name", ["name"], NamedSemaphore]:
        with pytest.raises(TypeError) as raised:
            kind.cls(bad)
        assert f"must be a str, not {bad!r}" in str(raised.value)
    for bad in ["x" * 1000, "ü" * 200]:
        with pytest.raises(OSError, match="has at most|too long") as raised:
            kind.cls(bad)
        assert (raised.value.errno, raised.value.filename) == (errno.ENAMETOOLONG, f"/{bad}")


# --- Signals; that an exception costs no token is shown by test_signals.py ------------------------


def test_a_handler_that_returns_lets_a_wait_go_on_to_the_same_end(empty):
    ticks = itertools.count()
    with alarm(lambda *_: next(ticks), 0.01, 0.01):
        result, seconds = elapsed(empty.acquire, timeout=0.03)
    assert result is False
    assert 0.03 <= seconds < 0.03 + 20 * SLOW
    assert next(ticks) > 0


def test_a_handler_may_release_the_token_that_is_waited_for(empty):
    with alarm(lambda *_: empty.release(), 0.01):
        assert empty.acquire() is True
    with alarm(lambda *_: empty.release(), 0.01), empty:
        assert tokens(empty) == 0
    assert tokens(empty) == 1


@pytest.mark.parametrize("kind", NATIVE, indirect=True)  # the fakes' callbacks swallow exceptions
def test_the_callers_exception_is_the_handlers_own(empty):
    for way in ("None", "60", "with"):
        strike(lambda way=way: WAITS[way](empty))
        assert tokens(empty) == 0
    empty.release(2)
    assert tokens(empty) == 2


# --- Threads --------------------------------------------------------------------------------------


def test_no_more_threads_than_tokens_are_inside(sem):
    inside, most, lock = [], [], threading.Lock()

    def enter():
        for _ in range(20):
            with sem:
                with lock:
                    inside.append(1)
                    most.append(len(inside))
                time.sleep(0)
                with lock:
                    inside.pop()

    in_threads(5, enter)
    assert len(most) == 100
    assert max(most) <= 2
    assert tokens(sem) == 2
