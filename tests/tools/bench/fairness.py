# SPDX-License-Identifier: Apache-2.0
"""How evenly processes get tokens: eight that serve requests, some that want several tokens, many
that wait. And how soon fewer tokens are in force.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Iterator
from typing import Any

from forks import Children, shared
from peers import SHARED, Portalocker, Robust, SysvIpc, available
from processes import clock
from results import Value

WORKERS, TOKENS, REQUEST = 8, 2, 0.02  # processes, tokens, seconds a request holds a token
MIXED_BLOCKING, MIXED_ASYNCIO = "4 + 4: each blocking one", "4 + 4: each asyncio one"
ALL_BLOCKING, ALL_ASYNCIO = f"{WORKERS} blocking", f"{WORKERS} asyncio"

BRIEFLY, LONG = 0.004, 0.1  # seconds that a token is held
# Tokens, how many want several, how many of them, and how many want one.
MIXES = ((3, 1, 3, 6), (3, 2, 3, 6), (8, 3, 5, 12))
WAITERS = 50

QUEUE = f"{WAITERS} want one of 2"
FEWEST, OVERTAKEN = f"{QUEUE}: fewest entries of the most", f"{QUEUE}: overtaken, at most"
CALL, IN_FORCE = "resize 6 to 1 under eight: the call, ms", "the same: until it is in force, ms"

Entry = tuple[float, float]  # how long a process waited, and when it entered


def share(mix: tuple[int, int, int, int]) -> str:
    return "{1} want {2} of {0} beside {3}: entries, of the others'".format(*mix)


def longest(mix: tuple[int, int, int, int]) -> str:
    return "{1} want {2} of {0} beside {3}: longest wait, ms".format(*mix)


def measure(quick: bool) -> Iterator[Value]:
    """Count the requests of processes that loop over acquire, hold, release. They block; or half of
    them, or all, are tasks, each with a loop of its own.
    """
    for peer in available(*SHARED, Portalocker):
        for tasks in (0, WORKERS // 2, WORKERS) if peer.has_asyncio else (0,):
            entries = _entries(peer, TOKENS, [1] * WORKERS, REQUEST, 2 if quick else 8, tasks)
            for times in entries[:tasks]:
                operation = ALL_ASYNCIO if tasks == WORKERS else MIXED_ASYNCIO
                yield operation, peer.label, len(times)
            for times in entries[tasks:]:
                yield MIXED_BLOCKING if tasks else ALL_BLOCKING, peer.label, len(times)


def measure_starvation(quick: bool) -> Iterator[Value]:
    """Count entries and waits of the same, where some want several tokens, or many wait."""
    for peer in available(Robust, SysvIpc, Portalocker):
        for mix in () if isinstance(peer, Portalocker) else MIXES:  # which takes one at a time
            tokens, several, n, ones = mix
            numbers = [n] * several + [1] * ones
            entries = _entries(peer, tokens, numbers, BRIEFLY, 1.5 if quick else 5)
            counts = [len(times) for times in entries]
            usual = sum(counts[several:]) / ones
            for count in counts[:several]:
                yield share(mix), peer.label, count / usual
            worst = max(wait for times in entries for wait, _ in times)
            yield longest(mix), peer.label, worst * 1e3
        entries = _entries(peer, 2, [1] * WAITERS, LONG, 6 if quick else 20)
        counts = [len(times) for times in entries]
        yield FEWEST, peer.label, min(counts) / max(counts)
        yield OVERTAKEN, peer.label, _overtaken(entries)
    for peer in available(Robust):
        for _ in range(3 if quick else 10):
            call, in_force = _resize(peer)
            yield CALL, peer.label, call * 1e3
            yield IN_FORCE, peer.label, in_force * 1e3


def _entries(
    peer: Any, tokens: int, numbers: list[int], held: float, seconds: float, tasks: int = 0
) -> list[list[Entry]]:
    """Return the entries of each process, of which each takes a number of tokens at a time. The
    first so many processes are tasks. Who waits at the end counts as entering then.
    """
    room = int(seconds / held * tokens) + 10
    # For each entry since when the process waits, and when it entered.
    table = shared(ctypes.c_double * 2 * room * len(numbers))
    sem = peer.fresh(tokens)
    begin = clock() + 0.5  # until all run
    end = begin + seconds

    def work(number: int) -> None:
        acquire, release = _calls(peer, peer.in_child(sem), numbers[number])
        time.sleep(max(0, begin - clock()))
        for entry in table[number]:
            entry[0] = clock()
            acquire()
            now = clock()
            if now > end:
                return
            entry[1] = now
            time.sleep(held)
            release()

    async def work_in_task(number: int) -> None:
        await asyncio.sleep(max(0, begin - clock()))
        for entry in table[number]:
            entry[0] = clock()
            async with sem:
                now = clock()
                if now > end:
                    return
                entry[1] = now
                await asyncio.sleep(held)

    with Children() as children:
        for number in range(len(numbers)):
            if number < tasks:
                children.start(lambda number: asyncio.run(work_in_task(number)), number)
            else:
                children.start(work, number)
        time.sleep(max(0, end - clock()) + 0.05)
    peer.drop(sem)
    result = []
    for row in table:
        times = [(since, entered or end) for since, entered in row if since]
        result.append([(max(0, entered - since), entered) for since, entered in times])
    return result


def _calls(peer: Any, sem: Any, n: int) -> tuple[Any, Any]:
    if n == 1:
        return sem.acquire, sem.release
    if isinstance(peer, SysvIpc):
        return lambda: sem.acquire(None, n), lambda: sem.release(n)
    return lambda: sem.acquire(n=n), lambda: sem.release(n)


def _overtaken(entries: list[list[Entry]]) -> int:
    """Return how many others at most began a wait after another one, and entered before it did."""
    waits = [(entered - waited, entered) for times in entries for waited, entered in times]
    return max(
        sum(since < later and sooner < entered for later, sooner in waits)
        for since, entered in waits
    )


def _resize(peer: Any) -> tuple[float, float]:
    """Resize from 6 to 1 under eight busy processes. Return how long the call and its effect take.

    It is in force once no more than one process is inside, as the kernel counts them.
    """
    sem = peer.fresh(6)

    def work() -> None:
        while True:
            with sem:
                time.sleep(0.0005)

    with Children() as children:
        for _ in range(8):
            children.start(work)
        time.sleep(0.3)
        begin = clock()
        sem.resize(1)
        call = clock() - begin
        while sum(holder.tokens for holder in sem.holders) > 1:
            time.sleep(0.0001)
        in_force = clock() - begin
    peer.drop(sem)
    return call, in_force
