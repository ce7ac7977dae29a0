# SPDX-License-Identifier: Apache-2.0
"""System V sets alone: opening and leaving, tokens, resizing, deaths, other users, other programs, other platforms."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import threading
import time

import profiles
import pytest
from support import (
    EXACT,
    PREFIX,
    PYPY,
    SLOW,
    alarm,
    run_python,
    start_python,
    thread,
    unique_name,
    wait_for,
    why_always_the_same_user,
)

from named_semaphores import _sysv
from named_semaphores._sysv import MAX_TOKENS, NAME, SysV, list_sets

try:
    _sysv.system()
except NotImplementedError as reason:
    pytest.skip(
        f"NO SYSTEM V SEMAPHORES, ALL OF test_sysv.py IS SKIPPED: {reason}", allow_module_level=True
    )

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(params=profiles.SYSV_NAMES)
def library(request):
    """The calls of each platform."""
    if request.config.getoption("--profile") and request.param not in request.config.getoption(
        "--profile"
    ):
        pytest.skip("another profile")
    return profiles.sysv_library(request.param)


@pytest.fixture
def native():
    return _sysv.system()


@pytest.fixture
def semget():
    """Make a set as another program would. It is removed with the test, if it is still there."""
    made = []

    def semget(key, size, flags=0o3600):
        semid = ctypes.CDLL(None, use_errno=True).semget(key, size, flags)
        assert semid >= 0, ctypes.get_errno()
        made.append(semid)
        return semid

    yield semget
    for semid in made:
        with contextlib.suppress(_sysv.Removed):
            _sysv.system().remove(semid)


def in_child(work):
    """Do the work in a child of fork. Return its exit status."""
    pid = os.fork()
    if not pid:
        status = 99
        with contextlib.suppress(BaseException):
            status = int(work() or 0)
        os._exit(status)
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])


def raised(work):
    """Return the exception that the work raises."""
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def refuses(work, kind, text=""):
    error = raised(work)
    return isinstance(error, kind) and text in str(error)


# Opening and leaving


def test_the_first_creates_the_second_links_the_last_removes(library, name):
    first = library.open(name, 3)
    second = library.open(name, 3)
    assert (first.created, second.created) == (True, False)
    assert first.id == second.id
    assert (first.value(), first.total(), first.created_with(), first.users(), first.waiting()) == (
        3,
        3,
        3,
        2,
        0,
    )
    first.leave()
    assert second.users() == 1
    second.leave()
    assert refuses(second.value, FileNotFoundError)
    assert refuses(lambda: library.open(name, 3, create=False), FileNotFoundError, "no process has")


def test_leaving_twice_counts_once(library, name):
    first, second = library.open(name, 1), library.open(name, 1)
    first.leave()
    first.leave()
    assert second.users() == 1
    second.leave()


def test_leaving_what_was_removed_raises_nothing(library, name):
    first = library.open(name, 1)
    library.open(name, 1).remove()
    first.leave()


def test_only_creating_refuses_what_is_open(library, name):
    first = library.open(name, 1, link=False)
    error = raised(lambda: library.open(name, 1, link=False))
    assert (type(error), error.errno, error.filename) == (FileExistsError, errno.EEXIST, name)
    first.leave()
    assert library.open(name, 1, link=False).leave() is None


def test_creating_anew_removes_the_old_one(library, name):
    old = library.open(name, 1)
    new = library.open(name, 2, anew=True)
    assert new.created
    assert (new.id != old.id, new.value()) == (True, 2)
    assert refuses(old.value, FileNotFoundError)
    old.leave()
    assert new.users() == 1
    new.leave()
    library.open(name, 1, anew=True).leave()


def test_another_number_is_refused_while_somebody_has_it_open(library, name):
    first = library.open(name, 3)
    error = raised(lambda: library.open(name, 5))
    assert type(error) is ValueError
    assert name in str(error)
    assert "3" in str(error)
    assert "5" in str(error)
    assert first.users() == 1
    linked = library.open(name, None)
    assert linked.created_with() == 3
    linked.leave()
    first.leave()


def test_no_number_creates_one_token(library, name):
    only = library.open(name, None)
    assert (only.created, only.value()) == (True, 1)
    only.leave()


def test_what_died_with_its_users_begins_anew(library, name):
    def die_inside():
        ours = library.open(name, 3)
        assert library.semop(*ours.take(2)) == 0
        os.kill(os.getpid(), signal.SIGKILL)

    in_child(die_inside)
    assert refuses(lambda: library.open(name, 3, create=False), FileNotFoundError)
    in_child(die_inside)
    new = library.open(name, 5, link=False)
    assert (new.created, new.value(), new.total()) == (True, 5, 5)
    new.leave()


def test_a_persistent_one_stays_until_it_is_removed(library, name):
    first = library.open(name, 2, persist=True)
    first.resize(3)
    first.leave()
    second = library.open(name, 2)
    assert (second.created, second.total(), second.users()) == (False, 3, 1)
    second.leave()
    assert refuses(lambda: library.open(name, 4), ValueError, "unlink")
    assert refuses(lambda: library.open(name, 2, link=False), FileExistsError)
    third = library.open(name, None, create=False)
    third.remove()
    third.leave()
    assert refuses(lambda: library.open(name, 2, create=False), FileNotFoundError)


def test_one_that_links_can_make_it_persistent(library, name):
    first = library.open(name, 1)
    second = library.open(name, 1, persist=True)
    library.open(name, 1, persist=True).leave()
    second.leave()
    first.leave()
    last = library.open(name, None, create=False)
    last.remove()


def test_the_umask_does_not_cut_the_mode(native, name):
    before = os.umask(0o077)
    try:
        ours = native.open(name, 1, mode=0o666)
    finally:
        os.umask(before)
    assert [listed.mode for listed in list_sets() if listed.name == name] == [0o666]
    ours.leave()


@pytest.mark.parametrize("bare", ["a", "ab", "abcdefg", "x" * 254, "n-ä.ö_ü", "surrogate\udcff"])
def test_names_of_any_length_are_kept(native, bare):
    name = "/" + bare
    if len(os.fsencode(name)) > _sysv.LONGEST_NAME:
        name = name[: _sysv.LONGEST_NAME]
    stored = _sysv.words(name)
    assert _sysv.name_of(stored) == name
    assert all(0 < word < 2**15 for word in stored)
    assert 0 < _sysv.key(name) < 2**31


def test_a_name_of_the_greatest_length_opens_and_a_longer_one_does_not(native):
    name = unique_name().ljust(_sysv.LONGEST_NAME, "x")
    native.open(name, 1).leave()
    error = raised(lambda: native.open(name + "x", 1))
    assert (error.errno, "255" in str(error)) == (errno.ENAMETOOLONG, True)


def test_values_that_are_no_name_are_none():
    assert _sysv.name_of([]) is None
    assert _sysv.name_of([0, 0]) is None
    assert _sysv.name_of(_sysv.words("no slash")) is None
    assert _sysv.name_of([1, *_sysv.words("/x")]) is None


# Tokens


def test_taking_and_giving(library, name):
    ours = library.open(name, 3)
    assert library.semop_now(*ours.try_to_take(2)) == 0
    assert library.semop_now(*ours.try_to_take(2)) == -1
    assert ours.value() == 1
    assert library.semop(*ours.try_to_take(2)) == -1
    assert ctypes.get_errno() == errno.EAGAIN
    assert library.semop(*ours.take()) == 0
    assert ours.value() == 0
    assert library.semop_now(*ours.give(3)) == 0
    assert ours.value() == 3
    ours.leave()


def test_a_waiter_is_counted_and_gets_what_another_thread_gives(library, name):
    ours = library.open(name, 1)
    assert library.semop(*ours.take()) == 0
    got = []
    waiter = threading.Thread(target=lambda: got.append(library.semop(*ours.take())))
    waiter.start()
    wait_for(lambda: ours.waiting() == 1)
    assert library.semop_now(*ours.give()) == 0
    waiter.join()
    assert got == [0]
    assert (ours.waiting(), ours.value()) == (0, 0)
    ours.remove()


def test_a_wait_for_several_takes_none_before_it_takes_all(library, name):
    ours = library.open(name, 3)
    assert library.semop(*ours.take(2)) == 0
    got = []
    waiter = threading.Thread(target=lambda: got.append(library.semop(*ours.take(3))))
    waiter.start()
    wait_for(lambda: ours.waiting() == 1)
    assert ours.value() == 1
    assert library.semop(*ours.give(1)) == 0
    assert ours.value() == 2
    assert library.semop(*ours.give(1)) == 0
    waiter.join()
    assert (got, ours.value()) == ([0], 0)
    ours.remove()


def test_removal_ends_a_wait(library, name):
    ours = library.open(name, 1)
    assert library.semop(*ours.take()) == 0
    got = []

    def wait():
        status = library.semop(*ours.take())
        got.append((status, ctypes.get_errno()))

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_for(lambda: ours.waiting() == 1)
    ours.remove()
    waiter.join()
    assert got == [(-1, errno.EIDRM)]
    assert library.semop(*ours.give()) == -1
    for number in (errno.EIDRM, ctypes.get_errno()):
        error = ours.failure(number)
        assert (type(error), error.filename, "removed" in str(error)) == (
            FileNotFoundError,
            name,
            True,
        )
    assert refuses(ours.remove, FileNotFoundError)
    assert refuses(lambda: ours.resize(2), FileNotFoundError)


def test_a_wait_ends_in_time(library, name):
    ours = library.open(name, 1)
    assert library.wait(ours.id, _sysv.take(1), 0)
    start = time.monotonic()
    assert not library.wait(ours.id, _sysv.take(1), 0.05)
    assert 0.05 <= time.monotonic() - start < 5 * SLOW
    assert library.semop(*ours.give()) == 0
    ours.leave()


def test_a_wait_with_a_time_gets_what_is_given(library, name):
    ours = library.open(name, 1)
    assert library.wait(ours.id, _sysv.take(1), 0)
    got = []
    waiter = threading.Thread(target=lambda: got.append(library.wait(ours.id, _sysv.take(1), 3600)))
    waiter.start()
    if library.has_timed_wait:
        wait_for(lambda: ours.waiting() == 1)
    assert library.semop(*ours.give()) == 0
    waiter.join()
    assert got == [True]
    ours.remove()


def test_resizing_goes_on_after_a_signal(library, name):
    ours = library.open(name, 2)
    assert library.semop(*ours.take(2)) == 0
    seen = []

    def give():  # not in the handler: it may run in the callback of a fake, whose errno it would change
        wait_for(lambda: len(seen) >= 3)
        library.semop(*ours.give())

    with alarm(lambda *_: seen.append(1), 0.01, 0.01), thread(give):
        assert ours.resize(1, 60)
    assert len(seen) >= 3
    ours.remove()


def test_resizing_waits_in_slices(library, name, monkeypatch):
    monkeypatch.setattr(_sysv, "SLICE", 0.001)
    ours = library.open(name, 2)
    assert library.semop(*ours.take(2)) == 0
    waits = []
    monkeypatch.setattr(
        library,
        "wait",
        lambda *arguments: (
            waits.append(arguments) or (len(waits) == 5 and library.operate(*arguments[:2]))
        ),
    )
    assert library.semop(*ours.give()) == 0
    assert ours.resize(1)
    assert [seconds for _, _, seconds in waits] == [0.001 if library.has_timed_wait else 0.02] * 5
    ours.remove()


def test_as_many_tokens_as_there_can_be(native, name):
    ours = native.open(name, MAX_TOKENS)
    assert native.semop(*ours.take(MAX_TOKENS)) == 0
    assert ours.value() == 0
    assert native.semop(*ours.give(MAX_TOKENS)) == 0
    assert native.semop(*ours.give(1)) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert "32767" in str(ours.failure(errno.ERANGE))
    assert ours.resize(1)
    assert ours.resize(MAX_TOKENS)
    assert ours.value() == MAX_TOKENS
    ours.leave()


# Resizing


def test_resize_changes_the_total_in_one_step(library, name):
    ours = library.open(name, 2)
    assert library.semop(*ours.take(2)) == 0
    assert ours.resize(5)
    assert (ours.value(), ours.total(), ours.created_with()) == (3, 5, 2)
    assert ours.resize(5)
    assert ours.resize(2)
    assert (ours.value(), ours.total()) == (0, 2)
    other = library.open(name, 2)
    assert (other.created_with(), other.total()) == (2, 2)
    other.leave()
    ours.leave()


def test_fewer_wait_until_as_many_are_free(library, name):
    ours = library.open(name, 3)
    assert library.semop(*ours.take(2)) == 0
    start = time.monotonic()
    assert not ours.resize(1, 0)
    assert not ours.resize(1, 0.05)
    assert 0.05 <= time.monotonic() - start < 5 * SLOW
    assert (ours.value(), ours.total()) == (1, 3)
    got = []
    waiter = threading.Thread(target=lambda: got.append(ours.resize(1)))
    waiter.start()
    if library.has_timed_wait:
        wait_for(lambda: ours.waiting() == 1)
    assert library.semop(*ours.give()) == 0
    waiter.join()
    assert (got, ours.value(), ours.total()) == ([True], 0, 1)
    ours.remove()


def test_two_that_resize_at_once_do_not_add_up(library, name):
    ours = library.open(name, 3)
    assert library.semop(*ours.take(3)) == 0
    got = []
    waiter = threading.Thread(target=lambda: got.append(ours.resize(1)))
    waiter.start()
    if library.has_timed_wait:
        wait_for(lambda: ours.waiting() == 1)
    assert ours.resize(6)
    assert library.semop(*ours.give(3)) == 0
    waiter.join()
    wait_for(lambda: ours.total() == 1)
    assert (got, ours.value(), ours.total()) == ([True], 1, 1)
    ours.remove()


def test_a_resize_outlives_its_process(library, name):
    ours = library.open(name, 2)
    assert in_child(lambda: 0 if library.open(name, 2).resize(4) else 1) == 0
    wait_for(lambda: ours.users() == 1)
    assert (ours.value(), ours.total()) == (4, 4)
    ours.leave()


# Processes


def test_what_a_killed_process_held_comes_back_and_wakes_a_waiter(library, name):
    ours = library.open(name, 3)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        theirs = library.open(name, 3)
        library.semop(*theirs.take(3))
        os.write(write, b"x")
        signal.pause()
        os._exit(1)
    os.read(read, 1)
    assert (ours.value(), ours.users()) == (0, 2)
    got = []
    waiter = threading.Thread(target=lambda: got.append(library.semop(*ours.take(2))))
    waiter.start()
    wait_for(lambda: ours.waiting() == 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    waiter.join()
    os.close(read)
    os.close(write)
    assert (got, ours.value(), ours.users()) == ([0], 1, 1)
    ours.remove()


def test_a_program_executed_in_its_place_keeps_what_the_process_held(native, name):
    code = (
        "import os, sys; from named_semaphores import _sysv; library = _sysv.system(); ours = library.open(sys.argv[1], 2)\n"
        "assert library.semop(*ours.take()) == 0\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'print(1, flush=True); input()'])"
    )
    ours = native.open(name, 2)
    with start_python(code, name) as process:
        assert process.stdout.readline() == "1\n"
        assert (ours.value(), ours.users()) == (1, 2)
        process.communicate("\n")
    assert (ours.value(), ours.users()) == (2, 1)
    ours.leave()


def test_a_child_of_fork_counts_when_it_has_rejoined(library, name):
    ours = library.open(name, 1)

    def child():
        ours.leave()  # the parent's, not the child's
        if ours.users() != 1:
            return 1
        again = library.open(name, 1)
        copy = _sysv.Set(library, name, again.id, 1, False)
        copy._joined = [os.getppid()]
        copy.rejoin()
        if copy.users() != 3:
            return 2
        copy.leave()
        return 0 if again.users() == 2 else 3

    assert in_child(child) == 0
    wait_for(lambda: ours.users() == 1)
    ours.remove()
    assert in_child(lambda: 0 if refuses(ours.rejoin, FileNotFoundError, "removed") else 1) == 0


def test_a_child_with_its_parents_process_number_counts_too(library, name):
    # Both may be process 1 of a namespace.
    ours = library.open(name, 1)

    def child():
        ours._joined = [os.getpid()]
        ours.rejoin()
        return 0 if ours.users() == 2 else 1

    assert in_child(child) == 0
    ours.leave()


def test_what_another_process_joined_it_alone_leaves(library, name):
    ours = library.open(name, 1)
    ours._joined = [os.getpid() + 1]  # as after a fork
    ours.leave()
    assert ours.users() == 1
    ours.rejoin()
    assert ours.users() == 2
    ours.remove()


def test_a_child_gives_back_nothing_that_its_parent_holds(library, name):
    ours = library.open(name, 2)
    assert library.semop(*ours.take()) == 0
    assert in_child(lambda: 0) == 0
    assert ours.value() == 1
    assert library.semop(*ours.give()) == 0
    ours.leave()


@pytest.mark.skipif(
    not EXACT or "coverage" in sys.modules,
    reason="an exception may land in other code: before 3.11, or in a tracer",
)
def test_a_signal_in_open_and_leave_never_lowers_the_users_of_others(native, name):
    code = """
import signal, sys
from named_semaphores import _sysv
library, name, semid = _sysv.system(), sys.argv[1], int(sys.argv[2])
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)
current = library.open(name, 2)
for i in range(1000):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + i % 100 / 1000000)
        for _ in range(100):
            current = library.open(name, 2)
            current.leave()
    except Stop:
        current.leave()
    if library.value(semid, _sysv.USERS) < 1:
        sys.exit("too low")
"""
    ours = native.open(name, 2)
    result = run_python(code, name, str(ours.id))
    assert (result.returncode, result.stderr) == (0, "")
    assert (ours.users(), ours.value()) == (1, 2)
    ours.leave()


KILLS = """
import sys
sys.path.insert(0, sys.argv[1])
import kills
from kills import _sysv
{fault}
print(kills.run({count}, {prefix!r}))
"""


def run_kills(count, fault=""):
    return run_python(
        KILLS.format(fault=fault, count=count, prefix=PREFIX),
        os.path.join(HERE, "tools", "stress"),
        seconds=60 + count / 10,
    )


def test_kills_lose_and_gain_nothing(full):
    result = run_kills(20_000 if full else 60 if PYPY else 300)  # a fork of PyPy takes its time
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 lost, 0 gained" in result.stdout


@pytest.mark.parametrize(
    "fault",
    [
        "_sysv.take = lambda n, flags=0: [(_sysv.TOKENS, -n, flags)]",
        "_sysv.give = lambda n: [(_sysv.TOKENS, n, 0)]",
    ],
)
def test_kills_find_a_fault(fault):
    result = run_kills(100, fault)
    assert result.returncode == 1
    assert "AssertionError" in result.stderr


# Other users and other programs


as_root = pytest.mark.skipif(
    why_always_the_same_user() is not None, reason=f"{why_always_the_same_user()}"
)


def as_another_user(work):
    """Do the work in a child of fork that belongs to another user. Return its exit status."""

    def child():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        return work()

    return in_child(child)


@as_root
def test_another_user_is_told_whose_it_is(library, name):
    ours = library.open(name, 1, mode=0o600)

    def work():
        error = raised(lambda: library.open(name, 1))
        if (
            not isinstance(error, PermissionError)
            or error.filename != name
            or "user 0" not in str(error)
            or "0600" not in str(error)
        ):
            return 1
        return 0 if refuses(lambda: library.open(name, 1, anew=True), PermissionError) else 2

    assert as_another_user(work) == 0
    assert (ours.value(), ours.users()) == (1, 1)
    ours.leave()


@as_root
def test_another_user_shares_it_if_the_mode_lets_them(library, name):
    ours = library.open(name, 2, mode=0o666)

    def work():
        theirs = library.open(name, 2)
        if library.semop(*theirs.take()) or theirs.value() != 1 or theirs.users() != 2:
            return 1
        if not refuses(theirs.remove, PermissionError, "user 0"):
            return 2
        if not refuses(lambda: library.open(name, 2, anew=True), PermissionError):
            return 3
        theirs.leave()
        return 0 if theirs.users() == 1 else 4

    assert as_another_user(work) == 0
    wait_for(lambda: ours.value() == 2)
    ours.leave()


@as_root
def test_an_idle_one_of_another_user_is_used_if_it_is_as_a_new_one_would_be(library, name):
    ours = library.open(name, 2, mode=0o666)

    def last_user():
        theirs = library.open(name, 2)
        while theirs.users() != 1:
            time.sleep(0.001)
        theirs.leave()
        if theirs.users() != 0 or not refuses(
            lambda: library.open(name, 2, create=False), FileNotFoundError
        ):
            return 1
        again = library.open(name, 2, link=False)
        if not again.created or again.id != theirs.id or again.users() != 1:
            return 2
        again.resize(3)
        again.leave()
        for total in (None, 2, 3):
            if not refuses(lambda total=total: library.open(name, total), PermissionError, "ipcrm"):
                return 3
        return 0

    pid = os.fork()
    if not pid:
        os._exit(as_another_user(last_user))
    wait_for(lambda: ours.users() == 2)
    ours.leave()
    assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 0
    new = library.open(name, 5)  # root may remove it
    assert (new.created, new.total()) == (True, 5)
    new.leave()


def guest(monkeypatch, denied=("IPC_RMID", "IPC_SET"), number=errno.EPERM):
    """Return the native calls, as for a user who may not remove the sets of this one."""
    library = _sysv.load()
    commands = [getattr(library.system, command) for command in denied]
    real = library._semctl

    def semctl(semid, number_of_semaphore, command, *more):
        if command in commands:
            ctypes.set_errno(number)
            return -1
        return real(semid, number_of_semaphore, command, *more)

    monkeypatch.setattr(library, "_semctl", semctl)
    return library


def test_a_guest_leaves_it_idle_and_uses_an_idle_one(monkeypatch, native, name):
    library = guest(monkeypatch)
    idle = native.open(name, 2)
    theirs = library.open(name, 2)
    idle._joined.clear()  # as if it had left without a look at it
    native.operate(idle.id, _sysv.LEAVE)
    theirs.leave()
    assert (theirs.users(), theirs.value()) == (0, 2)
    assert refuses(lambda: library.open(name, 2, create=False), FileNotFoundError)
    assert refuses(
        lambda: library.open(name, 2, anew=True), PermissionError, f"user {os.geteuid()}"
    )
    for total in (2, None):
        again = library.open(name, total, link=False)
        assert (again.id, again.created, again.users()) == (idle.id, True, 1)
        again.leave()
    assert refuses(lambda: library.open(name, 3), PermissionError, f"ipcrm -s {idle.id}")
    new = native.open(name, 3)
    assert (new.created, new.total()) == (True, 3)
    assert refuses(library.open(name, 3).remove, PermissionError)
    new.remove()


def test_a_guest_waits_for_a_removal_that_another_has_begun(monkeypatch, native, name):
    library = guest(monkeypatch)
    ours = native.open(name, 2)
    native.operate(ours.id, _sysv.LEAVE)
    assert native.operate(ours.id, _sysv.REMOVE_IDLE)
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            native.remove(ours.id)

    monkeypatch.setattr(library, "sleep", sleep)
    theirs = library.open(name, 3)
    assert (len(pauses), theirs.created, theirs.total()) == (3, True, 3)
    native.remove(theirs.id)


def test_a_child_cannot_rejoin_what_is_being_removed(native, name):
    ours = native.open(name, 1)
    native.operate(ours.id, _sysv.LEAVE)
    assert native.operate(ours.id, _sysv.REMOVE_IDLE)
    ours._joined = [os.getpid() + 1]
    assert refuses(ours.rejoin, FileNotFoundError, "removed")
    native.remove(ours.id)


def test_a_removal_that_another_has_begun_is_finished(library, name):
    ours = library.open(name, 2)
    library.operate(ours.id, _sysv.LEAVE)
    assert library.operate(ours.id, _sysv.REMOVE_IDLE)
    new = library.open(name, 3, link=False)
    assert (new.created, new.id != ours.id) == (True, True)
    ours.leave()
    assert new.users() == 1
    new.leave()


def test_a_guest_may_not_even_read_it(monkeypatch, native, name, semget):
    library = guest(monkeypatch, ("GETVAL", "GETALL"), errno.EACCES)
    ours = native.open(name, 1)
    private, small = (
        semget(0, NAME + 5),
        semget(_sysv.key(name) ^ 1, NAME),
    )  # no key, and no room for a name: not this package's
    real = _sysv._listed
    monkeypatch.setattr(
        _sysv, "_listed", lambda: sorted(real(), key=lambda found: found[1] == ours.id)
    )  # ours is not the first
    error = raised(lambda: library.open(name, 1))
    assert (type(error), error.errno) == (PermissionError, errno.EACCES)
    assert (
        f"set {ours.id} belongs to user {os.geteuid()}, group {os.getegid()}, with mode 0600"
        in str(error)
    )
    monkeypatch.setattr(_sysv, "_found", library)
    listing = {listed.id: listed for listed in list_sets()}
    assert not listing.keys() & {private, small}
    found = listing[ours.id]
    assert (found.name, found.free, found.mode) == (None, None, 0o600)
    monkeypatch.undo()
    ours.leave()


def test_permission_errors_without_a_listing(monkeypatch, native, name):
    monkeypatch.setattr(_sysv, "_listed", lambda: iter(()))
    assert "another user" in str(native.failure(PermissionError(errno.EACCES, ""), name))


def test_systems_without_a_listing_list_nothing(monkeypatch, native):
    monkeypatch.setattr(
        "builtins.open", lambda *arguments, **options: (_ for _ in ()).throw(FileNotFoundError)
    )
    assert list_sets() == []


def test_a_set_that_is_removed_meanwhile_is_not_listed(monkeypatch, native, name):
    ours = native.open(name, 1)
    monkeypatch.setattr(
        native, "waiters", lambda *arguments: native.remove(ours.id) or native.value(ours.id, 0)
    )
    assert name not in [listed.name for listed in list_sets()]


@as_root
def test_a_listing_shows_what_this_user_may_not_read_without_values(native, name):
    ours = native.open(name, 1)

    def work():
        found = [listed for listed in list_sets() if listed.id == ours.id]
        if len(found) != 1 or found[0].name is not None or found[0].free is not None:
            return 1
        return 0 if (found[0].uid, found[0].mode) == (0, 0o600) else 2

    assert as_another_user(work) == 0
    ours.leave()


def test_a_listing_shows_ours_alone(native, name, semget):
    ours = native.open(name, 3)
    foreign, blank = semget(_sysv.key(name) ^ 1, NAME + 3), semget(_sysv.key(name) ^ 2, NAME + 3)
    assert native.operate(foreign, [(_sysv.LIVE, 1, 0)])
    assert native.semop(*ours.take()) == 0
    (found,) = (listed for listed in list_sets() if listed.name == name)
    assert (found.id, found.free, found.total, found.users) == (ours.id, 2, 3, 1)
    assert (found.waiting, found.persistent, found.mode) == (0, False, 0o600)
    assert abs(found.ctime - time.time()) < 60
    assert not {foreign, blank} & {listed.id for listed in list_sets() if listed.name is not None}
    ours.leave()


@pytest.mark.parametrize("more", [-3, 0, 5])
def test_another_programs_set_is_refused_and_left_alone(library, name, semget, more):
    size = NAME + len(_sysv.words(name)) + more
    foreign = semget(_sysv.key(name), size)
    assert library.operate(foreign, [(2, 4, 0)])
    for options in ({}, {"link": False}, {"create": False}, {"anew": True}):
        error = raised(lambda options=options: library.open(name, 1, **options))
        assert (type(error), error.filename) == (FileExistsError, name)
        assert "another program" in str(error)
        assert "another name" in str(error)
    assert library.values(foreign, size) == [0, 0, 4, *[0] * (size - 3)]


def test_another_programs_set_with_a_value_where_ours_is_not_ready_is_refused(
    library, name, semget
):
    size = NAME + len(_sysv.words(name))
    for number in (0, NAME):
        foreign = semget(_sysv.key(name), size)
        assert library.operate(foreign, [(number, 4, 0)])
        assert refuses(lambda: library.open(name, 1), FileExistsError, "another program")
        library.remove(foreign)


def test_another_name_with_the_same_key_is_refused(library, monkeypatch):
    number = _sysv.key(unique_name() + ".key")
    monkeypatch.setattr(_sysv, "key", lambda name: number)
    one, other, longer = f"/{PREFIX}.one", f"/{PREFIX}.two", f"/{PREFIX}.three.and.more"
    ours = library.open(one, 1)
    assert refuses(lambda: library.open(other, 1), FileExistsError, one)
    assert refuses(lambda: library.open(longer, 1), FileExistsError)
    assert refuses(lambda: library.open(other, 1, anew=True), FileExistsError, one)
    assert ours.users() == 1
    ours.leave()
    library.open(other, 1).leave()


# Errors


def failing(monkeypatch, symbol, number, condition=lambda *arguments: True):
    """Return the native calls, of which one fails."""
    library = _sysv.load()
    real = getattr(library, symbol)

    def fail(*arguments):
        if condition(*arguments):
            ctypes.set_errno(number)
            return -1
        return real(*arguments)

    monkeypatch.setattr(library, symbol, fail)
    return library


@pytest.mark.parametrize(
    ("symbol", "number", "kind", "text"),
    [
        ("_semget", errno.ENOSPC, OSError, "kernel.sem"),
        ("_semget", errno.ENOMEM, OSError, "memory"),
        ("_semget", errno.ENOSYS, NotImplementedError, "no System V semaphores"),
        ("semop", errno.ENOSPC, OSError, "ipcs -s"),
        ("semop", errno.ENOMEM, OSError, "memory"),
        ("semop", errno.EACCES, PermissionError, "set"),
        ("semop", errno.ERANGE, OSError, "32767"),
        ("semop", errno.EINVAL, OSError, "one process"),
        ("semop", errno.EIO, OSError, os.strerror(errno.EIO)),
    ],
)
def test_errors_say_what_helps(monkeypatch, native, name, symbol, number, kind, text):
    monkeypatch.setattr(_sysv, "remove_idle_sets", list)  # there may be idle sets of others
    error = raised(lambda: failing(monkeypatch, symbol, number).open(name, 1))
    assert isinstance(error, kind)
    assert text in str(error)
    if kind is not NotImplementedError:
        assert (error.errno, error.filename) == (number, name)
    native.open(name, 1, anew=True).leave()


def test_idle_sets_make_room(monkeypatch, name):
    rooms = []
    monkeypatch.setattr(_sysv, "remove_idle_sets", lambda: rooms.append("removed") or rooms)
    library = failing(
        monkeypatch, "_semget", errno.ENOSPC, lambda key, size, flags: flags and len(rooms) < 2
    )
    library.open(name, 1).leave()
    assert rooms == ["removed"] * 2


def test_only_sets_without_users_are_removed(native, monkeypatch):
    used, idle, stays = (
        native.open(unique_name(), 1, persist=persist) for persist in (False, False, True)
    )
    mine = {ours.name for ours in (used, idle, stays)}
    real = list_sets
    monkeypatch.setattr(
        _sysv, "list_sets", lambda: [listed for listed in real() if listed.name in mine]
    )
    native.operate(idle.id, _sysv.LEAVE)
    stays.leave()
    assert _sysv.idle_sets() == [idle.name]
    assert _sysv.idle_sets(mine) == sorted([idle.name, stays.name])
    assert _sysv.remove_idle_sets() == [idle.name]
    assert _sysv.remove_idle_sets(mine) == [stays.name]
    assert _sysv.remove_idle_sets(mine) == []
    assert (idle.is_gone(), stays.is_gone(), used.is_gone()) == (True, True, False)
    used.leave()


def test_what_is_used_or_removed_meanwhile_is_not_removed(native, monkeypatch):
    ours, removed = native.open(unique_name(), 1), native.open(unique_name(), 1)
    native.operate(ours.id, _sysv.LEAVE)
    native.operate(removed.id, _sysv.LEAVE)
    found = [listed for listed in list_sets() if listed.id in (ours.id, removed.id)]
    monkeypatch.setattr(_sysv, "list_sets", lambda: found)
    again = _sysv.Set(native, ours.name, ours.id, 1, False)
    again.rejoin()
    removed.remove()
    assert _sysv.remove_idle_sets() == []
    assert again.users() == 1
    again.leave()


def test_a_persistent_one_that_is_being_removed_is_waited_for(monkeypatch, native, name):
    ours = native.open(name, 2, persist=True)
    native.operate(ours.id, _sysv.LEAVE)
    assert native.operate(ours.id, _sysv.REMOVE_UNUSED)
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            native.remove(ours.id)

    monkeypatch.setattr(native, "sleep", sleep)
    new = native.open(name, 3)
    assert (len(pauses), new.created) == (3, True)
    new.leave()


def test_a_set_too_large_for_the_system_is_said_to_be_a_name_too_long(monkeypatch, name):
    library = failing(monkeypatch, "_semget", errno.EINVAL, lambda key, size, flags: flags)
    error = raised(lambda: library.open(name, 1))
    assert (error.errno, "kernel.sem" in str(error)) == (errno.ENAMETOOLONG, True)


def test_linux_says_so_before_it_looks_for_the_set(monkeypatch, name):
    library = failing(monkeypatch, "_semget", errno.EINVAL, lambda key, size, flags: size)
    error = raised(lambda: library.open(name, 1))
    assert (error.errno, "kernel.sem" in str(error)) == (errno.ENAMETOOLONG, True)


def test_openbsd_has_no_room_for_a_long_name():
    library = profiles.sysv_library("openbsd")
    error = raised(lambda: library.open(unique_name().ljust(120, "x"), 1))
    assert (error.errno, "kern.seminfo" in str(error)) == (errno.ENAMETOOLONG, True)


@pytest.mark.parametrize("profile", ["macos", "netbsd", "openbsd"])
def test_more_sets_than_one_process_may_use_there_are_refused(profile):
    library = profiles.sysv_library(profile)
    opened = [library.open(unique_name(), 1) for _ in range(10)]
    refused = unique_name()
    error = raised(lambda: library.open(refused, 1))
    assert (error.errno, "one process" in str(error)) == (errno.EINVAL, True)
    opened.pop().leave()
    opened.append(
        library.open(refused, 1)
    )  # the set is there, not ready: whoever may use one more makes it ready
    assert (opened[-1].created, opened[-1].value()) == (True, 1)
    for ours in opened:
        ours.leave()


# Platforms


@pytest.mark.parametrize(
    "platform", ["cygwin", "msys", "android", "emscripten", "wasi", "win32", "aix", "ios"]
)
def test_refused_systems_get_no_call(monkeypatch, platform):
    def never(*arguments):
        raise AssertionError("a library was loaded")

    monkeypatch.setattr(_sysv.ctypes, "CDLL", never)
    assert refuses(lambda: _sysv.load(platform), NotImplementedError, platform)
    assert refuses(lambda: SysV(None, platform), NotImplementedError, platform)


def test_android_of_before_3_13_gets_no_call_though_it_says_linux(monkeypatch):
    monkeypatch.setattr(sys, "getandroidapilevel", lambda: 30, raising=False)
    monkeypatch.setattr(_sysv.ctypes, "CDLL", lambda *arguments: 1 / 0)
    assert refuses(lambda: _sysv.load("linux"), NotImplementedError, "android")


def test_a_library_without_the_calls_is_refused(monkeypatch):
    monkeypatch.setattr(_sysv.ctypes, "CDLL", lambda *arguments: object())
    assert refuses(lambda: _sysv.load("linux"), NotImplementedError, "linux")


def test_the_running_systems_calls_are_found_once():
    assert _sysv.system() is _sysv.system()


@pytest.mark.parametrize("profile", ["glibc32", "musl32"])
def test_32_bit_systems_wait_by_the_symbol_with_64_bit_time(profile, name):
    library = profiles.sysv_library(profile)
    ours = library.open(name, 1)
    plain = library.lib.plain_calls
    assert library.wait(ours.id, _sysv.take(1), 1)
    start = time.monotonic()
    assert not library.wait(ours.id, _sysv.take(1), 0.05)
    assert time.monotonic() - start >= 0.05
    assert library.lib.plain_calls == plain
    ours.remove()


def test_who_has_a_timed_wait():
    have = {name for name in profiles.SYSV_NAMES if profiles.sysv_library(name).has_timed_wait}
    assert have == {"native", "illumos", "musl", "glibc32", "musl32"}


def test_semctl_declares_three_parameters_and_so_is_called_as_variadic(library):
    assert tuple(library._semctl.argtypes) == (ctypes.c_int,) * 3


def test_no_transition_has_more_than_five_operations():
    transitions = [_sysv.JOIN, _sysv.LEAVE, _sysv.STAY, _sysv.REMOVE_IDLE, _sysv.TAKE_OVER]
    transitions += [
        _sysv.make_ready(1),
        _sysv.take(1),
        _sysv.take_of_total(2),
        _sysv.give(1),
        _sysv.resize(1, 2),
        _sysv.write_name(0, [1, 2, 3, 4]),
    ]
    assert max(map(len, transitions)) == 5
