# SPDX-License-Identifier: Apache-2.0
"""Print what storms of signals cost this library and its peers: ``python3 tests/stress [--quick] [--no-peers]``.

Each figure comes from a process of its own, so that a crash or a hang is a figure too.
"""

from __future__ import annotations

import argparse
import glob
import os
import platform
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.dirname(os.path.dirname(HERE))]

from stress.subjects import COLUMNS, SUBJECTS, Polling, prepare  # noqa: E402

# fault -> (the storm's call, interrupts at full size)
FAULTS = {
    "`with sem: pass`": ('storm.busy(subject, {n}, "with")', 100_000),
    "`with` and a body": ('storm.busy(subject, {n}, "body")', 100_000),
    "nested `with`": ('storm.busy(subject, {n}, "nested")', 100_000),
    "`acquire`, `try`, `finally` (what is lost is the caller's)": ('storm.busy(subject, {n}, "try")', 100_000),
    "`with` that waits in the kernel": ('storm.waiting(subject, {n}, "with")', 100_000),
    "a signal just before the kernel sleeps": ("storm.noticed(subject, {n})", 40_000),
    "creating, closing, deleting": ("storm.creating(subject, {n})", 3_000),
}
CODE = """
import sys
sys.path[:0] = {path!r}
import support
from stress import storm, subjects
subject = subjects.SUBJECTS[{label!r}]()
print(support.PREFIX)
print("; ".join(f"{{figure}} {{what}}" for what, figure in {call}.items() if what != "interrupts"))
"""


def measure(label: str, call: str, seconds: float) -> str:
    code = CODE.format(path=sys.path[:2], label=label, call=call)
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode < 0:
        return f"dies of signal {-done.returncode}"
    prefix, _, figures = done.stdout.strip().partition("\n")
    names = [path for path in glob.glob("/dev/shm/*") if prefix and prefix.replace(".", "_") in path]
    for path in names:
        os.unlink(path)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:60]
    return figures + (f"; {len(names)} names left" if "mappings" in figures else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the interrupts")
    parser.add_argument("--no-peers", action="store_true", help="this library and the naive class only")
    options = parser.parse_args()
    labels = [COLUMNS[0], Polling.label, *COLUMNS[1:]]
    if options.no_peers:
        labels = [label for label in labels if label.startswith(("this", "naive"))]
    else:
        for missing in prepare():
            print("COULD NOT BE HAD:", missing, file=sys.stderr)
    print(f"{platform.python_implementation()} {platform.python_version()}\n")
    print("| fault | interrupts |", " | ".join(labels), "|")
    print("|---" * (len(labels) + 2) + "|")
    failed = False
    for fault, (call, size) in FAULTS.items():
        count = size // 100 if options.quick else size
        row = []
        for label in labels:
            # What only shows a fault of others need not show it at full size.
            mine = label in SUBJECTS and label.startswith("this")
            n = count if mine else min(count, 5_000)
            row.append(measure(label, call.format(n=n), 120 + n / 200) + ("" if n == count else f" of {n}"))
        print(f"| {fault} | {count} |", " | ".join(row), "|", flush=True)
        failed |= "acquire" not in fault and not all(figure.startswith("0 ") for figure in row[:1])
    return failed


if __name__ == "__main__":
    sys.exit(main())
