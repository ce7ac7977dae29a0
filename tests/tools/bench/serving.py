# SPDX-License-Identifier: Apache-2.0
"""Eight processes that serve requests, two at a time: how evenly they get tokens."""

from __future__ import annotations

import asyncio
import ctypes
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

from forks import Children, shared
from peers import (
    Filelock,
    Named,
    NamedCtypes,
    Portalocker,
    PosixIpc,
    Predecessor,
    Robust,
    SysvIpc,
    available,
)
from processes import clock
from results import Results

WORKERS, TOKENS, REQUEST = 8, 2, 0.02  # processes, tokens, seconds a request holds a token
LOAD = 0.8  # of what two tokens can serve

FAIRNESS = f"requests of each of {WORKERS} processes"
MIXED_BLOCKING, MIXED_ASYNCIO = "4 + 4: each blocking one", "4 + 4: each asyncio one"
ALL_BLOCKING, ALL_ASYNCIO = f"{WORKERS} blocking", f"{WORKERS} asyncio"


def measure_fairness(results: Results, quick: bool) -> None:
    """Count the requests of processes that all loop over acquire, hold, release."""
    for peer in available(
        Robust, Named, NamedCtypes, PosixIpc, Predecessor, SysvIpc, Filelock, Portalocker
    ):
        for count in _served(peer, WORKERS, 0, 2 if quick else 6):
            results.add("fairness", FAIRNESS, peer.label, count)


def measure_asyncio(results: Results, quick: bool) -> None:
    """Count the same where half of the processes, or all, are tasks with a loop of their own."""
    for peer in available(Robust, Named, NamedCtypes):
        for blocking, tasks in ((4, 4), (0, 8), (8, 0)):
            counts = _served(peer, blocking, tasks, 2 if quick else 10)
            for number, count in enumerate(counts):
                blocks = number < blocking
                operation = (
                    (MIXED_BLOCKING if blocks else MIXED_ASYNCIO)
                    if blocking and tasks
                    else (ALL_BLOCKING if blocks else ALL_ASYNCIO)
                )
                results.add("asyncio", operation, peer.label, count)


def measure_poisson(results: Results, quick: bool) -> None:
    """Time the waits of requests that arrive at random, at 80 % of what the tokens can serve."""
    for peer in available(Robust, Named, NamedCtypes):
        for operation, blocking in ((ALL_BLOCKING, True), (ALL_ASYNCIO, False)):
            for waited in _poisson(peer, blocking, 3 if quick else 20):
                results.add("poisson", operation, peer.label, waited)


def _served(peer: Any, blocking: int, tasks: int, seconds: float) -> list[int]:
    """Return how many requests each process served, the blocking ones first."""
    sem, counts = peer.fresh(TOKENS), shared(ctypes.c_long * (blocking + tasks))
    begin = clock() + 0.3  # until all run
    end = begin + seconds

    def block(number: int) -> None:
        own = peer.in_child(sem)
        time.sleep(max(0, begin - clock()))
        while True:
            own.acquire()
            time.sleep(REQUEST)
            own.release()
            if clock() > end:
                return
            counts[number] += 1

    async def loop(number: int) -> None:
        await asyncio.sleep(max(0, begin - clock()))
        while True:
            async with sem:
                await asyncio.sleep(REQUEST)
            if clock() > end:
                return
            counts[number] += 1

    _run(blocking, tasks, block, loop)
    peer.drop(sem)
    return list(counts)


def _poisson(peer: Any, blocking: bool, seconds: float) -> list[float]:
    """Return the seconds from each request's arrival until it has a token.

    Each request is a thread, or a task, of one of the processes.
    """
    each = int(seconds * LOAD * TOKENS / REQUEST / WORKERS)  # requests of a process
    sem, waits = peer.fresh(TOKENS), shared(ctypes.c_double * (each * WORKERS))
    begin = clock() + 0.3

    def arrivals(number: int) -> Iterator[tuple[int, float]]:
        chance, at = random.Random(number), begin
        for i in range(number * each, (number + 1) * each):
            at += chance.expovariate(each / seconds)
            yield i, at

    def block(i: int, arrived: float) -> None:
        with sem:
            waits[i] = clock() - arrived
            time.sleep(REQUEST)

    def blocking_worker(number: int) -> None:
        threads = []
        for i, at in arrivals(number):
            time.sleep(max(0, at - clock()))
            threads.append(threading.Thread(target=block, args=(i, at)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    async def in_task(i: int, arrived: float) -> None:
        async with sem:
            waits[i] = clock() - arrived
            await asyncio.sleep(REQUEST)

    async def asyncio_worker(number: int) -> None:
        tasks = []
        for i, at in arrivals(number):
            await asyncio.sleep(max(0, at - clock()))
            tasks.append(asyncio.ensure_future(in_task(i, at)))
        await asyncio.gather(*tasks)

    _run(WORKERS if blocking else 0, 0 if blocking else WORKERS, blocking_worker, asyncio_worker)
    peer.drop(sem)
    return list(waits)


def _run(
    blocking: int, tasks: int, block: Callable[[int], None], loop: Callable[[int], Any]
) -> None:
    with Children() as children:
        for number in range(blocking + tasks):
            if number < blocking:
                children.start(block, number)
            else:
                children.start(lambda number: asyncio.run(loop(number)), number)
        children.join()
