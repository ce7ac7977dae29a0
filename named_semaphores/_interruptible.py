# SPDX-License-Identifier: Apache-2.0
"""Policy: waiting, and entering a with statement, where nearly every instruction looks at signals (CPython before 3.11, and PyPy).

There the token and its owner must meet in C code: the with statement calls a C function, which takes a token and gives the semaphore, or, if
there was none, calls Python code that waits.
"""

from __future__ import annotations

from ._waits import waits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from ._libc import Handle, Libc
    from .core import NamedSemaphore


class _Enter(property):
    """As ``_Exit`` in core: for an instance a C function, and for the class something to call."""

    def __call__(self, sem: NamedSemaphore) -> NamedSemaphore:
        if sem._handle is not None:
            sem._count.is_exact = False  # an ExitStack enters it, and here nobody counts that
        return sem.__enter__()


class _Given(dict):  # type: ignore[type-arg]
    """What __enter__ gives for a status of sem_trywait."""

    def __missing__(self, status: int) -> Any:
        return _wait(self[0], None, None, self[0])


@_Enter
def __enter__(self: NamedSemaphore) -> Callable[[], Any]:
    """Take a token, wait for one if there is none, and return this semaphore."""
    return map(_Given({0: self}).__getitem__, self._tries).__next__


def _wait(self: NamedSemaphore, deadline: int | None, opened: tuple[Libc, Handle] | None = None, result: Any = True) -> Any:
    """Wait as the class does elsewhere, and return the result, or False. What an exception would lose on the way is put back."""
    libc, handle = opened or self._open_handle()
    taken: list[tuple[int, int]] = []  # the C code that makes a call puts its result here
    try:
        for call in waits(libc, handle, deadline):
            taken.extend(call)
            if not taken[0][0]:
                return result
            self._raise_unless_in_vain(libc, *taken.pop())
        return False
    except BaseException:
        if taken and not taken[0][0]:
            for _ in libc.post(handle):
                break
        raise


def _wait_endless(self: NamedSemaphore) -> bool:
    return self._wait(None)
