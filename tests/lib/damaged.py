# SPDX-License-Identifier: Apache-2.0
"""Remove coverage's data files that are damaged, or have no data yet: ``python damaged.py FOLDER``; say how many there were.

Tests kill processes, some of them while they write their file. ``coverage combine`` warns of a file that it cannot open; but where it finds
the damage only later it gives up, and what it has combined so far is damaged too.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sqlite3
import sys


def is_whole(path: str) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            has_begun = [*database.execute("SELECT version FROM coverage_schema")] != []
            return has_begun and [*database.execute("PRAGMA integrity_check")] == [("ok",)]
    except sqlite3.DatabaseError:
        return False


def main(folder: str) -> None:
    paths = glob.glob(os.path.join(glob.escape(folder), ".coverage.*"))
    damaged = [path for path in paths if not is_whole(path)]
    for path in damaged:
        os.unlink(path)
    print(f"{len(damaged)} of {len(paths)} data files were damaged, and are removed")


if __name__ == "__main__":
    main(sys.argv[1])
