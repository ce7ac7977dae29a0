# SPDX-License-Identifier: Apache-2.0
"""ZooKeeperSemaphore on a real server: the interface, and what kazoo's recipe leaves to it."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionClosedError, ConnectionLoss, NodeExistsError
from server import SESSION
from support import SLOW, collect, in_threads, run_python, wait_for

from named_semaphores.zookeeper import ZooKeeperSemaphore

HERE = os.path.dirname(os.path.abspath(__file__))


def queue(client, name):
    """Return the nodes of those who wait."""
    return client.get_children(f"/named-semaphores{name}/tokens-__lock__")


def end_session(client):
    """Have the server end the client's session, and return when the client knows."""
    ended = threading.Event()
    client.add_listener(lambda state: state == "LOST" and ended.set())
    twin = KazooClient(
        client.hosts and f"127.0.0.1:{client.hosts[0][1]}", client_id=client.client_id
    )
    twin.start()
    twin.stop()
    twin.close()
    assert ended.wait(20 * SLOW)
    wait_for(lambda: client.connected)


# The interface.


def test_tokens_are_taken_and_put_back(client, name):
    sem = ZooKeeperSemaphore(name[1:], 3, client=client)
    assert (sem.name, sem.initial_value, sem.value, sem.lost, sem.closed) == (
        name,
        3,
        3,
        False,
        False,
    )
    assert [sem.acquire(), sem.acquire(False), sem.acquire(timeout=5), sem.acquire(False)] == [
        True,
        True,
        True,
        False,
    ]
    assert sem.value == 0
    sem.release()
    assert sem.value == 1
    sem.release(2)
    assert sem.value == 3


def test_with_returns_the_semaphore_and_puts_its_token_back(client, name):
    sem = ZooKeeperSemaphore(name, 2, client=client)
    with sem as entered, sem:
        assert entered is sem
        assert sem.value == 0
    with pytest.raises(ZeroDivisionError), sem:
        raise ZeroDivisionError
    assert sem.value == 2


def test_holders_are_told_by_host_and_process(client, connect, name):
    sem = ZooKeeperSemaphore(name, 3, client=client)
    other = ZooKeeperSemaphore(name, client=connect())
    with sem, other:
        assert other.holders == [(socket.gethostname(), os.getpid())] * 2
    assert sem.holders == []


def test_objects_of_one_name_share_the_tokens(client, connect, name):
    sem, other = (
        ZooKeeperSemaphore(name, 1, client=client),
        ZooKeeperSemaphore(name, 1, client=connect()),
    )
    with sem:
        assert other.value == 0
        assert not other.acquire(False)
        assert not other.acquire(timeout=0)
        with pytest.raises(ValueError, match="this object holds 0 tokens, and cannot release 1"):
            other.release()
    assert other.acquire(False)
    other.release()


def test_kazoos_own_semaphore_shares_them_too(client, connect, name):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    theirs = connect().Semaphore(f"/named-semaphores{name}/tokens", "them 1", max_leases=1)
    with theirs:
        assert not sem.acquire(timeout=0.1)
    with sem:
        assert not theirs.acquire(blocking=False)


def test_the_number_is_kept_in_zookeeper(client, connect, name):
    assert ZooKeeperSemaphore(name, 3, client=client).initial_value == 3
    with pytest.raises(ValueError, match=f"{name}.*initial_value is 4, but the existing one has 3"):
        ZooKeeperSemaphore(name, 4, client=connect())
    assert ZooKeeperSemaphore(name, client=connect()).initial_value == 3
    assert ZooKeeperSemaphore(name + ".one", client=client).initial_value == 1


def test_one_number_wins_when_several_create(connect, name):
    clients = [connect() for _ in range(6)]
    numbers = []

    def create():
        number = clients.index(clients[-1]) + len(clients)
        client = clients.pop()
        try:
            numbers.append(ZooKeeperSemaphore(name, number, client=client).initial_value)
        except ValueError as error:
            numbers.append(int(str(error).split()[-1]))

    in_threads(6, create)
    assert len(numbers) == 6
    assert len(set(numbers)) == 1


@pytest.mark.parametrize("bad", ["", "/", "a b", "a/b", ".", "..", "/..", "x\0"])
def test_a_bad_name_is_refused(client, bad):
    with pytest.raises(ValueError, match="name"):
        ZooKeeperSemaphore(bad, client=client)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3"])
def test_a_bad_number_is_refused(client, name, bad):
    with pytest.raises(
        ValueError, match=f"{name}.*initial_value must be an int of at least 1, not {bad!r}"
    ):
        ZooKeeperSemaphore(name, bad, client=client)
    assert not client.exists(f"/named-semaphores{name}")


@pytest.mark.parametrize(
    "wait",
    [
        {"blocking": 5},
        {"blocking": False, "timeout": 1},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "1"},
    ],
)
def test_a_bad_wait_is_refused(client, name, wait):
    sem = ZooKeeperSemaphore(name, client=client)
    with pytest.raises(ValueError, match=name):
        sem.acquire(**wait)
    with pytest.raises(ValueError, match=name):
        sem.release(0)
    assert sem.value == 1


def test_a_client_must_be_started(name):
    with pytest.raises(ValueError, match="must be a started KazooClient, not 'localhost'"):
        ZooKeeperSemaphore(name, client="localhost")
    with pytest.raises(ValueError, match="must be a started KazooClient, not <kazoo"):
        ZooKeeperSemaphore(name, client=KazooClient())


def test_more_than_this_object_holds_is_not_released(client, name):
    sem = ZooKeeperSemaphore(name, 3, client=client)
    sem.acquire()
    sem.acquire()
    with pytest.raises(ValueError, match=f"{name}.*holds 2 tokens, and cannot release 3"):
        sem.release(3)
    assert sem.value == 1
    sem.release(2)


def test_a_timeout_is_not_early_and_leaves_nothing_behind(client, connect, name):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    other = ZooKeeperSemaphore(name, client=connect())
    with sem:
        waiting = threading.Thread(target=other.acquire)  # first in the queue
        waiting.start()
        wait_for(lambda: len(queue(client, name)) == 1)
        for timeout in (0.05, 0.5):
            start = time.monotonic()
            assert not sem.acquire(timeout=timeout)
            assert timeout <= time.monotonic() - start < timeout + 0.5 * SLOW
        assert not sem.acquire(False)
        wait_for(lambda: len(queue(client, name)) == 1)
    waiting.join()
    other.release()
    assert sem.value == 1


def test_a_waiter_gets_the_token_that_is_put_back(client, connect, name):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    others = [ZooKeeperSemaphore(name, client=connect()) for _ in range(3)]
    sem.acquire()
    got = []
    threads = [
        threading.Thread(target=lambda other=other: got.append(other.acquire())) for other in others
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(queue(client, name)) == 3)
    sem.release()
    for count in (1, 2, 3):
        wait_for(lambda count=count: len(got) == count)
        wait_for(lambda: sem.value == 0)
        holder = next(other for other in others if other._tokens.held)
        holder.release()
    for thread in threads:
        thread.join()
    assert sem.value == 1


def test_threads_share_an_object(client, name):
    sem = ZooKeeperSemaphore(name, 3, client=client)
    inside, most = [], []

    def work():
        for _ in range(5):
            with sem:
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.02)
                inside.pop()

    in_threads(8, work)
    assert 1 < max(most) <= 3
    assert len(most) == 40
    assert sem.value == 3


def test_after_close_only_what_is_held_can_be_released(client, name):
    sem = ZooKeeperSemaphore(name, 2, client=client)
    sem.acquire()
    with sem:
        sem.close()
        sem.close()
    assert repr(sem) == f"<ZooKeeperSemaphore {name!r} closed>"
    assert sem.closed
    for use in (
        sem.acquire,
        lambda: sem.value,
        lambda: sem.holders,
        sem.unlink,
        lambda: asyncio.run(sem.acquire_async()),
    ):
        with pytest.raises(ValueError, match=f"{name}' is closed"):
            use()
    sem.release()
    with pytest.raises(ValueError, match="holds 0 tokens"):
        sem.release()
    assert ZooKeeperSemaphore(name, client=client).value == 2


def test_repr_asks_nobody(connect, name):
    client = connect()
    sem = ZooKeeperSemaphore(name, 2, client=client)
    client.stop()
    assert repr(sem) == f"<ZooKeeperSemaphore {name!r} initial_value=2>"


def test_it_is_not_pickled(client, name):
    with pytest.raises(TypeError):
        pickle.dumps(ZooKeeperSemaphore(name, client=client))


def test_a_client_may_have_a_root_of_its_own(server, connect, client, name):
    root = f"root{name.replace('/', '')}"
    client.ensure_path(f"/{root}")
    rooted = KazooClient(f"{server.address}/{root}", timeout=SESSION)
    rooted.start()
    sem = ZooKeeperSemaphore(name, 1, client=rooted)
    waiting = threading.Thread(target=sem.acquire)
    with sem:
        waiting.start()
        wait_for(lambda: len(queue(rooted, name)) == 1)
        assert client.exists(f"/{root}/named-semaphores{name}/tokens")
    waiting.join(20 * SLOW)
    assert not waiting.is_alive()
    rooted.stop()
    rooted.close()


def test_it_works_in_a_copy_of_the_package(server, tmp_path, name):
    package = os.path.dirname(sys.modules["named_semaphores"].__file__)
    shutil.copytree(package, tmp_path / "app" / "_vendor" / "named_semaphores")
    code = """
import sys
sys.path.insert(0, sys.argv[3])
from kazoo.client import KazooClient
from app._vendor.named_semaphores.zookeeper import ZooKeeperSemaphore
assert "named_semaphores" not in sys.modules
client = KazooClient(sys.argv[1])
client.start()
with ZooKeeperSemaphore(sys.argv[2], 1, client=client) as sem:
    print(sem.value)
client.stop()
"""
    done = run_python(code, server.address, name, str(tmp_path))
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_readmes_block_runs(server):
    root = os.path.dirname(os.path.dirname(HERE))
    with open(os.path.join(root, "README.md"), encoding="utf-8") as file:
        blocks = re.findall(r"```python zookeeper\n(.*?)```", file.read(), re.DOTALL)
    assert len(blocks) == 1
    code, number = re.subn(r'KazooClient\(".*?"', f'KazooClient("{server.address}"', blocks[0])
    assert number == 1
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")


# unlink


def test_unlink_ends_waits_and_frees_the_name(client, connect, name):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    sem.acquire()
    errors = []

    def wait():
        other = ZooKeeperSemaphore(name, client=client)
        with pytest.raises(FileNotFoundError) as error:
            other.acquire()
        errors.append(error.value.filename)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(queue(client, name)) == 3)
    sem.unlink()
    for thread in threads:
        thread.join(20 * SLOW)
    assert errors == [name] * 3
    assert not client.exists(f"/named-semaphores{name}")
    new = ZooKeeperSemaphore(name, 2, client=connect())
    assert new.value == 2
    for use in (
        sem.acquire,
        lambda: sem.acquire(False),
        lambda: sem.value,
        sem.unlink,
    ):  # another semaphore, with another number
        with pytest.raises(FileNotFoundError, match="the semaphore was unlinked"):
            use()
    sem.release()  # of nothing any more
    assert new.value == 2
    assert queue(client, name) == []
    new.unlink()
    for late in (sem, new):
        with pytest.raises(FileNotFoundError):
            late.acquire()
    assert not client.exists(f"/named-semaphores{name}")


def test_unlink_works_while_others_come_and_go(connect, name, full):
    ends = threading.Event()
    errors = []

    def come_and_go():
        client = clients.pop()
        while not ends.is_set():
            try:
                with ZooKeeperSemaphore(name, 2, client=client) as sem:
                    assert sem.value >= 0
            except FileNotFoundError:
                pass
            except BaseException as error:
                errors.append(error)
                raise

    clients = [connect() for _ in range(5)]
    client = clients.pop()
    threads = [threading.Thread(target=come_and_go) for _ in clients]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200 if full else 30):
            sem = ZooKeeperSemaphore(name, 2, client=client)
            try:
                sem.unlink()
            except FileNotFoundError:
                pass
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert errors == []


# asyncio


def test_tasks_wait_while_the_loop_runs(client, name):
    sem = ZooKeeperSemaphore(name, 2, client=client)
    inside, most = [], []

    async def work():
        async with sem as entered:
            assert entered is sem
            inside.append(1)
            most.append(len(inside))
            await asyncio.sleep(0.02)
            inside.pop()

    async def main():
        await asyncio.gather(*(work() for _ in range(12)))
        assert await sem.acquire_async()
        assert await sem.acquire_async(timeout=5)
        assert not await sem.acquire_async(timeout=0)
        start = time.monotonic()
        assert not await sem.acquire_async(timeout=0.2)
        assert time.monotonic() - start >= 0.2
        sem.release(2)
        with pytest.raises(ValueError, match="timeout"):
            await sem.acquire_async(timeout=-1)

    asyncio.run(main())
    assert max(most) == 2
    assert sem.value == 2


@pytest.mark.timeout(600)
def test_a_cancelled_task_has_no_token_and_leaves_no_node(client, name, full):
    sem = ZooKeeperSemaphore(name, 1, client=client)

    async def main():
        held = 0
        for number in range(2000 if full else 100):
            task = asyncio.ensure_future(sem.acquire_async())
            await asyncio.sleep(number % 15 / 1000)
            task.cancel()
            try:
                held += await task
            except asyncio.CancelledError:
                pass
            if held:
                sem.release()
                held = 0
        async with sem:
            tasks = [
                asyncio.ensure_future(asyncio.wait_for(sem.acquire_async(), 0.05 + number / 1000))
                for number in range(20)
            ]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [asyncio.TimeoutError] * 20

    asyncio.run(main())
    wait_for(lambda: sem.value == 1)
    wait_for(lambda: queue(client, name) == [])


def test_a_task_that_never_runs_again_keeps_no_token(client, name):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    loop = asyncio.new_event_loop()
    task = loop.create_task(sem.acquire_async())
    loop.run_until_complete(asyncio.sleep(0))
    wait_for(lambda: sem._tokens.held)
    loop.close()
    task._log_destroy_pending = False
    del task
    wait_for(lambda: collect() and sem.value == 1)


def test_a_coroutine_that_is_closed_puts_its_token_back(client, name):
    sem = ZooKeeperSemaphore(name, 1, client=client)

    async def body():
        async with sem:
            await asyncio.sleep(3600)

    loop = asyncio.new_event_loop()
    task = loop.create_task(body())
    loop.run_until_complete(asyncio.sleep(0))
    wait_for(lambda: sem._tokens.held)
    loop.run_until_complete(asyncio.sleep(0.05))  # it is inside
    task.get_coro().close()
    wait_for(lambda: sem.value == 1)
    task._log_destroy_pending = False
    loop.close()


# Signals, forks, garbage.


STORM = """
import signal, sys, time
from kazoo.client import KazooClient
from named_semaphores.zookeeper import ZooKeeperSemaphore

class Interrupt(Exception): pass

def interrupt(*_):
    raise Interrupt

client = KazooClient(sys.argv[1], timeout=10)
client.start()
sem = ZooKeeperSemaphore(sys.argv[2], 2, client=client)
other = ZooKeeperSemaphore(sys.argv[2], client=client)
signal.signal(signal.SIGALRM, interrupt)
seen = 0
for number in range(int(sys.argv[3])):
    if number % 2:
        other.acquire()
        other.acquire()
    got = False
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005 + number % 50 / 5000)
        got = sem.acquire()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        seen += 1
    if got:
        sem.release()
    if number % 2:
        other.release(2)
end = time.monotonic() + 20
while sem.value < 2 and time.monotonic() < end:
    time.sleep(0.01)
print(seen, sem.value, len(client.get_children(f"/named-semaphores{sem.name}/tokens-__lock__")))
client.stop()
"""


@pytest.mark.timeout(600)
def test_signal_handlers_that_raise_in_a_wait_cost_no_token(server, name, full):
    number = 3000 if full else 100
    done = subprocess.run(
        [sys.executable, "-c", STORM, server.address, name, str(number)],
        capture_output=True,
        text=True,
        timeout=300 * SLOW,
        check=False,
    )
    assert done.stderr == ""
    seen, value, waiting = map(int, done.stdout.split())
    assert seen > number / 4
    assert (value, waiting) == (2, 0)


def test_a_handler_that_returns_lets_the_wait_go_on(client, name):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    sem.acquire()
    calls = []
    before = signal.signal(
        signal.SIGALRM,
        lambda *_: (
            calls.append(1) or (len(calls) == 3 and threading.Thread(target=sem.release).start())
        ),
    )
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        assert sem.acquire(timeout=20 * SLOW)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(calls) >= 3
    sem.release()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_of_fork_has_no_token_and_is_told(client, name):
    sem = ZooKeeperSemaphore(name, 2, client=client)
    said, saying = os.pipe()
    with sem:
        child = os.fork()
        if not child:
            try:
                for use in (
                    sem.acquire,
                    sem.release,
                    sem.unlink,
                    lambda: sem.value,
                    lambda: sem.holders,
                ):
                    try:
                        use()
                    except ValueError as error:
                        os.write(saying, f"{error}\n".encode())
                sem.__exit__(None, None, None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(saying)
        with open(said, encoding="utf-8") as pipe:
            lines = pipe.read().splitlines()
        assert sem.value == 1
    assert len(lines) == 5
    assert all(name in line and "does not survive fork" in line for line in lines)
    assert sem.value == 2


def test_what_is_dropped_leaves_nothing_in_the_client(client, name):
    before = len(client.state_listeners)
    sem = ZooKeeperSemaphore(name, 1, client=client)
    dropped = weakref.ref(sem)
    with sem:
        assert not sem.acquire(timeout=0.05)
    del sem
    wait_for(lambda: collect() and dropped() is None)
    wait_for(lambda: collect() and len(client.state_listeners) == before)


def test_waits_in_vain_do_not_pile_up(client, connect, name):
    sem = ZooKeeperSemaphore(name, 1, client=client)
    other = ZooKeeperSemaphore(name, client=connect())

    def kept():
        return sum(
            map(len, [*client._data_watchers.values(), *client._child_watchers.values()])
        ) + len(client.state_listeners)

    with other:
        for timeout in (0.05, 0):
            sem.acquire(timeout=timeout)
        before = kept()
        threads = threading.active_count()
        for _ in range(30):
            assert not sem.acquire(timeout=0.01)
            assert not sem.acquire(False)
        waiting = threading.Thread(target=other.acquire)
        waiting.start()
        wait_for(lambda: len(queue(client, name)) == 1)
        for _ in range(30):
            assert not sem.acquire(timeout=0.01)
            assert not sem.acquire(False)
        wait_for(lambda: threading.active_count() <= threads + 3)
        assert kept() <= before + 2
    waiting.join()
    other.release()


# The session.


def test_a_token_is_lost_with_its_session(client, connect, name):
    told = []
    sem = ZooKeeperSemaphore(name, 1, client=client, on_lost=told.append)
    other = ZooKeeperSemaphore(name, client=connect())
    with sem:
        end_session(client)
        assert sem.lost
        wait_for(lambda: told == [sem])
        assert other.acquire(timeout=20)
    assert sem.lost  # still: who looks after the body must see it
    assert other.value == 0
    with pytest.raises(ValueError, match="holds 0 tokens"):
        sem.release()
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
    assert sem.lost
    assert other.value == 1
    sem.release()  # whichever of the two it is
    assert other.value == 1
    sem.release()
    assert other.value == 2
    sem.acquire()
    assert not sem.lost
    sem.release()


class Expiring(KazooClient):
    """Its session ends just before it creates a token, after the tokens were counted."""

    then = None

    def create(self, path, *args, **options):
        then, expiring = self.then, "/tokens/" in path
        if expiring and then is not None:
            self.then = None
            end_session(self)
            then()
        return super().create(path, *args, **options)


def test_a_token_that_was_counted_in_another_session_is_not_given(connect, name):
    client = connect(Expiring)
    sem = ZooKeeperSemaphore(name, 1, client=client)
    other = ZooKeeperSemaphore(name, client=connect())
    client.then = lambda: other.acquire(timeout=20)
    assert not sem.acquire(timeout=2 * SLOW)
    assert other.release() is None
    assert sem.acquire(timeout=20)
    sem.release()


class Failing(KazooClient):
    """Each call named in ``fails`` fails once, as if the connection broke: before it is sent, or after."""

    fails = ()

    def _fail(self, call, path, *args, **options):
        if (call, "early") in self.fails and "/tokens" in path:
            self.fails.remove((call, "early"))
            raise ConnectionLoss
        result = getattr(super(), call)(path, *args, **options)
        if (call, "late") in self.fails and "/tokens" in path:
            self.fails.remove((call, "late"))
            raise ConnectionLoss
        return result

    def create(self, path, *args, **options):
        return self._fail("create", path, *args, **options)

    def delete(self, path, *args, **options):
        return self._fail("delete", path, *args, **options)

    def get_children(self, path, *args, **options):
        return self._fail("get_children", path, *args, **options)


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("call", ["create", "delete", "get_children"])
@pytest.mark.parametrize("retry", [None, {"max_tries": 1}], ids=["retries", "no-retries"])
def test_a_broken_connection_leaves_no_node(connect, client, name, call, when, retry):
    failing = connect(Failing, command_retry=retry)
    sem = ZooKeeperSemaphore(name, 1, client=failing)
    other = ZooKeeperSemaphore(name, client=client)
    with other:
        failing.fails = [(call, when)] * 3
        assert not sem.acquire(timeout=0.5)
        assert not sem.acquire(False)
    wait_for(lambda: queue(client, name) == [])
    failing.fails = [(call, when)] * 3
    assert sem.acquire(timeout=20)
    failing.fails = [(call, when)] * 3
    sem.release()
    assert other.value == 1
    assert queue(client, name) == []


class Repeating(KazooClient):
    """A token's node is there before it is created: by an earlier request, whose answer was lost and which this server did not know yet."""

    repeats = 2

    def create(self, path, *args, **options):
        if "/tokens/" in path and self.repeats:
            self.repeats -= 1
            super().create(path, *args, **options)
            raise NodeExistsError
        return super().create(path, *args, **options)


def test_a_node_of_an_earlier_request_is_no_error(connect, name):
    sem = ZooKeeperSemaphore(name, 1, client=connect(Repeating))
    assert sem.acquire(timeout=20)
    sem.release()
    assert sem.value == 1


def test_a_stopped_client_has_no_tokens(connect, client, name):
    told = []
    stopped = connect()
    sem = ZooKeeperSemaphore(name, 1, client=stopped, on_lost=told.append)
    other = ZooKeeperSemaphore(name, client=client)
    sem.acquire()
    waiting = []

    def wait():
        with pytest.raises(ConnectionClosedError):
            sem.acquire()
        waiting.append(1)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: len(queue(client, name)) == 1)
    stopped.stop()
    thread.join(20 * SLOW)
    assert len(waiting) == 1
    assert sem.lost
    wait_for(lambda: told == [sem])
    assert other.value == 1
    sem.release()
    for use in (sem.acquire, lambda: sem.acquire(False), lambda: sem.value):
        with pytest.raises(ConnectionClosedError):
            use()


def test_waits_go_on_after_a_restart_of_the_server(server, connect, name):
    sem, *others = (ZooKeeperSemaphore(name, 1, client=connect()) for _ in range(4))
    sem.acquire()
    got = []

    def wait(other):
        with other:
            got.append(other)

    threads = [threading.Thread(target=wait, args=[other]) for other in others]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_for(lambda number=number: len(queue(sem._tokens.client, name)) == number)
    server.stop()
    wait_for(lambda: not any(other._tokens.client.connected for other in others))
    server.start()
    wait_for(lambda: all(other._tokens.client.connected for other in (sem, *others)))
    assert got == []
    sem.release()
    for thread in threads:
        thread.join(20 * SLOW)
    assert got == others  # in the order in which they came
    assert not any(other.lost for other in (sem, *others))


def test_without_a_server_waits_end_in_time_and_tokens_are_kept(server, client, connect, name):
    sem = ZooKeeperSemaphore(name, 2, client=client)
    other = ZooKeeperSemaphore(name, client=connect())
    sem.acquire()
    sem.acquire()
    got = []
    waiting = threading.Thread(target=lambda: got.append(other.acquire()))
    waiting.start()
    wait_for(lambda: len(queue(client, name)) == 1)
    server.stop()
    try:
        wait_for(lambda: not client.connected and not other._tokens.client.connected)
        start = time.monotonic()
        assert not other.acquire(timeout=0.3)
        assert not asyncio.run(other.acquire_async(timeout=0.3))
        assert 0.6 <= time.monotonic() - start < 0.6 + 1 * SLOW
        start = time.monotonic()
        for _ in range(5):
            assert not other.acquire(False)
        assert time.monotonic() - start < 1 * SLOW
        threads = threading.active_count()
        for _ in range(20):
            assert not other.acquire(timeout=0.02)
        assert threading.active_count() <= threads + 6
        released = threading.Thread(target=sem.release)  # has to wait for the server
        released.start()
    finally:
        server.start()
    released.join(20 * SLOW)
    waiting.join(20 * SLOW)
    assert got == [True]
    assert not sem.lost
    assert not other.lost
    assert sem.value == 0
    sem.release()
    other.release()
    wait_for(lambda: queue(client, name) == [])
    assert sem.value == 2
