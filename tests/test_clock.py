# SPDX-License-Identifier: Apache-2.0
"""Which clock the kernel is told to wait by, as seen in the system call; test_libc.py steps the
clock for systems that are emulated.

SemLock waits on the wall clock, so it makes only waits without a timeout, in slices.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time

import kinds
import pytest
from kinds import libc_of
from support import wait_for

from named_semaphores._libc import Libc

KINDS = [profile for profile in kinds.NATIVE if profile in kinds.POSIX]

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
            # The half of the value that has the count: the first, or the second of a big-endian
            # machine.
            if (
                len(fields) > 2
                and int(fields[1], 16) - address in (0, 4)
                and int(fields[2], 16) & 127 == WAIT_BITSET
            ):
                operations.append(int(fields[2], 16))
        return operations

    address = sem._handle.pointer & (2 * sys.maxsize + 1)  # on 32 bits it may be negative
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
def sem(kind, name):
    """A semaphore without tokens, where the kernel tells what a thread waits for, and by which
    clock it can.
    """
    if not hasattr(kind.libc.lib, "sem_clockwait"):
        pytest.skip("this libc has no sem_clockwait")
    try:
        with open("/proc/self/syscall", encoding="ascii") as file:
            file.read()
        if "qemu" in os.readlink("/proc/thread-self/exe"):  # which it forgets to hide
            pytest.skip("the kernel sees the emulator's addresses, not this program's")
    except OSError as error:
        pytest.skip(f"the kernel does not tell system calls: {error}")
    sem = kind.cls(name, 0)
    yield sem
    sem.close()


@pytest.mark.parametrize("timeout", [60, 1e9])
def test_a_timeout_is_on_the_monotonic_clock(sem, timeout):
    assert not futex_operation(sem, lambda: sem.acquire(timeout=timeout)) & CLOCK_REALTIME


@pytest.mark.parametrize("timeout", [None, float("inf")])
def test_an_endless_wait_is_on_it_too_where_ctypes_waits(kind, sem, timeout):
    is_wall = bool(futex_operation(sem, lambda: sem.acquire(timeout=timeout)) & CLOCK_REALTIME)
    assert is_wall is not (type(libc_of(kind.cls)) is Libc)


def test_the_wall_clock_would_be_seen(sem):
    wait = libc_of(type(sem)).lib.sem_timedwait
    until = Timespec(int(time.time()) + 60, 0)
    assert (
        futex_operation(
            sem, lambda: wait(ctypes.c_void_p(sem._handle.pointer), ctypes.byref(until))
        )
        & CLOCK_REALTIME
    )
