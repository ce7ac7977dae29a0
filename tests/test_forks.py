# SPDX-License-Identifier: Apache-2.0
"""RobustSemaphore in children of fork, and at the end of processes."""

from __future__ import annotations

import os
import threading

import pytest
from holders import (
    PROGRAM,
    close,
    exists,
    fork_in_c,
    held,
    holder,
    in_child,
    program,
    remove,
    users_of,
)
from kinds import ROBUST
from support import PYPY, SLOW, collect, run_python, start_python, thread, wait_for

from named_semaphores import RobustSemaphore, _handles, _set

KINDS = ROBUST


# --- Forks ----------------------------------------------------------------------------------------


def test_a_child_of_fork_holds_nothing_and_is_a_user(sem):
    def child():
        for n in (1, 2):
            with pytest.raises(ValueError, match="this process holds 0"):
                sem.release(n)
        users = users_of(sem), held(sem), sem.value
        with sem:
            return users, held(sem), held(sem, os.getppid()), in_child(lambda: held(sem))

    with sem.hold(2):
        assert in_child(child) == "((2, 0, 1), 1, 2, '0')"
        assert (sem.value, held(sem)) == (1, 2)
    wait_for(lambda: users_of(sem) == 1)


def by_with(sem):
    with sem, sem.hold(1), sem.slot():
        yield


def by_await(sem):
    contexts = sem, sem.hold(1), sem.slot()
    for context in contexts:
        with pytest.raises(StopIteration):
            context.__aenter__().send(None)
    yield
    for context in contexts:
        with pytest.raises(StopIteration):
            context.__aexit__(None, None, None).send(None)


@pytest.mark.parametrize("way", [by_with, by_await])
@pytest.mark.parametrize("is_closed", [False, True])
def test_leaving_in_the_child_what_was_entered_before_gives_nothing(
    native, way, is_closed, monkeypatch
):
    def child():
        if is_closed:
            other.close()
        next(inside, None)
        return native.value, held(native), held(native, os.getppid())

    # Without a loop, since tokens are free.
    monkeypatch.setattr("asyncio.get_running_loop", object)
    other = RobustSemaphore(native.name)
    inside = way(other)
    next(inside)
    assert in_child(child) == "(0, 0, 3)"
    next(inside, None)
    close(other)


def test_a_fork_beside_threads_with_with_statements(native, full):
    def enter():
        while not stop.is_set():
            with native:
                if native.acquire(False):
                    native.release(2)
                    native.acquire()

    def use():
        with native.hold(1):
            return held(native)

    stop = threading.Event()
    with thread(enter), thread(enter):
        found = [in_child(use) for _ in range(100 if full else 10)]
        stop.set()
    assert set(found) == {"1"}


FORK_AND_EXIT = """
_set.FORKING = 60 * 10**9  # a second, but on a busy machine
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for number in range(int(sys.argv[2])):
    reading, writing = os.pipe()
    if not os.fork():  # the parent of a daemon
        sem = RobustSemaphore(name, 3)
        hold = sem.hold(2)
        if not os.fork():  # the daemon
            try:
                with sem, hold:
                    pass
                again = RobustSemaphore(name)
                assert (sem.value, sem.total, again.linked_existing_semaphore) == (3, 3, True)
                os.write(writing, b"x")
            finally:
                os._exit(0)
        END
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.wait()
"""


@pytest.mark.parametrize(
    "end", ["sys.exit()", "sem.close(); os._exit(0)", "del sem, hold; os._exit(0)"]
)
def test_a_daemons_parent_may_end_before_its_child_has_joined(name, full, end):
    code = FORK_AND_EXIT.replace("END", end)
    assert program(code, name, "200" if full else "6") == ""
    remove(name)


def test_a_set_that_was_replaced_while_nobody_had_it_open(name):
    def child():
        with pytest.raises(FileNotFoundError, match="it was removed"):
            sem.acquire()
        sem.close()

    sem = RobustSemaphore(name)
    sem.unlink()
    new = RobustSemaphore(name, 2)
    assert in_child(child) == "None"
    assert (new.value, users_of(new)) == (2, 1)
    close(sem, new)


def test_a_child_of_a_signal_handler_that_forks_while_the_constructor_runs_is_a_user(
    name, monkeypatch
):
    def interrupted(*arguments):
        found = join(*arguments)
        if not pids:
            pids.append(os.fork())
        return found

    join, pids = _set.Set.join, []
    monkeypatch.setattr(_set.Set, "join", interrupted)
    first = RobustSemaphore(name, 2)
    with monkeypatch.context() as patch:
        patch.setattr(_handles, "_joined", {})  # as in a process that has not opened it
        second = RobustSemaphore(name)
    if not pids[0]:
        with second.hold(2):
            os._exit((users_of(second), held(second)) != (3, 2))
    assert os.waitpid(pids[0], 0)[1] == 0
    close(second, first)


@pytest.mark.refcounts
def test_a_lock_of_another_thread_hangs_neither_a_child_nor_a_finalizer(native):
    def hold():
        with _handles._lock:
            locked.set()
            done.wait(30 * SLOW)

    def child():
        with native.hold(2):
            return RobustSemaphore(native.name).value

    locked, done, name = threading.Event(), threading.Event(), native.name + "x"
    other = RobustSemaphore(name)
    with thread(hold):
        locked.wait()
        assert in_child(child) == "1"
        del other
        assert exists(name)  # its finalizer leaves its work to the next
        done.set()
    close(RobustSemaphore(native.name))
    assert not exists(name)


def test_a_child_is_no_user_of_what_its_parent_has_closed(name):
    sem = RobustSemaphore(name)
    semset = sem._set
    sem.acquire()
    close(sem)  # the process remains a user, since it holds a token
    assert in_child(lambda: semset.library.value(semset.id, _set.USERS)) == "1"
    remaining = RobustSemaphore(name)
    remaining.release()
    close(remaining)


def test_a_child_releases_nothing_of_what_was_unlinked(native):
    native.acquire()
    native.unlink()
    assert in_child(native.release) == "None"


# --- Forks of C code, which run no hooks ----------------------------------------------------------


forks_in_c = pytest.mark.skipif(PYPY, reason="PyPy's threads need its own fork")


@forks_in_c
def test_a_child_forked_in_c_shares_its_parents_account(native):
    def child():
        next(inside, None)
        native.close()
        collect()
        _handles.leave_all()

    inside = by_with(native)
    next(inside)
    assert in_child(child, fork_in_c) == "None"
    assert exists(native.name)
    native.release(held(native)) if held(native) else None


@forks_in_c
def test_a_child_forked_in_c_that_opens_the_name_again_is_a_user(native):
    def child():
        inherited = by_with(native)
        next(inherited)
        sem = RobustSemaphore(native.name)
        inside = users_of(sem), sem.value
        next(inherited, None)
        with sem:
            return inside, sem.value, sem._set.held()

    native.resize(4)
    native.acquire()
    assert in_child(child, fork_in_c) == "((2, 0), 2, 1)"
    native.release()
    wait_for(lambda: native.value == 4)


@forks_in_c
def test_a_child_forked_in_c_gives_back_what_was_taken_and_no_more(native):
    native.acquire()
    ended = in_child(lambda: (native.release(), native.release()), fork_in_c)
    assert "this process holds 0" in ended
    assert (native.value, native._set.held()) == (2, 1)  # the child's end undid its release
    native.release()


@forks_in_c
@pytest.mark.parametrize("end", ["SIGKILL", "exit"])
def test_a_child_forked_in_c_goes_on_when_its_parent_has_ended(native, end):
    code = """
parent, sem = os.getpid(), RobustSemaphore(name)
hold = sem.hold(2)
if ctypes.PyDLL(None).fork():
    sem.acquire()
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "SIGKILL" else sys.exit()
while os.getppid() == parent or sem.value < 3:
    time.sleep(0.001)
for _ in range(3):
    with sem, hold:
        assert sem.value == 0
    assert sem.value == 3, sem.holders
    sem.acquire(n=2)
    sem.release()
    sem.release()
    assert sem.value == 3, sem.holders
print("done", sem._set.users(), flush=True)
sem.close()
"""
    with start_python(PROGRAM + code, native.name, end) as process:
        assert process.stdout.read() == "done 2\n", process.stderr.read()
    wait_for(lambda: users_of(native) == 1)


# --- The ends of processes ------------------------------------------------------------------------

DEATHS = {
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "_exit": "os._exit(0)",
    "abort": "os.abort()",
    "exit with a daemon thread inside": "sys.exit()",
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'exit 3'])",
    "exec and SIGKILL": "os.execv('/bin/sh', ['sh', '-c', 'kill -9 $$'])",
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_dead_holders_tokens_come_back_and_wake_a_waiter(native, death):
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def inside():
    with sem, sem.hold(2):
        time.sleep(600)
threading.Thread(target=inside, daemon=True).start()
print("ready", flush=True)
sys.stdin.read(1)
{DEATHS[death]}
"""
    with holder(native.name, code) as process:
        wait_for(lambda: native.value == 0)
        with thread(native.acquire, timeout=20 * SLOW) as woken:
            wait_for(lambda: native.waiting == 1)
            process.stdin.write("x")
            process.stdin.flush()
        assert woken == [True]
        wait_for(lambda: native.value == 2)
        native.release()
        process.wait()
    assert users_of(native) == 1


LATE = """
def late():
    global sem
    sem = RobustSemaphore(name)
    with sem:
        pass
"""
PROCESS = "import multiprocessing; multiprocessing.get_context('fork').Process"
ENDS = {
    "normal": "sem.acquire(); sem.release()",
    "a cycle": "cycle = [sem]; cycle.append(cycle)",
    "a child": "pid = os.fork(); os.waitpid(pid, 0) if pid else None",
    "a child after its parent": (
        "os._exit(0) if os.fork() else [time.sleep(0.01) for _ in iter(sem._set.users, 1)]"
    ),
    "a child of multiprocessing": f"{PROCESS}(target=print).start()",
    "a child of multiprocessing alone": f"{LATE}\nsem.close()\n{PROCESS}(target=late).start()",
    "closed at exit": "atexit.register(sem.close)",
    "opened at exit": f"{LATE}\nsem.close()\natexit.register(late)",
    "a thread": "threading.Thread(target=lambda: sem.acquire(n=1)).start()",
    "collected": "RobustSemaphore(name).acquire(); del sem",
    "unlinked": "other = RobustSemaphore(name, unlink_on_delete=True)",
    "unlinked, then collected": "other = RobustSemaphore(name, unlink_on_delete=True); del other",
    "unlinked, then closed": "RobustSemaphore(name, unlink_on_delete=True).close()",
}
CHILDREN = [end for end in ENDS if end.startswith("a child")]


@pytest.mark.parametrize(
    ("first", "end"),
    [*(("", end) for end in ENDS), *(("import multiprocessing.util", end) for end in CHILDREN)],
)
def test_the_last_process_to_exit_removes_the_name(name, first, end):
    done = run_python(f"{first}\n{PROGRAM}\nsem = RobustSemaphore(name, 3)\n{ENDS[end]}", name)
    assert (done.returncode, done.stderr) == (0, "")
    if end in ("a thread", "collected"):  # it held a token to the end
        remove(name)
    wait_for(lambda: not exists(name))


@pytest.mark.refcounts
def test_after_the_interpreters_end_every_use_is_refused(native):
    code = """
class Pool:
    def __init__(self):
        self.sem, self.me = RobustSemaphore(name), self
    def __del__(self):
        for use in (self.sem.acquire, self.sem.__enter__, self.sem.release, lambda: self.sem.value):
            try:
                use()
            except ValueError as error:
                os.write(1, f"{error}\\n".encode())
pool = Pool()
sem = RobustSemaphore(name)
sem.acquire(n=2)
atexit.register(lambda: print(sem.value, flush=True))
"""
    said = f"semaphore {native.name!r} is closed\n" * 4
    assert program(code, native.name) == "1\n" + said
    wait_for(lambda: (users_of(native), native.value) == (1, 3))
