# SPDX-License-Identifier: Apache-2.0
"""Between processes that wait for each other: hand-overs, contention, a queue."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from typing import Any

from forks import Children, Gate, shared
from peers import FILES, SHARED, Multiprocessing, Named, NamedCtypes, PosixIpc, available
from results import Value


def clock() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)  # one clock for all processes


# --- hand-overs -----------------------------------------------------------------------------------


def measure_handovers(quick: bool) -> Iterator[Value]:
    """Time round trips: two processes, each of which releases what the other waits for.

    Left alone, one pair happens to share a CPU, and another does not: ten times as long.
    """
    rounds, trips = (12, 200) if quick else (40, 500)
    here, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {here})
    for place, there in [("one CPU", here)] + [("two CPUs", cpu) for cpu in others[:1]]:
        peers = available(Named, NamedCtypes, PosixIpc, Multiprocessing)
        ends = {peer: (peer.fresh(0), peer.fresh(0)) for peer in peers}
        with Children() as children:
            for mine, theirs in ends.values():
                children.start(_answer, there, mine, theirs, (rounds + 1) * trips)
            for number in range(rounds + 1):
                for peer, (mine, theirs) in ends.items():
                    acquire, release = theirs.acquire, mine.release
                    begin = time.perf_counter()
                    for _ in range(trips):
                        release()
                        acquire()
                    seconds = time.perf_counter() - begin
                    if number:  # the first one warms up
                        yield f"round trip, {place}", peer.label, seconds / trips
            children.join()


def _answer(cpu: int, theirs: Any, mine: Any, trips: int) -> None:
    os.sched_setaffinity(0, {cpu})
    acquire, release = theirs.acquire, mine.release
    for _ in range(trips):
        acquire()
        release()


# --- contention -----------------------------------------------------------------------------------


def measure_contention(quick: bool) -> Iterator[Value]:
    """Time a pair of acquire and release where 2, 8, 64 processes want the only token."""
    peers = list(available(*SHARED, *FILES))
    for _ in range(1 if quick else 5):
        for count in (2, 8, 64):
            for peer in peers:
                seconds = _seconds_per_pair(peer, count, 0.1 if quick else 0.2)
                yield f"{count} processes", peer.label, seconds


def _seconds_per_pair(peer: Any, count: int, seconds: float) -> float:
    sem, flags, counts = peer.fresh(), shared(ctypes.c_byte * 2), shared(ctypes.c_long * count)

    def hammer(number: int) -> None:
        started, stopped = 0, 1
        own, flag = peer.in_child(sem), memoryview(flags).cast("B")
        acquire, release, n = own.acquire, own.release, 0
        while not flag[started]:
            time.sleep(0.001)
        while not flag[stopped]:
            acquire()
            release()
            n += 1
        counts[number] = n

    with Children() as children:
        for number in range(count):
            children.start(hammer, number)
        begin = time.perf_counter()
        flags[0] = 1
        time.sleep(seconds)
        flags[1] = 1
        seconds = time.perf_counter() - begin
        children.join()
    peer.drop(sem)
    return seconds / float(max(1, sum(counts)))


# --- a long queue ---------------------------------------------------------------------------------


def measure_queue(quick: bool) -> Iterator[Value]:
    """Time how long each of many waiting processes takes to get the only token and pass it on."""
    for count in (1, 100) if quick else (1, 100, 1000):
        for _ in range(1 if quick else 10 if count == 1 else 5):
            for peer in available(*SHARED):
                yield f"{count} waiting", peer.label, _seconds_per_waiter(peer, count)


def _seconds_per_waiter(peer: Any, count: int) -> float:
    sem = peer.empty()
    with Children() as children, Gate() as ready, Gate() as served, Gate() as end:

        def wait_in_line() -> None:
            ready.give()
            sem.acquire()
            sem.release()
            served.give()
            end.wait()  # the end of a process would slow the others

        for _ in range(count):
            children.start(wait_in_line)
        ready.wait(count)
        time.sleep(0.1 + count / 5000)  # until all wait in the kernel
        begin = time.perf_counter()
        sem.release()
        served.wait(count)
        seconds = time.perf_counter() - begin
        end.give(count)
        children.join()
    peer.drop(sem)
    return seconds / count
