# SPDX-License-Identifier: Apache-2.0
"""One process, nobody else at the semaphore: what each call costs, and importing."""

from __future__ import annotations

import os
import subprocess
import sys
import timeit
from collections.abc import Iterator
from typing import Any, Callable

from handles import open_elsewhere
from peers import CACHE, available
from results import Value
from support import unique_name

PAIR, WITH, TRY, TIMEOUT = "acquire+release", "with", "non-blocking+release", "timeout+release"
FAILS, CREATE, LINK = "non-blocking fails", "create+close", "link+close"
LINK_AGAIN = "link+close of what is open"

_BLOCK = 0.003  # seconds a peer is measured before the next has its turn
Timer = Callable[[int], float]


def measure(quick: bool) -> Iterator[Value]:
    """Time all calls. The peers take turns: what slows the machine for a while slows all."""
    peers = list(available())
    links = {peer: unique_name() for peer in peers if peer.has_name}
    with open_elsewhere(links.items()):  # where linking does not find them
        names = {peer: unique_name() for peer in links}
        opened = {peer: peer.create(name) for peer, name in names.items()}
        empty = {peer: peer.empty() for peer in peers}
        free = {peer: peer.fresh() for peer in peers}
        timers: dict[str, dict[Any, Timer]] = {}
        for peer in peers:
            for operation, statement in _statements(peer):
                sem = empty[peer] if operation == FAILS else free[peer]
                by_peer = {LINK: links, LINK_AGAIN: names}.get(operation)
                name = by_peer[peer] if by_peer else unique_name()
                timers.setdefault(operation, {})[peer] = _timer(peer, statement, sem, name)
        for operation, by_peer in timers.items():
            for label, seconds in _in_turns(by_peer, 8 if quick else 24):
                yield operation, label, seconds
        for peer in peers:
            peer.drop(empty[peer])
            peer.drop(free[peer])
        for peer, sem in opened.items():
            peer.discard(sem)


def _statements(peer: Any) -> Iterator[tuple[str, str]]:
    yield PAIR, "sem.acquire(); sem.release()"
    yield WITH, "with sem: pass"
    yield TRY, f"{peer.try_acquire}; sem.release()"
    if peer.timed_acquire:
        yield TIMEOUT, f"{peer.timed_acquire}; sem.release()"
    yield FAILS, f"try: {peer.try_acquire}\nexcept busy: pass" if peer.busy else peer.try_acquire
    if peer.opens_at_once:
        yield CREATE, "discard(create(name))"
    if peer.opens_at_once and peer.has_name:
        for operation in (LINK, LINK_AGAIN):
            yield operation, "close(link(name))"


def _timer(peer: Any, statement: str, sem: Any, name: str) -> Timer:
    names = {"sem": sem, "name": name, "limit": 5, "busy": peer.busy}
    names |= {call: getattr(peer, call) for call in ("create", "link", "close", "discard")}
    # Locals: looking them up takes the same time for all.
    setup = "; ".join(f"{name} = names[{name!r}]" for name in names)
    return timeit.Timer(statement, setup, globals={"names": names}).timeit


def _in_turns(timers: dict[Any, Timer], rounds: int) -> Iterator[tuple[str, float]]:
    loops = {peer: _loops(timer) for peer, timer in timers.items()}
    order = list(timers)
    for _ in range(rounds):
        order.append(order.pop(0))  # so that each peer has each other one before it
        for peer in order:
            yield peer.label, timers[peer](loops[peer]) / loops[peer]


def _loops(timer: Timer) -> int:
    loops = 1
    while True:
        seconds = timer(loops)
        if seconds >= _BLOCK / 4:
            return max(1, int(loops * _BLOCK / seconds))
        loops *= 4


IMPORT, BASE = "the statement", "ctypes, enum, weakref"
_IMPORTS = {
    "NamedSemaphore": "from named_semaphores import NamedSemaphore",
    "RobustSemaphore": "from named_semaphores import RobustSemaphore",
    BASE: "import ctypes, enum, weakref",
    "posix_ipc": "import posix_ipc",
    "threading.Semaphore": "import threading",
    "multiprocessing.Semaphore": "import multiprocessing.synchronize",
    "sysv_ipc, undo": "import sysv_ipc",
    "filelock": "import filelock",
    "portalocker": "import portalocker",
}


def measure_imports(quick: bool) -> Iterator[Value]:
    """Time each import in a new process, without that process's start."""
    root = os.path.dirname(os.path.dirname(sys.modules["named_semaphores"].__file__ or ""))
    # All are compiled beforehand, and not in the checkout.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": os.path.join(CACHE, "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for number in range(6 if quick else 21):
        for label, statement in _IMPORTS.items():
            code = (
                f"import sys, time; sys.path.insert(0, {root!r}); t = time.perf_counter()\n"
                f"{statement}\nprint(time.perf_counter() - t)"
            )
            command = [sys.executable, "-c", code]
            ran = subprocess.run(command, env=environment, capture_output=True, check=False)
            if number and not ran.returncode:  # the first one compiles
                yield IMPORT, label, float(ran.stdout)
