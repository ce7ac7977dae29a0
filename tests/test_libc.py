# SPDX-License-Identifier: Apache-2.0
"""How each platform's library is found, bound and called."""

from __future__ import annotations

import ctypes
import errno
import gc
import itertools
import os
import signal
import threading
import time

import profiles
import pytest
from support import EXACT, SLOW, in_threads, run_python

from named_semaphores import NamedSemaphore, _waits
from named_semaphores._libc import Libc, load

if profiles.why_impossible():
    pytest.skip(f"NO PLATFORM PROFILES, ALL OF test_libc.py IS SKIPPED: {profiles.why_impossible()}", allow_module_level=True)

from profiles import fake
from profiles.bsd import FreeBSD, OpenBSD
from profiles.linux import Glibc32, Glibc32Semaphore, Glibc217, Musl, Musl32Semaphore, MuslSemaphore
from profiles.macos import MacOS
from profiles.uncounted import Cygwin, Illumos

Flags = NamedSemaphore.Flags


def bound(lib, platform):
    """Return the class, bound to the library."""
    return type("Bound", (NamedSemaphore,), {"_libc": Libc(lib, platform)})


def handle(libc, name, oflag=os.O_CREAT | os.O_EXCL, value=1):
    """Return an open handle, or the errno."""
    return next(libc.open(name.encode(), oflag, 0o600, value))


# Taking a token


def test_a_token_that_comes_between_the_two_looks_of_an_attempt_is_taken(name):
    # The first look is made without errno, for speed, the second for the errno of the first.
    class Late(Musl):
        def do_sem_trywait(self, address):
            looks.append(address)
            if len(looks) == 1:
                raise OSError(errno.EAGAIN, "not yet")
            return fake.host("sem_trywait", address)

    looks = []
    sem = bound(Late(), "linux")(name)
    assert sem.acquire(False)
    assert len(looks) == 2
    assert not sem.acquire(False)
    sem.close()


# Binding


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
    libc = Libc(lib)
    assert (lib.sem_post.argtypes, lib.sem_post.restype, lib.sem_open.argtypes) == before
    assert libc.lib is lib


def test_a_library_lives_as_long_as_what_uses_it(name):
    sem = bound(Musl(), "linux")(name)
    gc.collect()
    assert sem.acquire(timeout=1)
    sem.release()
    sem.close()


@pytest.mark.parametrize(
    ("lib", "platform", "failed"), [(Musl, "linux", 0), (FreeBSD, "freebsd14", 0), (MacOS, "darwin", -1), (Illumos, "sunos5", -1)]
)
def test_what_a_failed_sem_open_returns_never_becomes_a_handle(name, lib, platform, failed):
    lib = lib()
    libc = Libc(lib, platform)
    assert lib.sem_open(name.encode(), 0, 0, 0) == failed
    assert handle(libc, name, oflag=0) == errno.ENOENT


def test_macos_handle_0_is_a_semaphore(name):
    lib = MacOS()
    libc = Libc(lib, "darwin")
    first = handle(libc, name)
    second = handle(libc, name, oflag=0)
    assert [int(first), int(second)] == [0, 1]
    assert next(libc.trywait(first))[0] == 0
    assert next(libc.trywait(second)) == (-1, errno.EAGAIN)
    del first
    gc.collect()
    assert list(lib.descriptors) == [1]
    assert next(libc.post(second))[0] == 0
    assert libc.unlink(name.encode()) == 0
    assert libc.unlink(name.encode()) == errno.ENOENT


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


# Timed waits


def recording(symbols, lib, seconds):
    """Return the library with just these timed waits, which note what they get and say that the time is over, and the notes.

    ``seconds`` is the type of a time's first part.
    """

    class Timespec(ctypes.Structure):
        _fields_ = [("tv_sec", seconds), ("tv_nsec", ctypes.c_long)]

    notes = []

    def note(symbol):
        def call(_, *arguments):
            address = next(argument for argument in arguments if argument > 4096)  # the others are small numbers
            when = Timespec.from_address(address)
            notes.append((symbol, ["when" if argument == address else argument for argument in arguments], (when.tv_sec, when.tv_nsec)))
            ctypes.set_errno(errno.ETIMEDOUT)
            return -1

        return call

    counts = {"__sem_clockwait64": 2, "sem_clockwait": 2, "sem_clockwait_np": 4}
    for symbol in [attribute for attribute in vars(lib) if "timedwait" in attribute or "clockwait" in attribute]:
        delattr(lib, symbol)
    for symbol in symbols:
        arguments = [ctypes.c_size_t] * counts.get(symbol, 1)
        setattr(lib, symbol, ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, *arguments, use_errno=True)(note(symbol)))
    return lib, notes


MONOTONIC = time.CLOCK_MONOTONIC


@pytest.mark.parametrize(
    ("platform", "symbols", "arguments", "clock"),
    [
        pytest.param("linux", ["__sem_clockwait64", "sem_clockwait", "__sem_timedwait64"], [MONOTONIC, "when"], "steady", id="glibc32"),
        pytest.param("linux", ["sem_clockwait", "sem_timedwait"], [MONOTONIC, "when"], "steady", id="glibc"),
        pytest.param("linux", ["__sem_timedwait64", "sem_timedwait"], ["when"], "wall", id="wide glibc"),
        pytest.param("linux", ["sem_timedwait"], ["when"], "wall", id="old glibc, musl"),
        pytest.param("linux", ["__sem_timedwait_time64", "sem_timedwait"], ["when"], "wall", id="musl32"),
        pytest.param("freebsd14", ["sem_clockwait_np"], [MONOTONIC, 1, "when", 0], "steady", id="freebsd"),
        pytest.param("sunos5", ["sem_reltimedwait_np", "sem_timedwait"], ["when"], "left", id="illumos"),
        pytest.param("netbsd10", ["sem_timedwait"], ["when"], "wall", id="netbsd"),
        pytest.param("cygwin", ["sem_clockwait", "sem_timedwait"], [MONOTONIC, "when"], "steady", id="cygwin"),
    ],
)
def test_the_best_timed_wait_is_called_with_the_struct_it_takes(name, platform, symbols, arguments, clock):
    wide = symbols[0].endswith("64") or platform == "netbsd10"
    lib, notes = recording(symbols, Musl(), ctypes.c_int64 if wide else ctypes.c_long)
    libc = Libc(lib, platform)
    assert libc.has_timed_wait
    opened = handle(libc, name)
    libc.unlink(name.encode())
    before = {"steady": time.monotonic_ns, "wall": time.time_ns, "left": lambda: 0}[clock]()
    deadline = time.monotonic_ns() + 7_000_000_000
    assert next(libc.timedwait(opened, deadline)) == (-1, errno.ETIMEDOUT)
    ((symbol, given, (seconds, nanoseconds)),) = notes
    assert symbol == symbols[0]
    assert given == arguments
    assert 0 <= nanoseconds < 1_000_000_000
    when = seconds * 1_000_000_000 + nanoseconds - before
    assert abs(when - 7_000_000_000) < 1_000_000_000 * SLOW


def test_without_any_timed_wait_there_is_none():
    libc = Libc(MacOS(), "darwin")
    assert not libc.has_timed_wait
    assert not libc.is_steady


@pytest.mark.parametrize("Bound", [Glibc32Semaphore, Musl32Semaphore], ids=["glibc32", "musl32"])
def test_the_plain_symbols_of_32_bits_are_left_alone_where_there_are_others(name, Bound):
    sem = Bound(name, 0)
    assert not sem.acquire(timeout=0.01)
    sem.release()
    assert sem.acquire(timeout=1)
    assert sem._libc.lib.plain_calls == 0
    sem.close()


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_long) != 8, reason="shows what a 64-bit struct does to a 32-bit symbol")
def test_a_plain_symbol_of_32_bits_would_misread_64(name):
    # The fake is as strict as the real one: it reads seconds and nanoseconds from the wrong halves.
    lib = Glibc32()
    when = fake.timespec(2**32 + 5, 1)
    address = lib.sem_open(name.encode(), os.O_CREAT | os.O_EXCL, 0o600, 0)
    lib.sem_unlink(name.encode())
    start = time.monotonic()
    assert lib.sem_timedwait(address, ctypes.byref(when)) == -1
    assert time.monotonic() - start < 5 * SLOW
    assert lib.plain_calls == 1
    lib.sem_close(address)


class Clock:
    """Stands in for time.time_ns, and can be set."""

    def __init__(self):
        self.step = 0
        self.real = time.time_ns

    def __call__(self):
        return self.real() + self.step


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", clock)
    return clock


@pytest.mark.parametrize(
    ("step", "before"),
    [
        pytest.param(3600, True, id="forward, before the sleep"),
        pytest.param(3600, False, id="forward"),
        pytest.param(-3600, False, id="back"),
    ],
)
def test_a_step_of_the_wall_clock_neither_lengthens_nor_shortens_a_timeout(name, clock, monkeypatch, step, before):
    # Set back between the computation of the time and the sleep, it does lengthen that sleep; nobody can help that without another clock.
    class Stepped(Musl):
        def do_sem_timedwait(self, address, when):
            calls.append(when)
            left = fake.nanoseconds(when.contents) - time.time_ns()
            clock.step += step * 1_000_000_000
            return fake.wait_for(address, left - before * step * 1_000_000_000)

    calls = []
    monkeypatch.setattr(_waits, "SLICE", 50_000_000)
    sem = bound(Stepped(), "linux")(name, 0)
    start = time.monotonic()
    assert sem.acquire(timeout=0.2) is False
    assert 0.2 <= time.monotonic() - start < 0.2 + 1 * SLOW
    assert len(calls) >= 4
    sem.close()


@pytest.mark.skipif(not EXACT, reason="this Python can be interrupted anywhere")
@pytest.mark.parametrize("platform", ["linux", "openbsd", "cygwin"])
def test_several_tokens_are_put_back_in_one_step(name, platform):
    # With the real library, whose posts do check, as one where the package must.
    class Interrupt(Exception):
        pass

    def handler(*_):
        raise Interrupt

    sem = type("Bound", (NamedSemaphore,), {"_libc": Libc(load(), platform)})(name, 0)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(60):
            value = sem.value
            try:
                signal.setitimer(signal.ITIMER_REAL, 100e-6 + number * 20e-6)
                sem.release(3000)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                pass
            assert sem.value - value in (0, 3000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
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
    assert max(lefts) <= _waits.SLICE
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
    assert 0.2 <= time.monotonic() - start < 0.2 + 1 * SLOW
    timer.join()
    assert not calls
    sem.close()


@pytest.mark.parametrize(("lib", "platform"), [(MacOS, "darwin"), (Glibc217, "linux")])
def test_polling_starts_close_backs_off_and_ends_at_the_deadline(name, lib, platform, monkeypatch):
    pauses = []
    monkeypatch.setattr(_waits, "sleep", lambda seconds: pauses.append(seconds) or time.sleep(seconds))
    sem = bound(lib(), platform)(name, 0)
    start = time.monotonic()
    assert sem.acquire(timeout=0.1) is False
    assert time.monotonic() - start >= 0.1
    assert pauses[0] <= 0.001
    assert max(pauses) <= 0.02
    assert pauses[0] < max(pauses)
    sem.close()


@pytest.mark.parametrize(("status", "error", "result"), [(0, 5, 0), (-1, 5, 5), (110, 5, 110)])
def test_a_positive_status_is_the_errno_itself(status, error, result):
    assert Libc.failure(status, error) == result


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
        timer = threading.Timer(0.02, sem.release)
        timer.start()
        assert sem.acquire() is True
        timer.join()
    assert len(calls) >= 5
    sem.close()


# Opening


class Interrupted(FreeBSD):
    """Every other call of sem_open is."""

    turns = itertools.count()

    def do_sem_open(self, *arguments):
        if next(self.turns) % 2 == 0:
            raise OSError(errno.EINTR, "")
        return super().do_sem_open(*arguments)


def test_an_open_that_is_interrupted_is_repeated(name):
    Bound = bound(Interrupted(), "freebsd14")
    sem = Bound(name, unlink_on_delete=False)
    link = Bound(name)
    assert (sem.linked_existing_semaphore, link.linked_existing_semaphore) == (False, True)
    sem.unlink()
    sem.close()
    link.close()


def test_an_interrupted_look_at_the_name_does_not_keep_it(name):
    sem = bound(Interrupted(), "freebsd14")(name)
    sem.close()
    assert not os.path.exists(f"/tmp/SEMD{name[1:]}")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (errno.EACCES, PermissionError, "this user may not write in {directory}"),
        (errno.EPERM, PermissionError, "this user may not write in {directory}"),
        (errno.ENOSPC, OSError, "{directory}, the file system that holds semaphores, is full"),
        (errno.EROFS, OSError, "{directory}, the file system that holds semaphores, is mounted read-only"),
        (errno.EMFILE, OSError, "this process has too many open files"),
        (errno.ENFILE, OSError, "this system has too many open files"),
        (errno.EINVAL, OSError, ""),
        (errno.ENOMEM, OSError, ""),
        (errno.ENOSYS, NotImplementedError, "has no POSIX named semaphores"),
    ],
)
@pytest.mark.parametrize(
    ("lib", "platform", "directory"),
    [(Musl, "linux", "/dev/shm"), (FreeBSD, "freebsd14", "/tmp"), (OpenBSD, "openbsd7", None)],
)
def test_what_the_system_refuses_is_said_with_what_helps(name, lib, platform, directory, error, kind, text):
    class Refusing(lib):
        def do_sem_open(self, name, oflag, mode, value):
            raise OSError(error if oflag or error == errno.ENOSYS else errno.ENOENT, "")

    with pytest.raises(kind) as raised:
        bound(Refusing(), platform)(name)
    assert name in str(raised.value)
    if kind is not NotImplementedError:
        assert raised.value.errno == error
        assert raised.value.filename == name
    if directory is not None or "{" not in text:
        assert text.format(directory=directory) in str(raised.value)


def test_musls_names_are_no_directories():
    for bad in (".", ".."):
        with pytest.raises(OSError) as raised:
            MuslSemaphore(bad)
        assert raised.value.filename == f"/{bad}"
        assert raised.value.errno == errno.EINVAL


@pytest.fixture
def full(name):
    """Yield 256 of musl's semaphores, all it opens."""
    sems = [MuslSemaphore(f"{name}.{number}", number) for number in range(256)]
    yield sems
    for sem in sems:
        sem.close()


def test_musl_opens_256_semaphores_and_says_so(name, full):
    with pytest.raises(OSError, match="on musl 256 semaphores") as raised:
        MuslSemaphore(name)
    assert raised.value.errno == errno.EMFILE
    assert raised.value.filename == name
    with pytest.raises(OSError, match="on musl 256 semaphores"):
        MuslSemaphore(full[7].name)
    assert full[255].value == 255


def test_musls_names_are_removed_though_they_cannot_be_opened_again(full):
    path = f"/dev/shm{full[5].name}"
    assert os.path.exists(path)
    full[5].close()
    assert not os.path.exists(path)


def test_musls_successors_are_left_though_they_cannot_be_opened(full):
    path = f"/dev/shm{full[0].name}"
    full[0].unlink()
    os.link(f"/dev/shm{full[1].name}", path)  # stands for another process's
    full[0].close()
    assert os.path.exists(path)
    os.unlink(path)


def test_musls_name_that_is_gone_is_not_missed(full):
    full[0].unlink()
    full[0].close()
    assert full[0].closed


# Other processes come between


class Raced(Musl):
    """Before one call out of several, another process does something."""

    def __init__(self, name, symbol, call, do):
        super().__init__()
        self.moment = (symbol, call)
        self.do = lambda: do(MuslSemaphore._libc, name.encode())
        self.calls = {"link": 0, "create": 0, "unlink": 0}

    def count(self, symbol):
        self.calls[symbol] += 1
        if (symbol, self.calls[symbol]) == self.moment:
            self.do()

    def do_sem_open(self, name, oflag, mode, value):
        self.count("create" if oflag else "link")
        return super().do_sem_open(name, oflag, mode, value)

    def do_sem_unlink(self, name):
        self.count("unlink")
        return super().do_sem_unlink(name)


def theirs_is_made(libc, name):
    next(libc.open(name, os.O_CREAT | os.O_EXCL, 0o600, 9))


def theirs_is_removed(libc, name):
    assert libc.unlink(name) == 0


def theirs_is_replaced(libc, name):
    theirs_is_removed(libc, name)
    theirs_is_made(libc, name)


def test_made_by_another_before_it_is_created_is_linked(name):
    sem = bound(Raced(name, "create", 1, theirs_is_made), "linux")(name, 1)
    assert (sem.linked_existing_semaphore, sem.unlink_on_delete, sem.value) == (True, False, 9)
    sem.unlink()
    sem.close()


def test_made_and_removed_again_by_others_it_is_created_in_the_end(name):
    class Twice(Raced):
        def count(self, symbol):
            super().count(symbol)
            if (symbol, self.calls["link"]) == ("link", 2):
                theirs_is_removed(MuslSemaphore._libc, name.encode())

    lib = Twice(name, "create", 1, theirs_is_made)
    sem = bound(lib, "linux")(name, 1)
    assert (sem.linked_existing_semaphore, sem.unlink_on_delete, sem.value) == (False, True, 1)
    assert lib.calls == {"link": 2, "create": 2, "unlink": 0}
    sem.close()


@pytest.mark.parametrize(
    ("symbol", "call", "do"), [("unlink", 1, theirs_is_removed), ("unlink", 1, theirs_is_replaced), ("create", 2, theirs_is_made)]
)
def test_unlink_and_create_makes_its_own_whoever_comes_between(name, symbol, call, do):
    theirs = MuslSemaphore(name, 5, unlink_on_delete=False)
    sem = bound(Raced(name, symbol, call, do), "linux")(name, 1, Flags.UNLINK_AND_CREATE)
    assert (sem.linked_existing_semaphore, sem.value) == (False, 1)
    link = MuslSemaphore(name)
    assert link.value == 1
    for each in (link, sem, theirs):
        each.close()


def test_replaced_by_another_before_clean_up_it_is_left(name):
    sem = bound(Raced(name, "link", 2, theirs_is_replaced), "linux")(name, 1)  # the second link is the look of clean-up
    sem.close()
    assert MuslSemaphore(name, unlink_on_delete=True).value == 9


# Names that cannot be removed at once


class Broken(Musl):
    """Its disk does not work, for a time."""

    is_broken = True

    def do_sem_unlink(self, name):
        if self.is_broken:
            raise OSError(errno.EIO, "")
        return super().do_sem_unlink(name)


@pytest.fixture
def broken():
    return Broken()


def test_close_tells_that_the_name_was_not_removed_and_a_second_call_tries_again(name, broken):
    sem = bound(broken, "linux")(name)
    for _ in range(2):
        with pytest.raises(OSError, match=name) as raised:
            sem.close()
        assert raised.value.errno == errno.EIO
        assert sem.closed
    broken.is_broken = False
    sem.close()
    assert not os.path.exists(f"/dev/shm{name}")


def drop(sem):
    """Delete it, its name being kept by a broken system."""
    with pytest.warns(RuntimeWarning, match=f"could not be removed.*{sem[0].name}"):
        sem.clear()
        gc.collect()


def test_a_deleted_objects_name_is_removed_when_the_next_object_is_made(name, broken):
    Bound = bound(broken, "linux")
    drop([Bound(name)])
    assert os.path.exists(f"/dev/shm{name}")
    broken.is_broken = False
    Bound(f"{name}x").close()
    assert not os.path.exists(f"/dev/shm{name}")


def test_a_deleted_objects_name_that_still_cannot_be_removed_is_told_again(name, broken):
    drop([bound(broken, "linux")(name)])
    with pytest.warns(RuntimeWarning, match=f"could not be removed.*{name}"):
        NamedSemaphore(f"{name}x").close()
    broken.is_broken = False
    os.unlink(f"/dev/shm{name}")


AT_EXIT = """
import sys; sys.path.insert(0, sys.argv[2])
import threading
from profiles.linux import Musl
from named_semaphores import NamedSemaphore
from named_semaphores._libc import Libc

class Hanging(Musl):
    calls = 0
    def do_sem_unlink(self, name):
        self.calls += 1
        if self.calls == 1:
            reached.set()
            threading.Event().wait()
        return super().do_sem_unlink(name)

class Bound(NamedSemaphore):
    _libc = Libc(Hanging(), "linux")

reached = threading.Event()
sem = Bound(sys.argv[1])
threading.Thread(target=sem.close, daemon=True).start()
reached.wait()
"""


def test_a_name_whose_removal_never_ended_is_removed_at_the_end(name):
    done = run_python(AT_EXIT, name, os.path.dirname(__file__))
    assert (done.returncode, done.stderr) == (0, "")
    assert not os.path.exists(f"/dev/shm{name}")


# Systems that do not count


@pytest.mark.parametrize(("lib", "platform"), [(Cygwin, "cygwin"), (Illumos, "sunos5")])
def test_a_second_open_is_counted_where_the_system_does_not(name, lib, platform):
    lib = lib()
    Bound = bound(lib, platform)
    sem, link = Bound(name, 1), Bound(name)
    assert len(lib.opened) == 1
    link.close()
    gc.collect()
    assert len(lib.opened) == 1
    with sem:
        assert not sem.acquire(False)
    sem.close()
    del sem  # on a free-threaded build what was in a with statement stays open until it goes
    gc.collect()
    assert not lib.opened


def test_uncounted_the_fake_ends_both_handles_at_once(name):
    # So that the test above would fail without the counting.
    lib = Cygwin()
    first = lib.sem_open(name.encode(), os.O_CREAT | os.O_EXCL, 0o600, 1)
    assert lib.sem_open(name.encode(), 0, 0, 0) == first
    assert lib.sem_close(first) == 0
    assert lib.sem_close(first) == -1
    assert lib.sem_unlink(name.encode()) == 0


def test_a_handle_that_is_collected_during_an_open_is_closed_after_it(name):
    # A collection may run anywhere, also while this thread counts an open.
    class Collecting(Cygwin):
        def do_sem_open(self, *arguments):
            dropped.clear()
            gc.collect()
            still_open.append(len(self.opened))
            return super().do_sem_open(*arguments)

    dropped, still_open = [], []
    lib = Collecting()
    libc = Libc(lib, "cygwin")
    opened = handle(libc, f"{name}a")
    dropped.append(handle(libc, f"{name}b"))
    still_open.clear()
    again = handle(libc, f"{name}a", oflag=0)
    assert still_open == [2]
    assert len(lib.opened) == 1
    assert int(again) == int(opened)
    for suffix in "ab":
        libc.unlink(f"{name}{suffix}".encode())


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
    gc.collect()
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
    gc.collect()
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
    gc.collect()
    assert not lib.opened


# What the system does not check


@pytest.mark.parametrize("platform", ["cygwin", "openbsd7"])
def test_a_maximum_that_sem_post_does_not_check_is_checked(name, platform):
    class Full(Cygwin):
        def do_sem_getvalue(self, address, value):
            value[0] = maximum
            return 0

        def do_sem_post(self, address):
            raise AssertionError("posted")

    libc = Libc(Full(), platform)
    maximum = libc.value_max = min(libc.value_max, 2**31 - 1)
    sem = type("Bound", (NamedSemaphore,), {"_libc": libc})(name, 1)
    for n in (1, 2):
        with pytest.raises(OSError, match=f"its value is {maximum}, {n} more would pass the maximum, {maximum}") as raised:
            sem.release(n)
        assert raised.value.errno == errno.EOVERFLOW
    sem.close()


def test_a_maximum_that_others_reach_meanwhile_is_told(name):
    class Full(Musl):
        def do_sem_post(self, address):
            raise OSError(errno.EOVERFLOW, "")

    sem = bound(Full(), "linux")(name, 1)  # its value says that there is room
    for n in (1, 2):
        with pytest.raises(OSError, match="its value is the maximum, 2147483647") as raised:
            sem.release(n)
        assert raised.value.errno == errno.EOVERFLOW
    sem.close()


def test_an_unknown_systems_maximum_is_asked_of_it():
    assert Libc(Musl(), "somewhere").value_max == os.sysconf("SC_SEM_VALUE_MAX")
