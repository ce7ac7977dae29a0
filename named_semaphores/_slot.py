# SPDX-License-Identifier: Apache-2.0
"""Numbered slots: a token and a number, for GPUs, ports and accounts."""

from __future__ import annotations

import os
from functools import partial
from itertools import repeat, starmap
from operator import attrgetter

from . import _set
from ._base import Bound, too_late
from ._sysv import NOWAIT, UNDO

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any


class Slot:
    """Holds a token and a number during a with statement. ``RobustSemaphore.slot`` returns it."""

    def __init__(self, sem: Any, handle: Any, timeout: float | None) -> None:
        self._sem, self._handle, self._timeout = sem, handle, timeout
        semset, library = handle.set, handle.set.library
        self._check_total()
        self._block = _set.Block(semset, _set.take_number(0), _set.give_number(semset.account, 0))
        take, give = self._block.arguments
        self._tries = starmap(library.semop_now, repeat(take))
        ended = _SlotEnded({0: None})
        ended.set, ended.block = semset, self._block
        # A with statement keeps this alone, so the semaphore, and the block that a fork changes.
        self._exit = partial(library.semop_exit(ended.__getitem__), *give[:2], 4)
        self._exit.kept = sem, handle  # type: ignore[attr-defined]

    def __enter__(self) -> int:
        posts = self._handle.posts  # here, since no call may come between "except" and "for"
        self._sem._open_handle()
        if not self._sem._take(self._handle, self._timeout):
            raise too_late(self._sem, 1, self._timeout)
        try:
            return self._take_number()
        except BaseException:  # also a signal handler's
            for _ in posts:
                break
            raise

    def _check_total(self) -> None:
        total = self._handle.set.total()
        if total > _set.NUMBERS:
            raise ValueError(
                f"semaphore {self._sem._name!r}: slots have {_set.NUMBERS} numbers, "
                f"and there are {total} tokens"
            )

    def _take_number(self) -> int:
        """Take the lowest free number. This process holds a token, so there is one, or will be."""
        array = self._block.array
        while True:
            for number in range(_set.NUMBERS):
                for place in (0, 1, -1):  # of the number in take_number and give_number
                    array[place].sem_num = _set.NUMBER + number
                for failed in self._tries:
                    break
                if not failed:
                    return number
            self._check_total()  # it may have been resized, or removed

    __exit__ = Bound(attrgetter("_exit"), doc="Give token and number back. Swallows no exception.")

    async def __aenter__(self) -> int:
        self._sem._open_handle()
        if not await self._sem._acquire_async(self._handle, self._timeout):
            raise too_late(self._sem, 1, self._timeout)
        try:
            return self._take_number()
        except BaseException:
            for _ in self._handle.posts:
                break
            raise

    async def __aexit__(self, *exception: object) -> None:
        self._exit(*exception)

    def __repr__(self) -> str:
        return f"<Slot of semaphore {self._sem._name!r}>"


class _SlotEnded(dict):  # type: ignore[type-arg]
    """As ``_Ended``, for a token with a number."""

    set: Any
    block: Any

    def __missing__(self, status: int) -> None:
        # The token was released inside the block, or it is the parent's of this child of fork. The
        # number is this process's if this process changed it last.
        semset, number = self.set, self.block.array[-1].sem_num
        try:
            if semset.library.pid(semset.semid, number) == os.getpid():
                semset.operate([(number, -1, UNDO | NOWAIT)])
                semset.give_refused(1)
        except OSError:  # removed
            pass
