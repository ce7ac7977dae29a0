# SPDX-License-Identifier: Apache-2.0
"""ZooKeeperSemaphore on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from holders import in_child
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss
from kazoo.security import make_digest_acl
from support import SLOW, in_threads, run_python, strike, thread, wait_for

from named_semaphores.zookeeper import ZooKeeperSemaphore


def tokens(name):
    """Return the path of the nodes of those who hold tokens."""
    return f"/named-semaphores{name}/tokens"


def queue(sem):
    """Return the nodes of those who wait."""
    return sem._client.get_children(f"{tokens(sem.name)}-__lock__")


@contextlib.contextmanager
def waiting(sem):
    """Let a thread, and nobody else, wait in the block; yield a list that will get its result."""
    with thread(sem.acquire) as got:
        wait_for(lambda: len(queue(sem)) == 1)
        yield got


def end_session(client):
    """Have the server end the client's session, and return when the client has another one."""
    old = client.client_id
    twin = KazooClient(f"127.0.0.1:{client.hosts[0][1]}", client_id=old)
    twin.start()
    twin.stop()
    twin.close()
    wait_for(lambda: client.client_id not in (None, old))


def strike_when(condition, call):
    """Let a signal handler's exception end the call, a moment after the condition is true."""

    def send():
        wait_for(condition)
        time.sleep(0.2)  # until it waits
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    with thread(send):
        strike(call, 60 * SLOW)


def lose(client, monkeypatch, nth, kind=""):
    """Have the client lose its nth request, or the nth one of a kind."""
    call, numbers = client._call, iter(range(1, 1000))

    def lossy(request, result):
        if kind in type(request).__name__ and next(numbers) == nth:
            raise ConnectionLoss
        return call(request, result)

    monkeypatch.setattr(client, "_call", lossy)


@pytest.fixture
def pair(connect, name):
    """Two objects of one name with one token, each with a client of its own."""
    return tuple(ZooKeeperSemaphore(name, 1, client=connect()) for _ in range(2))


def test_tokens_are_taken_and_put_back(client, name):
    sem = ZooKeeperSemaphore(name[1:], 3, client=client)
    assert (sem.name, sem.total, sem.value, sem.lost, sem.closed) == (name, 3, 3, False, False)
    assert [sem.acquire(), sem.acquire(False), sem.acquire(timeout=5)] == [True] * 3
    assert [sem.acquire(False), sem.acquire(timeout=0), sem.value] == [False, False, 0]
    assert repr(sem) == f"<ZooKeeperSemaphore {name!r} value=0>"
    sem.release()
    with pytest.raises(ValueError, match=f"{name}.*n must be an int from 1 to 2, .*, not 3"):
        sem.release(3)
    sem.release(2)
    assert sem.value == 3


def test_with_statements_hold_a_token(pair, name):
    sem, other = pair
    hold = other.hold(timeout=0.1)

    async def use():
        async with hold as entered:
            assert (entered, sem.value) == (other, 0)

    with pytest.raises(ZeroDivisionError), sem as entered:
        assert (entered, sem.value) == (sem, 0)
        with pytest.raises(TimeoutError, match=f"'{name}': no token was free within 0.1 s"), hold:
            pass
        with pytest.raises(TimeoutError, match=name):
            asyncio.run(use())
        raise ZeroDivisionError
    asyncio.run(use())
    assert sem.value == 1


def test_kazoos_own_semaphore_shares_the_tokens(client, name):
    sem = ZooKeeperSemaphore(name, 2, client=client)
    theirs = client.Semaphore(tokens(name), "their job", max_leases=2)
    with sem, theirs:
        both = {(socket.gethostname(), os.getpid(), 1), ("their job", None, 1)}
        assert ({*sem.holders}, sem.holders[0].tokens) == (both, 1)
        assert not sem.acquire(timeout=0.1)
    with sem, sem:
        assert [holder.tokens for holder in sem.holders] == [2]
        assert not theirs.acquire(blocking=False)
    assert sem.holders == []


@pytest.mark.parametrize("lost", range(7))
def test_the_number_named_last_holds(client, pair, name, monkeypatch, lost):
    sem, other = pair
    assert (sem.linked_existing_semaphore, other.linked_existing_semaphore) == (False, True)
    sem.acquire()
    with waiting(other) as got:
        lose(client, monkeypatch, lost)
        assert ZooKeeperSemaphore(name, 2, client=client).total == 2
    assert got == [True]
    ZooKeeperSemaphore(name, 1, client=client)
    other.release()
    assert (other.total, len(other.holders), other.acquire(False)) == (1, 1, False)


def test_a_node_without_a_number_is_named(client, pair, name):
    for data in (b"many", b"0", b"1" * 5000, b""):
        client.set(tokens(name), data)
        for use in (lambda: pair[0].value, pair[0].acquire):
            with pytest.raises(ValueError, match=f"{name}.*the number in .* must be an int"):
                use()
    assert ZooKeeperSemaphore(name, 2, client=client).value == 2


def test_bad_arguments_are_refused(client, name):
    for bad in (".", "..", "a/b", ""):
        with pytest.raises(ValueError, match="name"):
            ZooKeeperSemaphore(bad, client=client)
    for number in (0, -1, 1.5, "3", 2**31):
        with pytest.raises(ValueError, match=f"{name}.*initial_value must be .*, not {number!r}"):
            ZooKeeperSemaphore(name, number, client=client)
    for other in ("localhost", KazooClient()):
        with pytest.raises(ValueError, match=f"{name}.* is no started KazooClient"):
            ZooKeeperSemaphore(name, client=other)


def test_a_client_may_have_a_root_if_it_exists(server, client, name):
    rooted = KazooClient(f"{server.address}{name}")
    with pytest.warns(UserWarning, match="chroot"):
        rooted.start()
    with pytest.raises(FileNotFoundError, match=f"no chroot {name}"):
        ZooKeeperSemaphore(name, client=rooted)
    client.create(name)
    with ZooKeeperSemaphore(name, 1, client=rooted):
        assert len(client.get_children(f"{name}{tokens(name)}")) == 1
    rooted.stop()
    rooted.close()


def test_an_acl_that_refuses_is_named(client, pair, name):
    sem = pair[0]
    client.add_auth("digest", "user:secret")
    client.set_acls(tokens(name), [make_digest_acl("user", "secret", all=True)])
    for use in (lambda: sem.value, lambda: sem.holders, sem.acquire, sem.unlink):
        with pytest.raises(PermissionError, match=f"an ACL refuses the client: '{name}'"):
            use()
    with pytest.raises(PermissionError, match=name):
        ZooKeeperSemaphore(name, 2, client=sem._client)


def test_a_timeout_is_not_early_and_leaves_nothing_behind(pair, monkeypatch):
    sem, other = pair
    before = len(sem._client.state_listeners)
    with sem, waiting(other) as got:
        start = time.monotonic()
        assert not sem.acquire(timeout=0.3)
        assert 0.3 <= time.monotonic() - start < 0.3 + 20 * SLOW
        lose(sem._client, monkeypatch, 1, "Delete")
        assert not sem.acquire(False)
        assert len(queue(sem)) == 1
        sem.release()
        wait_for(lambda: got == [True])
        other.release()
        sem.acquire()
    assert (sem.value, len(sem._client.state_listeners)) == (1, before)


def test_after_close_only_what_is_held_can_be_released(pair, name):
    sem, other = pair
    with sem:
        with waiting(other) as got:
            other.close()
            sem.release()
        assert (got, repr(other)) == ([True], f"<ZooKeeperSemaphore {name!r} closed>")
        for use in (other.acquire, lambda: other.value, other.unlink, other.hold):
            with pytest.raises(ValueError, match=f"{name}' is closed"):
                use()
        other.release()
        sem.acquire()
    with pytest.raises(ValueError, match="as many as this object holds"):
        other.release()
    assert sem.value == 1


def test_readmes_block_runs(server):
    path = os.path.join(os.path.dirname(__file__), "..", "..", "README.md")
    with open(path, encoding="utf-8") as file:
        (block,) = re.findall(r"```python zookeeper\n(.*?)```", file.read(), re.DOTALL)
    done = run_python(re.sub(r'KazooClient\(".*?"', f'KazooClient("{server.address}"', block))
    assert (done.returncode, done.stderr) == (0, "")


def test_unlink_ends_waits_and_frees_the_name(client, pair, name):
    sem, ended = pair[0], []

    def wait():
        try:
            ended.append(pair[1].acquire())
        except FileNotFoundError as error:
            ended.append(error.filename)

    sem.acquire()
    with thread(wait), thread(wait):
        wait_for(lambda: len(queue(sem)) == 2)
        sem.unlink()
    assert set(ended) <= {True, name}  # a token that was removed with the name
    for use in (sem.acquire, lambda: sem.acquire(False), lambda: sem.value, sem.unlink):
        with pytest.raises(FileNotFoundError, match="the semaphore was unlinked"):
            use()
    sem.release()  # of nothing any more
    assert not client.exists(f"/named-semaphores{name}")


def test_unlink_works_while_others_come_and_go(connect, name):
    clients = [connect() for _ in range(5)]

    def come_and_go():
        client = clients.pop()
        for _ in range(15):
            with contextlib.suppress(FileNotFoundError):
                ZooKeeperSemaphore(name, 2, client=client).unlink()

    in_threads(5, come_and_go)
    assert ZooKeeperSemaphore(name, 3, client=connect()).value == 3


def test_tasks_wait_while_the_loop_runs(client, name):
    sem, inside = ZooKeeperSemaphore(name, 2, client=client), []

    async def work():
        async with sem:
            assert len(inside) < 2
            inside.append(1)
            await asyncio.to_thread(time.sleep, 0.02)
            inside.pop()

    async def main():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await asyncio.gather(*(work() for _ in range(20)))
        async with sem, sem:
            assert not await sem.acquire_async(timeout=0.2)

    asyncio.run(main())
    assert sem.value == 2


def test_a_cancelled_task_has_no_token_and_leaves_no_node(client, name, full):
    sem = ZooKeeperSemaphore(name, 1, client=client)

    async def main():
        for number in range(1000 if full else 100):
            task = asyncio.ensure_future(sem.acquire_async())
            await asyncio.sleep(number % 15 / 1000)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
                sem.release()

    asyncio.run(main())
    wait_for(lambda: (sem.value, queue(sem)) == (1, []))


def test_nobody_is_told_of_an_error_in_a_cancelled_tasks_wait(pair, caplog):
    sem, other = pair

    async def main():
        task = asyncio.ensure_future(sem.acquire_async())
        while not queue(sem):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other.unlink()

    with other:
        asyncio.run(main())
    wait_for(lambda: not any("ThreadPool" in each.name for each in threading.enumerate()))
    assert "callback" not in caplog.text


def test_an_exception_in_a_wait_leaves_no_node(pair):
    sem, other = pair
    with other:
        strike_when(lambda: len(queue(sem)) == 1, sem.acquire)
        assert queue(sem) == []
        with waiting(sem) as got:
            strike_when(lambda: len(queue(sem)) == 2, sem.acquire)
            assert len(queue(sem)) == 1
            other.release()
        assert got == [True]
        sem.release()
        other.acquire()
    assert sem.value == 1


def test_an_exception_while_a_token_is_held_puts_it_back(pair, monkeypatch):
    sem = pair[0]

    def hold():
        with sem:
            time.sleep(60 * SLOW)

    class Held(list):
        def append(self, recipe):
            super().append(recipe)
            raise KeyboardInterrupt

    def delete(path):
        monkeypatch.undo()
        raise KeyboardInterrupt

    strike_when(lambda: pair[1].value == 0, hold)
    assert sem.value == 1
    sem.acquire()
    monkeypatch.setattr(sem._client, "delete", delete)
    with pytest.raises(KeyboardInterrupt):
        sem.release()
    assert sem.value == 1
    sem._held = Held()
    with pytest.raises(KeyboardInterrupt):
        sem.acquire()
    assert (sem.value, sem._held) == (1, [])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_of_fork_has_no_token_and_is_told(pair, name):
    def child():
        for use in (sem.acquire, sem.release, sem.unlink, lambda: sem.value, sem.hold):
            with pytest.raises(ValueError, match=f"{name}.*fork needs a client of its own"):
                use()

    sem = pair[0]
    with sem:
        assert in_child(child) == "None"
        assert pair[1].value == 0


def test_a_token_is_lost_with_its_session(connect, client, name):
    told, other = [], ZooKeeperSemaphore(name, 2, client=connect())
    sem = ZooKeeperSemaphore(name, client=client, on_lost=told.append)
    sem.acquire()
    end_session(client)
    wait_for(lambda: told == [sem])
    sem.acquire()  # by another thread, say
    assert (sem.lost, other.value) == (True, 1)
    sem.release()  # the lost one, whichever of the two it is for
    assert (sem.lost, other.value) == (False, 1)
    sem.release()
    assert other.value == 2


def test_a_stopped_client_has_no_tokens(connect, client, name):
    stopped = connect()
    sem = ZooKeeperSemaphore(name, 1, client=stopped)

    def wait():
        with pytest.raises(ConnectionAbortedError, match=f"the KazooClient is stopped: '{name}'"):
            sem.acquire()

    sem.acquire()
    with thread(wait):
        wait_for(lambda: len(queue(sem)) == 1)
        stopped.stop()
    assert (sem.lost, ZooKeeperSemaphore(name, client=client).value) == (True, 1)
    sem.release()
    wait()


def test_waits_and_tokens_outlast_a_restart_of_the_server(server, connect, name):
    clients = [connect() for _ in range(2)]
    sem, other = (ZooKeeperSemaphore(name, 1, client=client) for client in clients)
    sem.acquire()
    with waiting(other) as got:
        server.stop()
        wait_for(lambda: not any(client.connected for client in clients))
        server.start()
        wait_for(lambda: all(client.connected for client in clients))
        sem.release()
    assert (got, sem.lost, other.lost, sem.value) == ([True], False, False, 0)
