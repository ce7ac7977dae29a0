# SPDX-License-Identifier: Apache-2.0
"""multiprocess, pathos' copy of multiprocessing: its children clean up as those of the original."""

from __future__ import annotations

import pytest
from programs import IMPORT, assert_well

from named_semaphores import RobustSemaphore

pytest.importorskip("multiprocess")

# Pickled by dill, so the functions need not be of a module.
CHILDREN = """
def work(name):
    global sems
    from named_semaphores import NamedSemaphore, RobustSemaphore
    sems = [cls(name, 1) for cls in (NamedSemaphore, RobustSemaphore)]

mine = [cls(sys.argv[1] + ".mine", 1) for cls in (NamedSemaphore, RobustSemaphore)]
for package in packages:
    child = package.get_context(method).Process(target=work, args=(sys.argv[1],))
    child.start()
    child.join()
    assert child.exitcode == 0, child
    for sem in mine:
        assert sem.value == 1, sem
        type(sem)(sem.name, handle_existence=sem.Flags.RAISE_IF_NOT_EXISTS).close()
        try:
            type(sem)(sys.argv[1], handle_existence=sem.Flags.RAISE_IF_NOT_EXISTS)
            raise AssertionError("the child left its name")
        except FileNotFoundError:
            pass
"""
ALONE = "import multiprocess\npackages = [multiprocess]"
# Each of them has its own list of what its children do at their end.
BOTH = """
import multiprocess, multiprocessing
packages = [multiprocess, multiprocessing, multiprocess]
"""


@pytest.mark.parametrize(
    ("parts", "method"),
    [
        pytest.param([IMPORT, ALONE], "fork", id="first-fork"),
        pytest.param([IMPORT, ALONE], "spawn", id="first-spawn"),
        pytest.param([ALONE, IMPORT], "fork", id="last-fork"),
        pytest.param([ALONE, IMPORT], "spawn", id="last-spawn"),
        pytest.param([IMPORT, BOTH], "fork", id="both"),
    ],
)
def test_a_child_unlinks_what_it_made(parts, method, name):
    assert assert_well(name, *parts, f"method = {method!r}", CHILDREN) == ""
    # A process that has forked in its last second leaves its sets to its children.
    RobustSemaphore(f"{name}.mine").close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_uses_a_semaphore_that_it_was_given(method, name):
    code = f"""
import multiprocess

def work(sem):
    with sem:
        return sem.value

with multiprocess.get_context({method!r}).Pool(2) as pool:
    for cls in NamedSemaphore, RobustSemaphore:
        sem = cls(sys.argv[1], 2)
        found = pool.map(work, [sem] * 30)
        assert len(found) == 30 and max(found) < 2, found
        assert sem.value == 2, sem
        sem.close()
    pool.close()
    pool.join()
"""
    assert assert_well(name, IMPORT, code) == ""
