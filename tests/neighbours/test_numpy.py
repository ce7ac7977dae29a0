# SPDX-License-Identifier: Apache-2.0
"""numpy's numbers are numbers; its arrays are none."""

from __future__ import annotations

import pytest
from support import thread

from named_semaphores import NamedSemaphore, RobustSemaphore

numpy = pytest.importorskip("numpy")


@pytest.fixture(params=[NamedSemaphore, RobustSemaphore])
def sem(request, name):
    """A semaphore of one token."""
    sem = request.param(name, 1)
    yield sem
    sem.close()


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "longdouble", "int8", "uint64"])
def test_a_number_is_a_timeout(sem, kind):
    number = getattr(numpy, kind)
    longest = number("inf") if "float" in kind or "double" in kind else number(100)
    assert sem.acquire(timeout=number(1))
    assert not sem.acquire(timeout=number(0))
    with thread(sem.acquire, timeout=longest) as got:
        sem.release()
    assert got == [True]
    sem.release()
    with sem.hold(timeout=longest):
        assert not sem.acquire(blocking=False)


def test_no_other_timeout_takes_a_token(sem):
    arrays = [numpy.array(items) for items in ([1.0], [1.0, 2.0], [], ["x"])]
    for given in (*arrays, numpy.float16("nan"), numpy.float32(-1)):
        for wait in (sem.acquire, sem.hold):
            with pytest.raises(ValueError, match=f"{sem.name}.*timeout"):
                wait(timeout=given)
    assert sem.value == 1


def test_integers_are_counts(name):
    sem = RobustSemaphore(name, numpy.int64(3))
    assert sem.total == 3
    assert sem.acquire(n=numpy.uint8(2))
    assert sem.value == 1
    sem.release(numpy.int16(2))
    sem.resize(numpy.int32(2))
    assert sem.value == 2
    for given in (numpy.array([1, 2]), numpy.float64(1)):
        for use in (lambda n: sem.acquire(n=n), sem.release):
            with pytest.raises(ValueError, match=sem.name):
                use(given)
    assert sem.value == 2
    sem.close()
