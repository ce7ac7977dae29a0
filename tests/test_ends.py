# SPDX-License-Identifier: Apache-2.0
"""However a process ends: the name goes if it was ours, and a token held in a with statement comes back; killed, neither."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import sysconfig
import threading
import time
import types
import weakref

import pytest
from support import EXACT, SLOW, run_python, start_python

from named_semaphores import NamedSemaphore, _ends

START = "import os, sys, threading, time; from named_semaphores import NamedSemaphore; "
_COUNTED = EXACT and not sysconfig.get_config_var("Py_GIL_DISABLED")
counted = pytest.mark.skipif(not _COUNTED, reason="this Python cannot count the tokens of frozen threads, as README says")
ENDS = {
    "normal": "pass",
    "sys.exit": "sys.exit(3)",
    "exception": "1 / 0",
    "cycle": "cycle = [sem]; cycle.append(cycle); del sem",
    "daemon thread": "threading.Thread(target=lambda s=sem: time.sleep(1000), daemon=True).start()",
    "exit in a thread's with": "t = threading.Thread(target=lambda: sem.__enter__() and sem.__exit__(None, None, None)); t.start()",
}


@pytest.mark.parametrize("end", list(ENDS.values()), ids=list(ENDS))
def test_the_name_goes_with_its_creator(name, end):
    child = start_python(START + f"sem = NamedSemaphore(sys.argv[1]); {end}", name)
    child.communicate(timeout=60 * SLOW)
    with pytest.raises(FileNotFoundError):
        NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS)


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "1 / 0", "os.kill(os.getpid(), 2)"])
def test_the_token_comes_back(name, end):
    sem = NamedSemaphore(name, 1)
    child = start_python(START + f"sem = NamedSemaphore(sys.argv[1])\nwith sem:\n    assert sem.value == 0\n    {end}", name)
    child.communicate(timeout=60 * SLOW)
    assert sem.value == 1
    sem.close()


@counted
@pytest.mark.parametrize("owner", ["s", "NamedSemaphore(s.name)"], ids=["an object", "nothing but the statement"])
@pytest.mark.parametrize(("tokens", "threads"), [(5, 1), (5, 3), (1, 3)], ids=["one", "three", "two more that wait"])
def test_the_token_of_a_daemon_thread_comes_back(name, owner, tokens, threads):
    code = f"""
s = NamedSemaphore(sys.argv[1])
def hold():
    with {owner}:
        time.sleep(1000)
from named_semaphores._ends import waiters
for _ in range({threads}):
    threading.Thread(target=hold, daemon=True).start()
while s.value != max(0, {tokens} - {threads}) or waiters.number != max(0, {threads} - {tokens}):
    time.sleep(0.001)
"""
    sem = NamedSemaphore(name, tokens)
    child = start_python(START + code, name)
    _, errors = child.communicate(timeout=60 * SLOW)
    assert (child.returncode, errors) == (0, "")
    assert sem.value == tokens
    sem.close()


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        pytest.param(0, "threading.Thread(target=stay, daemon=True).start()", id="a daemon thread that waits"),
        pytest.param(2, "generator = hold(); next(generator)", id="a generator"),
        pytest.param(2, "generator = hold(); next(generator); cycle = [generator]; cycle.append(cycle); del generator", id="a cycle"),
        pytest.param(2, "stack = contextlib.ExitStack(); stack.enter_context(s); stack.close()", id="an ExitStack"),
        pytest.param(
            2,
            "threading.Thread(target=stay, daemon=True).start(); inside.wait()\nif os.fork(): os.wait()",
            id="a child of fork",
        ),
    ],
)
def test_no_token_comes_back_twice(name, tokens, code):
    # Whatever of these CPython ends, or leaves alone, there are never more tokens than at the start.
    start = """
import contextlib, warnings
warnings.simplefilter("ignore")  # of fork beside threads
s = NamedSemaphore(sys.argv[1])
inside = threading.Event()
def hold():
    with s:
        yield
def stay():
    with s:
        inside.set()
        time.sleep(1000)
"""
    sem = NamedSemaphore(name, tokens)
    child = start_python(START + start + code, name)
    _, errors = child.communicate(timeout=60 * SLOW)
    assert (child.returncode, errors) == (0, "")
    assert sem.value <= tokens
    sem.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_it_keeps_token_and_name(name, number):
    child = start_python(START + "sem = NamedSemaphore(sys.argv[1], 1)\nwith sem:\n    print(flush=True)\n    time.sleep(1000)", name)
    child.stdout.readline()
    child.send_signal(number)
    child.communicate(timeout=60 * SLOW)
    sem = NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS, unlink_on_delete=True)
    assert sem.value == 0
    sem.release()  # how one recovers
    sem.close()


def test_ctrl_c_ends_a_wait(name):
    sem = NamedSemaphore(name, 0)
    child = start_python(START + "sem = NamedSemaphore(sys.argv[1])\nprint(flush=True)\nsem.acquire()", name)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60 * SLOW)
    assert "KeyboardInterrupt" in errors
    assert sem.value == 0
    sem.close()


@counted
@pytest.mark.parametrize("forked", [False, True])
def test_what_with_statements_hold_is_given_back_once_and_not_by_a_child_of_fork(name, forked):
    class Last(_ends._Last):  # the interpreter's own comes when nothing can be measured any more
        counts = set()
        waiters = types.SimpleNamespace(number=1)  # it waits for them to end
        seconds = 0

    sem = NamedSemaphore(name, 5)
    for _ in range(3):
        sem.__enter__()
    sem.__exit__(None, None, None)
    if forked:
        _ends._forget()
    Last.counts.add(weakref.ref(sem._count))
    for _ in range(2):
        Last()
        gc.collect()
        assert sem.value == (3 if forked else 5)
    sem.close()


def test_a_second_import_goes_on_counting():
    code = """
import importlib, sys
from named_semaphores import _ends
before = {key: value for key, value in vars(sys).items() if key.startswith("_named_semaphores._ends")}
importlib.reload(_ends)
assert all(vars(sys)[key] is value for key, value in before.items())
print(len(before))
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 2


def test_counting_begins_once(name):
    sem = NamedSemaphore(name)
    with sem:
        _ends.enlist(sem._count)  # as another thread that came at the same time
        assert sem._count.held() == (1 if sem._count.begun else 0)
    sem.close()


def test_closing_in_an_exit_stack_costs_no_token(name):
    sem, link = NamedSemaphore(name, 3), NamedSemaphore(name)
    for _ in range(2):
        again = NamedSemaphore(name)
        with contextlib.ExitStack() as stack:
            assert stack.enter_context(again) is again
            assert link.value == 2
            again.close()
        assert link.value == 3
    sem.close()
    link.close()


def test_closing_while_an_exit_stack_waits_costs_no_token(name):
    def enter():
        begun.set()
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(sem)
        except ValueError:  # it was closed before it waited
            pass

    sem, link = NamedSemaphore(name, 0), NamedSemaphore(name)
    begun = threading.Event()
    thread = threading.Thread(target=enter)
    thread.start()
    begun.wait()
    time.sleep(0.05)  # for it to wait; nothing is lost either way
    sem.close()
    link.release()
    thread.join()
    assert link.value == 1
    link.close()


def test_an_exit_stack_that_was_pushed_another_token_costs_none_later(name):
    sem, link = NamedSemaphore(name, 3), NamedSemaphore(name)
    with sem:
        with contextlib.ExitStack() as stack:
            sem.acquire()
            stack.push(sem)  # ends what was never counted
        assert link.value == 2
    with contextlib.ExitStack() as stack:
        stack.enter_context(sem)
        sem.close()
    assert link.value == 3
    link.close()


@counted
@pytest.mark.parametrize("push", [False, True])
def test_an_exit_stack_and_daemon_threads_are_counted_together(name, push):
    sem, link = NamedSemaphore(name, 3), NamedSemaphore(name)
    with contextlib.ExitStack() as stack:
        if push:
            sem.acquire()
            stack.push(sem)
        else:
            stack.enter_context(sem)
            sem.close()
    assert link.value == 3
    if push:  # 3.15's ExitStack binds what it is pushed, so that the end alone is counted: too few is never too much
        assert sem._count.held() == (-1 if sys.version_info >= (3, 15) else 0)
    sem.close()
    link.close()
