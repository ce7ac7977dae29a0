# SPDX-License-Identifier: Apache-2.0
"""Run the suite on every Python this machine can have, and pairs of programs on one semaphore.

    python3 tests/tools/platforms [NAME...]

The end is one Markdown table. What cannot be had is SKIPPED there, with the reason. The exit code
is 0 only if nothing failed. Runtimes are kept in .platforms; delete it to have them anew.
"""

import argparse
import fcntl
import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import Callable, NamedTuple

import pairs
from runtimes import CACHE, COPY, HERE, PROJECT, RUNTIMES, Unavailable
from supplies import prepare, test_set

sys.path.insert(1, str(PROJECT / "tests" / "lib"))

from tables import table

# What emulated CPUs do without, and all with --quick: other platforms' profiles, and a file that
# starts many interpreters.
QUICK = ["--profile", "native", "--profile", "robust-native", "--ignore-glob", "*/test_cli.py"]
# qemu itself holds streams that a command has closed, and dies of a signal that a command ignores.
EMULATED = [*QUICK, "--ignore-glob", "*/test_run.py"]
STORMS = ["--full", "--timeout=0", "tests/test_signals.py"]
# Not "-m pytest", which would put the checkout before the wheel.
PYTEST = "import sys; del sys.path[0]; import pytest; sys.exit(pytest.main())"
SECONDS = 900  # for each
FACTS = ("version", "libc", "cpu")


class Plan(NamedTuple):
    command: list
    environment: dict
    facts: dict
    # From the output of a run that ended well, the result in a few words; "" is a failure.
    shown: Callable[[str], str]


def summary(output):
    """Return pytest's last count."""
    counts = re.findall(r"^(?:=+ )?(\d+ \w+(?:, \d+ \w+)*) in [\d.]+s", output, re.MULTILINE)
    return counts[-1] if counts else ""


def passed(output):
    return summary(output) if "passed" in summary(output) else ""


def suite(runtime, options):
    place = runtime.get()
    facts = place.probe()
    folders = [place.packages / "wheel", place.packages / test_set(facts["python"])]
    # Debian's roots hold no compiled modules. An emulated CPU compiles pytest in half a minute.
    compiled = place.packages / "compiled" / runtime.name
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "PYTHONPYCACHEPREFIX": str(compiled),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    if runtime.emulated:
        facts["cpu"] += " (qemu)"
        environment["NAMED_SEMAPHORES_SLOW"] = "20"
    fewer = EMULATED if runtime.emulated else QUICK if options.quick else []
    what = STORMS if options.storms else [*fewer, "tests"]
    command = [*place.start, "-c", PYTEST, "-q", "-rsfE", "-p", "no:cacheprovider", *what]
    return Plan(command, environment, facts, passed)


def refusal(runtime, options):
    place = runtime.get()
    environment = {"PYTHONPATH": str(place.packages / "wheel")}
    command = place.script("refusal.py")
    return Plan(
        command, environment, place.probe(), lambda output: f"refused: {output.partition(':')[0]}"
    )


def together(pair, options):
    (left, ours), (right, theirs) = pairs.side(pair.left), pairs.side(pair.right)
    facts = {key: f"{ours[key]}, {theirs[key]}" for key in FACTS}
    return Plan(["sh", "-euc", pair.script(left, right)], {}, facts, lambda output: pair.shown)


def in_room(plan, log):
    """Run it with a /dev/shm, temporary files and a log of its own. Return what went wrong."""
    with tempfile.TemporaryDirectory() as scratch, log.open("w") as output:
        given = {**os.environ, "TMPDIR": scratch, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            status = subprocess.run(
                ["sh", str(HERE / "room.sh"), *plan.command],
                cwd=COPY,
                env={**given, **plan.environment},
                timeout=SECONDS,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return f"no end in {SECONDS} s"
    return {0: "", 99: "names or sets left behind"}.get(status, f"status {status}")


def reason(error):
    """Return why it could not be had, in one line."""
    said = getattr(error, "stderr", None) or str(error)
    return said.strip().splitlines()[-1].replace("|", "/") if said.strip() else repr(error)


def run(name, planned, options):
    """Return the row of the table."""
    try:
        plan = planned(options)
    except (Unavailable, OSError, subprocess.CalledProcessError) as error:
        return [name, "", "", "", f"SKIPPED: {reason(error)}", ""]
    facts = [plan.facts[key] for key in FACTS]
    print("running", name, "on", *facts, flush=True)
    log = CACHE / "logs" / (name.replace("/", "-") + ".txt")
    log.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    wrong = in_room(plan, log)
    seconds = f"{time.monotonic() - began:.0f}"
    output = log.read_text(encoding="utf-8", errors="replace")
    result = plan.shown(output)
    if wrong or not result:
        last = [line[:200] for line in output.splitlines()[-20:]]
        print(f"--- the end of {log}:", *last, "---", sep="\n", flush=True)
        result = "FAILED: " + ", ".join(filter(None, [wrong or "nothing passed", summary(output)]))
    return [name, *facts, result, seconds]


def main():
    checks = {
        runtime.name: partial(suite if runtime.has_semaphores else refusal, runtime)
        for runtime in RUNTIMES
    }
    checks.update({pair.name: partial(together, pair) for pair in pairs.ALL})
    parser = argparse.ArgumentParser(
        prog="tests/tools/platforms", description=__doc__.partition("\n")[0]
    )
    names = f"only these; patterns such as 'cpython*' too: {', '.join(checks)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=names)
    quick = "everywhere only the tests that emulated CPUs run"
    parser.add_argument("--quick", action="store_true", help=quick)
    storms = "only the storms of signals, at full size"
    parser.add_argument("--storms", action="store_true", help=storms)
    options = parser.parse_args()
    for name in options.names:
        if not fnmatch.filter(checks, name):
            parser.error(f"there is no {name}; --help tells what there is")
    wanted = [
        name
        for name in checks
        if any(fnmatch.fnmatch(name, pattern) for pattern in options.names or ["*"])
    ]
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs would take each other's folders away
        try:
            prepare()
        except (Unavailable, OSError, subprocess.CalledProcessError) as error:
            print("FAILED before anything ran:", reason(error))
            return 1
        rows = []
        for name in wanted:
            rows.append(run(name, checks[name], options))
            print(f"{name}: {rows[-1][4]}", flush=True)
    heads = ["runtime", "version", "libc", "CPU", "result", "seconds"]
    print("", table([heads, *rows]), sep="\n")
    return any(row[4].startswith("FAILED") for row in rows)


if __name__ == "__main__":
    sys.exit(main())
