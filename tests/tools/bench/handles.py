# SPDX-License-Identifier: Apache-2.0
"""Many open semaphores: what a call or a fork costs then, and how much memory each takes."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import time
import tracemalloc
from typing import Any, Callable

from forks import Children, Gate, shared
from peers import (
    BareCtypes,
    Named,
    NamedCtypes,
    PosixIpc,
    Predecessor,
    Robust,
    RobustBefore,
    available,
)
from results import Results
from support import unique_name

LINKED, CREATED = "linked", "created"
FORK, FORK_WITHOUT = "fork with 1,000 open", "fork with none open"
_PEERS = (Named, NamedCtypes, Robust, RobustBefore, PosixIpc, Predecessor)


def measure(results: Results, quick: bool) -> None:
    """Time opening, closing and acquiring with one and with many open."""
    for count in (1, 1_000) if quick else (1, 10_000):
        for _ in range(1 if quick else 3):
            for peer in available(*_PEERS):
                for operation, seconds in _linked(_cost, peer, count).items():
                    results.add("handles", f"{operation}, {count:,} open", peer.label, seconds)


def measure_forks(results: Results, quick: bool) -> None:
    """Time fork until the child has ended, where the process has none and 1,000 semaphores open."""
    for operation, count in ((FORK_WITHOUT, 0), (FORK, 1_000)):
        for peer in available(Named, Robust, RobustBefore, PosixIpc):
            names = [unique_name() for _ in range(count)]
            for seconds in _in_child(_forks, peer, names, 20 if quick else 60).values():
                results.add("fork", operation, peer.label, seconds)


def _forks(peer: Any, names: list[str], times: int) -> dict[str, float]:
    semaphores = [peer.create(name) for name in names]
    seconds = {}
    for number in range(times):
        begin = time.perf_counter()
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        seconds[str(number)] = time.perf_counter() - begin
    for sem in semaphores:
        sem.unlink()  # closing alone, soon after a fork, leaves a robust set to the child
        peer.close(sem)
    return seconds


def measure_memory(results: Results, quick: bool) -> None:
    """Measure the memory of a handle: what Python counts, and what the process takes."""
    count = 1_000 if quick else 10_000
    for peer in available(*_PEERS, BareCtypes):
        for which, used in _linked(_memory, peer, count).items():
            results.add("memory", f"{LINKED}: {which}", peer.label, used)
    for peer in available(Named, NamedCtypes, Robust, RobustBefore, Predecessor):
        names = [unique_name() for _ in range(count)]
        for which, used in _in_child(_memory, peer.create, names, peer.discard).items():
            results.add("memory", f"{CREATED}: {which}", peer.label, used)


def _linked(function: Callable[..., dict[str, float]], peer: Any, count: int) -> dict[str, float]:
    """Call the function with as many names, each of which another process has open."""
    names = [unique_name() for _ in range(count)]
    with Children() as children, Gate() as ready, Gate() as done:

        def keep() -> None:
            kept = [peer.create(name) for name in names]
            ready.give()
            done.wait(seconds=600)
            for name, sem in zip(names, kept):
                peer.created = name.encode()  # BareCtypes knows only the last
                peer.discard(sem)

        children.start(keep)
        ready.wait()
        result = (
            _in_child(function, peer, names)
            if function is _cost
            else _in_child(function, peer.link, names, peer.close)
        )
        done.give()
        children.join()
    return result


def _in_child(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Call the function in a process of its own, which nothing before it has filled."""
    room = shared(ctypes.c_char * 4096)

    def run() -> None:
        room.value = json.dumps(function(*arguments)).encode()

    with Children() as children:
        children.start(run)
        children.join()
    return json.loads(room.value)  # type: ignore[no-any-return]


def _cost(peer: Any, names: list[str]) -> dict[str, float]:
    peer.close(peer.link(names[0]))  # loads what the first one needs
    begin = time.perf_counter()
    handles = [peer.link(name) for name in names]
    seconds = time.perf_counter() - begin
    sem = handles[len(handles) // 2]

    def pair() -> None:
        sem.acquire()
        sem.release()

    def create() -> None:
        peer.discard(peer.create(unique_name()))

    costs = {"acquire+release": _timed(pair, 1_000), "create+close": _timed(create, 20)}
    begin = time.perf_counter()
    for handle in handles:
        peer.close(handle)
    return {"link+close": (seconds + time.perf_counter() - begin) / len(names), **costs}


def _timed(function: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(times):
            function()
        best = min(best, (time.perf_counter() - begin) / times)
    return best


PYTHONS, PROCESSES = "Python's", "the process's"


def _memory(
    make: Callable[[str], Any], names: list[str], close: Callable[[Any], object]
) -> dict[str, float]:
    result = {}
    first = make(names[0])
    gc.collect()
    before = _private_bytes()
    handles = [make(name) for name in names[1:]]
    gc.collect()
    after = _private_bytes()
    if before is not None and after is not None:
        result[PROCESSES] = (after - before) / len(handles)
    while handles:
        close(handles.pop())
    gc.collect()
    tracemalloc.start()
    handles = [make(name) for name in names[1:]]
    gc.collect()
    result[PYTHONS] = tracemalloc.get_traced_memory()[0] / len(handles)
    for handle in (first, *handles):
        close(handle)
    return result


def _private_bytes() -> int | None:
    """Return the memory that is this process's alone, without the semaphore's own page."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(
                int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:")
            )
    except (OSError, StopIteration):
        return None
