# SPDX-License-Identifier: Apache-2.0
"""Programs that stop or turn the clock in their tests: timeouts end as without."""

from __future__ import annotations

import pytest
from programs import IMPORT, assert_well

FREEZE = """
import freezegun
freezegun.freeze_time("2012-01-14", real_asyncio=True).start()
"""
TRAVEL = """
import time_machine
time_machine.travel(0, tick=False).start()
"""
# A thread of C code ends the process where a wait does not end; it looks at no Python clock.
WAITS = """
import asyncio, ctypes, faulthandler, threading
faulthandler.dump_traceback_later(50, exit=True)

class timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

def now():
    time = timespec()
    ctypes.CDLL(None).clock_gettime(1, ctypes.byref(time))  # CLOCK_MONOTONIC of Linux
    return time.seconds + time.nanoseconds / 1e9

def too_late(wait):
    start = now()
    assert not wait()
    assert now() - start >= 0.02

def hold(*n):
    try:
        with sem.hold(*n, timeout=0.02):
            return True
    except TimeoutError:
        return False

async def main():
    start = now()
    assert not await sem.acquire_async(timeout=0.02)
    assert now() - start >= 0.02
    asyncio.get_running_loop().call_later(0.02, sem.release)
    async with sem:
        pass

for cls in NamedSemaphore, RobustSemaphore:
    sem = cls(sys.argv[1], 1)
    with sem.hold(timeout=20):
        too_late(lambda: sem.acquire(timeout=0.02))
        too_late(hold)
    with sem:
        threading.Timer(0.02, sem.release).start()
        with sem:  # the end of the outer statement finds nothing of its own
            pass
        assert sem.acquire(timeout=20)
    assert sem.acquire()
    asyncio.run(main())
    sem.close()
sem = RobustSemaphore(sys.argv[1], 3)
with sem:
    too_late(lambda: hold(3))
    too_late(lambda: sem.acquire(timeout=0.02, n=3))
    with sem.slot(timeout=1) as number:
        assert number == 0
sem.close()
"""


@pytest.mark.parametrize("stop", [FREEZE, TRAVEL], ids=["freezegun", "time-machine"])
@pytest.mark.parametrize("imported", ["first", "last"])
def test_timeouts_end_while_the_clock_stands(stop, imported, name):
    begin = [IMPORT, stop] if imported == "first" else [stop, IMPORT]
    assert_well(name, *begin, WAITS)


def test_a_frozen_clock_that_moves_ends_no_wait_early(name):
    code = """
import freezegun, threading
for cls in NamedSemaphore, RobustSemaphore:
    with freezegun.freeze_time("2012-01-14") as frozen, cls(sys.argv[1], 1) as sem:
        timer = threading.Timer(0.05, sem.release)
        timer.start()
        frozen.tick(3600)
        assert sem.acquire(timeout=60)
        timer.join()
    sem.close()
"""
    assert_well(name, IMPORT, code)
