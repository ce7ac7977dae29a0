# SPDX-License-Identifier: Apache-2.0
"""Policy: which waits to make, one after the other, until a token is there or the deadline is."""

from __future__ import annotations

from time import monotonic_ns, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from ._libc import Handle, Libc

# A signal that comes after Python has looked for signals and before the kernel sleeps does not end that sleep. So no sleep is longer than this.
SLICE = 1_000_000_000

# Where a wait must poll: soon at first, for tokens that are held shortly; then seldom enough to cost nothing (67 looks a second).
FIRST_PAUSE = 100_000
LONGEST_PAUSE = 15_000_000


def waits(libc: Libc, handle: Handle, deadline: int | None) -> Iterator[Iterator[tuple[int, int]]]:
    """Yield the calls to make, each after the one before it has failed, and end when the deadline has come.

    ``deadline`` is in nanoseconds of ``time.monotonic_ns``; None is never. The last call is made when it has come.
    """
    if deadline is None:
        while True:
            yield libc.timedwait(handle, monotonic_ns() + SLICE) if libc.has_timed_wait else libc.wait(handle)
    pause = FIRST_PAUSE
    left = deadline - monotonic_ns()
    while left > 0:
        if libc.is_steady:
            yield libc.timedwait(handle, deadline - max(0, left - SLICE))
        else:
            sleep(min(pause, left) / 1e9)
            pause = min(2 * pause, LONGEST_PAUSE)
            yield libc.trywait(handle)
        left = deadline - monotonic_ns()
    yield libc.trywait(handle)
