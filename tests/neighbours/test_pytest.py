# SPDX-License-Identifier: Apache-2.0
"""The workers of pytest-xdist share a limit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support import SLOW
from web import most_at_once

from named_semaphores import RobustSemaphore

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


def test_a_fixture_limits_the_workers_of_xdist(name, tmp_path):
    pytest.importorskip("xdist")
    (tmp_path / "conftest.py").write_text(FIXTURE.format(name=name))
    (tmp_path / "test_use.py").write_text(TESTS)
    (tmp_path / "none.ini").touch()
    command = "-m pytest -c none.ini -p no:cacheprovider -n 4".split()
    given = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 100 * SLOW}
    done = subprocess.run([sys.executable, *command], check=False, **given)
    assert "16 passed" in done.stdout, done.stdout
    used = [json.loads(line) for line in (tmp_path / "used").read_text().splitlines()]
    assert len({pid for pid, _, _ in used}) == 4
    assert most_at_once(used) <= 2
    with pytest.raises(FileNotFoundError):  # the last worker has removed it
        RobustSemaphore(name, handle_existence=RobustSemaphore.Flags.RAISE_IF_NOT_EXISTS)
