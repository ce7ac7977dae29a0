# SPDX-License-Identifier: Apache-2.0
"""What the tests of RobustSemaphore share: what the kernel knows, and other processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

import pytest
from forks import Children, Gate
from support import (
    NOBODY,
    PYPY,
    collect,
    run_python,
    set_of,
    start_python,
    wait_for,
    why_always_the_same_user,
)

from named_semaphores import RobustSemaphore, _set

as_root = pytest.mark.skipif(
    bool(why_always_the_same_user()), reason=why_always_the_same_user() or ""
)


_CLONE_NEWIPC = 0x08000000


@contextlib.contextmanager
def own_sets():
    """Let this thread and its children have System V sets of their own, where that is allowed.

    A test that leaves an idle set needs it: any run of this user, say in another test suite,
    removes idle sets. Yields whether it is so.
    """
    libc = ctypes.CDLL(None)
    try:
        before = open("/proc/self/ns/ipc")
    except OSError:  # not Linux
        yield False
        return
    with before:
        collect()  # PyPy may have closed semaphores, which must leave sets of their own namespace
        if libc.unshare(_CLONE_NEWIPC):  # not root
            yield False
            return
        try:
            yield True
        finally:
            collect()
            assert libc.setns(before.fileno(), _CLONE_NEWIPC) == 0


def turn(sem):
    """Return whether a process that wants several tokens has the first of them."""
    return sem._set.library.value(sem._set.id, _set.TURN)


def users_of(sem):
    if PYPY:
        collect()
    return sem._set.users()


def held(sem, pid=None):
    """Return how many tokens a process holds, by default this one."""
    return dict(sem.holders).get(pid or os.getpid(), 0)


def exists(name):
    if PYPY:
        collect()
    return set_of(name) is not None


def close(*sems):
    """Close them. PyPy ends the use of a semaphore only when it collects what is left of it."""
    for sem in sems:
        sem.close()
    if PYPY:
        collect()


def remove(name):
    """Remove a set that was left without users."""
    close(RobustSemaphore(name))
    assert not exists(name)


@contextlib.contextmanager
def three(cls, name):
    """A semaphore of three tokens. At the end nobody holds one or has the turn."""
    sem = cls(name, 3)
    yield sem
    if not sem.closed:
        with contextlib.suppress(FileNotFoundError):
            # In one condition: a thread that waits for tasks may take a token once more.
            nothing = [], 0, 0, sem.total
            wait_for(lambda: (sem.holders, turn(sem), sem.waiting, sem.value) == nothing)
        close(sem)


def in_child(work, fork=os.fork):
    """Do the work in a forked child. Return its result's repr, or the exception's."""
    reading, writing = os.pipe()
    pid = fork()
    if not pid:
        try:
            result = repr(work())
        except BaseException as error:
            result = repr(error)
        os.write(writing, result.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = pipe.read()
    os.waitpid(pid, 0)
    return result


@contextlib.contextmanager
def as_nobody():
    """Let this process belong to another user."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def fork_in_c():
    """Fork as a C program does, without Python's hooks: uWSGI's default."""
    return ctypes.PyDLL(None).fork()


@contextlib.contextmanager
def beside(work):
    """A forked child that has done the work, and is killed at the end. Yield its process's id."""

    def child():
        work()
        done.give()
        signal.pause()

    with Children() as children, Gate() as done:
        pid = children.start(child)
        done.wait()
        yield pid


PROGRAM = """
import atexit, ctypes, os, signal, sys, threading, time
from named_semaphores import RobustSemaphore, _set
_set.FORKING = 0  # the last user removes the set, also if it has just forked
name = sys.argv[1]
"""


def program(code, name, *arguments, **options):
    """Run a program that exits without an error; return what it printed."""
    done = run_python(PROGRAM + code, name, *arguments, **options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@contextlib.contextmanager
def holder(name, code="sem.acquire()", number=None):
    """Another program that has opened the semaphore, and has run the code."""
    code = f"sem = RobustSemaphore(name, {number})\n{code}\nprint('ready', flush=True)\n"
    with start_python(PROGRAM + code + "sys.stdin.read()", name) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
