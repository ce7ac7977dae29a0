# SPDX-License-Identifier: Apache-2.0
"""ZooKeeperSemaphore on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import logging
import os
import pickle
import re
import socket
import sys
import threading
import time
import weakref

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, NoAuthError
from kazoo.security import make_digest_acl
from support import SLOW, in_threads, run_python, strike, thread, wait_for

from named_semaphores import zookeeper
from named_semaphores.zookeeper import ZooKeeperSemaphore


def queue(client, name):
    """Return the nodes of those who wait."""
    return client.get_children(f"/named-semaphores{name}/tokens-__lock__")


def children(client, name):
    """Return the paths of the nodes of those who hold a token."""
    path = f"/named-semaphores{name}/tokens"
    return [f"{path}/{node}" for node in client.get_children(path)]


def end_session(client):
    """Have the server end the client's session, and return when the client has another one."""
    ended = threading.Event()
    client.add_listener(lambda state: state == "LOST" and ended.set())
    twin = KazooClient(f"127.0.0.1:{client.hosts[0][1]}", client_id=client.client_id)
    twin.start()
    twin.stop()
    twin.close()
    assert ended.wait(20 * SLOW)
    wait_for(lambda: client.connected)


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
    assert sem.value == 1
    sem.release(2)
    assert sem.value == 3
    with pytest.raises(TypeError):
        pickle.dumps(sem)


def test_a_with_statement_holds_a_token(client, name):
    sem = ZooKeeperSemaphore(name, 2, client=client)
    with pytest.raises(ZeroDivisionError), sem as first, sem.hold(timeout=5) as second:
        assert first is second is sem
        assert sem.value == 0
        raise ZeroDivisionError
    assert sem.value == 2


def test_hold_waits_no_longer_than_its_timeout(pair, name):
    sem, other = pair
    hold = other.hold(timeout=0.1)
    text = f"semaphore '{name}': no token was free within 0.1 seconds"

    async def use():
        async with hold as entered:
            assert entered is other

    with sem:
        with pytest.raises(TimeoutError, match=text), hold:
            pass
        with pytest.raises(TimeoutError, match=text):
            asyncio.run(use())
    with hold:
        pass
    asyncio.run(use())
    wait_for(lambda: sem.value == 1)


def test_holders_are_processes_or_what_other_programs_say(client, connect, pair, name):
    sem, other = ZooKeeperSemaphore(name, 4, client=client), pair[0]
    ZooKeeperSemaphore(name, 4, client=client)
    theirs = connect().Semaphore(f"/named-semaphores{name}/tokens", "their job", max_leases=4)
    with sem, other, theirs:
        mine, foreign = sorted(sem.holders, key=lambda holder: holder.pid is None)
        assert (mine.host, mine.pid, mine.tokens) == (socket.gethostname(), os.getpid(), 2)
        assert foreign == ("their job", None, 1)
        assert theirs.acquire(blocking=False)
    assert sem.holders == []


def test_kazoos_own_semaphore_shares_the_tokens(client, pair, name):
    theirs = client.Semaphore(f"/named-semaphores{name}/tokens", max_leases=1)
    with theirs:
        assert not pair[0].acquire(timeout=0.1)
    with pair[0]:
        assert not theirs.acquire(blocking=False)


def test_the_number_named_last_holds(client, connect, name):
    sem, other = (ZooKeeperSemaphore(name, 1, client=c) for c in (client, connect()))
    assert (sem.linked_existing_semaphore, other.linked_existing_semaphore) == (False, True)
    sem.acquire()
    with thread(other.acquire) as got:
        wait_for(lambda: len(queue(client, name)) == 1)
        assert ZooKeeperSemaphore(name, client=client).total == 1
        assert ZooKeeperSemaphore(name, 2, client=client).total == 2
    assert got == [True]
    ZooKeeperSemaphore(name, 1, client=client)
    assert (other.total, other.value) == (1, 0)
    other.release()
    assert not other.acquire(False)
    sem.release()
    assert (other.total, other.value) == (1, 1)


def test_a_node_without_a_number_is_named(client, pair, name):
    for data in (b"many", b"0", b"1" * 5000, b""):
        client.set(f"/named-semaphores{name}/tokens", data)
        for use in (lambda: pair[0].value, pair[0].acquire):
            with pytest.raises(ValueError, match=f"{name}.*the number in .* must be an int"):
                use()
    assert ZooKeeperSemaphore(name, 2, client=client).value == 2


def test_several_create_one_semaphore(connect, name):
    clients, made = [connect() for _ in range(6)], []
    in_threads(6, lambda: made.append(ZooKeeperSemaphore(name, 2, client=clients.pop())))
    assert sorted(sem.linked_existing_semaphore for sem in made) == [False] + [True] * 5


@pytest.mark.parametrize("bad", ["", "/", "a b", "a/b", ".", "..", "x\0"])
def test_a_bad_name_is_refused(client, bad):
    with pytest.raises(ValueError, match="name"):
        ZooKeeperSemaphore(bad, client=client)


def test_bad_arguments_are_refused(client, name):
    for number in (0, -1, 1.5, "3", 2**31):
        with pytest.raises(ValueError, match=f"{name}.*initial_value must be .*, not {number!r}"):
            ZooKeeperSemaphore(name, number, client=client)
    for other in ("localhost", KazooClient()):
        with pytest.raises(ValueError, match=f"{name}.* is no started KazooClient"):
            ZooKeeperSemaphore(name, client=other)
    assert not client.exists(f"/named-semaphores{name}")
    sem = ZooKeeperSemaphore(name, client=client)
    for use in (
        lambda: sem.acquire(5),
        lambda: sem.acquire(False, 1),
        lambda: sem.release(0),
        lambda: sem.hold(2),
        lambda: sem.hold(timeout="1"),
        lambda: asyncio.run(sem.acquire_async(timeout=-1)),
    ):
        with pytest.raises(ValueError, match=name):
            use()
    assert sem.value == 1


def test_a_client_may_have_a_root_if_it_exists(server, client, name):
    rooted = KazooClient(f"{server.address}{name}")
    with pytest.warns(UserWarning, match="chroot"):
        rooted.start()
    with pytest.raises(FileNotFoundError, match=f"no chroot {name}") as error:
        ZooKeeperSemaphore(name, client=rooted)
    assert error.value.filename == name
    client.create(name)
    sem = ZooKeeperSemaphore(name, 1, client=rooted)
    with sem, thread(sem.acquire) as got:
        wait_for(lambda: len(queue(rooted, name)) == 1)
        assert client.exists(f"{name}/named-semaphores{name}/tokens")
        sem.release()
        wait_for(lambda: got == [True])
    rooted.stop()
    rooted.close()


def test_an_acl_that_refuses_is_named(client, connect, pair, name):
    sem = pair[0]
    with sem:
        pass
    client.add_auth("digest", "user:secret")
    client.set_acls(
        f"/named-semaphores{name}/tokens", [make_digest_acl("user", "secret", all=True)]
    )
    for use in (
        lambda: sem.value,
        lambda: sem.holders,
        sem.acquire,
        sem.unlink,
        lambda: ZooKeeperSemaphore(name, 2, client=connect()),
    ):
        with pytest.raises(PermissionError, match="an ACL refuses the client") as error:
            use()
        assert error.value.filename == name
        assert isinstance(error.value.__cause__, NoAuthError)
    assert queue(client, name) == []


def test_a_timeout_is_not_early_and_leaves_nothing_behind(client, pair, name):
    sem, other = pair
    with sem, thread(other.acquire) as got:
        wait_for(lambda: len(queue(client, name)) == 1)
        for timeout in (0.05, 0.5):
            start = time.monotonic()
            assert not sem.acquire(timeout=timeout)
            assert timeout <= time.monotonic() - start < timeout + 5 * SLOW
        assert not sem.acquire(False)
        assert len(queue(client, name)) == 1
        sem.release()
        wait_for(lambda: got == [True])
        other.release()
        sem.acquire()
    assert sem.value == 1


def test_waiters_get_tokens_in_their_order(client, connect, name):
    sems, got = [ZooKeeperSemaphore(name, 1, client=connect()) for _ in range(4)], []

    def work(sem):
        with sem:
            got.append(sem)

    with contextlib.ExitStack() as threads, sems[0]:
        for number, sem in enumerate(sems[1:], 1):
            threads.enter_context(thread(work, sem))
            wait_for(lambda number=number: len(queue(client, name)) == number)
    assert got == sems[1:]


def test_after_close_only_what_is_held_can_be_released(client, pair, name):
    sem, other = pair
    with sem:
        with thread(other.acquire) as got:
            wait_for(lambda: len(queue(client, name)) == 1)
            other.close()
            sem.release()
        assert got == [True]
        other.release()
        sem.acquire()
        sem.close()
        sem.close()
        assert repr(sem) == f"<ZooKeeperSemaphore {name!r} closed>"
        for use in (sem.acquire, lambda: sem.value, lambda: sem.holders, sem.unlink, sem.hold):
            with pytest.raises(ValueError, match=f"{name}' is closed"):
                use()
    with pytest.raises(ValueError, match="as many as this object holds"):
        sem.release()
    assert ZooKeeperSemaphore(name, client=client).value == 1


def test_without_kazoo_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kazoo", None)
    again = importlib.util.spec_from_file_location("named_semaphores.again", zookeeper.__file__)
    with pytest.raises(ImportError, match=r"needs kazoo: pip install .*\[zookeeper\]"):
        again.loader.exec_module(importlib.util.module_from_spec(again))


def test_readmes_block_runs(server):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(os.path.join(root, "README.md"), encoding="utf-8") as file:
        blocks = re.findall(r"```python zookeeper\n(.*?)```", file.read(), re.DOTALL)
    for block in blocks:
        code = re.sub(r'KazooClient\(".*?"', f'KazooClient("{server.address}"', block)
        done = run_python(code)
        assert (done.returncode, done.stderr) == (0, "")


def test_unlink_ends_waits_and_frees_the_name(client, connect, pair, name):
    sem, ended = pair[0], []

    def wait():
        try:
            ended.append(ZooKeeperSemaphore(name, client=clients.pop()).acquire())
        except FileNotFoundError as error:
            ended.append(error.filename)

    clients = [connect() for _ in range(3)]
    sem.acquire()
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for each in threads:
        each.start()
    wait_for(lambda: len(queue(client, name)) == 3)
    sem.unlink()
    for each in threads:
        each.join(20 * SLOW)
    assert len(ended) == 3
    assert set(ended) <= {True, name}  # a token that was removed with the name
    assert not client.exists(f"/named-semaphores{name}")
    for use in (sem.acquire, lambda: sem.acquire(False), lambda: sem.value, sem.unlink):
        with pytest.raises(FileNotFoundError, match="the semaphore was unlinked"):
            use()
    sem.release()  # of nothing any more
    assert ZooKeeperSemaphore(name, 2, client=client).value == 2


def test_unlink_works_while_others_come_and_go(connect, name):
    clients, done = [connect() for _ in range(5)], []

    def come_and_go():
        client = clients.pop()
        for _ in range(15):
            with contextlib.suppress(FileNotFoundError):
                with ZooKeeperSemaphore(name, 2, client=client) as sem:
                    sem.unlink()
        done.append(client)

    in_threads(5, come_and_go)
    assert len(done) == 5


def test_tasks_wait_while_the_loop_runs(client, name):
    sem, inside, most = ZooKeeperSemaphore(name, 2, client=client), [], []

    async def work():
        async with sem as entered:
            assert entered is sem
            inside.append(1)
            most.append(len(inside))
            await asyncio.sleep(0.02)
            inside.pop()

    async def main():
        await asyncio.gather(*(work() for _ in range(40)))
        assert await sem.acquire_async()
        assert await sem.acquire_async(timeout=5)
        assert not await sem.acquire_async(timeout=0.2)
        sem.release(2)

    asyncio.run(main())
    assert max(most) == 2
    assert sem.value == 2


def test_a_cancelled_task_has_no_token_and_leaves_no_node(client, name, full):
    sem = ZooKeeperSemaphore(name, 1, client=client)

    async def main():
        for number in range(1000 if full else 100):
            task = asyncio.ensure_future(sem.acquire_async())
            await asyncio.sleep(number % 15 / 1000)
            task.cancel()
            try:
                await task
                sem.release()
            except asyncio.CancelledError:
                pass
        async with sem:
            late = [asyncio.wait_for(sem.acquire_async(), 0.05) for _ in range(20)]
            results = await asyncio.gather(*late, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.TimeoutError}

    asyncio.run(main())
    wait_for(lambda: sem.value == 1)
    wait_for(lambda: queue(client, name) == [])


def test_an_exception_in_a_wait_leaves_no_node(client, pair, name):
    sem, other = pair
    with other:
        strike(sem.acquire, 0.2)  # the first in the queue
        assert queue(client, name) == []
        with thread(ZooKeeperSemaphore(name, client=client).acquire) as got:
            wait_for(lambda: len(queue(client, name)) == 1)
            strike(sem.acquire, 0.2)  # the second
            assert len(queue(client, name)) == 1
            other.release()
            wait_for(lambda: got == [True])
            client.delete(children(client, name)[0])
            other.acquire()
    assert sem.value == 1


def test_an_exception_while_a_token_is_held_puts_it_back(client, pair, name):
    sem = pair[0]

    def hold(context):
        with context:
            time.sleep(20 * SLOW)

    for context in (sem, sem.hold(timeout=5)):
        strike(lambda context=context: hold(context), 0.2)
        assert sem.value == 1


def test_an_exception_after_a_token_was_taken_puts_it_back(pair, name, monkeypatch):
    sem = pair[0]

    class Held(list):
        def append(self, recipe):
            super().append(recipe)
            raise KeyboardInterrupt

    monkeypatch.setattr(sem, "_held", Held())
    with pytest.raises(KeyboardInterrupt):
        sem.acquire()
    assert (sem.value, sem._held) == (1, [])


def test_an_exception_in_release_does_not_keep_the_token(pair, monkeypatch):
    sem = pair[0]

    def interrupted(path):
        monkeypatch.undo()
        raise KeyboardInterrupt

    sem.acquire()
    monkeypatch.setattr(sem._client, "delete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sem.release()
    assert sem.value == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_of_fork_has_no_token_and_is_told(client, name):
    sem = ZooKeeperSemaphore(name, 2, client=client)
    with sem:
        child = os.fork()
        if not child:
            refusals = 0
            try:
                uses = (sem.acquire, sem.release, sem.unlink, lambda: sem.value, sem.hold)
                for use in (*uses, lambda: sem.__exit__(None, None, None)):
                    with pytest.raises(ValueError, match=f"{name}.*fork needs a client of its own"):
                        use()
                    refusals += 1
            finally:
                os._exit(refusals)
        assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 6
        assert sem.value == 1
    assert sem.value == 2


def test_objects_and_waits_leave_nothing_in_the_client(client, connect, name):
    sem, other = (ZooKeeperSemaphore(name, 1, client=c) for c in (client, connect()))
    before = len(client.state_listeners)
    with other:
        for _ in range(10):
            assert not sem.acquire(timeout=0.01)
            assert not sem.acquire(False)
    with sem:
        pass
    wait_for(lambda: not any(client._child_watchers.values()))
    assert len(client.state_listeners) == before
    dropped = weakref.ref(sem)
    del sem
    wait_for(lambda: gc.collect() >= 0 and dropped() is None)


def test_a_token_is_lost_with_its_session(client, pair, name):
    told, other = [], pair[1]
    sem = ZooKeeperSemaphore(name, client=client, on_lost=told.append)
    with sem:
        end_session(client)
        assert sem.lost
        wait_for(lambda: told == [sem])
        assert other.acquire(timeout=20)
    assert other.value == 0
    other.release()
    with sem:
        assert not sem.lost
        assert other.value == 0
    assert other.value == 1
    end_session(client)
    assert not sem.lost  # it held none
    assert told == [sem]


def test_the_end_of_a_lost_body_takes_no_living_token(client, connect, name):
    sem = ZooKeeperSemaphore(name, 2, client=client)
    other = ZooKeeperSemaphore(name, client=connect())
    sem.acquire()
    end_session(client)
    sem.acquire()  # by another thread, say
    assert (sem.lost, other.value) == (True, 1)
    sem.release()  # whichever of the two it is
    assert other.value == 1
    sem.release()
    assert other.value == 2


@pytest.mark.parametrize("late", [False, True], ids=["not-sent", "no-answer"])
@pytest.mark.parametrize("call", ["create", "get_children"])
def test_a_broken_connection_leaves_no_node(connect, client, name, call, late, monkeypatch):
    failing = connect()
    sem, other = (ZooKeeperSemaphore(name, 1, client=each) for each in (failing, client))
    real, fails = getattr(failing, call), []

    def broken(*arguments, **options):
        result = real(*arguments, **options) if late or not fails else None
        if fails:
            raise fails.pop()
        return result

    monkeypatch.setattr(failing, call, broken)
    with other:
        fails[:] = [ConnectionLoss] * 3
        assert not sem.acquire(timeout=0.5)
        assert not sem.acquire(False)
        assert queue(client, name) == []
    fails[:] = [ConnectionLoss] * 3
    with sem:
        assert other.value == 0
    assert (other.value, queue(client, name)) == (1, [])


def test_a_stopped_client_has_no_tokens(connect, client, name):
    told, ended, stopped = [], [], connect()
    sem = ZooKeeperSemaphore(name, 1, client=stopped, on_lost=told.append)
    other = ZooKeeperSemaphore(name, client=client)

    def wait():
        with pytest.raises(ConnectionAbortedError, match="the KazooClient is stopped") as error:
            sem.acquire()
        ended.append(error.value.filename)

    sem.acquire()
    with thread(wait):
        wait_for(lambda: len(queue(client, name)) == 1)
        stopped.stop()
    assert (ended, sem.lost, other.value) == ([name], True, 1)
    wait_for(lambda: told == [sem])
    sem.release()
    for use in (sem.acquire, lambda: sem.acquire(False), lambda: sem.value, lambda: sem.holders):
        with pytest.raises(ConnectionAbortedError, match=name):
            use()


def test_waits_and_tokens_outlast_a_restart_of_the_server(server, connect, name):
    logging.getLogger("kazoo").setLevel(logging.CRITICAL)
    client, second = (connect(timeout=10) for _ in range(2))
    sem, other = (
        ZooKeeperSemaphore(name, 1, client=client),
        ZooKeeperSemaphore(name, client=second),
    )
    sem.acquire()
    with thread(other.acquire) as got:
        wait_for(lambda: len(queue(client, name)) == 1)
        server.stop()
        wait_for(lambda: not client.connected and not other._client.connected)
        server.start()
        wait_for(lambda: client.connected and other._client.connected)
        assert got == []
        sem.release()
    assert (got, sem.lost, other.lost, sem.value) == ([True], False, False, 0)
    other.release()
