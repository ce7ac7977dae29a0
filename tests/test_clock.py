# SPDX-License-Identifier: Apache-2.0
"""Which clock the kernel is told to wait by, as seen in the system call; test_libc.py steps the clock for systems that are emulated."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time

import pytest
from support import wait_for

from named_semaphores import NamedSemaphore
from named_semaphores.core import _system_libc

WAIT_BITSET, CLOCK_REALTIME = 9, 256  # linux/futex.h; without the second it is CLOCK_MONOTONIC


class Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


def futex_operation(sem, wait):
    """Return the operation with which a thread waits for the semaphore, as /proc tells it."""

    def work():
        thread_id.append(threading.get_native_id())
        wait()

    def waits():
        if thread_id:
            with open(f"/proc/self/task/{thread_id[0]}/syscall", encoding="ascii") as file:
                fields = file.read().split()  # number, arguments in hexadecimal; or "running"
            # The half of the value that has the count: the first, or the second of a big-endian machine.
            if len(fields) > 2 and int(fields[1], 16) - address in (0, 4) and int(fields[2], 16) & 127 == WAIT_BITSET:
                operations.append(int(fields[2], 16))
        return operations

    address = sem._handle & (2 * sys.maxsize + 1)  # on 32 bits it may be negative
    thread_id, operations = [], []
    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_for(waits)
    finally:
        sem.release()
        thread.join()
    return operations[0]


@pytest.fixture
def sem(name):
    """A semaphore without tokens, where the kernel tells what a thread waits for, and by which clock it can."""
    if not hasattr(_system_libc().lib, "sem_clockwait"):
        pytest.skip("this libc has no sem_clockwait")
    try:
        with open("/proc/self/syscall", encoding="ascii") as file:
            file.read()
        if "qemu" in os.readlink("/proc/thread-self/exe"):  # which it forgets to hide
            pytest.skip("the kernel sees the emulator's addresses, not this program's")
    except OSError as error:
        pytest.skip(f"the kernel does not tell system calls: {error}")
    sem = NamedSemaphore(name, 0)
    yield sem
    sem.close()


@pytest.mark.parametrize("arguments", [(), (True, 60), (True, float("inf"))], ids=["no timeout", "a timeout", "infinity"])
def test_waits_are_by_the_monotonic_clock(sem, arguments):
    assert not futex_operation(sem, lambda: sem.acquire(*arguments)) & CLOCK_REALTIME


def test_with_waits_by_it_too(sem):
    def enter():
        with sem:
            pass

    assert not futex_operation(sem, enter) & CLOCK_REALTIME
    sem.acquire()


def test_the_wall_clock_would_be_seen(sem):
    wait = sem._libc.lib.sem_timedwait
    until = Timespec(int(time.time()) + 60, 0)
    assert futex_operation(sem, lambda: wait(ctypes.c_void_p(sem._handle), ctypes.byref(until))) & CLOCK_REALTIME
