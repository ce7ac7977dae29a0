# SPDX-License-Identifier: Apache-2.0
"""A test that fakes the file system: semaphores are the kernel's, and stay."""

from __future__ import annotations

import pytest
from support import run_python

IMPORT = "from named_semaphores import NamedSemaphore, RobustSemaphore, listing"
FAKE = """
from pyfakefs.fake_filesystem_unittest import Patcher
patcher = Patcher()
patcher.setUp()
"""
USE = """
import os, sys
assert not os.path.isdir("/dev/shm")
name = sys.argv[1]
for cls in NamedSemaphore, RobustSemaphore:
    Flags = cls.Flags
    try:
        cls(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
        raise AssertionError("linked")
    except FileNotFoundError as error:
        assert name in str(error) and "/dev/shm" not in str(error), error
    sem = cls(name, 2)
    assert not sem.linked_existing_semaphore
    with sem, sem.hold(timeout=1):
        assert not sem.acquire(timeout=0.01)
    other = cls(name)
    assert other.linked_existing_semaphore
    assert sem.value == other.value == 2
    try:
        cls(name, handle_existence=Flags.RAISE_IF_EXISTS)
        raise AssertionError("created")
    except FileExistsError as error:
        assert name in str(error), error
    other.close()
    pid = os.fork()
    if not pid:
        with sem:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    if cls is NamedSemaphore:
        sem.release()  # for the child, which has not left its block
    assert sem.value == 2, sem
    sem.close()
    with sem_gone(cls):
        cls(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
"""
GONE = """
import contextlib

@contextlib.contextmanager
def sem_gone(cls):
    try:
        yield
    except FileNotFoundError:
        return
    raise AssertionError(f"{cls} left its name")
"""


@pytest.mark.parametrize("imported", ["first", "last"])
def test_a_fake_file_system_changes_nothing(imported, name):
    begin = [IMPORT, FAKE] if imported == "first" else [FAKE, IMPORT]
    end = "patcher.tearDown(); print('ok')"
    done = run_python("\n".join([GONE, *begin, USE, end]), name)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_a_semaphore_is_freed_after_the_fake_file_system(name):
    """It was made in a fake file system, and is unlinked after that, at the latest at exit."""
    code = f"""
{FAKE}
{IMPORT}
import sys
named, robust = NamedSemaphore(sys.argv[1], 1), RobustSemaphore(sys.argv[1], 1)
patcher.tearDown()
print("ok")
"""
    done = run_python(code, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
