# SPDX-License-Identifier: Apache-2.0
"""Threads and processes on one semaphore: nobody crashes, nobody removes what is another's, and never are more inside than may be."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import pytest
from support import SLOW, in_threads, wait_for

from named_semaphores import NamedSemaphore, _interruptible
from named_semaphores._ends import waiters

LINK = NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS
METHODS = multiprocessing.get_all_start_methods()


def exists(name):
    try:
        NamedSemaphore(name, handle_existence=LINK).close()
    except FileNotFoundError:
        return False
    return True


def join(processes):
    for process in processes:
        process.join(60 * SLOW)
        assert process.exitcode == 0


# --- threads --------------------------------------------------------------------------------------------------------------------------


def test_close_while_threads_wait(name):
    sem, link = NamedSemaphore(name, 0), NamedSemaphore(name)
    got, begun = [], threading.Semaphore(0)

    def wait(timeout):
        begun.release()
        got.append(sem.acquire(timeout=timeout))

    threads = [threading.Thread(target=wait, args=(timeout,)) for timeout in (None, None, 60, 60)]
    for thread in threads:
        thread.start()
        begun.acquire()
    # All of them sleep in the kernel, or are about to: the first token goes to one of those that do.
    link.release()
    wait_for(lambda: len(got) == 1)
    sem.close()
    for _ in range(3):
        link.release()
    for thread in threads:
        thread.join()
    assert all(value is True for value in got)
    with pytest.raises(ValueError, match="closed"):
        sem.acquire()
    link.close()


ENTERED_BY_C = NamedSemaphore.__dict__["__enter__"] is _interruptible.__enter__


@pytest.mark.skipif(ENTERED_BY_C, reason="this Python waits in another way, see test_interruptible.py")
@pytest.mark.parametrize("enter", [False, True], ids=["acquire", "with"])
def test_a_wait_that_was_closed_in_its_first_second_goes_on_after_it(name, enter):
    class Noting(NamedSemaphore):
        def _wait(self, *arguments):
            second.append(1)
            return super()._wait(*arguments)

    def wait():
        if enter:
            with sem:
                got.append(True)
        else:
            got.append(sem.acquire())

    second, got, before = [], [], waiters.number
    sem, link = Noting(name, 0), NamedSemaphore(name)
    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: waiters.number > before)
    sem.close()
    wait_for(lambda: second)
    link.release()
    thread.join()
    assert got == [True]
    assert link.value == enter
    link.close()


def test_many_threads_close_at_once(name):
    for _ in range(20):
        sem = NamedSemaphore(name)
        barrier = threading.Barrier(8)

        def close(sem=sem, barrier=barrier):
            barrier.wait()
            sem.close()

        in_threads(8, close)
        assert not exists(name)


def test_a_child_of_fork_has_no_waiters(name):
    sem = NamedSemaphore(name, 0)
    thread = threading.Thread(target=sem.acquire)
    thread.start()
    if not ENTERED_BY_C:  # there nobody counts them
        wait_for(lambda: waiters.number)
    pid = os.fork()
    if pid == 0:
        os._exit(waiters.number)
    assert os.waitpid(pid, 0)[1] == 0
    sem.release()
    thread.join()
    sem.close()


def test_who_closes_second_finds_nothing_to_count(name):
    # Between the look at the handle and that at the count another thread may have closed it.
    sem = NamedSemaphore(name)
    handle = sem._handle
    sem.close()
    sem._handle = handle
    sem.close()
    assert sem.closed


def test_a_hundred_threads_on_one_object(name):
    sem = NamedSemaphore(name, 3)
    inside, most, lock = [], [], threading.Lock()

    def work():
        for _ in range(20):
            with sem:
                with lock:
                    inside.append(1)
                    most.append(len(inside))
                with lock:
                    inside.pop()

    in_threads(100, work)
    assert len(most) == 2000
    assert max(most) <= 3
    assert sem.value == 3
    sem.close()


# --- processes ------------------------------------------------------------------------------------------------------------------------


def use_and_forget(sem):
    with sem:
        pass
    del sem
    gc.collect()


@pytest.mark.parametrize("method", METHODS)
def test_a_child_of_multiprocessing_leaves_the_name(name, method):
    context = multiprocessing.get_context(method)
    sem = NamedSemaphore(name, 2)
    process = context.Process(target=use_and_forget, args=(sem,))
    process.start()
    join([process])
    assert exists(name)
    assert sem.value == 2
    sem.close()
    assert not exists(name)


def create(name, sender):
    global kept
    kept = NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_EXISTS)
    sender.send(True)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_child_created_it_removes(name, method):
    context = multiprocessing.get_context(method)
    other = NamedSemaphore(name + "p")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=create, args=(name, sender))
    process.start()
    assert receiver.recv()
    join([process])
    assert not exists(name)
    assert exists(name + "p")
    other.close()
    receiver.close()
    sender.close()


def test_a_forked_childs_exit_leaves_the_name(name):
    sem = NamedSemaphore(name)
    child = os.fork()
    if child == 0:
        try:
            sem.close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert exists(name)
    sem.close()


def take(sem):
    sem.acquire()
    return pickle.dumps(sem)


def test_through_an_executor_and_back(name):
    sem = NamedSemaphore(name, 5)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as executor:
        for dumped in executor.map(take, [sem] * 4):
            back = pickle.loads(dumped)
            assert back.name == name
            assert not back.unlink_on_delete
            back.close()
    assert sem.value == 1
    sem.close()


def enter_often(name, rounds, directory):
    sem = NamedSemaphore(name, handle_existence=LINK)
    mine = os.path.join(directory, str(os.getpid()))
    for _ in range(rounds):
        with sem:
            os.close(os.open(mine, os.O_CREAT | os.O_EXCL))
            assert len(os.listdir(directory)) <= 3
            os.unlink(mine)


def test_eight_processes_never_more_than_three_inside(name, tmp_path):
    context = multiprocessing.get_context("spawn")
    sem = NamedSemaphore(name, 3)
    processes = [context.Process(target=enter_often, args=(name, 10_000 // 8 // SLOW, str(tmp_path))) for _ in range(8)]
    for process in processes:
        process.start()
    join(processes)
    assert sem.value == 3
    sem.close()


def race(name, seed, seconds, sender):
    import random
    import time

    chance, end = random.Random(seed), time.monotonic() + seconds
    flags = NamedSemaphore.Flags
    counts = {"created": 0, "linked": 0}
    while time.monotonic() < end:
        flag = chance.choice((flags.LINK_OR_CREATE, flags.UNLINK_AND_CREATE))
        sem = NamedSemaphore(name, seed + 1, flag)  # neither may ever raise
        if flag is flags.UNLINK_AND_CREATE:
            assert not sem.linked_existing_semaphore
        if not sem.linked_existing_semaphore:
            assert sem.value == seed + 1  # nobody else gives this value
        counts["linked" if sem.linked_existing_semaphore else "created"] += 1
        if chance.random() < 0.3:
            try:
                sem.unlink()
            except FileNotFoundError:
                pass
        sem.close()
    sender.send(counts)


def test_a_race_of_creating_linking_and_removing(name, full):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=race, args=(name, seed, 20 if full else 1, sender)) for seed in range(8)]
    for process in processes:
        process.start()
    join(processes)
    counts = [receiver.recv() for _ in processes]
    assert sum(count["created"] for count in counts) > 0
    assert sum(count["linked"] for count in counts) > 0
    assert not exists(name)
    receiver.close()
    sender.close()


def test_cleanup_leaves_a_successor(name):
    first = NamedSemaphore(name, 1)
    second = NamedSemaphore(name, 7, NamedSemaphore.Flags.UNLINK_AND_CREATE)
    first.close()
    assert NamedSemaphore(name, handle_existence=LINK).value == 7
    second.close()
    assert not exists(name)


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
    sem = NamedSemaphore(name, 1)
    try:
        subprocess.run(
            ["cc", "-x", "c", "-", "-o", program, "-pthread", f"-DGLIBC={sem._libc.is_glibc:d}"],
            input=C_PROGRAM,
            text=True,
            check=True,
            capture_output=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        sem.close()
        pytest.skip(f"no C compiler for this libc: {error}")
    subprocess.run([program, name], check=True, timeout=60)
    assert sem.value == 2
    sem.close()


def test_the_standard_librarys_own_semaphore_tests(name):
    lock_tests = pytest.importorskip("test.lock_tests", reason="this Python has no tests of the standard library")
    import unittest

    made = []

    def semtype(value=1):
        sem = NamedSemaphore(f"{name}.{len(made)}", value)
        made.append(sem)
        return sem

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


if sys.version_info >= (3, 12):
    pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
