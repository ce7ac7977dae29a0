# SPDX-License-Identifier: Apache-2.0
"""Between processes: hand-overs, wake-ups, and one token for many."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import statistics
import sys
import time
import traceback
from functools import partial
from typing import Any, Callable

from results import Results
from subjects import ALL, Bare, CLoop, Multiprocessing, PosixIpc, Predecessor, ThisLibrary, available

_WAITING = (ThisLibrary, Bare, PosixIpc, Predecessor, Multiprocessing, CLoop)


def shared(ctype: Any) -> Any:
    """Return memory that is the same in all children."""
    return ctype.from_buffer(mmap.mmap(-1, ctypes.sizeof(ctype)))


class Children:
    """Forked processes, none of which outlives the block."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def start(self, function: Callable[..., object], *arguments: Any) -> None:
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self.pids.append(pid)
            return
        status = 1
        try:
            function(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def join(self) -> None:
        """Wait until all have done what they were started for."""
        while self.pids:
            _, status = os.waitpid(self.pids[0], 0)
            del self.pids[0]
            if status:
                raise RuntimeError("a child process failed")

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        self.pids.clear()


def _places() -> dict[str, tuple[set[int], set[int]] | None]:
    """Return where two processes may run. Left alone, one pair happens to share a CPU and the next does not, which is ten times as slow."""
    try:
        cpus = sorted(os.sched_getaffinity(0))
    except AttributeError:
        return {"wherever": None}
    places: dict[str, tuple[set[int], set[int]] | None] = {"one CPU": ({cpus[0]}, {cpus[0]})}
    if len(cpus) > 1:
        places["two CPUs"] = ({cpus[0]}, {cpus[1]})
    return places


def _pinned(cpus: set[int], function: Callable[..., object], *arguments: Any) -> None:
    os.sched_setaffinity(0, cpus)
    function(*arguments)


def measure_handovers(results: Results, quick: bool) -> None:
    """Time round trips between two processes, and from a post to the waiter's return."""
    subjects = list(available(*_WAITING))
    for place, cpus in _places().items():
        with Children() as children:
            start: Any = children.start
            if cpus:
                os.sched_setaffinity(0, cpus[0])  # this process does nothing else
                start = partial(children.start, _pinned, cpus[1])
            _ping_pong(results, f"ping-pong round trip, {place}", subjects, start, children, *((12, 200) if quick else (40, 500)))
            _wake_up(results, f"post to wake-up, {place}", subjects, start, children, *((8, 10) if quick else (30, 20)))


def _ping_pong(results: Results, operation: str, subjects: list[Any], start: Any, children: Children, rounds: int, trips: int) -> None:
    ends = {subject: (subject.open(0), subject.open(0)) for subject in subjects}
    for subject, (there, back) in ends.items():
        start(subject.pong, there, back, (rounds + 1) * trips)
    for number in range(rounds + 1):
        for subject in subjects:
            begin = time.perf_counter()
            subject.ping(*ends[subject], trips)
            if number:  # the first warms up
                results.add(operation, subject.label, (time.perf_counter() - begin) / trips)
    children.join()


def _wake_up(results: Results, operation: str, subjects: list[Any], start: Any, children: Children, rounds: int, posts: int) -> None:
    waits = {subject: (subject.open(0), shared(ctypes.c_double * (rounds * posts))) for subject in subjects}
    for subject, (s, stamps) in waits.items():
        start(subject.stamp, s, stamps, rounds * posts)
    time.sleep(0.1)  # all wait
    sent: dict[Any, list[float]] = {subject: [] for subject in subjects}
    for _ in range(rounds * posts):
        for subject in subjects:
            time.sleep(0.0005)  # the waiter waits again
            sent[subject].append(subject.post(waits[subject][0]))
    children.join()
    for subject in subjects:
        delays = [woken - at for woken, at in zip(waits[subject][1], sent[subject])]
        for number in range(rounds):
            results.add(operation, subject.label, statistics.median(delays[number * posts : (number + 1) * posts]))


def measure_sharing(results: Results, quick: bool) -> None:
    """Time a pair of acquire and release where 2, 8, 64 processes want one token all the time."""
    for _ in range(1 if quick else 5):
        for count in (2, 8, 64):
            for subject in available(*(subject_type for subject_type in ALL if subject_type.crosses)):
                results.add(f"one token for {count} processes", subject.label, _seconds_per_pair(subject, count, 0.1 if quick else 0.2))


def _seconds_per_pair(subject: Any, count: int, seconds: float) -> float:
    s, start, stop, counts = subject.open(), shared(ctypes.c_byte * 1), shared(ctypes.c_byte * 1), shared(ctypes.c_long * count)
    stopping = memoryview(stop).cast("B")

    def hammer(number: int) -> None:
        while not start[0]:
            time.sleep(0.001)
        counts[number] = subject.hammer(s, stop if isinstance(subject, CLoop) else stopping)

    with Children() as children:
        for number in range(count):
            children.start(hammer, number)
        start[0] = 1
        begin = time.perf_counter()
        time.sleep(seconds)
        stop[0] = 1
        seconds = time.perf_counter() - begin
        children.join()
    return seconds / float(max(1, sum(counts)))


def measure_waiters(results: Results, quick: bool) -> None:
    """Time the hand-over to one of many waiters and back."""
    cpus = next(iter(_places().values()))
    if cpus:
        os.sched_setaffinity(0, cpus[0])  # this process does nothing else
    for _ in range(1 if quick else 3):
        for count in (1, 8, 64) if quick else (1, 8, 64, 500):
            for subject in available(ThisLibrary, Bare, PosixIpc, CLoop):
                there, back = subject.open(0), subject.open(0)
                with Children() as children:
                    for _ in range(count):
                        children.start(subject.pong, there, back, 1 << 30)
                    subject.ping(there, back, 20 * count)  # until each has run often enough for its interpreter to be quick
                    trips = 200 + count
                    for _ in range(4):
                        begin = time.perf_counter()
                        subject.ping(there, back, trips)
                        results.add(f"round trip, {count} waiters", subject.label, (time.perf_counter() - begin) / trips)
