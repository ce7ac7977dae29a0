# SPDX-License-Identifier: Apache-2.0
"""The class's contract, on every platform profile. Where platforms differ, a test says what each does."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import gc
import itertools
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from support import SLOW, in_threads, run_python, wait_for

from named_semaphores import NamedSemaphore, _waits

Flags = NamedSemaphore.Flags
CREATING = [Flags.LINK_OR_CREATE, Flags.RAISE_IF_EXISTS, Flags.UNLINK_AND_CREATE]
LINKING = [Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS]


@pytest.fixture
def sem(Semaphore, name):
    """A new semaphore with two tokens; its name goes with it."""
    sem = Semaphore(name, 2, Flags.RAISE_IF_EXISTS)
    yield sem
    sem.close()


def tokens(sem):
    """Return how many tokens can be taken. Unlike ``value`` this works everywhere."""
    taken = 0
    while sem.acquire(False):
        taken += 1
    if taken:
        sem.release(taken)
    return taken


def exists(Semaphore, name):
    try:
        Semaphore(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS).close()
    except FileNotFoundError:
        return False
    return True


def elapsed(function, *arguments, **keywords):
    start = time.monotonic()
    result = function(*arguments, **keywords)
    return result, time.monotonic() - start


@contextlib.contextmanager
def thread(function, *arguments, **keywords):
    """Run the function beside the block; yield a list that will get its result."""
    results = []
    running = threading.Thread(target=lambda: results.append(function(*arguments, **keywords)), daemon=True)
    running.start()
    try:
        yield results
    finally:
        running.join(30 * SLOW)
        assert not running.is_alive()


# Creating and linking


@pytest.mark.parametrize("flag", CREATING)
def test_a_missing_semaphore_is_created(Semaphore, name, flag):
    sem = Semaphore(name, 3, flag)
    assert not sem.linked_existing_semaphore
    assert sem.unlink_on_delete
    assert tokens(sem) == 3
    sem.close()


@pytest.mark.parametrize("flag", LINKING)
def test_an_existing_semaphore_is_linked_and_keeps_its_tokens(Semaphore, sem, flag):
    link = Semaphore(sem.name, 7, flag)
    assert link.linked_existing_semaphore
    assert not sem.linked_existing_semaphore
    assert not link.unlink_on_delete
    assert tokens(link) == 2
    link.close()
    assert exists(Semaphore, sem.name)


def test_the_defaults_create_one_token_and_link_what_exists(Semaphore, name):
    sem = Semaphore(name)
    link = Semaphore(name)
    assert (sem.linked_existing_semaphore, link.linked_existing_semaphore) == (False, True)
    assert tokens(link) == 1
    link.close()
    sem.close()


def test_raise_if_not_exists_creates_nothing(Semaphore, name):
    with pytest.raises(FileNotFoundError) as raised:
        Semaphore(name, 1, Flags.RAISE_IF_NOT_EXISTS)
    assert raised.value.filename == name
    assert "no semaphore of this name" in str(raised.value)
    assert not exists(Semaphore, name)


def test_raise_if_exists_leaves_what_exists(Semaphore, sem):
    with pytest.raises(FileExistsError) as raised:
        Semaphore(sem.name, 1, Flags.RAISE_IF_EXISTS)
    assert raised.value.filename == sem.name
    gc.collect()
    assert exists(Semaphore, sem.name)
    assert tokens(sem) == 2


def test_unlink_and_create_makes_its_own_and_leaves_the_old_one_to_those_who_have_it(Semaphore, sem):
    new = Semaphore(sem.name, 5, Flags.UNLINK_AND_CREATE)
    assert not new.linked_existing_semaphore
    assert sem.acquire()
    assert (tokens(sem), tokens(new)) == (1, 5)
    link = Semaphore(sem.name)
    assert tokens(link) == 5
    link.close()
    new.close()


def test_the_slash_may_be_left_out(Semaphore, sem):
    link = Semaphore(sem.name[1:], handle_existence=Flags.RAISE_IF_NOT_EXISTS)
    assert link.name == sem.name
    assert sem.name.startswith("/")
    assert link.acquire()
    assert tokens(sem) == 1
    link.close()


def test_names_have_letters_of_all_scripts_digits_and_three_signs(Semaphore, name):
    sem = Semaphore(f"{name}_-.ñ7")
    assert sem.name == f"{name}_-.ñ7"
    assert exists(Semaphore, sem.name)
    sem.close()


def test_the_longest_name_works_and_one_longer_is_refused(Semaphore, sem):
    longest = sem._libc.longest_name or 200  # what knows no limit has none to test
    link = Semaphore(sem.name.ljust(longest, "x"))
    assert exists(Semaphore, link.name)
    link.close()
    if sem._libc.longest_name is not None:
        with pytest.raises(OSError, match=f"at most {longest} bytes here") as raised:
            Semaphore(sem.name.ljust(longest + 1, "x"))
        assert raised.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("value", [0, 1, 1000])
def test_the_initial_value_is_the_number_of_tokens(Semaphore, name, value):
    sem = Semaphore(name, value)
    assert tokens(sem) == value
    sem.close()


def test_what_can_be_an_index_is_an_int(Semaphore, name):
    class Five:
        def __index__(self):
            return 5

    sem = Semaphore(name, Five())
    sem.release(Five())
    assert tokens(sem) == 10
    sem.close()


def test_the_mode_is_that_of_the_file(Semaphore, name):
    before = os.umask(0o027)
    try:
        sem = Semaphore(name, mode=0o666)
    finally:
        os.umask(before)
    libc = sem._libc
    path = libc.lib.path(os.fsencode(name)) if hasattr(libc.lib, "path") else libc.files + name[1:]
    # macOS takes it as it is, OpenBSD does not take it.
    expected = {"darwin": 0o666, "openbsd7": 0o600}.get(libc.platform, 0o640)
    assert os.stat(path).st_mode & 0o7777 == expected
    sem.close()


def test_a_mode_that_keeps_even_its_creator_out(Semaphore, name):
    # Before it is removed, a name is opened again, where that tells semaphores apart. This mode forbids it, save to root.
    me = os.geteuid()
    os.seteuid(me or 65534)
    try:
        sem = Semaphore(name, mode=0)
        libc = sem._libc
        assert tokens(sem) == 1
        if libc.platform.startswith("linux") or not libc.same_address:
            sem.close()
        else:
            with pytest.raises(PermissionError):
                sem.close()
            sem = None
    finally:
        os.seteuid(me)
    if sem is None:
        assert exists(Semaphore, name)
        libc.unlink(os.fsencode(name))
    assert not exists(Semaphore, name)


def test_flags_are_the_same_for_every_class(Semaphore):
    assert Semaphore.Flags is Flags
    assert [flag.name for flag in Flags] == ["RAISE_IF_EXISTS", "LINK_OR_CREATE", "RAISE_IF_NOT_EXISTS", "UNLINK_AND_CREATE"]


# The value


def test_value_is_the_number_of_tokens_where_the_system_tells(Semaphore, sem):
    if sem._libc.platform == "darwin":
        with pytest.raises(NotImplementedError, match=f"'{sem.name}'.*darwin.*value"):
            _ = sem.value
        return
    assert sem.value == 2
    assert sem.acquire()
    assert sem.value == 1
    assert sem.acquire()
    assert sem.value == 0
    sem.release(3)
    assert sem.value == 3


def test_value_is_not_negative_while_somebody_waits(Semaphore, name):
    sem = Semaphore(name, 0)
    with thread(sem.acquire):
        time.sleep(0.05)  # there is no telling that it waits; too short a time only tests less
        assert "value=0" in repr(sem) or sem._libc.platform == "darwin"
        sem.release()
    sem.close()


# Taking and giving tokens


def test_acquire_takes_a_token_and_release_puts_it_back(sem):
    assert sem.acquire() is True
    assert tokens(sem) == 1
    assert sem.release() is None
    assert tokens(sem) == 2


def test_acquire_without_waiting(sem):
    assert sem.acquire(False) is True
    assert sem.acquire(blocking=False) is True
    result, seconds = elapsed(sem.acquire, False)
    assert result is False
    assert seconds < 1 * SLOW


def test_acquire_waits_for_a_token(Semaphore, name):
    sem = Semaphore(name, 0)
    with thread(sem.acquire) as results:
        time.sleep(0.02)
        assert not results
        sem.release()
    assert results == [True]
    assert tokens(sem) == 0
    sem.close()


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-9, 0.001, 0.03, Fraction(1, 30), Decimal("0.03"), False])
def test_a_timeout_is_never_early_and_takes_nothing(Semaphore, name, timeout):
    sem = Semaphore(name, 0)
    result, seconds = elapsed(sem.acquire, timeout=timeout)
    assert result is False
    assert timeout <= seconds < timeout + 1 * SLOW
    sem.release()
    assert tokens(sem) == 1
    sem.close()


def test_a_token_that_is_there_is_taken_whatever_the_timeout(sem):
    for timeout in [0, 1, 0.5, 1e-9, Fraction(1, 3), Decimal(1), math.inf, sys.float_info.max, 10**400, 2**63, 2**62 / 1e9]:
        assert sem.acquire(timeout=timeout) is True
        assert sem.acquire(True, timeout) is True
        assert tokens(sem) == 0
        sem.release(2)


@pytest.mark.parametrize("timeout", [None, 60, 1e9, math.inf, sys.float_info.max, 10**400, 2**62 / 1e9])
def test_a_token_that_comes_later_ends_the_wait(Semaphore, name, timeout):
    sem = Semaphore(name, 0)
    with thread(elapsed, sem.acquire, timeout=timeout) as results:
        time.sleep(0.02)
        assert not results
        sem.release()
    result, seconds = results[0]
    assert result is True
    assert seconds < 10 * SLOW
    sem.close()


def test_a_wait_longer_than_a_slice_goes_on(Semaphore, name, monkeypatch):
    monkeypatch.setattr(_waits, "SLICE", 10_000_000)
    sem = Semaphore(name, 0)
    with thread(sem.acquire) as endless, thread(sem.acquire, timeout=60) as timed:
        time.sleep(0.05)
        assert not endless
        assert not timed
        sem.release(2)
    assert (endless, timed) == ([True], [True])
    sem.close()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_release_puts_so_many_tokens_back(sem, n):
    sem.release(n)
    assert tokens(sem) == 2 + n
    sem.release(n=n)
    assert tokens(sem) == 2 + 2 * n


def test_release_wakes_so_many_waiters(Semaphore, name):
    sem = Semaphore(name, 0)
    results = []
    waiters = [threading.Thread(target=lambda: results.append(sem.acquire(timeout=60))) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    sem.release(3)
    wait_for(lambda: len(results) == 3)
    sem.release()
    for waiter in waiters:
        waiter.join()
    assert results == [True] * 4
    assert tokens(sem) == 0
    sem.close()


def test_release_past_the_maximum_releases_nothing(Semaphore, sem):
    maximum = sem._libc.value_max
    if sem._libc.platform == "darwin":
        sem.release(maximum)  # it does not check, nor does it tell the value
        assert sem.acquire(False)
        return
    with pytest.raises(OSError, match=f"its value is 2, {maximum - 1} more would pass the maximum, {maximum}") as raised:
        sem.release(maximum - 1)
    assert raised.value.errno == errno.EOVERFLOW
    assert raised.value.filename == sem.name
    assert sem.value == 2


def test_at_the_maximum_one_more_is_refused(Semaphore, name):
    probe = Semaphore(name, 0)
    libc, maximum = probe._libc, probe._libc.value_max
    probe.close()
    if maximum > 2**31 - 1:  # more than the host's semaphores have, so here even the fake refuses it
        with pytest.raises(OSError, match=name):
            Semaphore(name, maximum)
        return
    sem = Semaphore(name, maximum)
    if libc.platform == "darwin":
        sem.release()
        sem.close()
        return
    assert sem.value == maximum
    for release in (sem.release, lambda: sem.release(2)):
        with pytest.raises(OSError, match=str(maximum)) as raised:
            release()
        assert raised.value.errno == errno.EOVERFLOW
        assert raised.value.filename == name
    with sem:
        assert sem.value == maximum - 1
    assert sem.value == maximum
    sem.close()


# The with statement


def test_with_holds_a_token_and_yields_the_semaphore(sem):
    with sem as entered:
        assert entered is sem
        assert tokens(sem) == 1
        with sem:
            assert tokens(sem) == 0
    assert tokens(sem) == 2


def test_with_waits_for_a_token(Semaphore, name):
    sem = Semaphore(name, 0)

    def enter():
        with sem:
            return True

    with thread(enter) as results:
        time.sleep(0.02)
        assert not results
        sem.release()
    assert results == [True]
    assert tokens(sem) == 1
    sem.close()


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


def test_exit_can_be_called_by_hand(Semaphore, sem):
    sem.__enter__()
    assert sem.__exit__(None, None, None) is None
    Semaphore.__enter__(sem)
    assert Semaphore.__exit__(sem, None, None, None) is None
    type(sem).__enter__(sem)
    error = KeyError()
    assert not type(sem).__exit__(sem, KeyError, error, error.__traceback__)
    assert tokens(sem) == 2


def test_a_subclass_may_have_its_own_enter_and_exit(Semaphore, name):
    class Noting(Semaphore):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.notes = []

        def __enter__(self):
            self.notes.append("in")
            return super().__enter__()

        def __exit__(self, *exception):
            self.notes.append(exception[0])
            return super().__exit__(*exception)

    sem = Noting(name, 1)
    with sem as entered:
        assert entered is sem
        assert tokens(sem) == 0
    with pytest.raises(KeyError), sem:
        raise KeyError
    assert sem.notes == ["in", None, "in", KeyError]
    assert tokens(sem) == 1
    assert repr(sem).startswith("<Noting '/")
    sem.close()


def test_a_subclass_may_have_slots_of_its_own_and_other_constructor_arguments(Semaphore, name):
    class Pool(Semaphore):
        def __init__(self, size):
            super().__init__(name, size)

    sem = Pool(4)
    assert tokens(sem) == 4
    sem.close()


# Handles


def test_two_handles_share_tokens_but_nothing_else(Semaphore, sem):
    link = Semaphore(sem.name)
    assert link.acquire()
    assert tokens(sem) == 1
    link.close()
    assert not sem.closed
    assert sem.acquire()
    sem.release(2)
    assert tokens(sem) == 2


def test_the_creator_may_close_first(Semaphore, name):
    sem = Semaphore(name, 2)
    link = Semaphore(name)
    sem.close()
    assert not exists(Semaphore, name)
    assert tokens(link) == 2
    with link:
        assert tokens(link) == 1
    link.close()


def test_close_is_told_and_may_be_repeated(Semaphore, name):
    sem = Semaphore(name)
    assert sem.closed is False
    for _ in range(3):
        assert sem.close() is None
        assert sem.closed is True
    assert (sem.name, sem.linked_existing_semaphore, sem.unlink_on_delete) == (name, False, True)


def test_close_while_a_thread_waits_leaves_it_waiting(Semaphore, name):
    sem = Semaphore(name, 0, unlink_on_delete=False)
    link = Semaphore(name, unlink_on_delete=True)
    with thread(sem.acquire) as endless, thread(sem.acquire, timeout=60) as timed:
        time.sleep(0.05)
        sem.close()
        link.release(2)
    assert (endless, timed) == ([True], [True])
    link.close()


def test_close_inside_a_with_statement_leaves_its_token_to_be_put_back(Semaphore, sem):
    link = Semaphore(sem.name)
    with link:
        link.close()
        assert tokens(sem) == 1
    assert tokens(sem) == 2


def test_many_handles_at_once(Semaphore, sem):
    links = [Semaphore(sem.name) for _ in range(300)]
    assert links[-1].acquire()
    for link in links:
        link.close()
    assert tokens(sem) == 1


def test_many_handles_one_after_the_other(Semaphore, name):
    for _ in range(300):
        Semaphore(name, 1, Flags.RAISE_IF_EXISTS).close()


def test_handles_are_given_back(Semaphore, sem):
    lib = sem._libc.lib
    if not hasattr(lib, "opened"):
        pytest.skip("the running system does not tell what is open")
    before = len(lib.opened)
    link = Semaphore(sem.name)
    other = Semaphore(f"{sem.name}x")
    assert len(lib.opened) > before
    link.close()
    other.close()
    gc.collect()
    assert len(lib.opened) == before


def test_a_number_of_few_bits_is_a_timeout_too(Semaphore, name):
    class Narrow(float):
        def __mul__(self, other):  # numpy's wrap
            return 0.0

    sem = Semaphore(name, 0)
    result, took = elapsed(sem.acquire, timeout=Narrow(0.05))
    assert not result
    assert took >= 0.05
    sem.close()


def test_finalizers_in_a_cycle_may_still_use_it(name):
    # The garbage collector runs them in no order. In a process of its own, since a handle closed too soon is a segmentation fault, and one
    # that has no other handle of the same semaphore.
    code = """
import gc, sys
from named_semaphores import NamedSemaphore
class Holder:
    def __del__(self):
        self.sem.release()
def hold(sem):
    with sem:
        yield
for number in range(20):
    sem = NamedSemaphore(sys.argv[1])
    holder = Holder()
    holder.sem = sem
    holder.itself = holder
    del sem, holder
    gc.collect()
    generator = hold(NamedSemaphore(sys.argv[1]))
    next(generator)
    cycle = [generator]
    cycle.append(cycle)
    del generator, cycle
    gc.collect()
"""
    sem = NamedSemaphore(name, 1)
    done = run_python(code, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert sem.value == 21
    sem.close()


# The name


def test_a_name_stays_in_a_with_statement_that_alone_has_its_semaphore(Semaphore, name):
    with Semaphore(name, 3):
        gc.collect()
        assert exists(Semaphore, name)
    gc.collect()
    assert not exists(Semaphore, name)


@pytest.mark.parametrize(("given", "removed"), [(None, True), (True, True), (False, False)])
def test_the_creator_removes_the_name_unless_told_not_to(Semaphore, name, given, removed):
    sem = Semaphore(name, unlink_on_delete=given)
    assert sem.unlink_on_delete is removed
    sem.close()
    assert exists(Semaphore, name) is not removed
    if not removed:
        Semaphore(name, unlink_on_delete=True).close()


@pytest.mark.parametrize(("given", "removed"), [(None, False), (True, True), (False, False)])
def test_who_linked_removes_the_name_only_if_told_to(Semaphore, sem, given, removed):
    link = Semaphore(sem.name, unlink_on_delete=given)
    assert link.unlink_on_delete is removed
    link.close()
    assert exists(Semaphore, sem.name) is not removed


def test_deletion_does_what_close_does(Semaphore, name):
    sem = Semaphore(name)
    del sem
    gc.collect()
    assert not exists(Semaphore, name)


def test_collection_does_what_close_does(Semaphore, name):
    sem = Semaphore(name)
    sem.itself = sem
    del sem
    gc.collect()
    assert not exists(Semaphore, name)


def test_deletion_inside_a_with_statement_leaves_the_token_to_be_put_back(Semaphore, sem):
    with Semaphore(sem.name):
        gc.collect()
        assert tokens(sem) == 1
    assert tokens(sem) == 2


def test_unlink_removes_the_name_and_not_the_semaphore(Semaphore, sem):
    assert sem.unlink() is None
    assert not exists(Semaphore, sem.name)
    assert tokens(sem) == 2
    with pytest.raises(FileNotFoundError) as raised:
        sem.unlink()
    assert raised.value.filename == sem.name
    assert not sem.closed


def test_who_linked_may_unlink(Semaphore, sem):
    link = Semaphore(sem.name)
    link.unlink()
    assert not exists(Semaphore, sem.name)
    link.close()


def test_clean_up_leaves_a_successor_where_the_system_can_tell_it_apart(Semaphore, name):
    sem = Semaphore(name, 1)
    sem.unlink()
    successor = Semaphore(name, 3, Flags.RAISE_IF_EXISTS)
    sem.close()
    assert exists(Semaphore, name) is successor._libc.same_address
    assert tokens(successor) == 3
    successor.close()
    assert not exists(Semaphore, name)


def test_clean_up_of_a_name_that_is_gone_is_quiet(Semaphore, name):
    sem = Semaphore(name)
    sem.unlink()
    sem.close()
    assert sem.closed


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_another_user_is_refused(Semaphore, name):
    sem = Semaphore(name, mode=0o600)
    os.seteuid(65534)
    try:
        for flag in (Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS, Flags.UNLINK_AND_CREATE):
            with pytest.raises(PermissionError) as raised:
                Semaphore(name, handle_existence=flag)
            assert raised.value.filename == name
            if sem._libc.files:
                assert "it belongs to user 0, group 0, with mode 0600" in str(raised.value)
        with pytest.raises(FileExistsError):
            Semaphore(name, handle_existence=Flags.RAISE_IF_EXISTS)
        with pytest.raises(PermissionError):
            sem.unlink()
        gc.collect()
    finally:
        os.seteuid(0)
    assert exists(Semaphore, name)
    sem.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_close_says_that_the_name_may_not_be_removed_and_closes(Semaphore, name):
    sem = Semaphore(name, mode=0o666)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError) as raised:
            sem.close()
    finally:
        os.seteuid(0)
    assert raised.value.filename == name
    assert sem.closed
    assert exists(Semaphore, name)
    sem.close()  # it was told; a second call does nothing
    Semaphore(name, unlink_on_delete=True).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_deletion_warns_that_the_name_may_not_be_removed(Semaphore, name):
    sem = Semaphore(name, mode=0o666)
    os.seteuid(65534)
    try:
        with pytest.warns(RuntimeWarning, match=f"could not be removed.*{name}"):
            del sem
            gc.collect()
    finally:
        os.seteuid(0)
    Semaphore(name, unlink_on_delete=True).close()


# Other processes


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_gives_a_link_that_never_removes_the_name(Semaphore, sem, protocol):
    link = pickle.loads(pickle.dumps(sem, protocol))
    assert type(link) is Semaphore
    assert link.name == sem.name
    assert link.linked_existing_semaphore
    assert not link.unlink_on_delete
    assert link.acquire()
    assert tokens(sem) == 1
    again = pickle.loads(pickle.dumps(link, protocol))
    link.close()
    assert tokens(again) == 1
    again.close()
    assert exists(Semaphore, sem.name)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_link(Semaphore, sem, copied):
    link = copied(sem)
    assert link is not sem
    assert link.acquire()
    assert tokens(sem) == 1
    link.close()
    assert exists(Semaphore, sem.name)


def test_what_was_pickled_needs_the_name_to_be_there(Semaphore, name):
    sem = Semaphore(name)
    pickled = pickle.dumps(sem)
    sem.close()
    with pytest.raises(FileNotFoundError) as raised:
        pickle.loads(pickled)
    assert raised.value.filename == name
    assert not exists(Semaphore, name)


def take_and_send_back(sem, connection):
    sem.acquire()
    connection.send((sem, sem.linked_existing_semaphore))
    connection.recv()
    sem.release(3)


def test_a_child_gets_it_and_sends_it_back(Semaphore, sem):
    # Fork for all profiles, since it is quick; how the object travels is the same.
    context = multiprocessing.get_context("fork" if Semaphore is not NamedSemaphore else "spawn")
    ours, childs = context.Pipe()
    child = context.Process(target=take_and_send_back, args=(sem, childs))
    child.start()
    back, _ = ours.recv()
    assert type(back) is Semaphore
    assert (back.name, back.linked_existing_semaphore, back.unlink_on_delete) == (sem.name, True, False)
    assert tokens(back) == 1
    ours.send(None)
    child.join(60 * SLOW)
    assert child.exitcode == 0
    child.close()
    ours.close()
    childs.close()
    assert tokens(sem) == 4
    back.close()
    assert exists(Semaphore, sem.name)


def leave_to_the_end(Semaphore, name):
    Semaphore.kept = Semaphore(name, 1, Flags.RAISE_IF_EXISTS)


def test_a_childs_names_go_with_the_child(Semaphore, name):
    # Before 3.14 a child of multiprocessing leaves without atexit.
    child = multiprocessing.get_context("fork").Process(target=leave_to_the_end, args=(Semaphore, name))
    child.start()
    child.join(60 * SLOW)
    assert child.exitcode == 0
    child.close()
    assert not exists(Semaphore, name)


def test_a_forked_child_uses_the_semaphore_and_leaves_the_name(Semaphore, sem):
    assert sem.acquire()
    assert sem.acquire()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            time.sleep(0.02)
            sem.release()
            sem.close()
            code = 0
        finally:
            os._exit(code)
    assert sem.acquire(timeout=60)
    assert os.waitpid(pid, 0)[1] == 0
    assert exists(Semaphore, sem.name)
    assert tokens(sem) == 0


def test_the_end_of_the_interpreter_does_what_close_does(name):
    code = "from named_semaphores import NamedSemaphore; import sys; sem = NamedSemaphore(sys.argv[1], unlink_on_delete=eval(sys.argv[2]))"
    for given, removed in (("None", True), ("True", True), ("False", False)):
        done = run_python(code, name, given)
        assert (done.returncode, done.stderr) == (0, "")
        assert exists(NamedSemaphore, name) is not removed
    NamedSemaphore(name, unlink_on_delete=True).close()


def test_the_end_of_the_interpreter_removes_names_after_the_children_have_ended(name):
    code = """
import multiprocessing, multiprocessing.util, sys, time
from named_semaphores import NamedSemaphore
def late(name):
    time.sleep(0.1)
    NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS).release()
    print("linked")
if __name__ == "__main__":
    sem = NamedSemaphore(sys.argv[1])
    multiprocessing.get_context("fork").Process(target=late, args=(sem.name,)).start()
"""
    for late_import in (
        code,
        code.replace("multiprocessing, multiprocessing.util, ", "", 1).replace('":', '":\n    import multiprocessing'),
    ):
        done = run_python(late_import, name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "linked\n", "")
        assert not exists(NamedSemaphore, name)


# The object


def test_repr_shows_name_and_value(Semaphore, sem):
    value = "unknown" if sem._libc.platform == "darwin" else "2"
    assert repr(sem) == f"<{Semaphore.__name__} '{sem.name}' value={value}>"
    link = Semaphore(sem.name)
    link.close()
    assert repr(link) == f"<{Semaphore.__name__} '{sem.name}' closed>"


def test_it_is_where_1_0_3_had_it():
    from named_semaphores import semaphore  # whose __init__.py was empty

    assert semaphore.NamedSemaphore is NamedSemaphore


def test_a_half_made_object_is_closed_and_can_be_shown_and_deleted(Semaphore):
    sem = Semaphore.__new__(Semaphore)
    assert sem.closed
    assert sem.name == ""
    assert (sem.linked_existing_semaphore, sem.unlink_on_delete) == (False, False)
    assert repr(sem) == f"<{Semaphore.__name__} None closed>"
    with pytest.raises(ValueError, match="closed"):
        _ = sem.value
    with pytest.raises(ValueError, match="closed"):
        sem.unlink()
    sem.close()


def test_an_object_whose_constructor_failed_refuses(Semaphore):
    sem = Semaphore.__new__(Semaphore)
    with pytest.raises(ValueError, match="letters"):
        sem.__init__("a/b")
    exit_ = functools.partial(Semaphore.__exit__, sem, None, None, None)
    for use in (sem.acquire, lambda: sem.acquire(False), lambda: sem.acquire(timeout=1), sem.release, sem.__enter__, exit_):
        with pytest.raises(ValueError, match="semaphore 'a/b' is closed"):
            use()
    sem.close()


def test_a_subclass_whose_constructor_fails_removes_its_name(Semaphore, name):
    class Failing(Semaphore):
        def __init__(self):
            super().__init__(name)
            raise KeyError

    with pytest.raises(KeyError):
        Failing()
    gc.collect()
    assert not exists(Semaphore, name)


def test_it_can_be_referred_to_weakly_compared_and_hashed(Semaphore, sem):
    link = Semaphore(sem.name)
    assert sem != link
    assert len({sem, link}) == 2
    link.close()


# Signals. That an exception costs no token is shown by the stress tests.


@pytest.fixture
def every_10_ms():
    """Make SIGALRM come again and again; yield the handler's list of what to call, which starts empty."""
    calls = []
    before = signal.signal(signal.SIGALRM, lambda *_: [call() for call in calls])
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    yield calls
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_handler_that_returns_lets_a_wait_go_on_to_the_same_end(Semaphore, name, every_10_ms):
    sem, ticks = Semaphore(name, 0), itertools.count()
    every_10_ms.append(lambda: next(ticks))
    result, seconds = elapsed(sem.acquire, timeout=0.1)
    assert result is False
    assert 0.1 <= seconds < 0.1 + 1 * SLOW
    assert next(ticks) > 0
    sem.close()


def test_a_handler_may_put_the_token_there_that_is_waited_for(Semaphore, name, every_10_ms):
    sem = Semaphore(name, 0)
    every_10_ms.append(lambda: (every_10_ms.clear(), sem.release()))
    assert sem.acquire() is True
    every_10_ms.append(lambda: (every_10_ms.clear(), sem.release()))
    with sem:
        assert tokens(sem) == 0
    assert tokens(sem) == 1
    sem.close()


# Threads


def test_no_more_threads_than_tokens_are_inside(Semaphore, sem):
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


def test_threads_hand_tokens_to_each_other(Semaphore, name):
    ping, pong = Semaphore(f"{name}a", 0), Semaphore(f"{name}b", 0)

    def answer():
        return [ping.acquire() and pong.release() for _ in range(100)]

    with thread(answer):
        for _ in range(100):
            ping.release()
            assert pong.acquire(timeout=60)
    assert (tokens(ping), tokens(pong)) == (0, 0)
    ping.close()
    pong.close()


def test_threads_that_create_the_same_name_at_once_all_get_the_same(Semaphore, name):
    start, sems = threading.Barrier(4), []

    def create():
        start.wait()
        sems.append(Semaphore(name, 4, unlink_on_delete=False))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for started in threads:
        started.start()
    for started in threads:
        started.join()
    assert sorted(sem.linked_existing_semaphore for sem in sems) == [False, True, True, True]
    for sem in sems:
        assert sem.acquire(False)
    assert tokens(sems[0]) == 0
    sems[0].unlink()
    for sem in sems:
        sem.close()
