# SPDX-License-Identifier: Apache-2.0
"""Measure this library beside its peers: ``python tests/bench [--quick] [--only GROUP]``, or ``tox -e bench``."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(os.path.dirname(_HERE))
_CACHE = os.path.join(_ROOT, ".bench")

# Groups, what they run, and in how many processes in turn (quick, full): a process's memory layout makes some things faster, others slower.
_GROUPS: dict[str, tuple[str, int, int]] = {
    "single": ("single.measure", 2, 5),
    "import": ("single.measure_import", 1, 1),
    "handovers": ("across.measure_handovers", 1, 3),
    "sharing": ("across.measure_sharing", 1, 1),
    "waiters": ("across.measure_waiters", 1, 1),
    "handles": ("handles.measure", 1, 1),
    "polling": ("polling.measure", 1, 1),
}


def _work(group: str, path: str, quick: bool) -> None:
    """Run one group in this process, and leave its results in the file."""
    import importlib

    from results import Results

    results = Results()
    module, function = _GROUPS[group][0].split(".")
    getattr(importlib.import_module(module), function)(results, quick)
    results.write(path)


def _run(group: str, path: str, quick: bool) -> bool:
    """Run one group in a new process; nothing of it outlives it."""
    command = [sys.executable, _HERE, "--work", path, "--only", group, *(["--quick"] if quick else [])]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(timeout=240) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _sweep(prefix: str) -> None:
    try:
        left = [entry for entry in os.listdir("/dev/shm") if prefix.strip("/") in entry]
    except FileNotFoundError:
        return
    for entry in left:
        os.unlink(os.path.join("/dev/shm", entry))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than a minute, and less exact")
    parser.add_argument("--only", action="append", choices=_GROUPS, metavar="GROUP", help=f"measure only these: {', '.join(_GROUPS)}")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        import named_semaphores  # noqa: F401
    except ImportError:
        sys.path.append(_ROOT)  # not installed: the one beside these files
    if options.work:
        _work(options.only[0], options.work, options.quick)
        return 0
    prefix = f"/nsb{os.getpid()}-"
    os.environ.update(NAMED_SEMAPHORES_BENCH=_CACHE, NAMED_SEMAPHORES_BENCH_PREFIX=prefix)
    try:
        import report
    except ImportError as error:
        parser.exit(2, f"{error}; tox -e bench installs what this needs\n")
    from results import Results
    from subjects import prepare

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it cleans up then too
    missing = prepare(_CACHE)
    for line in missing:
        print(f"*** LEFT OUT *** {line}", file=sys.stderr)
    results, failed = Results(), []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # for what a killed group leaves
        try:
            for group in options.only or _GROUPS:
                begin = time.monotonic()
                for number in range(_GROUPS[group][1] if options.quick else _GROUPS[group][2]):
                    path = os.path.join(folder, f"{group}{number}")
                    if _run(group, path, options.quick):
                        results.read(path)
                    else:
                        failed.append(group)
                print(f"{group}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
        finally:
            _sweep(prefix)
    missing += [f"{group} FAILED, see above" for group in failed]
    text = report.markdown(results, missing, options.quick)
    print(text)
    version = platform.python_version()
    report.store(results, os.path.join(_CACHE, f"results-{version}.json"))
    with open(os.path.join(_CACHE, f"results-{version}.md"), "w", encoding="utf-8") as file:
        file.write(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
