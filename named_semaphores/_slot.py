# SPDX-License-Identifier: Apache-2.0
"""Numbered slots: a token and a number, for GPUs, ports and accounts."""

from __future__ import annotations

import os
from itertools import repeat, starmap

from . import _set
from ._base import Hold, ending
from ._handles import Block, Ended
from ._sysv import NOWAIT, UNDO

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any


class Slot(Hold):
    """Holds a token and a number during a with statement. ``RobustSemaphore.slot`` returns it."""

    def __init__(self, sem: Any, timeout: float | None) -> None:
        super().__init__(sem, 1, timeout)
        self._check_total()
        semset = self._handle.set
        transitions = _set.take_number(0), _set.give_number(semset.account, 0)
        self._block = Block(semset, *transitions)
        self._tries = starmap(semset.library.semop_now, repeat(self._block.arguments[0]))
        ended = _SlotEnded(semset, self._block, 1)
        give = semset.library.exit(semset.semid, self._block.arrays[1], ended.__getitem__)
        self._exit = ending(give, sem, self._handle)

    def _check_total(self) -> None:
        total = self._handle.set.total()
        if total > _set.NUMBERS:
            text = f"slots have {_set.NUMBERS} numbers, and there are {total} tokens"
            raise ValueError(f"semaphore {self._sem._name!r}: {text}")

    def __enter__(self) -> int:
        posts = self._handle.posts  # here, since no call may come between "except" and "for"
        super().__enter__()
        try:
            return self._take_number()
        except BaseException:  # also a signal handler's
            for _ in posts:
                break
            raise

    async def __aenter__(self) -> int:
        posts = self._handle.posts
        await super().__aenter__()
        try:
            return self._take_number()
        except BaseException:
            for _ in posts:
                break
            raise

    def _take_number(self) -> int:
        """Take the lowest free number. This process holds a token, so there is one, or will be."""
        take, give = self._block.arrays
        while True:
            for number in range(_set.NUMBERS):
                for operation in (*take, give[-1]):
                    operation.sem_num = _set.NUMBER + number
                for failed in self._tries:
                    break
                if not failed:
                    return number
            self._check_total()  # it may have been resized, or removed


class _SlotEnded(Ended):
    """As ``Ended``, for a token with a number."""

    def __missing__(self, status: int) -> None:
        # The token was released inside the block, or it is a parent's. So is the number, unless
        # this process changed it last.
        semset, number = self.set, self.block.arrays[1][-1].sem_num
        try:
            if semset.library.pid(semset.semid, number) == os.getpid():
                semset.operate([(number, -1, UNDO | NOWAIT)])
                super().__missing__(status)
        except OSError:  # removed
            pass
