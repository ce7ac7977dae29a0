# SPDX-License-Identifier: Apache-2.0
"""The interpreter's own habits: -X importtime, copy and pickle."""

from __future__ import annotations

import copy
import pickle

import pytest
from support import run_python

from named_semaphores import NamedSemaphore, RobustSemaphore

USE = """
import sys
from named_semaphores import NamedSemaphore, RobustSemaphore
for cls in NamedSemaphore, RobustSemaphore:
    with cls(sys.argv[1], 1) as sem:
        assert not sem.acquire(timeout=0.01)
    sem.close()
print("ok")
"""


def test_the_times_of_imports_can_be_told(name):
    done = run_python(USE, name, options=("-X", "importtime"))
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    assert "named_semaphores.robust" in done.stderr


@pytest.mark.parametrize("cls", [NamedSemaphore, RobustSemaphore])
def test_copies_open_a_successor(cls, name):
    sem = cls(name, 2)
    dumped = pickle.dumps(sem)
    sem.unlink()
    for again in (copy.copy, lambda _: pickle.loads(dumped)):
        with pytest.raises(FileNotFoundError):
            again(sem)
    successor = cls(name, 5)
    for again in (copy.copy, copy.deepcopy, lambda _: pickle.loads(dumped)):
        link = again(sem)
        assert link.value == 5
        assert not link.unlink_on_delete
        link.close()
    successor.close()
    sem.close()
