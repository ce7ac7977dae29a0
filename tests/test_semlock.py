# SPDX-License-Identifier: Apache-2.0
"""The interpreter's own SemLock: where it serves, what it opens, what it does as ctypes does."""

from __future__ import annotations

import errno
import sys

import pytest
from kinds import libc_of
from support import run_python, strike, thread

from named_semaphores import NamedSemaphore, _libc
from named_semaphores._libc import Libc, load

HAS_SEMLOCK = type(_libc.system()) is _libc.SemLockLibc
needs_semlock = pytest.mark.skipif(not HAS_SEMLOCK, reason="this interpreter has no SemLock")


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="what other systems have")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="what CPython has")
def test_cpython_has_it():
    assert HAS_SEMLOCK


@pytest.mark.parametrize(
    ("platform", "found"),
    [
        *((platform, _libc.SemLock) for platform in ("cygwin", "msys", "sunos5")),
        *(("linux", found) for found in (None, object)),  # there is none, or another
    ],
)
def test_it_does_not_serve_where_it_is_missing_or_opens_are_not_counted(
    monkeypatch, platform, found
):
    for attribute, value in (("SemLock", found), ("_system", None), ("load", Timeless)):
        monkeypatch.setattr(_libc, attribute, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert type(_libc.system()) is Libc


@pytest.mark.parametrize("has_it", [True, False])
def test_multiprocessing_is_not_imported_and_semlock_not_needed(name, has_it):
    # multiprocessing's resource tracker unlinks other processes' names.
    code = f"""
import sys
before = set(sys.modules)
{"" if has_it else 'sys.modules["_multiprocessing"] = sys.modules["_functools"] = None'}
from named_semaphores import NamedSemaphore
sem = NamedSemaphore(sys.argv[1])
with sem:
    assert not sem.acquire(timeout=0.01)
assert sem.value == 1
print(type(sem._handle).__name__)
print([module for module in set(sys.modules) - before if module.startswith("multiprocessing")])
"""
    done = run_python(code, name)
    handle = "SemLockHandle" if has_it and HAS_SEMLOCK else "Handle"
    assert (done.stdout, done.stderr) == (f"{handle}\n[]\n", "")


@needs_semlock
def test_a_maximum_that_others_reach_meanwhile_is_told(name, monkeypatch):
    sem = NamedSemaphore(name, libc_of().value_max)
    monkeypatch.setattr(sem._handle, "value", lambda: 0)
    with pytest.raises(OSError, match=f"would pass the maximum, {libc_of().value_max}") as raised:
        sem.release(2)
    assert raised.value.errno == errno.EOVERFLOW
    sem.close()


class Timeless:
    """The running system's library without its timed waits, as macOS has none."""

    def __getattr__(self, symbol):
        if "timedwait" in symbol or "clockwait" in symbol:
            raise AttributeError(symbol)
        return getattr(load(), symbol)


@needs_semlock
def test_without_a_timed_wait_an_endless_wait_is_one_call(name):
    libc = _libc.SemLockLibc(Timeless())
    sem = type("Bound", (NamedSemaphore,), {"_libc": libc})(name, 0)
    with thread(sem.acquire) as got:
        assert not got
        sem.release()
    assert got == [True]
    strike(sem.acquire)
    assert not sem.acquire(timeout=0.02)
    sem.close()
