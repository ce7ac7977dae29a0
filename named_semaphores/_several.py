# SPDX-License-Identifier: Apache-2.0
"""How RobustSemaphore waits for several tokens, so that nobody starves.

A process takes the first token together with the turn, in the queue like everybody; then the rest,
while newcomers wait. If it does not get the rest, it gives the first token and the turn back. A
turn that stays behind would stop everybody.
"""

from __future__ import annotations

import errno

from ._base import RETRY
from ._common import FIRST_SLICE, TYPE_CHECKING, clock, waits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Callable


class _GivenUp(Exception):
    """The wait got nothing: time is over, or the first token was lost."""


def wait(handle: Any, deadline: int | None) -> bool:
    """Return True with the handle's n tokens; False without, once ``clock()`` is ``deadline``."""
    calls = handle.calls
    # Without timed waits, nothing ends a wait that is resized below n: a deadline lets it poll.
    until = deadline if deadline is not None or calls.rest.is_steady else 2**62
    while deadline is None or clock() < deadline:
        if _take(handle, waits(calls.first, deadline), waits(calls.rest, until)):
            return True
    return False


def take_for_tasks(handle: Any, nanoseconds: int, is_wanted: Callable[[], bool]) -> bool:
    """The same in the thread that waits for tasks. See ``Semaphore._take_for_tasks``."""

    def while_wanted() -> Iterator[Iterator[int]]:
        while is_wanted():
            yield calls.rest.wait(FIRST_SLICE)

    calls = handle.calls
    return _take(handle, [calls.first.wait(nanoseconds)], while_wanted())


def _take(
    handle: Any, first_calls: Iterable[Iterator[int]], rest_calls: Iterable[Iterator[int]]
) -> bool:
    """Return True with the tokens; return False, or raise, and take nothing."""
    posts, give_up = handle.posts, handle.calls.give_up
    # Status and errno of the last call. Semaphore._wait says why the loops are as they are.
    first: list[int] = []
    rest: list[int] = []
    try:
        for call in first_calls:
            first.extend(call)
            if not first[0]:
                break
            _raise_unless_free_later(handle, first[1])
            first.clear()
        else:
            raise _GivenUp
        for call in rest_calls:
            rest.extend(call)
            if not rest[0]:
                return True
            # Another thread released the first token, or this is a child of a signal handler.
            if rest[1] == errno.EAGAIN and not handle.set.held():
                raise _GivenUp
            _raise_unless_free_later(handle, rest[1])
            rest.clear()
        raise _GivenUp
    except BaseException as end:  # no call before one that gives back: a second signal may come
        if rest and not rest[0]:
            for _ in posts:
                break
        elif first and not first[0]:
            for failed in give_up:
                if failed:
                    handle.set.end_turn()
                break
        if isinstance(end, _GivenUp):
            return False
        raise


def _raise_unless_free_later(handle: Any, error: int) -> None:
    if error not in RETRY:
        raise handle.set.failure(error)
    if error == errno.EAGAIN:
        handle.set.check_number(handle.n)
