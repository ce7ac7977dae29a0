# SPDX-License-Identifier: Apache-2.0
"""What threads, forks and successors do to a semaphore."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import Any

from forks import Children, Gate
from peers import Peer
from support import unique_name


def closing(peer: Peer, rounds: int) -> dict[str, Any]:
    """Close what four threads wait for, then let another process release four tokens."""
    stuck = 0
    for _ in range(rounds):
        sem = peer.create(unique_name(), 4)
        with Children() as children, Gate() as held, Gate() as closed:
            children.start(_hold_four, peer, sem, held, closed)
            held.wait()
            threads = [threading.Thread(target=_enter, args=(sem,), daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.02)  # most of them wait in the kernel
            peer.discard(sem)
            closed.give()
            children.join()
        for thread in threads:
            thread.join(10)
        stuck += any(thread.is_alive() for thread in threads)
    return {"rounds": rounds, "stuck": stuck}


def _hold_four(peer: Peer, sem: Any, held: Gate, closed: Gate) -> None:
    for _ in range(4):
        sem.acquire()
    held.give()
    closed.wait()
    for _ in range(4):
        sem.release()
    peer.close(sem)  # maybe the last one, which removes the name


def _enter(sem: Any) -> None:
    with sem:
        pass


def forking(peer: Peer, rounds: int) -> dict[str, Any]:
    """Let a child of fork delete its parent's semaphore object and end. Once: it is no race."""
    name = unique_name()
    sem: Any = peer.create(name)
    if os.fork() == 0:
        try:
            del sem
            gc.collect()
        finally:
            os._exit(0)
    os.wait()
    return {"rounds": 1, "parent's names removed": _is_gone(peer, name, sem)}


def succeeding(peer: Peer, rounds: int) -> dict[str, Any]:
    """Remove a name, create a successor of the same name, and close the first one. Once."""
    name = unique_name()
    first = peer.create(name)
    first.unlink()
    second = peer.create(name)
    peer.close(first)
    return {"rounds": 1, "successor's names removed": _is_gone(peer, name, second)}


def _is_gone(peer: Peer, name: str, sem: Any) -> int:
    """Return whether the semaphore has lost its name, and discard it if not."""
    try:
        link = peer.link(name)
    except Exception:  # each peer has its own
        return 1
    peer.close(link)
    peer.discard(sem)
    return 0
