# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole suite. A test that takes ``Semaphore`` runs once for each platform profile; one that leaves something fails."""

from __future__ import annotations

import gc
import glob
import multiprocessing
import os
import platform
import signal
import threading
from typing import Iterator

import profiles
import pytest
from support import PREFIX, unique_name

from named_semaphores import NamedSemaphore

collect_ignore = ["zookeeper"]  # needs kazoo and a server; tox -e zookeeper names the folder, and so runs it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--profile", action="append", choices=profiles.NAMES, help="only these platform profiles (default: all)")
    parser.addoption("--full", action="store_true", help="stress tests at full size, as README's figures (minutes)")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores these two, and so would the programs under test.
    for signum, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "Semaphore" in metafunc.fixturenames:
        metafunc.parametrize("Semaphore", metafunc.config.getoption("--profile") or profiles.NAMES, indirect=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    # Each test ends with a collection. What was made until here need not be looked through each time.
    gc.collect()
    if hasattr(gc, "freeze"):  # not on PyPy
        gc.freeze()


# What these look at goes with a handle's last reference; PyPy collects it some time later.
NOT_ON_PYPY = ("unlink_unused", "is_in_use", "nothing_grows", "an_executor_and_back", "group_is_not_doubled", "was_ignored_stays")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if platform.python_implementation() == "PyPy":
        for item in items:
            if any(part in item.name for part in NOT_ON_PYPY):
                item.add_marker(pytest.mark.skip(reason="not run on PyPy: it looks at what goes with the last reference"))


@pytest.fixture
def Semaphore(request: pytest.FixtureRequest) -> type[NamedSemaphore]:
    """The class, bound to the library of one platform profile."""
    return profiles.semaphore_class(request.param)


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


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a semaphore's name, a thread or a child process behind."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    names = _left_names()
    for path in names:
        os.unlink(path)
    threads = [thread for thread in threading.enumerate() if thread not in before]
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    assert not names, f"left behind: {names}"
    assert not threads, f"left running: {threads}"
    assert not children, f"left running: {children}"
