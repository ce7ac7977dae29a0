# SPDX-License-Identifier: Apache-2.0
"""Names are unlinked once, by the process that owns them, however their objects and that process end; nothing else is unlinked."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import multiprocessing
import os
import pickle
import signal
import sys
import threading

import profiles
import pytest
from kinds import bound, exists, file_of
from support import SLOW, collect, run_python, start_python

from named_semaphores import NamedSemaphore, _names

LINK = NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS
METHODS = multiprocessing.get_all_start_methods()
START = "import os, sys, threading, time; from named_semaphores import NamedSemaphore; "

if sys.version_info >= (3, 12):
    pytestmark = pytest.mark.filterwarnings(
        "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"
    )


# --- the end of a process -------------------------------------------------------------------------------------------------------------

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
    run_python(START + f"sem = NamedSemaphore(sys.argv[1]); {end}", name)
    assert not exists(name)


@pytest.mark.parametrize(("given", "unlinked"), [(None, True), (True, True), (False, False)])
def test_the_end_of_the_interpreter_does_what_close_does(name, given, unlinked):
    done = run_python(START + f"sem = NamedSemaphore(sys.argv[1], unlink_on_delete={given})", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert exists(name) is not unlinked
    if not unlinked:
        NamedSemaphore(name, unlink_on_delete=True).close()


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "1 / 0", "os.kill(os.getpid(), 2)"])
def test_a_with_statement_puts_its_token_back_at_the_end(name, end):
    sem = NamedSemaphore(name, 1)
    run_python(
        START
        + f"sem = NamedSemaphore(sys.argv[1])\nwith sem:\n    assert sem.value == 0\n    {end}",
        name,
    )
    assert sem.value == 1
    sem.close()


NO_MORE_TOKENS = """
import asyncio, contextlib, contextvars, warnings
warnings.simplefilter("ignore")  # of fork beside threads
s = NamedSemaphore(sys.argv[1])
inside = threading.Event()
class Releases(NamedSemaphore):
    def __exit__(self, *exception):
        self.release()
@contextlib.contextmanager
def context():
    with s:
        yield
def hold():
    with s:
        yield
def stay(enter=s.__enter__, leave=lambda: None):
    enter()
    leave()
    inside.set()
    time.sleep(1000)
def with_(sem):
    with sem:
        stay(lambda: None)
def begin(target, *arguments):
    threading.Thread(target=target, args=arguments, daemon=True).start()
    inside.wait()
"""
END_CODES = {
    "a daemon thread inside": "begin(with_, s)",
    "a daemon thread that waits": "s.acquire(); s.acquire(); s.acquire(); threading.Thread(target=with_, args=(s,), daemon=True).start()",
    "a daemon thread in a subclass whose exit releases": "begin(with_, Releases(s.name))",
    "a daemon thread that entered by hand and released": "begin(stay, s.__enter__, s.release)",
    "a generator": "generator = hold(); next(generator)",
    "a generator in a cycle": "generator = hold(); next(generator); cycle = [generator]; cycle.append(cycle); del generator",
    "a context kept by sys.excepthook": "kept = context(); kept.__enter__(); sys.excepthook = lambda *_, kept=kept: None",
    "a context kept by a ContextVar": "kept = context(); kept.__enter__(); contextvars.ContextVar('v').set(kept)",
    "a closed ExitStack": "stack = contextlib.ExitStack(); stack.enter_context(s); stack.close()",
    "a child of fork beside a daemon thread": "begin(with_, s)\nif os.fork(): os.wait()",
}


@pytest.mark.parametrize("code", list(END_CODES.values()), ids=list(END_CODES))
def test_no_end_of_the_interpreter_puts_back_a_token_that_nobody_holds(name, code):
    sem = NamedSemaphore(name, 3)
    done = run_python(START + NO_MORE_TOKENS + code, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert sem.value <= 3
    sem.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_keeps_token_and_name(name, number):
    child = start_python(
        START
        + "sem = NamedSemaphore(sys.argv[1], 1)\nwith sem:\n    print(flush=True)\n    time.sleep(1000)",
        name,
    )
    child.stdout.readline()
    child.send_signal(number)
    child.communicate(timeout=60 * SLOW)
    sem = NamedSemaphore(name, handle_existence=LINK, unlink_on_delete=True)
    assert sem.value == 0
    sem.release()  # how one recovers
    sem.close()


LATE_CHILD = """
def late(name, reader):
    os.read(reader, 1)  # at the end of the file: the parent's interpreter ends
    NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS).release()
    print("linked")
def close_first(reader, writer, name):
    os.close(writer)
    late(name, reader)
sem = NamedSemaphore(sys.argv[1])
import multiprocessing, atexit
reader, writer = os.pipe()
multiprocessing.get_context("fork").Process(target=close_first, args=(reader, writer, sem.name)).start()
atexit.register(os.close, writer)
"""


@pytest.mark.parametrize(
    "first", ["", "import multiprocessing.util\n"], ids=["alone", "multiprocessing imported first"]
)
def test_names_are_unlinked_after_the_children_have_ended(name, first):
    done = run_python(first + START + LATE_CHILD, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "linked\n", "")
    assert not exists(name)


# --- children -------------------------------------------------------------------------------------------------------------------------


def join(process):
    process.join(60 * SLOW)
    assert process.exitcode == 0


def use_and_create(sem, name):
    global kept
    with sem:
        kept = NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_EXISTS)
    del sem
    collect()


@pytest.mark.parametrize("method", METHODS)
def test_a_child_unlinks_its_own_names_and_not_its_parents(name, method):
    sem = NamedSemaphore(name, 2)
    process = multiprocessing.get_context(method).Process(
        target=use_and_create, args=(sem, name + "x")
    )
    process.start()
    join(process)
    assert exists(name)
    assert not exists(name + "x")
    assert sem.value == 2
    sem.close()
    assert not exists(name)


class Maker:
    """Makes a semaphore when it is unpickled, before the process calls its target."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return make, (self.name,)


def make(name):
    global made
    made = NamedSemaphore(name)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
def test_a_child_unlinks_what_it_created_before_its_target_was_called(name, method):
    process = multiprocessing.get_context(method).Process(
        target=use_and_create, args=(contextlib.nullcontext(Maker(name)), name + "x")
    )
    process.start()
    join(process)
    assert not exists(name)
    assert not exists(name + "x")


SAME_PID = """
import os, sys
os.getpid = lambda: 1  # as for two processes that are each the first of a PID namespace
from named_semaphores import NamedSemaphore
sem = NamedSemaphore(sys.argv[1])
if os.fork() == 0:
    sem.close()
    del sem
    os._exit(0)
os.wait()
NamedSemaphore(sys.argv[1], handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS)
"""


def test_a_forked_child_of_the_same_number_leaves_the_name(name):
    done = run_python(SAME_PID, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert not exists(name)


@pytest.mark.parametrize(
    "first", ["", "import multiprocessing.util\n"], ids=["alone", "multiprocessing imported first"]
)
def test_a_forked_child_unlinks_what_it_created_itself(name, first):
    code = "sem = NamedSemaphore(sys.argv[1])\nif os.fork() == 0:\n    own = NamedSemaphore(sys.argv[1] + 'x')\nelse:\n    os.wait()"
    done = run_python(first + START + code, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert not exists(name)
    assert not exists(name + "x")


def take(sem):
    sem.acquire()
    return pickle.dumps(sem)


@pytest.mark.refcounts
def test_through_an_executor_and_back(name):
    sem = NamedSemaphore(name, 5)
    with concurrent.futures.ProcessPoolExecutor(
        2, multiprocessing.get_context("spawn")
    ) as executor:
        for dumped in executor.map(take, [sem] * 4):
            back = pickle.loads(dumped)
            assert (back.name, back.unlink_on_delete) == (name, False)
            back.close()
    assert sem.value == 1
    sem.close()


# --- names that cannot be unlinked at once ---------------------------------------------------------------------------------------------

needs_fakes = pytest.mark.skipif(
    profiles.why_impossible() is not None,
    reason=f"NO PLATFORM PROFILES: {profiles.why_impossible()}",
)


@pytest.fixture
def broken():
    """A library that cannot unlink for a time, for the reason that its attribute says."""
    if profiles.why_impossible():
        pytest.skip(f"NO PLATFORM PROFILES: {profiles.why_impossible()}")
    from profiles.linux import Musl

    class Broken(Musl):
        reason = errno.EIO

        def do_sem_unlink(self, name):
            if self.reason:
                raise OSError(self.reason, "")
            return super().do_sem_unlink(name)

    return Broken()


def test_close_reports_a_name_it_cannot_unlink_and_a_second_call_tries_again(name, broken):
    sem = bound(broken, "linux")(name)
    for _ in range(2):
        with pytest.raises(OSError, match=name) as raised:
            sem.close()
        assert raised.value.errno == errno.EIO
        assert sem.closed
    broken.reason = None
    sem.close()
    assert not os.path.exists(file_of(name, type(sem)))


def test_close_reports_once_that_a_name_may_not_be_unlinked(name, broken):
    broken.reason = errno.EACCES
    sem = bound(broken, "linux")(name)
    with pytest.raises(
        PermissionError,
        match=f"it belongs to user {os.geteuid()}, group .*, with mode 0600.*{name}",
    ):
        sem.close()
    assert sem.closed
    sem.close()
    os.unlink(file_of(name, type(sem)))


def drop(sem):
    """Delete it; its name cannot be unlinked."""
    with pytest.warns(RuntimeWarning, match=f"could not be removed.*{sem[0].name}"):
        sem.clear()
        collect()


def test_a_deleted_objects_name_is_unlinked_when_the_next_object_is_made(name, broken):
    Bound = bound(broken, "linux")
    drop([Bound(name)])
    assert os.path.exists(file_of(name, Bound))
    broken.reason = None
    Bound(f"{name}x").close()
    assert not os.path.exists(file_of(name, Bound))


def test_a_deleted_objects_name_that_still_cannot_be_unlinked_is_reported_again(name, broken):
    Bound = bound(broken, "linux")
    drop([Bound(name)])
    with pytest.warns(RuntimeWarning, match=f"could not be removed.*{name}"):
        NamedSemaphore(f"{name}x").close()
    broken.reason = None
    os.unlink(file_of(name, Bound))


def test_a_deleted_objects_name_that_may_not_be_unlinked_is_reported_once(name, broken):
    broken.reason = errno.EACCES
    Bound = bound(broken, "linux")
    drop([Bound(name)])
    NamedSemaphore(f"{name}x").close()
    os.unlink(file_of(name, Bound))


def test_a_warning_that_is_an_error_goes_to_excepthook_and_interrupts_nobody(name, broken, capsys):
    broken.reason = errno.EACCES
    sem = [bound(broken, "linux")(name)]
    path = file_of(name, type(sem[0]))
    sem.clear()  # "error" is this suite's filter
    collect()
    said = capsys.readouterr().err
    assert "RuntimeWarning" in said
    assert name in said
    os.unlink(path)


AT_EXIT = """
import sys; sys.path.insert(0, sys.argv[2])
import threading
from profiles.linux import Musl
from named_semaphores import NamedSemaphore
from named_semaphores._libc import Libc

class Hanging(Musl):
    calls = 0
    def do_sem_unlink(self, name):
        self.calls += 1
        if self.calls == 1:
            reached.set()
            threading.Event().wait()
        return super().do_sem_unlink(name)

class Bound(NamedSemaphore):
    _libc = Libc(Hanging(), "linux")

reached = threading.Event()
sem = Bound(sys.argv[1])
threading.Thread(target=sem.close, daemon=True).start()
reached.wait()
"""


@needs_fakes
def test_a_name_whose_unlinking_never_ended_is_unlinked_at_the_end(name):
    done = run_python(AT_EXIT, name, os.path.join(os.path.dirname(__file__), "lib"))
    assert (done.returncode, done.stderr) == (0, "")
    assert not os.path.exists(f"/dev/shm{name}")


def test_an_unlinking_that_a_signal_interrupts_is_made_up_for(name):
    class Interrupt(Exception):
        pass

    def unlink():
        calls.append(1)
        if len(calls) == 1:
            raise Interrupt

    calls = []
    owner = _names.Owner(unlink)
    with pytest.raises(Interrupt):
        owner.unlink()
    owner.unlink()
    owner.unlink()
    del owner
    collect()
    assert len(calls) == 2


def test_a_signal_in_the_clean_up_of_another_name_only_delays_it(monkeypatch):
    class Interrupt(Exception):
        pass

    def unlink():
        calls.append(1)
        if len(calls) < 3:
            raise Interrupt

    calls, lost = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: lost.append(error.exc_type))
    owner = _names.Owner(unlink)
    del owner
    collect()
    assert lost == [Interrupt]
    with pytest.raises(Interrupt):
        _names.Owner(bool)
    _names.Owner(bool).unlink()
    assert len(calls) == 3


def test_two_threads_unlink_once():
    def unlink():
        calls.append(1)
        inside.set()
        go_on.wait(60)

    calls, inside, go_on = [], threading.Event(), threading.Event()
    owner = _names.Owner(unlink)
    first = threading.Thread(target=owner.unlink)
    first.start()
    inside.wait(60)
    owner.unlink()  # another thread is at it
    go_on.set()
    first.join()
    assert len(calls) == 1


def test_an_owner_whose_constructor_was_interrupted_is_quiet():
    owner = _names.Owner.__new__(_names.Owner)
    del owner
    collect()


def test_nothing_is_remembered_of_names_that_are_unlinked(name):
    before = len(_names._names), len(_names._at_exit)
    for _ in range(10):
        NamedSemaphore(name).close()
    sem = NamedSemaphore(name)
    del sem
    collect()
    NamedSemaphore(name).close()
    collect()
    assert len(_names._names) == before[0]
    assert len(_names._at_exit) <= max(1, before[1])
    assert len(_names._orphans) <= 1  # its own, which the next object takes off
