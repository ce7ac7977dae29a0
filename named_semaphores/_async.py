# SPDX-License-Identifier: Apache-2.0
"""Waiting in an asyncio event loop. The package imports this module with the first such wait.

While tasks of a loop wait for a semaphore, one thread waits for them in the kernel's queue. It
takes one token at a time and hands it to the task that has waited longest.

The loop itself looks for tokens, 100 times a second at most, where the library has no timed wait on
a steady clock (macOS, old glibc), gevent or eventlet has made threads into greenlets, no thread can
be started, or the main thread has ended: the interpreter waits for the thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from time import sleep
from weakref import WeakValueDictionary

from ._common import FIRST_SLICE, TYPE_CHECKING, clock, patched_sleep

if TYPE_CHECKING:
    from typing import Any

    from ._base import Semaphore

# How long the thread waits at a time, in nanoseconds. It cannot be woken, so the last slice bounds
# the delay when the last task gives up, and at the interpreter's end. For a RobustSemaphore it is a
# daemon, which delays no end: the kernel gives its tokens back.
_SLICES = (FIRST_SLICE, 100_000_000, 250_000_000)
_ROBUST_SLICES = (FIRST_SLICE, 100_000_000, 1_000_000_000)
_FIRST_PAUSE = 0.001  # seconds
_LONGEST_PAUSE = 0.01
_CHECK = 0.1  # seconds; how often the thread looks whether a loop that does not run was closed

# By process, since a child of fork lacks its parent's thread; and by the ids of loop and handle,
# which the queue keeps alive. The tasks that wait keep the queue.
_queues: WeakValueDictionary[tuple[int, int, int], _Queue] = WeakValueDictionary()


async def acquire(sem: Semaphore, handle: Any, deadline: int | None) -> bool:
    """Return True with a token; False without one, once ``clock()`` is ``deadline``."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            f"semaphore {sem.name!r}: tasks of asyncio only can wait for it; elsewhere wait in a "
            "thread, as with trio.to_thread.run_sync(sem.acquire)"
        ) from None
    # RobustSemaphore makes handles anew; those that take the same number share their calls.
    key = os.getpid(), id(loop), id(getattr(handle, "calls", handle))
    queue = _queues.get(key)
    if queue is None or not queue.waiters:  # those that wait come first
        for taken in handle.tries:
            if taken:
                return True
            break
    if queue is None:
        queue = _queues[key] = _Queue(loop, sem, handle)
    return await queue.wait(deadline)


class _Queue:
    """The tasks of one loop that wait for one semaphore, and the thread that waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sem: Semaphore, handle: Any) -> None:
        self.loop, self.sem = loop, sem
        self.handle = handle  # the semaphore may be closed meanwhile
        self.waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()  # the oldest first
        self.is_served = False  # a thread runs, or the loop looks
        # A token on its way from the thread to the loop. Whichever of them pops it has it.
        self.arrived: list[bool] = []
        self.delivered = threading.Event()

    # In the loop:

    async def wait(self, deadline: int | None) -> bool:
        waiter: asyncio.Future[bool] = self.loop.create_future()
        self.waiters[waiter] = None
        try:
            if deadline is None or deadline > clock():  # a timeout of 0 starts no thread
                self._serve()
            while deadline is not None and not waiter.done():
                left = deadline - clock()  # again afterwards: uvloop's timers may come early
                await asyncio.wait([waiter], timeout=max(0, left) / 1e9)
                if left <= 0 and not waiter.done():
                    return self.sem._wait(0, self.handle)
            return await waiter
        except BaseException:
            # Cancelled after the token was handed over and before this task ran.
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self._give_back()
            raise
        finally:
            self.waiters.pop(waiter, None)

    def _serve(self) -> None:
        """Let a thread wait, or the loop look, unless one of them does."""
        if self.is_served or not self.waiters:
            return
        self.is_served = True
        try:
            if self.handle.is_steady and patched_sleep() is None and _is_main_alive():
                name, is_daemon = f"waits for {self.sem.name}", self.handle.is_robust
                with suppress(RuntimeError):  # no more threads, or the interpreter ends
                    threading.Thread(target=self._run, name=name, daemon=is_daemon).start()
                    return
            self.loop.call_soon(self._look, _FIRST_PAUSE)
        except BaseException:  # a signal handler's
            self.is_served = False
            raise

    def _look(self, pause: float) -> None:
        """Without a thread: look for tokens, and again later."""
        try:
            while self.waiters and self.sem._wait(0, self.handle) and self._hand_over():
                pause = _FIRST_PAUSE
        except Exception as error:
            self._fail(error)
        finally:  # Ctrl-C ends the loop, which may run again
            self.is_served = bool(self.waiters)
            if self.is_served:
                self.loop.call_later(pause, self._look, min(2 * pause, _LONGEST_PAUSE))

    def _deliver(self) -> None:
        with suppress(IndexError):  # the thread has it back, or has called this once more
            self.arrived.pop()
            self._hand_over()
        self.delivered.set()

    def _hand_over(self) -> bool:
        """Give a token to the task that has waited longest, or back."""
        for waiter in self.waiters:
            if not waiter.done():
                # Now, and not when its task runs: the thread must not wait for another token.
                del self.waiters[waiter]
                waiter.set_result(True)
                return True
        self._give_back()
        return False

    def _give_back(self) -> None:
        for _ in self.handle.posts:
            break

    def _fail(self, error: BaseException) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)

    # In the thread (signal handlers run in the main thread alone):

    def _run(self) -> None:
        slices = list(_ROBUST_SLICES if self.handle.is_robust else _SLICES)
        while self.waiters and not self.loop.is_closed() and _is_main_alive():
            try:
                if not self.loop.is_running():  # a token could not be handed over
                    sleep(_CHECK)
                elif self.sem._take_for_tasks(self.handle, slices[0], self._can_deliver):
                    self._send()
                elif len(slices) > 1:
                    del slices[0]
            except Exception as failure:
                self._call(self._fail, failure)
                sleep(_CHECK)
        self.is_served = False
        if self.waiters:  # a task came just now, or the main thread has ended
            self._call(self._serve)

    def _can_deliver(self) -> bool:
        return bool(self.waiters) and self.loop.is_running() and _is_main_alive()

    def _send(self) -> None:
        """Send a token to the loop, and return when it has arrived, or was given back."""
        self.arrived.append(True)
        while self.arrived:
            if not self._can_deliver():
                with suppress(IndexError):  # it has arrived just now
                    self.arrived.pop()
                    self._give_back()
                return
            self.delivered.clear()
            # In a loop: a signal handler's exception may end a callback before it begins.
            self._call(self._deliver)
            self.delivered.wait(_CHECK)

    def _call(self, function: Any, *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(function, *arguments)


def _is_main_alive() -> bool:
    """Return False once the interpreter may wait for our threads, to end."""
    return threading.main_thread().is_alive()
