# SPDX-License-Identifier: Apache-2.0
"""The list of this machine's semaphores."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import sys
import time
import types
from pathlib import Path

import pytest
from support import run_python, start_python

from named_semaphores import NamedSemaphore, core, listing
from named_semaphores.listing import is_in_use, list_semaphores

LIBC = core._system_libc()
GLIBC = sys.platform.startswith("linux") and LIBC.is_glibc
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
with_glibc = pytest.mark.skipif(not GLIBC, reason="/dev/shm/sem.NAME")
with_files = pytest.mark.skipif(LIBC.files is None, reason="this system cannot list")

HOLD = (
    "from named_semaphores import NamedSemaphore; import sys; sem = NamedSemaphore(sys.argv[1], unlink_on_delete=False); print(); input()"
)


def found(name):
    return next((info for info in list_semaphores() if info.name == name), None)


def file_of(name):
    return Path(LIBC.files + name[1:])


@pytest.fixture
def sem(name):
    sem = NamedSemaphore(name, 3, unlink_on_delete=True, mode=0o640)
    yield sem
    sem.close()


@pytest.fixture
def file(name):
    """Yield a semaphore's file to be made; the test's end removes it."""
    path = file_of(name)
    yield path
    path.unlink()


@with_files
def test_a_semaphore_is_listed(sem):
    before = time.time()
    info = found(sem.name)
    assert (info.value, info.why_no_value, info.mode, info.uid) == (3, None, 0o640, os.getuid())
    assert info.owner == pwd.getpwuid(os.getuid()).pw_name
    assert before - 60 < info.created <= time.time()
    assert 0 <= info.age < 60
    with sem:
        assert found(sem.name).value == 2
    sem.unlink()
    assert found(sem.name) is None


@with_files
def test_the_list_is_sorted(sem):
    names = [info.name for info in list_semaphores()]
    assert names == sorted(names)


@on_linux
def test_who_has_it_open(sem):
    assert found(sem.name).pids == (os.getpid(),)
    with start_python(HOLD, sem.name) as other:
        other.stdout.readline()
        assert sorted(found(sem.name).pids) == sorted((os.getpid(), other.pid))
        other.communicate("\n")
    assert found(sem.name).pids == (os.getpid(),)


@on_linux
def test_who_has_another_of_the_same_name_open_does_not_count(name):
    with start_python(HOLD, name) as other:
        other.stdout.readline()
        sem = NamedSemaphore(name, 1, NamedSemaphore.Flags.UNLINK_AND_CREATE)
        assert found(name).pids == (os.getpid(),)
        other.communicate("\n")
    sem.close()


@on_linux
def test_processes_that_cannot_be_looked_into(sem, monkeypatch):
    refused = {1: PermissionError, 2: FileNotFoundError, 3: ProcessLookupError}
    everything = [str(pid) for pid in refused] + ["self", "uptime"]

    def listdir(path):
        return everything if path == "/proc" else os.listdir(path)

    def refuse(path, mode):
        raise refused[int(path.split("/")[2])]

    ours = types.SimpleNamespace(**{**vars(os), "listdir": listdir})
    monkeypatch.setattr(listing, "os", ours)
    monkeypatch.setattr(listing, "open", refuse, raising=False)
    assert found(sem.name)[3:5] == ((), False)
    refused[1] = FileNotFoundError
    assert found(sem.name)[3:5] == ((), True)
    del everything[0]  # hidden
    assert found(sem.name)[3:5] == ((), False)


@on_linux
def test_no_proc(sem, monkeypatch):
    def listdir(path):
        if path == "/proc":
            raise FileNotFoundError
        return os.listdir(path)

    monkeypatch.setattr(listing, "os", types.SimpleNamespace(**{**vars(os), "listdir": listdir}))
    assert found(sem.name)[3:5] == ((), False)


@on_linux
@pytest.mark.parametrize("size", [0, 8, 31, 33, 4096])
def test_a_file_of_another_size_is_no_semaphore(file, name, size):
    file.write_bytes(bytes(size))
    assert found(name) is None


@on_linux
def test_what_is_no_regular_file_is_no_semaphore(file, name):
    file.symlink_to("/etc/passwd")
    assert found(name) is None


@on_linux
def test_a_semaphore_of_the_other_word_size_is_told_apart(file, name):
    file.write_bytes(bytes(16 if sys.maxsize > 2**32 else 32))
    info = found(name)
    assert info.value is None
    assert "bit program" in info.why_no_value


@on_linux
@pytest.mark.skipif(GLIBC, reason="glibc's have a prefix")
def test_other_shared_memory_is_no_semaphore_of_musl(file, name):
    file.write_bytes(b"x" * (32 if sys.maxsize > 2**32 else 16))
    assert found(name) is None


@on_linux
@pytest.mark.skipif(sys.maxsize < 2**32, reason="on 32 bits the number is 0 in both")
def test_how_musl_is_read(sem):
    # In a semaphore of glibc, musl finds another number than in its own: other shared memory.
    prefix = os.path.basename(LIBC.files)
    libc = types.SimpleNamespace(**{**vars(LIBC), "files": "/dev/shm/", "is_glibc": False}, value=LIBC.value)
    libc.open = lambda name, *rest: LIBC.open(b"/" + name[1:].replace(prefix.encode(), b"", 1), *rest)
    names = [info.name for info in listing._list(libc)]
    assert ("/" + prefix + sem.name[1:] in names) is not GLIBC


@with_files
def test_a_semaphore_that_cannot_be_opened(sem, monkeypatch):
    def link(libc, name):
        raise PermissionError(errno.EACCES, "not for you", name)

    monkeypatch.setattr(listing, "link", link)
    info = found(sem.name)
    assert (info.value, info.why_no_value) == (None, "not for you")


@with_files
def test_a_value_that_cannot_be_read(sem, monkeypatch):
    monkeypatch.setattr(type(LIBC), "value", lambda self, handle: (errno.ENOSYS, 0))
    assert found(sem.name)[1:3] == (None, os.strerror(errno.ENOSYS))
    monkeypatch.undo()


@with_files
def test_a_semaphore_that_is_removed_meanwhile(sem, monkeypatch):
    def link(libc, name):
        raise FileNotFoundError

    monkeypatch.setattr(listing, "link", link)
    assert found(sem.name) is None


@with_files
def test_a_file_that_is_removed_meanwhile(sem, monkeypatch):
    def lstat(path):
        raise FileNotFoundError

    monkeypatch.setattr(listing, "os", types.SimpleNamespace(**{**vars(os), "lstat": lstat}))
    assert list_semaphores() == []


@with_glibc
def test_in_use_by_either_form_of_the_name(sem):
    try:
        assert is_in_use(sem.name)
    except NotImplementedError as error:
        pytest.skip(f"this kernel does not tell: {error}")
    assert is_in_use(sem.name[1:])


def test_a_user_without_a_name(monkeypatch):
    info = listing.SemaphoreInfo("/x", 1, None, (), True, 0o600, 4_000_000_000, time.time() + 60)
    assert info.owner == "4000000000"
    assert info.age == 0  # a clock that was set back


def test_a_system_that_cannot_list(monkeypatch):
    monkeypatch.setattr(listing, "_system_libc", lambda: types.SimpleNamespace(files=None, platform="darwin", is_glibc=False))
    with pytest.raises(NotImplementedError, match="darwin"):
        list_semaphores()
    with pytest.raises(NotImplementedError, match="darwin"):
        is_in_use("/x")


def test_files_elsewhere(tmp_path, monkeypatch):
    for name in ("SEMDa", "SEMD", "other"):
        (tmp_path / name).write_text("as FreeBSD has them")
    libc = types.SimpleNamespace(files=f"{tmp_path}/SEMD", platform="freebsd14", is_glibc=False, value=lambda handle: (0, handle))
    monkeypatch.setattr(listing, "link", lambda libc, name: 7)
    (info,) = listing._list(libc)
    assert info[:5] == ("/a", 7, None, None, False)


def test_no_directory_of_semaphores(tmp_path):
    libc = types.SimpleNamespace(files=f"{tmp_path}/none/sem.", platform="linux")
    with pytest.raises(OSError, match="missing"):
        listing._list(libc)


@with_glibc
def test_is_in_use(name):
    sem = NamedSemaphore(name, unlink_on_delete=False)
    assert is_in_use(name)
    sem.close()
    assert not is_in_use(name)
    with start_python(HOLD, name) as other:
        other.stdout.readline()
        assert is_in_use(name)
        other.communicate("\n")
    assert not is_in_use(name)
    os.unlink(file_of(name))
    with pytest.raises(FileNotFoundError) as caught:
        is_in_use(name)
    assert caught.value.filename == name


@with_glibc
def test_is_in_use_while_another_process_asks(file, name):
    file.write_bytes(bytes(32))
    with open(file) as other:
        fcntl.fcntl(other, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        code = "import sys; from named_semaphores.listing import is_in_use; print(is_in_use(sys.argv[1]))"
        fcntl.fcntl(other, fcntl.F_SETSIG, 23)  # SIGURG
        assert run_python(code, name).stdout == "True\n"


@with_glibc
@pytest.mark.parametrize(("number", "expected"), [(errno.EACCES, PermissionError), (errno.EINVAL, NotImplementedError)])
def test_is_in_use_where_the_system_refuses(file, name, monkeypatch, number, expected):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    file.write_bytes(bytes(32))
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(expected, match=name):
        is_in_use(name)


def test_the_package_does_without_it():
    modules = "listing", "_cli", "_run"
    code = f"import sys, named_semaphores; print([m for m in {modules!r} if 'named_semaphores.' + m in sys.modules])"
    assert run_python(code).stdout == "[]\n"
