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
from peers import OURS, SHARED, Portalocker, available
from processes import clock
from results import Value

WORKERS, TOKENS, REQUEST = 8, 2, 0.02  # processes, tokens, seconds a request holds a token
LOAD = 0.8  # of what two tokens can serve

MIXED_BLOCKING, MIXED_ASYNCIO = "4 + 4: each blocking one", "4 + 4: each asyncio one"
ALL_BLOCKING, ALL_ASYNCIO = f"{WORKERS} blocking", f"{WORKERS} asyncio"


def measure_fairness(quick: bool) -> Iterator[Value]:
    """Count the requests of processes that loop over acquire, hold, release. They block; or half of
    them, or all, are tasks, each with a loop of its own.
    """
    for peer in available(*SHARED, Portalocker):
        counts = _served(peer, WORKERS, 2 if quick else 8)
        yield from ((ALL_BLOCKING, peer.label, count) for count in counts)
        if peer.has_asyncio:
            counts = _served(peer, WORKERS // 2, 2 if quick else 8)
            for number, count in enumerate(counts):
                operation = MIXED_BLOCKING if number < WORKERS // 2 else MIXED_ASYNCIO
                yield operation, peer.label, count
            counts = _served(peer, 0, 2 if quick else 8)
            yield from ((ALL_ASYNCIO, peer.label, count) for count in counts)


def _served(peer: Any, blocking: int, seconds: float) -> list[int]:
    """Return how many requests each process served, the blocking ones first."""
    sem, counts = peer.fresh(TOKENS), shared(ctypes.c_long * WORKERS)
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

    _run(blocking, block, loop)
    peer.drop(sem)
    return list(counts)


def measure_poisson(quick: bool) -> Iterator[Value]:
    """Time the waits of requests that arrive at random, at 80 % of what the tokens can serve."""
    for peer in available(*OURS):
        for operation, blocking in ((ALL_BLOCKING, WORKERS), (ALL_ASYNCIO, 0)):
            for waited in _poisson(peer, blocking, 3 if quick else 20):
                yield operation, peer.label, waited


def _poisson(peer: Any, blocking: int, seconds: float) -> list[float]:
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

    def in_thread(i: int, at: float) -> None:
        time.sleep(max(0, at - clock()))
        with sem:
            waits[i] = clock() - at
            time.sleep(REQUEST)

    def block(number: int) -> None:
        threads = [threading.Thread(target=in_thread, args=pair) for pair in arrivals(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def in_task(i: int, at: float) -> None:
        await asyncio.sleep(max(0, at - clock()))
        async with sem:
            waits[i] = clock() - at
            await asyncio.sleep(REQUEST)

    async def loop(number: int) -> None:
        await asyncio.gather(*(in_task(i, at) for i, at in arrivals(number)))

    _run(blocking, block, loop)
    peer.drop(sem)
    return list(waits)


def _run(blocking: int, block: Callable[[int], None], loop: Callable[[int], Any]) -> None:
    """Run so many processes that block, and the others with a loop of asyncio."""
    with Children() as children:
        for number in range(WORKERS):
            if number < blocking:
                children.start(block, number)
            else:
                children.start(lambda number: asyncio.run(loop(number)), number)
        children.join()
