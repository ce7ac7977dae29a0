# SPDX-License-Identifier: Apache-2.0
"""A web application for gunicorn and uWSGI. Each request holds a token of each semaphore.

The environment names the semaphores, and a file that has the number of tokens. Each worker reads
the file once. NAMED may be empty.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable

from named_semaphores import NamedSemaphore, RobustSemaphore

number = int(Path(os.environ["NUMBER"]).read_text())
robust = RobustSemaphore(os.environ["ROBUST"], number)
named: Any = NamedSemaphore(os.environ["NAMED"], number) if os.environ["NAMED"] else nullcontext()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serve ``/SECONDS``: hold the tokens for so long, and tell from when to when."""
    with robust, named:
        start = time.monotonic()  # the same for all processes
        time.sleep(float(environ["PATH_INFO"][1:]))
        end = time.monotonic()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), start, end]).encode()]
