# SPDX-License-Identifier: Apache-2.0
"""Policy: the with statement where nearly every instruction looks at signals (CPython before 3.11, and PyPy)."""

from __future__ import annotations

from errno import EAGAIN
from itertools import chain, islice, repeat

from ._waits import waits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .core import Self


def __enter__(self: Self) -> Self:
    """Take a token, wait for one if there is none, and return this semaphore."""
    libc, handle = self._open_handle()
    taken: list[tuple[int, int]] = []  # the C code that makes a call puts its result here
    try:
        for call in chain([islice(zip(self._tries, repeat(EAGAIN)), 1)], waits(libc, handle, None)):
            taken.extend(call)
            if not taken[0][0]:
                return self
            self._check_again(libc, *taken.pop())
    except BaseException:
        if taken and not taken[0][0]:
            for _ in libc.post(handle):
                break
        raise
    raise AssertionError("waits without a deadline do not end")
