# SPDX-License-Identifier: Apache-2.0
"""The suite's own check of what tests leave behind finds System V sets of every kind, and leaves
other runs' sets alone.
"""

from __future__ import annotations

import os
import re
import sys

import peers
import pytest
from support import run_python, set_of, unique_name

from named_semaphores import RobustSemaphore, _sysv

TESTS = os.path.dirname(os.path.abspath(__file__))
LIB = os.path.join(TESTS, "lib")

LEAVING = """
import pytest
from named_semaphores import _opening, _set, _sysv
library = _sysv.system()

@pytest.fixture(scope="module")
def late(request):
    yield
    from support import unique_name
    leave_idle(unique_name())

def leave_idle(name):
    semset, _ = _opening.open_set(library, name)
    assert semset.operate(_set.leave(semset.account))

def leave_unready(name):
    words, last = _set.words(name), library.system.size - 1
    semid = library.get(_set.key(name), last + 1, _sysv.IPC_CREAT | 0o600)
    for place in range(0, len(words), 3):
        assert library.operate(semid, _set.write_name(place, words[place : place + 3], last))

def leave_nameless(name):
    print("nameless:", library.get(_set.key(name), 3, _sysv.IPC_CREAT | 0o600))

def test_used(name):
    _opening.open_set(library, name)

def test_idle(name):
    leave_idle(name)

def test_unready(name):
    leave_unready(name)

def test_nameless(name):
    leave_nameless(name)

def test_removed(name):
    _opening.open_set(library, name)[0].leave()

def test_of_other_runs():
    leave_idle({others!r} + ".idle")
    leave_unready({others!r} + ".unready")

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
    library = _sysv.system()
    library.remove(
        int(re.search(r"nameless: (\d+)", done.stdout)[1])
    )  # by its key it might have been another program's
    for other in (f"{name}.idle", f"{name}.unready"):
        assert set_of(other)
        RobustSemaphore(other).close()
    assert done.returncode == 1, done.stdout + done.stderr
    errors = re.findall(r"^ERROR .*::(\w+)", done.stdout, re.MULTILINE)
    assert errors == ["test_used", "test_idle", "test_unready", "test_nameless", "test_late"]
    assert len(re.findall(r"^E +AssertionError: left behind", done.stdout, re.MULTILINE)) == 5
    assert "7 passed, 5 errors" in done.stdout


MEASURES = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from named_semaphores import NamedSemaphore, RobustSemaphore
from support import unique_name
classes = NamedSemaphore, RobustSemaphore
kept = [class_(unique_name(), unlink_on_delete=False) for class_ in classes]
print(os.getpid(), *(sem.name for sem in kept), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not list what there is")
def test_what_a_killed_measurement_left_is_found_and_removed():
    pid, named, robust = run_python(MEASURES, LIB).stdout.split()
    left = peers.sweep(int(pid))
    assert len(left) == 2
    assert named[1:] in left[0]
    assert robust in left[1]
    assert peers.sweep(int(pid)) == []


def test_each_name_has_a_key_of_its_own():
    keys = {peers._key(unique_name()) for _ in range(200)}
    assert len(keys) == 200
    assert {key & ~0xFF for key in keys} == {peers._first_key(os.getpid())}
