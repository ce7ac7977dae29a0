# SPDX-License-Identifier: Apache-2.0
"""What was promised, and whether a run kept it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

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

NAMED, ROBUST, BEFORE = Named.label, Robust.label, RobustBefore.label

# Group, operation, whose, the peer, at most so many times as long.
_AT_MOST = (
    ("calls", WITH, NAMED, PosixIpc.label, 0.95),
    ("calls", PAIR, NAMED, PosixIpc.label, 1.75),
    ("calls", TRY, NAMED, PosixIpc.label, 1.15),
    ("calls", TIMEOUT, NAMED, PosixIpc.label, 1.25),
    ("calls", WITH, NAMED, Predecessor.label, 0.3),
    ("calls", PAIR, NAMED, Predecessor.label, 0.45),
    ("calls", TRY, NAMED, Predecessor.label, 0.3),
    ("calls", TIMEOUT, NAMED, Predecessor.label, 0.2),
    ("calls", WITH, NAMED, Multiprocessing.label, 0.75),
    ("calls", LINK, NAMED, PosixIpc.label, 2.6),
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
    ("hand-over", "round trip, one CPU", NAMED, PosixIpc.label, 0.75),
    ("hand-over", "round trip, two CPUs", NAMED, PosixIpc.label, 0.9),
    ("contention", "8 processes", NAMED, PosixIpc.label, 0.85),
    ("calls", PAIR, ROBUST, Filelock.label, 30),
    ("calls", PAIR, ROBUST, Portalocker.label, 15),
)


def rows(results: Results) -> Iterator[tuple[str, str, bool]]:
    """Yield each target that was measured: the target, what was measured, and whether it is met."""
    for group, operation, whose, other, limit in _AT_MOST:
        ratio = results.ratio(group, operation, whose, other)
        if ratio:
            name = _name(group, operation)
            yield (
                f"{whose}: {name}: at most {limit} times as long as {other}",
                _quartiles(ratio),
                ratio[0] <= limit,
            )
    for group, operation, whose, other, limit in _AT_LEAST:
        ratio = results.ratio(group, operation, other, whose)
        if ratio:
            name = _name(group, operation)
            yield (
                f"{whose}: {name}: at least {limit} times as often as {other}",
                _quartiles(ratio),
                ratio[0] >= limit,
            )
    yield from _with_of_a_pair(results)
    yield from _serving(results)
    yield from _waiting(results)
    yield from _memory(results)
    yield from _starvation(results)


def _with_of_a_pair(results: Results) -> Iterator[tuple[str, str, bool]]:
    ratios = [
        a / b
        for a, b in zip(results.get("calls", WITH, ROBUST), results.get("calls", PAIR, ROBUST))
    ]
    if ratios:
        middle = statistics.median(ratios)
        yield (
            f"{ROBUST}: {WITH}: at most 1.5 times as long as {PAIR}",
            f"{middle:.2f}",
            middle <= 1.5,
        )


def _serving(results: Results) -> Iterator[tuple[str, str, bool]]:
    counts = results.get("fairness", FAIRNESS, ROBUST)
    if counts:
        even = min(counts) / max(counts)
        yield (
            f"{ROBUST}: fewest requests of {len(counts)} processes at least 0.9 of the most",
            f"{even:.2f}",
            even >= 0.9,
        )
    for whose, least, most, worst in ((ROBUST, 0.9, 1.1, 0.0), (NAMED, 0.4, float("inf"), 0.3)):
        blocking, tasks = (
            results.get("asyncio", operation, whose)
            for operation in (MIXED_BLOCKING, MIXED_ASYNCIO)
        )
        if blocking:
            usual = statistics.mean(blocking)
            share, smallest = statistics.mean(tasks) / usual, min(tasks) / usual
            what = (
                f"between {least} and {most}"
                if worst == 0
                else f"at least {least}, the worst at least {worst}"
            )
            met = least <= share <= most and smallest >= worst
            yield (
                f"{whose}: requests of an asyncio worker {what} of a blocking one's",
                f"{share:.2f}, worst {smallest:.2f}",
                met,
            )
        tasks = results.get("asyncio", ALL_ASYNCIO, whose)
        if tasks:
            even = min(tasks) / max(tasks)
            yield (
                f"{whose}: fewest requests of {len(tasks)} asyncio workers at least half the most",
                f"{even:.2f}",
                even >= 0.5,
            )
    for whose, limit in ((ROBUST, 1.5), (NAMED, 2.0)):
        blocking, tasks = (
            results.get("poisson", operation, whose) for operation in (ALL_BLOCKING, ALL_ASYNCIO)
        )
        if blocking:
            ratio = percentile(tasks, 99) / percentile(blocking, 99)
            yield (
                f"{whose}: wait of random arrivals, p99, asyncio at most {limit} of blocking",
                f"{ratio:.2f}",
                ratio <= limit,
            )


def _waiting(results: Results) -> Iterator[tuple[str, str, bool]]:
    seconds = results.median("death", DEATH, ROBUST)
    if seconds is not None:
        yield (
            f"{ROBUST}: a killed holder's token taken within 3 ms at the median",
            f"{seconds * 1e3:.2f} ms",
            seconds < 0.003,
        )
    for whose in (NAMED, ROBUST):
        task, thread = (
            results.median("latency", IN_TASK, whose),
            results.median("latency", IN_THREAD, whose),
        )
        if task is not None and thread is not None:
            yield (
                f"{whose}: release to a task's next line at most 3 times a thread's",
                f"{task / thread:.2f}",
                task <= 3 * thread,
            )
        cpu = results.median("idle", CPU_TASKS, whose)
        if cpu is not None:
            yield f"{whose}: {CPU_TASKS} take less than 0.2 % of a core", f"{cpu:.3%}", cpu < 0.002
    late = results.median("latency", IN_THREAD, NamedPolling.label)
    if late is not None:
        yield (
            f"{NamedPolling.label}: a token taken within 10 ms at the median",
            f"{late * 1e3:.1f} ms",
            late <= 0.010,
        )
    cpu = results.median("idle", CPU_WAIT, NamedPolling.label)
    if cpu is not None:
        yield (
            f"{NamedPolling.label}: {CPU_WAIT} takes less than 1 % of a core",
            f"{cpu:.2%}",
            cpu < 0.01,
        )


def _memory(results: Results) -> Iterator[tuple[str, str, bool]]:
    for whose, most in ((NAMED, 2048), (ROBUST, 4450)):
        for kind in (LINKED, CREATED):
            for which in (PYTHONS, PROCESSES):
                used = results.median("memory", f"{kind}: {which}", whose)
                if used is not None:
                    yield (
                        f"{whose}: memory of a {kind} handle ({which}) at most {most} bytes",
                        f"{used:.0f} bytes",
                        used <= most,
                    )


def _starvation(results: Results) -> Iterator[tuple[str, str, bool]]:
    for what, least, most in (
        *((starvation.share(mix), 0.8, 1.25) for mix in starvation.MIXES),
        *((starvation.longest(mix), 0, 100) for mix in starvation.MIXES),
        (starvation.FEWEST, 0.7, 1),
        (starvation.OVERTAKEN, 0, 80),
        (starvation.CALL, 0, 5),
        (starvation.IN_FORCE, 0, 100),
    ):
        values = results.get("starvation", what, ROBUST)
        if values:
            yield (
                f"{ROBUST}: {what}: from {least} to {most}",
                f"{min(values):.2f} to {max(values):.2f}",
                least <= min(values) and max(values) <= most,
            )


def _name(group: str, operation: str) -> str:
    return operation if group in ("calls", operation) else f"{group}, {operation}"


def _quartiles(ratio: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio)
