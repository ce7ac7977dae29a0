# SPDX-License-Identifier: Apache-2.0
"""What was promised, and whether a run kept it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Callable, Union

import starvation
from calls import BASE, IMPORT, LINK, LINK_AGAIN, PAIR, TIMEOUT, TRY, WITH
from handles import CREATED, FORK, LINKED, PROCESSES, PYTHONS
from latency import CPU_TASKS, CPU_WAIT, IN_TASK, IN_THREAD
from peers import (
    Filelock,
    Multiprocessing,
    Named,
    NamedPolling,
    Portalocker,
    PosixIpc,
    Predecessor,
    Robust,
    RobustBefore,
)
from processes import DEATH
from results import Results, percentile
from serving import ALL_ASYNCIO, ALL_BLOCKING, FAIRNESS, MIXED_ASYNCIO, MIXED_BLOCKING

NAMED, ROBUST, POLLING = Named.label, Robust.label, NamedPolling.label
BEFORE, POSIX_IPC, PREDECESSOR = RobustBefore.label, PosixIpc.label, Predecessor.label

# Group, operation, whose, the peer, at most so many times as long.
_AT_MOST = (
    ("calls", WITH, NAMED, POSIX_IPC, 0.95),
    ("calls", PAIR, NAMED, POSIX_IPC, 1.75),
    ("calls", TRY, NAMED, POSIX_IPC, 1.15),
    ("calls", TIMEOUT, NAMED, POSIX_IPC, 1.25),
    ("calls", LINK, NAMED, POSIX_IPC, 2.6),
    ("calls", WITH, NAMED, PREDECESSOR, 0.3),
    ("calls", PAIR, NAMED, PREDECESSOR, 0.45),
    ("calls", TRY, NAMED, PREDECESSOR, 0.3),
    ("calls", TIMEOUT, NAMED, PREDECESSOR, 0.2),
    ("calls", WITH, NAMED, Multiprocessing.label, 0.75),
    ("import", IMPORT, NAMED, BASE, 1.15),
    ("calls", PAIR, ROBUST, BEFORE, 1.12),
    ("calls", WITH, ROBUST, BEFORE, 0.92),
    ("calls", LINK_AGAIN, ROBUST, BEFORE, 0.7),
    ("fork", FORK, ROBUST, BEFORE, 0.5),
    ("contention", "8 processes", ROBUST, BEFORE, 1.4),
    ("contention", "64 processes", ROBUST, BEFORE, 1.4),
    ("queue", "1000 waiting", ROBUST, BEFORE, 1.4),
)
# The same, at least so many times as often.
_AT_LEAST = (
    ("hand-over", "round trip, one CPU", NAMED, POSIX_IPC, 0.75),
    ("hand-over", "round trip, two CPUs", NAMED, POSIX_IPC, 0.9),
    ("contention", "8 processes", NAMED, POSIX_IPC, 0.85),
    ("calls", PAIR, ROBUST, Filelock.label, 30),
    ("calls", PAIR, ROBUST, Portalocker.label, 15),
)

Row = tuple[str, str, bool]
# What is measured, the value or values, how a value is shown, the least and the most.
Measured = tuple[str, Union[float, list[float], None], str, float, float]
_ENDLESS = float("inf")


def rows(results: Results) -> Iterator[Row]:
    """Yield each target that was measured: the target, what was measured, and whether it is met."""
    for group, operation, whose, other, limit in _AT_MOST:
        ratio = results.ratio(group, operation, whose, other)
        text = f"{whose}: {_name(group, operation)}: at most {limit} times as long as {other}"
        if ratio:
            yield text, _quartiles(ratio), ratio[0] <= limit
    for group, operation, whose, other, limit in _AT_LEAST:
        ratio = results.ratio(group, operation, other, whose)
        text = f"{whose}: {_name(group, operation)}: at least {limit} times as often as {other}"
        if ratio:
            yield text, _quartiles(ratio), ratio[0] >= limit
    for measure in (_calls, _serving, _waiting, _memory, _starvation):
        for text, value, shown, least, most in measure(results):
            values = value if isinstance(value, list) else [] if value is None else [value]
            if values:
                ends = dict.fromkeys((min(values), max(values)))
                met = least <= min(values) and max(values) <= most
                yield (
                    f"{text}: {_bounds(least, most, shown)}",
                    " to ".join(format(end, shown) for end in ends),
                    met,
                )


def _bounds(least: float, most: float, shown: str) -> str:
    if most == _ENDLESS:
        return f"at least {least:{shown}}"
    return f"{least:{shown}} to {most:{shown}}" if least else f"at most {most:{shown}}"


def _divided(
    function: Callable[[list[float]], float], values: list[float], others: list[float]
) -> float | None:
    return function(values) / function(others) if values and others else None


def _p99(values: list[float]) -> float:
    return percentile(values, 99)


def _calls(results: Results) -> Iterator[Measured]:
    both = (results.get("calls", operation, ROBUST) for operation in (WITH, PAIR))
    ratios = [a / b for a, b in zip(*both)]
    median = statistics.median(ratios) if ratios else None
    yield f"{ROBUST}: {WITH}, times as long as {PAIR}", median, ".2f", 0, 1.5


def _serving(results: Results) -> Iterator[Measured]:
    counts = results.get("fairness", FAIRNESS, ROBUST)
    even = min(counts) / max(counts) if counts else None
    yield f"{ROBUST}: fewest requests of 8 processes, of the most", even, ".2f", 0.9, _ENDLESS
    for whose, least, most, late in (
        (ROBUST, 0.9, 1.1, 1.5),
        (NAMED, 0.4, _ENDLESS, 2.0),
    ):
        tasks, blocking = (
            results.get("asyncio", operation, whose)
            for operation in (MIXED_ASYNCIO, MIXED_BLOCKING)
        )
        share = _divided(statistics.mean, tasks, blocking)
        yield (f"{whose}: an asyncio worker's requests, of a blocking one's", share, ".2f", least,
               most)  # fmt: skip
        tasks = results.get("asyncio", ALL_ASYNCIO, whose)
        even = min(tasks) / max(tasks) if tasks else None
        yield (f"{whose}: fewest requests of 8 asyncio workers, of the most", even, ".2f", 0.5,
               _ENDLESS)  # fmt: skip
        waits = (
            results.get("poisson", operation, whose) for operation in (ALL_ASYNCIO, ALL_BLOCKING)
        )
        yield (f"{whose}: wait of random arrivals, p99, asyncio's of blocking's",
               _divided(_p99, *waits), ".2f", 0, late)  # fmt: skip


def _waiting(results: Results) -> Iterator[Measured]:
    def ms(group: str, operation: str, whose: str) -> float | None:
        seconds = results.median(group, operation, whose)
        return None if seconds is None else seconds * 1e3

    yield f"{ROBUST}: a killed holder's token taken, ms", ms("death", DEATH, ROBUST), ".2f", 0, 3
    for whose in (NAMED, ROBUST):
        both = (results.get("latency", operation, whose) for operation in (IN_TASK, IN_THREAD))
        times = _divided(statistics.median, *both)
        yield f"{whose}: release to a task's next line, of a thread's", times, ".2f", 0, 3
        cpu = results.median("idle", CPU_TASKS, whose)
        yield f"{whose}: {CPU_TASKS}, CPU", cpu, ".3%", 0, 0.002
    yield f"{POLLING}: a token taken, ms", ms("latency", IN_THREAD, POLLING), ".1f", 0, 10
    yield f"{POLLING}: {CPU_WAIT}, CPU", results.median("idle", CPU_WAIT, POLLING), ".2%", 0, 0.01


def _memory(results: Results) -> Iterator[Measured]:
    for whose, most in ((NAMED, 2048), (ROBUST, 4450)):
        for kind in (LINKED, CREATED):
            for which in (PYTHONS, PROCESSES):
                used = results.median("memory", f"{kind}: {which}", whose)
                yield f"{whose}: bytes of a {kind} handle, {which}", used, ".0f", 0, most


def _starvation(results: Results) -> Iterator[Measured]:
    for what, least, most in (
        *((starvation.share(mix), 0.8, 1.25) for mix in starvation.MIXES),
        *((starvation.longest(mix), 0, 100) for mix in starvation.MIXES),
        (starvation.FEWEST, 0.7, 1),
        (starvation.OVERTAKEN, 0, 80),
        (starvation.CALL, 0, 5),
        (starvation.IN_FORCE, 0, 100),
    ):
        values = results.get("starvation", what, ROBUST)
        if what in (starvation.CALL, starvation.IN_FORCE) and values:
            values = [statistics.median(values)]  # the machine may stop a process for some ms
        yield f"{ROBUST}: {what}", values, ".2f", least, most


def _name(group: str, operation: str) -> str:
    return operation if group in ("calls", operation) else f"{group}, {operation}"


def _quartiles(ratio: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio)
