# SPDX-License-Identifier: Apache-2.0
"""What every class of the package does, on every platform profile.

``kinds.py`` says where they differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import functools
import itertools
import math
import multiprocessing
import os
import pickle
import sys
import threading
import time
import weakref
from decimal import Decimal
from fractions import Fraction

import pytest
from kinds import tokens
from support import PYPY, SLOW, alarm, collect, elapsed, in_threads, strike, thread, wait_for

from named_semaphores import NamedSemaphore

Flags = NamedSemaphore.Flags
CREATING = [Flags.LINK_OR_CREATE, Flags.RAISE_IF_EXISTS, Flags.UNLINK_AND_CREATE]
LINKING = [Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS]

if sys.version_info >= (3, 12):
    pytestmark = pytest.mark.filterwarnings(
        "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"
    )


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


def link_to(sem, **keywords):
    return type(sem)(sem.name, handle_existence=Flags.RAISE_IF_NOT_EXISTS, **keywords)


# --- Creating and linking -------------------------------------------------------------------------


@pytest.mark.parametrize("flag", CREATING)
def test_a_missing_semaphore_is_created(kind, name, flag):
    sem = kind.cls(name, 3, flag)
    assert not sem.linked_existing_semaphore
    assert tokens(sem) == 3
    sem.close()


@pytest.mark.parametrize("flag", LINKING)
def test_an_existing_semaphore_is_linked_and_keeps_its_tokens(kind, sem, flag):
    link = kind.cls(sem.name, handle_existence=flag)
    assert (link.linked_existing_semaphore, sem.linked_existing_semaphore) == (True, False)
    assert tokens(link) == 2
    link.close()
    assert kind.exists(sem.name)


def test_the_defaults_create_one_token_and_link_what_exists(kind, name):
    sem, link = kind.cls(name), kind.cls(name)
    assert (sem.linked_existing_semaphore, link.linked_existing_semaphore) == (False, True)
    assert tokens(link) == 1
    link.close()
    sem.close()


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


def test_the_slash_may_be_left_out(kind, sem):
    link = kind.cls(sem.name[1:], handle_existence=Flags.RAISE_IF_NOT_EXISTS)
    assert link.name == sem.name
    assert sem.name.startswith("/")
    assert link.acquire()
    assert tokens(sem) == 1
    link.release()
    link.close()


def test_names_have_letters_of_all_scripts_digits_and_three_signs(kind, name):
    sem = kind.cls(f"{name}_-.ñ7")
    assert sem.name == f"{name}_-.ñ7"
    assert kind.exists(sem.name)
    sem.close()


def test_an_object_with_index_is_an_int(kind, name):
    class Five:
        def __index__(self):
            return 5

    sem = kind.cls(name, Five())
    for _ in range(5):
        assert sem.acquire(False)
    assert tokens(sem) == 0
    sem.release(Five())
    assert tokens(sem) == 5
    sem.close()


def test_all_classes_have_the_same_flags(kind):
    assert kind.cls.Flags is Flags
    assert " ".join(Flags.__members__) == (
        "RAISE_IF_EXISTS LINK_OR_CREATE RAISE_IF_NOT_EXISTS UNLINK_AND_CREATE"
    )


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


@pytest.mark.parametrize("timeout", [None, 60, 1e9, math.inf, pytest.param(10**400, id="10**400")])
def test_acquire_waits_for_a_token(empty, timeout):
    with thread(elapsed, empty.acquire, timeout=timeout) as results:
        time.sleep(0.02)
        assert not results
        empty.release()
    result, seconds = results[0]
    assert result is True
    assert seconds < 10 * SLOW
    assert tokens(empty) == 0


def test_a_timeout_is_never_early_and_takes_nothing(empty):
    class Narrow(float):
        def __mul__(self, other):  # numpy's float16 wraps
            return 0.0

    for timeout in (0, 1e-9, 0.001, Fraction(1, 100), Decimal("0.01"), Narrow(0.02), False):
        result, seconds = elapsed(empty.acquire, timeout=timeout)
        assert result is False
        assert timeout <= seconds < timeout + 20 * SLOW
    empty.release()
    assert tokens(empty) == 1


def test_a_free_token_is_taken_whatever_the_timeout(sem):
    for timeout in [
        0,
        1,
        0.5,
        1e-9,
        Fraction(1, 3),
        Decimal(1),
        math.inf,
        sys.float_info.max,
        10**400,
        2**63,
        2**62 / 1e9,
    ]:
        assert sem.acquire(timeout=timeout) is True
        assert sem.acquire(True, timeout) is True
        assert tokens(sem) == 0
        sem.release(2)


def test_no_sleep_is_longer_than_the_readme_says_for_late_signals(sem):
    longest = max(sem._handle.slices)
    assert longest <= (60 if sem._handle.is_robust else 1) * 1_000_000_000


def test_a_wait_of_several_slices_gets_its_token(empty, monkeypatch):
    monkeypatch.setattr(type(empty._handle), "slices", (1_000_000, 2_000_000))
    with thread(empty.acquire) as endless, thread(empty.acquire, timeout=60) as timed:
        time.sleep(0.03)
        assert not endless
        assert not timed
        empty.release(2)
    assert (endless, timed) == ([True], [True])


def test_release_puts_n_tokens_back(kind, name):
    sem = kind.cls(name, 8)
    for _ in range(8):
        assert sem.acquire(False)
    free = 0
    for n in (1, 2, 5):
        sem.release(n=n)
        free += n
        assert tokens(sem) == free
    kind.discard(sem)


def test_release_wakes_n_waiters(kind, name):
    sem = kind.cls(name, 4)
    for _ in range(4):
        assert sem.acquire(False)
    results = []
    waiters = [
        threading.Thread(target=lambda: results.append(sem.acquire(timeout=60))) for _ in range(4)
    ]
    for waiter in waiters:
        waiter.start()
    sem.release(3)
    wait_for(lambda: len(results) == 3)
    sem.release()
    for waiter in waiters:
        waiter.join()
    assert results == [True] * 4
    assert tokens(sem) == 0
    kind.discard(sem)


# --- The with statement ---------------------------------------------------------------------------


def test_with_holds_a_token_and_yields_the_semaphore(sem):
    with sem as entered:
        assert entered is sem
        assert tokens(sem) == 1
        with sem:
            assert tokens(sem) == 0
    assert tokens(sem) == 2


def test_with_waits_for_a_token(empty):
    def enter():
        with empty:
            return True

    with thread(enter) as results:
        time.sleep(0.02)
        assert not results
        empty.release()
    assert results == [True]
    assert tokens(empty) == 1


def test_with_puts_the_token_back_when_the_block_fails_and_swallows_nothing(sem):
    with pytest.raises(KeyError, match="x"), sem:
        raise KeyError("x")
    assert tokens(sem) == 2


def test_an_exit_stack_enters_and_leaves(sem):
    with contextlib.ExitStack() as stack:
        assert stack.enter_context(sem) is sem
        assert tokens(sem) == 1
    with contextlib.ExitStack() as stack:
        assert sem.acquire()
        stack.push(sem)
    with pytest.raises(KeyError), contextlib.ExitStack() as stack:
        stack.enter_context(sem)
        raise KeyError
    assert tokens(sem) == 2


def test_enter_and_exit_can_be_called_by_hand(kind, sem):
    sem.__enter__()
    assert sem.__exit__(None, None, None) is None
    kind.cls.__enter__(sem)
    error = KeyError()
    assert not kind.cls.__exit__(sem, KeyError, error, error.__traceback__)
    assert tokens(sem) == 2


def make_noting(cls):
    class Noting(cls):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.notes = []

        def __enter__(self):
            self.notes.append("in")
            return super().__enter__()

        def __exit__(self, *exception):
            self.notes.append(exception[0])
            return super().__exit__(*exception)

    return Noting


def test_a_subclass_may_have_its_own_enter_and_exit(kind, name):
    sem = make_noting(kind.cls)(name, 1)
    with sem as entered:
        assert entered is sem
        assert tokens(sem) == 0
    with pytest.raises(KeyError), sem:
        raise KeyError
    assert sem.notes == ["in", None, "in", KeyError]
    assert tokens(sem) == 1
    assert repr(sem).startswith("<Noting '/")
    sem.close()


def test_a_subclass_may_have_other_constructor_arguments(kind, name):
    class Pool(kind.cls):
        def __init__(self, size):
            super().__init__(name, size)

    sem = Pool(4)
    assert tokens(sem) == 4
    sem.close()


def test_hold_is_a_with_statement_with_a_timeout(kind, sem):
    hold = sem.hold(timeout=0.01)
    for _ in range(2):
        with hold as entered:
            assert entered is sem
            assert tokens(sem) == 1
    with pytest.raises(KeyError), hold:
        raise KeyError
    with sem, sem:
        with pytest.raises(TimeoutError) as raised, hold:
            pytest.fail("it entered")
        text = f"semaphore {sem.name!r}: no token was free within 0.01 seconds"
        assert str(raised.value).startswith(text)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sem.hold(1))
        assert tokens(sem) == 1
    assert tokens(sem) == 2


def test_tasks_hold(sem):
    async def main():
        async with sem.hold() as entered, sem:
            assert entered is sem
            with pytest.raises(TimeoutError, match="no token was free within 0.01 seconds"):
                async with sem.hold(timeout=0.01):
                    pytest.fail("it entered")

    asyncio.run(main())
    wait_for(lambda: tokens(sem) == 2)


# --- Closing --------------------------------------------------------------------------------------


def test_two_objects_share_tokens_but_nothing_else(sem):
    link = link_to(sem)
    assert link.acquire()
    assert tokens(sem) == 1
    link.release()
    link.close()
    assert not sem.closed
    assert tokens(sem) == 2


def test_close_can_be_seen_and_may_be_repeated(kind, name):
    sem = kind.cls(name)
    assert sem.closed is False
    for _ in range(3):
        assert sem.close() is None
        assert sem.closed is True
    assert (sem.name, sem.linked_existing_semaphore) == (name, False)


def test_use_after_close(sem):
    link = link_to(sem)
    link.close()
    for use in (
        lambda: link.acquire(),
        lambda: link.acquire(False),
        lambda: link.acquire(timeout=1),
        lambda: link.acquire(timeout=0),
        lambda: link.release(),
        lambda: link.release(2),
        lambda: link.value,
        lambda: link.unlink(),
        lambda: link.__enter__(),
        lambda: link.hold(),
        lambda: type(link).__enter__(link),
        lambda: asyncio.run(link.acquire_async()),
        lambda: asyncio.run(link.__aenter__()),
        lambda: pickle.dumps(link),
        lambda: copy.copy(link),
    ):
        with pytest.raises(ValueError) as raised:
            use()
        assert str(raised.value) == f"semaphore {sem.name!r} is closed"


def test_with_after_close_does_not_run_the_block(sem):
    link = link_to(sem)
    link.close()
    with pytest.raises(ValueError, match=f"'{sem.name}' is closed"), link:
        pytest.fail("it ran")
    assert tokens(sem) == 2


def test_close_leaves_waiting_threads_waiting(empty):
    link = link_to(empty)
    with thread(link.acquire) as endless, thread(link.acquire, timeout=60) as timed:
        time.sleep(0.02)  # there is no telling that they wait; too short a time only tests less
        link.close()
        assert not endless
        assert not timed
        empty.release(2)
    # A thread that had not begun to wait is refused; then its token is free.
    assert len(endless) + len(timed) + tokens(empty) == 2


def test_a_with_statement_that_was_closed_puts_its_token_back(sem):
    link = link_to(sem)
    with link:
        link.close()
        assert tokens(sem) == 1
    assert tokens(sem) == 2


def make_patient(cls):
    class Patient(cls):
        def __enter__(self):
            assert self.acquire(timeout=60)
            return self

    return Patient


@pytest.mark.parametrize(
    "make",
    [lambda cls: cls, make_noting, make_patient],
    ids=["itself", "a subclass", "a subclass that enters in its own way"],
)
def test_an_exit_stack_that_was_closed_puts_its_token_back(sem, make):
    # It looks __exit__ up when it unwinds.
    link = make(type(sem))(sem.name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
    with contextlib.ExitStack() as stack:
        assert stack.enter_context(link) is link
        link.close()
        assert tokens(sem) == 1
    assert tokens(sem) == 2


def test_an_async_with_statement_that_was_closed_puts_its_token_back(sem):
    async def main():
        async with link:
            link.close()
            assert tokens(sem) == 1

    link = link_to(sem)
    asyncio.run(main())
    assert tokens(sem) == 2


def test_many_objects_at_once(sem):
    links = [link_to(sem) for _ in range(300)]
    assert links[-1].acquire()
    assert tokens(sem) == 1
    links[-1].release()
    for link in links:
        link.close()
    assert tokens(sem) == 2


def test_many_threads_close_at_once(kind, name):
    sem, barrier = kind.cls(name), threading.Barrier(8)

    def close():
        barrier.wait()
        sem.close()

    in_threads(8, close)
    assert not kind.exists(name)


# --- Clean-up -------------------------------------------------------------------------------------


def test_deletion_does_what_close_does(kind, name):
    sem = kind.cls(name)
    del sem
    collect()
    assert not kind.exists(name)


def test_collection_does_what_close_does(kind, name):
    sem = kind.cls(name)
    sem.itself = sem
    del sem
    collect()
    assert not kind.exists(name)


def test_a_with_statement_whose_object_was_deleted_keeps_name_and_token(kind, name):
    with kind.cls(name, 3):
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
    assert sem.unlink() is None
    assert not kind.exists(name)
    with pytest.raises(FileNotFoundError) as raised:
        sem.unlink()
    assert raised.value.filename == name
    assert not sem.closed
    new = kind.cls(name, 3, Flags.RAISE_IF_EXISTS)
    assert tokens(new) == 3
    new.close()
    sem.close()
    assert not kind.exists(name)


def test_a_linked_object_may_unlink(kind, sem):
    link = link_to(sem)
    link.unlink()
    assert not kind.exists(sem.name)
    link.close()


# --- The object -----------------------------------------------------------------------------------


def test_repr_shows_name_and_value(kind, sem):
    value = 2 if kind.tells_value else "unknown"
    assert repr(sem) == f"<{kind.cls.__name__} '{sem.name}' value={value}>"
    link = link_to(sem)
    link.close()
    assert repr(link) == f"<{kind.cls.__name__} '{sem.name}' closed>"


def test_a_half_made_object_is_closed_and_can_be_shown_and_deleted(kind):
    sem = kind.cls.__new__(kind.cls)
    assert sem.closed
    assert sem.name == ""
    assert (sem.linked_existing_semaphore, sem.unlink_on_delete) == (False, False)
    assert repr(sem) == f"<{kind.cls.__name__} None closed>"
    with pytest.raises(ValueError, match="closed"):
        _ = sem.value
    with pytest.raises(ValueError, match="closed"):
        sem.unlink()
    sem.close()


def test_an_object_whose_constructor_failed_refuses(kind):
    sem = kind.cls.__new__(kind.cls)
    with pytest.raises(ValueError, match="letters"):
        sem.__init__("a/b")
    leave = functools.partial(kind.cls.__exit__, sem, None, None, None)
    for use in (
        sem.acquire,
        lambda: sem.acquire(False),
        lambda: sem.acquire(timeout=1),
        sem.release,
        sem.__enter__,
        leave,
    ):
        with pytest.raises(ValueError, match="is closed"):
            use()
    sem.close()


def test_it_can_be_referred_to_weakly_compared_and_hashed(sem):
    link = link_to(sem)
    assert sem != link
    assert len({sem, link}) == 2
    assert weakref.ref(sem)() is sem
    link.close()


# --- Copies and other processes -------------------------------------------------------------------


def test_a_pickled_semaphore_is_a_link_that_never_unlinks_the_name(kind, sem):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        link = pickle.loads(pickle.dumps(sem, protocol))
        assert type(link) is kind.cls
        assert (link.name, link.linked_existing_semaphore) == (sem.name, True)
        again = pickle.loads(pickle.dumps(link, protocol))
        with link, again:
            assert tokens(sem) == 0
        link.close()
        again.close()
    assert kind.exists(sem.name)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda sem: pickle.loads(pickle.dumps(sem))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_of_one_that_was_told_to_unlink_the_name_leaves_it(kind, name, copied):
    sem = kind.cls(name, 1, unlink_on_delete=True)
    link = copied(sem)
    assert (sem.unlink_on_delete, link.unlink_on_delete) == (True, False)
    with link:
        assert tokens(sem) == 0
    link.close()
    assert kind.exists(name)
    sem.close()
    assert not kind.exists(name)


def test_copies_of_a_subclass_keep_its_attributes(sem):
    link = make_noting(type(sem))(sem.name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
    link.notes.append("mine")
    copies = copy.copy(link), copy.deepcopy(link)
    link.close()
    for each in copies:
        assert type(each) is type(link)
        assert each.notes == ["mine"]
        assert not each.unlink_on_delete
        with each:
            assert tokens(sem) == 1
        each.close()


def test_a_pickled_semaphore_needs_its_name_to_be_there(kind, name):
    sem = kind.cls(name)
    pickled = pickle.dumps(sem)
    sem.close()
    with pytest.raises(FileNotFoundError) as raised:
        pickle.loads(pickled)
    assert raised.value.filename == name
    assert not kind.exists(name)


def enter_and_send_back(sem, connection):
    with sem:
        connection.send(sem)
        connection.recv()


def test_a_child_gets_it_and_sends_it_back(kind, sem):
    # Fork for most profiles, since it is quick; how the object travels is the same.
    context = multiprocessing.get_context(
        "spawn" if kind.cls.__module__.startswith("named_semaphores") else "fork"
    )
    ours, childs = context.Pipe()
    child = context.Process(target=enter_and_send_back, args=(sem, childs))
    child.start()
    back = ours.recv()
    assert type(back) is kind.cls
    assert (back.name, back.linked_existing_semaphore, back.unlink_on_delete) == (
        sem.name,
        True,
        False,
    )
    assert tokens(back) == 1
    ours.send(None)
    child.join(60 * SLOW)
    assert child.exitcode == 0
    child.close()
    ours.close()
    childs.close()
    assert tokens(sem) == 2
    back.close()
    assert kind.exists(sem.name)


def keep_until_the_end(kind, name):
    kind.kept = kind.cls(name, 1, Flags.RAISE_IF_EXISTS)


def test_a_childs_names_go_with_the_child(kind, name):
    # Before 3.14 a child of multiprocessing leaves without atexit.
    child = multiprocessing.get_context("fork").Process(
        target=keep_until_the_end, args=(kind, name)
    )
    child.start()
    child.join(60 * SLOW)
    assert child.exitcode == 0
    child.close()
    assert not kind.exists(name)


def in_child(work):
    """Do the work in a child of fork, and wait for it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_forked_child_uses_the_semaphore_and_leaves_the_name(kind, sem):
    def use():
        with sem:
            assert tokens(sem) == 1
        assert tokens(sem) == 2
        sem.close()
        del inherited[:]
        collect()

    inherited = [kind.cls(f"{sem.name}.x")]
    in_child(use)
    assert kind.exists(sem.name)
    assert kind.exists(inherited[0].name)
    assert tokens(sem) == 2
    inherited[0].close()


# --- What is refused names the semaphore and the value at fault, and changes nothing --------------


class NotANumber:
    def __repr__(self):
        return "<no number>"


NO_INTS = [1.5, "1", b"1", None, math.inf, Decimal(2), NotANumber()]
NO_TIMEOUTS = [-1, -1e-9, -math.inf, math.nan, "1", "", b"", [], 1j, NotANumber()]
NO_TIMEOUTS += [Decimal("nan"), Decimal("snan"), -(10**400)]
NO_BOOLS = [0, 1, None, "yes", 0.5, []]
TIMEOUT = "timeout must be a number of seconds from 0, or None, not {!r}"


def new(sem, *arguments, **keywords):
    return type(sem)(f"{sem.name}", *arguments, **keywords)


REFUSED = [
    ("initial_value must be an int from", [-1, 2**32, 2**64, *NO_INTS[:3], *NO_INTS[4:]], new),
    (
        "handle_existence must be a member of Flags, not {!r}",
        [1, "LINK_OR_CREATE", None, Flags],
        lambda sem, bad: new(sem, 1, bad),
    ),
    ("mode must be an int", [-1, 0o1000, *NO_INTS], lambda sem, bad: new(sem, mode=bad)),
    ("did you mean 0o660?", [660], lambda sem, bad: new(sem, mode=bad)),
    (TIMEOUT, NO_TIMEOUTS, lambda sem, bad: sem.acquire(True, bad)),
    (TIMEOUT, NO_TIMEOUTS, lambda sem, bad: sem.hold(timeout=bad)),
    (TIMEOUT, NO_TIMEOUTS, lambda sem, bad: asyncio.run(sem.acquire_async(bad))),
    (
        "can't specify a timeout ({!r}) for a non-blocking acquire",
        [0, 1, 0.5, math.inf, *NO_TIMEOUTS],
        lambda sem, bad: sem.acquire(False, bad),
    ),
    ("blocking must be True or False, not {!r}", NO_BOOLS, lambda sem, bad: sem.acquire(bad)),
    ("blocking must be True or False", NO_BOOLS, lambda sem, bad: sem.acquire(bad, 1)),
    ("for seconds, say timeout={!r}", [5, 0.5], lambda sem, bad: sem.acquire(bad)),
    (
        "n must be an int of at least 1, not {!r}",
        [0, -1, False, *NO_INTS],
        lambda sem, bad: sem.release(bad),
    ),
    ("n must be an int from 1 to", [0, -1, 3, *NO_INTS], lambda sem, bad: sem.hold(bad)),
]
REFUSED_BY_ROBUST = [
    ("n must be an int from 1 to 2", [0, -1, 3, *NO_INTS], lambda sem, bad: sem.acquire(n=bad)),
    (
        "n must be an int from 1 to 2",
        [0, 3, *NO_INTS],
        lambda sem, bad: asyncio.run(sem.acquire_async(n=bad)),
    ),
    (TIMEOUT, NO_TIMEOUTS, lambda sem, bad: sem.acquire(True, bad, n=2)),
    (TIMEOUT, NO_TIMEOUTS, lambda sem, bad: sem.slot(timeout=bad)),
    ("total must be an int from 1 to", [0, -1, 2**15, *NO_INTS], lambda sem, bad: sem.resize(bad)),
    ("initial_value must be an int from 1 to", [0, 2**14], new),
    (
        "mode must allow its owner to read and to change it (0o600), not",
        [0, 0o400, 0o200, 0o066],
        lambda sem, bad: new(sem, mode=bad),
    ),
]


def refuse(sem, text, bads, call):
    for bad in bads:
        with pytest.raises(ValueError) as raised:
            call(sem, bad)
        said = str(raised.value)
        assert f"semaphore {sem.name!r}: " in said
        assert text.format(bad) in said
        assert repr(bad) in said or f"0o{bad:o}" in said
    assert tokens(sem) == 2


# These checks are the same on every platform.
@pytest.mark.parametrize("kind", ["native", "macos", "robust-native"], indirect=True)
@pytest.mark.parametrize(("text", "bads", "call"), REFUSED)
def test_what_is_refused(sem, text, bads, call):
    refuse(sem, text, bads, call)


@pytest.mark.parametrize("kind", ["robust-native"], indirect=True)
@pytest.mark.parametrize(("text", "bads", "call"), REFUSED_BY_ROBUST)
def test_what_robust_semaphores_refuse(sem, text, bads, call):
    refuse(sem, text, bads, call)


def test_what_is_refused_creates_nothing(kind, name):
    for keywords in ({"initial_value": -1}, {"handle_existence": 1}, {"mode": -1}):
        with pytest.raises(ValueError):
            kind.cls(name, **keywords)
    with pytest.raises(TypeError):  # the mode is given by its name
        kind.cls(name, 1, Flags.LINK_OR_CREATE, None, 0o600)
    assert not kind.exists(name)


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


def test_a_release_of_more_than_there_can_be(kind, sem):
    for n in (2**32, 2**64, 10**100):
        with pytest.raises(ValueError if kind.is_bounded else OSError, match=str(n)) as raised:
            sem.release(n)
        if not kind.is_bounded:
            assert (raised.value.errno, raised.value.filename) == (errno.EOVERFLOW, sem.name)
    assert tokens(sem) == 2


# --- Signals; that an exception costs no token is shown by test_signals.py ------------------------


def test_a_handler_that_returns_lets_a_wait_go_on_to_the_same_end(empty):
    ticks = itertools.count()
    with alarm(lambda *_: next(ticks), 0.01, 0.01):
        result, seconds = elapsed(empty.acquire, timeout=0.05)
    assert result is False
    assert 0.05 <= seconds < 0.05 + 20 * SLOW
    assert next(ticks) > 0


def test_a_handler_may_release_the_token_that_is_waited_for(empty):
    with alarm(lambda *_: empty.release(), 0.01):
        assert empty.acquire() is True
    with alarm(lambda *_: empty.release(), 0.01), empty:
        assert tokens(empty) == 0
    assert tokens(empty) == 1


@pytest.mark.native
@pytest.mark.parametrize("timeout", [None, 60])
def test_the_callers_exception_is_the_handlers_own(empty, timeout):
    def enter():
        with empty:
            pytest.fail("it entered")

    strike(lambda: empty.acquire(timeout=timeout))
    strike(enter)
    assert tokens(empty) == 0
    empty.release(2)
    assert tokens(empty) == 2


# --- Threads --------------------------------------------------------------------------------------


def test_no_more_threads_than_tokens_are_inside(sem):
    inside, most, lock = [], [], threading.Lock()

    def enter():
        for _ in range(50):
            with sem:
                with lock:
                    inside.append(1)
                    most.append(len(inside))
                time.sleep(0)
                with lock:
                    inside.pop()

    in_threads(5, enter)
    assert len(most) == 250
    assert max(most) <= 2
    assert tokens(sem) == 2


def test_threads_hand_tokens_to_each_other(kind, name):
    ping, pong = kind.cls(f"{name}a"), kind.cls(f"{name}b")

    def answer():
        return [ping.acquire(timeout=60) and pong.release() for _ in range(100)]

    assert ping.acquire()
    assert pong.acquire()
    with thread(answer):
        for _ in range(100):
            ping.release()
            assert pong.acquire(timeout=60)
    assert (tokens(ping), tokens(pong)) == (0, 0)
    kind.discard(ping)
    kind.discard(pong)


def test_threads_that_create_the_same_name_at_once_all_get_the_same(kind, name):
    start, sems = threading.Barrier(4), []

    def create():
        start.wait()
        sems.append(kind.cls(name, 4, unlink_on_delete=False))

    in_threads(4, create)
    assert sorted(sem.linked_existing_semaphore for sem in sems) == [False, True, True, True]
    for sem in sems:
        assert sem.acquire(False)
    assert tokens(sems[0]) == 0
    sems[0].unlink()
    for sem in sems:
        sem.close()


# --- Asyncio; the rest is in test_async.py --------------------------------------------------------


def test_async_with_holds_a_token_and_yields_the_semaphore(sem):
    async def main():
        async with sem as entered:
            assert entered is sem
            assert tokens(sem) == 1

    asyncio.run(main())
    assert tokens(sem) == 2


# --- Near the recursion limit ---------------------------------------------------------------------


def _in_with(sem):
    with sem:
        pass


def _in_try(sem):
    sem.acquire()
    sem.release()


def _in_time(sem):
    sem.acquire(timeout=10)
    sem.release()


@pytest.mark.parametrize("use", [_in_with, _in_try, _in_time])
def test_a_recursion_error_costs_no_token(name, use):
    def at(depth):
        return at(depth - 1) if depth else use(sem)

    sem, errors = NamedSemaphore(name, 3), 0
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        try:
            at(depth)
        except RecursionError:
            errors += 1
        assert sem.value == 3, depth
    assert errors or PYPY
    sem.close()
