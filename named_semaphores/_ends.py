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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._libc import Exits

_exits: set[weakref.ref[Exits]] = set()  # of each handle that was ever in a with statement
_NAME = f"_{__name__}._Last"


def enlist(exits: Exits) -> None:
    """Count the handle's with statements from now on."""
    if not hasattr(sys, _NAME) and getattr(sys, "_is_gil_enabled", lambda: True)():
        setattr(sys, _NAME, _Last())
        os.register_at_fork(after_in_child=_forget)  # type: ignore[attr-defined,unused-ignore]
    exits.entered = 0
    _exits.add(weakref.ref(exits, _exits.discard))


def _forget() -> None:
    """In a child of fork: the tokens that its parent's with statements have are its parent's."""
    for exits in filter(None, [reference() for reference in _exits]):
        exits.entered = (exits.entered or 0) - exits.held()


class _Last:
    """What goes last: sys is cleared after all other modules, when nothing that runs Python code is left to leave a with statement."""

    exits = _exits  # globals are None then

    def __del__(self) -> None:
        for reference in self.exits:
            exits = reference()
            while exits is not None and exits.held() > 0:
                exits.leave(exits, None, None, None)
