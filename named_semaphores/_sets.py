# SPDX-License-Identifier: Apache-2.0
"""All sets of this machine, and how to remove idle ones."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from itertools import islice

from . import _set
from ._sysv import system

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from ._sysv import Operation

_UNREADY = 60  # seconds after which a set without a number of tokens is left by a killed process


class Row:
    """One line of /proc/sysvipc/sem: a set of whatever program."""

    def __init__(self, line: str) -> None:
        key, semid, mode, size, uid, _, _, _, otime, ctime = line.split()
        self.key, self.id, self.mode, self.size = int(key), int(semid), int(mode, 8), int(size)
        self.uid = int(uid)
        self.created = int(ctime)  # or changed by IPC_SET; seconds since 1970
        self.changed = max(int(otime), int(ctime))


def rows() -> Iterator[Row]:
    """Yield all sets of this IPC namespace. OSError where the system does not list them."""
    with open("/proc/sysvipc/sem", encoding="utf-8") as lines:
        next(lines)
        yield from map(Row, lines)


def rows_of_our_size() -> Iterator[Row]:
    return (row for row in rows() if row.key and row.size == system().system.size)


def remove_idle(names: Container[str] | None = None, most: int | None = None) -> list[str]:
    """Remove this user's idle sets, and return their names.

    Each is looked at once more in the step that removes it. Sets that were never made ready, since
    their creator was killed, are removed too.

    Args:
        names: remove only these, of whatever user, persistent ones included.
        most: how many sets to look at, at most.
    """
    removed = []
    with suppress(OSError):  # the system does not list sets
        for name, semid, mark in removable(names, most):
            with suppress(OSError):  # removed meanwhile
                if _set.remove_marked(system(), semid, mark):
                    removed.append(name)
    return removed


def removable(
    names: Container[str] | None = None, most: int | None = None
) -> Iterator[tuple[str, int, list[Operation]]]:
    """Yield name, id and mark of each set that ``remove_idle`` removes; "" for a nameless one.

    Raises:
        OSError: the system does not list sets.
    """
    me = os.geteuid()
    found = (row for row in rows_of_our_size() if names is not None or row.uid == me)
    for row in islice(found, most):
        try:
            values = system().values(row.id)
        except OSError:  # removed meanwhile, or another user's
            continue
        name = _set.name_of(values[_set.NAME :])
        if not any(values[: _set.NAME]):  # never made ready
            if names is None and row.changed < time.time() - _UNREADY:
                yield "", row.id, _set.MARK_UNREADY
        elif name is None or _set.key(name) != row.key or values[_set.USERS]:
            continue
        elif not values[_set.TOKENS]:  # not ready, and another process removes it
            continue
        elif names is None and not values[_set.PERSIST]:
            yield name, row.id, _set.MARK_IDLE
        elif names is not None and name in names:
            yield name, row.id, _set.MARK_UNUSED


def shown_holders(found: list[tuple[int | None, int]]) -> str:
    """Return the holders for a sentence: "held by 12, 13 (2 tokens)"."""
    return "held by " + ", ".join(
        ("others" if pid is None else str(pid)) + (f" ({tokens} tokens)" if tokens > 1 else "")
        for pid, tokens in found
    )
