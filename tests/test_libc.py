# SPDX-License-Identifier: Apache-2.0
"""How each platform's library is found, bound and called."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
from types import SimpleNamespace

import profiles
import pytest
from kinds import bound
from support import Struck, alarm, start_python, thread, wait_for

from named_semaphores import NamedSemaphore, _common, _libc
from named_semaphores._libc import Libc, load

if profiles.why_impossible():
    pytest.skip(
        f"NO PLATFORM PROFILES, ALL OF test_libc.py IS SKIPPED: {profiles.why_impossible()}",
        allow_module_level=True,
    )

from profiles import fake
from profiles.posix import Cygwin, Glibc32, Glibc217, MacOS, Musl

# --- loading

WITH, WITHOUT = SimpleNamespace(sem_open=True), SimpleNamespace()


@pytest.fixture
def loaded(monkeypatch):
    """The libraries that ctypes.CDLL finds, by name, and the list of those it was asked for."""

    def look(name):
        asked.append(name)
        if name not in libraries:  # TypeError: what Windows says to CDLL(None)
            raise TypeError("bad argument type") if name is None else OSError(f"{name}: not found")
        return libraries[name]

    libraries, asked = {}, []
    monkeypatch.setattr(ctypes, "CDLL", look)
    return libraries, asked


@pytest.mark.parametrize(
    ("platform", "found"),
    [
        *((each, [None]) for each in ("linux", "darwin", "freebsd14", "sunos5", "aix", "android")),
        ("linux", [None, "libpthread.so.0"]),  # glibc before 2.34
        ("netbsd10", [None, "libpthread.so"]),
        ("openbsd7", [None, "libpthread.so"]),
        ("dragonfly6", [None, "libpthread.so"]),
        ("cygwin", ["cygwin1.dll"]),  # the process is only the .exe there
        ("msys", ["cygwin1.dll", "msys-2.0.dll"]),
    ],
)
def test_the_library_is_taken_where_sem_open_is(loaded, platform, found):
    libraries, asked = loaded
    libraries.update({None: WITHOUT, found[-1]: WITH})
    assert load(platform) is WITH
    assert asked == found


@pytest.mark.parametrize(
    ("platform", "libraries"),
    [
        *((platform, {None: WITH}) for platform in ("win32", "emscripten", "wasi")),  # stubs
        *((platform, {None: WITHOUT}) for platform in ("linux", "cygwin", "darwin")),
        ("nowhere", {}),
    ],
)
def test_a_system_without_semaphores_is_refused(loaded, platform, libraries):
    loaded[0].update(libraries)
    text = rf"\({platform}\) has no POSIX named semaphores.*Cygwin, MSYS2 or WSL"
    with pytest.raises(NotImplementedError, match=text):
        load(platform)


# --- binding


@pytest.mark.parametrize(("lib", "platform"), [(load, "linux"), (MacOS, "darwin")])
def test_sem_open_declares_two_parameters_and_so_is_called_as_variadic(lib, platform):
    # ctypes then calls ffi_prep_cif_var; Apple's arm64 wants the other two on the stack.
    assert tuple(Libc(lib(), platform).sem_open.argtypes) == (ctypes.c_char_p, ctypes.c_int)


def test_a_name_is_utf_8_whatever_the_locale(name):
    code = """
import sys
from named_semaphores import NamedSemaphore
NamedSemaphore("caf\\u00e9.\\u65e5" + sys.argv[1], 5, unlink_on_delete=False)
"""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with start_python(code, name[1:], env=environment) as child:
        assert child.communicate() == ("", "")
    for cls in (NamedSemaphore, bound(load(), sys.platform)):
        link = NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS
        sem = cls(f"caf\u00e9.\u65e5{name[1:]}", handle_existence=link)
        assert sem.value == 5
    sem.unlink()


@pytest.mark.parametrize(("told", "value"), [(-3, 0), (7, 7)])
def test_the_value_as_the_system_tells_it(name, told, value):
    class Telling(Musl):
        def do_sem_getvalue(self, address, result):
            result[0] = told  # negative: the number of waiters, as POSIX allows
            return 0

    sem = bound(Telling(), "linux")(name)
    assert sem.value == value
    sem.close()


def test_an_unknown_systems_maximum_is_asked_of_it():
    assert Libc(Musl(), "somewhere").value_max == os.sysconf("SC_SEM_VALUE_MAX")


# --- timed waits


def recording(symbols, seconds):
    """Return a library with just these timed waits, and the list of what they got.

    They say that the time is over. ``seconds`` is the type of a time's first part.
    """

    class Timespec(ctypes.Structure):
        _fields_ = [("tv_sec", seconds), ("tv_nsec", ctypes.c_long)]

    def note(symbol):
        def call(_, *arguments):
            address = max(arguments)  # the others are small numbers
            when = Timespec.from_address(address)
            given = ["when" if argument == address else argument for argument in arguments]
            notes.append((symbol, given, (when.tv_sec, when.tv_nsec)))
            ctypes.set_errno(errno.ETIMEDOUT)
            return -1

        return call

    lib, notes = Musl(), []
    del lib.sem_timedwait
    counts = {"__sem_clockwait64": 2, "sem_clockwait": 2, "sem_clockwait_np": 4}
    for symbol in symbols:
        types = [ctypes.c_void_p] + [ctypes.c_size_t] * counts.get(symbol, 1)
        setattr(lib, symbol, ctypes.CFUNCTYPE(ctypes.c_int, *types, use_errno=True)(note(symbol)))
    return lib, notes


STEADY, WALL = time.monotonic_ns, time.time_ns
MONOTONIC = time.CLOCK_MONOTONIC


@pytest.mark.parametrize(
    ("platform", "symbols", "arguments", "clock"),
    [
        ("linux", ["__sem_clockwait64", "sem_clockwait"], [MONOTONIC, "when"], STEADY),
        ("linux", ["sem_clockwait", "sem_timedwait"], [MONOTONIC, "when"], STEADY),
        ("linux", ["sem_timedwait"], ["when"], WALL),
        ("linux", ["__sem_timedwait_time64", "sem_timedwait"], ["when"], WALL),
        ("freebsd14", ["sem_clockwait_np"], [MONOTONIC, 1, "when", 0], STEADY),
        ("netbsd10", ["sem_timedwait"], ["when"], WALL),
        ("cygwin", ["sem_clockwait", "sem_timedwait"], [MONOTONIC, "when"], STEADY),
    ],
    ids="glibc32 glibc musl musl32 freebsd netbsd cygwin".split(),
)
def test_the_best_timed_wait_is_called_with_the_struct_it_takes(
    name, platform, symbols, arguments, clock
):
    is_wide = symbols[0].endswith("64") or platform == "netbsd10"
    lib, notes = recording(symbols, ctypes.c_int64 if is_wide else ctypes.c_long)
    libc = Libc(lib, platform)
    handle = libc.create(name, 0o600, 1)
    libc.unlink(name)
    before = clock()
    assert tuple(handle.wait(7 * 10**9)) == (-1, errno.ETIMEDOUT)
    ((symbol, given, (seconds, nanoseconds)),) = notes
    assert (symbol, given) == (symbols[0], arguments)
    assert 0 <= nanoseconds < 10**9
    assert abs(seconds * 10**9 + nanoseconds - before - 7 * 10**9) < 5 * 10**9


# A step back before the sleep does lengthen that one.
@pytest.mark.parametrize(("step", "before"), [(3600, True), (3600, False), (-3600, False)])
def test_a_step_of_the_wall_clock_neither_lengthens_nor_shortens_a_timeout(
    name, monkeypatch, step, before
):
    class Stepped(Musl):
        wall, steady = 1_700_000_000 * 10**9, 1_000 * 10**9

        def do_sem_timedwait(self, address, when):
            left = fake.nanoseconds(when.contents) - self.wall
            sleeps.append(max(0, left - before * step * 10**9))
            self.wall += step * 10**9 + sleeps[-1] + a_call
            self.steady += sleeps[-1] + a_call
            raise OSError(errno.ETIMEDOUT, "")

    lib, sleeps, a_call = Stepped(), [], 1_000_000
    start = lib.steady
    sem = bound(lib, "linux")(name, 0)
    with monkeypatch.context() as patch:
        patch.setattr(_libc.time, "clock_gettime_ns", lambda _: lib.wall)
        patch.setattr(_common, "clock", lambda: lib.steady)
        assert sem.acquire(timeout=5) is False
    assert 5 * 10**9 <= lib.steady - start <= 5 * 10**9 + 2 * a_call
    assert len(sleeps) > 5
    sem.close()


def test_a_wall_clock_that_the_kernel_waits_by_is_not_trusted_with_a_timeout():
    # Old glibc's timed wait sleeps until a time of it, however it is set meanwhile. The library
    # polls instead.
    libraries = (Glibc217(), "linux"), (Glibc32(), "linux"), (Musl(), "linux"), (MacOS(), "darwin")
    assert [Libc(*library).is_steady for library in libraries] == [False, True, True, False]


class CygwinThatTells(Cygwin):
    """Its timed waits return these errnos first."""

    def __init__(self, *errnos):
        super().__init__()
        self.errnos = list(errnos)

    def do_sem_clockwait(self, address, clock, when):
        if self.errnos:
            ctypes.set_errno(errno.EAGAIN)
            return self.errnos.pop()
        return super().do_sem_clockwait(address, clock, when)


def test_a_wait_that_returns_its_errno_is_understood(name):
    sem = bound(CygwinThatTells(*[errno.EINVAL] * 3), "cygwin")(name, 0)
    for wait in (sem.acquire, lambda: sem.acquire(timeout=1), sem.__enter__):
        with pytest.raises(OSError, match=name) as raised:
            wait()
        assert raised.value.errno == errno.EINVAL
    sem.close()


def test_a_wait_that_is_interrupted_goes_on(name):
    lib = CygwinThatTells(*[errno.EINTR] * 5)
    sem = bound(lib, "cygwin")(name, 0)
    assert sem.acquire(timeout=0.05) is False
    assert not lib.errnos
    lib.errnos = [errno.EINTR] * 5
    with thread(sem.acquire) as got:
        wait_for(lambda: not lib.errnos)
        sem.release()
    assert got == [True]
    sem.close()


# --- releasing


def test_a_maximum_that_others_reach_meanwhile_is_told(name):
    class Full(Musl):
        def do_sem_post(self, address):
            raise OSError(errno.EOVERFLOW, "")

    sem = bound(Full(), "linux")(name, 1)  # its value says that there is room
    for n in (1, 2):
        with pytest.raises(OSError, match="would pass the maximum, 2147483647") as raised:
            sem.release(n)
        assert raised.value.errno == errno.EOVERFLOW
    sem.close()


@pytest.mark.exact
@pytest.mark.parametrize("cls", [NamedSemaphore, bound(load(), sys.platform)])
def test_several_tokens_are_put_back_in_one_step(name, cls):
    def handler(*_):
        raise Struck

    sem = cls(name, 0)
    with alarm(handler):
        for number in range(60):
            value = sem.value
            try:
                signal.setitimer(signal.ITIMER_REAL, 100e-6 + number * 20e-6)
                sem.release(3000)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Struck:
                pass
            assert sem.value - value in (0, 3000)
    sem.close()


# --- the GIL


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only its ctypes can keep the GIL")
def test_opening_keeps_the_gil_and_waiting_does_not():
    # glibc's sem_open takes a lock that fork does not reset: a fork of another thread meanwhile
    # would give its child a locked one.
    libc = Libc(Musl(), "linux")
    calls = libc.sem_open, libc.sem_wait, libc.sem_timedwait
    keeps = [bool(type(call)._flags_ & ctypes._FUNCFLAG_PYTHONAPI) for call in calls]
    assert keeps == [True, False, False]
