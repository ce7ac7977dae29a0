# SPDX-License-Identifier: Apache-2.0
"""What NamedSemaphore does beyond the contract, on every platform profile."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import subprocess
import sys
from pathlib import Path

import kinds
import pytest
from kinds import bound, file_of, libc_of, tokens
from support import NOBODY, SLOW, collect, start_python, thread, why_always_the_same_user

from named_semaphores import NamedSemaphore
from named_semaphores._libc import OTHERS, SIZE, Libc

KINDS = kinds.POSIX
Flags = NamedSemaphore.Flags
LINK = Flags.RAISE_IF_NOT_EXISTS


# --- creating and linking


def test_the_longest_name_works_and_one_longer_is_refused(kind, name):
    longest = kind.libc.longest_name
    if longest < 1000:  # a system that knows no limit has none to test
        sem = kind.cls(name.ljust(longest, "x"))
        assert kind.exists(sem.name)
        sem.close()
        text = f"with its slash a name has at most {longest} bytes here, this one {longest + 1}"
        with pytest.raises(OSError, match=text) as raised:
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
    sem, link = kind.cls(name, 0), kind.cls(name)
    with thread(sem.acquire) as got:
        link.release()
    assert got == [True]
    link.release(3)
    assert tokens(sem) == 3
    link.close()
    sem.close()


def assert_too_many(sem, n, text):
    with pytest.raises(OSError, match=text) as raised:
        sem.release(n)
    assert (raised.value.errno, raised.value.filename) == (errno.EOVERFLOW, sem.name)


def test_no_more_than_the_maximum(kind, name):
    maximum = kind.libc.value_max
    with pytest.raises(ValueError, match=f"from 0 to {maximum}, not {maximum + 1}"):
        kind.cls(name, maximum + 1)
    assert not kind.exists(name)
    if kind.libc.platform == "darwin":  # it does not tell the value
        sem, n = kind.cls(name, 2), maximum + 1
        assert_too_many(sem, n, f"its value is 0, {n} more would pass the maximum, {maximum}")
        assert tokens(sem) == 2
        sem.close()
    # macOS and Cygwin do not check one more; the host has fewer than NetBSD and OpenBSD.
    if kind.tells_value and kind.libc.platform != "cygwin" and maximum < 2**31:
        sem = kind.cls(name, maximum)
        for n in (1, 2):
            text = f"its value is {maximum}, {n} more would pass the maximum, {maximum}"
            assert_too_many(sem, n, text)
        with sem:
            assert sem.value == maximum - 1
        assert sem.value == maximum
        sem.close()


def test_a_signal_handlers_value_error_is_not_the_systems(kind, name):
    def post_and_raise(posts):
        next(posts)
        raise ValueError("a handler's")

    sem, link = kind.cls(name, 0), kind.cls(name)
    sem._posts = sem._handle.posts = map(post_and_raise, itertools.repeat(sem._posts))
    for n in (1, 2):
        with pytest.raises(ValueError, match="a handler's"):
            sem.release(n)
        assert tokens(link) == n
    link.close()
    sem.close()


def test_a_million_tokens_can_be_released_at_once_and_no_more(name):
    sem = NamedSemaphore(name, 0)
    sem.release(1_000_000)
    text = f"'{name}': n must be an int from 1 to 1000000, not 1000001"
    with pytest.raises(ValueError, match=text):
        sem.release(1_000_001)
    assert sem.value == 1_000_000
    sem.close()


# --- what is left


@pytest.mark.refcounts
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="no /proc to count mappings in")
def test_nothing_grows(name, full):
    def cycle():
        sem = NamedSemaphore(name)
        link = NamedSemaphore(name)
        with link:
            link.acquire(timeout=0)
        sem.close()
        link.itself = NamedSemaphore(name)  # a creator in a cycle of garbage
        link.itself.itself = link

    def counts(cycles):
        for _ in range(cycles):
            cycle()
        collect()
        with open("/proc/self/maps", encoding="utf-8") as maps:
            mapped = sum("/sem." in line for line in maps)
        return mapped, len(os.listdir("/proc/self/fd")), len(gc.get_objects())

    before = counts(100)
    after = counts(100_000 if full else 1_000)
    assert after[:2] == before[:2]
    assert after[2] <= before[2] + 20


# --- the name


def test_the_creator_unlinks_the_name_unless_told_not_to_and_others_if_told_to(kind, name):
    for creates, given in itertools.product((True, False), (None, True, False)):
        other = None if creates else kind.cls(name, unlink_on_delete=False)
        sem = kind.cls(name, 7, unlink_on_delete=given)
        unlinks = creates if given is None else given
        assert sem.unlink_on_delete is unlinks
        sem.close()
        assert sem.unlink_on_delete is unlinks
        assert kind.exists(name) is not unlinks
        if not unlinks:
            kind.cls(name, unlink_on_delete=True).close()
        if other:
            assert tokens(other) == 1  # also without a name; the other number was ignored
            other.close()


def test_clean_up_leaves_a_successor_where_the_system_can_tell_it_apart(kind, name):
    for closed in (True, False):
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


@pytest.mark.skipif(why_always_the_same_user() is not None, reason=f"{why_always_the_same_user()}")
def test_another_users_semaphore_is_refused(kind, name):
    # test_errors.py and test_cleanup.py test the same with fakes.
    sem = kind.cls(name, mode=0o600)
    os.seteuid(NOBODY)
    try:
        for flag in (Flags.LINK_OR_CREATE, LINK, Flags.UNLINK_AND_CREATE):
            with pytest.raises(PermissionError) as raised:
                kind.cls(name, handle_existence=flag)
            assert raised.value.filename == name
            if kind.libc.files:
                assert "it belongs to user 0, group 0, with mode 0600" in str(raised.value)
        with pytest.raises(FileExistsError):
            kind.cls(name, handle_existence=Flags.RAISE_IF_EXISTS)
        for remove in (sem.unlink, sem.close):
            with pytest.raises(PermissionError) as raised:
                remove()
            assert raised.value.filename == name
    finally:
        os.seteuid(0)
    assert kind.exists(name)
    kind.cls(name, unlink_on_delete=True).close()


# --- what may lie under a name on Linux, where semaphores are files

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/shm is Linux's")


IRREGULAR = os.strerror(errno.ELOOP)
SIZED = f"its file has {{size}} bytes, not {SIZE}: it is no semaphore, or one of a {OTHERS} program"


@on_linux
@pytest.mark.parametrize(
    ("make", "text"),
    [
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), IRREGULAR, id="link"),
        pytest.param(lambda path: path.write_bytes(b""), SIZED, id="empty"),
        pytest.param(lambda path: path.write_bytes(bytes(SIZE - 1)), SIZED, id="short"),
        pytest.param(lambda path: path.write_bytes(bytes(48 - SIZE)), SIZED, id="other size"),
    ],
)
def test_a_file_that_is_no_semaphore_is_not_linked_and_left(name, make, text):
    path = Path(file_of(name))
    make(path)
    before = path.lstat()
    with pytest.raises(FileExistsError, match=name):
        NamedSemaphore(name, 1, Flags.RAISE_IF_EXISTS)
    text = text.format(size=before.st_size)
    for flag in (Flags.LINK_OR_CREATE, LINK):
        with pytest.raises(OSError, match=f"{text}.*{name}") as raised:
            NamedSemaphore(name, 1, flag)
        assert raised.value.filename == name
    assert path.lstat().st_ino == before.st_ino
    NamedSemaphore(name, 1, Flags.UNLINK_AND_CREATE).close()
    assert not os.path.lexists(path)


# --- the system interrupts, or another process comes between two calls


def raced(name, step, number, do):
    """Return musl's class, where something happens before one call, and the list of the calls."""
    theirs = kinds.kind("musl").cls._libc
    calls = []

    class Raced(type(theirs.lib)):
        def note(self, step_):
            calls.append(step_)
            if step_ == step and calls.count(step) == number:
                do(theirs, name)

        def do_sem_open(self, name, oflag, *more):
            self.note("create" if oflag else "link")
            return super().do_sem_open(name, oflag, *more)

        def do_sem_unlink(self, name):
            self.note("unlink")
            return super().do_sem_unlink(name)

    return bound(Raced(), "linux"), calls


def make(libc, name):
    libc.create(name, 0o600, 9)


def replace(libc, name):
    libc.unlink(name)
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


@pytest.mark.parametrize("error", [TimeoutError, InterruptedError, FileExistsError])
@pytest.mark.parametrize("step", ["link", "create", "unlink", "lstat"])
def test_what_a_signal_handler_raises_stays_what_it_is(name, monkeypatch, step, error):
    def strike(*_):
        monkeypatch.undo()
        raise error("the handler's")

    owner = NamedSemaphore(name) if step == "lstat" else None
    monkeypatch.setattr(os if owner else type(libc_of()), step, strike)
    with pytest.raises(error, match=r"^the handler's$"):
        NamedSemaphore(name).close()
    del owner
    collect()
    assert not os.path.exists(file_of(name))


def test_made_by_another_before_it_is_created_it_is_linked(name):
    sem = raced(name, "create", 1, make)[0](name, 1)
    assert (sem.linked_existing_semaphore, sem.unlink_on_delete, sem.value) == (True, False, 9)
    sem.unlink()
    sem.close()


@pytest.mark.parametrize(
    ("step", "number", "do"),
    [("unlink", 1, Libc.unlink), ("unlink", 1, replace), ("create", 2, make)],
)
def test_unlink_and_create_makes_its_own_whoever_comes_between(name, step, number, do):
    theirs = kinds.kind("musl").cls(name, 5, unlink_on_delete=False)
    sem = raced(name, step, number, do)[0](name, 1, Flags.UNLINK_AND_CREATE)
    assert (sem.linked_existing_semaphore, sem.value, theirs.value) == (False, 1, 5)
    theirs.close()
    sem.close()
    assert not os.path.exists(file_of(name, type(sem)))


def test_unlink_and_create_leaves_what_it_cannot_replace(name):
    def refuse(libc, name):
        raise OSError(errno.EMFILE, "")

    theirs = kinds.kind("musl").cls(name, 5)
    with pytest.raises(OSError, match="too many open files"):
        raced(name, "create", 1, refuse)[0](name, 1, Flags.UNLINK_AND_CREATE)
    assert kinds.exists(name, type(theirs))
    theirs.close()


# --- other programs and processes

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


def outputs(count, code, *arguments):
    """Run the code in so many processes, each with a number of its own; return what they print."""
    processes = [start_python(code, *arguments, str(number)) for number in range(count)]
    for process in processes:
        assert process.stdout.readline() == "\n"
    for process in processes:  # all are there
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=100 * SLOW)
        assert errors == ""
        yield output


ENTERS = """
import os, sys, time
from named_semaphores import NamedSemaphore
name, folder, rounds, mine = sys.argv[1:]
sem = NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS)
print(flush=True)
sys.stdin.readline()
for _ in range(int(rounds)):
    with sem:
        os.close(os.open(os.path.join(folder, mine), os.O_CREAT | os.O_EXCL))
        time.sleep(0.001)  # until others are inside, too
        assert len(os.listdir(folder)) <= 2
        os.unlink(os.path.join(folder, mine))
"""


def test_five_processes_never_more_than_two_inside(name, tmp_path, full):
    sem = NamedSemaphore(name, 2)
    list(outputs(5, ENTERS, name, str(tmp_path), str(1250 if full else 40)))
    assert sem.value == 2
    sem.close()


RACES = """
import random, sys, time
from named_semaphores import NamedSemaphore
flags = NamedSemaphore.Flags
name, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print(flush=True)
sys.stdin.readline()
chance = random.Random(seed)
created = linked = 0
while created + linked < rounds:
    flag = chance.choice((flags.LINK_OR_CREATE, flags.UNLINK_AND_CREATE))
    sem = NamedSemaphore(name, seed + 1, flag)  # neither may ever raise
    if flag is flags.UNLINK_AND_CREATE:
        assert not sem.linked_existing_semaphore
    if sem.linked_existing_semaphore:
        linked += 1
    else:
        created += 1
        assert sem.value == seed + 1  # no other process gives this value
        if chance.random() < 0.1:
            time.sleep(0.0001)  # until others find it, also where one CPU runs all
    if chance.random() < 0.3:
        try:
            sem.unlink()
        except FileNotFoundError:
            pass
    sem.close()
print(created, linked)
"""


def test_a_race_of_creating_linking_and_unlinking(name, full):
    rounds = "50000" if full else "400"
    counts = [map(int, output.split()) for output in outputs(5, RACES, name, rounds)]
    created, linked = (sum(column) for column in zip(*counts))
    assert created
    assert linked
    assert not kinds.exists(name)


def test_the_standard_librarys_own_semaphore_tests(name):
    lock_tests = pytest.importorskip("test.lock_tests", reason="this Python has no tests")
    import unittest

    made, numbers = [], itertools.count()

    def semtype(value=1):
        made.append(NamedSemaphore(f"{name}.{next(numbers)}", value))
        return made[-1]

    class Tests(lock_tests.SemaphoreTests, unittest.TestCase):
        test_repr = None  # threading's own

    Tests.semtype = staticmethod(semtype)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Tests).run(result)
    for sem in made:
        sem.close()
    assert result.testsRun > 5
    assert [text for _, text in result.errors + result.failures] == []


# --- compatibility


def test_what_1_0_3_had_is_where_it_was():
    from named_semaphores import semaphore  # whose __init__.py was empty

    assert semaphore.NamedSemaphore is NamedSemaphore
    assert [flag.value for flag in Flags] == [0, 1, 2, 3]
