# SPDX-License-Identifier: Apache-2.0
"""Systems without POSIX named semaphores: importing works, and making one says why it cannot be, and what to do."""

from __future__ import annotations

import profiles
import pytest
from support import run_python

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
import named_semaphores
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
    assert f"({platform})" in first
    assert "no POSIX named semaphores" in first
    if code is NO_CTYPES:
        assert "has no ctypes" in first
    else:
        assert "run Python under Cygwin, MSYS2 or WSL" in first
    assert bad_name.startswith("ValueError")
    assert "'a/b'" in bad_name
    assert shown == "<NamedSemaphore None closed>"


@pytest.mark.skipif(profiles.why_impossible() is not None, reason=f"NO PLATFORM PROFILES: {profiles.why_impossible()}")
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
        assert "(android) has no POSIX named semaphores (ENOSYS)" in line
        assert repr(name) in line


def test_importing_starts_no_process_and_loads_nothing():
    code = """
import ctypes, subprocess, os
def refuse(*arguments): raise AssertionError(arguments)
ctypes.CDLL = subprocess.Popen = os.fork = os.system = os.posix_spawn = refuse
import named_semaphores
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")
