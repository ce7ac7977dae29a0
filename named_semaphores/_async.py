# SPDX-License-Identifier: Apache-2.0
"""Policy: waiting in an asyncio event loop. The package imports this with the first such wait.

While tasks of a loop wait for a semaphore, one thread waits in the kernel's queue on their behalf, like any other waiter. It takes one token at a
time and hands it to the task that has waited longest. It ends when no task waits.

Where the library has no timed wait (macOS), or no thread can be started, the loop itself looks for tokens, 100 times a second at most.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from time import monotonic_ns, sleep
from weakref import WeakValueDictionary

from ._base import FIRST_SLICE, LATER_SLICES
from ._lock import new_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._base import Semaphore

# The thread cannot be woken: its slice bounds the delay at the interpreter's end. The kernel gives the tokens of a RobustSemaphore
# back whatever becomes of the thread: there it is a daemon, which holds up nothing, and keeps its place in the queue as long as other waiters.
_SLICES = (FIRST_SLICE, LATER_SLICES[0], 250_000_000)  # nanoseconds
_FIRST_PAUSE = 0.001  # seconds
_LONGEST_PAUSE = 0.01
_CHECK = 0.1  # seconds; how often the thread looks whether a loop that does not run has been closed

# By the ids of loop and handle, which the queue keeps alive. The tasks that wait keep the queue: it dies with them, also if their loop is closed.
_queues: WeakValueDictionary[tuple[int, int], _Queue] = WeakValueDictionary()


def is_waited_for(handle: Any) -> bool:
    """Return whether a task of the running loop waits for the semaphore."""
    queue = _queues.get((id(asyncio.get_running_loop()), id(handle)))
    return queue is not None and bool(queue.waiters)


async def wait(sem: Semaphore, handle: Any, deadline: int | None) -> bool:
    """Return True with a token; False without, once ``time.monotonic_ns()`` is ``deadline``."""
    loop = asyncio.get_running_loop()
    key = (id(loop), id(handle))
    queue = _queues.get(key)
    if queue is None:
        queue = _queues[key] = _Queue(loop, sem, handle)
    return await queue.wait(deadline)


class _Queue:
    """The tasks of one loop that wait for one semaphore, the oldest first, and the thread that waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sem: Semaphore, handle: Any) -> None:
        self.loop = loop
        self.sem = sem
        self.handle = handle  # the semaphore may be closed meanwhile
        self.waiters: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self.lock = new_lock()  # for has_thread: the thread ends, or sees a new waiter
        self.has_thread = False
        # A token on its way from the thread to the loop. list.pop is atomic, so only one of them takes it.
        self.arrived: list[bool] = []
        self.delivered = threading.Event()
        self.polls = False

    async def wait(self, deadline: int | None) -> bool:
        waiter: asyncio.Future[bool] = self.loop.create_future()
        self.waiters[waiter] = None
        timer: asyncio.TimerHandle | None = None
        try:
            if deadline is not None:
                timer = self.loop.call_later(
                    max(0, deadline - monotonic_ns()) / 1e9, self._expire, waiter, deadline
                )
            self._start()
            return await waiter
        except BaseException:
            # Cancelled after the token was handed over and before this task ran: the token goes back.
            if (
                waiter.done()
                and not waiter.cancelled()
                and waiter.exception() is None
                and waiter.result()
            ):
                self._give_back()
            raise
        finally:
            self.waiters.pop(waiter, None)
            if timer is not None:
                timer.cancel()

    def _expire(self, waiter: asyncio.Future[bool], deadline: int) -> None:
        left = deadline - monotonic_ns()
        if left > 0:  # uvloop's timers may come a millisecond early
            self.loop.call_later(left / 1e9, self._expire, waiter, deadline)
        elif not waiter.done():
            try:
                waiter.set_result(self._try())
            except Exception as error:
                waiter.set_exception(error)

    def _try(self) -> bool:
        return self.sem._wait(0, self.handle)  # type: ignore[no-any-return]

    def _give_back(self) -> None:
        for _ in self.handle.post_once():
            break

    def _hand_over(self) -> None:
        """Give a token to the task that has waited longest, or back."""
        for waiter in self.waiters:
            if not waiter.done():
                del self.waiters[
                    waiter
                ]  # now, and not when its task runs: the thread must not wait for another token meanwhile
                waiter.set_result(True)
                return
        self._give_back()

    def _start(self) -> None:
        with self.lock:
            if self.has_thread or self.polls:
                return
            if self.handle.is_steady:
                thread = threading.Thread(
                    target=self._serve,
                    name=f"waits for {self.sem.name}",
                    daemon=self.handle.is_robust,
                )
                thread.waits_for_tasks = True  # type: ignore[attr-defined]  # see _is_over
                try:
                    thread.start()
                    self.has_thread = True
                    return
                except RuntimeError:  # the system has no more threads, or the interpreter ends
                    pass
            self.polls = True
        self._look(_FIRST_PAUSE)

    # In the loop:

    def _deliver(self) -> None:
        try:
            self.arrived.pop()
        except IndexError:  # the thread has given it back, or has called this once more
            pass
        else:
            self._hand_over()
        self.delivered.set()

    def _fail(self, error: BaseException) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def _look(self, pause: float) -> None:
        """Without a thread: look for tokens, and again later."""
        try:
            while any(not waiter.done() for waiter in self.waiters) and self._try():
                pause = _FIRST_PAUSE
                self._hand_over()
        except Exception as error:
            self._fail(error)
        if self.waiters:
            self.loop.call_later(pause, self._look, min(2 * pause, _LONGEST_PAUSE))
        else:
            self.polls = False

    # In the thread (signal handlers run in the main thread alone):

    def _serve(self) -> None:
        slices = list(_SLICES if not self.handle.is_robust else (FIRST_SLICE, *LATER_SLICES))
        while self._is_wanted():
            if not self.loop.is_running():  # a token could not be handed over
                sleep(_CHECK)
                continue
            for status, error in self.handle.wait_until(monotonic_ns() + slices[0]):
                break
            if not status:
                self._send()
            else:
                try:
                    self.sem._raise_unless_retry(status, error)
                except Exception as failure:
                    self._call(self._fail, failure)
                    sleep(_CHECK)
                if len(slices) > 1:
                    del slices[0]
        if self.waiters:  # at the interpreter's end: an atexit function may wait for the loop
            self.polls = True
            self._call(self._look, _FIRST_PAUSE)

    def _is_wanted(self) -> bool:
        with self.lock:
            self.has_thread = bool(self.waiters) and not self._is_over()
            return self.has_thread

    def _is_over(self) -> bool:
        """Whether the loop will not run any more. At the interpreter's end a loop that is frozen in a daemon thread says that it runs."""
        if self.loop.is_closed() or threading.main_thread().is_alive():
            return self.loop.is_closed()
        # The interpreter waits for the threads that are no daemons, and those that wait for tasks are waiting for its end.
        return not any(
            thread.is_alive() and not thread.daemon and not hasattr(thread, "waits_for_tasks")
            for thread in threading.enumerate()
        )

    def _send(self) -> None:
        """Send a token to the loop, and return when it has arrived. Give it back if nobody waits, or the loop does not run any more."""
        if not self.waiters:
            self._give_back()
            return
        self.arrived.append(True)
        while self.arrived:
            self.delivered.clear()
            self._call(
                self._deliver
            )  # once more if it did not come: a signal handler's exception may end a callback before it begins
            if self._is_over() or not (self.delivered.wait(_CHECK) or self.loop.is_running()):
                try:
                    self.arrived.pop()
                except IndexError:  # it has arrived just now
                    return
                self._give_back()

    def _call(self, function: Any, *arguments: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed
            pass
