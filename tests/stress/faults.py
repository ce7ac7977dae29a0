# SPDX-License-Identifier: Apache-2.0
"""What threads, forks, successors and ends do to a semaphore: each once or a few times, with the figures of what went wrong."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from typing import Any

from support import unique_name

from stress.storm import Outcome
from stress.subjects import Subject


def _exists(subject: Subject, name: str) -> bool:
    try:
        sem = subject.link(name)
    except Exception:  # each subject has its own for that
        return False
    subject.close(sem)
    return True


def closing(subject: Subject, rounds: int) -> Outcome:
    """Close what four threads wait for, and let another process post. A crash is seen by who started this process."""
    stuck = 0
    for _ in range(rounds):
        sem = subject.create(unique_name(), 0)
        out, into = os.pipe()
        child = os.fork()
        if child == 0:  # with a handle of its own
            try:
                os.read(out, 1)
                for _ in range(4):
                    sem.release()
            finally:
                os._exit(0)
        threads = [threading.Thread(target=sem.acquire, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)  # most of them wait in the kernel
        subject.discard(sem)
        os.write(into, b"x")
        os.waitpid(child, 0)
        for fd in (out, into):
            os.close(fd)
        for thread in threads:
            thread.join(10)
        stuck += any(thread.is_alive() for thread in threads)
    return {"rounds": rounds, "stuck": stuck}


def forking(subject: Subject, rounds: int) -> Outcome:
    """Let a child of fork forget its parent's semaphore and end."""
    gone = 0
    for _ in range(rounds):
        name = unique_name()
        sem: Any = subject.create(name)
        if os.fork() == 0:
            try:
                del sem
                gc.collect()
            finally:
                os._exit(0)
        os.wait()
        gone += not _exists(subject, name)
        if gone:
            break  # the rest would fail too, each in its own way
        subject.discard(sem)
    return {"rounds": rounds, "parent's names removed": gone}


def succeeding(subject: Subject, rounds: int) -> Outcome:
    """Remove the name, create it anew, and let its first creator go."""
    gone = 0
    for _ in range(rounds):
        name = unique_name()
        first = subject.create(name)
        first.unlink()
        second = subject.create(name)
        subject.close(first)
        gone += not _exists(subject, name)
        if gone:
            break
        subject.discard(second)
    return {"rounds": rounds, "successor's names removed": gone}


_END = """
import sys
sys.path[:0] = {path!r}
import threading, time
from stress import subjects
subject = subjects.SUBJECTS[{label!r}]()
sem = subject.link({name!r})
inside = threading.Event()
def hold():
    with sem:
        print(subject.value(sem), flush=True)
        inside.set()
        {statement}
"""
_ENDS = {
    "exception": "1 / 0\nhold()",
    "sys.exit": "sys.exit()\nhold()",
    "daemon thread": "time.sleep(1000)\nthreading.Thread(target=hold, daemon=True).start(); inside.wait()",
}


def ending(subject: Subject, rounds: int) -> Outcome:
    """End processes inside a with statement."""
    lost: list[str] = []
    for end, code in _ENDS.items():
        statement, rest = code.split("\n")
        name = unique_name()
        sem = subject.create(name, 1)
        program = _END.format(path=sys.path[:2], label=subject.label, name=name, statement=statement) + rest
        ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        assert ran.stdout.strip() == b"0", "it did not come so far"
        if subject.value(sem) != 1:
            lost.append(end)
        subject.discard(sem)
    return {"rounds": len(_ENDS), f"lost{': ' + ', '.join(lost) if lost else ''}": len(lost)}


def opening(subject: Subject, rounds: int) -> Outcome:
    """Open and close over and over; then have 10,000 open at once, or a tenth of the rounds."""

    def state() -> tuple[int, int]:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            return sum("/sem." in line for line in maps), len(os.listdir("/proc/self/fd"))

    name = unique_name()
    sem = subject.create(name)
    for _ in range(100):
        subject.close(subject.link(name))
    gc.collect()
    before, objects = state(), len(gc.get_objects())
    for _ in range(rounds):
        subject.close(subject.link(name))
    gc.collect()
    grown = [now - then for now, then in zip(state(), before)]
    more = len(gc.get_objects()) - objects
    subject.discard(sem)
    many = [subject.create(unique_name()) for _ in range(rounds // 10)]
    opened = state()[0]
    for one in many:
        subject.discard(one)
    return {"rounds": rounds, "mappings": grown[0], "descriptors": grown[1], "objects more": max(0, more - 20), "open at once": opened}
