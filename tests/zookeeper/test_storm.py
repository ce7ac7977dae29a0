# SPDX-License-Identifier: Apache-2.0
"""Processes that are killed and stopped, and a server that is killed. ``--full`` takes a minute."""

from __future__ import annotations

import random
import signal
import time

import pytest
from server import SESSION, TICK
from support import SLOW, start_python, wait_for

from named_semaphores.zookeeper import ZooKeeperSemaphore

CLIENT = """
import logging, mmap, random, sys, time
from kazoo.client import KazooClient
from named_semaphores.zookeeper import ZooKeeperSemaphore
logging.getLogger("kazoo").setLevel(logging.CRITICAL)
retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.3}
client = KazooClient(sys.argv[1], timeout=float(sys.argv[3]), connection_retry=retry)
client.start()
sem = ZooKeeperSemaphore(sys.argv[2], client=client)
"""
HOLDER = f"""{CLIENT}
with sem:
    print("holds", flush=True)
    while not sem.lost:
        time.sleep(0.001)
    print("lost", flush=True)
"""
# For each process a byte that says whether it is inside, and one for the most that it saw inside.
WORKER = f"""{CLIENT}
number, slot = map(int, sys.argv[5:])
with open(sys.argv[4], "r+b") as file:
    cells = mmap.mmap(file.fileno(), 0)
while True:
    with sem:
        cells[slot] = 1
        cells[number + slot] = max(cells[number + slot], sum(cells[:number]))
        time.sleep(random.random() / (1 if max(cells[number:]) < 3 else 10))
        cells[slot] = 0
"""


def test_a_dead_or_stopped_holders_token_comes_back(server, client, name, full):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    for number in (signal.SIGKILL, signal.SIGSTOP) * (5 if full else 1):
        with start_python(HOLDER, server.address, name, str(SESSION)) as holder:
            assert holder.stdout.readline() == "holds\n"
            holder.send_signal(number)
            sent = time.monotonic()
            assert sem.acquire(timeout=60 * SLOW)
            # The server heard of it up to a third of the timeout before, and looks once a tick.
            assert SESSION / 4 < time.monotonic() - sent < SESSION + 2 * TICK / 1000 + 20 * SLOW
            holder.send_signal(signal.SIGCONT)
            assert holder.stdout.read() == ("lost\n" if number == signal.SIGSTOP else "")
        assert sem.value == 0  # the stopped one's release took nothing from the new holder
        sem.release()


@pytest.mark.timeout(300)
def test_never_more_inside_than_there_are_tokens(server, client, name, tmp_path, full):
    number, path = 8, tmp_path / "cells"
    path.write_bytes(bytes(2 * number))
    sem = ZooKeeperSemaphore(name, 3, client=client)
    given = server.address, name, str(SESSION), str(path), str(number)
    workers = [start_python(WORKER, *given, str(slot)) for slot in range(number)]
    try:
        wait_for(lambda: all(path.read_bytes()[number:]))
        for kill in range(100 if full else 12):
            time.sleep(random.random())
            slot = random.randrange(number)
            workers[slot].kill()
            workers[slot].communicate()
            with open(path, "r+b") as file:
                file.seek(slot)
                file.write(b"\0")
            workers[slot] = start_python(WORKER, *given, str(slot))
            if kill == 6:
                server.stop(signal.SIGKILL)
                server.start()
        wait_for(lambda: max(path.read_bytes()[number:]) >= 3)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert max(path.read_bytes()[number:]) == 3
    wait_for(lambda: sem.value == 3)
    wait_for(lambda: client.get_children(f"/named-semaphores{name}/tokens-__lock__") == [])
