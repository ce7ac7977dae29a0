# SPDX-License-Identifier: Apache-2.0
"""What bench and stress share: the peers that can be had, and processes that nothing outlives."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from peers import prepare, sweep


class Ended(NamedTuple):
    status: int | None  # None: it had to be killed
    output: str
    errors: str
    left: list[str]  # names and System V sets, which are removed now


def run_alone(*arguments: str, seconds: float, **options: Any) -> Ended:
    """Run this Python with the arguments, and kill what still runs at its end or after the time."""
    output = errors = ""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
        status = process.returncode
    except subprocess.TimeoutExpired:
        status = None
    finally:  # whatever ended this, an interrupt too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = sweep(process.pid)
    return Ended(status, output, errors, left)


@contextlib.contextmanager
def peers_ready() -> Iterator[dict[str, str]]:
    """Yield the labels of the peers that cannot be had, and why. Lock files end with the block."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that "finally" runs
    missing = prepare()
    for label, why in missing.items():
        print(f"*** Left out: {label}: {why}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        yield missing
