# SPDX-License-Identifier: Apache-2.0
"""What NamedSemaphore does beyond the contract, on every platform profile.

Where platforms differ, a test says what each does.
"""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import kinds
import pytest
from kinds import bound, file_of, libc_of, tokens
from support import (
    NOBODY,
    SLOW,
    collect,
    start_python,
    thread,
    why_always_the_same_user,
)

from named_semaphores import NamedSemaphore
from named_semaphores._libc import OTHER_SIZE, OTHERS, SIZE

KINDS = kinds.POSIX
Flags = NamedSemaphore.Flags
LINK = Flags.RAISE_IF_NOT_EXISTS
needs_root = pytest.mark.skipif(
    why_always_the_same_user() is not None, reason=f"{why_always_the_same_user()}"
)


@pytest.fixture
def sem(kind, name):
    """A new semaphore with two tokens; its name goes with it."""
    sem = kind.cls(name, 2, Flags.RAISE_IF_EXISTS)
    yield sem
    sem.close()


# --- creating and linking


def test_a_link_ignores_the_initial_value(kind, sem):
    link = kind.cls(sem.name, 7)
    assert tokens(link) == 2
    link.close()


@pytest.mark.parametrize("value", [0, 1, 1000])
def test_the_initial_value_is_the_number_of_tokens(kind, name, value):
    sem = kind.cls(name, value)
    assert tokens(sem) == value
    sem.close()


def test_an_initial_value_of_one_more_than_the_maximum(kind, name):
    bad = kind.libc.value_max + 1
    with pytest.raises(ValueError, match=f"from 0 to {bad - 1}, not {bad}"):
        kind.cls(name, bad)
    assert not kind.exists(name)


def test_the_longest_name_works_and_one_longer_is_refused(kind, name):
    longest = kind.libc.longest_name
    if longest < 1000:  # a system that knows no limit has none to test
        sem = kind.cls(name.ljust(longest, "x"))
        assert kind.exists(sem.name)
        sem.close()
        with pytest.raises(
            OSError,
            match=f"at most {longest} bytes here, its slash included, and this one {longest + 1}",
        ) as raised:
            kind.cls(name.ljust(longest + 1, "x"))
        assert raised.value.errno == errno.ENAMETOOLONG


def test_the_mode_is_that_of_the_file(kind, name):
    before = os.umask(0o027)
    try:
        sem = kind.cls(name, mode=0o666)
    finally:
        os.umask(before)
    # macOS takes it as it is, OpenBSD does not take it.
    expected = {"darwin": 0o666, "openbsd7": 0o600}.get(kind.libc.platform, 0o640)
    assert os.stat(file_of(name, kind.cls)).st_mode & 0o7777 == expected
    sem.close()


# --- tokens


def test_anybody_may_release(kind, name):
    # Also what nobody took: so processes signal to each other.
    sem = kind.cls(name, 0)
    link = kind.cls(name)
    with thread(sem.acquire) as got:
        link.release()
    assert got == [True]
    link.release(3)
    assert tokens(sem) == 3
    link.close()
    sem.close()


def test_value_is_not_negative_while_a_thread_waits(kind, name):
    sem = kind.cls(name, 0)
    with thread(sem.acquire):
        time.sleep(0.02)  # there is no telling that it waits; too short a time only tests less
        assert "value=0" in repr(sem) or not kind.tells_value
        sem.release()
    sem.close()


def test_release_past_the_maximum_releases_nothing(kind, sem):
    maximum = kind.libc.value_max
    n = maximum - 1
    if not kind.tells_value:  # nor does macOS check
        with pytest.raises(OSError, match=f"{maximum + 1} more would pass the maximum, {maximum}"):
            sem.release(maximum + 1)
        assert tokens(sem) == 2
        return
    with pytest.raises(
        OSError, match=f"its value is 2, {n} more would pass the maximum, {maximum}"
    ) as raised:
        sem.release(n)
    assert raised.value.errno == errno.EOVERFLOW
    assert raised.value.filename == sem.name
    assert sem.value == 2


def test_at_the_maximum_one_more_is_refused(kind, name):
    maximum = kind.libc.value_max
    if (
        maximum > 2**31 - 1
    ):  # more than the host's semaphores have, so here even the fake refuses it
        with pytest.raises(OSError, match=name):
            kind.cls(name, maximum)
        return
    sem = kind.cls(name, maximum)
    if not kind.tells_value:
        sem.release()
        sem.close()
        return
    assert sem.value == maximum
    for n in (1, 2):
        if n == 1 and kind.libc.platform == "cygwin":  # its sem_post does nothing, and returns 0
            sem.release()
            continue
        with pytest.raises(OSError, match=str(maximum)) as raised:
            sem.release(n)
        assert raised.value.errno == errno.EOVERFLOW
        assert raised.value.filename == name
    with sem:
        assert sem.value == maximum - 1
    assert sem.value == maximum
    sem.close()


@pytest.mark.native
def test_a_million_tokens_can_be_released_at_once_and_no_more(kind, name):
    # All are posted with the GIL kept and signals unheard.
    sem = kind.cls(name, 0)
    sem.release(1_000_000)
    for n in (1_000_001, 20_000_000):
        with pytest.raises(
            ValueError, match=f"'{name}': n must be an int from 1 to 1000000, not {n}"
        ):
            sem.release(n)
    assert sem.value == 1_000_000
    sem.close()


# --- the name


@pytest.mark.parametrize(("given", "unlinked"), [(None, True), (True, True), (False, False)])
def test_the_creator_unlinks_the_name_unless_told_not_to(kind, name, given, unlinked):
    sem = kind.cls(name, unlink_on_delete=given)
    assert sem.unlink_on_delete is unlinked
    sem.close()
    assert sem.unlink_on_delete is unlinked
    assert kind.exists(name) is not unlinked
    if not unlinked:
        kind.cls(name, unlink_on_delete=True).close()


@pytest.mark.parametrize(("given", "unlinked"), [(None, False), (True, True), (False, False)])
def test_a_linked_object_unlinks_the_name_only_if_told_to(kind, sem, given, unlinked):
    link = kind.cls(sem.name, unlink_on_delete=given)
    assert link.unlink_on_delete is unlinked
    link.close()
    assert kind.exists(sem.name) is not unlinked


def test_the_creator_may_close_first(kind, name):
    sem, link = kind.cls(name, 2), kind.cls(name)
    sem.close()
    assert not kind.exists(name)
    assert tokens(link) == 2
    with link:
        assert tokens(link) == 1
    link.close()


@pytest.mark.parametrize("closed", [True, False])
def test_clean_up_leaves_a_successor_where_the_system_can_tell_it_apart(kind, name, closed):
    sem = kind.cls(name, 1)
    sem.unlink()
    successor = kind.cls(name, 3, Flags.RAISE_IF_EXISTS)
    if closed:
        sem.close()
    del sem
    collect()
    assert kind.exists(name) is (kind.libc.files is not None)
    assert tokens(successor) == 3
    successor.close()
    assert not kind.exists(name)


def test_clean_up_of_an_unlinked_name_is_quiet(kind, name):
    sem = kind.cls(name)
    sem.unlink()
    sem.close()
    assert sem.closed


# --- other users; test_errors.py and test_cleanup.py test the same with fakes


@needs_root
def test_another_users_semaphore_is_refused(kind, name):
    sem = kind.cls(name, mode=0o600)
    os.seteuid(NOBODY)
    try:
        for flag in (Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS, Flags.UNLINK_AND_CREATE):
            with pytest.raises(PermissionError) as raised:
                kind.cls(name, handle_existence=flag)
            assert raised.value.filename == name
            if kind.libc.files:
                assert "it belongs to user 0, group 0, with mode 0600" in str(raised.value)
        with pytest.raises(FileExistsError):
            kind.cls(name, handle_existence=Flags.RAISE_IF_EXISTS)
        with pytest.raises(PermissionError):
            sem.unlink()
        collect()
    finally:
        os.seteuid(0)
    assert kind.exists(name)
    sem.close()


@needs_root
@pytest.mark.parametrize("closed", [True, False])
def test_a_name_that_may_not_be_unlinked_is_reported_once(kind, name, closed):
    sem = kind.cls(name, mode=0o666)
    os.seteuid(NOBODY)
    try:
        if closed:
            with pytest.raises(PermissionError) as raised:
                sem.close()
            assert raised.value.filename == name
            assert sem.closed
            sem.close()
        else:
            with pytest.warns(RuntimeWarning, match=f"could not be unlinked.*{name}"):
                del sem
                collect()
    finally:
        os.seteuid(0)
    assert kind.exists(name)
    kind.cls(name, unlink_on_delete=True).close()


# --- what may lie under a name on Linux, where semaphores are files


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/shm is Linux's")


@pytest.fixture
def path(name):
    """Where the semaphore's file is, to be made; the test's end removes it."""
    path = Path(file_of(name))
    yield path
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def assert_not_linked(name, text):
    """Assert that nothing links to the file, and that it is there nevertheless."""
    with pytest.raises(FileExistsError, match=name):
        NamedSemaphore(name, 1, Flags.RAISE_IF_EXISTS)
    for flag in (Flags.LINK_OR_CREATE, LINK):
        with pytest.raises(OSError, match=f"{text}.*{name}") as raised:
            NamedSemaphore(name, 1, flag)
        assert raised.value.filename == name


@on_linux
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.mkdir(), id="directory"),
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), id="link"),
        pytest.param(lambda path: path.symlink_to(path), id="loop"),
    ],
)
def test_only_a_regular_file_is_a_semaphore(name, path, make):
    make(path)
    before = path.lstat()
    assert_not_linked(name, f"{path} is no regular file, so no semaphore")
    assert path.lstat() == before
    if not path.is_dir():
        NamedSemaphore(name, 1, Flags.UNLINK_AND_CREATE).close()
        assert not os.path.lexists(path)


@on_linux
@pytest.mark.parametrize("size", [0, SIZE - 1, OTHER_SIZE])
def test_a_file_too_short_or_of_the_other_word_size_is_not_linked(name, path, size):
    path.write_bytes(b"\0" * size)
    other = f"it is the semaphore of a {OTHERS} program, which works differently"
    short = f"its file has {size} bytes and is too short to be a semaphore"
    assert_not_linked(name, other if size == OTHER_SIZE else short)
    NamedSemaphore(name, 1, Flags.UNLINK_AND_CREATE).close()
    assert not path.exists()


@on_linux
def test_a_longer_file_is_linked(name, path):
    sem = NamedSemaphore(name, 2)
    with path.open("ab") as file:
        file.write(bytes(4096))
    link = NamedSemaphore(name)
    assert tokens(link) == 2
    link.close()
    sem.close()


@on_linux
def test_clean_up_leaves_another_file(name, path):
    sem = NamedSemaphore(name)
    sem.unlink()
    path.write_bytes(b"")
    sem.close()
    assert path.exists()


def test_musls_names_are_no_directories():
    for bad in (".", ".."):
        with pytest.raises(OSError, match="Invalid") as raised:
            kinds.kind("musl").cls(bad)
        assert raised.value.filename == f"/{bad}"


# --- the system interrupts, or another process comes between two calls


def raced(name, symbol, number, do):
    """Return musl's class, where another process does something before one call, and the calls."""
    theirs = kinds.kind("musl").cls._libc
    calls = []

    class Raced(type(theirs.lib)):
        def call(self, symbol_, function, *arguments):
            calls.append(symbol_)
            if symbol_ == symbol and calls.count(symbol) == number:
                do(theirs, name)
            return function(*arguments)

        def do_sem_open(self, name, oflag, *more):
            return self.call("create" if oflag else "link", super().do_sem_open, name, oflag, *more)

        def do_sem_unlink(self, name):
            return self.call("unlink", super().do_sem_unlink, name)

    return bound(Raced(), "linux"), calls


def make(libc, name):
    libc.create(name, 0o600, 9)


def remove(libc, name):
    libc.unlink(name)


def replace(libc, name):
    remove(libc, name)
    make(libc, name)


def interrupt(libc, name):
    raise InterruptedError(errno.EINTR, "")


@pytest.mark.parametrize("step", ["link", "create"])
def test_an_opening_that_a_signal_interrupts_is_repeated(name, step):
    cls, calls = raced(name, step, 1, interrupt)
    sem = cls(name)
    assert not sem.linked_existing_semaphore
    assert calls.count(step) == 2
    sem.close()


def test_made_by_another_before_it_is_created_it_is_linked(name):
    sem = raced(name, "create", 1, make)[0](name, 1)
    assert (sem.linked_existing_semaphore, sem.unlink_on_delete, sem.value) == (True, False, 9)
    sem.unlink()
    sem.close()


@pytest.mark.parametrize(
    ("symbol", "number", "do"), [("unlink", 1, remove), ("unlink", 1, replace), ("create", 2, make)]
)
def test_unlink_and_create_makes_its_own_whoever_comes_between(name, symbol, number, do):
    theirs = kinds.kind("musl").cls(name, 5, unlink_on_delete=False)
    sem = raced(name, symbol, number, do)[0](name, 1, Flags.UNLINK_AND_CREATE)
    assert (sem.linked_existing_semaphore, sem.value, theirs.value) == (False, 1, 5)
    theirs.close()
    sem.close()
    assert not os.path.exists(file_of(name, type(sem)))


# --- other programs and processes


def test_a_forked_child_releases_what_its_parent_waits_for(kind, name):
    sem = kind.cls(name, 0)
    pid = os.fork()
    if pid == 0:
        try:
            time.sleep(0.02)
            sem.release()
        finally:
            os._exit(0)
    assert sem.acquire(timeout=60)
    assert os.waitpid(pid, 0)[1] == 0
    assert tokens(sem) == 0
    sem.close()


C_PROGRAM = r"""
#include <fcntl.h>
#include <semaphore.h>
#if defined(__GLIBC__) != GLIBC
#error it makes programs for another libc, whose semaphores are elsewhere
#endif
int main(int argc, char **argv) {
    sem_t *sem = sem_open(argv[1], 0);
    if (sem == SEM_FAILED || sem_wait(sem)) return 1;
    return sem_post(sem) || sem_post(sem);
}
"""


def test_a_c_program_shares_the_tokens(name, tmp_path):
    program = tmp_path / "program"
    command = ["cc", "-x", "c", "-", "-o", program, "-pthread", f"-DGLIBC={libc_of().is_glibc:d}"]
    try:
        subprocess.run(command, input=C_PROGRAM, text=True, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no C compiler for this libc: {error}")
    sem = NamedSemaphore(name, 1)
    subprocess.run([program, name], check=True, timeout=60)
    assert sem.value == 2
    sem.close()


ENTERS = """
import os, sys
from named_semaphores import NamedSemaphore
sem = NamedSemaphore(sys.argv[1], handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS)
mine = os.path.join(sys.argv[2], str(os.getpid()))
for _ in range(int(sys.argv[3])):
    with sem:
        os.close(os.open(mine, os.O_CREAT | os.O_EXCL))
        assert len(os.listdir(sys.argv[2])) <= 3
        os.unlink(mine)
"""


def test_eight_processes_never_more_than_three_inside(name, tmp_path, full):
    sem = NamedSemaphore(name, 3)
    rounds = 1250 if full else 200
    processes = [start_python(ENTERS, name, str(tmp_path), str(rounds)) for _ in range(8)]
    for process in processes:
        assert process.communicate(timeout=100 * SLOW)[1] == ""
    assert sem.value == 3
    sem.close()


RACES = """
import random, sys, time
from named_semaphores import NamedSemaphore
flags = NamedSemaphore.Flags
name, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
print(flush=True)
sys.stdin.readline()  # until all are there
chance, end = random.Random(seed), time.monotonic() + seconds
created = linked = 0
while time.monotonic() < end or created + linked < 1000:  # also if this process stood still
    flag = chance.choice((flags.LINK_OR_CREATE, flags.UNLINK_AND_CREATE))
    sem = NamedSemaphore(name, seed + 1, flag)  # neither may ever raise
    if flag is flags.UNLINK_AND_CREATE:
        assert not sem.linked_existing_semaphore
    if sem.linked_existing_semaphore:
        linked += 1
    else:
        created += 1
        assert sem.value == seed + 1  # no other process gives this value
    if chance.random() < 0.3:
        try:
            sem.unlink()
        except FileNotFoundError:
            pass
    sem.close()
print(created, linked)
"""


def test_a_race_of_creating_linking_and_unlinking(name, full):
    processes = [
        start_python(RACES, name, str(seed), str(20 if full else 0.5 * SLOW)) for seed in range(6)
    ]
    counts = []
    for process in processes:
        assert process.stdout.readline() == "\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=100 * SLOW)
        assert errors == ""
        counts.append([int(count) for count in output.split()])
    created, linked = (sum(column) for column in zip(*counts))
    assert created
    assert linked
    assert not kinds.exists(name)


def test_the_standard_librarys_own_semaphore_tests(name):
    lock_tests = pytest.importorskip(
        "test.lock_tests", reason="this Python has no tests of the standard library"
    )
    import unittest

    made, numbers = [], itertools.count()

    def semtype(value=1):
        made.append(NamedSemaphore(f"{name}.{next(numbers)}", value))
        return made[-1]

    class Tests(lock_tests.SemaphoreTests, unittest.TestCase):
        def test_repr(self):  # threading's own
            pass

    Tests.semtype = staticmethod(semtype)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Tests).run(result)
    for sem in made:
        sem.close()
    assert result.testsRun > 5
    assert not result.errors, result.errors[0][1]
    assert not result.failures, result.failures[0][1]


# --- compatibility


def test_the_class_is_where_1_0_3_had_it():
    from named_semaphores import semaphore  # whose __init__.py was empty

    assert semaphore.NamedSemaphore is NamedSemaphore


def test_code_written_for_1_0_3(name):
    assert [(flag.name, flag.value) for flag in Flags] == [
        ("RAISE_IF_EXISTS", 0),
        ("LINK_OR_CREATE", 1),
        ("RAISE_IF_NOT_EXISTS", 2),
        ("UNLINK_AND_CREATE", 3),
    ]
    bare = name[1:]

    # One variable, bound again and again: each time the old object is deleted after the new one was
    # made.
    sem = NamedSemaphore(bare)
    assert sem.name == name
    sem = NamedSemaphore(bare, initial_value=3)
    collect()
    sem = NamedSemaphore(bare)
    collect()
    sem.acquire()
    sem.release()
    if sem.acquire(timeout=5):
        sem.release()
    with NamedSemaphore(bare) as sem:
        pass
    collect()
    sem.close()

    created = NamedSemaphore(bare, handle_existence=Flags.RAISE_IF_EXISTS)
    linked = NamedSemaphore(bare, handle_existence=LINK)
    with pytest.raises(FileExistsError):
        NamedSemaphore(bare, handle_existence=Flags.RAISE_IF_EXISTS)
    del linked
    collect()
    assert NamedSemaphore(bare, handle_existence=LINK).linked_existing_semaphore
    del created
    collect()
    assert not kinds.exists(name)

    sem = NamedSemaphore(bare, unlink_on_delete=False)
    del sem
    sem = NamedSemaphore(bare, unlink_on_delete=False)
    assert sem.linked_existing_semaphore
    sem.unlink()
    del sem
    sem = NamedSemaphore(bare, handle_existence=Flags.UNLINK_AND_CREATE)
    del sem
    collect()
    assert not kinds.exists(name)
