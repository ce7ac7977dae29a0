# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole suite. A test that takes ``kind`` runs once for each class and platform
profile; one that leaves something fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import glob
import multiprocessing
import os
import signal
import threading
from collections.abc import Container, Iterator
from typing import Any

import kinds
import pytest
from holders import own_sets, three
from support import EXACT, IDLE, PREFIX, PYPY, SLOW, collect, unique_name

from named_semaphores import RobustSemaphore, _set, _sets, _sysv

MARKERS = (
    "refcounts: the test needs an object to go with its last reference, so it does not run on PyPy",
    "exact: needs an interpreter that looks at signals in few places, CPython from 3.11 on",
    "unmeasured: storms of signals, aimed at single instructions, kills, a search: no coverage",
)

# They need other packages, and a server; tox -e zookeeper names the folder, and so runs it.
collect_ignore = ["neighbours", "zookeeper"]
SETS = "/proc/sysvipc/sem"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--profile",
        action="append",
        choices=kinds.ALL,
        help="only these platform profiles (default: all)",
    )
    parser.addoption("--full", action="store_true", help="stress tests at full size (minutes)")


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.addinivalue_line(
        "filterwarnings", "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"
    )
    # A shell's background job ignores the first two, nohup the last, and so would the programs
    # under test.
    for signum, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, handler)


_namespace = contextlib.ExitStack()  # of this process, until it ends
_has_own_sets = False


def pytest_sessionstart() -> None:
    global _has_own_sets
    # A process that has just forked leaves its sets to its child, so that they would seem to be
    # left behind. Here children join at once.
    _set.FORKING = 0
    # Any run of this user, in another suite too, removes idle sets, which some tests make.
    _has_own_sets = _namespace.enter_context(own_sets())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = any("kind" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "kind" in metafunc.fixturenames and not own:
        all_kinds = getattr(metafunc.module, "KINDS", kinds.ALL)
        chosen = metafunc.config.getoption("--profile") or all_kinds
        if chosen is all_kinds and not metafunc.config.getoption("--full"):
            similar = getattr(metafunc.module, "SIMILAR", ())
            chosen = [profile for profile in all_kinds if profile not in similar]
        metafunc.parametrize(
            "kind", [profile for profile in all_kinds if profile in chosen], indirect=True
        )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("refcounts") and PYPY:
        pytest.skip("PyPy collects an object some time after its last reference")
    if item.get_closest_marker("exact") and not EXACT:
        pytest.skip("this Python looks at signals nearly everywhere")


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> kinds.Kind:
    """A class, bound to the library of one platform profile."""
    return kinds.kind(request.param)


@pytest.fixture
def sem(kind: kinds.Kind, name: str) -> Iterator[Any]:
    """A RobustSemaphore of three tokens, on each platform profile; nothing of it may be left."""
    with three(kind.cls, name) as sem:
        yield sem


@pytest.fixture
def native(name: str) -> Iterator[Any]:
    """The same on the running system alone."""
    with three(RobustSemaphore, name) as sem:
        yield sem


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether stress tests run at full size."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def name() -> str:
    """A semaphore's name for this test alone."""
    return unique_name()


def _left_names() -> list[str]:
    return [path for path in (*glob.glob("/dev/shm/*"), *glob.glob("/tmp/SEMD*")) if PREFIX in path]


def _rows() -> dict[int, Any]:
    """Return the System V sets of this machine, by their ids. Only Linux lists them."""
    try:
        return {row.id: row for row in _sets.rows()}
    except OSError:
        return {}


def _left_sets(before: Container[int]) -> dict[int, str]:
    """Remove the sets that this run made since then, idle ones too. Return their names, by id."""
    left = {}
    for semid in [semid for semid in _rows() if semid not in before]:
        # Another program's may be removed meanwhile, or this user may not read it.
        with contextlib.suppress(OSError):
            name = _set.name_of(_sysv.system().values(semid)[_set.NAME :])
            if name is not None and PREFIX in name:
                left[semid] = name
                _sysv.system().remove(semid)
    return left


@pytest.fixture(autouse=True)
def in_turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where suites of one user share the sets, run one test of ``IDLE`` at a time."""
    if _has_own_sets or request.module.__name__ not in IDLE or not os.path.exists(SETS):
        yield
        return
    with open(SETS) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        fcntl.flock(file, fcntl.LOCK_UN)  # a forked child may have the file open, too


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a semaphore's name, a System V set, a thread or a child process
    behind.
    """
    threads_before, sets_before = set(threading.enumerate()), _rows()
    yield
    threads = [thread for thread in threading.enumerate() if thread not in threads_before]
    for thread in threads:  # the one that waits for an event loop's tasks ends within a slice
        thread.join(20 * SLOW)
    threads = [thread for thread in threads if thread.is_alive()]
    if not PYPY:
        collect()
    # PyPy finalizes a chain of objects one by one, with a collection for each. Its JIT makes such
    # chains of asyncio's cancelled tasks, up to 40 of them here.
    for _ in range(20 if PYPY else 0):
        if not (_left_names() or _rows().keys() - sets_before.keys()):
            break  # a collection takes half a second
        collect()
    if hasattr(gc, "freeze"):  # what stays, such as reports, need not be looked through again
        gc.freeze()
    names = _left_names()
    for path in names:
        os.unlink(path)
    sets = _left_sets(sets_before)
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    assert not names, f"left behind: {names}"
    assert not sets, f"left behind: {sets}"
    assert not threads, f"left running: {threads}"
    assert not children, f"left running: {children}"
