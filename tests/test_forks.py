# SPDX-License-Identifier: Apache-2.0
"""RobustSemaphore in children of fork, and at the end of processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time

import pytest
import users
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
    three,
    turn,
    users_of,
)
from kinds import ROBUST
from support import (
    SLOW,
    collect,
    elapsed,
    run_python,
    start_python,
    thread,
    wait_for,
)

from named_semaphores import (
    RobustSemaphore,
    _handles,
    _opening,
)

KINDS = ROBUST

if sys.version_info >= (3, 12):
    pytestmark = pytest.mark.filterwarnings(
        "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"
    )


@pytest.fixture
def sem(kind, name):
    with three(kind.cls, name) as sem:
        yield sem


@pytest.fixture
def native(name):
    """The same on the running system alone."""
    with three(RobustSemaphore, name) as sem:
        yield sem


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


def by_exit_stack(sem):
    with contextlib.ExitStack() as stack:
        for context in (sem, sem.hold(1), sem.slot()):
            stack.enter_context(context)
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


@pytest.mark.parametrize("way", [by_with, by_exit_stack, by_await])
@pytest.mark.parametrize("is_closed", [False, True])
def test_leaving_in_the_child_what_was_entered_before_gives_nothing(
    sem, way, is_closed, monkeypatch
):
    def child():
        if is_closed:
            other.close()
        next(inside, None)
        return sem.value, held(sem), held(sem, os.getppid())

    if way is by_await:  # without a loop, since tokens are free
        monkeypatch.setattr("asyncio.get_running_loop", object)
    other = type(sem)(sem.name)
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
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(thread(enter))
        stack.callback(stop.set)
        for _ in range(100 if full else 10):
            assert in_child(use) == "1"


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
    count = "200" if full else "20"
    assert program(FORK_AND_EXIT.replace("END", end), name, count) == ""
    remove(name)


def test_a_child_is_a_user_also_if_its_parent_closed_first(native):
    code = """
sem = RobustSemaphore(name)
if os.fork():
    sem.close()
    print(os.wait()[1])
else:
    while RobustSemaphore(name)._set.users() != 2:
        pass
    with sem:
        print(sem.value, flush=True)
    os._exit(0)
"""
    assert program(code, native.name) == "2\n0\n"


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
    native, monkeypatch
):
    def interrupted(*arguments):
        found = find(*arguments)
        if not pids:
            pids.append(os.fork())
        return found

    find, pids = _opening.find_account, []
    monkeypatch.setattr(_opening, "find_account", interrupted)
    other = RobustSemaphore(native.name + "x", 2)
    with monkeypatch.context() as patch:
        patch.setattr(_handles, "_joined", {})  # as in a process that has not opened it
        third = RobustSemaphore(native.name + "x")
    if not pids[0]:
        with third.hold(2):
            os._exit((users_of(third), held(third)) != (3, 2))
    assert os.waitpid(pids[0], 0)[1] == 0
    close(third, other)


def test_a_child_is_free_of_the_locks_of_its_parents_threads(name):
    code = """
def hold():
    with _handles._lock:
        locked.set()
        forked.wait()
sem, locked, forked = RobustSemaphore(name, 3), threading.Event(), threading.Event()
thread = threading.Thread(target=hold)
thread.start()
locked.wait()
if not os.fork():
    with sem.hold(2):
        os._exit(RobustSemaphore(name).value != 1)
print(os.wait()[1])
forked.set()
thread.join()
"""
    assert program(code, name, options=["-W", "ignore"]) == "0\n"


@pytest.mark.refcounts
def test_a_finalizer_that_finds_the_lock_taken_leaves_its_work_to_the_next(native):
    def hold():
        with _handles._lock:
            locked.set()
            collected.wait(30 * SLOW)

    locked, collected = threading.Event(), threading.Event()
    name = native.name + "x"
    other = RobustSemaphore(name)
    with thread(hold):
        locked.wait()
        del other
        assert exists(name)
        collected.set()
    close(RobustSemaphore(native.name))
    assert not exists(name)


# --- Forks of C code, which run no hooks ----------------------------------------------------------


def test_a_child_forked_in_c_shares_its_parents_account(native):
    def child():
        next(inside, None)
        own = native.value
        native.close()
        collect()
        _handles.leave_all()
        return own

    inside = by_with(native)
    native.resize(4)
    next(inside)
    assert in_child(child, fork_in_c) in ("1", "4")
    assert exists(native.name)
    native.release(held(native)) if held(native) else None
    native.resize(3)


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
    process = start_python(PROGRAM + code, native.name, end)
    assert process.stdout.read() == "done 2\n", process.stderr.read()
    process.communicate()
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


@pytest.mark.parametrize(
    "code",
    [
        "sem.acquire(); sem.release()",
        "global_cycle = [sem]; global_cycle.append(global_cycle)",
        "pid = os.fork(); os.waitpid(pid, 0) if pid else None",
        "os._exit(0) if os.fork() else [time.sleep(0.01) for _ in iter(sem._set.users, 1)]",
        "multiprocessing.get_context('fork').Process(target=print).start()",
        "atexit.register(sem.close)",
        "threading.Thread(target=lambda: sem.acquire(n=1), daemon=True).start()",
        "RobustSemaphore(name).acquire(); del sem",
    ],
)
@pytest.mark.parametrize("before", ["", "import multiprocessing.util"])
def test_the_last_process_to_exit_removes_the_name(name, before, code):
    program = f"{before}\nimport os, sys\n" + PROGRAM.replace("multiprocessing, ", "").replace(
        "name =", "import multiprocessing; name ="
    )
    done = run_python(f"{program}\nsem = RobustSemaphore(name, 3)\n{code}", name)
    assert (done.returncode, done.stderr) == (0, "")
    if "acquire(n=1)" in code or "del sem" in code:  # it held a token to the end
        remove(name)
    wait_for(lambda: not exists(name))


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


def test_at_exit_those_that_were_opened_late_are_left_too(name):
    code = """
def enter():
    global sem
    sem = RobustSemaphore(name)
    with sem:
        print("inside", flush=True)
atexit.register(enter)
"""
    assert program(code, name) == "inside\n"
    assert not exists(name)


def test_exit_does_not_wait_for_tasks_that_wait(native):
    code = """
sem = RobustSemaphore(name)
async def main():
    asyncio.ensure_future(sem.acquire_async())
    asyncio.ensure_future(sem.acquire_async(n=2))
    while sem.waiting < 2:
        await asyncio.sleep(0.001)
asyncio.run(main())
"""
    with native.hold(3):
        assert elapsed(program, code, native.name)[1] < 10 * SLOW
        wait_for(lambda: (native.waiting, turn(native)) == (0, 0))


def test_a_child_with_its_parents_process_number(name):
    code = """
def first_of_a_namespace():
    if ctypes.CDLL(None).unshare(0x20000000):  # CLONE_NEWPID
        print("cannot")
        sys.exit()
    pid = os.fork()
    if pid:
        sys.exit(os.waitpid(pid, 0)[1] != 0)

first_of_a_namespace()
sem = RobustSemaphore(name, 3)
with sem:
    parent = os.getpid()
    first_of_a_namespace()
    assert os.getpid() == parent == 1
    try:
        sem.release()
    except ValueError:
        print("refused")
assert sem.value == 2, sem.value
sem.close()
"""
    said = program(code, name)
    if said == "cannot\n":
        pytest.skip("this user may not make a PID namespace")
    assert said == "refused\n"
    if exists(name):
        remove(name)


def _enter(sem):
    assert held(sem) == 0
    with sem, sem.hold(1):
        assert held(sem) == 2
    assert sem.value == 2
    _enter.kept = sem


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_use_it_and_leave_nothing(native, method):
    # Before 3.14 they skip atexit.
    with native:
        process = multiprocessing.get_context(method).Process(target=_enter, args=(native,))
        process.start()
        process.join(60 * SLOW)
    assert process.exitcode == 0
    assert (native.value, users_of(native)) == (3, 1)


def test_a_child_of_multiprocessing_may_be_the_last(name):
    code = """
def enter():
    global sem
    sem = RobustSemaphore(name)
threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
process = multiprocessing.get_context("fork").Process(target=enter)
process.start()
process.join()
"""
    program(code, name, options=["-W", "ignore"])
    assert not exists(name)


# --- All together ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "del sem", "sem.close()"])
def test_the_end_of_the_last_user_that_is_to_unlink_is_quiet(name, end):
    code = "import sys; from named_semaphores import RobustSemaphore as R; "
    code += "sem = R(sys.argv[1], unlink_on_delete=True); "
    done = run_python(code + end, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert not exists(name)


def test_never_more_inside_than_the_limit_whoever_comes_and_goes(name, full, tmp_path):
    path = tmp_path / "marks"
    path.write_bytes(bytes(users.SIZE))
    marks = users.shared(str(path))
    chance = random.Random(11)
    contexts = {
        method: multiprocessing.get_context(method) for method in ("fork", "spawn", "forkserver")
    }
    started, slots = dict.fromkeys((*contexts, "subprocess"), 0), iter(range(1, users.SLOTS))
    running = {}

    def start():
        kind, slot = chance.choice(list(started)), next(slots)
        arguments = (name, str(path), slot, 20)
        if kind == "subprocess":
            process = subprocess.Popen(
                [sys.executable, users.__file__, *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        else:
            process = contexts[kind].Process(target=users.work, args=arguments)
            process.start()
        started[kind] += 1
        running[process] = slot

    def is_over(process):
        if isinstance(process, subprocess.Popen):
            return process.poll() is not None
        return process.exitcode is not None

    end = time.monotonic() + (60 if full else 2)
    while time.monotonic() < end or min(started.values()) == 0 or marks[0] == 0:
        while len(running) < 6:
            start()
        time.sleep(0.005)
        if chance.random() < 0.03:
            process, slot = chance.choice(list(running.items()))
            users.doom(marks, slot)
            process.kill()
        for process in [process for process in running if is_over(process)]:
            del running[process]
    for process in running:
        process.wait() if isinstance(process, subprocess.Popen) else process.join()
    print(f"started {started}; the most inside at once: {marks[0]}")
    assert 1 <= marks[0] <= users.LIMIT
    sem = RobustSemaphore(name)
    assert (sem.value, sem.holders) == (sem.total, [])
    close(sem)
    assert not exists(name)
    marks.close()
