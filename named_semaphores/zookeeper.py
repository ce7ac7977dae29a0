# SPDX-License-Identifier: Apache-2.0
"""ZooKeeperSemaphore: one limit for several machines. Only this module needs kazoo."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from _thread import start_new_thread
from collections import Counter, namedtuple
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from types import SimpleNamespace

from ._base import Semaphore
from ._checks import check_integer, check_name, clock, deadline_of

try:
    from kazoo import exceptions
    from kazoo.client import KazooClient, KazooRetry, KazooState, KeeperState, Lock
except ImportError as error:
    command = 'pip install "named-semaphores[zookeeper]" or "kazoo>=2.11"'
    raise ImportError(f"ZooKeeperSemaphore needs kazoo: {command}") from error

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any

Holder = namedtuple("Holder", ("host", "pid", "tokens"))  # noqa: PYI024

_UNLINKED = b"unlinked"  # instead of the number of tokens, while unlink() deletes the nodes
_ERRORS = {
    exceptions.NoNodeError: (errno.ENOENT, "the semaphore was unlinked"),
    exceptions.NoAuthError: (errno.EACCES, "an ACL refuses the client"),
    exceptions.ConnectionClosedError: (errno.ECONNABORTED, "the KazooClient is stopped"),
}


class ZooKeeperSemaphore(Semaphore):
    """A counted limit that processes on several machines share by its name.

    It uses kazoo's Lock recipe for its queue, and the nodes of kazoo's Semaphore recipe, under
    ``/named-semaphores/``. They stay until ``unlink()``. A pair of calls takes milliseconds.

    A token belongs to the client's session. It is free again when that ends: the client was
    stopped, or its process was dead, stopped or cut off for the session's timeout. A process that is
    stopped while it acquires holds up all others until then. A holder that was cut off runs on until
    it looks at ``lost``. If two holders must never overlap, use fencing tokens.

    A wait lasts as long as kazoo's: a timeout does not end it while the connection is suspended.
    ``async with`` does not wait until its token is back.

    Args:
        name: Letters, digits, ``-``, ``_`` and ``.``.
        initial_value: The number of tokens, from 1. The number named last holds for everybody;
            waiters notice it within a second. None: the number that is there, or else 1.
        client: A started KazooClient. A child of fork needs a client and a semaphore of its own.
        on_lost: Called with this object, in a thread, when a session ends while this object holds
            tokens. The client then keeps this object.

    Raises:
        ValueError: An argument is wrong. In a method: the node has no number of tokens.
        FileNotFoundError: The client's chroot does not exist. In a method: somebody unlinked.
        PermissionError: An ACL refuses the client, here or in a method.
        ConnectionAbortedError: The client was stopped. Methods raise it.
    """

    _tries: Any = ()  # so that Semaphore.acquire calls _wait or _wait_endless

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
            what = f"client must be a started KazooClient, not {client!r}"
            raise ValueError(f"semaphore {self._name!r}: {what}")
        self._client, self._on_lost = client, on_lost
        self._path = f"/named-semaphores{self._name}/tokens"
        self._held: list[Lock] = []  # the kazoo Lock by which each token was taken, oldest first
        self._released_lost = False
        self._mutex = client.handler.lock_object()  # of _held; only for threads without signals
        self._changed = client.handler.event_object()  # for the attempt that is first in the queue
        self._call(self._open, initial_value)
        self._handle = client
        if on_lost is not None:
            client.add_listener(self._listen)

    @property
    def value(self) -> int:
        """The number of free tokens."""
        total, taken = self._read(self._open_handle())
        return max(0, total - taken)

    @property
    def total(self) -> int:
        """The number of all tokens, free and taken."""
        return self._read(self._open_handle())[0]

    @property
    def holders(self) -> list[Holder]:
        """Named tuples ``(host, pid, tokens)``, one for each process that holds tokens.

        For another program's token, host is the identifier of that program, and pid is None.
        """
        self._read(self._open_handle())
        counts: Counter[tuple[str, int | None]] = Counter()
        for node in self._call(self._client.get_children, self._path):
            with suppress(FileNotFoundError):  # released meanwhile
                data, _ = self._call(self._client.get, f"{self._path}/{node}")
                host, _, pid = data.decode("utf-8", "replace").rpartition(" ")
                is_ours = host and pid.isdecimal() and len(pid) < 20
                counts[(host, int(pid)) if is_ours else (f"{host} {pid}".strip(), None)] += 1
        return [Holder(host, pid, tokens) for (host, pid), tokens in counts.items()]

    @property
    def lost(self) -> bool:
        """Whether a session ended while this object held a token, so that others may have it.

        False again when that token has been released and another one is taken.
        """
        return self._released_lost or any(map(self._is_lost, list(self._held)))

    def release(self, n: int = 1) -> None:
        """Put ``n`` tokens back, also after ``close()``. A lost token must be released, too.

        Raises:
            ValueError: This object holds fewer; none is put back.
        """
        self._open_handle(although_closed=True)
        self._in_thread(self._put_back, check_integer(self._name, "n", n, 1))

    def unlink(self) -> None:
        """Remove the name. Whoever waits gets FileNotFoundError; holders run on."""
        self._read(self._open_handle())
        # Deleting begins with the tokens of the holders, which waiters must not take.
        self._call(self._client.set, self._path, _UNLINKED)
        while True:
            with suppress(exceptions.NotEmptyError):  # somebody came between
                self._call(self._client.delete, os.path.dirname(self._path), recursive=True)
                return

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"holds {len(self._held)}"
        return f"<{type(self).__name__} {self._name!r} {state}>"

    # What Semaphore and Hold call:

    def _open_handle(self, although_closed: bool = False) -> Any:
        if os.getpid() != self._process:
            what = "a KazooClient does not survive fork: a child needs a client and a semaphore"
            raise ValueError(f"semaphore {self._name!r}: {what} of its own")
        return self._client if although_closed else super()._open_handle()

    def _handle_for(self, n: int) -> Any:
        self._open_handle()
        return SimpleNamespace(tries=(), leave=self._exit)

    def _exit(self, *_: object) -> None:
        if os.getpid() != self._process:  # a child of fork has none of its parent's tokens
            return
        if asyncio._get_running_loop() is None:
            self.release()
        else:  # the loop must not wait for ZooKeeper
            start_new_thread(self._put_back, (1,))

    def _wait_endless(self, handle: Any = None) -> bool:
        return self._wait(None, handle)

    def _wait(self, deadline: int | None, handle: Any) -> bool:
        lock = self._lock()
        try:
            return bool(self._in_thread(self._attempt, lock, deadline))
        except BaseException:
            self._abandon(lock)
            raise

    async def _acquire_async(self, handle: Any, timeout: float | None) -> bool:
        lock = self._lock()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a cancelled task does not cancel the future
        deadline = deadline_of(self._name, timeout)
        start_new_thread(_answer, (future.set_result, self._attempt, lock, deadline))
        try:
            return bool(_result(await asyncio.wrap_future(future)))
        except BaseException:
            self._abandon(lock)
            raise

    def _who_holds(self) -> str:
        return "".join(f"; {pid} on {host} holds {n}" for host, pid, n in self.holders)

    # Requests to ZooKeeper:

    def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call until the connection holds. Errors name the semaphore."""
        sleep = self._client.handler.sleep_func
        try:
            return KazooRetry(-1, max_delay=1.0, sleep_func=sleep)(function, *args, **options)
        except tuple(_ERRORS) as error:
            raise OSError(*_ERRORS[type(error)], self._name) from error

    def _open(self, number: int | None) -> None:
        client, data = self._client, b"%d" % (number or 1)
        while True:  # again, if it is unlinked meanwhile
            if client.chroot and not client.exists("/"):
                what = f"semaphore {self._name!r}: the client's chroot does not exist"
                raise FileNotFoundError(errno.ENOENT, what, client.chroot)
            with suppress(exceptions.NoNodeError, exceptions.NotEmptyError):
                self._linked = True
                with suppress(exceptions.NodeExistsError):
                    client.create(self._path, data, makepath=True)
                    self._linked = False
                client.ensure_path(f"{self._path}-__lock__")
                found, stat = client.get(self._path)
                if found == _UNLINKED:  # whoever unlinks it may have died
                    client.delete(os.path.dirname(self._path), recursive=True)
                    continue
                if number is not None and found != data:
                    with suppress(exceptions.BadVersionError):  # another one names its own now
                        client.set(self._path, data, stat.version)
                self._created = stat.czxid
                return

    def _read(self, client: KazooClient) -> tuple[int, int]:
        """Return the number of tokens, and how many of them are taken."""
        data, stat = self._call(client.get, self._path)
        if data == _UNLINKED or stat.czxid != self._created:  # or another one of this name
            raise FileNotFoundError(*_ERRORS[exceptions.NoNodeError], self._name)
        if not data.isdigit() or len(data) > 10 or not int(data):
            what = f"{data!r} in the node {self._path} is no number of tokens"
            raise ValueError(f"semaphore {self._name!r}: {what}; an initial_value replaces it")
        return int(data), stat.numChildren

    def _lock(self) -> Lock:
        """Return a kazoo Lock: an attempt's place in the queue, and then its token."""
        identifier = f"{socket.gethostname()} {os.getpid()}"
        lock = Lock(self._open_handle(), f"{self._path}-__lock__", identifier)
        lock.assured_path = True  # kazoo would create it again after unlink()
        lock.token = f"{self._path}/{lock.prefix}"  # the path of the token's node
        lock.taken = False
        return lock

    def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Make the call in a thread, where no signal handler runs, and wait for it.

        kazoo waits by threading.Condition. An exception of a signal handler may leave the lock of
        that taken, and kazoo's own threads would then wait for it forever. Thread.start() waits in
        the same way; start_new_thread is one C call.
        """
        outcomes: SimpleQueue[Any] = SimpleQueue()
        start_new_thread(_answer, (outcomes.put, function, *args))
        return _result(outcomes.get())

    def _attempt(self, lock: Lock, deadline: int | None) -> bool:
        try:
            lock.taken = self._call(self._try, lock, deadline)
        except (exceptions.LockTimeout, exceptions.CancelledError):
            pass
        finally:
            if not lock.taken:
                with suppress(FileNotFoundError, ConnectionAbortedError):
                    if node := lock.node or self._call(lock._find_node):
                        self._delete(f"{lock.path}/{node}")
                self._drop(lock)
        if lock.cancelled:
            self._undo(lock)
        return bool(lock.taken)

    def _abandon(self, lock: Lock) -> None:
        """End an attempt for whose result nobody waits any more."""
        lock.cancel()
        self._changed.set()
        start_new_thread(self._undo, (lock,))

    def _undo(self, lock: Lock) -> None:
        with self._mutex:  # the attempt and _abandon may both call this
            is_taken, lock.taken = lock.taken, False
        if is_taken:
            self._put_back(1)

    def _try(self, lock: Lock, deadline: int | None) -> bool:
        """Wait in kazoo's queue, and create a node as kazoo's Semaphore does."""
        lock.is_acquired, lock.node, lock.session = False, None, self._client._session_id
        left = _left(deadline)
        if not lock.acquire(left != 0, left or None):
            return False
        while not (lock.cancelled or self._is_lost(lock)):
            left = _left(deadline)
            self._changed.clear()
            if left != 0:
                self._call(self._client.get_children, self._path, self._wake)
            total, taken = self._read(self._client)
            if taken < total:
                with suppress(exceptions.NodeExistsError):  # by a request whose answer was lost
                    self._call(self._client.create, lock.token, lock.data, ephemeral=True)
                with self._mutex:
                    self._held.append(lock)
                if self._is_lost(lock):  # others may have been the first in the queue meanwhile
                    break
                self._delete(f"{lock.path}/{lock.node}")
                self._released_lost = False
                return True
            if left == 0:
                return False
            self._changed.wait(min(1.0, left or 1.0))
        self._drop(lock)
        raise exceptions.CancelledError if lock.cancelled else exceptions.SessionExpiredError

    def _put_back(self, n: int) -> None:
        with self._mutex:
            if n > len(self._held):
                what = f"this object holds {len(self._held)} tokens, and cannot release {n}"
                raise ValueError(f"semaphore {self._name!r}: {what}")
            # The oldest first: all lost ones are among them.
            tokens, self._held = self._held[:n], self._held[n:]
        for token in tokens:
            self._released_lost = self._released_lost or self._is_lost(token)
            self._delete(token.token)

    def _drop(self, lock: Lock) -> None:
        with self._mutex, suppress(ValueError):
            self._held.remove(lock)
        self._delete(lock.token)

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError, ConnectionAbortedError):  # the session's end deletes, too
            self._call(self._client.delete, path)

    def _is_lost(self, lock: Lock) -> bool:
        is_over = self._client.state == KazooState.LOST
        return is_over or bool(lock.session != self._client._session_id)

    def _listen(self, state: str) -> None:
        sessions = [lock.session for lock in list(self._held)]
        if state == KazooState.LOST and self._client._session_id in sessions:
            start_new_thread(self._on_lost, (self,))  # type: ignore[arg-type]

    def _wake(self, event: object) -> None:
        self._changed.set()


def _left(deadline: int | None) -> float | None:
    return None if deadline is None else max(0, deadline - clock()) / 1e9


def _answer(answer: Callable[[Any], object], function: Callable[..., Any], *args: Any) -> None:
    try:
        outcome = function(*args)
    except BaseException as error:
        outcome = error
    answer(outcome)


def _result(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
