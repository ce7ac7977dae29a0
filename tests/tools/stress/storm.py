# SPDX-License-Identifier: Apache-2.0
"""Storms of signals whose handler raises, on acquiring, waiting, releasing. They run in the main
thread of a process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import textwrap
import time
from collections.abc import Iterator
from typing import Any, Callable

from forks import Children, Gate, shared
from peers import Peer
from support import unique_name


class Interrupt(Exception):
    """What the handler raises."""


class _Storm:
    """One signal at a time: the next is armed when the damage of this one has been counted."""

    made = caught = lost = gained = 0

    @contextlib.contextmanager
    def handling(self, number: int) -> Iterator[None]:
        def handler(*_: object) -> None:
            self.made += 1
            raise Interrupt

        before = signal.signal(number, handler)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(number, before)

    def arm(self) -> None:
        # Longer than a with statement takes, so the signal can arrive anywhere in it.
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 20e-6))

    def count(self, peer: Peer, sem: Any, expected: int) -> None:
        """Count an interrupt, and the tokens that it lost or gained."""
        self.caught += 1
        lost, gained = peer.put_right(sem, expected)
        self.lost += lost
        self.gained += gained

    def outcome(self) -> dict[str, Any]:
        assert self.made == self.caught
        return {"interrupts": self.caught, "lost": self.lost, "gained": self.gained}

    def run(self, number: int, template: str, names: dict[str, Any], *arguments: Any) -> None:
        """Run the function that the template defines, its STATEMENT indented, under signals."""
        statement = textwrap.indent(names.pop("STATEMENT"), " " * 16).lstrip()
        exec(template.replace("STATEMENT", statement), names)
        try:
            with self.handling(number):
                names["rounds"](*arguments)
        finally:
            names.clear()  # free-threaded 3.13 keeps functions, and so what they refer to, for ever


# --- free tokens ----------------------------------------------------------------------------------

_BUSY_ROUNDS = """
def rounds(sem, interrupts):
    for _ in range(interrupts):
        try:
            arm()
            while True:
                STATEMENT
        except Interrupt:
            pass
        count()
"""

STATEMENTS = {
    "with": "with sem: pass",
    "body": "with sem:\n    for i in range(3): abs(i)",
    "nested": "with sem:\n    with sem: pass",
    "try": "sem.acquire()\ntry: pass\nfinally: sem.release()",
    "hold": "with hold: pass",
    "slot": "with sem.slot(): pass",
    # RobustSemaphore's. What acquire has returned is the caller's: the peer counts as lost what is
    # neither two tokens nor none.
    "release": "if sem.acquire(n=2): sem.release(2)",
}


def busy(peer: Peer, interrupts: int, statement: str) -> dict[str, Any]:
    """Interrupt a statement that is run over and over, on a semaphore with free tokens."""

    def count() -> None:
        if statement == "release" and sem.value == 0:
            sem.release(2)
        storm.count(peer, sem, 2)

    storm = _Storm()
    sem = peer.create(unique_name(), 2)
    names: dict[str, Any] = {"arm": storm.arm, "Interrupt": Interrupt, "count": count}
    names["STATEMENT"] = STATEMENTS[statement]
    if statement == "hold":
        names["hold"] = sem.hold(2 if peer.takes_several else 1)
    try:
        storm.run(signal.SIGALRM, _BUSY_ROUNDS, names, sem, interrupts)
    finally:
        peer.discard(sem)
    return storm.outcome()


# --- a token that another process releases --------------------------------------------------------

_WAITING_ROUNDS = """
def rounds(sem, interrupts):
    for _ in range(interrupts):
        go()
        held()
        got = False
        try:
            try:
                go()
                STATEMENT
            except busy:
                pass
            while True:
                nap(0)
        except Interrupt:
            pass
        done()
        count(got)
"""


def _release_and_kill(sem: Any, several: tuple[int, ...], held: Gate, go: Gate, done: Gate) -> None:
    """Take tokens; then release them and send a signal, in any order and with any gap, about when
    the parent's wait begins.
    """
    parent = os.getppid()
    steps: list[Callable[[], object]] = [
        lambda: sem.release(*several),
        lambda: os.kill(parent, signal.SIGUSR1),
    ]
    while True:
        go.wait()
        for _ in range(sum(several) or 1):
            sem.acquire()
        held.give()
        go.wait()
        steps.reverse()
        for step in steps:
            end = time.perf_counter() + random.choice((0, 0, random.uniform(0, 40e-6)))
            while time.perf_counter() < end:
                pass
            step()
        done.give()


def waiting(peer: Peer, interrupts: int, statement: str) -> dict[str, Any]:
    """Interrupt waits for what another process releases at the same time."""
    storm = _Storm()
    # Of three tokens, so many are the other process's when this one wants two.
    several = {"first": (3,), "rest": (2,)}.get(statement, ())
    total = 3 if several else 1
    sem = peer.create(unique_name(), total)
    source = f"with {'hold' if several else 'sem'}:\n    while True: nap(0)"
    if statement == "timed":
        source = peer.timed_acquire
        source = f"{source}; got = True" if peer.busy else f"got = {source}"

    def count(got: bool) -> None:
        if got:
            sem.release()
        storm.count(peer, sem, total)

    try:
        with Children() as children, Gate() as held, Gate() as go, Gate() as done:
            names = {
                "STATEMENT": source,
                # A loop without calls may never end: CPython 3.11 computes eval_breaker anew when a
                # thread takes the GIL back, and a signal at that very moment is forgotten until the
                # next time. (A debugger showed is_tripped 1, signals_pending 1, eval_breaker 0.)
                "nap": time.sleep,
                "limit": 10,
                "Interrupt": (Interrupt, *peer.interrupted),
                "busy": peer.busy,
                "count": count,
                "hold": sem.hold(2) if several else None,
                "held": held.wait,
                "go": go.give,
                "done": done.wait,
            }
            children.start(_release_and_kill, sem, several, held, go, done)
            storm.run(signal.SIGUSR1, _WAITING_ROUNDS, names, sem, interrupts)
    finally:  # when the other process has ended: the last user removes a robust semaphore
        peer.discard(sem)
    return storm.outcome()


# --- a signal just before the kernel sleeps -------------------------------------------------------

PATIENCE = 5.0


def noticed(peer: Peer, interrupts: int, processes: int = 100) -> dict[str, Any]:
    """Interrupt the beginning of waits for a token that never comes; count those that only a second
    signal, 5 s later, ends.

    Many processes do that at once: a signal that comes too soon for the kernel and too late for
    Python costs up to a second.
    """
    sem = peer.empty()
    rows = shared(ctypes.c_double * 3 * processes)
    with Children() as children:
        for row in rows:
            children.start(_interrupt_waits, peer, sem, interrupts // processes, row)
        children.join()
    peer.drop(sem)
    made, hangs, longest = zip(*rows)
    figures = {"interrupts": int(sum(made)), "hangs": int(sum(hangs))}
    return {**figures, "s at most": round(max(longest), 2)}


def _interrupt_waits(peer: Peer, sem: Any, interrupts: int, row: Any) -> None:
    storm = _Storm()
    with storm.handling(signal.SIGALRM):
        for _ in range(interrupts):
            begin = time.monotonic()
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 20e-6), PATIENCE)
                sem.acquire()
            except (Interrupt, *peer.interrupted):
                signal.setitimer(signal.ITIMER_REAL, 0)
            took = time.monotonic() - begin
            row[:] = row[0] + 1, row[1] + (took > PATIENCE - 1), max(row[2], took)
