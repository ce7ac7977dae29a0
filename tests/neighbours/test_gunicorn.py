# SPDX-License-Identifier: Apache-2.0
"""gunicorn: its workers are killed, replaced by a reload with another number, or run greenlets."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from support import wait_for
from web import Load, Server, assert_kills_lose_no_token, serving

from named_semaphores import RobustSemaphore

pytest.importorskip("gunicorn")

COMMAND = (sys.executable, "-m", "gunicorn", "--bind", "unix:{socket}", "app:application")
SYNC = ("--workers", "6")
# Each of these serves many requests at once.
GREENLETS = ("--worker-class", "gevent", "--workers", "3")


def gunicorn(folder: Path, name: str, number: int, *options: str):
    if "gevent" in options:
        pytest.importorskip("gevent")
    return serving(folder, name, "", number, *COMMAND, *options)


def reload(server: Server, monitor: RobustSemaphore, number: int) -> float:
    """Reload the server with this number; return when it was in force."""
    server.tell_number(number)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: monitor.total == number)
    wait_for(lambda: sum(tokens for _, tokens in monitor.holders) <= number)
    return time.monotonic()


@pytest.mark.parametrize("workers", [SYNC, GREENLETS], ids=["sync", "gevent"])
def test_the_number_named_at_a_reload_holds(workers, name, tmp_path):
    monitor = RobustSemaphore(name)  # opened first, without a number
    assert monitor.total == 1
    with gunicorn(tmp_path, name, 2, *workers) as server:
        with Load(server, clients=8) as load:
            before, since = set(), 0
            for number in (2, 4, 1, 3):
                if number != 2:
                    since = reload(server, monitor, number)
                load.assert_at_once(number, since)
                # All of them: one that begins late would name its number after the next reload.
                wait_for(lambda before=before: len(load.pids() - before) == int(workers[-1]))
                before = load.pids()
        assert server.process.poll() is None, server.log()
        wait_for(lambda: not monitor.holders)
        assert (monitor.value, monitor.total, monitor.waiting) == (3, 3, 0)
        monitor.close()


PRELOAD = (*SYNC, "--preload")


@pytest.mark.parametrize("workers", [SYNC, PRELOAD, GREENLETS], ids=["sync", "preload", "gevent"])
def test_a_killed_worker_loses_no_token(workers, name, tmp_path):
    with gunicorn(tmp_path, name, 2, *workers) as server:
        assert_kills_lose_no_token(server, 2)
