# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole suite. A test that takes ``kind`` runs once for each class and platform profile; one that leaves something fails."""

from __future__ import annotations

import gc
import glob
import itertools
import multiprocessing
import os
import platform
import signal
import sys
import threading
from typing import Iterator

import kinds
import pytest
from support import PREFIX, SLOW, unique_name

from named_semaphores import _sysv

MARKERS = (
    "refcounts: the test needs an object to go with its last reference, so it does not run on PyPy",
    "native: the test runs only for classes whose calls are the C library's own; the fakes' are callbacks, which swallow exceptions",
    "fakes: the test runs only for those fakes, which tell what is open",
    "exact: the test needs an interpreter that looks at signals in few places, CPython from 3.11 on",
)

collect_ignore = ["zookeeper"]  # needs kazoo and a server; tox -e zookeeper names the folder, and so runs it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--profile", action="append", choices=kinds.ALL, help="only these platform profiles (default: all)")
    parser.addoption("--full", action="store_true", help="stress tests at full size (minutes)")


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    # A shell's background job ignores the first two, nohup the last, and so would the programs under test.
    for signum, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = any("kind" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "kind" in metafunc.fixturenames and not own:
        all_kinds = getattr(metafunc.module, "KINDS", kinds.ALL)
        for marker, is_wanted in (("native", True), ("fakes", False)):
            if metafunc.definition.get_closest_marker(marker):
                all_kinds = [profile for profile in all_kinds if (profile in kinds.NATIVE) is is_wanted]
        chosen = metafunc.config.getoption("--profile") or all_kinds
        metafunc.parametrize("kind", [profile for profile in all_kinds if profile in chosen], indirect=True)


def _forget_what_stays() -> None:
    # Each test ends with a collection. What stays until the end, such as reports, need not be looked through each time.
    gc.collect()
    if hasattr(gc, "freeze"):  # not on PyPy
        gc.freeze()


def pytest_collection_finish(session: pytest.Session) -> None:
    _forget_what_stays()


_tests = itertools.count(1)


def pytest_runtest_logfinish() -> None:
    if next(_tests) % 50 == 0:
        _forget_what_stays()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("refcounts") and platform.python_implementation() == "PyPy":
        pytest.skip("PyPy collects an object some time after its last reference")
    if item.get_closest_marker("exact") and (sys.version_info < (3, 11) or platform.python_implementation() != "CPython"):
        pytest.skip("this Python looks at signals nearly everywhere")


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> kinds.Kind:
    """A class, bound to the library of one platform profile."""
    return kinds.kind(request.param)


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


def _set_ids() -> set[str]:
    try:
        with open("/proc/sysvipc/sem", encoding="ascii") as file:
            return {line.split()[1] for line in file}
    except OSError:
        return set()


def _left_sets(before: set[str]) -> list[_sysv.Listed]:
    if _set_ids() <= before:  # the listing asks for each set on this machine
        return []
    try:
        return [listed for listed in _sysv.list_sets() if listed.name is not None and PREFIX in listed.name]
    except NotImplementedError:
        return []


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a semaphore's name, a System V set, a thread or a child process behind."""
    threads_before, sets_before = set(threading.enumerate()), _set_ids()
    yield
    threads = [thread for thread in threading.enumerate() if thread not in threads_before]
    for thread in threads:  # the one that waits for an event loop's tasks ends within a slice
        thread.join(5 * SLOW)
    threads = [thread for thread in threads if thread.is_alive()]
    for _ in range(3 if platform.python_implementation() == "PyPy" else 1):  # PyPy frees only then what a finalizer held
        gc.collect()
    names = _left_names()
    for path in names:
        os.unlink(path)
    sets = _left_sets(sets_before)
    for listed in sets:
        _sysv.system().remove(listed.id)
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    assert not names, f"left behind: {names}"
    assert not sets, f"left behind: {[listed.name for listed in sets]}"
    assert not threads, f"left running: {threads}"
    assert not children, f"left running: {children}"
