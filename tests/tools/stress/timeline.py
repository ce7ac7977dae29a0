# SPDX-License-Identifier: Apache-2.0
"""A limit of three whose holders are killed: who is inside, who waits, how many tokens are lost.
Written to a file for tests/tools/pictures.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from typing import Any

from forks import Children, shared
from peers import CACHE, Peer
from support import unique_name

TOKENS, WORKERS = 3, 6
INSIDE, OUTSIDE = 0.4, 0.15  # seconds that a worker holds a token, and does something else
FIRST_KILL, KILL_EVERY = 1.0, 1.25  # seconds
DATA = os.path.join(CACHE, "kills.json")

_WAITS, _INSIDE = 1, 2


def killing(peer: Peer, seconds: int) -> dict[str, Any]:
    """Let six workers loop over a with statement. Now and then kill one that is inside, and start
    another in its place.
    """
    sem = peer.create(unique_name(), TOKENS)
    states = shared(ctypes.c_byte * WORKERS)
    bars: list[list[Any]] = []  # worker, "waits" or "inside", from, to, whether it was killed
    began = [(0, 0.0)] * WORKERS  # the last seen state of each worker, and since when
    killed = 0

    def work(number: int) -> None:
        own = peer.in_child(sem)
        time.sleep(number * INSIDE / WORKERS)
        while True:
            states[number] = _WAITS
            with own:
                states[number] = _INSIDE
                time.sleep(INSIDE)
                states[number] = 0
            time.sleep(OUTSIDE)

    def see(number: int, state: int, now: float, died: bool = False) -> None:
        before, since = began[number]
        if before:
            bars.append([number, "inside" if before == _INSIDE else "waits", since, now, died])
        began[number] = state, now

    def count_lost(_: int) -> int:
        time.sleep(0.02)  # a worker that is just entering or leaving looks like a lost token
        return TOKENS - peer.value(sem) - sum(state == _INSIDE for state in states)

    with Children() as children:
        pids = [children.start(work, number) for number in range(WORKERS)]
        begin, next_kill = time.monotonic(), FIRST_KILL
        now = 0.0
        while now < seconds:
            time.sleep(0.005)
            now = time.monotonic() - begin
            for number, state in enumerate(states):
                if state != began[number][0]:
                    see(number, state, now)
            inside = [number for number in range(WORKERS) if began[number][0] == _INSIDE]
            victim = max(inside, key=lambda number: began[number][1], default=None)
            if now >= next_kill and victim is not None and now - began[victim][1] > INSIDE / 4:
                children.kill(pids[victim])
                see(victim, 0, now, died=True)
                states[victim] = 0
                pids[victim] = children.start(work, victim)
                killed += 1
                next_kill += KILL_EVERY
        lost = min(map(count_lost, range(50)))
        for number in range(WORKERS):
            see(number, 0, now)
    peer.discard(sem)
    sizes = {"seconds": seconds, "tokens": TOKENS, "workers": WORKERS}
    recorded = {peer.label: {**sizes, "bars": bars, "lost": lost}}
    if os.path.exists(DATA):
        with open(DATA, encoding="utf-8") as file:
            recorded = {**json.load(file), **recorded}
    with open(DATA, "w", encoding="utf-8") as file:
        json.dump(recorded, file, indent=0)
    waiting = WORKERS if lost == TOKENS else 0
    return {"tokens lost": lost, "workers killed": killed, "wait for ever": waiting}
