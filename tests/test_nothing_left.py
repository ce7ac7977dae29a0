# SPDX-License-Identifier: Apache-2.0
"""The suite's own check of what tests leave behind finds System V sets of every kind, and leaves
other runs' sets alone.
"""

from __future__ import annotations

import os
import re

import pytest
from support import run_python, set_of

from named_semaphores import RobustSemaphore, _sysv

TESTS = os.path.dirname(os.path.abspath(__file__))
LIB = os.path.join(TESTS, "lib")

LEAVING = """
import pytest
from support import unique_name
from named_semaphores import _set, _sets, _sysv
library = _sysv.system()

def leave(name, how):
    if how == "nameless":
        print("nameless:", library.get(_set.key(name), 3, _sysv.IPC_CREAT | 0o600))
    elif how == "unready":
        words, last = _set.words(name), library.system.size - 1
        semid = library.get(_set.key(name), last + 1, _sysv.IPC_CREAT | 0o600)
        assert library.operate(semid, _set.write_name(0, words, last))
    else:
        semset, _ = _sets.open_set(library, name)
        if how == "removed":
            semset.leave()
        elif how == "idle":
            assert semset.operate(_set.leave(semset.account))

@pytest.fixture(scope="module")
def late():
    yield
    leave(unique_name(), "idle")

@pytest.mark.parametrize("how", ["used", "idle", "unready", "nameless", "removed"])
def test_this(name, how):
    leave(name, how)

def test_of_other_runs():
    leave({others!r} + ".idle", "idle")
    leave({others!r} + ".unready", "unready")

def test_late(late):
    pass
"""


@pytest.mark.skipif(not os.path.exists("/proc/sysvipc/sem"), reason="only Linux lists the sets")
def test_left_sets_fail_the_test_that_left_them(name, tmp_path):
    path = tmp_path / "test_leaving.py"
    path.write_text(LEAVING.format(others=name))
    code = f"import sys; sys.path[:0] = [{TESTS!r}, {LIB!r}]; "
    code += "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["-p", "no:cacheprovider", "-p", "conftest", "-rA", "-s", "--rootdir", str(tmp_path)]
    done = run_python(code, *options, "--shared-sets", str(path))
    # By its key it might have been another program's.
    _sysv.system().remove(int(re.search(r"nameless: (\d+)", done.stdout)[1]))
    for other in (f"{name}.idle", f"{name}.unready"):
        assert set_of(other)
        RobustSemaphore(other).close()
    assert done.returncode == 1, done.stdout + done.stderr
    errors = re.findall(r"^ERROR .*::test_(\S+)", done.stdout, re.MULTILINE)
    assert errors == ["this[used]", "this[idle]", "this[unready]", "this[nameless]", "late"]
    assert len(re.findall(r"^E +AssertionError: left behind", done.stdout, re.MULTILINE)) == 5
    assert "7 passed, 5 errors" in done.stdout
