# SPDX-License-Identifier: Apache-2.0
"""What several tests need: unique names, waiting for conditions, threads, Python processes."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Callable

# Of this run's names; short, since macOS allows 30 bytes. Another run may have the same process
# number, in another container.
PREFIX = f"nst{os.getpid()}_{os.urandom(2).hex()}."
# How much slower than usual this machine is; widens upper bounds.
SLOW = int(os.environ.get("NAMED_SEMAPHORES_SLOW", "1"))
# From 3.11 on CPython looks at signals in few places, none of them between a token and its owner.
EXACT = sys.version_info >= (3, 11) and sys.implementation.name == "cpython"
PYPY = sys.implementation.name == "pypy"
_numbers = itertools.count()
NOBODY = 65534
# Test files that leave idle sets, or run what removes all idle sets of this user.
IDLE = [f"test_{name}" for name in "cli forks listing readme robust run sysv".split()]


def unique_name() -> str:
    """Return a name that no other test uses."""
    return f"/{PREFIX}{next(_numbers)}"


def wait_for(condition: Callable[[], object], seconds: float = 40.0) -> None:
    """Return once the condition is true; fail if it is not in time."""
    end = time.monotonic() + seconds * SLOW
    while not condition():
        assert time.monotonic() < end, f"the condition was not met within {seconds * SLOW} s"
        time.sleep(0.001)


def collect() -> bool:
    """Collect garbage, so that nothing which is unreachable is left. True, for a condition."""
    for _ in range(3 if PYPY else 1):  # PyPy frees what a finalizer held with the next one
        gc.collect()
    return True


class Child(subprocess.Popen):  # type: ignore[type-arg]
    """A process that a failed with statement kills instead of waiting for it."""

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> None:
        if exc_type is not None:
            self.kill()
        super().__exit__(exc_type, *rest)


def start_python(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """Start this interpreter on the code, with pipes for its standard streams."""
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return Child([sys.executable, "-c", code, *arguments], **{**streams, "text": True, **options})


def elapsed(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[Any, float]:
    """Return the function's result and the seconds it took."""
    start = time.monotonic()
    result = function(*arguments, **keywords)
    return result, time.monotonic() - start


def set_of(name: str) -> Any:
    """Return the line of /proc/sysvipc/sem for RobustSemaphore's set of this name, or None: its
    ``id``, ``mode`` (permissions), ``size`` and so on.
    """
    from named_semaphores import _set, _sets

    return next((row for row in _sets.rows() if row.key == _set.key(name)), None)


@cache
def why_always_the_same_user() -> str | None:
    """Return why this process can become no other user, or None. Root of a user namespace cannot,
    nor can root without capabilities.
    """
    try:
        os.seteuid(NOBODY)
        os.seteuid(0)
    except (AttributeError, OSError) as error:
        return f"this process can become no other user ({error})"
    return None


@contextlib.contextmanager
def thread(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Iterator[list[Any]]:
    """Run the function beside the block; yield a list that will get its result."""
    results: list[Any] = []
    running = threading.Thread(
        target=lambda: results.append(function(*arguments, **keywords)), daemon=True
    )
    running.start()
    try:
        yield results
    finally:
        running.join(60 * SLOW)
        assert not running.is_alive()


@contextlib.contextmanager
def alarm(handler: Callable[..., Any], first: float = 0.0, interval: float = 0.0) -> Iterator[None]:
    """Let the handler get SIGALRM, after so many seconds and then again and again."""
    # pytest-timeout uses the same signal. Meanwhile a thread of C code sees to it that nothing
    # hangs. It inherits the mask: CPython notices a signal that another thread got only when it
    # next changes threads.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    faulthandler.dump_traceback_later(100 * SLOW, exit=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    before = signal.signal(signal.SIGALRM, handler)
    timer = signal.setitimer(signal.ITIMER_REAL, first, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        faulthandler.cancel_dump_traceback_later()


class Struck(Exception):
    """What a signal handler raises."""


def strike(call: Callable[[], object], after: float = 0.02) -> None:
    """Make the call; the exception of a signal handler must end it, after so many seconds."""
    import pytest

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Struck

    with alarm(handler), pytest.raises(Struck):
        # Not by alarm: on a slow machine it might ring before raises is entered. Again after a
        # second, since a signal just before the kernel sleeps does not end a wait without slices.
        signal.setitimer(signal.ITIMER_REAL, after, 1)
        call()


def in_threads(count: int, work: Callable[[], object]) -> None:
    """Do the work in so many threads at once, and return when all have done it."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_python(
    code: str, *arguments: str, options: Sequence[str] = (), seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter, with its options, on the code. Return what it wrote, and its status."""
    command = [sys.executable, *options, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds * SLOW, check=False
    )
