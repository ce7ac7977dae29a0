# SPDX-License-Identifier: Apache-2.0
"""The interpreter's own habits: -X importtime, copy and pickle."""

from __future__ import annotations

import copy
import pickle

import pytest
from programs import IMPORT, assert_well

from named_semaphores import NamedSemaphore, RobustSemaphore

USE = """
for cls in NamedSemaphore, RobustSemaphore:
    with cls(sys.argv[1], 1) as sem:
        assert not sem.acquire(timeout=0.01)
    sem.close()
"""


def test_the_times_of_imports_can_be_told(name):
    assert "named_semaphores.robust" in assert_well(name, IMPORT, USE, options=("-X", "importtime"))


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
        assert (link.value, link.unlink_on_delete) == (5, False)
        link.close()
    successor.close()
    sem.close()
