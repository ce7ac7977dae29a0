# SPDX-License-Identifier: Apache-2.0
"""Check arguments, and compute deadlines. The command line's run imports this module, so it
imports neither enum nor ctypes.
"""

from __future__ import annotations

import time
from _operator import index  # see _base

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Callable

# The monotonic clock in nanoseconds. freezegun replaces time.monotonic_ns, in all modules that have
# it, but not clock_gettime_ns, which Windows lacks.
clock: Callable[[], int] = (
    (lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC))
    if hasattr(time, "clock_gettime_ns")
    else time.monotonic_ns
)

_LONGEST_TIMEOUT = 2**62 / 1e9  # seconds


def check_name(name: object) -> str:
    """Return the name with its leading slash. TypeError, ValueError: it is no name."""
    if not isinstance(name, str):
        raise TypeError(f"a semaphore's name must be a str, not {name!r}")
    bare = name[1:] if name.startswith("/") else name
    if not bare:
        raise ValueError(f"a semaphore's name must not be empty: {name!r}")
    others = bare.replace("-", "").replace("_", "").replace(".", "")
    if others and not others.isalnum():
        wrong = next(character for character in others if not character.isalnum())
        made_of = "a semaphore's name is made of letters, digits, '-', '_' and '.'"
        raise ValueError(f"{made_of}: {name!r} has {wrong!r}")
    return "/" + bare


def check_integer(
    name: str | None, what: str, given: object, least: int, most: int | None = None, hint: str = ""
) -> int:
    """Return the given integer. ValueError: it is no int, or out of bounds."""
    try:
        value = index(given)  # type: ignore[arg-type]
    except TypeError:
        value = None
    if value is None or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"semaphore {name!r}: {what} must be an int {bounds}{hint}, not {given!r}")
    return value


def check_mode(name: str | None, mode: object) -> int:
    """Return the permission bits. ValueError: they are no int from 0 to 0o777."""
    hint = " (0o777)"
    if isinstance(mode, int) and mode > 0o777 and set(str(mode)) <= set("01234567"):
        hint += f" (did you mean 0o{mode}?)"
    return check_integer(name, "mode", mode, 0, 0o777, hint)


def check_wait(name: str | None, blocking: object, timeout: object) -> None:
    """ValueError: acquire cannot wait like that."""
    if blocking is not True and blocking is not False:
        wrong = f"blocking must be True or False, not {blocking!r}; for seconds, say timeout=..."
    elif timeout is None:
        return
    elif not blocking:
        wrong = f"can't specify a timeout ({timeout!r}) for a non-blocking acquire"
    else:
        try:
            # numpy's arrays have a length; they are compared item by item.
            if not hasattr(timeout, "__len__") and timeout >= 0:  # type: ignore[operator]
                return
        except (TypeError, ArithmeticError):  # no number, or a Decimal's NaN
            pass
        wrong = f"timeout must be a number of seconds from 0, or None, not {timeout!r}"
    raise ValueError(f"semaphore {name!r}: {wrong}")


def deadline_of(timeout: float | None) -> int | None:
    """Return when the timeout ends, as ``clock()`` counts; None for never."""
    if timeout is None:
        return None
    try:
        seconds = float(timeout)
    except OverflowError:  # an int of more than 308 digits
        return None
    if seconds > _LONGEST_TIMEOUT:  # the clock cannot count so far; so it is for infinity
        return None
    return clock() + int(seconds * 1_000_000_000) + 1  # rounded up, so that it is never early


def without_ctypes(error: ImportError) -> NotImplementedError:
    """Return the exception of a constructor on WASI, or in an isolated subinterpreter."""
    text = f"named semaphores need ctypes, and this Python cannot import it: {error}"
    return NotImplementedError(text)
