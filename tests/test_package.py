# SPDX-License-Identifier: Apache-2.0
"""Importing: what it loads, what annotations tell, and systems without semaphores."""

from __future__ import annotations

import ast
import ctypes
import errno
import inspect
import sys
import typing

import profiles
import pytest
from kinds import bound
from support import PYPY, run_python

import named_semaphores
from named_semaphores import NamedSemaphore, RobustSemaphore

CLASSES = [NamedSemaphore, RobustSemaphore]

# --- Systems without semaphores -------------------------------------------------------------------

# The standard library needs the real platform, so what it imports comes first.
PLAY = """
import ctypes, enum, errno, multiprocessing, os, pickle, sys, time, weakref
def refuse(*arguments): raise AssertionError("nothing is loaded here")
ctypes.CDLL = refuse
sys.platform = sys.argv[1]
"""
WINDOWS = """
for missing in ("sysconf", "register_at_fork", "fork", "geteuid", "getuid", "makedev"):
    delattr(os, missing)
del os.O_NOFOLLOW
for missing in ("CLOCK_MONOTONIC", "CLOCK_REALTIME", "clock_gettime", "clock_gettime_ns"):
    delattr(time, missing)
import _signal
del _signal.pthread_sigmask
"""
NO_CTYPES = """
import enum, errno, os, pickle, sys, weakref
for name in list(sys.modules):
    if name.partition(".")[0] in ("ctypes", "_ctypes"): del sys.modules[name]
sys.modules["ctypes"] = sys.modules["_ctypes"] = None
sys.platform = sys.argv[1]
"""
USE = """
from named_semaphores import NamedSemaphore, RobustSemaphore
for cls in NamedSemaphore, RobustSemaphore:
    print(*[flag.name for flag in cls.Flags])
    for make in (lambda: cls("/jobs"), lambda: cls("jobs", 3, cls.Flags.UNLINK_AND_CREATE)):
        try:
            make()
        except NotImplementedError as error:
            print(error)
    print(repr(cls.__new__(cls)))
"""


@pytest.mark.parametrize(
    ("platform", "code"),
    [
        pytest.param("win32", PLAY + WINDOWS, id="win32"),
        pytest.param("emscripten", PLAY, id="emscripten"),
        pytest.param("wasi", PLAY + "del os.register_at_fork, os.fork", id="wasi"),
        pytest.param("wasi", NO_CTYPES, id="wasi without ctypes"),
        pytest.param("linux", NO_CTYPES, id="linux without ctypes"),
    ],
)
def test_importing_works_and_the_constructor_says_why_not(platform, code):
    done = run_python(code + USE, platform)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for kind, *said in (("POSIX named", *lines[:4]), ("System V", *lines[4:])):
        flags, first, second, shown = said
        assert flags == "RAISE_IF_EXISTS LINK_OR_CREATE RAISE_IF_NOT_EXISTS UNLINK_AND_CREATE"
        assert first == second
        if code is NO_CTYPES:
            refusal = "named semaphores need ctypes, and this Python cannot import it: "
            assert first.startswith(refusal)
            assert "ctypes" in first.partition(": ")[2]
        else:
            assert f"({platform}) has no {kind} semaphores" in first
            assert platform != "win32" or "WSL" in first
        cls = "NamedSemaphore" if kind == "POSIX named" else "RobustSemaphore"
        assert shown == f"<{cls} None closed>"


def test_stubs_that_say_enosys_are_said_to_be_none(name):
    profiles.skip_without_fakes()

    # Android's, in bionic's sources: libc/bionic/semaphore.cpp.
    def stub(*arguments):
        ctypes.set_errno(errno.ENOSYS)
        return 0

    class Bionic:
        function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, use_errno=True)
        sem_open = sem_close = sem_unlink = sem_getvalue = function(stub)
        sem_wait = sem_trywait = sem_timedwait = sem_post = sem_open

    cls = bound(Bionic, "android")
    for flag in cls.Flags:
        with pytest.raises(NotImplementedError, match=f"{name}.*android.*no POSIX named"):
            cls(name, handle_existence=flag)


ISOLATED = """
import sys
try:
    import _interpreters as interpreters  # 3.13
    made = interpreters.create("isolated")
except ImportError:
    import _xxsubinterpreters as interpreters
    made = interpreters.create()
failed = interpreters.run_string(made, f"import sys; sys.path[:] = {sys.path!r}" + '''
from named_semaphores import %s as cls
try:
    sem = cls("%s")
    with sem:
        assert sem.value == 0
    sem.close()
except NotImplementedError as error:
    print(error, flush=True)
else:
    print("works", flush=True)
''' % (sys.argv[1], sys.argv[2]))
assert failed is None, failed
interpreters.destroy(made)
"""


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.skipif(
    sys.version_info < (3, 12) or sys.implementation.name != "cpython",
    reason="no isolated interpreters before 3.12",
)
def test_an_isolated_subinterpreter_works_or_says_why_not(cls, name):
    done = run_python(ISOLATED, cls.__name__, name)
    assert done.returncode == 0, done.stderr
    if done.stdout != "works\n":
        refusal = "named semaphores need ctypes, and this Python cannot import it: "
        assert done.stdout.startswith(refusal)
        assert "subinterpreter" in done.stdout


def test_zookeeper_says_what_to_install():
    code = 'import sys; sys.modules["kazoo"] = None; import named_semaphores.zookeeper'
    done = run_python(code)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: ZooKeeperSemaphore needs kazoo: "
        'pip install "named-semaphores[zookeeper]" or "kazoo>=2.11"'
    )


# --- Importing ------------------------------------------------------------------------------------


def test_importing_starts_no_process_loads_no_library_and_warns_of_nothing():
    code = """
import ctypes, subprocess, os
def refuse(*arguments): raise AssertionError(arguments)
ctypes.CDLL = subprocess.Popen = os.fork = os.system = os.posix_spawn = refuse
import named_semaphores._async, named_semaphores.semaphore
"""
    done = run_python(code, options=["-W", "error", "-bb", "-X", "dev"])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("statement", "needed", "not_needed"),
    [
        ("import named_semaphores", "named_semaphores", "ctypes enum named_semaphores.core"),
        ("from named_semaphores import NamedSemaphore", "ctypes", "named_semaphores._sysv"),
        ("from named_semaphores import RobustSemaphore", "ctypes", "named_semaphores.core"),
    ],
)
def test_importing_imports_no_more_than_needed(statement, needed, not_needed):
    first = "import re, sys" if PYPY else "import sys"  # PyPy's ctypes imports re
    code = f"{first}\nbefore = set(sys.modules)\n{statement}\nprint(set(sys.modules) - before)"
    loaded = ast.literal_eval(run_python(code).stdout)
    assert needed in loaded
    slow = {"asyncio", "typing", "multiprocessing", "logging", "re"}
    seldom = {"named_semaphores.listing", "named_semaphores.cli"}
    assert not {*slow, *seldom, *not_needed.split()} & loaded


def test_the_package_lists_its_classes_and_has_nothing_else():
    assert {"NamedSemaphore", "RobustSemaphore", "__version__"} <= set(dir(named_semaphores))
    refusal = "module 'named_semaphores' has no attribute 'Semaphore'"
    with pytest.raises(AttributeError, match=refusal):
        _ = named_semaphores.Semaphore


PROTOCOL = ("__init__", "__enter__", "__aenter__", "__aexit__")


@pytest.mark.parametrize("cls", CLASSES)
def test_help_explains_all_that_is_public(cls):
    for name in dir(cls):
        if not name.startswith("_"):
            assert inspect.getattr_static(cls, name).__doc__, name
    assert inspect.getdoc(inspect.getattr_static(cls, "__exit__")).startswith("Put the token back.")


@pytest.mark.skipif(sys.version_info < (3, 10), reason="annotations are written as in 3.10")
@pytest.mark.parametrize("cls", CLASSES)
def test_annotations_can_be_evaluated(cls):
    for attribute in dir(cls):
        found = inspect.getattr_static(cls, attribute)
        function = found.fget if isinstance(found, property) else found
        if inspect.isfunction(function) and (attribute[0] != "_" or attribute in PROTOCOL):
            hints = typing.get_type_hints(function)
            assert set(inspect.signature(function).parameters) <= {"self", *hints}
            assert "return" in hints
