# SPDX-License-Identifier: Apache-2.0
"""The list of this machine's semaphores."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import signal
import sys
import time
import types
from pathlib import Path

import pytest
from support import collect, run_python, start_python, wait_for

from named_semaphores import NamedSemaphore, _files, _libc, _semlock, _sysv, listing
from named_semaphores.listing import is_in_use, list_posix, list_robust, list_semaphores

LIBC = _semlock.system()
GLIBC = sys.platform.startswith("linux") and LIBC.is_glibc
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
with_glibc = pytest.mark.skipif(not GLIBC, reason="/dev/shm/sem.NAME")
with_files = pytest.mark.skipif(LIBC.files is None, reason="this system cannot list")

HOLD = "from named_semaphores import NamedSemaphore; import sys; sem = NamedSemaphore(sys.argv[1], unlink_on_delete=False); print(flush=True); input()"


def found(name, look=list_semaphores):
    return next((info for info in look() if info.name == name), None)


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


@pytest.fixture
def robust(name):
    """Yield a robust semaphore of three tokens, open in this process."""
    opened = _sysv.system().open(name, 3, mode=0o640)
    yield opened
    opened.leave()


# POSIX ones


@with_files
def test_a_semaphore_is_listed(sem):
    before = time.time()
    info = found(sem.name)
    assert (info.value, info.why_no_value, info.mode, info.uid, info.kind) == (
        3,
        None,
        0o640,
        os.getuid(),
        "posix",
    )
    assert (info.total, info.waiting, info.users, info.stays) == (None, None, None, None)
    try:
        me = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user without a name
        me = str(os.getuid())
    assert info.owner == me
    assert before - 60 < info.created <= time.time()
    assert 0 <= info.age < 60
    with sem:
        assert found(sem.name).value == 2
    sem.unlink()
    assert found(sem.name) is None


@with_files
def test_the_value_is_read_also_while_somebody_waits(sem):
    # Both libcs keep who waits beside the value.
    for _ in range(3):
        sem.acquire()
    with start_python(HOLD.replace("input()", "sem.acquire(); input()"), sem.name) as other:
        other.stdout.readline()
        if sys.platform.startswith("linux"):
            wait_for(lambda: "futex" in Path(f"/proc/{other.pid}/wchan").read_text())
        assert found(sem.name).value == 0
        sem.release(3)
        other.communicate("\n")
        assert found(sem.name).value == 2


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


# Files that are no semaphores


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
def test_a_fifo_is_no_semaphore_and_nobody_waits_for_its_writer(file, name):
    os.mkfifo(file)
    assert found(name) is None


@on_linux
@pytest.mark.parametrize("size", [0, 8, 40])
def test_a_file_that_is_truncated_after_its_size_was_seen_is_no_semaphore(sem, monkeypatch, size):
    read = _files.read_start
    monkeypatch.setattr(_files, "read_start", lambda file: read(file).ljust(33, b"\0")[:size])
    assert found(sem.name) is None


@on_linux
def test_a_semaphore_of_the_other_word_size_is_told_apart(file, name):
    file.write_bytes(bytes(16 if sys.maxsize > 2**32 else 32))
    info = found(name)
    assert info.value is None
    assert "bit program" in info.why_no_value


@on_linux
def test_other_shared_memory_of_the_same_size_is_no_semaphore(file, name):
    file.write_bytes(b"x" * _files.SIZE)
    assert found(name) is None


@on_linux
def test_a_file_with_a_lease_does_not_tell_its_value(sem):
    file = file_of(sem.name)
    name = sem.name
    sem.close()
    NamedSemaphore(name, 3, unlink_on_delete=False).close()
    collect()  # a lease is only for a file that is not open
    try:
        with open(file, "rb+") as other:
            fcntl.fcntl(other, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(other, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            # In another process: the kernel breaks no lease for its owner.
            code = "import sys; from named_semaphores.listing import list_semaphores; print([i[1:3] for i in list_semaphores() if i.name == sys.argv[1]])"
            assert (
                run_python(code, name).stdout
                == "[(None, 'another process has a lease on its file')]\n"
            )
        assert found(name).value == 3
    finally:
        os.unlink(file)


@on_linux
def test_listing_maps_nothing(sem, monkeypatch):
    def link(self, name):
        raise AssertionError("a file that is truncated then ends this process")

    monkeypatch.setattr(_libc.Libc, "link", link)
    assert found(sem.name).value == 3


def ints(*numbers):
    return b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)


@pytest.mark.parametrize(
    ("is_glibc", "size", "start"),
    [
        pytest.param(
            True, 32, (5 | 2 << 32).to_bytes(8, sys.byteorder) + ints(128, 0), id="glibc-64-bits"
        ),
        pytest.param(True, 16, ints(5 << 1 | 1, 128, 2), id="glibc-32-bits"),
        pytest.param(False, 32, ints(5 | 1 << 31, 2, 0), id="musl"),
    ],
)
def test_how_each_libc_keeps_the_value_beside_two_waiters(monkeypatch, is_glibc, size, start):
    monkeypatch.setattr(_files, "SIZE", size)
    assert (
        listing._value_of(types.SimpleNamespace(is_glibc=is_glibc), start.ljust(size, b"\0")) == 5
    )


@on_linux
@pytest.mark.skipif(sys.maxsize < 2**32, reason="on 32 bits the number is 0 in both")
def test_how_musl_is_read(sem):
    # In a semaphore of glibc, musl finds another number than in its own: other shared memory.
    prefix = os.path.basename(LIBC.files)
    libc = types.SimpleNamespace(
        files="/dev/shm/", platform="linux", is_glibc=False, opens_any_file=True
    )
    names = [info.name for info in listing._list(libc)]
    assert ("/" + prefix + sem.name[1:] in names) is not GLIBC


@on_linux
def test_a_value_that_may_not_be_read(sem, monkeypatch):
    def refuse(file):
        raise PermissionError(errno.EACCES, "not for you")

    monkeypatch.setattr(_files, "read_start", refuse)
    info = found(sem.name)
    assert (info.value, info.why_no_value) == (None, "not for you")


@on_linux
def test_a_semaphore_that_is_removed_meanwhile(sem, monkeypatch):
    def refuse(file):
        raise FileNotFoundError

    monkeypatch.setattr(_files, "read_start", refuse)
    assert found(sem.name) is None


@on_linux
def test_a_file_that_is_removed_meanwhile(sem, monkeypatch):
    def lstat(path):
        raise FileNotFoundError

    monkeypatch.setattr(listing, "os", types.SimpleNamespace(**{**vars(os), "lstat": lstat}))
    assert list_posix() == []


def test_a_user_without_a_name():
    info = listing.SemaphoreInfo("/x", 1, None, (), True, 0o600, 4_000_000_000, time.time() + 60)
    assert info.owner == "4000000000"
    assert info.age == 0  # a clock that was set back


# Other systems


def test_a_system_that_cannot_list(monkeypatch):
    monkeypatch.setattr(
        listing,
        "system",
        lambda: types.SimpleNamespace(files=None, platform="darwin", is_glibc=False),
    )
    for look in (list_posix, lambda: is_in_use("/x")):
        with pytest.raises(NotImplementedError, match="darwin"):
            look()


@pytest.mark.parametrize("missing", ["list_posix", "list_robust"])
def test_a_system_that_lists_one_kind(monkeypatch, missing):
    def refuse():
        raise NotImplementedError

    info = listing.SemaphoreInfo("/x", 1, None, None, False, 0o600, 0, 0.0)
    for look in ("list_posix", "list_robust"):
        monkeypatch.setattr(listing, look, refuse if look == missing else lambda: [info])
    assert list_semaphores() == [info]


def test_files_that_only_the_library_can_read(tmp_path):
    for name in ("SEMDa", "SEMDb", "SEMDc", "SEMD", "other"):
        (tmp_path / name).write_text("as FreeBSD has them")

    def link(name):
        if name == "/b":
            raise PermissionError(errno.EACCES, "not for you")
        if name == "/c":
            raise FileNotFoundError
        return 7

    libc = types.SimpleNamespace(
        files=f"{tmp_path}/SEMD",
        platform="freebsd14",
        opens_any_file=False,
        link=link,
        value=lambda handle: handle,
    )
    assert [info[:5] for info in listing._list(libc)] == [
        ("/a", 7, None, None, False),
        ("/b", None, "not for you", None, False),
    ]


def test_no_directory_of_semaphores(tmp_path):
    libc = types.SimpleNamespace(
        files=f"{tmp_path}/none/sem.", platform="linux", opens_any_file=True
    )
    with pytest.raises(OSError, match="missing"):
        listing._list(libc)


# Robust ones


@on_linux
def test_a_robust_semaphore_is_listed(robust):
    info = found(robust.name)
    assert (info.kind, info.value, info.total, info.waiting, info.users, info.stays) == (
        "robust",
        3,
        3,
        0,
        1,
        False,
    )
    assert (info.mode, info.uid, info.why_no_value, info.pids, info.all_pids) == (
        0o640,
        os.getuid(),
        None,
        None,
        False,
    )
    assert 0 <= info.age < 60
    library = _sysv.system()
    library.operate(robust.id, _sysv.take(2))
    assert found(robust.name).value == 1
    library.operate(robust.id, _sysv.give(2))
    robust.resize(5)
    assert found(robust.name)[1] == found(robust.name).total == 5


@on_linux
def test_a_robust_semaphore_that_nobody_has_open_counts_as_not_there(name):
    code = "import os, sys; from named_semaphores import _sysv; opened = _sysv.system().open(sys.argv[1], 3); os._exit(0)"
    assert run_python(code, name).returncode == 0
    assert name in _sysv.idle_sets()
    assert name in _sysv.idle_sets([name])
    assert found(name) is None
    assert _sysv.remove_idle_sets([name]) == [name]
    assert name not in _sysv.idle_sets()


@on_linux
def test_a_robust_semaphore_that_stays(name):
    _sysv.system().open(name, 3, persist=True).leave()
    assert found(name).stays is True
    assert name not in _sysv.idle_sets()
    assert _sysv.remove_idle_sets([name]) == [name]
    assert found(name) is None


@on_linux
def test_a_set_in_use_is_not_removed(robust):
    assert _sysv.remove_idle_sets([robust.name]) == []
    assert found(robust.name).users == 1


@on_linux
def test_a_set_that_is_removed_or_opened_meanwhile(robust, monkeypatch):
    gone = _sysv.Listed(robust.id, 0, 0, 0, 0)
    gone.name, gone.users, gone.persistent = robust.name, 0, False
    monkeypatch.setattr(_sysv, "list_sets", lambda: [gone])
    assert _sysv.remove_idle_sets() == []  # it is open
    gone.id = -1
    assert _sysv.remove_idle_sets() == []


@on_linux
def test_other_programs_sets_are_not_listed(monkeypatch):
    unreadable = _sysv.Listed(1, 0o600, 0, 0, 0)
    monkeypatch.setattr(_sysv, "list_sets", lambda: [unreadable])
    assert list_robust() == []
    assert _sysv.idle_sets() == []


# is_in_use


@with_glibc
def test_in_use_by_either_form_of_the_name(sem):
    try:
        assert is_in_use(sem.name)
    except NotImplementedError as error:
        pytest.skip(f"this kernel does not tell: {error}")
    assert is_in_use(sem.name[1:])


@with_glibc
def test_a_look_whether_it_is_in_use_is_over_when_it_returns(name, monkeypatch):
    def keep(file, command, argument):
        if argument == fcntl.F_WRLCK:
            kept.append(os.dup(file.fileno()))  # as a child has it that another thread forks
        return call(file, command, argument)

    call, kept = fcntl.fcntl, []
    sem = NamedSemaphore(name, unlink_on_delete=False)
    sem.close()
    del sem
    collect()
    monkeypatch.setattr(fcntl, "fcntl", keep)
    assert not is_in_use(name)
    NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS).unlink()
    os.close(kept[0])


@with_glibc
def test_is_in_use(name):
    sem = NamedSemaphore(name, unlink_on_delete=False)
    assert is_in_use(name)
    sem.close()
    del sem
    collect()
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
        fcntl.fcntl(other, fcntl.F_SETSIG, signal.SIGURG)
        assert run_python(code, name).stdout == "True\n"


@with_glibc
@pytest.mark.parametrize(
    ("number", "expected"), [(errno.EACCES, PermissionError), (errno.EINVAL, NotImplementedError)]
)
def test_is_in_use_where_the_system_refuses(file, name, monkeypatch, number, expected):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    file.write_bytes(bytes(32))
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(expected, match=name):
        is_in_use(name)


def test_the_package_does_without_it():
    modules = "listing", "_cli", "_run", "_sysv"
    code = f"import sys; from named_semaphores import NamedSemaphore; print([m for m in {modules!r} if 'named_semaphores.' + m in sys.modules])"
    assert run_python(code).stdout == "[]\n"
