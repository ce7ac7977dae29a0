# SPDX-License-Identifier: Apache-2.0
"""Run the suite, as tox does. On the Python that runs tox, measure the package's coverage too.

    python tests/tools/suite.py [PYTEST'S ARGUMENTS]

Measuring takes longer, most of it to start coverage in processes that tests start. So the two
halves of the files run at once, and a third run has the tests that no tracer may see: storms of
signals aim at single instructions, between which a tracer runs code of its own; kills and a search
of all states would take minutes. With arguments nothing is measured.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

from support import IDLE

# Not "python -m pytest", which puts the checkout before the wheel on sys.path.
PYTEST = os.path.join(os.path.dirname(sys.executable), "pytest")
COVERAGE = [sys.executable, "-m", "coverage"]
# Half of the suite, of which conftest may let only one test run at a time.
IN_TURN = [f"tests/{name}.py" for name in IDLE]


def is_tox_s() -> bool:
    """Whether this is the Python that runs tox, which builds the wheel with it in ``.pkg``."""
    path = os.path.join(os.environ.get("TOX_WORK_DIR", ""), ".pkg", "pyvenv.cfg")
    try:
        with open(path, encoding="utf-8") as file:
            settings = dict(line.strip().split(" = ", 1) for line in file if " = " in line)
    except OSError:
        return False
    own = (platform.python_implementation(), platform.python_version())
    return (settings.get("implementation"), settings.get("version")) == own


def is_whole(path: str) -> bool:
    """Whether a file of coverage's has data, and no damage: tests kill processes."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            has_begun = [*database.execute("SELECT version FROM coverage_schema")] != []
            return has_begun and [*database.execute("PRAGMA integrity_check")] == [("ok",)]
    except sqlite3.DatabaseError:
        return False


def run(*command: str) -> None:
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"{' '.join(command)} FAILED")


def run_at_once() -> None:
    """Run both halves, and what is not measured. Show what the last two wrote at the end."""
    others = sorted({*glob.glob("tests/test_*.py")} - {*IN_TURN})
    measured = [*COVERAGE, "run", PYTEST, "-m", "not unmeasured"]
    with tempfile.TemporaryFile("w+") as output:
        beside = [
            subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            for command in ([*measured, *others], [PYTEST, "-q", "-m", "unmeasured"])
        ]
        failed = subprocess.run([*measured, *IN_TURN], check=False).returncode
        ends = [process.wait() for process in beside]
        output.seek(0)
        print(output.read(), flush=True)
    if failed or any(ends):
        sys.exit(1)


def main() -> None:
    if sys.argv[1:] or not is_tox_s():
        os.execv(PYTEST, [PYTEST, *sys.argv[1:]])
    run(*COVERAGE, "erase")
    run_at_once()
    for path in glob.glob(glob.escape(os.environ["COVERAGE_FILE"]) + ".*"):
        if not is_whole(path):
            os.unlink(path)
    run(*COVERAGE, "combine", "--quiet")
    # Some tests need root: to be another user, to hide /dev/shm. Without them 100 % is not reached.
    run(*COVERAGE, "report", *(["--fail-under=0"] if os.geteuid() else []))


if __name__ == "__main__":
    main()
