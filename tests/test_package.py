# SPDX-License-Identifier: Apache-2.0
"""Importing the package: what it loads, two copies of it, and systems where it can be imported and not be used."""

from __future__ import annotations

import ast
import os
import sys

import profiles
import pytest
from kinds import exists
from support import run_python

import named_semaphores
from named_semaphores import NamedSemaphore

# --- systems without named semaphores --------------------------------------------------------------------------------------------------

# What the standard library needs of the real platform is imported before.
PLAY = """
import ctypes, enum, errno, multiprocessing, os, pickle, sys, time, weakref
def refuse(*arguments): raise AssertionError("nothing is loaded here")
ctypes.CDLL = refuse
sys.platform = sys.argv[1]
"""
# What the system does not have.
WINDOWS = """
for missing in ("sysconf", "register_at_fork", "fork", "geteuid", "getuid", "makedev", "O_NOFOLLOW"): delattr(os, missing)
for missing in ("CLOCK_MONOTONIC", "CLOCK_REALTIME", "clock_gettime", "clock_gettime_ns"): delattr(time, missing)
"""
NO_CTYPES = """
import enum, errno, os, pickle, sys, weakref
for name in [name for name in sys.modules if name.partition(".")[0] in ("ctypes", "_ctypes")]: del sys.modules[name]
sys.modules["ctypes"] = sys.modules["_ctypes"] = None
sys.platform = sys.argv[1]
"""
USE = """
import named_semaphores, named_semaphores._cleanup
from named_semaphores import NamedSemaphore
print(*[flag.name for flag in NamedSemaphore.Flags])
for make in (lambda: NamedSemaphore("/jobs"), lambda: NamedSemaphore("jobs", 3, NamedSemaphore.Flags.UNLINK_AND_CREATE)):
    try:
        make()
    except NotImplementedError as error:
        print(error)
try:
    NamedSemaphore("a/b")
except ValueError as error:
    print("ValueError", error)
print(repr(NamedSemaphore.__new__(NamedSemaphore)))
"""


USE_ROBUST = """
from named_semaphores import RobustSemaphore
for make in (lambda: RobustSemaphore("/jobs"), lambda: RobustSemaphore("jobs", 3, RobustSemaphore.Flags.UNLINK_AND_CREATE)):
    try:
        make()
    except NotImplementedError as error:
        print(error)
print(repr(RobustSemaphore.__new__(RobustSemaphore)))
"""


@pytest.mark.parametrize(
    ("platform", "code", "hint"),
    [
        pytest.param(
            "win32",
            f"{PLAY}{WINDOWS}import _signal; del _signal.pthread_sigmask",
            "; run Python under WSL",
            id="win32",
        ),
        pytest.param("emscripten", PLAY, "", id="emscripten"),
        pytest.param("wasi", f"{PLAY}del os.register_at_fork, os.fork", "", id="wasi"),
    ],
)
def test_importing_works_and_making_a_robust_one_says_why_not(platform, code, hint):
    done = run_python(code + USE_ROBUST, platform)
    assert (done.returncode, done.stderr) == (0, "")
    refusal = f"this system ({platform}) has no System V semaphores{hint}"
    assert done.stdout.splitlines() == [refusal, refusal, "<RobustSemaphore None closed>"]


@pytest.mark.parametrize(
    ("platform", "code"),
    [
        pytest.param("win32", PLAY + WINDOWS, id="win32"),
        pytest.param("emscripten", PLAY, id="emscripten"),
        pytest.param("wasi", PLAY, id="wasi"),
        pytest.param("wasi", NO_CTYPES, id="wasi without ctypes"),
        pytest.param("linux", NO_CTYPES, id="linux without ctypes"),
    ],
)
def test_importing_works_and_making_one_says_why_not(platform, code):
    done = run_python(code + USE, platform)
    assert (done.returncode, done.stderr) == (0, "")
    flags, first, second, bad_name, shown = done.stdout.splitlines()
    assert flags == "RAISE_IF_EXISTS LINK_OR_CREATE RAISE_IF_NOT_EXISTS UNLINK_AND_CREATE"
    assert first == second
    if code is NO_CTYPES:
        assert first.startswith("named semaphores need ctypes, and this Python cannot import it: ")
        assert "ctypes" in first.partition(": ")[2]
    else:
        assert (
            f"({platform}) has no POSIX named semaphores; on Windows, run Python under Cygwin, MSYS2 or WSL"
            in first
        )
    assert bad_name.startswith("ValueError")
    assert "'a/b'" in bad_name
    assert shown == "<NamedSemaphore None closed>"


@pytest.mark.skipif(
    profiles.why_impossible() is not None,
    reason=f"NO PLATFORM PROFILES: {profiles.why_impossible()}",
)
def test_stubs_that_say_enosys_are_said_to_be_none(name):
    # Android's, in bionic's sources (libc/bionic/semaphore.cpp): sem_open, sem_close and sem_unlink.
    code = """
import ctypes, errno, sys
def stub(*arguments):
    ctypes.set_errno(errno.ENOSYS)
    return 0
class Bionic:
    sem_open = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, use_errno=True)(stub)
    sem_close = sem_unlink = sem_getvalue = sem_wait = sem_trywait = sem_post = sem_timedwait = sem_open
ctypes.CDLL = lambda name: Bionic
sys.platform = "android"
sys.modules["_multiprocessing"] = None
from named_semaphores import NamedSemaphore
for flag in NamedSemaphore.Flags:
    try:
        NamedSemaphore(sys.argv[1], handle_existence=flag)
    except NotImplementedError as error:
        print(error)
"""
    done = run_python(code, name)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert "(android) has no POSIX named semaphores" in line
        assert repr(name) in line


ISOLATED = """
import sys
try:
    import _interpreters as interpreters  # 3.13
    made = interpreters.create("isolated")
except ImportError:
    import _xxsubinterpreters as interpreters
    made = interpreters.create()
path, name = sys.path, sys.argv[1]
failed = interpreters.run_string(made, f"import sys; sys.path[:] = {path!r}" + '''
from named_semaphores import NamedSemaphore
try:
    sem = NamedSemaphore("%s")
    with sem:
        assert sem.value == 0
    sem.close()
except NotImplementedError as error:
    print(error, flush=True)
else:
    print("works", flush=True)
''' % name)
assert failed is None, failed
interpreters.destroy(made)
"""


@pytest.mark.skipif(
    sys.version_info < (3, 12) or sys.implementation.name != "cpython",
    reason="no isolated interpreters before 3.12",
)
def test_an_isolated_subinterpreter_works_or_says_why_not(name):
    done = run_python(ISOLATED, name)
    assert done.returncode == 0, done.stderr
    if done.stdout != "works\n":
        assert done.stdout.startswith(
            "named semaphores need ctypes, and this Python cannot import it: "
        )
        assert "subinterpreter" in done.stdout


# --- importing ------------------------------------------------------------------------------------------------------------------------


def test_importing_starts_no_process_and_loads_nothing():
    code = """
import ctypes, subprocess, os
def refuse(*arguments): raise AssertionError(arguments)
ctypes.CDLL = subprocess.Popen = os.fork = os.system = os.posix_spawn = refuse
import named_semaphores
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_package_imports_neither_enum_nor_ctypes_nor_asyncio():
    code = "import sys\nbefore = set(sys.modules)\nimport named_semaphores\nprint(sorted(set(sys.modules) - before))"
    done = run_python(code)
    assert done.stderr == ""
    loaded = ast.literal_eval(done.stdout)
    assert "named_semaphores" in loaded
    assert not {"enum", "ctypes", "asyncio", "named_semaphores.core"} & set(loaded)


def test_using_the_class_does_not_import_asyncio(name):
    done = run_python(
        "import sys; from named_semaphores import NamedSemaphore; NamedSemaphore(sys.argv[1]); print('asyncio' in sys.modules)",
        name,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_the_package_lists_its_classes_and_has_nothing_else():
    assert {"NamedSemaphore", "RobustSemaphore", "__version__"} <= set(dir(named_semaphores))
    with pytest.raises(
        AttributeError, match="module 'named_semaphores' has no attribute 'Semaphore'"
    ):
        _ = named_semaphores.Semaphore


def test_warnings_are_no_errors_of_the_import():
    code = "import named_semaphores._async, named_semaphores.semaphore"
    done = run_python(code, options=["-W", "error", "-bb", "-X", "dev"])
    assert (done.returncode, done.stderr) == (0, "")


TWO = """
import sys, threading, time
sys.path.insert(0, sys.argv[2])
from support import import_copy
from named_semaphores import NamedSemaphore
Other = import_copy("app_vendor_named_semaphores").NamedSemaphore
assert Other is not NamedSemaphore
first, second = NamedSemaphore(sys.argv[1]), Other(sys.argv[1])
assert (first.linked_existing_semaphore, second.linked_existing_semaphore) == (True, True)
with first:
    assert second.value == 1
    with second:
        assert not first.acquire(False)
inside = threading.Barrier(3)
def stay(sem):
    with sem:
        inside.wait()
        time.sleep(1000)
for sem in (first, second):
    threading.Thread(target=stay, args=(sem,), daemon=True).start()
inside.wait()
for sem in (first, second):  # and one that waits
    threading.Thread(target=stay, args=(sem,), daemon=True).start()
own = Other(sys.argv[1] + "x")
"""


def test_two_copies_in_one_process_do_not_disturb_each_other(name):
    sem = NamedSemaphore(name, 2)
    done = run_python(TWO, name, os.path.join(os.path.dirname(__file__), "lib"))
    assert (done.returncode, done.stderr) == (0, "")
    assert sem.value == 0  # daemon threads keep their tokens, whatever waits for more
    assert not exists(name + "x")
    sem.close()
