# SPDX-License-Identifier: Apache-2.0
"""Whether those that want several tokens starve, or the others, or any of a long queue; and how
soon fewer tokens are in force.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from typing import Any

from forks import Children, shared
from peers import Portalocker, Robust, SysvIpc, available
from processes import clock
from results import Results

BRIEFLY, LONG = 0.004, 0.1  # seconds that a token is held
# Tokens, how many want several, how many of them, and how many want one.
MIXES = ((3, 1, 3, 6), (3, 2, 3, 6), (8, 3, 5, 12))
WAITERS = 50

QUEUE = f"{WAITERS} want one of 2"
FEWEST, OVERTAKEN = f"{QUEUE}: fewest entries of the most", f"{QUEUE}: overtaken, at most"
CALL, IN_FORCE = "resize 6 to 1 under eight: the call, ms", "the same: until it is in force, ms"


def title(tokens: int, several: int, n: int, ones: int) -> str:
    return f"{several} want {n} of {tokens} beside {ones}"


def share(mix: tuple[int, int, int, int]) -> str:
    return f"{title(*mix)}: entries, of the others'"


def longest(mix: tuple[int, int, int, int]) -> str:
    return f"{title(*mix)}: longest wait, ms"


def measure(results: Results, quick: bool) -> None:
    """Count entries and waits of processes that loop over acquire, hold, release."""
    for peer in available(Robust, SysvIpc, Portalocker):
        for mix in MIXES:
            if isinstance(peer, Portalocker):  # takes one at a time
                break
            tokens, several, n, ones = mix
            numbers = [n] * several + [1] * ones
            entries = list(_entries(peer, tokens, numbers, BRIEFLY, 1.5 if quick else 5))
            counts = [len(times) for times in entries]
            usual = sum(counts[several:]) / ones
            for count in counts[:several]:
                results.add("starvation", share(mix), peer.label, count / usual)
            worst = max(wait for times in entries for wait, _ in times)
            results.add("starvation", longest(mix), peer.label, worst * 1e3)
        entries = list(_entries(peer, 2, [1] * WAITERS, LONG, 6 if quick else 20))
        counts = [len(times) for times in entries]
        results.add("starvation", FEWEST, peer.label, min(counts) / max(counts))
        results.add("starvation", OVERTAKEN, peer.label, _overtaken(entries))
    for peer in available(Robust):
        for _ in range(3 if quick else 10):
            call, in_force = _resize(peer)
            results.add("starvation", CALL, peer.label, call * 1e3)
            results.add("starvation", IN_FORCE, peer.label, in_force * 1e3)


def _entries(
    peer: Any, tokens: int, numbers: list[int], held: float, seconds: float
) -> Iterator[list[tuple[float, float]]]:
    """Yield of each process its entries: how long it waited, and when it entered.

    Who waits at the end counts as entering then.
    """
    room = int(seconds / held * tokens) + 10
    rows = shared(ctypes.c_double * (2 * room * len(numbers)))
    sem = peer.fresh(tokens)
    begin = clock() + 0.5  # until all run
    end = begin + seconds

    def work(number: int) -> None:
        own, n = peer.in_child(sem), numbers[number]
        acquire, release = _calls(peer, own, n)
        place = 2 * room * number
        time.sleep(max(0, begin - clock()))
        while True:
            since = clock()
            rows[place] = -since  # it waits
            acquire()
            now = clock()
            if now > end:
                return
            rows[place], rows[place + 1] = now - since, now
            place += 2
            time.sleep(held)
            release()

    with Children() as children:
        for number in range(len(numbers)):
            children.start(work, number)
        time.sleep(max(0, end - clock()) + 0.05)
    peer.drop(sem)
    for number in range(len(numbers)):
        row = list(rows[2 * room * number : 2 * room * (number + 1)])
        found = []
        for waited, entered in zip(row[::2], row[1::2]):
            if waited < 0:
                found.append((max(0.0, end + waited), end))
            elif entered:
                found.append((waited, entered))
        yield found


def _calls(peer: Any, sem: Any, n: int) -> tuple[Any, Any]:
    if n == 1:
        return sem.acquire, sem.release
    if isinstance(peer, SysvIpc):
        return lambda: sem.acquire(None, n), lambda: sem.release(n)
    return lambda: sem.acquire(n=n), lambda: sem.release(n)


def _overtaken(entries: list[list[tuple[float, float]]]) -> int:
    """Return how many of others' entries at most fall into one wait, of waits begun earlier."""
    most = 0
    for times in entries:
        for waited, entered in times:
            since = entered - waited
            later = (
                since < when - wait and when < entered
                for other in entries
                if other is not times
                for wait, when in other
            )
            most = max(most, sum(later))
    return most


def _resize(peer: Any) -> tuple[float, float]:
    """Resize from 6 to 1 under eight busy processes. Return how long the call and its effect take.

    It is in force once no more than one process is inside, as the kernel counts them.
    """
    sem = peer.fresh(6)

    def work() -> None:
        own = peer.in_child(sem)
        while True:
            with own:
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
