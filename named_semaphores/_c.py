# SPDX-License-Identifier: Apache-2.0
"""What the bindings of POSIX and of System V semaphores have in common."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_long, c_void_p
from itertools import chain, repeat, starmap

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, TypeVar

    System = TypeVar("System")


def system_of(platform: str, systems: Mapping[str, System]) -> System | None:
    """Return what the table has for this ``sys.platform``, which may end with a version."""
    return next((found for prefix, found in systems.items() if platform.startswith(prefix)), None)


def address_of(lib: Any, symbol: str) -> int:
    """Return the address of a function; a prototype on it leaves the library object as it is."""
    return ctypes.cast(getattr(lib, symbol), c_void_p).value or 0


def call(function: Any, *arguments: Any) -> Iterator[int]:
    """Return an iterator that calls the function, and gives its result, then errno.

    ``status, error = call(...)`` takes both in one instruction, so no signal handler's call can
    change errno in between. ``list.extend`` keeps the result also if the step for errno fails (a
    Python audit hook runs code inside ``ctypes.get_errno``).
    """
    return chain(starmap(function, (arguments,)), starmap(ctypes.get_errno, repeat((), 1)))


_timespecs: dict[Any, Any] = {}  # at the interpreter's end CPython 3.14 can make no new type


def timespec(time_t: Any, long: Any = c_long) -> Any:
    """Return ``struct timespec`` with these types."""
    if (time_t, long) not in _timespecs:
        fields = {"_fields_": [("tv_sec", time_t), ("tv_nsec", long)]}
        _timespecs[time_t, long] = type("timespec", (ctypes.Structure,), fields)
    return _timespecs[time_t, long]


# Of the symbols that take 64-bit time on 32 bits: the long is followed by padding, on big-endian
# machines preceded by it. An int64 fits both.
TIMESPEC, TIMESPEC64 = timespec(c_long), timespec(c_int64, c_int64)


class Ignored(c_int):
    """The type of a parameter that the C function does not have: drops an argument of __exit__."""

    from_param = callable  # a cheap builtin; the C function does not look at the bool it returns
