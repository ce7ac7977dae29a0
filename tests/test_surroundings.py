# SPDX-License-Identifier: Apache-2.0
"""Machines with something missing, full or in the way: the right exception, a sentence that helps, and nothing changed.

Each has a mount namespace of its own, so that the machine's /dev/shm is left alone.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support import SLOW, run_python

from named_semaphores import NamedSemaphore
from named_semaphores.core import _system_libc

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/shm is Linux's")
SHM = "/dev/shm"
NOBODY = 65534


def why_no_namespace():
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root, to mount"
    if shutil.which("unshare") is None:
        return "needs unshare, of util-linux"
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True, check=False)
    return f"mount namespaces are refused here: {done.stderr.strip()}" if done.returncode else None


needs_namespace = pytest.mark.skipif(why_no_namespace() is not None, reason=f"{why_no_namespace()}")
needs_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to become somebody else")

# ``attempt`` notes what became of making the semaphore in each of the four ways. The notes are the output.
START = """
import os, sys
from named_semaphores import NamedSemaphore
from named_semaphores import _errors, _libc, _shm  # ctypes too: another user may not be able to read it
Flags = NamedSemaphore.Flags
name = sys.argv[1]
notes = []
def attempt(call):
    try:
        call()
    except Exception as error:
        notes.append((type(error).__name__, getattr(error, "errno", None), str(error)))
    else:
        notes.append("worked")
def attempt_all():
    for flag in Flags:
        attempt(lambda: NamedSemaphore(name, 1, flag))
"""
SAY = "\nprint(repr(notes))\n"


def notes_of(done):
    complaints = [line for line in done.stderr.splitlines() if "find your CPU" not in line]  # PyPy without /proc
    assert (done.returncode, complaints) == (0, [])
    return ast.literal_eval(done.stdout)


def in_namespace(mounts, code, name):
    """Run shell commands that prepare a mount namespace, then Python code in it; return its notes."""
    command = ["unshare", "-m", "sh", "-ec", f'{mounts}\nexec "$@"', "sh", sys.executable, "-c", START + code + SAY, name]
    return notes_of(subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, check=False))


def on_this_machine(code, name):
    return notes_of(run_python(START + code + SAY, name))


def expect(note, kind, error, *texts):
    assert note[:2] == (kind, error)
    for text in texts:
        assert text in note[2]


# The file system


@needs_namespace
@pytest.mark.parametrize(
    "mounts",
    [
        pytest.param("mount -t tmpfs none /dev", id="missing"),
        pytest.param("mount -t tmpfs none /dev\ntouch /dev/shm", id="a file"),
        pytest.param("mount -t tmpfs none /dev\nln -s nowhere /dev/shm", id="a link to nowhere"),
    ],
)
def test_no_dev_shm(name, mounts):
    notes = in_namespace(mounts, "attempt_all()\nnotes.append(sorted(os.listdir('/dev')))", name)
    assert notes.pop() in ([], ["shm"])
    for note in notes:
        expect(note, "OSError", errno.ENOSYS, name, "/dev/shm, the shared memory file system", "is missing: mount a tmpfs there")
        assert "there is no semaphore of this name" not in note[2]


@needs_namespace
def test_dev_shm_is_read_only(name):
    notes = in_namespace("mount -t tmpfs -o ro none /dev/shm", "attempt_all()", name)
    exists, create, link, replace = notes
    for note in (exists, create, replace):
        expect(note, "OSError", errno.EROFS, name, "/dev/shm, the file system that holds semaphores, is mounted read-only")
    expect(link, "FileNotFoundError", errno.ENOENT, name, "there is no semaphore of this name")


@needs_namespace
def test_dev_shm_became_read_only(name):
    code = """
import subprocess
subprocess.run([sys.executable, "-c", "from named_semaphores import *; NamedSemaphore('%s', 3, unlink_on_delete=False)" % name], check=True)
before = os.listdir("/dev/shm")
subprocess.run(["mount", "-o", "remount,ro", "/dev/shm"], check=True)
attempt_all()
notes.append(os.listdir("/dev/shm") == before)
"""
    exists, create, link, replace, same = in_namespace("mount -t tmpfs none /dev/shm", code, name)
    assert exists[0] in ("FileExistsError", "OSError")
    for note in (create, link, replace):
        expect(note, "OSError", errno.EROFS, name, "is mounted read-only")
    assert same


@needs_namespace
@pytest.mark.parametrize(
    ("options", "fill"),
    [
        pytest.param("size=8k", "with open('/dev/shm/fill', 'w') as file: file.write('x' * 4096)", id="full"),
        pytest.param("nr_inodes=3", "open('/dev/shm/fill', 'w').close()", id="no inodes"),
    ],
)
def test_dev_shm_is_full(name, options, fill):
    code = f"""
sem = NamedSemaphore(name + "x", 2)
{fill}
before = sorted(os.listdir("/dev/shm"))
attempt_all()
notes.append(sorted(os.listdir("/dev/shm")) == before)
link = NamedSemaphore(name + "x")
with link, sem:
    notes.append(sem.acquire(timeout=0.001))
notes.append(sem.value)
link.close()
sem.close()
notes.append(os.listdir("/dev/shm"))
"""
    exists, create, link, replace, same, third, value, left = in_namespace(f"mount -t tmpfs -o {options} none /dev/shm", code, name)
    for note in (exists, create, replace):
        expect(note, "OSError", errno.ENOSPC, name, "/dev/shm, the file system that holds semaphores, is full")
    expect(link, "FileNotFoundError", errno.ENOENT, name)
    assert same
    assert (third, value, left) == (False, 2, ["fill"])  # what exists goes on working


@needs_namespace
def test_dev_shm_is_not_writable(name):
    code = f"os.seteuid({NOBODY})\nattempt_all()\nos.seteuid(0)\nnotes.append(os.listdir('/dev/shm'))"
    exists, create, link, replace, left = in_namespace("mount -t tmpfs -o mode=755 none /dev/shm", code, name)
    for note in (exists, create, replace):
        expect(note, "PermissionError", errno.EACCES, name, "this user may not write in /dev/shm")
    expect(link, "FileNotFoundError", errno.ENOENT, name)
    assert left == []


@needs_namespace
def test_dev_shm_may_not_be_looked_into(name):
    # The real user too: musl asks access(), which goes by that one.
    code = f"sem = NamedSemaphore(name, mode=0o666)\nos.setresuid({NOBODY}, {NOBODY}, 0)\nattempt_all()\nattempt(sem.unlink)\nos.setresuid(0, 0, 0)\nsem.close()"
    for note in in_namespace("mount -t tmpfs -o mode=700 none /dev/shm", code, name):
        expect(note, "PermissionError", errno.EACCES, name)


@needs_namespace
def test_without_proc_names_are_removed_all_the_same(name):
    code = """
sem = NamedSemaphore(name, 1)
sem.unlink()
new = NamedSemaphore(name, 1)
sem.close()
notes.append(os.listdir("/dev/shm") != [])
new.close()
notes.append(os.listdir("/dev/shm"))
"""
    assert in_namespace("mount -t tmpfs none /dev/shm\nmount -t tmpfs none /proc", code, name) == [True, []]


# The process


def test_no_file_descriptors_left(name):
    code = """
import resource
sem = NamedSemaphore(name + "x", 2)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), limits[1]))
attempt_all()
with sem:
    notes.append(sem.acquire(timeout=0.001))
notes.append(sem.value)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
sem.close()
"""
    *refused, second, value = on_this_machine(code, name)
    for note in refused:
        expect(note, "OSError", errno.EMFILE, name, "this process has too many open files")
    assert (second, value) == (True, 1)


def test_no_file_descriptors_left_to_look_at_the_name(name):
    # The name cannot be told from a successor's: close() says so, and it is removed when there are descriptors, at the end at the latest.
    code = """
import resource
sem = NamedSemaphore(name, 2)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), limits[1]))
attempt(sem.close)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
notes.append(sem.closed)
"""
    refused, closed = on_this_machine(code, name)
    with pytest.raises(FileNotFoundError):
        NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS)
    assert closed
    expect(refused, "OSError", errno.EMFILE, name, "this process has too many open files")


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.maxsize < 2**32, reason="system calls have other numbers elsewhere")
def test_a_sandbox_that_refuses_to_create_files(name):
    # Two seccomp filters: one system call, a number, gets EPERM. glibc's sem_open makes a file and links it to its name.
    code = """
import ctypes, struct
libc = ctypes.CDLL(None)
def refuse(number):
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    assert libc.prctl(22, 2, program, 0, 0) == 0
sem = NamedSemaphore(name + "x", 2)
before = sorted(os.listdir("/dev/shm"))
assert libc.prctl(38, 1, 0, 0, 0) == 0
for number in (86, 265):
    refuse(number)
attempt_all()
notes.append(sorted(entry for entry in os.listdir("/dev/shm") if name[1:] in entry))
link = NamedSemaphore(name + "x")
with link:
    notes.append(sem.value)
link.close()
sem.close()
"""
    exists, create, link, replace, left, value = on_this_machine(code, name)
    for note in (exists, create, replace):
        expect(note, "PermissionError", errno.EPERM, name, "may not write in /dev/shm")
    expect(link, "FileNotFoundError", errno.ENOENT, name)
    assert len(left) == 1
    assert value == 1


# What is under the name


ALL_BUT_REPLACE = """
for flag in (Flags.RAISE_IF_EXISTS, Flags.LINK_OR_CREATE, Flags.RAISE_IF_NOT_EXISTS):
    attempt(lambda: NamedSemaphore(name, 1, flag))
"""
REPLACE = "attempt(lambda: NamedSemaphore(name, 1, Flags.UNLINK_AND_CREATE))"


def file_of(name):
    return Path(_system_libc().files + name[1:])


def make_directory(path):
    path.mkdir()


def make_link(path):
    path.symlink_to("/etc/passwd")


def make_loop(path):
    path.symlink_to(path)


def make_fifo(path):
    os.mkfifo(str(path))


@pytest.mark.parametrize("make", [make_directory, make_link, make_loop, make_fifo], ids=["directory", "link", "loop", "fifo"])
def test_what_is_no_regular_file_is_no_semaphore(name, make):
    path = file_of(name)
    make(path)
    try:
        before = path.lstat()
        exists, create, link = on_this_machine(ALL_BUT_REPLACE, name)
        expect(exists, "FileExistsError", errno.EEXIST, name)
        for note in (create, link):
            assert note[0] in ("OSError", "IsADirectoryError", "PermissionError")
            assert f"{path} is no regular file, so no semaphore" in note[2]
            assert name in note[2]
        assert path.lstat() == before or stat.S_ISFIFO(before.st_mode)
        if not path.is_dir():
            assert on_this_machine(REPLACE, name) == ["worked"]
            assert not os.path.lexists(str(path))  # it was its own, and it removed it
            make(path)
        else:
            (replace,) = on_this_machine(REPLACE, name)
            assert name in replace[2]
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


OTHER = (16, "32-bit") if sys.maxsize > 2**32 else (32, "64-bit")


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        (b"", "its file has 0 bytes and is too short to be a semaphore"),
        (b"x", "its file has 1 bytes and is too short to be a semaphore"),
        (b"\0" * 15, "its file has 15 bytes and is too short to be a semaphore"),
        (b"\0" * OTHER[0], f"it is the semaphore of a {OTHER[1]} program"),
    ],
    ids=["empty", "one byte", "short", "other word size"],
)
def test_a_file_that_is_no_semaphore_of_this_kind_is_not_linked(name, contents, text):
    path = file_of(name)
    path.write_bytes(contents)
    try:
        exists, create, link = on_this_machine(ALL_BUT_REPLACE, name)
        expect(exists, "FileExistsError", errno.EEXIST, name)
        for note in (create, link):
            expect(note, "OSError", errno.EINVAL, name, text)
        assert path.read_bytes() == contents
        assert on_this_machine(REPLACE, name) == ["worked"]
        assert not path.exists()
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def test_a_semaphore_of_the_other_byte_order_is_not_linked(name):
    if not _system_libc().is_glibc:
        pytest.skip("only glibc's semaphores show it")
    sem = NamedSemaphore(name, 3)
    path = file_of(name)
    size = path.stat().st_size // 4
    words = [path.read_bytes()[at : at + 4] for at in range(0, 4 * size, 4)]
    path.write_bytes(b"".join(word[::-1] for word in words))
    exists, create, link = on_this_machine(ALL_BUT_REPLACE, name)
    expect(exists, "FileExistsError", errno.EEXIST, name)
    for note in (create, link):
        expect(note, "OSError", errno.EINVAL, name, "it is the semaphore of a program of the other byte order")
    sem.close()


# Another user's


@contextlib.contextmanager
def sysctl(setting, value):
    path = Path("/proc/sys", *setting.split("."))
    before = path.read_text()
    try:
        path.write_text(value)
    except OSError as error:
        pytest.skip(f"{path} cannot be set here: {error.strerror}")
    try:
        yield
    finally:
        path.write_text(before)


@needs_root
@pytest.mark.parametrize("protection", ["1", "2"])
def test_another_users_semaphore_is_linked_in_spite_of_protected_regular(name, protection):
    before = os.umask(0)
    os.seteuid(NOBODY)
    try:
        theirs = NamedSemaphore(name, 2, mode=0o666, unlink_on_delete=False)
    finally:
        os.seteuid(0)
        os.umask(before)
    path = file_of(name)
    assert path.stat().st_uid == NOBODY
    with sysctl("fs.protected_regular", protection):
        with pytest.raises(PermissionError):  # it is in force: with O_CREAT, as sem_open is often called
            os.open(str(path), os.O_RDWR | os.O_CREAT)
        ours = NamedSemaphore(name)
        assert ours.linked_existing_semaphore
        assert ours.acquire(timeout=1)
    assert theirs.value == 1
    ours.unlink()
    ours.close()
    theirs.close()
