# SPDX-License-Identifier: Apache-2.0
"""Measure this library beside its peers: ``tox -e bench``, or
``python tests/tools/bench [--quick] [GROUP ...]``. README.md explains the groups.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Callable, NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.join(os.path.dirname(os.path.dirname(HERE)), "lib")]

import report  # noqa: E402
from peers import CACHE, OLD, prepare, sweep  # noqa: E402
from results import Results  # noqa: E402
from tables import put_into_readme, version  # noqa: E402


class Group(NamedTuple):
    function: str
    title: str
    cell: Callable[[list[float]], str]
    # Processes, one after the other: the layout of a process's memory changes times.
    quick: int = 1
    full: int = 1


# fmt: off
GROUPS = {
    "calls": Group("calls.measure", "one process, nobody else (least of all rounds)", report.least,
                   quick=2, full=5),
    "import": Group("calls.measure_imports", "in a new process (median)", report.median),
    "hand-over": Group("processes.measure_handovers",
                       "each of two processes releases what the other waits for (median)",
                       report.median, full=3),
    "contention": Group("processes.measure_contention",
                        "acquire+release where all want the only token (median)", report.median),
    "queue": Group("processes.measure_queue",
                   "time for each process that waits for one token (median)", report.median),
    "fork": Group("handles.measure_forks", "fork, and the child's end (median)", report.median,
                  full=3),
    "handles": Group("handles.measure", "with many semaphores open (median)", report.median),
    "memory": Group("handles.measure_memory", "bytes a handle", report.number_of_bytes),
    "fairness": Group("serving.measure_fairness", "two tokens, held for 20 ms (fewest to most)",
                      report.range_of_counts),
    "starvation": Group("starvation.measure", "some want several tokens, or many wait (median)",
                        report.plain),
    "death": Group("processes.measure_deaths",
                   "the holder is killed while another waits (median, p99)",
                   report.median_and_p99),
    "asyncio": Group("serving.measure_asyncio", "fairness with tasks (fewest to most)",
                     report.range_of_counts),
    "poisson": Group("serving.measure_poisson", "wait for a token, random arrivals (median, p99)",
                     report.median_and_p99),
    "latency": Group("latency.measure", "from another process's release (median, p99)",
                     report.median_and_p99),
    "idle": Group("latency.measure_idle", "CPU of waiting for a token that does not come",
                  report.share),
}
# fmt: on


def measure(group: str, path: str, quick: bool) -> None:
    """Measure one group in this process; write the results to the file."""
    results = Results()
    module, function = GROUPS[group].function.split(".")
    getattr(importlib.import_module(module), function)(results, quick)
    results.write(path)


def run(group: str, path: str, quick: bool) -> bool:
    """Measure one group in a new process. Neither its children nor its semaphores outlive it."""
    process = subprocess.Popen(
        [sys.executable, HERE, group, "--to", path, *["--quick"] * quick], start_new_session=True
    )
    try:
        return process.wait(timeout=600) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        for left in sweep(process.pid):
            print(f"{group} left behind: {left}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/tools/bench", description=__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"measure only these: {', '.join(GROUPS)}"
    )
    parser.add_argument("--quick", action="store_true", help="about a minute, and less exact")
    parser.add_argument(
        "--readme",
        action="store_true",
        help="put the tables into README.md, in place of this Python's",
    )
    parser.add_argument("--old", metavar="PATH", help="another tree of this library, to compare to")
    parser.add_argument("--to", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for group in options.groups:
        if group not in GROUPS:
            parser.error(f"no group {group!r}; the groups are {', '.join(GROUPS)}")
    if options.to:
        measure(options.groups[0], options.to, options.quick)
        return 0
    if options.old:
        os.environ[OLD] = os.path.abspath(options.old)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that "finally" runs
    notes = [f"Left out: {label}: {why}" for label, why in prepare().items()]
    for note in notes:
        print(f"*** {note}", file=sys.stderr)
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # for lock files
        for group in options.groups or GROUPS:
            begin = time.monotonic()
            for number in range(GROUPS[group].quick if options.quick else GROUPS[group].full):
                path = os.path.join(folder, f"{group}{number}")
                if run(group, path, options.quick):
                    results.read(path)
                else:
                    notes.append(f"{group} FAILED")
            print(f"{group}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    if options.quick:
        notes.append("Quick run: less exact")
    text = report.markdown(
        results, {name: (group.title, group.cell) for name, group in GROUPS.items()}, notes
    )
    print(text)
    keep(results, text, options.readme)
    return any("FAILED" in note for note in notes)


def keep(results: Results, text: str, readme: bool) -> None:
    """Write the values to a file, in place of earlier ones of the same groups, and the tables into
    README.md.
    """
    path = os.path.join(CACHE, f"{version().replace(' ', '-')}.json")
    kept = Results()
    if os.path.exists(path):
        kept.read(path)
    kept.groups.update(results.groups)
    kept.write(path)
    if readme:
        put_into_readme(os.path.join(HERE, "README.md"), text)


if __name__ == "__main__":
    sys.exit(main())
