# SPDX-License-Identifier: Apache-2.0
"""Machines that are full, or have something missing or forbidden: the right exception, and a
sentence that names the semaphore and what helps.

What needs privileges is tested twice: with fakes of libraries, by everybody, and in mount
namespaces, by root. The machine's /dev/shm is left alone.
"""

from __future__ import annotations

import ast
import errno
import os
import platform
import shutil
import subprocess
import sys
from functools import cache

import profiles
import pytest
from kinds import bound, file_of, kind
from profiles.posix import FreeBSD, Musl, OpenBSD
from support import NOBODY, SLOW, run_python, why_always_the_same_user

from named_semaphores import NamedSemaphore

Flags = NamedSemaphore.Flags
LINK = Flags.RAISE_IF_NOT_EXISTS

# --- with fakes


def refusing(error, creating_alone=False, platform="linux"):
    """Return the class, bound to a library whose sem_open fails with the errno."""
    profiles.skip_without_fakes()
    base = {"linux": Musl, "freebsd14": FreeBSD, "openbsd7": OpenBSD}[platform]

    class Refusing(base):
        def do_sem_open(self, name, oflag, mode, value):
            raise OSError(error if oflag or not creating_alone else errno.ENOENT, "")

    return bound(Refusing(), platform)


FORBIDDEN = "this user may not write in {directory}"
DIRECTORY = "{directory}, the file system that holds semaphores, "
SENTENCES = {
    "EACCES": FORBIDDEN,
    "EPERM": FORBIDDEN,
    "ENOSPC": DIRECTORY + "is full",
    "EROFS": DIRECTORY + "is mounted read-only",
    "EMFILE": "this process has too many open files, or on musl 256 semaphores",
    "ENFILE": "this system has too many open files",
    "EEXIST": "a semaphore of this name exists",
    "ENOENT": "",
    "EINVAL": "",
    "ENOMEM": "",
}


@pytest.mark.parametrize(("error", "text"), SENTENCES.items(), ids=list(SENTENCES))
@pytest.mark.parametrize(
    ("platform", "directory"), [("linux", "/dev/shm"), ("freebsd14", "/tmp"), ("openbsd7", None)]
)
def test_a_refusal_to_create_is_explained(name, platform, directory, error, text):
    error = getattr(errno, error)
    with pytest.raises(OSError, match=name) as raised:
        refusing(error, True, platform)(name, 1, Flags.RAISE_IF_EXISTS)
    # "There is none" is no reason not to create it: glibc says so where this user may not search
    # the directory.
    assert raised.value.errno == (errno.EACCES if error == errno.ENOENT else error)
    assert raised.value.filename == name
    assert type(raised.value) is type(OSError(raised.value.errno, ""))
    if directory is not None or "{" not in text:
        assert text.format(directory=directory) in str(raised.value)
    else:
        assert "None" not in str(raised.value)


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ENOTDIR, errno.ENOSYS, errno.EINVAL])
def test_a_missing_directory_is_explained(name, tmp_path, error):
    # glibc from 2.34 on says ENOENT, also when it creates, older ones ENOSYS, Cygwin EINVAL.
    cls = refusing(error)
    cls._libc.files = f"{tmp_path}/shm/sem."
    for flag in Flags:
        text = f"{tmp_path}/shm, the shared memory file system .* is missing: mount a tmpfs there"
        expected = errno.ENOSYS
        if flag is LINK and error == errno.ENOENT:
            text, expected = "there is no semaphore of this name", errno.ENOENT
        with pytest.raises(OSError, match=text) as raised:
            cls(name, handle_existence=flag)
        assert (raised.value.errno, raised.value.filename) == (expected, name)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM])
def test_another_users_file_is_explained(name, error):
    theirs = kind("musl").cls(name, mode=0o640)
    text = f"user {os.geteuid()}, group .*, with mode 0640; opening it needs read and write"
    with pytest.raises(PermissionError, match=text) as raised:
        refusing(error)(name)
    assert raised.value.filename == name
    theirs.close()


# --- on this machine


@cache
def why_no_namespace():
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root, to mount"
    if shutil.which("unshare") is None:
        return "needs unshare, of util-linux"
    mount = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    return f"mount namespaces are refused here: {done.stderr.strip()}" if done.returncode else None


needs_namespace = pytest.mark.skipif(why_no_namespace() is not None, reason=f"{why_no_namespace()}")

# ``attempt`` notes what became of making the semaphore; ``attempt_all`` does it with each flag.
# The notes are the output.
START = """
import os, sys
from named_semaphores import NamedSemaphore
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
    # PyPy without /proc complains of that.
    complaints = [line for line in done.stderr.splitlines() if "find your CPU" not in line]
    assert (done.returncode, complaints) == (0, [])
    return ast.literal_eval(done.stdout)


def in_namespace(mounts, code, name):
    """Run shell commands that prepare a mount namespace, then Python code; return its notes."""
    shell = ["unshare", "-m", "sh", "-ec", f'{mounts}\nexec "$@"', "sh"]
    command = [*shell, sys.executable, "-c", START + code + SAY, name]
    options = {"capture_output": True, "text": True, "timeout": 60 * SLOW, "check": False}
    return notes_of(subprocess.run(command, **options))


def expect(note, kind, error, *texts):
    assert note[:2] == (kind, error)
    for text in texts:
        assert text in note[2]


@needs_namespace
@pytest.mark.parametrize(
    "then",
    [
        pytest.param("", id="missing"),
        pytest.param("\ntouch /dev/shm", id="a file"),
        pytest.param("\nln -s nowhere /dev/shm", id="a link to nowhere"),
    ],
)
def test_no_dev_shm(name, then):
    mounts = f"mount -t tmpfs none /dev{then}"
    code = "attempt_all()\nnotes.append(os.listdir('/dev'))"
    exists, create, link, replace, left = in_namespace(mounts, code, name)
    for note in (exists, create, replace):
        text = "/dev/shm, the shared memory file system that holds semaphores, is missing: mount"
        expect(note, "OSError", errno.ENOSYS, name, text)
    assert link[0] in ("FileNotFoundError", "OSError")
    assert name in link[2]
    assert left in ([], ["shm"])


@needs_namespace
@pytest.mark.parametrize(
    ("options", "fill"), [("size=8k", "x" * 4096), ("nr_inodes=3", "")], ids=["full", "no inodes"]
)
def test_dev_shm_is_full(name, options, fill):
    code = f"""
sem = NamedSemaphore(name + "x", 2)
with open("/dev/shm/fill", "w") as file: file.write({fill!r})
attempt_all()
link = NamedSemaphore(name + "x")  # what exists goes on working
with link, sem:
    notes.append(sem.acquire(timeout=0.001))
link.close()
sem.close()
notes.append(os.listdir("/dev/shm"))
"""
    mount = f"mount -t tmpfs -o {options} none /dev/shm"
    exists, create, link, replace, third, left = in_namespace(mount, code, name)
    for note in (exists, create, replace):
        text = "/dev/shm, the file system that holds semaphores, is full"
        expect(note, "OSError", errno.ENOSPC, name, text)
    expect(link, "FileNotFoundError", errno.ENOENT, name)
    assert (third, left) == (False, ["fill"])


@needs_namespace
@pytest.mark.skipif(why_always_the_same_user() is not None, reason=f"{why_always_the_same_user()}")
def test_dev_shm_may_not_be_searched(name):
    # The real user too: musl asks access(), which goes by that one.
    code = f"""
sem = NamedSemaphore(name, mode=0o666)
os.setresuid({NOBODY}, {NOBODY}, 0)
attempt_all()
attempt(sem.unlink)
os.setresuid(0, 0, 0)
sem.close()
"""
    for note in in_namespace("mount -t tmpfs -o mode=700 none /dev/shm", code, name):
        expect(note, "PermissionError", errno.EACCES, name)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/shm is Linux's")
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
attempt(sem.close)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
"""
    *refused, second, value, close = notes_of(run_python(START + code + SAY, name))
    for note in refused:
        expect(note, "OSError", errno.EMFILE, name, "this process has too many open files")
    assert (second, value, close) == (True, 1, "worked")  # what is open goes on working
    assert not os.path.exists(file_of(name + "x"))


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() != "x86_64" or sys.maxsize < 2**32,
    reason="system calls have other numbers",
)
def test_an_existing_semaphore_is_opened_without_o_creat(name):
    # With it, the sysctl fs.protected_regular refuses another user's semaphore in the sticky
    # /dev/shm, whatever its mode. Here a seccomp filter refuses it.
    code = """
import ctypes, struct
libc = ctypes.CDLL(None)
def refuse(number, argument, bits):  # the system call, if the argument has one of the bits
    steps = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16 + 8 * argument)]
    steps += [(0x45, 0, 1, bits), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, program, 0, 0) == 0
sem = NamedSemaphore(name + "x", 2)
for number, argument in ((2, 1), (257, 2)):  # open, openat
    refuse(number, argument, os.O_CREAT)
attempt(lambda: open("/dev/shm/" + name[1:], "w"))
attempt(lambda: NamedSemaphore(name + "x"))
attempt(lambda: NamedSemaphore(name + "x", handle_existence=Flags.RAISE_IF_NOT_EXISTS))
print(repr(notes), flush=True)
sem.close()
os._exit(0)  # other ends may create files
"""
    refused, *linked = notes_of(run_python(START + code + SAY, name))
    assert refused[0] == "PermissionError"
    assert linked == ["worked", "worked"]
