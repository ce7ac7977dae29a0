# SPDX-License-Identifier: Apache-2.0
"""ZooKeeperSemaphore: one limit for several machines. Only this module needs kazoo."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Callable

from . import _base
from ._common import check_integer, check_name, clock, deadline_of

try:
    from kazoo import exceptions
    from kazoo.client import KazooClient, KazooRetry, KazooState, KeeperState, Semaphore
except ImportError as error:
    command = 'pip install "named-semaphores[zookeeper]" or "kazoo>=2.11"'
    raise ImportError(f"ZooKeeperSemaphore needs kazoo: {command}") from error

Holder = namedtuple("Holder", ("host", "pid", "tokens"))  # noqa: PYI024
_ERRORS = {
    exceptions.NoNodeError: (errno.ENOENT, "the semaphore was unlinked"),
    exceptions.NoAuthError: (errno.EACCES, "an ACL refuses the client"),
    exceptions.ConnectionClosedError: (errno.ECONNABORTED, "the KazooClient is stopped"),
}


class ZooKeeperSemaphore(_base.Semaphore):
    """A counted limit that processes on several machines share by its name: kazoo's recipe.

    Its nodes under ``/named-semaphores/`` stay until ``unlink()``. A token is free again when the
    session of its client ends: the client was stopped, or its process was dead or cut off for the
    session's timeout. A process that is stopped while it acquires holds up all others until its
    session ends. A cut off holder runs on: let it look at ``lost``, or use fencing tokens.

    No timeout ends a wait without a connection. A waiting task has a thread, even if cancelled,
    until its turn comes; the interpreter's end waits for it. Let a thread handle signals: their
    exceptions may block kazoo, be ConnectionAbortedErrors, or leave a node until the session ends.

    Args:
        name: Letters, digits, ``-``, ``_`` and ``.``.
        initial_value: How many tokens, from 1. The number named last holds. None: as it is, or 1.
        client: A started KazooClient. A child of fork needs a client and a semaphore of its own.
        on_lost: Called with this object, in a thread, for each token whose session ends.

    Raises:
        ValueError: An argument is wrong, or, in a method, the number in ZooKeeper.
        FileNotFoundError: The client's chroot does not exist. In a method: somebody unlinked.
        PermissionError, ConnectionAbortedError: An ACL refuses the client; it was stopped.
    """

    def __init__(
        self,
        name: str,
        initial_value: int | None = None,
        *,
        client: KazooClient,
        on_lost: Callable[[ZooKeeperSemaphore], object] | None = None,
    ) -> None:
        self._name, self._process = check_name(name), os.getpid()
        if self._name in ("/.", "/.."):
            raise ValueError(f"semaphore {self._name!r}: ZooKeeper has no such name")
        if initial_value is not None:
            check_integer(self._name, "initial_value", initial_value, 1, 2**31 - 1)
        if not isinstance(client, KazooClient) or client.client_state == KeeperState.CLOSED:
            raise ValueError(f"semaphore {self._name!r}: {client!r} is no started KazooClient")
        self._client, self._on_lost = client, on_lost or (lambda sem: None)
        self._path = f"/named-semaphores{self._name}/tokens"
        self._held: list[_Recipe] = []  # one for each token, the oldest first
        self._call(self._open, initial_value)
        none, leave = (), lambda *_: self.release()
        self._use(SimpleNamespace(tries=none, first_waits=none, posts=none, exit=leave))

    def _open(self, number: int | None) -> None:
        client, data = self._client, b"%d" % (number or 1)
        if client.chroot and not client.exists("/"):
            raise FileNotFoundError(errno.ENOENT, f"no chroot {client.chroot}", self._name)
        try:
            self._linked = bool(client.exists(self._path))
            if not self._linked:
                client.create(self._path, data, makepath=True)
            elif number is not None and client.get(self._path)[0] != data:
                change = client.transaction()  # one step: no node stays if the connection is lost
                change.set_data(self._path, data)
                change.create(f"{self._path}/new-number")  # wakes the first waiter
                change.delete(f"{self._path}/new-number")
                for result in change.commit():
                    if type(result) in _ERRORS:
                        raise result
        except (exceptions.NodeExistsError, exceptions.NoNodeError):
            self._open(number)  # somebody created or unlinked it meanwhile

    @property
    def value(self) -> int:
        """The number of free tokens."""
        total, taken = self._total_and_taken(self._open_handle())
        return max(0, total - taken)

    @property
    def total(self) -> int:
        """The number of all tokens, free and taken."""
        return self._total_and_taken(self._open_handle())[0]

    @property
    def holders(self) -> list[Holder]:
        """Named tuples ``(host, pid, tokens)``; other programs have an identifier and None."""
        self._total_and_taken(self._open_handle())
        counts: Counter[tuple[str, int | None]] = Counter()
        for text in self._call(Semaphore(self._client, self._path).lease_holders):
            ours = re.fullmatch(r"(.+) ([0-9]{1,19}) [0-9a-f]{32}", text)
            counts[(ours[1], int(ours[2])) if ours else (text, None)] += 1
        return [Holder(host, pid, tokens) for (host, pid), tokens in counts.items()]

    @property
    def lost(self) -> bool:
        """Whether the session of a token that this object holds has ended: others may have it."""
        return any(recipe.is_lost for recipe in list(self._held))

    def release(self, n: int = 1) -> None:
        """Put ``n`` tokens back, lost ones too, even when closed. ValueError: it has fewer."""
        self._open_handle(although_closed=True)
        check_integer(self._name, "n", n, 1, len(self._held), ", as many as this object holds")
        recipes = [self._held.pop(0) for _ in range(n)]  # all lost ones are among the oldest
        try:
            self._drop(*recipes)
        except BaseException:  # a signal handler's
            self._drop(*recipes)
            raise

    def unlink(self) -> None:
        """Remove the name. Holders run on; waiters get FileNotFoundError or a holder's token."""
        self._total_and_taken(self._open_handle())
        while True:
            with suppress(exceptions.NotEmptyError):  # somebody came between
                self._call(self._client.delete, os.path.dirname(self._path), recursive=True)
                return

    def _open_handle(self, although_closed: bool = False) -> Any:
        if os.getpid() != self._process:
            raise ValueError(f"semaphore {self._name!r}: a child of fork needs a client of its own")
        return although_closed or super()._open_handle()

    def _wait(self, deadline: int | None, handle: Any) -> bool:
        self._total_and_taken()  # kazoo would create the queue's node again after unlink()
        recipe = _Recipe(self)
        left = None if deadline is None else max(0, deadline - clock()) / 1e9
        try:
            self._call(recipe.acquire, left != 0, left or None)
            if not recipe.is_acquired:
                raise exceptions.LockTimeout
            self._held.append(recipe)
            return True
        except BaseException as end:
            if recipe in self._held:
                self._held.remove(recipe)
            self._drop(recipe)
            with suppress(FileNotFoundError):  # there is no queue yet; kazoo deletes at most once
                for node in self._call(self._client.get_children, recipe.lock_path):
                    path = f"{recipe.lock_path}/{node}"
                    with suppress(FileNotFoundError):  # another one's, deleted meanwhile
                        if self._call(self._client.get, path)[0] == str(recipe.data).encode():
                            self._call(self._client.delete, path)
            if isinstance(end, exceptions.LockTimeout):
                return False
            raise

    async def _acquire_async(self, handle: Any, timeout: float | None) -> bool:
        loop = asyncio.get_running_loop()  # not in its executor, which holders of tokens may need
        work = ThreadPoolExecutor(1).submit(self._wait, deadline_of(timeout), handle)
        try:
            return await asyncio.wrap_future(work, loop=loop)
        except BaseException:  # cancelled: nobody is told of an error of the wait
            work.add_done_callback(
                lambda _: work.cancelled() or work.exception() or (work.result() and handle.exit())
            )
            raise

    def _drop(self, *recipes: _Recipe) -> None:
        for recipe in recipes:
            self._client.remove_listener(recipe.listen)
            self._client.remove_listener(recipe._watch_session)  # kazoo leaves it there
            with suppress(FileNotFoundError, ConnectionAbortedError):  # the session has ended
                self._call(self._client.delete, recipe.create_path)

    def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        sleep = self._client.handler.sleep_func
        try:
            return KazooRetry(-1, max_delay=1.0, sleep_func=sleep)(function, *args, **options)
        except tuple(_ERRORS) as error:
            raise OSError(*_ERRORS[type(error)], self._name) from error

    def _total_and_taken(self, handle: Any = None) -> tuple[int, int]:
        data, stat = self._call(self._client.get, self._path)
        number = int(data) if data.isdigit() and len(data) < 11 else data
        what, hint = f"the number in {self._path}", " (an initial_value replaces it)"
        return check_integer(self._name, what, number, 1, 2**31 - 1, hint), stat.numChildren


class _Recipe(Semaphore):  # type: ignore[misc]
    """kazoo's recipe, for one token. Its number is the one that the node has now."""

    max_leases = property(lambda self: self.sem._total_and_taken()[0], lambda self, number: None)

    def __init__(self, sem: ZooKeeperSemaphore) -> None:
        super().__init__(sem._client, sem._path)
        self.data = f"{socket.gethostname()} {os.getpid()} {self.create_path[-32:]}".encode()
        self.sem, self.is_lost, self.assured_path = sem, False, True  # or kazoo creates it again
        self.client.add_listener(self.listen)

    def listen(self, state: str) -> None:
        if state == KazooState.LOST and self.is_acquired:
            self.is_lost = True
            self.client.handler.spawn(self.sem._on_lost, self.sem)
