# SPDX-License-Identifier: Apache-2.0
"""A storm of short commands under the command line's run, some killed at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

from shell import ENVIRONMENT, line
from support import SLOW, unique_name

from named_semaphores import _sets
from named_semaphores.listing import all_robust

SLOTS = 4
AT_ONCE = 12  # runs
STAGES = ("starting", "waiting", "working")  # "working": it is the command

# The command marks itself as inside, counts the marks, stays for a moment, and removes its mark.
# All commands share a file with a byte "inside" and a byte "killed" for each run. Each command
# writes before it reads, so the last of five inside counts five. A killed command does not count:
# the kernel returns its token before its parent can see its end.
COMMAND = """
import os, random, sys, time
file, number, runs = os.open(sys.argv[1], os.O_RDWR), int(sys.argv[2]), int(sys.argv[3])
os.pwrite(file, b"\\1", number)
inside, killed = os.pread(file, runs, 0), os.pread(file, runs, runs)
count = sum(map(int.__gt__, inside, killed))
time.sleep(random.uniform(0, float(sys.argv[4])))
os.pwrite(file, b"\\0", number)
os.pwrite(file, bytes((count,)), 2 * runs + number)
"""


def limited(name: str) -> list[str]:
    return line("run", name, "--slots", str(SLOTS))


class Figures:
    inside = 0  # the most at the same time
    failed = 0  # runs that were not killed
    left = ""  # the kernel's wrong numbers after the end of all runs

    def __init__(self) -> None:
        self.killed = dict.fromkeys(STAGES, 0)


def storm(
    runs: int, seconds: float = 0.15, before: Callable[[str], list[str]] = limited
) -> Figures:
    """Start so many runs, AT_ONCE at a time, and kill a tenth of them while they start, wait, or
    are the command. ``before`` returns what stands before each command.
    """
    name, figures = unique_name(), Figures()
    descriptor, path = tempfile.mkstemp()
    os.ftruncate(descriptor, 3 * runs)
    victims = set(random.sample(range(runs), runs // 10))
    there: dict[int, _Started] = {}
    started = 0
    end = time.monotonic() + (60 + runs) * SLOW
    try:
        while started < runs or there:
            assert time.monotonic() < end, f"{len(there)} runs do not end"
            while started < runs and len(there) < AT_ONCE:
                command = [sys.executable, "-S", "-E", "-c", COMMAND, path]
                command += [str(started), str(runs), str(seconds)]
                there[started] = _Started([*before(name), *command], started in victims)
                started += 1
            for number, run in list(there.items()):
                if run.poll() is not None:
                    figures.failed += run.returncode != 0
                    del there[number]
                elif run.is_due(os.pread(descriptor, 1, number) == b"\1"):
                    os.pwrite(descriptor, b"\1", runs + number)
                    stage = run.stage(os.pread(descriptor, 1, number) == b"\1")
                    run.kill()
                    figures.killed[stage] += run.wait() < 0
                    del there[number]
            time.sleep(0.0005)
        figures.inside = max(os.pread(descriptor, runs, 2 * runs))
        for found in all_robust():
            if found.name == name and (found.users, found.value) != (0, SLOTS):
                figures.left += f"{found.users} users, {found.value} free"
    finally:
        for run in there.values():
            run.kill()
            run.wait()
        os.close(descriptor)
        os.unlink(path)
        _sets.remove_idle([name])
    return figures


class _Started(subprocess.Popen):
    def __init__(self, words: list[str], dies: bool) -> None:
        null = subprocess.DEVNULL
        super().__init__(words, cwd="/", env=ENVIRONMENT, stdin=null, stderr=null)
        self.dies_at = random.choice(STAGES) if dies else None
        self.dies: float | None = None

    def is_due(self, works: bool) -> bool:
        """Return whether to kill it now: a random time after it reached the stage chosen for it."""
        if self.dies_at and self.dies is None and self.stage(works) == self.dies_at:
            self.dies = time.monotonic() + random.uniform(0, 0.03)
        return self.dies is not None and time.monotonic() >= self.dies

    def stage(self, works: bool) -> str:
        if works:
            return "working"
        with contextlib.suppress(OSError):
            if "sem" in Path(f"/proc/{self.pid}/wchan").read_text():
                return "waiting"
        return "starting"
