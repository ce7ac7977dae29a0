# SPDX-License-Identifier: Apache-2.0
"""Between processes that wait for each other: hand-overs, contention, a queue, a killed holder."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from functools import partial
from typing import Any, Callable

from forks import Children, Gate, shared
from peers import (
    Filelock,
    Multiprocessing,
    Named,
    NamedCtypes,
    Portalocker,
    PosixIpc,
    Predecessor,
    Robust,
    RobustBefore,
    SysvIpc,
    available,
)
from results import Results


def clock() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)  # one clock for all processes


# --- hand-overs -----------------------------------------------------------------------------------


def _places() -> dict[str, tuple[set[int], set[int]] | None]:
    """Return where two processes may run.

    Left alone, one pair happens to share a CPU, and another does not: ten times as long.
    """
    try:
        cpus = sorted(os.sched_getaffinity(0))
    except AttributeError:
        return {"wherever": None}
    places: dict[str, tuple[set[int], set[int]] | None] = {"one CPU": ({cpus[0]}, {cpus[0]})}
    if len(cpus) > 1:
        places["two CPUs"] = ({cpus[0]}, {cpus[1]})
    return places


def measure_handovers(results: Results, quick: bool) -> None:
    """Time round trips: two processes, each of which releases what the other waits for."""
    peers = list(available(Named, NamedCtypes, PosixIpc, Predecessor, Multiprocessing))
    rounds, trips = (12, 200) if quick else (40, 500)
    for place, cpus in _places().items():
        with Children() as children:
            start: Any = children.start
            if cpus:
                os.sched_setaffinity(0, cpus[0])
                start = partial(children.start, _pinned, cpus[1])
            ends = {peer: (peer.fresh(0), peer.fresh(0)) for peer in peers}
            for there, back in ends.values():
                start(_pong, there, back, (rounds + 1) * trips)
            for number in range(rounds + 1):
                for peer in peers:
                    begin = time.perf_counter()
                    _ping(*ends[peer], trips)
                    if number:  # the first one warms up
                        results.add(
                            "hand-over",
                            f"round trip, {place}",
                            peer.label,
                            (time.perf_counter() - begin) / trips,
                        )
            children.join()


def _pinned(cpus: set[int], function: Callable[..., object], *arguments: Any) -> None:
    os.sched_setaffinity(0, cpus)
    function(*arguments)


def _ping(there: Any, back: Any, trips: int) -> None:
    acquire, release = back.acquire, there.release
    for _ in range(trips):
        release()
        acquire()


def _pong(there: Any, back: Any, trips: int) -> None:
    acquire, release = there.acquire, back.release
    for _ in range(trips):
        acquire()
        release()


# --- contention -----------------------------------------------------------------------------------


def measure_contention(results: Results, quick: bool) -> None:
    """Time a pair of acquire and release where 2, 8, 64 processes want the only token."""
    peers = list(
        available(
            Named,
            NamedCtypes,
            Robust,
            RobustBefore,
            PosixIpc,
            Predecessor,
            Multiprocessing,
            SysvIpc,
            Filelock,
            Portalocker,
        )
    )
    for _ in range(1 if quick else 5):
        for count in (2, 8, 64):
            for peer in peers:
                results.add(
                    "contention",
                    f"{count} processes",
                    peer.label,
                    _seconds_per_pair(peer, count, 0.1 if quick else 0.2),
                )


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


def measure_queue(results: Results, quick: bool) -> None:
    """Time how long each of many waiting processes takes to get the only token and pass it on."""
    for count in (1, 100) if quick else (1, 100, 1000):
        peers = (Named, NamedCtypes, Robust, RobustBefore, PosixIpc, Multiprocessing, SysvIpc)
        for peer in available(*peers):
            for _ in range(1 if quick else 10 if count == 1 else 3):
                results.add(
                    "queue", f"{count} waiting", peer.label, _seconds_per_waiter(peer, count)
                )


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


# --- a holder is killed ---------------------------------------------------------------------------


DEATH = "SIGKILL of the holder to the waiter's next line"


def measure_deaths(results: Results, quick: bool) -> None:
    """Time from SIGKILL of the holder until another process has the token."""
    for peer in available(Robust, SysvIpc, Filelock, Portalocker):
        times = 1000 if peer.waits_in_kernel else 200  # what polls takes that much longer
        for seconds in _wake_ups(peer, times // 20 if quick else times):
            results.add("death", DEATH, peer.label, seconds)


def _wake_ups(peer: Any, times: int) -> list[float]:
    sem, woken = peer.fresh(), shared(ctypes.c_double * times)
    killed = []
    with Children() as children, Gate() as held, Gate() as go, Gate() as waiting, Gate() as served:

        def hold() -> None:
            own = peer.in_child(sem)
            own.acquire()
            held.give()
            signal.pause()

        def wait() -> None:
            own = peer.in_child(sem)
            for number in range(times):
                go.wait()
                waiting.give()
                own.acquire()
                woken[number] = clock()
                own.release()
                served.give()

        children.start(wait)
        for _ in range(times):
            holder = children.start(hold)
            held.wait()
            go.give()
            waiting.wait()
            time.sleep(0.003)  # until it waits in the kernel
            killed.append(clock())
            children.kill(holder)
            served.wait()
        children.join()
    peer.drop(sem)
    return [then - now for then, now in zip(woken, killed)]
