# SPDX-License-Identifier: Apache-2.0
"""A fork in a program that has patched half of Python is as fast as without the library."""

from __future__ import annotations

import importlib.util

import pytest
from support import SLOW, run_python

from named_semaphores import RobustSemaphore

BEGIN = {
    "nothing": "",
    # Without the last call gevent misses the end of a child that ends at once, and waits for ever.
    "gevent": "from gevent import get_hub, monkey; monkey.patch_all(); "
    "get_hub().loop.install_sigchld()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "pyfakefs": "from pyfakefs.fake_filesystem_unittest import Patcher; Patcher().setUp()",
    "freezegun": "import freezegun; freezegun.freeze_time('2012-01-14').start()",
}
FORK = """
import os, sys, time
from functools import partial
clock = partial(time.clock_gettime_ns, time.CLOCK_MONOTONIC)  # which freezegun does not replace

def fork():
    start = clock()
    pid = os.fork()
    if not pid:
        os._exit(0)
    forked = clock()
    assert os.waitpid(pid, 0) == (pid, 0)
    return forked - start, clock() - start

def fastest():
    return [min(times) / 1e6 for times in zip(*[fork() for _ in range(30)])]

before = fastest()
from named_semaphores import NamedSemaphore, RobustSemaphore
sems = [cls(sys.argv[1], 2) for cls in (NamedSemaphore, RobustSemaphore)]
sems[1].acquire()
after = fastest()
sems[1].release()
sems[0].close()
print(*before, *after, flush=True)
os._exit(0)  # without the neighbour's clean-up
"""


@pytest.mark.parametrize("package", BEGIN)
def test_a_fork_is_as_fast_as_without_the_library(package, name):
    if package != "nothing" and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    code = f"{BEGIN[package]}\n{FORK}"
    done = run_python(code, name, options=("-W", "ignore::DeprecationWarning"))
    # A process that has forked in its last second leaves its sets to its children.
    RobustSemaphore(name).close()
    assert done.returncode == 0, done.stderr
    fork, to_end, fork_with, to_end_with = map(float, done.stdout.split())
    assert fork_with < 1.5 * fork + SLOW
    assert to_end_with < 1.5 * to_end + 20 * SLOW  # eventlet polls every 10 ms
