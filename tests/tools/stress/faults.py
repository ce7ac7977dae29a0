# SPDX-License-Identifier: Apache-2.0
"""A semaphore is closed while threads wait for it."""

from __future__ import annotations

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
