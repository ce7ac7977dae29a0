# SPDX-License-Identifier: Apache-2.0
"""Names are unlinked once, by the process that owns them, however their objects and it end."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import sys

import profiles
import pytest
from kinds import bound, exists, file_of
from profiles.posix import Musl
from support import SLOW, collect, run_python, start_python

from named_semaphores import NamedSemaphore

LINK = NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS
START = """
import os, sys, threading, time
from named_semaphores import NamedSemaphore
def link(name):
    return NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS)
"""

if sys.version_info >= (3, 12):
    pytestmark = pytest.mark.filterwarnings(
        "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"
    )


def assert_quiet(done):
    assert (done.returncode, done.stderr) == (0, "")


# --- the end of a process

SEM = "sem = NamedSemaphore(sys.argv[1]); "
FORK = """
sem = NamedSemaphore(sys.argv[1])
if os.fork() == 0:
    own = NamedSemaphore(sys.argv[1] + "x")
else:
    os.wait()
    link(sys.argv[1])
"""
C_FORK = """
import ctypes
sem, other = NamedSemaphore(sys.argv[1]), NamedSemaphore(sys.argv[1] + "x")
pid = ctypes.PyDLL(None).fork()  # calls no hooks of Python, as uWSGI
if pid == 0:
    with sem:
        sem.close()
    del other
    sys.exit()
assert os.waitpid(pid, 0)[1] == 0
link(sem.name), link(other.name)
assert sem.value == 1
"""
LATE_CHILD = """
def late(name, reader, writer):
    global own
    own = NamedSemaphore(name + "x")
    os.close(writer)
    os.read(reader, 1)  # at the end of the file: the parent's interpreter ends
    link(name).release()
    print("linked")
sem = NamedSemaphore(sys.argv[1])
import multiprocessing, atexit
pipe = os.pipe()
multiprocessing.get_context("fork").Process(target=late, args=(sem.name, *pipe)).start()
atexit.register(os.close, pipe[1])
"""
FIRST = "import multiprocessing.util\n"
ENDS = {
    "normal": SEM,
    "told to": "sem = NamedSemaphore(sys.argv[1], unlink_on_delete=True)",
    "sys.exit": SEM + "sys.exit(3)",
    "exception": SEM + "1 / 0",
    "cycle": SEM + "cycle = [sem]; cycle.append(cycle); del sem",
    "daemon thread": SEM + "threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()",
    "fork": FORK,
    "fork, multiprocessing first": FIRST + FORK,
    "child after its parent": LATE_CHILD,
    "child after its parent, multiprocessing first": FIRST + LATE_CHILD,
}
if sys.implementation.name == "cpython":  # PyPy's threads need its own fork
    ENDS["fork in C"] = C_FORK
    # As where a C extension keeps the main module: it is cleared at last.
    keep = "import ctypes; ctypes.pythonapi.Py_IncRef(ctypes.py_object(sys.modules['__main__']))"
    ENDS["kept main module"] = SEM + keep


@pytest.mark.parametrize("end", ENDS)
def test_names_go_with_their_creator_alone(name, end):
    code = ENDS[end]
    first = FIRST if code.startswith(FIRST) else ""
    done = run_python(first + START + code, name)
    assert done.returncode == {"sys.exit": 3, "exception": 1}.get(end, 0)
    assert done.stderr == "" or end == "exception"
    assert done.stdout == ("linked\n" if "late" in code else "")
    assert not exists(name)
    assert not exists(name + "x")


def test_hold_keeps_the_name_of_an_object_that_nobody_else_has(name):
    with NamedSemaphore(name).hold():
        collect()
        assert exists(name)
    collect()
    assert not exists(name)


def test_the_name_stays_at_the_end_of_who_was_told_to_leave_it(name):
    code = "sem = NamedSemaphore(sys.argv[1], unlink_on_delete=False)"
    assert_quiet(run_python(START + code, name))
    assert exists(name)
    NamedSemaphore(name, unlink_on_delete=True).close()


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "1 / 0", "os.kill(os.getpid(), 2)"])
def test_a_with_statement_puts_its_token_back_at_the_end(name, end):
    sem = NamedSemaphore(name, 1)
    code = f"sem = NamedSemaphore(sys.argv[1])\nwith sem:\n    assert sem.value == 0\n    {end}"
    run_python(START + code, name)
    assert sem.value == 1
    sem.close()


INSIDE = """
import warnings
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
def begin():
    threading.Thread(target=stay, daemon=True).start()
    inside.wait()
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("begin()", id="a daemon thread"),
        pytest.param("begin()\nif os.fork(): os.wait()", id="a child beside a daemon thread"),
        pytest.param("kept = hold(); next(kept)", id="a generator"),
        pytest.param("kept = hold(); next(kept); c = [kept]; c.append(c); del kept", id="a cycle"),
    ],
)
def test_no_end_of_the_interpreter_puts_back_a_token_that_nobody_holds(name, code):
    sem = NamedSemaphore(name, 3)
    assert_quiet(run_python(START + INSIDE + code, name))
    assert sem.value <= 3
    sem.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_keeps_token_and_name(name, number):
    code = "with NamedSemaphore(sys.argv[1]):\n    print(flush=True)\n    time.sleep(1000)"
    child = start_python(START + code, name)
    child.stdout.readline()
    child.send_signal(number)
    child.communicate(timeout=60 * SLOW)
    sem = NamedSemaphore(name, handle_existence=LINK, unlink_on_delete=True)
    assert sem.value == 0
    sem.release()  # how one recovers
    sem.close()


AT_SHUTDOWN = """
class Late:
    def __del__(self, name=sys.argv[1]):
        with NamedSemaphore(name, 2) as sem:
            print(sem.value)
late = Late()
late.itself = late  # collected at the interpreter's end, after the atexit functions
"""


def test_the_first_one_may_be_made_in_a_finalizer_at_the_interpreters_end(name):
    done = run_python(START + AT_SHUTDOWN, name)
    assert_quiet(done)
    # PyPy need not collect it, and coverage keeps what it traced.
    is_kept = sys.implementation.name == "pypy" or "coverage" in sys.modules
    assert done.stdout == "1\n" or is_kept
    assert not exists(name)


# --- children


class Maker(contextlib.nullcontext):
    """Makes a semaphore when it is unpickled, before the process calls its target."""

    def __reduce__(self):
        return make, (self.enter_result,)


def make(name):
    global made
    made = NamedSemaphore(name)
    return contextlib.nullcontext()


def use_and_create(sem, maker, name):
    global kept
    with sem:
        kept = NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_EXISTS)
    del sem
    collect()


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_child_unlinks_its_own_names_and_not_its_parents(name, method):
    sem = NamedSemaphore(name, 2)
    process = multiprocessing.get_context(method).Process(
        target=use_and_create, args=(sem, Maker(name + "y"), name + "x")
    )
    process.start()
    process.join(60 * SLOW)
    assert process.exitcode == 0
    assert [exists(name + end) for end in ("", "x", "y")] == [True, False, False]
    assert sem.value == 2
    sem.close()


# --- names that cannot be unlinked


@pytest.fixture
def broken(name):
    """A semaphore whose library cannot unlink, for the reason that its ``reason`` is."""
    profiles.skip_without_fakes()

    class Broken(Musl):
        reason = errno.EACCES

        def do_sem_unlink(self, name):
            if self.reason:
                raise OSError(self.reason, "")
            return super().do_sem_unlink(name)

    cls = bound(Broken(), "linux")
    broken = [cls(name)]
    yield broken
    if os.path.exists(file_of(name, cls)):
        os.unlink(file_of(name, cls))


def test_close_reports_once_that_a_name_may_not_be_unlinked(name, broken):
    (sem,) = broken
    text = f"it belongs to user {os.geteuid()}, group .*, with mode 0600.*{name}"
    with pytest.raises(PermissionError, match=text):
        sem.close()
    assert sem.closed
    sem.close()


def test_a_finalizer_reports_a_name_that_may_not_be_unlinked(name, broken, monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: said.append(str(error.exc_value)))
    broken.clear()
    collect()
    assert len(said) == 1
    assert name in said[0]


# --- the owner


def test_a_name_whose_finalizer_a_signal_ended_is_unlinked_at_the_end():
    code = """
from named_semaphores import _cleanup
def unlink():
    print("unlinks")
    if not interrupted:
        interrupted.append(1)
        raise KeyboardInterrupt
interrupted = []
owner = _cleanup.Owner(unlink)
del owner
"""
    done = run_python(code)
    assert done.stdout == "unlinks\n" * 2
    assert "KeyboardInterrupt" in done.stderr


def test_sets_are_left_at_exit_also_if_a_name_is_refused_or_a_signal_interrupts():
    code = """
from named_semaphores import _cleanup
def refuse():
    raise PermissionError(13, "Permission denied", "/theirs")
def fail():
    print("fails")
    raise KeyboardInterrupt
_cleanup.at_exit(lambda: print("last"))
owners = _cleanup.Owner(refuse), _cleanup.Owner(fail)
"""
    done = run_python(code)
    assert done.stdout.startswith("fails\nlast\n")
    assert "Permission denied: '/theirs'" in done.stderr
    assert "KeyboardInterrupt" in done.stderr
