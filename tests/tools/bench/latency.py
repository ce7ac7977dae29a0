# SPDX-License-Identifier: Apache-2.0
"""From a release in another process, or its death, to the waiter's next line."""

from __future__ import annotations

import asyncio
import ctypes
import random
import signal
import time
from collections.abc import Iterator
from typing import Any, Callable

from forks import Children, Gate, shared
from peers import FILES, SHARED, NamedPolling, Robust, SysvIpc, available
from processes import clock
from results import Value

DEATH = "SIGKILL of the holder to the waiter's next line"
IN_THREAD, IN_TASK = "release to acquire's next line", "release to a task's next line"


def measure(quick: bool) -> Iterator[Value]:
    """Time from a release in another process to the next line of who waited."""
    for peer in available(*SHARED, NamedPolling, *FILES):
        times = 1000 if peer.waits_in_kernel else 100  # a wait that polls is made longer
        for operation in (IN_THREAD, IN_TASK) if peer.has_asyncio else (IN_THREAD,):
            sem = peer.fresh()
            own = peer.in_child(sem)
            number = times // 10 if quick else times
            in_task = operation == IN_TASK
            for seconds in _waits(peer, sem, number, own.acquire, own.release, in_task):
                yield operation, peer.label, seconds
            peer.drop(sem)


def measure_deaths(quick: bool) -> Iterator[Value]:
    """Time from SIGKILL of the holder until another process has the token."""
    for peer in available(Robust, SysvIpc, *FILES):
        times = 1000 if peer.waits_in_kernel else 200  # what polls takes that much longer
        for seconds in _deaths(peer, times // 20 if quick else times):
            yield DEATH, peer.label, seconds


def _deaths(peer: Any, times: int) -> list[float]:
    sem = peer.fresh()
    with Children() as holders, Gate() as held:

        def hold() -> None:
            own = peer.in_child(sem)
            own.acquire()
            held.give()
            signal.pause()

        def start() -> None:
            holders.start(hold)
            held.wait()

        def kill() -> None:
            holders.kill(holders.pids[0])

        seconds = _waits(peer, sem, times, start, kill)
    peer.drop(sem)
    return seconds


def _waits(
    peer: Any,
    sem: Any,
    times: int,
    take: Callable[[], object],
    give: Callable[[], object],
    in_task: bool = False,
) -> list[float]:
    """Let another process wait for the token that ``take`` takes. Return the seconds from each
    ``give`` to that process's next line.
    """
    # Long enough that it waits. A long wait polls less often.
    pause = (0.002, 0.004) if peer.waits_in_kernel else (0.05, 0.2)
    given, taken = [], shared(ctypes.c_double * times)
    with Children() as children, Gate() as go, Gate() as waits, Gate() as served:

        async def wait() -> None:  # a wait that blocks does not mind the loop around it
            own = peer.in_child(sem)
            for number in range(times):
                go.wait()
                waits.give()
                if in_task:
                    await own.acquire_async()
                else:
                    peer.wait(own)
                taken[number] = clock()
                own.release()
                served.give()

        children.start(lambda: asyncio.run(wait()))
        for _ in range(times):
            take()
            go.give()
            waits.wait()
            time.sleep(random.uniform(*pause))
            given.append(clock())
            give()
            served.wait()
        children.join()
    return [then - now for then, now in zip(taken, given)]
