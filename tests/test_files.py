# SPDX-License-Identifier: Apache-2.0
"""What may lie under a semaphore's name on Linux, where semaphores are files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path

import pytest
from kinds import file_of, libc_of
from support import SLOW, elapsed, start_python

from named_semaphores import NamedSemaphore, _files

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Linux's C libraries open any file as a semaphore"
)
Flags = NamedSemaphore.Flags
LINKING = (Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS)


@pytest.fixture
def path(name):
    """Yield where the semaphore's file is, to be made; the test's end removes it."""
    path = Path(file_of(name))
    yield path
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def assert_refused(name, *texts, error=None):
    """Assert that nothing links to it, and that what lies there is no reason not to say that it exists."""
    with pytest.raises(FileExistsError, match=name):
        NamedSemaphore(name, 1, Flags.RAISE_IF_EXISTS)
    for flag in LINKING:
        with pytest.raises(OSError, match=name) as raised:
            NamedSemaphore(name, 1, flag)
        for text in texts:
            assert text in str(raised.value)
        assert error is None or raised.value.errno == error


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.mkdir(), id="directory"),
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), id="link"),
        pytest.param(lambda path: path.symlink_to(path), id="loop"),
        pytest.param(lambda path: os.mkfifo(path), id="fifo"),
    ],
)
def test_only_a_regular_file_is_a_semaphore(name, path, make):
    make(path)
    before = path.lstat()
    assert_refused(name, f"{path} is no regular file, so no semaphore")
    assert path.lstat() == before or stat.S_ISFIFO(before.st_mode)
    if path.is_dir():
        with pytest.raises(OSError, match=name):
            NamedSemaphore(name, 1, Flags.UNLINK_AND_CREATE)
    else:
        NamedSemaphore(name, 1, Flags.UNLINK_AND_CREATE).close()
        assert not os.path.lexists(path)  # it was its own, and it unlinked it


@pytest.mark.parametrize("size", [0, 1, 15, _files.SIZE - 1, _files.OTHER_SIZE])
def test_a_file_too_short_or_of_the_other_word_size_is_not_linked(name, path, size):
    contents = b"\0" * size
    path.write_bytes(contents)
    other = "it is the semaphore of a {} program, which works differently".format(
        "32-bit" if sys.maxsize > 2**32 else "64-bit"
    )
    too_short = f"its file has {size} bytes and is too short to be a semaphore"
    assert_refused(name, other if size == _files.OTHER_SIZE else too_short, error=errno.EINVAL)
    assert path.read_bytes() == contents
    NamedSemaphore(name, 1, Flags.UNLINK_AND_CREATE).close()
    assert not path.exists()


def test_a_semaphore_of_the_other_byte_order_is_not_linked(name, path):
    if not libc_of().is_glibc:
        pytest.skip("only glibc's semaphores show it")
    sem = NamedSemaphore(name, 3)
    before = path.read_bytes()
    words = [before[at : at + 4] for at in range(0, len(before), 4)]
    path.write_bytes(b"".join(word[::-1] for word in words))
    assert_refused(
        name, "it is the semaphore of a program of the other byte order", error=errno.EINVAL
    )
    path.write_bytes(before)
    sem.close()


LEASE = """
import fcntl, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)  # another process wants to open it
file = open(sys.argv[1], "r+b")
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def leased(path):
    """Let another process have a lease on the file: opening it waits for up to 45 seconds."""
    child = start_python(LEASE, str(path))
    try:
        if child.stdout.readline() != "held\n":
            pytest.skip("leases are refused here")
        yield
    finally:
        child.communicate()


def test_a_lease_that_soon_ends_is_waited_for(name, monkeypatch):
    # listing.is_in_use has one for some microseconds.
    def read_start(*arguments):
        looks.append(1)
        if len(looks) < 4:
            raise BlockingIOError
        return _read_start(*arguments)

    _read_start, looks = _files.read_start, []
    sem = NamedSemaphore(name)
    monkeypatch.setattr(_files, "read_start", read_start)
    NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS).close()
    assert len(looks) == 4
    monkeypatch.undo()
    sem.close()


def test_a_file_on_which_a_process_has_a_lease_is_not_waited_for(name, path):
    # sem_open would wait with the GIL.
    sem = NamedSemaphore(name, 1)
    sem.unlink()
    path.write_bytes(b"\0" * _files.SIZE)
    with leased(path):
        for flag in LINKING:
            with pytest.raises(
                OSError, match=f"another process has a lease on its file.*{name}"
            ) as raised:
                NamedSemaphore(name, 1, flag)
            assert raised.value.errno == errno.EAGAIN
        _, seconds = elapsed(sem.close)  # looks whether the name still stands for its own
        assert seconds < 10 * SLOW
    assert path.exists()


def test_clean_up_leaves_a_file_that_is_no_semaphore(name, path):
    sem = NamedSemaphore(name)
    sem.unlink()
    path.write_bytes(b"")
    sem.close()
    assert path.exists()


def test_an_address_that_nothing_is_mapped_at_is_an_error():
    for address in (-4096, 4096):  # on 32 bits addresses may be negative
        with pytest.raises(OSError, match="nothing is mapped"):
            _files.is_mapped_at("/dev/shm", address)


def test_a_file_is_told_from_its_successor_by_the_mapping(name, path):
    sem = NamedSemaphore(name)
    address = sem._handle.address
    assert _files.is_mapped_at(str(path), address)
    sem.unlink()
    assert not _files.is_mapped_at(str(path), address)
    path.write_bytes(b"\0" * _files.SIZE)
    assert not _files.is_mapped_at(str(path), address)
    sem.close()
    assert path.exists()
