# SPDX-License-Identifier: Apache-2.0
"""What several tests need: names of their own, waiting for conditions, and Python processes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from typing import Callable

PREFIX = f"nst{os.getpid()}"  # names of this run; short, since macOS allows 30 bytes
SLOW = int(os.environ.get("NAMED_SEMAPHORES_SLOW", "1"))  # how much slower than usual this machine is; widens upper bounds
# From 3.11 on CPython looks at signals in few places, none of them between a token and its owner.
EXACT = sys.version_info >= (3, 11) and sys.implementation.name == "cpython"
_numbers = itertools.count()


def unique_name() -> str:
    """Return a name that no other test uses."""
    return f"/{PREFIX}.{next(_numbers)}"


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Return once the condition is true; fail if it is not in time."""
    end = time.monotonic() + seconds * SLOW
    while not condition():
        assert time.monotonic() < end, f"waited {seconds * SLOW} s in vain"
        time.sleep(0.001)


def start_python(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """Start this interpreter on the code, with pipes for its standard streams."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], **streams)


def in_threads(count: int, work: Callable[[], object]) -> None:
    """Do the work in so many threads at once, and return when all have done it."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run_python(code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run this interpreter on the code, and return what it wrote and its exit code."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60 * SLOW, check=False, **options
    )
