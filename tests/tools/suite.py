# SPDX-License-Identifier: Apache-2.0
"""Run the suite, as tox does. On the Python that runs tox, measure the package's coverage too.

    python tests/tools/suite.py [PYTEST'S ARGUMENTS]

The storms of signals run after the rest, without a tracer: they aim at single instructions, and a
tracer runs code of its own between those. With arguments nothing is measured.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import sqlite3
import subprocess
import sys

# Not "python -m pytest", which puts the checkout before the wheel on sys.path.
PYTEST = os.path.join(os.path.dirname(sys.executable), "pytest")
COVERAGE = [sys.executable, "-m", "coverage"]


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
    """Whether the file of coverage's data has data, and no damage: tests kill processes."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            has_begun = [*database.execute("SELECT version FROM coverage_schema")] != []
            return has_begun and [*database.execute("PRAGMA integrity_check")] == [("ok",)]
    except sqlite3.DatabaseError:
        return False


def run(*command: str) -> None:
    print("+", *command, flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status)


def main() -> None:
    if sys.argv[1:] or not is_tox_s():
        os.execv(PYTEST, [PYTEST, *sys.argv[1:]])
    run(*COVERAGE, "erase")
    run(*COVERAGE, "run", PYTEST, "-m", "not storm")
    files = glob.glob(glob.escape(os.environ["COVERAGE_FILE"]) + ".*")
    for path in files:
        if not is_whole(path):
            os.unlink(path)
    run(*COVERAGE, "combine", "--quiet")
    run(*COVERAGE, "report")
    run(PYTEST, "-m", "storm")


if __name__ == "__main__":
    main()
