# SPDX-License-Identifier: Apache-2.0
"""What was promised, and whether a run kept it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from calls import BASE, IMPORT, LINK, PAIR, TIMEOUT, TRY, WITH
from handles import CREATED, LINKED, PROCESSES, PYTHONS
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
    SysvIpc,
)
from processes import DEATH
from results import Results, percentile
from serving import ALL_ASYNCIO, ALL_BLOCKING, FAIRNESS, MIXED_ASYNCIO, MIXED_BLOCKING

NAMED, ROBUST = Named.label, Robust.label

# Group, operation, whose, the peer, at most so many times as long.
_AT_MOST = (
    ("calls", WITH, NAMED, PosixIpc.label, 1.0),
    ("calls", PAIR, NAMED, PosixIpc.label, 2.0),
    ("calls", TRY, NAMED, PosixIpc.label, 1.4),
    ("calls", TIMEOUT, NAMED, PosixIpc.label, 1.6),
    ("calls", WITH, NAMED, Predecessor.label, 0.3),
    ("calls", PAIR, NAMED, Predecessor.label, 0.45),
    ("calls", TRY, NAMED, Predecessor.label, 0.3),
    ("calls", TIMEOUT, NAMED, Predecessor.label, 0.2),
    ("calls", WITH, NAMED, Multiprocessing.label, 0.75),
    ("calls", LINK, NAMED, PosixIpc.label, 3.0),
    ("import", IMPORT, NAMED, BASE, 1.0),
    ("calls", PAIR, ROBUST, SysvIpc.label, 1.7),
)
# The same, at least so many times as often.
_AT_LEAST = (
    ("hand-over", "round trip, one CPU", NAMED, PosixIpc.label, 0.8),
    ("hand-over", "round trip, two CPUs", NAMED, PosixIpc.label, 0.95),
    ("contention", "8 processes", NAMED, PosixIpc.label, 0.6),
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
    yield from _serving(results)
    yield from _waiting(results)
    yield from _memory(results)


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
                f"{whose}: fewest requests of {len(tasks)} asyncio workers at least 0.5 of the most",
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
    for kind in (LINKED, CREATED):
        for which in (PYTHONS, PROCESSES):
            used = results.median("memory", f"{kind}: {which}", NAMED)
            if used is not None:
                yield (
                    f"{NAMED}: memory of a {kind} handle ({which}) less than 2 KB",
                    f"{used:.0f} bytes",
                    used < 2048,
                )


def _name(group: str, operation: str) -> str:
    return operation if group in ("calls", operation) else f"{group}, {operation}"


def _quartiles(ratio: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio)
