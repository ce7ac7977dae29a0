# SPDX-License-Identifier: Apache-2.0
"""multiprocess, pathos' copy of multiprocessing: its children clean up as those of the original."""

from __future__ import annotations

import pytest
from support import run_python

from named_semaphores import RobustSemaphore

pytest.importorskip("multiprocess")

CHILD = """
import sys
{imports}

def work(name):
    global sems
    from named_semaphores import NamedSemaphore, RobustSemaphore
    sems = [cls(name, 1) for cls in (NamedSemaphore, RobustSemaphore)]

if __name__ == "__main__":
    child = multiprocess.get_context({method!r}).Process(target=work, args=(sys.argv[1],))
    child.start()
    child.join()
    assert child.exitcode == 0, child
    for cls in NamedSemaphore, RobustSemaphore:
        try:
            cls(sys.argv[1], handle_existence=cls.Flags.RAISE_IF_NOT_EXISTS)
            raise AssertionError("the child left its name")
        except FileNotFoundError:
            pass
    print("ok")
"""
IMPORTS = [
    "import multiprocess\nfrom named_semaphores import NamedSemaphore, RobustSemaphore",
    "from named_semaphores import NamedSemaphore, RobustSemaphore\nimport multiprocess",
]


@pytest.mark.parametrize("imports", IMPORTS, ids=["later", "first"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_unlinks_what_it_made(imports, method, name):
    done = run_python(CHILD.format(imports=imports, method=method), name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_both_packages_at_once(name):
    """Each of them has its own list of what its children do at their end."""
    code = """
import multiprocess, multiprocessing, sys
from named_semaphores import NamedSemaphore, RobustSemaphore

def work():
    global sems
    sems = [cls(sys.argv[1], 1) for cls in (NamedSemaphore, RobustSemaphore)]

mine = [NamedSemaphore(sys.argv[1] + ".mine", 1), RobustSemaphore(sys.argv[1] + ".mine", 1)]
for package in multiprocess, multiprocessing, multiprocess:
    child = package.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0, child
    for sem in mine:
        assert sem.value == 1, sem
        other = type(sem)(sem.name, handle_existence=sem.Flags.RAISE_IF_NOT_EXISTS)
        other.close()
    for cls in NamedSemaphore, RobustSemaphore:
        try:
            cls(sys.argv[1], handle_existence=cls.Flags.RAISE_IF_NOT_EXISTS)
            raise AssertionError("the child left its name")
        except FileNotFoundError:
            pass
print("ok")
"""
    done = run_python(code, name)
    # A process that has forked in its last second leaves its sets to its children.
    RobustSemaphore(f"{name}.mine").close()
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_uses_a_semaphore_that_it_was_given(method, name):
    # Pickled by dill, so the function need not be one of a module.
    code = f"""
import sys
import multiprocess
from named_semaphores import NamedSemaphore, RobustSemaphore

def work(sem):
    with sem:
        return sem.value

if __name__ == "__main__":
    with multiprocess.get_context({method!r}).Pool(2) as pool:
        for cls in NamedSemaphore, RobustSemaphore:
            sem = cls(sys.argv[1], 2)
            found = pool.map(work, [sem] * 30)
            assert len(found) == 30 and max(found) < 2, found
            assert sem.value == 2, sem
            sem.close()
        pool.close()
        pool.join()
    print("ok")
"""
    done = run_python(code, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
