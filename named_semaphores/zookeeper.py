# SPDX-License-Identifier: Apache-2.0
"""Policy: ZooKeeperSemaphore, one limit for several machines. It needs kazoo, so no other module of the package imports this one."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic_ns

from ._base import check_integer, check_name, check_wait, deadline_of

try:
    from ._kazoo import KazooClient, KeeperState, Token, Tokens, result_of
except ImportError as error:
    raise ImportError(
        'ZooKeeperSemaphore needs kazoo: pip install "named-semaphores[zookeeper]" or "kazoo>=2.11"'
    ) from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    Self = TypeVar("Self", bound="ZooKeeperSemaphore")


class ZooKeeperSemaphore:
    """A counted limit that processes on several machines share by its name, with the interface of ``threading.Semaphore``.

    name: letters, digits, ``-``, ``_`` and ``.``. The semaphore stays until ``unlink()``, as a node under ``/named-semaphores/``.
    initial_value: the number of tokens, from 1. None: what an existing one has, else 1. ValueError: an existing one has another number.
    client: a started KazooClient. It does not survive a fork: a child needs a client and a semaphore of its own.
    on_lost: called with this object, in a thread, when a session ends while this object holds tokens; see ``lost``.

    A token belongs to the client's session and comes back when that ends: when the client is stopped, or when its process died, was stopped or
    did not reach the servers for as long as the session's timeout. A process that is stopped while it acquires holds up all others until then.
    """

    def __init__(
        self,
        name: str,
        initial_value: int | None = None,
        *,
        client: Any,
        on_lost: Callable[[Any], object] | None = None,
    ) -> None:
        self.name, self.closed, self._process = check_name(name), False, os.getpid()
        if self.name in ("/.", "/.."):
            raise ValueError(f"semaphore {self.name!r}: ZooKeeper has no such name")
        number = (
            None
            if initial_value is None
            else check_integer(self.name, "initial_value", initial_value, 1)
        )
        if not isinstance(client, KazooClient) or client.client_state == KeeperState.CLOSED:
            raise ValueError(
                f"semaphore {self.name!r}: client must be a started KazooClient, not {client!r}"
            )
        self._tokens = Tokens(
            client, self.name, number or 1, partial(on_lost, self) if on_lost else bool
        )
        self.initial_value = self._tokens.total
        if number not in (None, self.initial_value):
            raise ValueError(
                f"semaphore {self.name!r}: initial_value is {number}, but the existing one has {self.initial_value}"
            )

    @property
    def value(self) -> int:
        """The number of free tokens now."""
        tokens = self._usable()
        return max(0, tokens.total - len(tokens.client.retry(tokens.taken)))

    @property
    def holders(self) -> list[tuple[str, int]]:
        """Host and process id of the holder of each token that is taken."""
        return [(host, int(process)) for host, process in map(str.split, self._usable().holders())]

    @property
    def lost(self) -> bool:
        """Whether a session ended while this object held a token, so that others may have it. False once that is released and another is taken."""
        return self._tokens.lost

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take a token; wait for one if none is free. Return True with a token, False without one.

        blocking: False does not wait for a token, nor for another process that is just taking one: then there may be one, and this returns False.
        timeout: the longest wait in seconds, from 0; None waits without an end. The wait goes on while the connection is suspended.
        """
        token = self._attempt(blocking, timeout)
        answers: SimpleQueue[Any] = SimpleQueue()
        try:
            self._tokens.run(answers.put, token.take)
            return result_of(answers.get(timeout=token.left()))
        except BaseException as error:
            return token.abandon(error)

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """Take a token as ``acquire`` does, in a task of asyncio: a thread waits. A cancelled task has no token."""
        token = self._attempt(True, timeout)
        future: Future[Any] = Future()
        try:
            self._tokens.run(future.set_result, token.take)
            answered = asyncio.wrap_future(future)
            while not answered.done():
                if token.left() == 0:
                    raise Empty
                await asyncio.wait([answered], timeout=token.left())
            return result_of(answered.result())
        except BaseException as error:
            return token.abandon(error)

    def release(self, n: int = 1) -> None:
        """Put ``n`` tokens back. ValueError: this object holds fewer; none is put back. A lost token needs its release too, which does nothing."""
        self._usable(although_closed=True)
        answers: SimpleQueue[Any] = SimpleQueue()
        self._tokens.run(answers.put, self._tokens.put_back, check_integer(self.name, "n", n, 1))
        result_of(answers.get())

    def __enter__(self: Self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() == self._process:  # a child of fork has none of its parent's tokens
            self.release()

    async def __aenter__(self: Self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(self, exc_type: object, *_: object) -> None:
        future: Future[Any] = Future()
        self._tokens.run(future.set_result, self._tokens.put_back, 1)
        if exc_type is not GeneratorExit:  # a coroutine that is being closed may not wait
            await asyncio.wait([asyncio.wrap_future(future)])
            result_of(future.result())

    def unlink(self) -> None:
        """Remove the name. Whoever waits or acquires gets FileNotFoundError; a new semaphore of this name has all its tokens, whoever is inside."""
        self._usable().unlink()

    def close(self) -> None:
        """Take no more tokens. What this object holds can still be released, and a thread that waits gets its token."""
        self.closed = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {'closed' if self.closed else f'initial_value={self.initial_value}'}>"

    def _usable(self, although_closed: bool = False) -> Tokens:
        if os.getpid() != self._process:
            raise ValueError(
                f"semaphore {self.name!r}: a KazooClient does not survive fork: make one in the child, and a semaphore with it"
            )
        if self.closed and not although_closed:
            raise ValueError(f"semaphore {self.name!r} is closed")
        return self._tokens

    def _attempt(self, blocking: bool, timeout: float | None) -> Token:
        tokens = self._usable()
        check_wait(self.name, blocking, timeout)
        if blocking and timeout != 0:
            return Token(tokens, True, deadline_of(self.name, timeout))
        return Token(tokens, False, monotonic_ns() + 1_000_000_000)  # for its requests
