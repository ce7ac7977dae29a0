# SPDX-License-Identifier: Apache-2.0
"""Sharing a semaphore with a program that uses posix_ipc."""

from __future__ import annotations

import pytest
from support import SLOW, start_python

from named_semaphores import NamedSemaphore

posix_ipc = pytest.importorskip(
    "posix_ipc", reason="posix_ipc is not installed; tox -e peers has it"
)
Flags = NamedSemaphore.Flags


def test_both_see_the_same_tokens(name):
    sem = NamedSemaphore(name, 3)
    other = posix_ipc.Semaphore(name)
    with sem, other:
        assert (sem.value, other.value) == (1, 1)
        other.acquire(0)
        assert not sem.acquire(False)
        with pytest.raises(posix_ipc.BusyError):
            other.acquire(0)
        sem.release(2)
        assert (sem.value, other.value) == (2, 2)
    assert sem.value == 4
    other.close()
    sem.close()
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.Semaphore(name)


def test_what_the_other_created_is_linked_and_left(name):
    other = posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=2)
    sem = NamedSemaphore(name, 7)
    assert sem.linked_existing_semaphore
    assert sem.value == 2
    sem.close()
    posix_ipc.Semaphore(name).close()
    with pytest.raises(FileExistsError):
        NamedSemaphore(name, handle_existence=Flags.RAISE_IF_EXISTS)
    other.unlink()
    other.close()


def test_each_wakes_the_other(name):
    sem, back = NamedSemaphore(name, 0), NamedSemaphore(f"{name}-", 0)
    code = """
import posix_ipc, sys
there, back = map(posix_ipc.Semaphore, sys.argv[1:])
for _ in range(200):
    there.acquire()
    back.release()
"""
    child = start_python(code, sem.name, back.name)
    for _ in range(200):
        sem.release()
        assert back.acquire(timeout=30 * SLOW)
    assert child.wait(30 * SLOW) == 0
    child.communicate()
    sem.close()
    back.close()
