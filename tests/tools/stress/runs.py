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
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, NamedTuple

from shell import ENVIRONMENT, line
from support import SLOW, Child, unique_name

from named_semaphores import _sets
from named_semaphores.listing import list_robust

# A killed process leaves no data of coverage's, whose start would slow the storm.
STORMY = {word: value for word, value in ENVIRONMENT.items() if not word.startswith("COVERAGE_")}
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


class Figures(NamedTuple):
    inside: int  # the most at the same time
    failed: int  # runs that were not killed
    killed: dict[str, int]  # by their stage
    left: list[str]  # the kernel's wrong numbers after the end of all runs


def storm(
    runs: int, seconds: float = 0.15, before: Callable[[str], list[str]] = limited
) -> Figures:
    """Start so many runs, AT_ONCE at a time, and kill a sixth of them while they start, wait, or
    are the command. ``before`` returns what stands before each command.
    """
    name = unique_name()
    victims = set(random.sample(range(runs), runs // 6))
    with tempfile.NamedTemporaryFile() as shared:
        file = shared.fileno()
        os.ftruncate(file, 3 * runs)

        def stage(pid: int, number: int) -> str:
            if os.pread(file, 1, number) == b"\1":
                return "working"
            with contextlib.suppress(OSError):
                if "sem" in Path(f"/proc/{pid}/wchan").read_text():
                    return "waiting"
            return "starting"

        def run(number: int) -> str:
            """Return the stage in which it was killed, or how it ended."""
            command = [sys.executable, "-S", "-E", "-c", COMMAND, shared.name]
            command += [str(number), str(runs), str(seconds)]
            streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            with Child([*before(name), *command], cwd="/", env=STORMY, **streams) as process:
                if number in victims:
                    dies_at = random.choice(STAGES)
                    while stage(process.pid, number) != dies_at and process.poll() is None:
                        time.sleep(0.001)
                    time.sleep(random.uniform(0, 0.03))
                    os.pwrite(file, b"\1", runs + number)
                    died_at = stage(process.pid, number)
                    process.kill()
                    if process.wait() < 0:
                        return died_at
                return "failed" if process.wait((60 + runs) * SLOW) else "well"

        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                ends = Counter(pool.map(run, range(runs)))
            left = [
                f"{found.users} users, {found.value} free"
                for found in list_robust(idle_too=True)
                if found.name == name and (found.users, found.value) != (0, SLOTS)
            ]
        finally:
            _sets.remove_idle([name])
        inside = max(os.pread(file, runs, 2 * runs))
    return Figures(inside, ends["failed"], {at: ends[at] for at in STAGES}, left)
