# SPDX-License-Identifier: Apache-2.0
"""Policy: giving back, at the interpreter's end, what a daemon thread holds in a with statement.

The interpreter freezes its daemon threads at its end, so their with statements never do. Their tokens are counted instead: how many of a
handle's with statements began, and how many ended. Both counts change in C code or between two instructions that no signal and no other
thread can part: CPython from 3.11 on, with its GIL.
"""

from __future__ import annotations

import os
import sys
import weakref
from time import sleep

from ._waits import SLICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._libc import WithCount


_HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


class _Waiters:
    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0  # of threads of this process that wait in C; too many cost its end a second


# In sys, for a second import of this module too.
_counts: set[weakref.ref[WithCount]] = sys.__dict__.setdefault(f"_{__name__}._counts", set())
waiters: _Waiters = sys.__dict__.setdefault(f"_{__name__}.waiters", _Waiters())


def enlist(count: WithCount) -> None:
    """Count the handle's with statements from now on."""
    _counts.add(weakref.ref(count, _counts.discard))
    ended = -count.held()
    count.is_exact = count.is_exact and _HAS_GIL
    if count.begun is None:  # and no other thread was here first
        count.begun = ended


def _forget() -> None:
    """In a child of fork: the tokens that its parent's with statements have are its parent's, and its threads are gone."""
    waiters.number = 0
    for count in filter(None, [reference() for reference in list(_counts)]):
        count.begun = (count.begun or 0) - count.held()


class _Last:
    """What goes last: sys is cleared after all other modules, when nothing that runs Python code is left to leave a with statement."""

    # Globals are None then.
    counts, waiters, seconds, sleep = _counts, waiters, SLICE / 1e9 + 0.05, staticmethod(sleep)

    def __del__(self) -> None:
        left = [count for count in [reference() for reference in list(self.counts)] if count is not None and count.held() > 0]
        if left and self.waiters.number:
            # A frozen thread that waits in C would take what is given back, and keep it. No slice of a wait lasts longer than this; where
            # there is no timed wait (macOS), it does.
            self.sleep(self.seconds)
        for count in left:
            while count.held() > 0:
                count.leave(count, None, None, None)


if f"_{__name__}._last" not in sys.__dict__ and _HAS_GIL:
    sys.__dict__[f"_{__name__}._last"] = _Last()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
