# SPDX-License-Identifier: Apache-2.0
"""Signals whose handler raises, at every moment of an acquisition, a wait, a release, a creation. For the main thread of a process."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import textwrap
import time
from typing import Any, Callable, Iterator

from support import unique_name

from stress.subjects import Subject

Outcome = dict  # of figures, by what they count


class Interrupt(Exception):
    """What the handler raises."""


class _Storm:
    """One signal at a time: the next is asked for when this one has been caught, so that each is counted, and its damage too."""

    def __init__(self, seed: int | None = None) -> None:
        self.made = self.caught = self.lost = self.gained = self.swallowed = 0
        self.random = random.Random(seed)

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
        # What a with statement takes is far shorter, so this strikes it anywhere.
        signal.setitimer(signal.ITIMER_REAL, self.random.uniform(1e-6, 20e-6))

    def count(self, subject: Subject, sem: Any, expected: int) -> None:
        """Compare the value with what it should be, and put it right."""
        self.caught += 1
        missing = expected - subject.value(sem)
        for _ in range(missing):
            self.lost += 1
            sem.release()
        for _ in range(-missing):
            self.gained += 1
            subject.take(sem)

    def outcome(self) -> Outcome:
        assert self.made == self.caught + self.swallowed
        return {"interrupts": self.caught, "lost": self.lost, "gained": self.gained}


def _compiled(template: str, statement: str, namespace: dict[str, Any]) -> Callable[..., None]:
    lines = template.splitlines()
    at = next(number for number, line in enumerate(lines) if line.strip() == "STATEMENT")
    lines[at] = textwrap.indent(statement, lines[at][: -len("STATEMENT")])
    exec("\n".join(lines), namespace)
    return namespace["rounds"]  # type: ignore[no-any-return]


# --- tokens that are there --------------------------------------------------------------------------------------------------------------

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
}


def busy(subject: Subject, interrupts: int, statement: str) -> Outcome:
    """Interrupt a statement that is run over and over, on a semaphore with tokens."""
    storm = _Storm()
    sem = subject.create(unique_name(), 2)
    rounds = _compiled(
        _BUSY_ROUNDS,
        STATEMENTS[statement],
        {"arm": storm.arm, "Interrupt": Interrupt, "count": lambda: storm.count(subject, sem, 2)},
    )
    try:
        with storm.handling(signal.SIGALRM):
            rounds(sem, interrupts)
    finally:
        subject.discard(sem)
    return storm.outcome()


# --- tokens that come from another process ----------------------------------------------------------------------------------------------

_WAITING_ROUNDS = """
def rounds(sem, interrupts):
    for number in range(interrupts):
        limit = LIMITS[number % len(LIMITS)]
        got = False
        try:
            try:
                write(GO, b"x")
                STATEMENT
            except busy:
                pass
            while True:
                pass
        except Interrupt:
            pass
        read(DONE, 1)
        count(got)
"""


def _post_and_kill(sem: Any, go: int, done: int, spread: float) -> None:
    """The other process: for each byte a token and a signal, in either order and with any gap, about when the wait begins or goes on."""
    parent, rng = os.getppid(), random.Random()
    steps: list[Callable[[], object]] = [sem.release, lambda: os.kill(parent, signal.SIGUSR1)]
    while os.read(go, 1):
        steps.reverse()
        for step in steps:
            end = time.perf_counter() + rng.choice((0, 0, rng.uniform(0, spread)))
            while time.perf_counter() < end:
                pass
            step()
        os.write(done, b"x")


def waiting(subject: Subject, interrupts: int, statement: str, limits: tuple[float, ...] = (10,), spread: float = 40e-6) -> Outcome:
    """Interrupt waits for a token that another process posts at the same time."""
    storm = _Storm()
    sem = subject.create(unique_name(), 0)
    (go_out, go), (done, done_in) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go)
            _post_and_kill(sem, go_out, done_in, spread)
        finally:
            os._exit(0)
    os.close(go_out)

    def count(got: Any) -> None:
        storm.count(subject, sem, 0 if got else 1)
        if not got:
            subject.take(sem)

    source = {"timed": subject.timed, "wait": subject.wait, "with": "with sem:\n    while True: pass"}[statement]
    names = {"LIMITS": limits, "GO": go, "DONE": done, "Interrupt": (Interrupt, *subject.interrupted), "busy": subject.busy, "count": count}
    rounds = _compiled(_WAITING_ROUNDS, source, {"read": os.read, "write": os.write, **names})
    try:
        with storm.handling(signal.SIGUSR1):
            rounds(sem, interrupts)
    finally:
        for fd in (go, done, done_in):
            os.close(fd)
        os.waitpid(child, 0)
        subject.discard(sem)
    return storm.outcome()


# --- a signal just before the kernel sleeps ---------------------------------------------------------------------------------------------

PATIENCE = 5.0


def noticed(subject: Subject, interrupts: int) -> Outcome:
    """Interrupt the beginning of waits without a timeout, for a token that never comes; count those that only a second signal ends."""
    storm = _Storm()
    sem = subject.create(f"{unique_name()}.{os.getpid()}", 0)  # a child of fork counts as its parent does
    hangs, longest = 0, 0.0
    try:
        with storm.handling(signal.SIGALRM):
            for _ in range(interrupts):
                begin = time.monotonic()
                try:
                    signal.setitimer(signal.ITIMER_REAL, storm.random.uniform(1e-6, 20e-6), PATIENCE)
                    sem.acquire()
                except (Interrupt, *subject.interrupted):
                    signal.setitimer(signal.ITIMER_REAL, 0)
                took = time.monotonic() - begin
                longest = max(longest, took)
                hangs += took > PATIENCE - 1
                storm.count(subject, sem, 0)
    finally:
        subject.discard(sem)
    return {"interrupts": storm.caught, "hangs": hangs, "longest": round(longest, 3)}


def noticed_by_many(subject: Subject, interrupts: int, processes: int = 100) -> Outcome:
    """Do that in many processes at once: a signal that comes too soon for the kernel and too late for Python costs up to a second."""
    pipes = []
    for _ in range(processes):
        out, into = os.pipe()
        if os.fork() == 0:
            try:
                outcome = noticed(subject, interrupts // processes)
                os.write(into, f"{outcome['interrupts']} {outcome['hangs']} {outcome['longest']}".encode())
            finally:
                os._exit(0)
        os.close(into)
        pipes.append(open(out, encoding="ascii"))
    counts, hangs, longest = zip(*(map(float, pipe.read().split()) for pipe in pipes))
    for pipe in pipes:
        pipe.close()
        os.wait()
    return {"interrupts": int(sum(counts)), "hangs": int(sum(hangs)), "longest": max(longest)}


# --- creating and closing ---------------------------------------------------------------------------------------------------------------

_CREATING_ROUNDS = """
def rounds(sem, interrupts):
    while storm.caught < interrupts:
        try:
            arm()
            while True:
                sem = create(unique_name())
                STATEMENT
        except Interrupt:
            storm.caught += 1
"""


def mappings(part: str) -> int:
    """Return how many mappings this process has of files whose path has this part."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return sum(part in line for line in maps)


def creating(subject: Subject, interrupts: int) -> Outcome:
    """Interrupt creations, closings and deletions. The names left are counted by the caller, when this process has ended."""
    storm = _Storm()

    def swallow(_: object) -> None:  # the exception of a handler that ran in a finalizer; there will be no other for this signal
        while True:
            storm.swallowed += 1
            storm.caught += 1
            try:
                storm.arm()
                return
            except Interrupt:  # so soon that it came here
                pass

    hook, sys.unraisablehook = sys.unraisablehook, swallow
    names = {"arm": storm.arm, "Interrupt": Interrupt, "create": subject.create, "unique_name": unique_name, "storm": storm}
    try:
        with storm.handling(signal.SIGALRM):
            for statement in ("discard(sem)", "del sem", "pass"):
                storm.caught, before = 0, storm.caught
                _compiled(_CREATING_ROUNDS, statement, {"discard": subject.discard, **names})(None, interrupts // 3)
                storm.caught += before
    finally:
        sys.unraisablehook = hook
    gc.collect()
    assert storm.made == storm.caught
    return {"interrupts": storm.caught, "mappings left": mappings(unique_name().split(".")[0][1:])}
