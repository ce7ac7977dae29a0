# SPDX-License-Identifier: Apache-2.0
"""How each platform's library is found, bound and called."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import profiles
import pytest
from kinds import bound
from support import SLOW, alarm, collect, run_python, start_python, thread, wait_for

from named_semaphores import NamedSemaphore, _checks, _libc, _waiting
from named_semaphores._libc import Libc, load

if profiles.why_impossible():
    pytest.skip(
        f"NO PLATFORM PROFILES, ALL OF test_libc.py IS SKIPPED: {profiles.why_impossible()}",
        allow_module_level=True,
    )

from profiles import fake
from profiles.bsd import FreeBSD
from profiles.linux import Glibc32, Glibc32Semaphore, Glibc217, Musl, Musl32Semaphore
from profiles.macos import MacOS
from profiles.others import Cygwin, Illumos

Flags = NamedSemaphore.Flags
keeps_gil = pytest.mark.skipif(
    sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="this Python's ctypes keeps no GIL",
)


# --- loading


class Loader:
    """Stands in for ctypes.CDLL: gives libraries by name, and notes which were asked for."""

    def __init__(self):
        self.libraries = {}
        self.asked = []

    def __call__(self, name):
        self.asked.append(name)
        if name not in self.libraries:
            raise OSError(f"{name}: cannot open shared object file")
        return self.libraries[name]


@pytest.fixture
def loader(monkeypatch):
    """A Loader, which is ctypes.CDLL meanwhile."""
    loader = Loader()
    monkeypatch.setattr(ctypes, "CDLL", loader)
    return loader


WITH, WITHOUT = SimpleNamespace(sem_open=True), SimpleNamespace()


POSIX = ["linux", "darwin", "freebsd14", "netbsd10", "dragonfly6", "sunos5", "aix", "android"]


@pytest.mark.parametrize("platform", POSIX)
def test_the_process_itself_is_asked_first(loader, platform):
    loader.libraries = {None: WITH}
    assert load(platform) is WITH
    assert loader.asked == [None]


@pytest.mark.parametrize(
    ("platform", "libraries"),
    [
        ("linux", [None, "libpthread.so.0"]),  # glibc before 2.34
        ("netbsd10", [None, "libpthread.so"]),
        ("openbsd7", [None, "libpthread.so"]),
        ("dragonfly6", [None, "libpthread.so"]),
        ("cygwin", ["cygwin1.dll"]),  # the process is only the .exe there
        ("msys", ["cygwin1.dll", "msys-2.0.dll"]),
    ],
)
def test_the_library_is_taken_where_sem_open_is(loader, platform, libraries):
    loader.libraries = {None: WITHOUT, libraries[-1]: WITH}
    assert load(platform) is WITH
    assert loader.asked == libraries


@pytest.mark.parametrize("platform", ["win32", "emscripten", "wasi"])
def test_systems_without_semaphores_are_not_asked(loader, platform):
    loader.libraries = {None: WITH}
    with pytest.raises(
        NotImplementedError,
        match=rf"\({platform}\) has no POSIX named semaphores.*Cygwin, MSYS2 or WSL",
    ):
        load(platform)
    assert loader.asked == []


@pytest.mark.parametrize("platform", ["linux", "cygwin", "darwin", "nowhere"])
def test_a_system_whose_libraries_have_none_is_refused(loader, platform):
    loader.libraries = {None: WITHOUT}
    with pytest.raises(NotImplementedError, match=rf"\({platform}\) has no POSIX named semaphores"):
        load(platform)


def test_a_ctypes_that_cannot_load_the_process_is_no_error_of_its_own(monkeypatch):
    def refuse(name):
        raise TypeError(
            "bad argument type for built-in operation"
        )  # what Windows says to CDLL(None)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(NotImplementedError):
        load("nowhere")


# --- binding


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_sem_open_declares_two_parameters_and_so_is_called_as_variadic(platform):
    # ctypes then calls ffi_prep_cif_var; Apple's arm64 wants the other two on the stack.
    libc = Libc(MacOS() if platform == "darwin" else load(), platform)
    assert tuple(libc.sem_open.argtypes) == (ctypes.c_char_p, ctypes.c_int)


def test_mode_and_value_arrive_as_they_are(name):
    class Noting(Musl):
        def do_sem_open(self, *arguments):
            notes.append(arguments)
            return super().do_sem_open(*arguments)

    notes = []
    sem = bound(Noting(), "linux")(name, 2**31 - 1, mode=0o777)
    link, create = notes
    assert link[:2] == (name.encode(), 0)  # and no more
    assert create == (name.encode(), os.O_CREAT | os.O_EXCL, 0o777, 2**31 - 1)
    sem.close()


def test_the_library_object_keeps_its_own_prototypes():
    lib = ctypes.CDLL(None)
    before = lib.sem_post.argtypes, lib.sem_post.restype, lib.sem_open.argtypes
    Libc(lib)
    assert (lib.sem_post.argtypes, lib.sem_post.restype, lib.sem_open.argtypes) == before


def test_a_library_lives_as_long_as_what_uses_it(name):
    sem = bound(Musl(), "linux")(name)
    collect()
    assert sem.acquire(timeout=1)
    sem.release()
    sem.close()


@pytest.mark.parametrize(
    ("lib", "platform", "failed"),
    [(Musl, "linux", 0), (FreeBSD, "freebsd14", 0), (MacOS, "darwin", -1), (Illumos, "sunos5", -1)],
)
def test_what_a_failed_sem_open_returns_never_becomes_a_handle(name, lib, platform, failed):
    lib = lib()
    libc = Libc(lib, platform)
    assert lib.sem_open(name.encode(), 0, 0, 0) == failed
    with pytest.raises(FileNotFoundError):
        libc.link(name)
    with pytest.raises(OSError, match="."):
        libc.create("/no/name", 0o600, 1)


def test_macos_handle_0_is_a_semaphore(name):
    libc = Libc(MacOS(), "darwin")
    first = libc.create(name, 0o600, 1)
    second = libc.link(name)
    assert [first.pointer, second.pointer] == [0, 1]
    assert next(first.try_once()) == 0
    assert tuple(second.try_once()) == (-1, errno.EAGAIN)
    assert next(second.post_once()) == 0
    libc.unlink(name)
    with pytest.raises(FileNotFoundError):
        libc.unlink(name)


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
        sem = cls(f"caf\u00e9.\u65e5{name[1:]}", handle_existence=Flags.RAISE_IF_NOT_EXISTS)
        assert sem.value == 5
    sem.unlink()


@pytest.mark.parametrize(("told", "value"), [(-3, 0), (0, 0), (7, 7)])
def test_a_negative_value_is_the_number_of_waiters_and_means_no_tokens(name, told, value):
    class Telling(Musl):
        def do_sem_getvalue(self, address, result):
            result[0] = told
            return 0

    sem = bound(Telling(), "linux")(name)
    assert sem.value == value
    sem.close()


def test_a_value_that_cannot_be_read_is_an_error(name):
    class Failing(Musl):
        def do_sem_getvalue(self, address, result):
            raise OSError(errno.EINVAL, "")

    sem = bound(Failing(), "linux")(name)
    with pytest.raises(OSError, match=name) as raised:
        _ = sem.value
    assert raised.value.errno == errno.EINVAL
    assert repr(sem) == f"<Bound '{name}' value=unknown>"
    sem.close()


# --- timed waits


def recording(symbols, lib, seconds):
    """Return the library with just these timed waits, and the list of what they got.

    They say that the time is over. ``seconds`` is the type of a time's first part.
    """

    class Timespec(ctypes.Structure):
        _fields_ = [("tv_sec", seconds), ("tv_nsec", ctypes.c_long)]

    notes = []

    def note(symbol):
        def call(_, *arguments):
            address = max(arguments)  # the others are small numbers
            when = Timespec.from_address(address)
            given = ["when" if argument == address else argument for argument in arguments]
            notes.append((symbol, given, (when.tv_sec, when.tv_nsec)))
            ctypes.set_errno(errno.ETIMEDOUT)
            return -1

        return call

    for symbol in [
        symbol for symbol in vars(lib) if "timedwait" in symbol or "clockwait" in symbol
    ]:
        delattr(lib, symbol)
    counts = {"__sem_clockwait64": 2, "sem_clockwait": 2, "sem_clockwait_np": 4}
    for symbol in symbols:
        types = [ctypes.c_void_p] + [ctypes.c_size_t] * counts.get(symbol, 1)
        setattr(lib, symbol, ctypes.CFUNCTYPE(ctypes.c_int, *types, use_errno=True)(note(symbol)))
    return lib, notes


MONOTONIC = time.CLOCK_MONOTONIC


@pytest.mark.parametrize(
    ("platform", "symbols", "arguments", "clock"),
    [
        ("linux", ["__sem_clockwait64", "sem_clockwait"], [MONOTONIC, "when"], "steady"),
        ("linux", ["sem_clockwait", "sem_timedwait"], [MONOTONIC, "when"], "steady"),
        ("linux", ["__sem_timedwait64", "sem_timedwait"], ["when"], "wall"),
        ("linux", ["sem_timedwait"], ["when"], "wall"),
        ("linux", ["__sem_timedwait_time64", "sem_timedwait"], ["when"], "wall"),
        ("freebsd14", ["sem_clockwait_np"], [MONOTONIC, 1, "when", 0], "steady"),
        ("sunos5", ["sem_reltimedwait_np", "sem_timedwait"], ["when"], "left"),
        ("netbsd10", ["sem_timedwait"], ["when"], "wall"),
        ("cygwin", ["sem_clockwait", "sem_timedwait"], [MONOTONIC, "when"], "steady"),
    ],
    ids=[
        "glibc32",
        "glibc",
        "glibc32 of 2.17",
        "musl",
        "musl32",
        "freebsd",
        "illumos",
        "netbsd",
        "cygwin",
    ],
)
def test_the_best_timed_wait_is_called_with_the_struct_it_takes(
    name, platform, symbols, arguments, clock
):
    wide = symbols[0].endswith("64") or platform == "netbsd10"
    lib, notes = recording(symbols, Musl(), ctypes.c_int64 if wide else ctypes.c_long)
    libc = Libc(lib, platform)
    assert libc.has_timed_wait
    opened = libc.create(name, 0o600, 1)
    libc.unlink(name)
    before = {"steady": time.monotonic_ns, "wall": time.time_ns, "left": lambda: 0}[clock]()
    deadline = time.monotonic_ns() + 7_000_000_000
    assert tuple(opened.wait_until(deadline)) == (-1, errno.ETIMEDOUT)
    ((symbol, given, (seconds, nanoseconds)),) = notes
    assert symbol == symbols[0]
    assert given == arguments
    assert 0 <= nanoseconds < 1_000_000_000
    when = seconds * 1_000_000_000 + nanoseconds - before
    assert abs(when - 7_000_000_000) < 5_000_000_000


@pytest.mark.parametrize("Bound", [Glibc32Semaphore, Musl32Semaphore], ids=["glibc32", "musl32"])
def test_the_plain_symbols_of_32_bits_are_left_alone_where_there_are_others(name, Bound):
    sem = Bound(name, 0)
    assert not sem.acquire(timeout=0.01)
    sem.release()
    assert sem.acquire(timeout=1)
    assert sem._libc.lib.plain_calls == 0
    sem.close()


class Clock:
    """Stands in for the wall clock, and can be set."""

    def __init__(self):
        self.step = 0
        self.real = time.time_ns

    def __call__(self):
        return self.real() + self.step


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", clock)  # the fake's
    monkeypatch.setattr(_libc, "wall_clock", clock)
    return clock


class Clocks:
    """Stands in for both clocks, which stand still while nobody sleeps. The one on the wall can be
    set.
    """

    def __init__(self):
        self.wall, self.steady = 1_700_000_000 * 10**9, 1_000 * 10**9

    def sleep(self, nanoseconds):
        self.wall += nanoseconds
        self.steady += nanoseconds


@pytest.fixture
def clocks(monkeypatch):
    clocks = Clocks()
    with monkeypatch.context() as patch:
        patch.setattr(_libc, "wall_clock", lambda: clocks.wall)
        for module in (_checks, _libc, _waiting):
            patch.setattr(module, "clock", lambda: clocks.steady)
        yield clocks


@pytest.mark.parametrize(
    ("step", "before"),
    [
        pytest.param(3600, True, id="forward, before the sleep"),
        pytest.param(3600, False, id="forward"),
        pytest.param(-3600, False, id="back"),
    ],
)
def test_a_step_of_the_wall_clock_neither_lengthens_nor_shortens_a_timeout(
    name, clocks, step, before
):
    # Set back between the computation of the time and the sleep, it does lengthen that sleep;
    # nobody can help that without another clock.
    a_call = 1_000_000  # nanoseconds that it takes beside the sleep

    class Stepped(Musl):
        def do_sem_timedwait(self, address, when):
            left = fake.nanoseconds(when.contents) - clocks.wall
            clocks.wall += step * 10**9
            calls.append(max(0, left - before * step * 10**9))
            clocks.sleep(calls[-1] + a_call)
            raise OSError(errno.ETIMEDOUT, "")

    calls = []
    sem = bound(Stepped(), "linux")(name, 0)
    start = clocks.steady
    assert sem.acquire(timeout=5) is False
    assert 5 * 10**9 <= clocks.steady - start <= 5 * 10**9 + 2 * a_call
    assert len(calls) > 5
    sem.close()


@pytest.mark.exact
@pytest.mark.parametrize("platform", ["linux", "openbsd", "cygwin"])
def test_several_tokens_are_put_back_in_one_step(name, platform):
    # With the real library, whose posts do check, as one where the package must.
    class Interrupt(Exception):
        pass

    def handler(*_):
        raise Interrupt

    sem = bound(load(), platform)(name, 0)
    with alarm(handler):
        for number in range(60):
            value = sem.value
            try:
                signal.setitimer(signal.ITIMER_REAL, 100e-6 + number * 20e-6)
                sem.release(3000)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                pass
            assert sem.value - value in (0, 3000)
    sem.close()


def test_after_a_step_of_the_wall_clock_no_slice_is_longer(name, clock):
    class Noting(Musl):
        def do_sem_timedwait(self, address, when):
            lefts.append(fake.nanoseconds(when.contents) - time.time_ns())
            return 0

    lefts = []
    sem = bound(Noting(), "linux")(name, 0)
    for _ in range(3):
        assert sem.acquire()
        clock.step -= 3600 * 1_000_000_000
    assert len(lefts) == 3
    assert max(lefts) <= max(_waiting.FIRST_SLICE, *_libc.Handle.slices)
    sem.close()


def test_old_glibcs_timed_wait_is_not_trusted_with_a_timeout(name, clock):
    # It sleeps until a time of the wall clock, however that is set meanwhile: so the library polls.
    class Sleeping(Glibc217):
        hosts = fake.Fake.hosts

        def do_sem_timedwait(self, address, when):
            calls.append(when)
            return fake.wait_until(address, time.CLOCK_REALTIME, when.contents)

    calls = []
    libc = Libc(Sleeping(), "linux")
    assert (libc.is_glibc, libc.has_timed_wait, libc.is_steady) == (True, True, False)
    sem = type("Bound", (NamedSemaphore,), {"_libc": libc})(name, 0)
    timer = threading.Timer(0.05, setattr, (clock, "step", -(10**14)))
    timer.start()
    start = time.monotonic()
    assert sem.acquire(timeout=0.2) is False
    assert 0.2 <= time.monotonic() - start < 0.2 + 20 * SLOW
    timer.join()
    assert not calls
    sem.close()


@pytest.mark.parametrize(("lib", "platform"), [(MacOS, "darwin"), (Glibc217, "linux")])
def test_polling_starts_close_backs_off_and_ends_at_the_deadline(name, lib, platform, monkeypatch):
    pauses = []
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: pauses.append(seconds) or sleep(seconds))
    sem = bound(lib(), platform)(name, 0)
    start = time.monotonic()
    assert sem.acquire(timeout=0.1) is False
    assert time.monotonic() - start >= 0.1
    assert pauses[0] <= 0.001
    assert max(pauses) <= 0.02
    assert pauses[0] < max(pauses)
    sem.close()


def test_a_wait_that_returns_its_errno_is_understood(name):
    class Broken(Cygwin):
        def do_sem_clockwait(self, address, clock, when):
            ctypes.set_errno(errno.EAGAIN)
            return errno.EINVAL

    sem = bound(Broken(), "cygwin")(name, 0)
    for timeout in (None, 1):
        with pytest.raises(OSError, match=name) as raised:
            sem.acquire(timeout=timeout)
        assert raised.value.errno == errno.EINVAL
    with pytest.raises(OSError, match=name), sem:
        pytest.fail("it entered")
    sem.close()


def test_a_wait_that_is_interrupted_goes_on(name):
    class Interrupted(Cygwin):
        def do_sem_clockwait(self, address, clock, when):
            calls.append(when)
            return errno.EINTR if len(calls) < 5 else super().do_sem_clockwait(address, clock, when)

    calls = []
    sem = bound(Interrupted(), "cygwin")(name, 0)
    assert sem.acquire(timeout=0.05) is False
    assert len(calls) >= 5
    calls.clear()
    sem.release()
    with sem:
        with thread(lambda: (wait_for(lambda: len(calls) >= 5), sem.release())):
            assert sem.acquire() is True
    assert len(calls) >= 5
    sem.close()


# --- maximum values


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


def test_an_unknown_systems_maximum_is_asked_of_it():
    assert Libc(Musl(), "somewhere").value_max == os.sysconf("SC_SEM_VALUE_MAX")


# --- the GIL


class Poll(Musl):
    """Its sem_open is poll(fds, nfds, timeout): a C function that takes its time."""

    def __init__(self):
        super().__init__()
        self.sem_open = ctypes.CDLL(None).poll


@keeps_gil
def test_opening_keeps_the_gil():
    # glibc's takes a lock that fork does not reset: a fork of another thread meanwhile would give
    # its child a locked one.
    def run():
        while not stop:
            moments.append(time.monotonic())

    libc = Libc(Poll(), "linux")
    moments, stop = [], []
    with thread(run):
        try:
            wait_for(lambda: moments)
            libc.sem_open(b"", 0, ctypes.c_uint(200))
            count = len(moments)
            wait_for(lambda: len(moments) > count + 1)
        finally:
            stop.append(1)
    gaps = (after - before for before, after in zip(moments, moments[1:]))
    assert max(gaps) > 0.15  # the other thread did not run meanwhile


FORKS = """
import os, sys, threading
from named_semaphores import NamedSemaphore
keep = NamedSemaphore(sys.argv[1])
stop = []
def work():
    while not stop:
        NamedSemaphore(sys.argv[1]).close()
thread = threading.Thread(target=work)
thread.start()
for _ in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        NamedSemaphore(sys.argv[1]).close()
        os._exit(0)
    os.waitpid(pid, 0)
stop.append(1)
thread.join()
"""


def test_a_child_of_fork_opens_while_another_thread_did(name, full):
    done = run_python(FORKS, name, "4000" if full else "100")
    assert done.returncode == 0, done.stderr


# --- who waits


def test_each_waiter_has_slices_of_its_own(name):
    # Were they to end at the same moments for all, all would wake at once, and queue again in any
    # order.
    class Noting(Glibc32):
        def do___sem_clockwait64(self, address, clock, when):
            ends.setdefault(threading.get_ident(), []).append(fake.nanoseconds(when.contents))
            return super().do___sem_clockwait64(address, clock, when)

    ends = {}
    sem = bound(Noting(), "linux")(name, 0)
    with thread(sem.acquire):
        wait_for(lambda: len(ends) == 1)
        with thread(sem.acquire):
            wait_for(lambda: len(ends) == 2 and all(len(each) > 2 for each in ends.values()))
            sem.release(2)
    first, second = ends.values()
    assert not set(first) & set(second)
    sem.close()
