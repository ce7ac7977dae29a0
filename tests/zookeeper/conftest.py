# SPDX-License-Identifier: Apache-2.0
"""A ZooKeeper server for the whole run, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

import pytest
from kazoo.client import KazooClient
from server import NoServer, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server."""
    try:
        server = Server()
    except NoServer as error:
        pytest.exit(str(error), 1)
    yield server
    server.remove()


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., KazooClient]]:
    """A function that returns a started client, which is stopped after the test."""
    clients = []

    def start(**options: Any) -> KazooClient:
        retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.3}
        options = {"timeout": 10, "connection_retry": retry, **options}
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
