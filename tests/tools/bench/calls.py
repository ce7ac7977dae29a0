# SPDX-License-Identifier: Apache-2.0
"""One process, nobody else at the semaphore: what each call costs, and importing."""

from __future__ import annotations

import os
import subprocess
import sys
import timeit
from collections.abc import Iterator
from typing import Any, Callable

from forks import Children, Gate
from peers import CACHE, PREDECESSOR, available
from results import Results
from support import unique_name

PAIR, WITH, TRY, TIMEOUT = "acquire+release", "with", "non-blocking+release", "timeout+release"
FAILS, CREATE, LINK = "non-blocking fails", "create+close", "link+close"
LINK_AGAIN = "link+close of what is open"

_BLOCK = 0.003  # seconds a peer is measured before the next has its turn


def measure(results: Results, quick: bool) -> None:
    """Time all calls. The peers take turns: what slows the machine for a while slows all."""
    peers = list(available())
    links = {peer: unique_name() for peer in peers if peer.has_name}
    names = {peer: unique_name() for peer in peers if peer.has_name}
    opened: list[Any] = []
    with Children() as children, Gate() as ready, Gate() as done:
        children.start(_keep, links, ready, done)
        ready.wait()
        open_here = {peer: peer.create(name) for peer, name in names.items()}  # after the fork
        timers: dict[str, dict[Any, Callable[[int], float]]] = {}
        for peer in peers:
            sem, empty = peer.fresh(), peer.empty()
            opened.append((peer, sem, empty))
            for operation, statement in _statements(peer):
                its = {LINK: links, LINK_AGAIN: names}.get(operation)
                name = its[peer] if its else unique_name()
                timer = _timer(peer, statement, empty if operation == FAILS else sem, name)
                timers.setdefault(operation, {})[peer] = timer
        for operation, by_peer in timers.items():
            _take_turns(results, operation, by_peer, quick)
        for peer, *both in opened:
            for sem in both:
                peer.drop(sem)
        for peer, sem in open_here.items():
            peer.created = names[peer].encode()  # BareCtypes knows only the last
            peer.discard(sem)
        done.give()
        children.join()


def _keep(links: dict[Any, str], ready: Gate, done: Gate) -> None:
    """Keep a semaphore of each name open in another process, where linking does not find it."""
    kept = {peer: peer.create(name) for peer, name in links.items()}
    ready.give()
    done.wait(seconds=600)
    for peer, sem in kept.items():
        peer.discard(sem)


def _statements(peer: Any) -> Iterator[tuple[str, str]]:
    yield PAIR, f"{peer.acquire}; {peer.release}"
    if peer.has_with:
        yield WITH, "with sem: pass"
    yield TRY, f"{peer.try_acquire}; {peer.release}"
    if peer.timed_acquire:
        yield TIMEOUT, f"{peer.timed_acquire}; {peer.release}"
    yield FAILS, f"try: {peer.try_acquire}\nexcept busy: pass" if peer.busy else peer.try_acquire
    if peer.opens_at_once:
        yield CREATE, "create(name)" if peer.closes_when_deleted else "discard(create(name))"
    if peer.opens_at_once and peer.has_name:
        for operation in (LINK, LINK_AGAIN):
            yield operation, "link(name)" if peer.closes_when_deleted else "close(link(name))"


def _timer(peer: Any, statement: str, sem: Any, name: str | None) -> Callable[[int], float]:
    functions = {
        "create": peer.create,
        "link": peer.link,
        "close": peer.close,
        "discard": peer.discard,
        **peer.calls(),
    }
    names = {"sem": sem, "name": name, "limit": 5, "busy": peer.busy, **functions}
    setup = "; ".join(
        f"{name} = names[{name!r}]" for name in names
    )  # locals: what is looked up is the same for all
    return timeit.Timer(statement, setup, globals={"names": names}).timeit


def _take_turns(
    results: Results, operation: str, timers: dict[Any, Callable[[int], float]], quick: bool
) -> None:
    loops = {peer: _loops(timer) for peer, timer in timers.items()}
    order = list(timers)
    for _ in range(8 if quick else 24):
        order.append(order.pop(0))  # so that each peer has each other one before it
        for peer in order:
            results.add("calls", operation, peer.label, timers[peer](loops[peer]) / loops[peer])
            peer.tidy()


def _loops(timer: Callable[[int], float]) -> int:
    loops = 1
    while True:
        seconds = timer(loops)
        if seconds >= _BLOCK / 4:
            return max(1, int(loops * _BLOCK / seconds))
        loops *= 4


IMPORT, BASE = "import", "ctypes, enum, weakref"
_IMPORTS = {
    "NamedSemaphore": "from named_semaphores import NamedSemaphore",
    "RobustSemaphore": "from named_semaphores import RobustSemaphore",
    BASE: "import ctypes, enum, weakref",
    "posix_ipc": "import posix_ipc",
    "named-semaphores 1.0.3": "from named_semaphores.semaphore import NamedSemaphore",
    "threading.Semaphore": "import threading",
    "multiprocessing.Semaphore": "import multiprocessing.synchronize",
    "sysv_ipc, undo": "import sysv_ipc",
    "filelock": "import filelock",
    "portalocker": "import portalocker",
}


def measure_imports(results: Results, quick: bool) -> None:
    """Time each import in a new process, without that process's start."""
    root = os.path.dirname(os.path.dirname(sys.modules["named_semaphores"].__file__ or ""))
    # All are compiled beforehand, and not in the checkout.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": os.path.join(CACHE, "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    imports = dict(_IMPORTS)
    for number in range(6 if quick else 21):
        for label, statement in list(imports.items()):
            path = os.path.join(CACHE, PREDECESSOR) if "1.0.3" in label else root
            code = (
                f"import sys, time; sys.path.insert(0, {path!r}); t = time.perf_counter()\n"
                f"{statement}\nprint(time.perf_counter() - t)"
            )
            ran = subprocess.run(
                [sys.executable, "-c", code],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if ran.returncode:
                del imports[label]
            elif number:  # the first one compiles
                results.add("import", IMPORT, label, float(ran.stdout))
