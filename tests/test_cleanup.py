# SPDX-License-Identifier: Apache-2.0
"""Names are unlinked once, by the process that owns them, however their objects and it end."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys

import profiles
import pytest
from holders import beside
from kinds import bound, exists, file_of
from profiles.posix import Musl
from support import SLOW, Struck, collect, run_python

from named_semaphores import NamedSemaphore

Flags = NamedSemaphore.Flags
START = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")  # of fork beside threads
from named_semaphores import NamedSemaphore
name = sys.argv[1]
def link(name):
    return NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS)
"""
SEM = "sem = NamedSemaphore(name)\n"


def assert_quiet(done, status=0):
    assert (done.returncode, done.stderr) == (status, "")


# --- the end of a process

FORK = """
if os.fork() == 0:
    own = NamedSemaphore(name + "x")
else:
    os.wait()
    link(name)
"""
C_FORK = """
import ctypes
other = NamedSemaphore(name + "x")
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
def late(reader, writer):
    global own
    own = NamedSemaphore(name + "x")
    os.close(writer)
    os.read(reader, 1)  # at the end of the file: the parent's interpreter ends
    link(name).release()
    print("linked")
import multiprocessing, atexit
pipe = os.pipe()
multiprocessing.get_context("fork").Process(target=late, args=pipe).start()
atexit.register(os.close, pipe[1])
"""
ENDS = {
    "normal": "",
    "told to": "sem = NamedSemaphore(name + 'x', unlink_on_delete=True)",
    "sys.exit": "sys.exit(3)",
    "cycle": "cycle = [sem]; cycle.append(cycle); del sem",
    "daemon thread": "threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()",
    "fork": FORK,
    "child after its parent": LATE_CHILD,
}
if sys.implementation.name == "cpython":  # PyPy's threads need its own fork
    ENDS["fork in C"] = C_FORK
    # As where a C extension keeps the main module: it is cleared at last.
    keep = "import ctypes; ctypes.pythonapi.Py_IncRef(ctypes.py_object(sys.modules['__main__']))"
    ENDS["kept main module"] = keep
FIRST = "import multiprocessing.util\n"


@pytest.mark.parametrize(
    ("first", "end"),
    [*(("", end) for end in ENDS), (FIRST, "fork"), (FIRST, "child after its parent")],
)
def test_names_go_with_their_creator_alone(name, first, end):
    done = run_python(first + START + SEM + ENDS[end], name)
    assert_quiet(done, 3 if end == "sys.exit" else 0)
    assert done.stdout == ("linked\n" if ENDS[end] is LATE_CHILD else "")
    assert not exists(name)
    assert not exists(name + "x")


def test_the_name_stays_at_the_end_of_who_was_told_to_leave_it(name):
    assert_quiet(run_python(START + "NamedSemaphore(name, unlink_on_delete=False)", name))
    NamedSemaphore(name, 1, Flags.RAISE_IF_NOT_EXISTS, unlink_on_delete=True).close()


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "1 / 0", "os.kill(os.getpid(), 2)"])
def test_a_with_statement_puts_its_token_back_at_the_end(name, end):
    sem = NamedSemaphore(name, 1)
    run_python(f"{START}{SEM}with sem:\n    assert sem.value == 0\n    {end}", name)
    assert sem.value == 1
    sem.close()


INSIDE = """
def hold():
    with sem:
        yield
def stay():
    with sem:
        inside.set()
        time.sleep(1000)
inside = threading.Event()
"""
BESIDE = "threading.Thread(target=stay, daemon=True).start(); inside.wait()\n"
GENERATOR = "kept = hold(); next(kept)\n"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(BESIDE, id="a daemon thread"),
        pytest.param(BESIDE + "if os.fork(): os.wait()", id="a child beside a daemon thread"),
        pytest.param(GENERATOR, id="a generator"),
        pytest.param(GENERATOR + "cycle = [kept]; cycle.append(cycle); del kept", id="a cycle"),
    ],
)
def test_no_end_of_the_interpreter_puts_back_a_token_that_nobody_holds(name, code):
    sem = NamedSemaphore(name, 3)
    assert_quiet(run_python(START + SEM + INSIDE + code, name))
    assert sem.value <= 3
    sem.close()


def test_a_killed_process_keeps_token_and_name(name):
    def hold():
        kept.append(NamedSemaphore(name))
        kept[0].acquire()

    kept = []
    with beside(hold):
        pass
    sem = NamedSemaphore(name, 1, Flags.RAISE_IF_NOT_EXISTS, unlink_on_delete=True)
    assert sem.value == 0
    sem.release()  # how one recovers
    sem.close()


AT_SHUTDOWN = """
class Late:
    def __del__(self, name=name):
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


class Maker(str):
    """Makes a semaphore when it is unpickled, before the process calls its target."""

    def __reduce__(self):
        return make, (str(self),)


def make(name):
    global made
    made = NamedSemaphore(name)


def use_and_create(sem, maker, name):
    global kept
    with sem:
        kept = NamedSemaphore(name, handle_existence=Flags.RAISE_IF_EXISTS)
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
    """A semaphore whose library cannot unlink."""
    profiles.skip_without_fakes()

    class Broken(Musl):
        def do_sem_unlink(self, name):
            raise OSError(errno.EACCES, "")

    cls = bound(Broken(), "linux")
    broken = [cls(name)]
    yield broken
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


@pytest.mark.parametrize("error", [Struck, TimeoutError])
def test_a_signal_handler_that_ends_close_leaves_the_name_to_the_finalizer(
    name, monkeypatch, error
):
    def strike():
        monkeypatch.undo()
        raise error

    sem = NamedSemaphore(name)
    monkeypatch.setattr(os, "getpid", strike)
    with pytest.raises(error):
        sem.close()
    assert sem.closed
    sem = None
    collect()
    assert not exists(name)


def test_at_exit_each_name_and_set_has_its_turn_whatever_a_signal_or_a_refusal_ended():
    code = """
import gc
from named_semaphores import _cleanup
def unlink():
    print("unlinks")
    if not interrupted:
        interrupted.append(1)
        raise KeyboardInterrupt
def refuse():
    raise PermissionError(13, "Permission denied", "/theirs")
def fail():
    print("fails")
    raise KeyboardInterrupt
interrupted = []
_cleanup.at_exit.append(lambda: print("last"))  # the sets
owner = _cleanup.Owner(unlink)
del owner
gc.collect()  # its finalizer is interrupted
owners = _cleanup.Owner(refuse), _cleanup.Owner(fail)
"""
    done = run_python(code)
    assert done.stdout.startswith("unlinks\nunlinks\nfails\nlast\n")
    for said in ("KeyboardInterrupt", "Permission denied: '/theirs'"):
        assert said in done.stderr
