# SPDX-License-Identifier: Apache-2.0
"""Counting opens where the system does not."""

from __future__ import annotations

import os

import profiles
import pytest
from kinds import bound
from support import collect, in_threads

from named_semaphores import NamedSemaphore
from named_semaphores._libc import Libc

if profiles.why_impossible():
    pytest.skip(
        f"NO PLATFORM PROFILES, ALL OF test_refcount.py IS SKIPPED: {profiles.why_impossible()}",
        allow_module_level=True,
    )

from profiles.uncounted import Cygwin, Illumos

Flags = NamedSemaphore.Flags


@pytest.mark.parametrize(("lib", "platform"), [(Cygwin, "cygwin"), (Illumos, "sunos5")])
def test_a_second_open_is_counted_where_the_system_does_not(name, lib, platform):
    lib = lib()
    Bound = bound(lib, platform)
    sem, link = Bound(name, 1), Bound(name)
    assert len(lib.opened) == 1
    link.close()
    del link
    collect()
    assert len(lib.opened) == 1
    with sem:
        assert not sem.acquire(False)
    sem.close()
    del sem  # what ends a with statement stays valid as long as the object lives
    collect()
    assert not lib.opened


def test_uncounted_the_fake_ends_both_handles_at_once(name):
    # So that the test above would fail without the counting.
    lib = Cygwin()
    first = lib.sem_open(name.encode(), os.O_CREAT | os.O_EXCL, 0o600, 1)
    assert lib.sem_open(name.encode(), 0, 0, 0) == first
    assert lib.sem_close(first) == 0
    assert lib.sem_close(first) == -1
    assert lib.sem_unlink(name.encode()) == 0


def test_a_semaphore_that_is_collected_during_an_open_is_closed_after_it(name):
    # A collection may run anywhere, also while this thread counts an open.
    class Collecting(Cygwin):
        def do_sem_open(self, *arguments):
            dropped.clear()
            collect()
            still_open.append(len(self.opened))
            return super().do_sem_open(*arguments)

    dropped, still_open = [], []
    lib = Collecting()
    libc = Libc(lib, "cygwin")
    opened = libc.create(f"{name}a", 0o600, 1, [])
    dropped.append(libc.create(f"{name}b", 0o600, 1, []))
    still_open.clear()
    again = libc.link(f"{name}a")
    assert still_open == [2]
    assert len(lib.opened) == 1
    assert again.address == opened.address
    for suffix in "ab":
        libc.unlink(f"{name}{suffix}")


def test_what_is_collected_during_an_open_may_itself_open(name):
    # Clean-up opens the name again, to see whose it is.
    class Collecting(Cygwin):
        def do_sem_open(self, *arguments):
            created.clear()
            return super().do_sem_open(*arguments)

    created = []
    lib = Collecting()
    Bound = bound(lib, "cygwin")
    created.append(Bound(f"{name}a"))
    sem = Bound(f"{name}b")
    with pytest.raises(FileNotFoundError):
        Bound(f"{name}a", handle_existence=Flags.RAISE_IF_NOT_EXISTS)
    sem.close()
    del sem
    collect()
    assert not lib.opened


def test_threads_open_and_close_the_same_name(name):
    lib = Cygwin()
    Bound = bound(lib, "cygwin")
    sem = Bound(name, 1)

    def use():
        for _ in range(50):
            link = Bound(name)
            with link:
                pass
            link.close()

    in_threads(4, use)
    collect()
    assert list(lib.opened.values())[0][1] == 1
    assert sem.value == 1
    sem.close()


def test_a_failed_open_is_not_counted(name):
    lib = Illumos()
    Bound = bound(lib, "sunos5")
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            Bound(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
    sem = Bound(name)
    sem.close()
    del sem
    collect()
    assert not lib.opened
