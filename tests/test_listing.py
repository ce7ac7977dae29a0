# SPDX-License-Identifier: Apache-2.0
"""The list of this machine's semaphores."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import types
from pathlib import Path

import pytest
from holders import in_child
from kinds import file_of, libc_of
from namespaces import own_sets
from support import start_python, wait_for

from named_semaphores import NamedSemaphore, RobustSemaphore, _libc, _sets, listing
from named_semaphores.listing import SemaphoreInfo, list_posix, list_robust, list_semaphores

LIBC = libc_of()
GLIBC = sys.platform.startswith("linux") and LIBC.is_glibc
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
with_files = pytest.mark.skipif(LIBC.files is None, reason="this system cannot list")


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


@with_files
def test_a_semaphore_is_listed(sem):
    before = time.time()
    info = found(sem.name)
    assert (info.value, info.why_no_value, info.kind) == (3, None, "posix")
    assert (info.mode, info.uid) == (0o640, os.getuid())
    assert (info.total, info.waiting, info.users, info.holders, info.stays) == (None,) * 5
    assert before - 60 < info.created <= time.time()
    assert 0 <= info.age < 60
    names = [info.name for info in list_semaphores()]
    assert names == sorted(names)
    with sem:
        assert found(sem.name).value == 2
    sem.unlink()
    assert found(sem.name) is None


def test_an_owner_without_a_name_and_a_clock_that_was_set_back():
    info = SemaphoreInfo("/x", 1, None, (), True, 0o600, 4_000_000_000, time.time() + 60)
    assert (info.owner, info.age) == ("4000000000", 0)
    assert info._replace(uid=0).owner == "root"


HOLD = """
import sys
from named_semaphores import NamedSemaphore
sem = NamedSemaphore(sys.argv[1], unlink_on_delete=False)
print(flush=True)
"""


@with_files
def test_the_value_is_read_also_while_somebody_waits(sem):
    # Both libcs keep who waits beside the value.
    sem.acquire()
    sem.acquire()
    sem.acquire()
    with start_python(HOLD + "sem.acquire(); input()", sem.name) as other:
        other.stdout.readline()
        if sys.platform.startswith("linux"):
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
def test_processes_that_cannot_be_looked_into(sem, monkeypatch):
    refused = {1: PermissionError, 2: FileNotFoundError, 3: ProcessLookupError}
    entries = ["1", "2", "3", "self", "uptime"]

    def listdir(path):
        if path == "/proc" and not entries:
            raise FileNotFoundError
        return entries if path == "/proc" else os.listdir(path)

    def refuse(path, *mode, **options):
        if path.startswith("/proc/"):
            raise refused[int(path.split("/")[2])]
        return open(path, *mode, **options)

    monkeypatch.setattr(listing, "os", types.SimpleNamespace(**{**vars(os), "listdir": listdir}))
    monkeypatch.setattr(listing, "open", refuse, raising=False)
    assert found(sem.name)[3:5] == ((), False)
    refused[1] = FileNotFoundError
    assert found(sem.name)[3:5] == ((), True)
    del entries[0]  # hidden
    assert found(sem.name)[3:5] == ((), False)
    entries.clear()  # no /proc
    assert found(sem.name)[3:5] == ((), False)


@on_linux
@pytest.mark.parametrize(
    "make",
    [
        *(lambda file, size=size: file.write_bytes(bytes(size)) for size in (0, 8, 31, 33, 4096)),
        lambda file: file.write_bytes(b"x" * listing.SIZE),
        lambda file: file.symlink_to("/etc/passwd"),
        os.mkfifo,  # and nobody waits for its writer
    ],
    ids="0 8 31 33 4096 other-shared-memory link fifo".split(),
)
def test_another_file_is_no_semaphore(file, name, make):
    make(file)
    assert found(name) is None


@on_linux
def test_a_semaphore_of_the_other_word_size_is_told_apart(file, name):
    file.write_bytes(bytes(16 if sys.maxsize > 2**32 else 32))
    info = found(name)
    assert info.value is None
    assert "bit program" in info.why_no_value


@on_linux
def test_listing_maps_nothing(sem, monkeypatch):
    def link(self, name):
        raise AssertionError("a file that is truncated then ends this process")

    monkeypatch.setattr(_libc.Libc, "link", link)
    assert found(sem.name).value == 3


@on_linux
def test_a_file_that_changes_while_it_is_looked_at(sem, monkeypatch):
    def reads(start):
        def read(path):
            if isinstance(start, OSError):
                raise start
            return start

        monkeypatch.setattr(listing, "_start_of", read)
        info = found(sem.name)
        return info and info[1:3]

    start = listing._start_of(file_of(sem.name)).ljust(40, b"\0")
    assert reads(OSError(errno.EACCES, "not for you")) == (None, "not for you")
    assert reads(OSError(errno.ENOENT, "removed")) is None
    for size in (0, 8, 40):
        assert reads(start[:size]) is None

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
    libc = types.SimpleNamespace(is_glibc=is_glibc)
    assert listing._value_of(libc, start.ljust(size, b"\0")) == 5


@on_linux
@pytest.mark.skipif(sys.maxsize < 2**32, reason="on 32 bits the number is 0 in both")
def test_musl_tells_a_semaphore_of_glibc_from_its_own(sem):
    libc = _libc.Libc(LIBC.lib)
    libc.files, libc.is_glibc = "/dev/shm/", False
    names = [info.name for info in listing._list(libc)]
    assert ("/" + os.path.basename(file_of(sem.name)) in names) is not GLIBC


# --- other systems


def played(**attributes):
    """Return a library of another system."""
    return types.SimpleNamespace(**{"files": None, "opens_any_file": False, **attributes})


def refuse():
    raise NotImplementedError("none here")


def test_a_system_that_cannot_list_both_kinds(monkeypatch):
    monkeypatch.setattr(listing, "system", lambda: played(platform="darwin"))
    with pytest.raises(NotImplementedError, match="darwin"):
        list_posix()
    info = SemaphoreInfo("/x", 1, None, None, False, 0o600, 0, 0.0)
    for posix, robust in ((refuse, lambda: [info]), (lambda: [info], refuse)):
        monkeypatch.setattr(listing, "list_posix", posix)
        monkeypatch.setattr(listing, "list_robust", robust)
        assert list_semaphores() == [info]
    monkeypatch.setattr(listing, "list_posix", refuse)
    with pytest.raises(NotImplementedError, match="none here"):
        list_semaphores()


def test_files_that_only_the_library_can_read(tmp_path):
    for name in ("SEMDa", "SEMDb", "SEMDc", "SEMD", "other"):
        (tmp_path / name).write_text("as FreeBSD has them")

    def link(name):
        if name == "/b":
            raise PermissionError(errno.EACCES, "not for you")
        if name == "/c":
            raise FileNotFoundError
        return types.SimpleNamespace(value=lambda: 7)

    assert [info[:5] for info in listing._list(played(files=f"{tmp_path}/SEMD", link=link))] == [
        ("/a", 7, None, None, False),
        ("/b", None, "not for you", None, False),
    ]
    assert listing._list(played(files=f"{tmp_path}/none/sem.", opens_any_file=True)) == []


# --- robust ones


@on_linux
def test_a_robust_semaphore_is_listed(name):
    with contextlib.closing(RobustSemaphore(name, 3, mode=0o640)) as robust:
        info = found(name)
        assert (info.kind, info.value, info.total, info.waiting) == ("robust", 3, 3, 0)
        assert (info.users, info.stays, info.mode, info.uid) == (1, False, 0o640, os.getuid())
        assert info[2:5] == (None, None, False)
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
    RobustSemaphore(name, 3, unlink_on_delete=False).close()
    assert found(name).stays is True
    assert _sets.remove_idle([name]) == [name]
    assert found(name) is None


@on_linux
def test_sets_without_a_name_may_be_other_programs_and_are_not_listed(monkeypatch):
    unreadable = types.SimpleNamespace(name=None, users=None, persistent=None)
    monkeypatch.setattr(_sets, "listed", lambda: iter([unreadable]))
    assert list_robust() == []
