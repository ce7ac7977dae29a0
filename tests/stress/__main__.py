# SPDX-License-Identifier: Apache-2.0
"""Print what storms of signals and other faults cost this library and its peers: ``python3 tests/stress [--quick] [--no-peers]``.

Each figure comes from a process of its own, so that a crash or a hang is a figure too. What only this library is put through, the model, the
races, the leaks, comes last, by pytest.
"""

from __future__ import annotations

import argparse
import glob
import os
import platform
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.dirname(os.path.dirname(HERE))]

from stress.subjects import COLUMNS, Multiprocessing, Polling, prepare  # noqa: E402

# fault -> (the call, interrupts or rounds at full size)
STORMS = {
    "`with sem: pass`": ('storm.busy(subject, {n}, "with")', 100_000),
    "`with` and a body": ('storm.busy(subject, {n}, "body")', 100_000),
    "nested `with`": ('storm.busy(subject, {n}, "nested")', 100_000),
    "`acquire`, `try`, `finally` (what is lost is the caller's)": ('storm.busy(subject, {n}, "try")', 100_000),
    "`with` that waits in the kernel": ('storm.waiting(subject, {n}, "with")', 100_000),
    "`acquire(timeout=10)` that waits": ('storm.waiting(subject, {n}, "timed")', 100_000),
    "a signal just before the kernel sleeps": ("storm.noticed_by_many(subject, {n})", 40_000),
    "creating, closing, deleting": ("storm.creating(subject, {n})", 3_000),
}
FAULTS = {
    "`close()` while four threads wait": ("faults.closing(subject, {n})", 100),
    "a child of `fork` ends": ("faults.forking(subject, {n})", 100),
    "the name was made anew, its first creator goes": ("faults.succeeding(subject, {n})", 100),
    "the process ends inside `with`": ("faults.ending(subject, {n})", 3),
    "opened and closed again": ("faults.opening(subject, {n})", 100_000),
}
TESTS = ["test_model_and_leaks.py", "test_threads_and_forks.py", "test_asyncio.py"]
CODE = """
import sys
sys.path[:0] = {path!r}
from stress import faults, storm, subjects
subject = subjects.SUBJECTS[{label!r}]()
print("; ".join(f"{{figure}} {{what}}" for what, figure in {call}.items() if what not in ("interrupts", "rounds")))
"""


def measure(label: str, call: str, seconds: float) -> str:
    code = CODE.format(path=sys.path[:2], label=label, call=call)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    hangs = False
    try:
        figures, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        hangs = True
    finally:  # whatever ended it, an interrupt of this program too: names are known by their process (support.PREFIX)
        process.kill()
        process.wait()
        names = glob.glob(f"/dev/shm/sem.nst{process.pid}[._]*")
        for path in names:
            os.unlink(path)
    if hangs:
        return "hangs"
    if process.returncode < 0:
        return f"dies of signal {-process.returncode}"
    if process.returncode:
        return errors.strip().splitlines()[-1][:60]
    return figures.strip() + (f"; {len(names)} names left" if "mappings left" in figures else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the interrupts")
    parser.add_argument("--no-peers", action="store_true", help="this library and the naive class only")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it too runs what stands in finally
    labels = [COLUMNS[0], Polling.label, *COLUMNS[1:]]
    if options.no_peers:
        labels = [label for label in labels if label.startswith(("this", "naive"))]
    else:
        for missing in prepare():
            print("COULD NOT BE HAD:", missing, file=sys.stderr)
    print(f"{platform.python_implementation()} {platform.python_version()}\n")
    print("| fault | times |", " | ".join(labels), "|")
    print("|---" * (len(labels) + 2) + "|")
    failed = False
    for fault, (call, size) in {**STORMS, **FAULTS}.items():
        count = max(3, size // 100) if options.quick else size
        row = []
        for label in labels:
            if fault in FAULTS and label in (Polling.label, Multiprocessing.label):  # nothing of its own; no names
                row.append("")
                continue
            # What only shows a fault of others need not show it at full size.
            n = count if label.startswith("this") else min(count, 5_000)
            row.append(measure(label, call.format(n=n), 120 + n / 200) + ("" if n == count else f" of {n}"))
        print(f"| {fault} | {count} |", " | ".join(row), "|", flush=True)
        failed |= "acquire" not in fault and not row[0].startswith("0 ")
    print(flush=True)
    tests = [os.path.join(os.path.dirname(HERE), test) for test in TESTS]
    size = [] if options.quick else ["--full", "--timeout=0"]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *size, *tests], check=False).returncode or failed


if __name__ == "__main__":
    sys.exit(main())
