# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments, with the same error texts for every class."""

from __future__ import annotations

from operator import index
from time import monotonic_ns

_LONGEST_TIMEOUT = 2**62 / 1e9  # seconds


def check_name(name: object) -> str:
    """Return the name with its leading slash; TypeError or ValueError names what is wrong with it."""
    if not isinstance(name, str):
        raise TypeError(f"a semaphore's name must be a str, not {name!r}")
    bare = name[1:] if name.startswith("/") else name
    if not bare:
        raise ValueError(f"a semaphore's name must not be empty: {name!r}")
    others = bare.replace("-", "").replace("_", "").replace(".", "")
    if others and not others.isalnum():
        wrong = next(character for character in others if not character.isalnum())
        raise ValueError(f"a semaphore's name is made of letters, digits, '-', '_' and '.': {name!r} has {wrong!r}")
    return "/" + bare


def check_integer(name: str, what: str, given: object, least: int, most: int | None = None, hint: str = "") -> int:
    """Return the argument as an int; ValueError if it is none, or out of bounds."""
    try:
        value = index(given)  # type: ignore[arg-type]
    except TypeError:
        value = None
    if value is None or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"semaphore {name!r}: {what} must be an int {bounds}{hint}, not {given!r}")
    return value


def check_wait(name: str, blocking: object, timeout: object) -> None:
    """Raise ValueError unless ``blocking`` is a bool, and ``timeout`` None or a number of seconds from 0 for a blocking wait."""
    if blocking is not True and blocking is not False:
        hint = f"; for seconds, say timeout={blocking!r}" if isinstance(blocking, (int, float)) else ""
        raise ValueError(f"semaphore {name!r}: blocking must be True or False, not {blocking!r}{hint}")
    if timeout is None:
        return
    if blocking is False:
        raise ValueError(f"semaphore {name!r}: can't specify a timeout ({timeout!r}) for a non-blocking acquire")
    try:
        if timeout >= 0:  # type: ignore[operator]
            return
    except (TypeError, ArithmeticError):  # no number, or a Decimal's NaN
        pass
    raise ValueError(f"semaphore {name!r}: timeout must be a number of seconds from 0, or None, not {timeout!r}")


def deadline_of(name: str, timeout: float | None) -> int | None:
    """Return when the timeout ends, on the clock of ``time.monotonic_ns()``; None if it never does."""
    check_wait(name, True, timeout)
    if timeout is None or timeout > _LONGEST_TIMEOUT:
        return None
    return monotonic_ns() + int(float(timeout) * 1_000_000_000) + 1  # rounded up, so that it is never early
