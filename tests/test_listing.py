# SPDX-License-Identifier: Apache-2.0
"""The list of this machine's semaphores."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import time
import types
from pathlib import Path

import pytest
from holders import close, in_child, own_sets
from kinds import file_of, libc_of
from support import start_python, wait_for

from named_semaphores import NamedSemaphore, RobustSemaphore, _libc, _sets, listing
from named_semaphores.listing import SemaphoreInfo, list_posix, list_semaphores

LIBC = libc_of()
GLIBC = sys.platform.startswith("linux") and LIBC.is_glibc
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")


def found(name):
    return next((info for info in list_semaphores() if info.name == name), None)


@pytest.fixture
def sem(name):
    with contextlib.closing(NamedSemaphore(name, 3, unlink_on_delete=True, mode=0o640)) as sem:
        yield sem


@pytest.fixture
def file(name):
    """Yield a semaphore's file to be made; the test's end removes it."""
    path = Path(file_of(name))
    yield path
    path.unlink()


# --- POSIX ones


@on_linux
def test_a_semaphore_is_listed(sem):
    before = time.time()
    info = found(sem.name)
    assert (info.value, info.kind) == (3, "posix")
    assert (info.mode, info.uid) == (0o640, os.getuid())
    assert (info.total, info.waiting, info.holders, info.stays) == (None,) * 4
    assert info.users == 1
    assert before - 60 < info.created <= time.time()
    assert 0 <= info.age < 60
    names = [info.name for info in list_semaphores()]
    assert names == sorted(names)
    with sem:
        assert found(sem.name).value == 2
    sem.unlink()
    assert found(sem.name) is None


def test_an_owner_without_a_name_and_a_clock_that_was_set_back():
    info = SemaphoreInfo("/x", 1, (), True, 0o600, 4_000_000_000, time.time() + 60)
    assert (info.owner, info.age) == ("4000000000", 0)
    assert info._replace(uid=0).owner == "root"


HOLD = """
import sys
from named_semaphores import NamedSemaphore
sem = NamedSemaphore(sys.argv[1], unlink_on_delete=False)
print(flush=True)
"""


@on_linux
def test_the_value_is_read_also_while_somebody_waits(sem):
    # Both libcs keep who waits beside the value.
    sem.acquire()
    sem.acquire()
    sem.acquire()
    with start_python(HOLD + "sem.acquire(); input()", sem.name) as other:
        other.stdout.readline()
        wait_for(lambda: "futex" in Path(f"/proc/{other.pid}/wchan").read_text())
        assert found(sem.name).value == 0
        sem.release(3)
        other.communicate("\n")
        assert found(sem.name).value == 2


@on_linux
def test_who_has_it_open(sem):
    """And not who has an earlier one of the same name open."""
    assert found(sem.name).pids == (os.getpid(),)
    with start_python(HOLD + "input()", sem.name) as other:
        other.stdout.readline()
        assert sorted(found(sem.name).pids) == sorted((os.getpid(), other.pid))
        anew = NamedSemaphore(sem.name, 1, NamedSemaphore.Flags.UNLINK_AND_CREATE)
        assert found(sem.name).pids == (os.getpid(),)
        other.communicate("\n")
    anew.close()


@on_linux
def test_one_that_is_made_during_the_look_is_not_told_to_be_nobodys(name, monkeypatch):
    looked, made = listing._openers(), []
    monkeypatch.setattr(listing, "_openers", lambda: made.append(NamedSemaphore(name)) or looked)
    assert found(name) is None
    made[0].close()


@on_linux
def test_processes_that_cannot_be_looked_into(sem, monkeypatch):
    refused = {1: PermissionError, 2: FileNotFoundError, 3: ProcessLookupError}
    entries = ["1", "2", "3", "self", "uptime"]

    def listdir(path):
        return entries if path == "/proc" else os.listdir(path)

    def refuse(path, *mode, **options):
        if path.startswith("/proc/"):
            raise refused[int(path.split("/")[2])]
        return open(path, *mode, **options)

    monkeypatch.setattr(listing, "os", types.SimpleNamespace(**{**vars(os), "listdir": listdir}))
    monkeypatch.setattr(listing, "open", refuse, raising=False)
    assert found(sem.name)[2:4] == ((), False)
    refused[1] = FileNotFoundError
    assert found(sem.name)[2:4] == ((), True)
    del entries[0]  # hidden
    assert found(sem.name)[2:4] == ((), False)


@on_linux
@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda file, size=size: file.write_bytes(bytes(size))
            for size in (0, 8, 48 - listing.SIZE, 31, 33, 4096)
        ),
        lambda file: file.write_bytes(b"x" * listing.SIZE),
        lambda file: file.symlink_to("/etc/passwd"),
        os.mkfifo,  # and nobody waits for its writer
    ],
    ids="0 8 other-word-size 31 33 4096 other-shared-memory link fifo".split(),
)
def test_another_file_is_no_semaphore(file, name, make):
    make(file)
    assert found(name) is None


@on_linux
def test_listing_maps_nothing(sem, monkeypatch):
    def link(self, name):
        raise AssertionError("a file that is truncated then ends this process")

    monkeypatch.setattr(_libc.Libc, "link", link)
    assert found(sem.name).value == 3


@on_linux
def test_a_file_that_changes_while_it_is_looked_at(sem, monkeypatch):
    def reads(content):
        def read(path, *mode, **options):
            if path != file_of(sem.name):
                return open(path, *mode, **options)
            if isinstance(content, OSError):
                raise content
            return io.BytesIO(content)

        monkeypatch.setattr(listing, "open", read, raising=False)
        info = found(sem.name)
        return info and info[1:2]

    content = Path(file_of(sem.name)).read_bytes().ljust(40, b"\0")
    assert reads(PermissionError(errno.EACCES, "not for you")) == (None,)
    assert reads(FileNotFoundError()) is None
    for size in (0, 8, 40):
        assert reads(content[:size]) is None

    def lstat(path):
        raise FileNotFoundError

    monkeypatch.setattr(listing, "os", types.SimpleNamespace(**{**vars(os), "lstat": lstat}))
    assert list_posix() == []


def ints(*numbers, size=4):
    return b"".join(number.to_bytes(size, sys.byteorder) for number in numbers)


@pytest.mark.parametrize(
    ("is_glibc", "size", "start"),
    [
        pytest.param(True, 32, ints(5 | 2 << 32, size=8) + ints(128, 0), id="glibc-64-bits"),
        pytest.param(True, 16, ints(5 << 1 | 1, 128, 2), id="glibc-32-bits"),
        pytest.param(False, 32, ints(5 | 1 << 31, 2, 0), id="musl"),
    ],
)
def test_how_each_libc_keeps_the_value_beside_two_waiters(is_glibc, size, start):
    assert listing._value_of(start.ljust(size, b"\0"), is_glibc) == 5


@on_linux
@pytest.mark.skipif(sys.maxsize < 2**32, reason="on 32 bits the number is 0 in both")
def test_musl_tells_a_semaphore_of_glibc_from_its_own(sem, monkeypatch):
    libc = _libc.Libc(LIBC.lib)
    libc.files, libc.is_glibc = "/dev/shm/", False
    monkeypatch.setattr(listing, "system", lambda: libc)
    names = [info.name for info in list_posix()]
    assert ("/" + os.path.basename(file_of(sem.name)) in names) is not GLIBC


# --- other systems


def play(monkeypatch, **attributes):
    """Play another system."""
    monkeypatch.setattr(listing, "system", lambda: types.SimpleNamespace(**attributes))


@pytest.mark.parametrize("files", [None, "/tmp/SEMD"])
def test_a_system_that_cannot_list(monkeypatch, files):
    play(monkeypatch, files=files, opens_any_file=False, platform="played")
    with pytest.raises(NotImplementedError, match="played"):
        list_semaphores()


@on_linux
def test_without_their_directory_there_are_none(monkeypatch, tmp_path):
    play(monkeypatch, files=f"{tmp_path}/none/sem.", opens_any_file=True)
    assert list_posix() == []


@on_linux
def test_without_proc_the_processes_are_not_known(sem, monkeypatch):
    def isdir(path):
        return path != "/proc" and os.path.isdir(path)

    path = types.SimpleNamespace(**{**vars(os.path), "isdir": isdir})
    monkeypatch.setattr(listing, "os", types.SimpleNamespace(**{**vars(os), "path": path}))
    assert [info[2:4] for info in list_posix() if info.name == sem.name] == [((), False)]


# --- robust ones


@on_linux
def test_a_robust_semaphore_is_listed(name):
    with contextlib.closing(RobustSemaphore(name, 3, mode=0o640)) as robust:
        info = found(name)
        assert (info.kind, info.value, info.total, info.waiting) == ("robust", 3, 3, 0)
        assert (info.users, info.stays, info.mode, info.uid) == (1, False, 0o640, os.getuid())
        assert info[2:4] == (None, False)
        assert 0 <= info.age < 60
        robust.acquire(n=2)
        robust.resize(1)
        info = found(name)
        assert (info.value, info.total, info.holders) == (-1, 1, ((os.getpid(), 2),))
        assert (info.holders[0].pid, info.holders[0].tokens) == (os.getpid(), 2)
        robust.release(2)


@on_linux
def test_a_set_that_nobody_has_open_is_no_semaphore_unless_it_stays(name):
    kept = []
    with own_sets():
        in_child(lambda: kept.append(RobustSemaphore(name, 3)))
        assert found(name) is None
        assert _sets.remove_idle([name]) == [name]
    close(RobustSemaphore(name, 3, unlink_on_delete=False))
    assert found(name).stays is True
    assert _sets.remove_idle([name]) == [name]
    assert found(name) is None
