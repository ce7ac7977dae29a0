# SPDX-License-Identifier: Apache-2.0
"""What was promised, and whether a run kept it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Callable

import fairness
import peers
from calls import BASE, IMPORT, LINK, LINK_AGAIN, PAIR, TIMEOUT, TRY, WITH
from handles import CREATED, FORK, LINKED, PROCESSES, PYTHONS
from latency import DEATH, IN_TASK, IN_THREAD
from results import Results

NAMED, ROBUST, POLLING = (peer.label for peer in (peers.Named, peers.Robust, peers.NamedPolling))
BEFORE, POSIX_IPC = peers.RobustBefore.label, peers.PosixIpc.label

# Group, operation, whose, the peer, at most so many times as long.
_AT_MOST = (
    ("calls", WITH, NAMED, POSIX_IPC, 0.95),
    ("calls", PAIR, NAMED, POSIX_IPC, 1.75),
    ("calls", TRY, NAMED, POSIX_IPC, 1.15),
    ("calls", TIMEOUT, NAMED, POSIX_IPC, 1.25),
    ("calls", LINK, NAMED, POSIX_IPC, 2.6),
    ("calls", WITH, NAMED, peers.Multiprocessing.label, 0.75),
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
    ("calls", PAIR, ROBUST, peers.Filelock.label, 30),
    ("calls", PAIR, ROBUST, peers.Portalocker.label, 15),
)

# What is measured, the values, how a value is shown, the least and the most.
Measured = tuple[str, list[float], str, float, float]
_ENDLESS = float("inf")


def rows(results: Results) -> Iterator[list[str]]:
    """Yield each target that was measured: the target, what was measured, and whether it is met."""
    for group, operation, whose, other, limit in _AT_MOST:
        text = f"{whose}: {group}, {operation}: at most {limit} times as long as {other}"
        yield from _ratio(text, results.ratios(group, operation, whose, other), 0, limit)
    for group, operation, whose, other, limit in _AT_LEAST:
        text = f"{whose}: {group}, {operation}: at least {limit} times as often as {other}"
        yield from _ratio(text, results.ratios(group, operation, other, whose), limit, _ENDLESS)
    for measured in (_calls, _fairness, _waiting, _memory, _starvation):
        for text, values, form, least, most in measured(results):
            if values:
                ends = dict.fromkeys((min(values), max(values)))
                shown = " to ".join(format(end, form) for end in ends)
                is_met = all(least <= value <= most for value in values)
                yield [f"{text}: {_bounds(least, most, form)}", shown, _verdict(is_met)]


def _ratio(text: str, ratios: list[float], least: float, most: float) -> Iterator[list[str]]:
    if ratios:
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        shown = "{1:.2f} ({0:.2f} to {2:.2f})".format(*quartiles)
        yield [text, shown, _verdict(least <= quartiles[1] <= most)]


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "NOT MET"


def _bounds(least: float, most: float, form: str) -> str:
    if most == _ENDLESS:
        return f"at least {least:{form}}"
    return f"{least:{form}} to {most:{form}}" if least else f"at most {most:{form}}"


def _of(function: Callable[..., float], values: list[float], others: list[float]) -> list[float]:
    return [function(values) / function(others)] if values and others else []


def _median(values: list[float]) -> list[float]:
    return [statistics.median(values)] if values else []


def _calls(results: Results) -> Iterator[Measured]:
    both = (results.get("calls", operation, ROBUST) for operation in (WITH, PAIR))
    ratios = [a / b for a, b in zip(*both)]
    yield f"{ROBUST}: {WITH}, times as long as {PAIR}", _median(ratios), ".2f", 0, 1.5


def _fairness(results: Results) -> Iterator[Measured]:
    for whose, kind, least in (
        (ROBUST, fairness.ALL_BLOCKING, 0.9),
        (ROBUST, fairness.ALL_ASYNCIO, 0.5),
        (NAMED, fairness.ALL_ASYNCIO, 0.5),
    ):
        counts = results.get("fairness", kind, whose)
        text = f"{whose}: {kind}: fewest requests, of the most"
        yield text, [min(counts) / max(counts)] if counts else [], ".2f", least, _ENDLESS
    for whose, least, most in ((ROBUST, 0.9, 1.1), (NAMED, 0.4, _ENDLESS)):
        kinds = (fairness.MIXED_ASYNCIO, fairness.MIXED_BLOCKING)
        both = (results.get("fairness", kind, whose) for kind in kinds)
        text = f"{whose}: an asyncio worker's requests, of a blocking one's"
        yield text, _of(statistics.mean, *both), ".2f", least, most


def _waiting(results: Results) -> Iterator[Measured]:
    def of(group: str, operation: str, whose: str, factor: float = 1) -> list[float]:
        return [value * factor for value in _median(results.get(group, operation, whose))]

    killed = of("death", DEATH, ROBUST, 1e3)
    yield f"{ROBUST}: a killed holder's token taken, ms", killed, ".2f", 0, 3
    for whose in (NAMED, ROBUST):
        both = (results.get("latency", operation, whose) for operation in (IN_TASK, IN_THREAD))
        text = f"{whose}: release to a task's next line, of a thread's"
        yield text, _of(statistics.median, *both), ".2f", 0, 3
    polls = of("latency", IN_THREAD, POLLING, 1e3)
    yield f"{POLLING}: a token taken, ms", polls, ".1f", 0, 10


def _memory(results: Results) -> Iterator[Measured]:
    for whose, most in ((NAMED, 2048), (ROBUST, 4450)):
        for kind in (LINKED, CREATED):
            for which in (PYTHONS, PROCESSES):
                used = results.get("memory", f"{kind}: {which}", whose)
                yield f"{whose}: bytes of a {kind} handle, {which}", used, ".0f", 0, most


def _starvation(results: Results) -> Iterator[Measured]:
    for what, least, most in (
        *((fairness.share(mix), 0.8, 1.25) for mix in fairness.MIXES),
        *((fairness.longest(mix), 0, 100) for mix in fairness.MIXES),
        (fairness.FEWEST, 0.7, 1),
        (fairness.OVERTAKEN, 0, 80),
    ):
        yield f"{ROBUST}: {what}", results.get("starvation", what, ROBUST), ".2f", least, most
    for what, most in ((fairness.CALL, 5), (fairness.IN_FORCE, 100)):
        values = results.get("starvation", what, ROBUST)
        # Their median: the machine may stop a process for some ms.
        yield f"{ROBUST}: {what}", _median(values), ".2f", 0, most
