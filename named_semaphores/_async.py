# SPDX-License-Identifier: Apache-2.0
"""Policy: waiting in an asyncio event loop, which the class imports with the first such wait.

No system call waits for a semaphore and a loop at once, and a thread for each waiter costs more than it gives. So each loop has one poller: it
looks at all semaphores that tasks wait for, soon at first, then a hundred times a second, and hands each token to the task that has waited
longest.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from errno import EAGAIN, EINTR
from time import monotonic_ns

from ._errors import oserror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._libc import Handle, Libc

FIRST_PAUSE = 0.001  # seconds
LONGEST_PAUSE = 0.01


class _Queue:
    """The tasks of one loop that wait for one semaphore, the oldest first."""

    def __init__(self, libc: Libc, handle: Handle, name: str) -> None:
        self.libc = libc
        self.handle = handle  # kept, so that the semaphore may be closed meanwhile
        self.name = name
        self.waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    def hand_out(self) -> bool:
        """Give what tokens there are to those who wait. Return whether there was one."""
        some = False
        while self.waiters:
            waiter = next(iter(self.waiters))
            if waiter.done():  # cancelled, or out of time; its task will run soon
                del self.waiters[waiter]
                continue
            for status, error in self.libc.trywait(self.handle):
                break
            if not status:
                some = True
                waiter.set_result(True)
            elif self.libc.failure(status, error) in (EAGAIN, EINTR):
                return some
            else:
                waiter.set_exception(oserror(self.libc.failure(status, error), self.libc, self.name))
        return some


class _Poller:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.queues: dict[Handle, _Queue] = {}
        self.pause = FIRST_PAUSE
        self.next_look: asyncio.Handle | None = None

    def look(self) -> None:
        """Look at every semaphore, and arrange for the next look."""
        some = False
        for handle, queue in list(self.queues.items()):
            some |= queue.hand_out()
            if not queue.waiters:
                self.queues.pop(handle, None)
        self.next_look = None
        if self.queues:
            self.pause = FIRST_PAUSE if some else min(2 * self.pause, LONGEST_PAUSE)
            self.next_look = self.loop.call_later(self.pause, self.look)
        else:
            self.end()

    def end(self) -> None:
        if self.next_look is not None:
            self.next_look.cancel()
        if _pollers.get(self.loop) is self:
            del _pollers[self.loop]

    def forget(self, queue: _Queue) -> None:
        """Drop a queue in which nobody waits any more; its loop may never run again."""
        if not queue.waiters:
            if self.queues.get(queue.handle) is queue:  # else it was dropped, and others wait in a new one
                del self.queues[queue.handle]
            if not self.queues:
                self.end()

    def look_soon(self) -> None:
        """Look as soon as the loop is free: there is a new waiter, or a token has come back."""
        if self.next_look is not None:
            self.next_look.cancel()
        self.pause = FIRST_PAUSE
        self.next_look = self.loop.call_soon(self.look)


_pollers: dict[asyncio.AbstractEventLoop, _Poller] = {}


def is_waited_for(handle: Handle) -> bool:
    """Return whether a task of the running loop waits for the semaphore."""
    poller = _pollers.get(asyncio.get_running_loop())
    return poller is not None and handle in poller.queues


def released(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Tell the waiters of the loop, by default the running one, that a token has come back."""
    poller = _pollers.get(loop or asyncio.get_running_loop())
    if poller is not None:
        poller.look_soon()


async def wait(libc: Libc, handle: Handle, name: str, deadline: int | None) -> bool:
    """Return True with a token; False without, once ``time.monotonic_ns()`` is ``deadline``."""
    loop = asyncio.get_running_loop()
    poller = _pollers.get(loop)
    if poller is None:
        poller = _pollers[loop] = _Poller(loop)
    queue = poller.queues.get(handle)
    if queue is None:
        queue = poller.queues[handle] = _Queue(libc, handle, name)
    waiter: asyncio.Future[bool] = loop.create_future()
    queue.waiters[waiter] = None
    poller.look_soon()

    timer: asyncio.TimerHandle | None = None

    def end() -> None:
        nonlocal timer
        queue.hand_out()
        left = 0 if deadline is None else deadline - monotonic_ns()
        if left > 0:  # uvloop's timers may come a millisecond early
            timer = loop.call_later(left / 1e9, end)
        elif not waiter.done():
            waiter.set_result(False)

    if deadline is not None:
        timer = loop.call_later(max(0, deadline - monotonic_ns()) / 1e9, end)
    try:
        return await waiter
    except BaseException:
        # Cancelled after the token was handed over and before this task ran: the token goes back.
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None and waiter.result():
            for _ in libc.post(handle):
                break
            released(loop)  # this poller may have ended, and another begun
        raise
    finally:
        queue.waiters.pop(waiter, None)
        poller.forget(queue)
        if timer is not None:
            timer.cancel()
