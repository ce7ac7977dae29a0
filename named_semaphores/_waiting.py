# SPDX-License-Identifier: Apache-2.0
"""How a wait is made of calls."""

from __future__ import annotations

import sys
import time
from itertools import chain, repeat

from ._checks import clock

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

# A signal that lands after Python's last look at signals and before the kernel sleeps does not
# end that sleep. So a wait has slices. The first one is short, since most signals of that kind
# come soon after the wait began.
FIRST_SLICE = 10_000_000  # nanoseconds

# Pauses of a wait that must poll: soon at first, for tokens that are held shortly; then seldom
# enough to cost nothing (67 looks a second).
FIRST_PAUSE = 100_000
LONGEST_PAUSE = 15_000_000


def waits(waiter: Any, deadline: int | None) -> Iterator[Iterator[int]]:
    """Yield calls, each to be made when the one before it got no token.

    The last one is made once ``clock()`` is ``deadline``. In a process that gevent or eventlet has
    patched, and where the library has no timed wait that serves, the calls do not wait.

    waiter: a handle, or what has its ``slices``, ``is_steady`` and calls that wait.
    """
    pause, slices = FIRST_PAUSE, waiter.slices
    for longest in chain(slices, repeat(slices[-1])):
        sleep = patched_sleep()
        if deadline is None and sleep is None:
            yield waiter.wait(longest)
            continue
        now = clock()
        left = longest if deadline is None else min(longest, deadline - now)
        if left <= 0:
            break
        if waiter.is_steady and sleep is None:
            yield waiter.wait_until(now + left)
        else:
            (sleep or time.sleep)(min(pause, left) / 1e9)
            pause = min(2 * pause, LONGEST_PAUSE)
            yield waiter.try_once()
    yield waiter.try_once()


def patched_sleep() -> Callable[[float], object] | None:
    """Return gevent's or eventlet's sleep if one of them has patched this process, else None.

    A wait in the kernel would block the greenlets that hold the tokens.
    """
    for package in ("gevent", "eventlet"):
        if package in sys.modules:
            patched = time.sleep, getattr(sys.modules.get("threading"), "Lock", None)
            if any(str(getattr(each, "__module__", "")).startswith(package) for each in patched):
                return sys.modules[package].sleep  # type: ignore[no-any-return]
    return None
