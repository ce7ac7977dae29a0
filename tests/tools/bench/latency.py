# SPDX-License-Identifier: Apache-2.0
"""From a release in another process to the waiter's next line, and what waiting costs."""

from __future__ import annotations

import asyncio
import ctypes
import random
import time
from typing import Any

from forks import Children, Gate, shared
from peers import (
    Filelock,
    Named,
    NamedCtypes,
    NamedPolling,
    Portalocker,
    PosixIpc,
    Predecessor,
    Robust,
    SysvIpc,
    available,
)
from processes import clock
from results import Results

IN_THREAD, IN_TASK = "release to acquire's next line", "release to a task's next line"
CPU_TASKS, CPU_WAIT = "500 waiting tasks of one loop", "one waiting acquire"


def measure(results: Results, quick: bool) -> None:
    """Time from a release in another process to the next line of who waited."""
    for peer in available(
        Named,
        NamedCtypes,
        NamedPolling,
        Robust,
        PosixIpc,
        Predecessor,
        SysvIpc,
        Filelock,
        Portalocker,
    ):
        times = 1000 if peer.waits_in_kernel else 100  # a wait that polls is made longer
        operations = (IN_THREAD, IN_TASK) if peer.has_asyncio else (IN_THREAD,)
        for operation in operations:
            for seconds in _latencies(peer, operation == IN_TASK, times // 10 if quick else times):
                results.add("latency", operation, peer.label, seconds)


def _latencies(peer: Any, in_task: bool, times: int) -> list[float]:
    # Long enough that the other process waits. A long wait polls less often.
    pause = (0.002, 0.004) if peer.waits_in_kernel else (0.05, 0.2)
    sem, released = peer.fresh(), shared(ctypes.c_double * times)
    taken = shared(ctypes.c_double * times)
    with Children() as children, Gate() as held, Gate() as waits, Gate() as served:

        def give() -> None:
            own = peer.in_child(sem)
            for number in range(times):
                own.acquire()
                held.give()
                waits.wait()
                time.sleep(random.uniform(*pause))
                released[number] = clock()
                own.release()
                served.wait()

        def take() -> None:
            own = peer.in_child(sem)
            for number in range(times):
                held.wait()
                waits.give()
                peer.wait(own)
                taken[number] = clock()
                own.release()
                served.give()

        async def take_in_task() -> None:
            for number in range(times):
                held.wait()
                waits.give()
                await sem.acquire_async()
                taken[number] = clock()
                sem.release()
                served.give()

        children.start(give)
        if in_task:
            children.start(lambda: asyncio.run(take_in_task()))
        else:
            children.start(take)
        children.join()
    peer.drop(sem)
    return [then - now for then, now in zip(taken, released)]


def measure_idle(results: Results, quick: bool) -> None:
    """Measure the CPU time of waits for a token that does not come, as a share of one core."""
    seconds = 2 if quick else 10
    peers = list(available(Named, NamedCtypes, NamedPolling, Robust, Filelock, Portalocker))
    with Children() as children:
        used = []
        for peer in peers:
            sem = peer.empty()
            cpu = shared(ctypes.c_double)
            used.append((CPU_WAIT, peer, sem, cpu))
            children.start(_wait, peer, sem, seconds, cpu)
            if peer.has_asyncio:
                cpu = shared(ctypes.c_double)
                used.append((CPU_TASKS, peer, sem, cpu))
                children.start(
                    lambda sem, cpu: asyncio.run(_wait_in_tasks(sem, seconds, cpu)), sem, cpu
                )
        children.join()
    for operation, peer, sem, cpu in used:
        results.add("idle", operation, peer.label, cpu.value / seconds)
        if operation == CPU_WAIT:
            peer.drop(sem)


def _wait(peer: Any, sem: Any, seconds: float, cpu: Any) -> None:
    names = {"sem": peer.in_child(sem), "limit": seconds, "busy": peer.busy}
    begin = time.process_time()
    exec(f"try: {peer.timed_acquire}\nexcept busy: pass", names)
    cpu.value = time.process_time() - begin


async def _wait_in_tasks(sem: Any, seconds: float, cpu: Any) -> None:
    tasks = [asyncio.ensure_future(sem.acquire_async()) for _ in range(500)]
    await asyncio.sleep(0.5)  # until all wait
    begin = time.process_time()
    await asyncio.sleep(seconds)
    cpu.value = time.process_time() - begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
