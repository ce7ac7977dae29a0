# SPDX-License-Identifier: Apache-2.0
"""Many open semaphores: what a fork costs then, and how much memory each takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any, Callable

from forks import Children, Gate, shared
from peers import Named, NamedCtypes, PosixIpc, Robust, RobustBefore, available
from results import Value
from support import unique_name

LINKED, CREATED = "linked", "created"
PYTHONS, PROCESSES = "Python's", "the process's"
FORK, FORK_WITHOUT = "fork with 1,000 open", "fork with none open"


def measure_forks(quick: bool) -> Iterator[Value]:
    """Time fork until the child has ended, where the process has none and 1,000 semaphores open."""
    for operation, count in ((FORK_WITHOUT, 0), (FORK, 1_000)):
        for peer in available(Named, Robust, RobustBefore, PosixIpc):
            for seconds in _in_child(_forks, peer, count, 20 if quick else 60):
                yield operation, peer.label, seconds


def _forks(peer: Any, count: int, times: int) -> list[float]:
    semaphores = [peer.create(unique_name()) for _ in range(count)]
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        seconds.append(time.perf_counter() - begin)
    for sem in semaphores:
        sem.unlink()  # closing alone, soon after a fork, leaves a robust set to the child
        peer.close(sem)
    return seconds


def measure_memory(quick: bool) -> Iterator[Value]:
    """Measure the memory of a handle: what Python counts, and what the process takes."""
    names = [unique_name() for _ in range(1_000 if quick else 10_000)]
    for peer in available(Named, NamedCtypes, Robust, RobustBefore, PosixIpc):
        with open_elsewhere((peer, name) for name in names):
            used = [(LINKED, _in_child(_memory, peer.link, names, peer.close))]
        if not isinstance(peer, PosixIpc):  # which knows no creators
            used.append((CREATED, _in_child(_memory, peer.create, names, peer.discard)))
        for kind, (process, python) in used:
            yield f"{kind}: {PROCESSES}", peer.label, process
            yield f"{kind}: {PYTHONS}", peer.label, python


@contextlib.contextmanager
def open_elsewhere(names: Iterable[tuple[Any, str]]) -> Iterator[None]:
    """Keep the peers' semaphores of these names open in another process during the block."""
    with Children() as children, Gate() as ready, Gate() as done:

        def keep() -> None:
            kept = [(peer, peer.create(name)) for peer, name in names]
            ready.give()
            done.wait(seconds=600)
            for peer, sem in kept:
                peer.discard(sem)

        children.start(keep)
        ready.wait()
        yield
        done.give()
        children.join()


def _in_child(function: Callable[..., list[float]], *arguments: Any) -> list[float]:
    """Call the function in a process of its own, which nothing before it has filled."""
    room = shared(ctypes.c_char * 4096)

    def run() -> None:
        room.value = json.dumps(function(*arguments)).encode()

    with Children() as children:
        children.start(run)
        children.join()
    return json.loads(room.value)  # type: ignore[no-any-return]


def _memory(
    make: Callable[[str], Any], names: list[str], close: Callable[[Any], object]
) -> list[float]:
    """Return by how many bytes a handle makes the process grow, and how many Python counts."""
    first = make(names[0])
    gc.collect()
    before = _private_bytes()
    handles = [make(name) for name in names[1:]]
    gc.collect()
    process = (_private_bytes() - before) / len(handles)
    while handles:
        close(handles.pop())
    gc.collect()
    tracemalloc.start()
    handles = [make(name) for name in names[1:]]
    gc.collect()
    python = tracemalloc.get_traced_memory()[0] / len(handles)
    for handle in (first, *handles):
        close(handle)
    return [process, python]


def _private_bytes() -> int:
    """Return the memory that is this process's alone, without the semaphore's own page."""
    with open("/proc/self/status", encoding="ascii") as status:
        (kilobytes,) = (line.split()[1] for line in status if line.startswith("RssAnon:"))
    return int(kilobytes) * 1024
