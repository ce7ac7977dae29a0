# SPDX-License-Identifier: Apache-2.0
"""Machines that are full, or have something missing or forbidden: the right exception, and a
sentence that names the semaphore and what helps.

What needs privileges is tested twice: with fakes of libraries, by everybody, and in mount
namespaces, by root. The machine's /dev/shm is left alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from functools import cache

import profiles
import pytest
from kinds import bound, file_of, kind
from profiles.posix import FreeBSD, Musl, OpenBSD
from support import SLOW

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
    "ENOSPC": DIRECTORY + "is full",
    "EMFILE": "this process has too many open files, or on musl 256 semaphores",
    "EEXIST": "a semaphore of this name exists",
    "ENOENT": "",
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

START = """
import os, sys
from named_semaphores import NamedSemaphore
Flags = NamedSemaphore.Flags
name = sys.argv[1]
def check(kind, text, *calls):
    # Each call must be refused in this way, with the semaphore's name.
    for call in calls:
        try:
            call()
        except OSError as error:
            assert isinstance(error, kind), repr(error)
            assert name in str(error), error
            assert text in str(error), error
        else:
            raise AssertionError("it was not refused")
def opening(*flags):
    return [lambda flag=flag: NamedSemaphore(name, 1, flag) for flag in flags]
CREATE = opening(Flags.RAISE_IF_EXISTS, Flags.LINK_OR_CREATE, Flags.UNLINK_AND_CREATE)
LINK = opening(Flags.RAISE_IF_NOT_EXISTS)
"""


def run(code, name, mounts=None):
    """Run Python code, in a mount namespace that the shell commands prepare, if there are any."""
    command = [sys.executable, "-c", START + code, name]
    if mounts is not None:
        command = ["unshare", "-m", "sh", "-ec", f'{mounts}\nexec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, check=False)
    assert done.returncode == 0, done.stderr


@needs_namespace
@pytest.mark.parametrize("then", ["", "touch /dev/shm", "ln -s nowhere /dev/shm"])
def test_no_dev_shm(name, then):
    text = "/dev/shm, the shared memory file system that holds semaphores, is missing: mount"
    code = f"""
check(OSError, {text!r}, *CREATE)
check(OSError, "", *LINK)
assert os.listdir("/dev") in ([], ["shm"])
"""
    run(code, name, f"mount -t tmpfs none /dev\n{then}")


@needs_namespace
@pytest.mark.parametrize(
    ("options", "fill"), [("size=8k", "x" * 4096), ("nr_inodes=3", "")], ids=["full", "no inodes"]
)
def test_dev_shm_is_full(name, options, fill):
    code = f"""
sem = NamedSemaphore(name + "x", 2)
with open("/dev/shm/fill", "w") as file: file.write({fill!r})
check(OSError, "/dev/shm, the file system that holds semaphores, is full", *CREATE)
check(FileNotFoundError, "", *LINK)
link = NamedSemaphore(name + "x")  # what exists goes on working
with link, sem:
    assert not sem.acquire(timeout=0.001)
link.close()
sem.close()
assert os.listdir("/dev/shm") == ["fill"]
"""
    run(code, name, f"mount -t tmpfs -o {options} none /dev/shm")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/shm is Linux's")
def test_no_file_descriptors_left(name):
    code = """
import resource
sem = NamedSemaphore(name + "x", 2)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), limits[1]))
check(OSError, "this process has too many open files", *CREATE, *LINK)
with sem:  # what is open goes on working
    assert sem.acquire(timeout=0.001)
assert sem.value == 1
sem.close()
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
"""
    run(code, name)
    assert not os.path.exists(file_of(name + "x"))
