# SPDX-License-Identifier: Apache-2.0
"""Programs of their own, since most packages here change the process that imports them."""

from __future__ import annotations

from collections.abc import Sequence

from support import run_python

IMPORT = "import sys\nfrom named_semaphores import NamedSemaphore, RobustSemaphore\n"


def assert_well(name: str, *parts: str, options: Sequence[str] = ()) -> str:
    """Run a program of these parts, with a semaphore's name as its argument; assert that it comes
    to its end. Return what it wrote to stderr.
    """
    done = run_python("\n".join([*parts, "print('end')"]), name, options=options)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    return done.stderr
