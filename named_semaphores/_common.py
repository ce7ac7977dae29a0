# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments, errors, deadlines, the clock, and how a wait is cut into slices.

A check raises a ValueError that names the semaphore, and returns the checked argument.
No enum is imported, which would slow ``run``, and no ctypes, without which the package is imported.
"""

from __future__ import annotations

import os
import sys
import time
from _operator import index  # see _base
from itertools import chain, repeat

TYPE_CHECKING: bool = False  # what typing has; importing typing takes long
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable, NoReturn

# The monotonic clock in nanoseconds. freezegun replaces time.monotonic_ns, in all modules that have
# it, but not clock_gettime_ns, which Windows lacks.
clock: Callable[[], int] = (
    (lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC))
    if hasattr(time, "clock_gettime_ns")
    else time.monotonic_ns
)


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
    try:
        value = index(given)  # type: ignore[arg-type]
    except TypeError:
        value = None
    if value is None or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"semaphore {name!r}: {what} must be an int {bounds}{hint}, not {given!r}")
    return value


def check_mode(name: str | None, mode: object) -> int:
    hint = " (0o777)"
    if isinstance(mode, int) and mode > 0o777 and set(str(mode)) <= set("01234567"):
        hint += f" (did you mean 0o{mode}?)"
    return check_integer(name, "mode", mode, 0, 0o777, hint)


def check_wait(name: str | None, blocking: object, timeout: object) -> None:
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


def os_error(number: int, name: str, hint: str = "") -> OSError:
    return OSError(number, os.strerror(number) + (f" ({hint})" if hint else ""), name)


def deadline_of(timeout: float | None) -> int | None:
    """Return when the timeout ends, as ``clock()`` counts; None for never."""
    if timeout is None:
        return None
    try:
        seconds = float(timeout)  # numpy's float16 cannot be compared to what follows
    except OverflowError:  # an int of more than 308 digits
        return None
    if seconds > 2**62 / 1e9:  # the clock cannot count so far
        return None
    return clock() + int(seconds * 1e9) + bool(seconds)  # rounded up, so that it is never early


def without_ctypes(error: ImportError) -> Callable[[], NoReturn]:
    """Return what takes the place of ``system`` on WASI, or in an isolated subinterpreter."""
    text = f"named semaphores need ctypes, and this Python cannot import it: {error}"

    def system() -> NoReturn:
        raise NotImplementedError(text)

    return system


# --- Waits

# A signal that lands after Python's last look at signals and before the kernel sleeps does not
# end that sleep. So a wait has slices. The first one is short, since most signals of that kind
# come soon after the wait began.
FIRST_SLICE = 10_000_000  # nanoseconds

# Pauses of a wait that must poll: soon at first, for tokens that are held shortly; then seldom
# enough to cost nothing (67 looks a second).
FIRST_PAUSE = 100_000
LONGEST_PAUSE = 15_000_000


def waits(waiter: Any, deadline: int | None) -> Iterator[Iterator[int]]:
    """Yield calls of a handle, each to be made when the one before it got no token.

    The last one is made once ``clock()`` is ``deadline``. In a process that gevent or eventlet has
    patched, and where the library has no timed wait that serves, the calls do not wait.
    """
    pause, slices = FIRST_PAUSE, waiter.slices
    for longest in chain(slices, repeat(slices[-1])):
        left = longest if deadline is None else min(longest, deadline - clock())
        if left <= 0:
            break
        sleep = patched_sleep()
        if sleep is None and (deadline is None or waiter.is_steady):
            yield waiter.wait(left)
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
