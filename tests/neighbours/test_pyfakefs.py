# SPDX-License-Identifier: Apache-2.0
"""A test that fakes the file system: semaphores are the kernel's, and stay."""

from __future__ import annotations

import pytest
from programs import IMPORT, assert_well

FAKE = """
from pyfakefs.fake_filesystem_unittest import Patcher
patcher = Patcher()
patcher.setUp()
"""
USE = """
import os
assert not os.path.isdir("/dev/shm")
name = sys.argv[1]

def refused(error_type, flag):
    try:
        cls(name, handle_existence=flag)
    except error_type as error:
        assert name in str(error) and "/dev/shm" not in str(error), error
    else:
        raise AssertionError("opened")

for cls in NamedSemaphore, RobustSemaphore:
    refused(FileNotFoundError, cls.Flags.RAISE_IF_NOT_EXISTS)
    sem = cls(name, 2)
    assert not sem.linked_existing_semaphore
    with sem, sem.hold(timeout=1):
        assert not sem.acquire(timeout=0.01)
    other = cls(name)
    assert other.linked_existing_semaphore
    assert sem.value == other.value == 2
    refused(FileExistsError, cls.Flags.RAISE_IF_EXISTS)
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
    refused(FileNotFoundError, cls.Flags.RAISE_IF_NOT_EXISTS)
patcher.tearDown()
"""


@pytest.mark.parametrize("imported", ["first", "last"])
def test_a_fake_file_system_changes_nothing(imported, name):
    begin = IMPORT + "from named_semaphores import listing\n"
    assert_well(name, *([begin, FAKE] if imported == "first" else [FAKE, begin]), USE)


def test_a_semaphore_is_freed_after_the_fake_file_system(name):
    """It was made in a fake file system, and is unlinked after that, at the latest at exit."""
    code = """
named, robust = NamedSemaphore(sys.argv[1], 1), RobustSemaphore(sys.argv[1], 1)
patcher.tearDown()
"""
    assert assert_well(name, FAKE, IMPORT, code) == ""
