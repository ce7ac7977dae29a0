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
client.stop()
"""
# For each process three bytes: whether it is inside, the most that it saw inside, its entries.
WORKER = f"""{CLIENT}
number, slot = int(sys.argv[4]), int(sys.argv[5])
with open(sys.argv[6], "r+b") as file:
    cells = mmap.mmap(file.fileno(), 0)
while True:
    with sem:
        cells[slot] = 1
        cells[number + slot] = max(cells[number + slot], sum(cells[:number]))
        cells[2 * number + slot] = min(255, cells[2 * number + slot] + 1)
        time.sleep(random.random() / 10)
        cells[slot] = 0
"""


def test_a_killed_holders_token_comes_back_with_its_sessions_end(server, client, name, full):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    for _ in range(10 if full else 2):
        with start_python(HOLDER, server.address, name, str(SESSION)) as holder:
            assert holder.stdout.readline() == "holds\n"
            holder.kill()
            killed = time.monotonic()
        assert sem.acquire(timeout=60 * SLOW)
        # The server heard of it up to a third of the timeout before, and looks once a tick.
        assert SESSION / 2 < time.monotonic() - killed < SESSION + 2 * TICK / 1000 + 5 * SLOW
        sem.release()


def test_a_stopped_holder_knows_that_it_lost_its_token(server, client, name):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    with start_python(HOLDER, server.address, name, str(SESSION)) as holder:
        assert holder.stdout.readline() == "holds\n"
        holder.send_signal(signal.SIGSTOP)
        assert sem.acquire(timeout=60 * SLOW)
        holder.send_signal(signal.SIGCONT)
        assert holder.stdout.readline() == "lost\n"
    assert holder.returncode == 0
    assert sem.value == 0  # its release took nothing from the new holder
    sem.release()


@pytest.mark.timeout(300)
def test_never_more_inside_than_there_are_tokens(server, client, name, tmp_path, full):
    tokens, number, seconds, path = 3, 8, 60 if full else 8, tmp_path / "cells"
    path.write_bytes(bytes(3 * number))
    sem = ZooKeeperSemaphore(name, tokens, client=client)

    def start(slot):
        arguments = server.address, name, str(SESSION), str(number), str(slot), str(path)
        return start_python(WORKER, *arguments)

    workers = [start(slot) for slot in range(number)]
    try:
        wait_for(lambda: all(path.read_bytes()[2 * number :]))
        end, restart = time.monotonic() + seconds, time.monotonic() + seconds / 2
        while time.monotonic() < end:
            time.sleep(random.random())
            slot = random.randrange(number)
            workers[slot].kill()
            workers[slot].communicate()
            with open(path, "r+b") as file:
                file.seek(slot)
                file.write(b"\0")
            workers[slot] = start(slot)
            if time.monotonic() > restart:
                restart = end
                server.stop(signal.SIGKILL)
                server.start()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert max(path.read_bytes()[number : 2 * number]) == tokens
    wait_for(lambda: sem.value == tokens)
    wait_for(lambda: client.get_children(f"/named-semaphores{name}/tokens-__lock__") == [])
