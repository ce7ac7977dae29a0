# SPDX-License-Identifier: Apache-2.0
"""Mechanism: what the bindings of POSIX and of System V semaphores have in common."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_long, c_void_p
from itertools import starmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, TypeVar

    System = TypeVar("System")


def system_of(platform: str, systems: Mapping[str, System]) -> System | None:
    """Return what the table has for this ``sys.platform``, or None. The names of the BSDs and of illumos end with a version."""
    return next((system for prefix, system in systems.items() if platform.startswith(prefix)), None)


def address_of(lib: Any, symbol: str) -> int:
    """Return the address of the library's function. A prototype of our own on that address leaves the library object as it is."""
    return ctypes.cast(getattr(lib, symbol), c_void_p).value or 0


def call(function: Any, *arguments: Any) -> Iterator[tuple[Any, int]]:
    """Return the iterator that calls the function once, and gives what it returns and errno, before a signal handler can make other calls."""
    return zip(starmap(function, (arguments,)), iter(ctypes.get_errno, None))


def timespec(time_t: Any, long: Any = c_long) -> Any:
    """Return ``struct timespec`` with these types."""
    return type(
        "timespec", (ctypes.Structure,), {"_fields_": [("tv_sec", time_t), ("tv_nsec", long)]}
    )


# Of the symbols that take 64-bit time on 32 bits: the long is followed by padding, or on big-endian machines preceded. An int64 fits both.
TIMESPEC64 = timespec(c_int64, c_int64)


class Ignored(c_int):
    """The type of a parameter that the C function does not have: it drops an argument of ``__exit__``."""

    from_param = callable  # a cheap builtin; the bool that it returns is passed, and not looked at
