# SPDX-License-Identifier: Apache-2.0
"""How RobustSemaphore waits for several tokens, so that nobody starves.

A process takes the first token together with the turn, in the queue like everybody; then the rest,
while newcomers wait. If it does not get the rest, it gives the first token and the turn back. A
turn that stays behind would stop everybody.
"""

from __future__ import annotations

import errno

from ._base import RETRY
from ._checks import clock
from ._waiting import FIRST_SLICE, waits

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any, Callable


class _GivenUp(Exception):
    """The wait got nothing: time is over, or the first token was lost."""


def wait(handle: Any, deadline: int | None) -> bool:
    """Return True with the handle's n tokens; False without, once ``clock()`` is ``deadline``."""
    while deadline is None or clock() < deadline:
        try:
            return _take_first_and_rest(handle, deadline)
        except _GivenUp:
            pass
    return False


def _take_first_and_rest(handle: Any, deadline: int | None) -> bool:
    """Return True with the tokens, or raise and take nothing."""
    calls = handle.calls
    posts, give_up = calls.posts, calls.give_up
    # Status and errno of the last call. Semaphore._wait says why the loops are as they are.
    first: list[int] = []
    rest: list[int] = []
    try:
        for call in waits(calls.first, deadline):
            first.extend(call)
            if not first[0]:
                break
            _raise_unless_free_later(handle, first[1])
            first.clear()
        else:
            raise _GivenUp
        for call in waits(calls.rest, deadline):
            rest.extend(call)
            if not rest[0]:
                return True
            _raise_unless_rest_free_later(handle, rest[1])
            rest.clear()
        raise _GivenUp
    except BaseException:  # no call before one that gives back: a second signal may come
        if rest and not rest[0]:
            for _ in posts:
                break
        elif first and not first[0]:
            for failed in give_up:
                if failed:
                    handle.set.end_turn()
                break
        raise


def take_for_tasks(handle: Any, until: int, is_wanted: Callable[[], bool]) -> bool:
    """The same in a thread where no signal handler runs. See ``Semaphore._take_for_tasks``."""
    calls = handle.calls
    status, error = calls.first.wait_until(until)
    if status:
        _raise_unless_free_later(handle, error)
        return False
    has_rest = False
    try:
        while not has_rest and is_wanted():
            status, error = calls.rest.wait_until(clock() + FIRST_SLICE)
            has_rest = not status
            if status:
                _raise_unless_rest_free_later(handle, error)
    except _GivenUp:
        pass
    finally:
        if not has_rest and next(calls.give_up):
            handle.set.end_turn()
    return has_rest


def _raise_unless_free_later(handle: Any, error: int) -> None:
    if error not in RETRY:
        raise handle.set.failure(error)
    if error == errno.EAGAIN:
        handle.set.check_total(handle.n)


def _raise_unless_rest_free_later(handle: Any, error: int) -> None:
    # Another thread released the first token, or a signal handler forked and this is the child.
    if error == errno.EAGAIN and not handle.set.held():
        raise _GivenUp
    _raise_unless_free_later(handle, error)
