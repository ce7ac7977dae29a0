# SPDX-License-Identifier: Apache-2.0
"""What was promised, and whether a run kept it."""

from __future__ import annotations

import sys
from typing import Iterator

from handles import CREATED, LINKED
from polling import CPU_WAITS, SHORT_TIMEOUTS
from results import Results
from subjects import LINK, PAIR, TIMEOUT, TRY, WITH

_OURS, _POLLING, _BARE = "this library", "this library, polling", "bare ctypes calls"
_PLACES = ("one CPU", "two CPUs", "wherever")
_NEW = sys.version_info >= (3, 12)  # where a call through ctypes costs half as much again


def rows(results: Results) -> Iterator[tuple[str, str, str, str]]:
    """Yield each target that was measured: what it is, the measured, whether it is met, and what two bare ctypes calls measure there."""
    for operation, other, old, new in (
        (PAIR, "named-semaphores 1.0.3", 0.95, 1.25),
        (WITH, "named-semaphores 1.0.3", 0.95, 1.22),
        (TRY, "named-semaphores 1.0.3", 0.55, 0.70),
        (TIMEOUT, "named-semaphores 1.0.3", 0.42, 0.50),
        (PAIR, "bare ctypes calls", 1.45, 1.45),
        (PAIR, "threading.Semaphore", 0.5, 0.5),
        (LINK, "posix_ipc", 2.0, 2.0),
        *((f"post to wake-up, {place}", "posix_ipc", 1.10, 1.10) for place in _PLACES),
    ):
        yield from _at_most(results, operation, other, new if _NEW else old)
    for place in _PLACES:
        yield from _at_least(results, f"rate of ping-pong, {place},", f"ping-pong round trip, {place}", "posix_ipc", 0.9)
    yield from _at_least(results, "speed of with", WITH, "filelock", 80)
    yield from _polling(results)
    yield from _memory(results)


def _at_most(results: Results, operation: str, other: str, limit: float) -> Iterator[tuple[str, str, str, str]]:
    ratio, bare = results.ratio(operation, _OURS, other), results.ratio(operation, _BARE, other)
    if ratio:
        yield f"{operation} ≤ {limit} of {other}", _quartiles(ratio), _met(ratio[0] <= limit), f"{bare[0]:.2f}" if bare else ""


def _at_least(results: Results, what: str, operation: str, other: str, limit: float) -> Iterator[tuple[str, str, str, str]]:
    ratio, bare = results.ratio(operation, other, _OURS), results.ratio(operation, other, _BARE)
    if ratio:
        yield f"{what} ≥ {limit} of {other}", _quartiles(ratio), _met(ratio[0] >= limit), f"{bare[0]:.2f}" if bare else ""


def _polling(results: Results) -> Iterator[tuple[str, str, str, str]]:
    for operation in ("token after 1 to 20 ms", "token after 50 to 400 ms"):
        late = results.median(operation, _POLLING)
        if late is not None:
            yield f"polling: {operation} taken within 10 ms at the median", f"{late * 1e3:.1f} ms", _met(late <= 0.010), ""
    first = results.least(f"CPU of a wait of {CPU_WAITS[0]} s", _POLLING)
    for seconds in CPU_WAITS[1:]:
        cpu = results.least(f"CPU of a wait of {seconds} s", _POLLING)
        if cpu is not None and first is not None:
            share = (cpu - first) / (seconds - CPU_WAITS[0])
            yield f"polling: CPU < 1 % of a wait of {seconds} s, after 100 ms", f"{share:.2%}", _met(share < 0.01), ""
    for milliseconds in (*SHORT_TIMEOUTS, 1000):
        taken = sorted(results.get(f"timeout of {milliseconds} ms takes", _POLLING))
        if taken:
            worst, most = taken[-1] - milliseconds / 1e3, taken[(len(taken) * 19 - 1) // 20] - milliseconds / 1e3
            measured = f"late by {most * 1e3:.2f} ms (95 %), {worst * 1e3:.2f} ms at worst"
            kept = most <= 0.010 and taken[0] >= milliseconds / 1e3
            yield f"polling: timeout of {milliseconds} ms not early, late by ≤ 10 ms", measured, _met(kept), ""


def _memory(results: Results) -> Iterator[tuple[str, str, str, str]]:
    for what in (LINKED, CREATED):
        for whose in ("Python's", "process's"):
            used = results.least(f"{what}: {whose}", _OURS)
            if used is not None:
                yield f"{what} < 2 KB ({whose})", f"{used:.0f} bytes", _met(used < 2048), ""


def _quartiles(ratio: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio)


def _met(met: bool) -> str:
    return "met" if met else "NOT MET"
