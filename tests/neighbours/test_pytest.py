# SPDX-License-Identifier: Apache-2.0
"""pytest's plugins: workers of pytest-xdist share a limit; pytest-timeout ends a wait."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support import SLOW
from web import most_at_once

from named_semaphores import NamedSemaphore, RobustSemaphore

FIXTURE = """
import pytest
from named_semaphores import RobustSemaphore

@pytest.fixture
def database():
    with RobustSemaphore({name!r}, 2):
        yield
"""
TESTS = """
import json, os, time
import pytest

@pytest.mark.parametrize("number", range(16))
def test_use(database, number):
    start = time.monotonic()
    time.sleep(0.03)
    with open("used", "a") as file:
        print(json.dumps([os.getpid(), start, time.monotonic()]), file=file)
"""
WAIT = """
from named_semaphores import NamedSemaphore, RobustSemaphore

def test_waits():
    with {cls}({name!r}):
        pass
"""


def run_pytest(folder, *options):
    (folder / "none.ini").touch()
    command = [sys.executable, "-m", "pytest", "-c", "none.ini", "-p", "no:cacheprovider", *options]
    given = {"capture_output": True, "text": True, "timeout": 100 * SLOW, "check": False}
    return subprocess.run(command, cwd=folder, **given)


def test_a_fixture_limits_the_workers_of_xdist(name, tmp_path):
    pytest.importorskip("xdist")
    (tmp_path / "conftest.py").write_text(FIXTURE.format(name=name))
    (tmp_path / "test_use.py").write_text(TESTS)
    done = run_pytest(tmp_path, "-n", "4")
    assert "16 passed" in done.stdout, done.stdout
    used = [json.loads(line) for line in (tmp_path / "used").read_text().splitlines()]
    assert len({pid for pid, _, _ in used}) == 4
    assert most_at_once(used) <= 2
    with pytest.raises(FileNotFoundError):  # the last worker has removed it
        RobustSemaphore(name, handle_existence=RobustSemaphore.Flags.RAISE_IF_NOT_EXISTS)


@pytest.mark.parametrize("method", ["signal", "thread"])
@pytest.mark.parametrize("cls", [NamedSemaphore, RobustSemaphore])
def test_a_timeout_ends_a_wait(cls, method, name, tmp_path):
    (tmp_path / "test_wait.py").write_text(WAIT.format(cls=cls.__name__, name=name))
    with cls(name, 1) as sem:
        done = run_pytest(tmp_path, "--timeout", "0.3", "--timeout-method", method)
        assert done.returncode, done.stdout
        assert "Timeout" in done.stdout + done.stderr, done.stderr
        assert sem.value == 0
        sem.release()
        assert sem.acquire(timeout=20)  # nobody waits any more
    assert sem.value == 1
    sem.close()
