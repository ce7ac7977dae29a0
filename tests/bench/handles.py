# SPDX-License-Identifier: Apache-2.0
"""Many open semaphores: what one costs then, and how much memory each takes."""

from __future__ import annotations

import ctypes
import gc
import json
import time
import tracemalloc
from typing import Any, Callable

from across import Children, shared
from results import Results
from subjects import Bare, PosixIpc, Predecessor, ThisLibrary, available, fresh_name

from named_semaphores import NamedSemaphore

LINKED, CREATED = "memory of a linked handle", "memory of a handle that created it"


def measure(results: Results, quick: bool) -> None:
    """Measure with 1 to 10,000 open."""
    most = 1_000 if quick else 10_000
    names = [fresh_name() for _ in range(most)]
    try:
        for name in names:
            NamedSemaphore(name, unlink_on_delete=False).close()
        for count in (1, 100, 1_000) if quick else (1, 100, 1_000, 10_000):
            for _ in range(1 if quick else 3):
                for subject in available(ThisLibrary, PosixIpc, Predecessor):
                    _in_child(results, subject.label, _cost, subject, names[:count], count)
        for subject in available(ThisLibrary, PosixIpc, Predecessor, Bare):
            _in_child(results, subject.label, _memory, LINKED, subject.link, names)
    finally:
        for name in names:
            NamedSemaphore(name, unlink_on_delete=True).close()
    for subject in available(ThisLibrary, Predecessor):
        _in_child(results, subject.label, _memory, CREATED, subject.create, [fresh_name() for _ in range(most)])


def _in_child(results: Results, label: str, function: Callable[..., dict[str, float]], *arguments: Any) -> None:
    """Run the function in a process of its own, which nothing before it has filled."""
    room = shared(ctypes.c_char * 4096)

    def run() -> None:
        room.value = json.dumps(function(*arguments)).encode()

    with Children() as children:
        children.start(run)
        children.join()
    for operation, value in json.loads(room.value).items():
        results.add(operation, label, value)


def _timed(function: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(times):
            function()
        best = min(best, (time.perf_counter() - begin) / times)
    return best


def _cost(subject: Any, names: list[str], count: int) -> dict[str, float]:
    begin = time.perf_counter()
    handles = [subject.link(name) for name in names]
    opening = time.perf_counter() - begin
    s = handles[len(handles) // 2]

    def pair() -> None:
        s.acquire()
        s.release()

    def open_another() -> None:
        subject.close(subject.open())

    result = {
        f"open each of {count}": opening / count,
        f"acquire+release, {count} open": _timed(pair, 1_000),
        f"create, unlink and close another, {count} open": _timed(open_another, 20),
    }
    begin = time.perf_counter()
    for handle in handles:
        subject.close(handle)
    result[f"close each of {count}"] = (time.perf_counter() - begin) / count
    return result


def _memory(what: str, make: Callable[[str], Any], names: list[str]) -> dict[str, float]:
    result = {}
    make(names[0])
    gc.collect()
    before = _private_bytes()
    handles = [make(name) for name in names]
    gc.collect()
    after = _private_bytes()
    if before is not None and after is not None:
        result[f"{what}: process's"] = (after - before) / len(handles)
    handles.clear()
    gc.collect()
    tracemalloc.start()
    handles = [make(name) for name in names]
    gc.collect()
    result[f"{what}: Python's"] = tracemalloc.get_traced_memory()[0] / len(handles)
    return result


def _private_bytes() -> int | None:
    """Return the memory that is this process's alone; the page of the semaphore itself is shared by all who have it open."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        return None
