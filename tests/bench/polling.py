# SPDX-License-Identifier: Apache-2.0
"""Waits with a timeout where the system has none and they poll, beside those where the kernel waits."""

from __future__ import annotations

import ctypes
import random
import time
from typing import Any

from across import Children, shared
from results import Results
from subjects import Polling, PosixIpc, ThisLibrary, available, clock

SHORT_TIMEOUTS = (1, 2, 3, 4, 5)  # milliseconds
CPU_WAITS = (0.1, 1, 10)  # seconds


def measure(results: Results, quick: bool) -> None:
    """Time wake-ups and timeouts, and what waiting costs."""
    subjects = list(available(Polling, ThisLibrary, PosixIpc))
    _latency(results, subjects, "token after 1 to 20 ms", 0.001, 0.02, 10 if quick else 40)
    _latency(results, subjects, "token after 50 to 400 ms", 0.05, 0.4, 5 if quick else 20)
    with Children() as children:
        used = {(subject, seconds): shared(ctypes.c_double) for subject in subjects for seconds in CPU_WAITS}
        for (subject, seconds), cpu in used.items():
            children.start(_use, subject, subject.open(0), seconds, cpu)
        endless = {subject: (subject.open(0), shared(ctypes.c_double)) for subject in subjects}
        for subject, (s, cpu) in endless.items():
            children.start(_use, subject, s, None, cpu)
        begin = time.monotonic()
        _lateness(results, subjects, quick)
        time.sleep(max(0.0, begin + max(CPU_WAITS) - time.monotonic()))
        for s, _ in endless.values():
            s.release()
        seconds = time.monotonic() - begin
        children.join()
        for subject, (_, cpu) in endless.items():
            results.add("CPU of an endless wait, in each second", subject.label, cpu.value / seconds)
        for (subject, seconds), cpu in used.items():
            results.add(f"CPU of a wait of {seconds} s", subject.label, cpu.value)


def _latency(results: Results, subjects: list[Any], operation: str, least: float, most: float, times: int) -> None:
    each = 4  # waiters of each subject at once: they sleep most of the time
    with Children() as children:
        waits = []
        for subject in subjects:
            for _ in range(each):
                s, ready, stamps = subject.open(0), subject.open(0), shared(ctypes.c_double * times)
                waits.append((subject, s, ready, stamps))
                children.start(_wait, subject, s, ready, stamps)
        for number in range(times):
            for _, _, ready, _ in waits:
                ready.acquire()
            begin = time.monotonic()
            for delay, (subject, s, _, stamps) in sorted(((random.uniform(least, most), wait) for wait in waits), key=lambda pair: pair[0]):
                time.sleep(max(0.0, begin + delay - time.monotonic()))
                stamps[number] = subject.post(s)
        children.join()
        for subject, _, _, stamps in waits:
            for delay in stamps:
                results.add(operation, subject.label, delay)


def _wait(subject: Any, s: Any, ready: Any, stamps: Any) -> None:
    for number in range(len(stamps)):
        ready.release()
        assert subject.acquire_within(s, 60)
        woken = clock()
        while not stamps[number]:  # the parent notes the time when its post has returned
            time.sleep(0.0001)
        stamps[number] = woken - stamps[number]


def _use(subject: Any, s: Any, seconds: float | None, cpu: Any) -> None:
    begin = time.process_time()
    if seconds is None:
        s.acquire()
    else:
        assert not subject.acquire_within(s, seconds)
    cpu.value = time.process_time() - begin


def _lateness(results: Results, subjects: list[Any], quick: bool) -> None:
    empty = {subject: subject.open(0) for subject in subjects}
    for milliseconds, times in [*((short, 8 if quick else 40) for short in SHORT_TIMEOUTS), (1000, 1 if quick else 3)]:
        for _ in range(times):
            for subject in subjects:
                begin = time.perf_counter()
                assert not subject.acquire_within(empty[subject], milliseconds / 1000)
                results.add(f"timeout of {milliseconds} ms takes", subject.label, time.perf_counter() - begin)
