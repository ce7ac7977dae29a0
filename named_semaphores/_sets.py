# SPDX-License-Identifier: Apache-2.0
"""All sets of this machine: list them, and remove idle ones."""

from __future__ import annotations

import os
import time
from itertools import islice

from . import _set
from ._keys import key, name_of, words
from ._refusals import Row, rows
from ._sysv import Removed, system

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from typing import Callable

    from ._sysv import Operation, SysV

_UNREADY = 60  # seconds after which a set without a number of tokens is left by a killed process
_SWEPT = 100  # sets that one sweep looks at, at most


class Listed:
    """A set of this package, as it was when it was looked at.

    If this user may not read it, it may be another program's; then ``name`` is None.
    """

    name: str | None = None
    free = total = users = waiting = 0
    persistent = False
    holders: list[tuple[int | None, int]] = []

    def __init__(self, library: SysV, row: Row, values: list[int]) -> None:
        self.row = row
        if not values:
            return
        self.name = name_of(values[_set.NAME :])
        self.free = values[_set.TOKENS] - library.system.bias
        self.total, self.users = values[_set.TOTAL], values[_set.USERS]
        self.persistent = bool(values[_set.PERSIST])
        self.waiting = library.waiters(row.id, _set.TOKENS)
        self.waiting += library.zero_waiters(row.id, _set.TURN)
        accounts = _set.NAME + len(words(self.name or ""))
        self.holders = _set.holders_of(library, row.id, values, accounts)


def listed(wanted: Callable[[Row], bool] = bool) -> Iterator[Listed]:
    """Yield this package's sets, idle ones too, and sets that this user may not read.

    Raises:
        OSError: the system does not list sets (only Linux does, in /proc/sysvipc/sem).
    """
    library = system()
    for row in rows():
        if row.key == 0 or row.size != library.system.size or not wanted(row):
            continue
        try:
            values = library.values(row.id) or []
            name = name_of(values[_set.NAME :])
            if name is not None and values[_set.TOTAL] and key(name) == row.key:
                yield Listed(library, row, values)
        except Removed:
            pass
        except PermissionError:
            yield Listed(library, row, [])


def remove_idle(names: Container[str] | None = None, most: int | None = None) -> list[str]:
    """Remove this user's idle sets, and return their names.

    Each is looked at once more in the step that removes it. Sets that were never made ready, since
    their creator was killed, are removed too.

    Args:
        names: remove only these, of whatever user, persistent ones included.
        most: how many sets to look at, at most.
    """
    library, removed = system(), []
    try:
        found = list(removable(names, most))
    except OSError:  # the system does not list sets
        found = []
    for name, semid, mark in found:
        try:
            if _set.remove_marked(library, semid, mark):
                removed.append(name)
        except OSError:  # removed meanwhile
            pass
    return removed


def removable(
    names: Container[str] | None = None, most: int | None = None
) -> Iterator[tuple[str, int, list[Operation]]]:
    """Yield name, id and mark of each set that ``remove_idle`` removes; "" for a nameless one.

    Raises:
        OSError: the system does not list sets.
    """
    library, me = system(), os.geteuid()
    mine = (row for row in rows() if row.key and row.size == library.system.size)
    mine = (row for row in mine if names is not None or row.uid == me)
    for row in islice(mine, most):
        try:
            values = library.values(row.id) or [1]
        except OSError:  # removed meanwhile, or another user's
            continue
        name = name_of(values[_set.NAME :])
        if not any(values[: _set.NAME]):  # never made ready
            if names is None and row.changed < time.time() - _UNREADY:
                yield "", row.id, _set.MARK_UNREADY
        elif name is None or key(name) != row.key or values[_set.USERS]:
            continue
        elif not values[_set.TOKENS]:  # not ready, and another process removes it
            continue
        elif names is None and not values[_set.PERSIST]:
            yield name, row.id, _set.MARK_IDLE
        elif names is not None and name in names:
            yield name, row.id, _set.MARK_UNUSED


def sweep() -> None:
    """Remove what earlier runs left: idle sets of this user, a bounded number."""
    remove_idle(most=_SWEPT)
