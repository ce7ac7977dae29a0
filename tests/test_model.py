# SPDX-License-Identifier: Apache-2.0
"""Random operations give what a model says; nothing grows."""

from __future__ import annotations

import gc
import os
import random

import pytest
from support import collect

from named_semaphores import NamedSemaphore


def test_random_operations_agree_with_a_model(name, full):
    seed = int(os.environ.get("NAMED_SEMAPHORES_SEED", random.randrange(2**32)))
    print(f"NAMED_SEMAPHORES_SEED={seed} repeats this")
    chance, flags = random.Random(seed), NamedSemaphore.Flags
    named = None  # the model: [tokens] of the semaphore that has the name
    handles = []  # (handle, its [tokens])
    for _ in range(10_000 if full else 600):
        choice = chance.randrange(9)
        if choice == 0 and len(handles) < 12:
            flag, value = chance.choice(list(flags)), chance.randrange(4)
            try:
                sem = NamedSemaphore(name, value, flag, unlink_on_delete=False)
            except FileExistsError:
                assert flag is flags.RAISE_IF_EXISTS
                assert named is not None
                continue
            except FileNotFoundError:
                assert flag is flags.RAISE_IF_NOT_EXISTS
                assert named is None
                continue
            links = named is not None and flag is not flags.UNLINK_AND_CREATE
            assert flag is not flags.RAISE_IF_EXISTS or named is None
            assert sem.linked_existing_semaphore == links
            named = named if links else [value]
            handles.append((sem, named))
        elif handles:
            index = chance.randrange(len(handles))
            sem, tokens = handles[index]
            if choice == 1:
                sem.close()
                sem.close()
                del handles[index]
            elif choice == 2 and chance.random() < 0.3:
                try:
                    sem.unlink()
                    assert named is not None
                except FileNotFoundError:
                    assert named is None
                named = None
            elif choice == 3:
                n = chance.randrange(1, 4)
                sem.release(n)
                tokens[0] += n
            elif choice == 4 and tokens[0]:
                with sem:
                    assert sem.value == tokens[0] - 1
            elif choice == 5:
                assert sem.acquire(timeout=chance.choice((0, 0.0001))) == (tokens[0] > 0)
                tokens[0] = max(0, tokens[0] - 1)
            elif choice == 6:  # a child takes one, with the same object
                child = os.fork()
                if child == 0:
                    os._exit(sem.acquire(False))
                assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == (tokens[0] > 0)
                tokens[0] = max(0, tokens[0] - 1)
            elif choice == 7:
                with pytest.raises(ValueError):
                    sem.release(1_000_001)
            else:
                assert sem.acquire(False) == (tokens[0] > 0)
                tokens[0] = max(0, tokens[0] - 1)
            assert sem.closed or sem.value == tokens[0]
    for sem, _ in handles:
        sem.close()
    if named is not None:
        NamedSemaphore(name).unlink()


@pytest.mark.refcounts
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="no /proc to count mappings in")
def test_nothing_grows(name, full):
    def cycle():
        sem = NamedSemaphore(name)
        link = NamedSemaphore(name)
        with link:
            link.acquire(timeout=0)
        sem.close()
        link.itself = NamedSemaphore(name)  # a creator in a cycle of garbage
        link.itself.itself = link

    def counts(cycles):
        for _ in range(cycles):
            cycle()
        collect()
        with open("/proc/self/maps", encoding="utf-8") as maps:
            mapped = sum("/sem." in line for line in maps)
        return mapped, len(os.listdir("/proc/self/fd")), len(gc.get_objects())

    before = counts(100)
    after = counts(100_000 if full else 1_000)
    assert after[:2] == before[:2]
    assert after[2] <= before[2] + 20
