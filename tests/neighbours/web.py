# SPDX-License-Identifier: Apache-2.0
"""Web servers that serve ``app.py``, and clients that keep them busy."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import SLOW, wait_for

from named_semaphores import RobustSemaphore

FOLDER = Path(__file__).parent
SCRIPTS = Path(sys.executable).parent
Answer = tuple[int, float, float]  # a worker's pid, and from when to when it held its tokens


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, so that no test needs a free port."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20 * SLOW)
        self.sock.connect(self.host)


class Server:
    """A running web server."""

    def __init__(self, folder: Path, robust: str, named: str, number: int, *command: str) -> None:
        self.robust = robust
        self.path = str(folder / "socket")
        self._number = folder / "number"
        self.tell_number(number)
        self._log = folder / "log"
        given = {"ROBUST": robust, "NAMED": named, "NUMBER": str(self._number)}
        words = [part.format(socket=self.path) for part in command]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                words,
                cwd=FOLDER,
                env={**os.environ, **given, "PYTHONWARNINGS": "ignore"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def tell_number(self, number: int) -> None:
        """Let workers that begin later name this number of tokens."""
        self._number.write_text(str(number))

    def log(self) -> str:
        return self._log.read_text()

    def get(self, seconds: float) -> Answer:
        """Let a worker hold its tokens for so long; return its answer.

        Raises:
            ConnectionError: The server does not listen, or the worker was killed.
        """
        with contextlib.closing(_Connection(self.path)) as connection:
            try:
                connection.request("GET", f"/{seconds}")
                response = connection.getresponse()
                body = response.read()
            except (FileNotFoundError, http.client.HTTPException) as error:
                raise ConnectionError(*error.args) from error
        assert response.status == 200, self.log()
        pid, start, end = json.loads(body)
        return pid, start, end

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(ConnectionError):
            self.get(0)
            return True
        return False

    def stop(self) -> None:
        """End the server and its workers."""
        try:
            self.process.send_signal(signal.SIGINT)
            for _ in range(10 * SLOW):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(2)
                    return
                # uWSGI's workers miss the master's signal in their first moments.
                os.killpg(self.process.pid, signal.SIGINT)
            raise AssertionError(f"the server does not end: {self.log()}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[Server]:
    """Run a server during the block; the arguments are those of ``Server``."""
    server = Server(*arguments)  # type: ignore[arg-type]
    try:
        wait_for(server.is_up)
        yield server
    finally:
        server.stop()
        # uWSGI's master calls no atexit functions, and gunicorn's may have forked just before: then
        # the set stays, without users, until the next process opens and closes the name.
        RobustSemaphore(server.robust).close()


class Load:
    """Clients that make requests during a with statement."""

    def __init__(self, server: Server, clients: int) -> None:
        self._server, self._clients = server, clients
        self.answers: list[Answer] = []
        self.lost = 0  # requests of workers that were killed
        self._stopped = threading.Event()

    def _ask(self) -> None:
        while not self._stopped.is_set():
            try:
                self.answers.append(self._server.get(0.01))
            except ConnectionError:
                self.lost += 1
                self._stopped.wait(0.01)

    def pids(self) -> set[int]:
        """Return the workers that have answered."""
        return {pid for pid, _, _ in self.answers}

    def wait_for_answers(self, count: int, since: float) -> list[Answer]:
        """Return the answers to requests that got their tokens since then: at least so many."""
        found: list[Answer] = []

        def are_there() -> bool:
            found[:] = [answer for answer in self.answers if answer[1] >= since]
            return len(found) >= count

        wait_for(are_there)
        return found

    def assert_at_once(self, number: int, since: float) -> None:
        """Assert that since then so many requests held a token at the same moment, and no more."""
        wait_for(lambda: most_at_once(self.wait_for_answers(50, since)) >= number)
        assert most_at_once(self.wait_for_answers(50, since)) == number

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(self._clients)
        self._asking = [self._pool.submit(self._ask) for _ in range(self._clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown()
        for client in self._asking:
            client.result()  # raises what ended the client


def most_at_once(answers: list[Answer]) -> int:
    """Return how many requests held a token at the same moment."""
    # An end comes before a start of the same moment.
    changes = sorted(change for _, start, end in answers for change in ((start, 1), (end, -1)))
    return max(itertools.accumulate(change for _, change in changes), default=0)


def assert_kills_lose_no_token(server: Server, number: int) -> None:
    """Kill workers that hold tokens of a server that has so many."""
    monitor = RobustSemaphore(server.robust)
    with Load(server, clients=6) as load:
        for _ in range(6):
            wait_for(lambda: monitor.holders)
            for pid, _ in monitor.holders[:1]:
                os.kill(pid, signal.SIGKILL)
            load.wait_for_answers(10, since=time.monotonic())
        load.assert_at_once(number, since=0)
    assert load.lost
    wait_for(lambda: not monitor.holders)
    assert (monitor.value, monitor.total, monitor.waiting) == (number, number, 0)
    monitor.close()
