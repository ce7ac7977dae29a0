# SPDX-License-Identifier: Apache-2.0
"""Mechanism: tokens in ZooKeeper, by kazoo's Semaphore recipe.

If a signal handler raises an exception inside the recipe, its node stays in the queue, and all others wait behind it; and while the connection is
suspended, kazoo waits past any timeout. So the recipe runs in threads, where no signal handler runs, and callers wait for the threads.
"""

from __future__ import annotations

import errno
import os
import socket
import weakref
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic_ns

from kazoo.client import KazooClient as KazooClient
from kazoo.exceptions import (
    CancelledError,
    ConnectionClosedError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
)
from kazoo.protocol.states import KazooState
from kazoo.protocol.states import KeeperState as KeeperState
from kazoo.recipe.lock import Lock, Semaphore
from kazoo.retry import KazooRetry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


class Tokens:
    """The nodes of a semaphore, and the tokens that one object holds of it."""

    def __init__(self, client: Any, name: str, total: int, on_lost: Callable[[], object]) -> None:
        self.client, self.name, self.path, self.on_lost = (
            client,
            name,
            f"/named-semaphores{name}/tokens",
            on_lost,
        )
        number = None
        while number is None:  # again, if it is unlinked meanwhile
            with suppress(NodeExistsError, NoNodeError):
                client.retry(
                    client.create, self.path, b"%d" % total, makepath=True
                )  # with its number in one step; the recipe takes two
            with suppress(NoNodeError):
                client.retry(client.ensure_path, f"{self.path}-__lock__")  # the recipe's queue
                number, stat = client.retry(client.get, self.path)
        self.total, self.created = int(number), stat.czxid
        self.held: list[Token] = []  # the oldest first
        self.attempts: list[Token] = []
        self.losses = 0  # how many sessions have ended; a token from before the last end is lost
        self.lost = False
        self.lock = (
            client.handler.lock_object()
        )  # only for threads: a signal handler could leave it locked
        self.calls: SimpleQueue[Any] = SimpleQueue()
        self.idle: list[bool] = []  # an item for each thread that has nothing to do
        listener = partial(_state_changed, weakref.ref(self))
        client.add_listener(listener)
        weakref.finalize(self, client.remove_listener, listener).atexit = False

    def taken(self, watch: object = None) -> list[str]:
        """Return the nodes of the tokens that are taken. FileNotFoundError: the semaphore was unlinked."""
        try:
            nodes, stat = self.client.get_children(self.path, watch, include_data=True)
        except NoNodeError:
            raise self.unlinked() from None
        if stat.czxid != self.created:  # another of this name, perhaps with another number
            raise self.unlinked()
        return list(nodes)

    def unlinked(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, "the semaphore was unlinked", self.name)

    def unlink(self) -> None:
        """Delete the nodes. FileNotFoundError: the semaphore was unlinked before."""
        self.client.retry(self.taken)
        while True:
            with suppress(NotEmptyError):  # somebody came between
                self.client.retry(self.client.delete, os.path.dirname(self.path), recursive=True)
                return

    def holders(self) -> list[str]:
        """Return what ``Token`` says of each holder."""
        return self.client.retry(Semaphore(self.client, self.path).lease_holders)  # type: ignore[no-any-return]

    def put_back(self, n: int) -> bool:
        """Put back ``n`` tokens. ValueError: this object holds fewer."""
        with self.lock:
            if n > len(self.held):
                raise ValueError(
                    f"semaphore {self.name!r}: this object holds {len(self.held)} tokens, and cannot release {n}"
                )
            # The lost ones first: it may be their holders who release, and not those whose tokens are still in use.
            back, self.held = self.held[:n], self.held[n:]
        for token in back:
            token.put_back()
        return True

    def run(
        self, answer: Callable[[Any], object], call: Callable[..., object], *args: object
    ) -> None:
        """Make the call in a thread, and pass what it returns or raises to ``answer``."""
        try:
            self.idle.pop()
        except IndexError:
            self.client.handler.spawn(self._work)
        self.calls.put((answer, call, args))

    def _work(self) -> None:
        while True:
            try:
                answer, call, args = self.calls.get(
                    timeout=0.1
                )  # a new thread for each call would cost a tenth of an acquire
            except Empty:
                try:
                    self.idle.pop()
                except IndexError:
                    continue  # run() has taken the item, and is about to put a call
                return
            try:
                result = call(*args)
            except BaseException as error:
                result = error
            self.idle.append(True)
            answer(result)
            del answer, call, args, result

    def wake(self, event: Any) -> None:
        """Have the attempts that wait for the node look at it again."""
        for token in list(self.attempts):
            if token.queue is not None and event.path in (token.watched, None):
                token.wake_event.set()
                token.queue.wake_event.set()


def _state_changed(reference: weakref.ref[Tokens], state: str) -> None:
    tokens = reference()
    if tokens is not None and state == KazooState.LOST:
        with tokens.lock:
            is_holder = any(token.losses == tokens.losses for token in tokens.held)
            tokens.losses += 1
            tokens.lost = tokens.lost or is_holder
        if is_holder:
            tokens.client.handler.spawn(tokens.on_lost)


def result_of(answer: Any) -> bool:
    """Return or raise what a call in a thread has returned or raised."""
    if isinstance(answer, BaseException):
        raise answer
    return bool(answer)


class Token(Semaphore):  # type: ignore[misc]  # kazoo has no types
    """A token, or the attempt to take one. The recipe calls this object as its client: what is not defined here, goes to the real client."""

    abandoned = False
    queue: Any = None
    watched = ""

    def __init__(self, tokens: Tokens, waits: bool, deadline: int | None) -> None:
        self.tokens, self.real, self.waits, self.deadline, self.losses = (
            tokens,
            tokens.client,
            waits,
            deadline,
            tokens.losses,
        )
        super().__init__(self, tokens.path, f"{socket.gethostname()} {os.getpid()}", tokens.total)
        self.assured_path = True  # by Tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def Lock(self, path: str, data: bytes) -> Any:
        self.losses, self.queue = self.tokens.losses, Lock(self, path, data.decode())
        self.queue.assured_path = True
        if self.abandoned:  # the recipe forgets an earlier cancel()
            raise CancelledError
        return self.queue

    # kazoo keeps the function of each watch until the node changes. One function for all attempts is kept once.

    def get(self, path: str, watch: object) -> Any:
        self.watched = path
        return self.real.get(path, self.tokens.wake)

    def get_children(self, path: str, watch: object = None) -> Any:
        if path != self.path:
            return self.real.get_children(path)
        self.watched = path
        return self.tokens.taken(self.tokens.wake)

    # The client's own retry may give up, and the recipe's clean-up tries a delete once: then a node would stay in the queue.

    def retry(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return KazooRetry(max_tries=-1, max_delay=1.0, sleep_func=self.real.handler.sleep_func)(
            call, *args, **kwargs
        )

    def delete(self, path: str) -> None:
        self.retry(self.real.delete, path)

    def take(self) -> bool:
        """Return True when this is a token; False if it was abandoned, or none is free and it does not wait."""
        tokens = self.tokens
        tokens.attempts.append(self)
        try:
            while not self.abandoned:
                if (
                    self.real.client_state == KeeperState.CONNECTING
                ):  # kazoo would wait for a server, abandoned or not
                    if not self.waits:
                        break
                    self.real.handler.sleep_func(0.05)
                    continue
                try:
                    taken = self.acquire(self.waits)
                except (
                    CancelledError,
                    NodeExistsError,
                ):  # the latter: an earlier request, whose answer was lost, made it; the recipe has deleted it
                    continue
                except NoNodeError:
                    raise tokens.unlinked() from None
                with tokens.lock:
                    # If a session ended after the recipe counted the tokens, this one, of the next session, may be one too many.
                    if taken and self.losses == tokens.losses and not self.abandoned:
                        tokens.lost = any(held.losses < self.losses for held in tokens.held)
                        tokens.held.append(self)
                        return True
                if taken:
                    self.put_back()
                elif not self.waits:
                    break
            return False
        finally:
            tokens.attempts.remove(self)
            self.real.remove_listener(
                self._watch_session
            )  # the recipe leaves it to the end of the session

    def left(self) -> float | None:
        """Return the seconds to the deadline, None if there is no deadline."""
        return None if self.deadline is None else max(0, self.deadline - monotonic_ns()) / 1e9

    def abandon(self, error: BaseException) -> bool:
        """End the attempt; if it has succeeded, put the token back. Return False if the error is Empty: the deadline. Raise any other."""
        self.abandoned = True
        self.cancel()
        if self.queue is not None:
            self.queue.cancel()
        self.tokens.run(bool, self.drop)
        if isinstance(error, Empty):
            return False
        raise error

    def drop(self) -> None:
        with self.tokens.lock:
            if self not in self.tokens.held:
                return
            self.tokens.held.remove(self)
        self.put_back()

    def put_back(self) -> None:
        with suppress(
            ConnectionClosedError
        ):  # if the client was stopped, its session has ended, and the token with it
            self.release()
