# SPDX-License-Identifier: Apache-2.0
"""A ZooKeeper server for the whole run, and clients of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from kazoo.client import KazooClient
from server import SESSION, NoServer, Server
from support import wait_for

_servers: list[Server] = []


def pytest_sessionstart() -> None:
    try:
        server = Server()
        _servers.append(server)
        server.start()
    except NoServer as error:
        raise pytest.UsageError(str(error)) from None


def pytest_sessionfinish() -> None:
    while _servers:
        _servers.pop().remove()


@pytest.fixture
def server() -> Server:
    """The server."""
    return _servers[0]


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., KazooClient]]:
    """A function that returns a started client, which is stopped after the test."""
    clients = []

    def start(**options: Any) -> KazooClient:
        retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.3}
        options = {"timeout": SESSION, "connection_retry": retry, **options}
        clients.append(KazooClient(server.address, **options))
        clients[-1].start()
        return clients[-1]

    yield start
    for client in clients:
        client.stop()
        client.close()


@pytest.fixture
def client(connect: Callable[..., KazooClient]) -> KazooClient:
    """A started client."""
    return connect()


def _threads() -> set[threading.Thread]:
    # Python before 3.13 keeps the dummies, which stand for threads of _thread.start_new_thread.
    return {t for t in threading.enumerate() if not isinstance(t, threading._DummyThread)}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a thread."""
    before = _threads()
    yield
    wait_for(lambda: _threads() <= before)
