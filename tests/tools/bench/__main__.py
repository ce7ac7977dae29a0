# SPDX-License-Identifier: Apache-2.0
"""Measure this library beside its peers: ``tox -e bench``, or
``python tests/tools/bench [--quick] [GROUP ...]``. README.md explains the groups.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Callable, NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.dirname(HERE)
sys.path[1:1] = [TOOLS, os.path.join(os.path.dirname(TOOLS), "lib")]

import calls  # noqa: E402
import fairness  # noqa: E402
import handles  # noqa: E402
import latency  # noqa: E402
import processes  # noqa: E402
import report  # noqa: E402
from alone import peers_ready, run_alone  # noqa: E402
from peers import CACHE, OLD  # noqa: E402
from results import Results, Value  # noqa: E402
from tables import put_into_readme, version  # noqa: E402


class Group(NamedTuple):
    measure: Callable[[bool], Iterator[Value]]
    title: str
    cell: Callable[[list[float]], str]
    # Processes, one after the other: the layout of a process's memory changes times.
    quick: int = 1
    full: int = 1


# fmt: off
GROUPS = {
    "calls": Group(calls.measure, "one process, nobody else (least of all rounds)", report.least,
                   quick=2, full=5),
    "import": Group(calls.measure_imports, "in a new process (median)", report.median),
    "hand-over": Group(processes.measure_handovers,
                       "each of two processes releases what the other waits for (median)",
                       report.median, full=3),
    "contention": Group(processes.measure_contention,
                        "acquire+release where all want the only token (median)", report.median),
    "queue": Group(processes.measure_queue,
                   "time for each process that waits for one token (median)", report.median),
    "fork": Group(handles.measure_forks, "fork, and the child's end (median)", report.median,
                  full=3),
    "memory": Group(handles.measure_memory, "bytes a handle", report.median_as(".0f")),
    "fairness": Group(fairness.measure,
                      "two tokens, held for 20 ms: requests of each process (fewest to most)",
                      report.range_of_counts),
    "starvation": Group(fairness.measure_starvation,
                        "some want several tokens, or many wait (median)",
                        report.median_as(".2f")),
    "death": Group(latency.measure_deaths,
                   "the holder is killed while another waits (median, p99)",
                   report.median_and_p99),
    "latency": Group(latency.measure, "from another process's release (median, p99)",
                     report.median_and_p99),
}
# fmt: on


def measure(groups: list[str], quick: bool) -> tuple[Results, list[str]]:
    """Measure each group in processes of its own. Return the values, and what is to be said."""
    results = Results()
    with peers_ready() as missing:
        notes = [f"Left out: {label}: {why}" for label, why in missing.items()]
        for name in groups:
            begin = time.monotonic()
            for _ in range(GROUPS[name].quick if quick else GROUPS[name].full):
                ended = run_alone(HERE, name, "--values", *["--quick"] * quick, seconds=600)
                if ended.status == 0:
                    results.add(name, json.loads(ended.output))
                else:
                    notes.append(f"{name} FAILED")
                if ended.left:
                    print(f"{name} left behind: {ended.left}", file=sys.stderr)
            print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    if quick:
        notes.append("Quick run: less exact")
    return results, notes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/tools/bench", description=__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"measure only these: {', '.join(GROUPS)}"
    )
    parser.add_argument("--quick", action="store_true", help="about a minute, and less exact")
    readme = "put the tables into README.md, in place of this Python's"
    parser.add_argument("--readme", action="store_true", help=readme)
    parser.add_argument("--old", metavar="PATH", help="another tree of this library, to compare to")
    parser.add_argument("--values", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not GROUPS.keys() >= set(options.groups):
        parser.error(f"the groups are {', '.join(GROUPS)}")
    if options.values:
        print(json.dumps(list(GROUPS[options.groups[0]].measure(options.quick))))
        return 0
    if options.old:
        os.environ[OLD] = os.path.abspath(options.old)
    results, notes = measure(options.groups or list(GROUPS), options.quick)
    titles = {name: (group.title, group.cell) for name, group in GROUPS.items()}
    text = report.markdown(results, titles, notes)
    print(text)
    results.keep(os.path.join(CACHE, f"{version().replace(' ', '-')}.json"))
    if options.readme:
        put_into_readme(os.path.join(HERE, "README.md"), text)
    return any("FAILED" in note for note in notes)


if __name__ == "__main__":
    sys.exit(main())
