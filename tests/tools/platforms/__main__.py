# SPDX-License-Identifier: Apache-2.0
"""Run the suite on every Python this machine can have, and pairs of programs on one semaphore.

    python3 tests/tools/platforms [NAME...]

The end is one Markdown table. What cannot be had is SKIPPED there, with the reason. The exit code
is 0 only if nothing failed. Runtimes are kept in a cache; delete it to have them anew.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, NamedTuple

import pairs
from runtimes import HERE, PROJECT, RUNTIMES, Unavailable
from supplies import prepare, test_set

# What emulated CPUs do without, and all with --quick: other platforms' profiles, and a file that
# starts many interpreters.
QUICK = ["--profile", "native", "--ignore-glob", "*/test_cli.py"]
# qemu itself holds streams that a command has closed, and dies of a signal that a command ignores.
EMULATED = [*QUICK, "--ignore-glob", "*/test_run.py"]
STORMS = ["--full", "--timeout=0", "tests/test_signals.py"]
# Not "-m pytest", which would put the checkout before the wheel.
PYTEST = "import sys; del sys.path[0]; import pytest; sys.exit(pytest.main())"


class Check(NamedTuple):
    name: str
    how: str
    plan: Callable  # (shop, options) -> (command, environment, facts); it may raise Unavailable
    shown: Callable[
        [str], str
    ]  # from the output of a run that ended well, the result in a few words; "" is a failure


class Row(NamedTuple):
    name: str
    version: str
    libc: str
    cpu: str
    result: str
    seconds: str


def summary(output):
    """pytest's last count."""
    counts = re.findall(r"^(?:=+ )?(\d+ \w+(?:, \d+ \w+)*) in [\d.]+s", output, re.MULTILINE)
    return counts[-1] if counts else ""


def suite(runtime):
    def plan(shop, options):
        place = runtime.get(shop)
        facts = place.probe()
        if runtime.emulated:
            facts["cpu"] += " (qemu)"
        fewer = EMULATED if runtime.emulated else QUICK if options.quick else []
        folders = [place.packages / "wheel", place.packages / test_set(facts["python"])]
        # Debian's roots hold no compiled modules. An emulated CPU compiles pytest in half a minute.
        compiled = place.packages / "compiled" / runtime.name
        environment = {
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "PYTHONPYCACHEPREFIX": str(compiled),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        if runtime.emulated:
            environment["NAMED_SEMAPHORES_SLOW"] = "20"
        what = STORMS if options.storms else [*fewer, "tests"]
        return (
            [*place.start, "-c", PYTEST, "-q", "-rsfE", "-p", "no:cacheprovider", *what],
            environment,
            facts,
        )

    return Check(
        runtime.name,
        runtime.how,
        plan,
        lambda output: summary(output) if "passed" in summary(output) else "",
    )


def refusal(runtime):
    def plan(shop, options):
        place = runtime.get(shop)
        return (
            place.script("refusal.py"),
            {"PYTHONPATH": str(place.packages / "wheel")},
            place.probe(),
        )

    return Check(
        runtime.name, runtime.how, plan, lambda output: "refused: " + output.partition(":")[0]
    )


def pair(pair):
    def plan(shop, options):
        left, right = pairs.side(pair.left, shop), pairs.side(pair.right, shop)
        both = {key: f"{left[1][key]}, {right[1][key]}" for key in ("version", "libc", "cpu")}
        return ["sh", "-euc", pair.script(left[0], right[0])], {}, both

    return Check(pair.name, f"{pair.left}, {pair.right}", plan, lambda output: pair.shown)


def in_room(command, environment, log, shop, seconds):
    """Run it with a /dev/shm, temporary files and a log of its own. Return what went wrong."""
    with tempfile.TemporaryDirectory() as scratch, log.open("w") as output:
        environment = {
            **os.environ,
            "TMPDIR": scratch,
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        room = ["sh", str(HERE / "room.sh"), *command]
        try:
            status = subprocess.run(
                room, cwd=shop.project, env=environment, timeout=seconds, check=False, **streams
            ).returncode
        except subprocess.TimeoutExpired:
            return f"no end in {seconds:g} s"
    return {0: "", 99: "names or sets left behind"}.get(status, f"status {status}")


def reason(error):
    """Why it could not be had, in one line."""
    said = getattr(error, "stderr", None) or str(error)
    return said.strip().splitlines()[-1].replace("|", "/") if said.strip() else repr(error)


def run(check, shop, options):
    facts = dict.fromkeys(("version", "libc", "cpu"), "")
    try:
        command, environment, found = check.plan(shop, options)
    except (Unavailable, OSError, subprocess.CalledProcessError) as error:
        verdict = (
            "FAILED: required, and not to be had: "
            if check.name in options.require
            else "SKIPPED: "
        )
        return Row(check.name, **facts, result=verdict + reason(error), seconds="")
    facts = {key: found[key] for key in facts}
    print("running", check.name, "on", *facts.values(), flush=True)
    log = shop.cache / "logs" / (check.name.replace("/", "-") + ".txt")
    log.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    wrong = in_room(command, environment, log, shop, options.timeout_each)
    seconds = f"{time.monotonic() - began:.0f}"
    output = log.read_text(encoding="utf-8", errors="replace")
    result = check.shown(output)
    if wrong or not result:
        print(
            f"--- the end of {log}:",
            *(line[:200] for line in output.splitlines()[-20:]),
            "---",
            sep="\n",
            flush=True,
        )
        result = "FAILED: " + ", ".join(filter(None, [wrong or "nothing passed", summary(output)]))
    return Row(check.name, **facts, result=result, seconds=seconds)


def table(rows):
    rows = [("runtime", "version", "libc", "CPU", "result", "seconds"), ("---",) * 6, *rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def arguments(checks):
    parser = argparse.ArgumentParser(
        prog="tests/tools/platforms", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these; patterns such as 'cpython*' too"
    )
    parser.add_argument("--list", action="store_true", help="print the names and do nothing")
    parser.add_argument("--cache", type=Path, default=PROJECT / ".platforms", metavar="DIR")
    parser.add_argument("--timeout-each", type=float, default=900, metavar="SECONDS")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many to run at once")
    parser.add_argument(
        "--require", nargs="+", default=[], metavar="NAME", help="these must not be skipped"
    )
    parser.add_argument(
        "--quick", action="store_true", help="everywhere only the tests that emulated CPUs run"
    )
    parser.add_argument(
        "--storms", action="store_true", help="only the storms of signals, at full size"
    )
    options = parser.parse_args()
    options.cache = options.cache.resolve()
    known = [check.name for check in checks]
    for name in [*options.names, *options.require]:
        if not fnmatch.filter(known, name):
            parser.error(f"there is no {name}; --list tells what there is")
    options.require = {
        name for pattern in options.require for name in fnmatch.filter(known, pattern)
    }
    return options


def main():
    checks = [
        suite(runtime) if runtime.has_semaphores else refusal(runtime) for runtime in RUNTIMES
    ]
    checks += map(pair, pairs.ALL)
    options = arguments(checks)
    if options.names:
        wanted = [*options.names, *options.require]
        checks = [
            check for check in checks if any(fnmatch.fnmatch(check.name, name) for name in wanted)
        ]
    if options.list:
        for check in checks:
            print(f"{check.name:20} {check.how}")
        return 0
    options.cache.mkdir(parents=True, exist_ok=True)
    lock = (options.cache / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # two runs would take each other's folders away
    try:
        shop = prepare(PROJECT, options.cache)
    except (Unavailable, OSError, subprocess.CalledProcessError) as error:
        print("FAILED before anything ran:", reason(error))
        return 1

    def reported(check):
        row = run(check, shop, options)
        print(f"{row.name}: {row.result}", flush=True)
        return row

    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(reported, checks))
    print("", table(rows), sep="\n")
    lock.close()
    return any(row.result.startswith("FAILED") for row in rows)


if __name__ == "__main__":
    sys.exit(main())
