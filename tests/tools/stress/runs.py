# SPDX-License-Identifier: Apache-2.0
"""A storm of short runs, some killed at random moments, and the cost of run: ``python
tests/tools/stress/runs.py [--full]``.

flock(1) and GNU sem (package parallel), where installed, run beside it.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1] / "lib"), str(HERE.parent), str(HERE.parents[2])]

from support import SLOW, wait_for  # noqa: E402

from named_semaphores import _sets  # noqa: E402
from stress.terminals import ENVIRONMENT, Flock, Run, lives  # noqa: E402

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


class Ours(Run):
    slots = SLOTS

    def line(self, *command: str) -> list[str]:
        return super().line("--slots", str(self.slots), *command)

    def left(self) -> str:
        """Return the kernel's wrong numbers after the end of all runs; empty if none."""
        return " and ".join(
            f"{found.users} users, {found.free} free"
            for found in _sets.listed()
            if found.name == self.name and (found.users, found.free) != (0, self.slots)
        )


class TheirFlock(Flock):
    slots = 1

    def left(self) -> str:
        return ""


class Sem(Run):
    label = "GNU sem"
    slots = SLOTS

    def __init__(self) -> None:
        self.name = f"named-semaphores-{os.getpid()}"

    def line(self, *command: str) -> list[str]:
        return [
            "sem",
            "--fg",
            "-j",
            str(self.slots),
            "--id",
            self.name,
            shlex.join(command),
        ]  # sem passes one line to a shell

    def left(self) -> str:
        return ""

    def clean(self) -> None:
        shutil.rmtree(
            Path.home() / ".parallel" / "semaphores" / f"id-{self.name}", ignore_errors=True
        )


def back(subject: Ours | TheirFlock | Sem) -> str:
    """Return how many commands get a token at the same time now."""
    folder = tempfile.mkdtemp()
    code = 'touch "$1/$2"; while test -e "$1"; do sleep 0.02; done'
    processes = [
        subprocess.Popen(
            subject.line("sh", "-c", code, "sh", folder, str(number)),
            cwd="/",
            env=ENVIRONMENT,
            stderr=subprocess.DEVNULL,
        )
        for number in range(subject.slots)
    ]
    end = time.monotonic() + 10 * SLOW
    while len(os.listdir(folder)) < subject.slots and time.monotonic() < end:
        time.sleep(0.01)
    inside = len(os.listdir(folder))
    shutil.rmtree(folder)
    for process in processes:
        process.wait()
    return f"{inside} of {subject.slots}"


class Figures:
    inside = 0  # the most at the same time
    failed = 0  # runs that were not killed
    commands_left = 0  # commands that outlive their killed runs
    left = ""  # the kernel's wrong numbers
    back = ""  # tokens

    def __init__(self) -> None:
        self.killed = dict.fromkeys(STAGES, 0)

    def __str__(self) -> str:
        killed = ", ".join(f"{count} {stage}" for stage, count in self.killed.items())
        rest = f"{self.failed} of the others failed, {self.commands_left} commands live on{self.left and ', left: '}{self.left}"
        return f"at most {self.inside} inside, {self.back} tokens back, {rest} (killed: {killed})"


def storm(
    subject: Ours | TheirFlock | Sem, runs: int, seconds: float = 0.15, seed: int | None = None
) -> Figures:
    """Start so many runs, AT_ONCE at a time, and kill a tenth of them while they start, wait, or
    are the command.
    """
    numbers = random.Random(seed)
    figures = Figures()
    descriptor, path = tempfile.mkstemp()
    os.ftruncate(descriptor, 3 * runs)
    victims = set(numbers.sample(range(runs), runs // 10))
    there: dict[int, _Started] = {}
    started = 0
    end = time.monotonic() + (60 + runs) * SLOW
    try:
        while started < runs or there:
            assert time.monotonic() < end, f"{len(there)} runs do not end"
            while started < runs and len(there) < AT_ONCE:
                line = subject.line(
                    sys.executable,
                    "-S",
                    "-E",
                    "-c",
                    COMMAND,
                    path,
                    str(started),
                    str(runs),
                    str(seconds),
                )
                there[started] = _Started(line, numbers if started in victims else None)
                started += 1
            for number, run in list(there.items()):
                if run.process.poll() is not None:
                    figures.failed += run.process.returncode != 0
                    del there[number]
                elif run.is_due(os.pread(descriptor, 1, number) == b"\1"):
                    os.pwrite(descriptor, b"\1", runs + number)
                    stage = run.stage(os.pread(descriptor, 1, number) == b"\1")
                    run.process.kill()
                    if run.process.wait() < 0:
                        figures.killed[stage] += 1
                    del there[number]
            time.sleep(0.0005)
        figures.commands_left = _end_left(path)
        figures.inside = max(os.pread(descriptor, runs, 2 * runs))
        figures.left = subject.left()
        figures.back = back(subject)
    finally:
        for run in there.values():
            run.process.kill()
            run.process.wait()
        _end_left(path)
        os.close(descriptor)
        os.unlink(path)
        subject.clean()
    return figures


class _Started:
    def __init__(self, line: list[str], numbers: random.Random | None) -> None:
        self.process = subprocess.Popen(
            line,
            cwd="/",
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.numbers = numbers
        self.dies_at = numbers.choice(STAGES) if numbers else None
        self.dies: float | None = None

    def is_due(self, works: bool) -> bool:
        """Return whether to kill it now: a random time after it reached the stage chosen for it."""
        if self.numbers and self.dies is None and self.stage(works) == self.dies_at:
            self.dies = time.monotonic() + self.numbers.uniform(0, 0.03)
        return self.dies is not None and time.monotonic() >= self.dies

    def stage(self, works: bool) -> str:
        if works:
            return "working"
        try:
            waits = re.search(
                "sem|flock|locks", Path(f"/proc/{self.process.pid}/wchan").read_text()
            )
        except OSError:
            waits = None
        return "waiting" if waits else "starting"


def _end_left(path: str) -> int:
    """Kill the remaining commands. Return their number."""
    left = 0
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if path.encode() in Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0") and lives(
                int(entry)
            ):
                os.kill(int(entry), signal.SIGKILL)
                left += 1
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return left


# --- What it costs --------------------------------------------------------------------------------


def start_up(lines: dict[str, list[str]], times: int = 40) -> dict[str, float]:
    """Return each command's least time in milliseconds. The commands take turns, so that a busy
    moment strikes all.
    """
    best = dict.fromkeys(lines, float("inf"))
    with tempfile.TemporaryDirectory() as folder:  # holds compiled modules, as an installation does
        environment = {**ENVIRONMENT, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(times):
            for label, line in lines.items():
                begin = time.perf_counter()
                subprocess.run(
                    line, cwd="/", env=environment, check=False, stderr=subprocess.DEVNULL
                )
                best[label] = min(best[label], time.perf_counter() - begin)
    return {label: seconds * 1000 for label, seconds in best.items()}


def memory(line: list[str]) -> float:
    """Return the MB that this command and its children have resident while the last of them, sleep,
    runs.
    """
    process = subprocess.Popen(line, cwd="/", env=ENVIRONMENT, start_new_session=True)
    try:
        wait_for(lambda: b"sleep" in _names(process.pid)[-1])
        time.sleep(0.1)  # until it has mapped its libraries
        return sum(_resident(pid) for pid in _family(process.pid)) / 1024
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(descendant for child in children for descendant in _family(int(child)))]


def _names(pid: int) -> list[bytes]:
    return [Path(f"/proc/{each}/comm").read_bytes() for each in _family(pid)]


def _resident(pid: int) -> int:
    return int(
        re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="2,000 runs (minutes)")
    options = parser.parse_args()
    runs = 2000 if options.full else 200
    ours = Ours()
    others = [
        kind() for kind, program in ((TheirFlock, "flock"), (Sem, "sem")) if shutil.which(program)
    ]
    for program in ("flock", "sem"):
        if not shutil.which(program):
            print(f"not installed: {program}", file=sys.stderr)

    print(
        f"Python {sys.version.split()[0]}. Of so many runs of a command of at most 150 ms, {AT_ONCE} at a time, each tenth is killed:\n"
    )
    figures = storm(ours, runs)
    print(f"run --slots {SLOTS}: {runs}: {figures}", flush=True)
    failed = (
        figures.inside > SLOTS
        or figures.back != f"{SLOTS} of {SLOTS}"
        or figures.failed
        or figures.commands_left
        or figures.left
    )
    for other in others:
        less = min(runs, 200)  # they are slow
        print(f"{other.label} ({other.slots}): {less}: {storm(other, less)}", flush=True)

    print("\nmilliseconds for a command that does nothing, the least of 40:")
    installed = Path(sys.executable).with_name("named-semaphores")
    python = {
        f"{Path(sys.executable).name} -c pass": [sys.executable, "-c", "pass"],
        "run, by -m": ours.line("true"),
    }
    if installed.exists():
        python["run, installed"] = [str(installed), *ours.line("true")[3:]]
    lines = {"true": ["true"], **python, **{other.label: other.line("true") for other in others}}
    for label, milliseconds in start_up(lines).items():
        print(f"  {label}: {milliseconds:.1f}", flush=True)

    print("\nMB resident while the command, sleep, runs:")
    for label, line in {
        "sleep": ["sleep", "60"],
        **{each.label: each.line("sleep", "60") for each in (ours, *others)},
    }.items():
        print(f"  {label}: {memory(line):.1f}", flush=True)
    for each in (ours, *others):
        each.clean()
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
