# SPDX-License-Identifier: Apache-2.0
"""System V sets alone: opening and leaving, tokens, deaths, other users and programs, platforms."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import time

import profiles
import pytest
from holders import as_nobody, as_root, beside
from support import PREFIX, PYPY, SLOW, run_python, thread, unique_name

from named_semaphores import _set, _sets, _sysv
from named_semaphores._set import NAME, TURN, USERS
from named_semaphores._sets import open_set
from named_semaphores._sysv import NOWAIT
from named_semaphores.cli.run import take as take_until
from named_semaphores.listing import list_robust

try:
    _sysv.system()
except NotImplementedError as reason:
    pytest.skip(f"NO SYSTEM V SEMAPHORES, NO test_sysv.py: {reason}", allow_module_level=True)

HERE = os.path.dirname(os.path.abspath(__file__))
SECOND = 1_000_000_000  # nanoseconds


@pytest.fixture(params=profiles.SYSV_NAMES)
def library(request):
    """The calls of each platform."""
    chosen = request.config.getoption("--profile")
    if chosen and request.param not in chosen:
        pytest.skip("another profile")
    return profiles.sysv_library(request.param)


@pytest.fixture
def native():
    return _sysv.system()


@pytest.fixture
def semget(native):
    """Make a set as another program would. It is removed with the test, if it is still there."""
    made = []

    def semget(key, size):
        made.append(native.get(key, size, 0o3600))
        return made[-1]

    yield semget
    for semid in made:
        with contextlib.suppress(_sysv.Removed):
            native.remove(semid)


def join(library, name, total=1, **options):
    """Join the set once more, as another process would, and return it."""
    return open_set(library, name, total, **options)[0]


def take(semset, n=1):
    """Return whether n tokens were free, and are taken."""
    bias = semset.library.bias
    return semset.operate(_set.take(semset.account, n, bias, NOWAIT))


def give(semset, n=1):
    return semset.operate(_set.give(semset.account, n))


def first(semset):
    return semset.operate(_set.take_first(semset.account, semset.library.bias, NOWAIT))


# --- Opening and leaving --------------------------------------------------------------------------


def test_the_first_creates_the_second_links_the_last_removes(library, name):
    one, created = open_set(library, name, 3)
    two, created_too = open_set(library, name, 5)
    assert (created, created_too, one.id == two.id) == (True, False, True)
    assert (one.free(), one.total(), one.users(), one.waiting()) == (3, 3, 2, 0)
    for _ in range(2):
        assert one.leave()
        assert two.users() == 1
    with pytest.raises(ValueError, match="closed"):
        one.free()
    assert two.leave()
    with pytest.raises(FileNotFoundError, match="no process has"):
        open_set(library, name, create=False)


def test_a_set_that_was_not_made_ready_is_made_ready(library, name):
    last = library.size - 1
    semid = library.get(_set.key(name), last + 1, _sysv.IPC_CREAT | 0o600)
    library.operate(semid, _set.write_name(0, _set.words(name)[:3], last))
    with pytest.raises(FileNotFoundError):
        open_set(library, name, create=False)
    semset, created = open_set(library, name, 2)
    assert (created, semset.id, semset.free()) == (True, semid, 2)
    assert library.value(semid, last) == 1
    semset.leave()


def test_names_of_any_length_are_kept():
    for bare in ("a", "ab", "abcdefg", "x" * 254, "n-ä.ö_ü"):
        stored = _set.words("/" + bare)
        assert _set.name_of([*stored, 1, 2]) == "/" + bare
        assert all(0 < word < 2**15 for word in stored)
        assert 0 < _set.key("/" + bare) < 2**31
    for values in ([], [0, 0], _set.words("no slash"), [1, *_set.words("/x")]):
        assert _set.name_of(values) is None


def test_a_name_of_the_greatest_length_opens_and_a_longer_one_does_not(native):
    longest = unique_name().ljust(_sets._LONGEST_NAME, "x")
    join(native, longest).leave()
    for library, name in ((native, longest + "x"), (profiles.sysv_library("openbsd"), longest)):
        with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)) as raised:
            open_set(library, name)
        assert raised.value.errno == errno.ENAMETOOLONG


# --- Tokens ---------------------------------------------------------------------------------------


def test_a_wait_ends_in_time_and_gives_the_first_of_several_up(library, name):
    semset, other = join(library, name, 2), join(library, name)
    assert take_until(other, 1, 0)
    assert (semset.free(), other.held(), semset.holders()) == (1, 1, [(os.getpid(), 1)])
    assert not give(semset)
    for n, free in ((2, 1), (2, 0), (1, 0)):
        start = time.monotonic()
        assert not take_until(semset, n, _set.clock() + SECOND // 50)
        assert 0.02 <= time.monotonic() - start < 20 * SLOW
        assert (semset.free(), library.value(semset.id, TURN)) == (free, 0)
        if free:
            assert take(semset)
    with thread(take_until, semset, 1, _set.clock() + 3600 * SECOND) as taken:
        assert give(semset)
    assert taken == [True]
    semset.remove()


def test_as_many_tokens_as_there_can_be(library, name):
    most = library.bias - 1
    semset = join(library, name, most)
    assert take(semset, most)
    semset.resize(1)
    assert semset.free() == 1 - most
    semset.resize(most)
    assert semset.free() == 0
    assert first(semset) is False
    assert give(semset, most)
    assert (semset.free(), semset.leave()) == (most, True)


# --- Processes ------------------------------------------------------------------------------------


def test_what_died_with_its_users_begins_anew(library, name):
    with beside(lambda: take(join(library, name, 3), 2)):
        pass
    with pytest.raises(FileNotFoundError):
        open_set(library, name, create=False)
    with beside(lambda: first(join(library, name, 3))):
        pass
    semset, created = open_set(library, name, 5, link=False)
    assert (created, semset.free(), semset.users()) == (True, 5, 1)
    semset.leave()


# --- Kills ----------------------------------------------------------------------------------------

KILLS = """
import sys
sys.path[:0] = sys.argv[1:]
from stress import kills
from named_semaphores import _set
{fault}
print(kills.run({count}, {prefix!r}))
"""


def run_kills(count, fault=""):
    code = KILLS.format(fault=fault, count=count, prefix=PREFIX)
    folders = (os.path.join(HERE, folder) for folder in ("lib", "tools"))
    return run_python(code, *folders, seconds=60 + count / 10)


@pytest.mark.unmeasured
@pytest.mark.timeout(3000)
def test_kills_lose_and_gain_nothing(full):
    result = run_kills(20_000 if full else 60 if PYPY else 100)  # a fork of PyPy takes its time
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 lost, 0 gained" in result.stdout


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "fault",
    [
        "_set.take = lambda account, n, bias, flags=0: [(_set.TOKENS, -bias - n, flags), "
        "(_set.TOKENS, bias, 0), (account, n, _set.UNDO)]",
        "_set.give = lambda account, n: [(account, -n, _set.UNDO), (_set.TOKENS, n, 0)]",
    ],
    ids=["taking without undo", "giving without undo"],
)
def test_kills_find_a_fault(fault):
    result = run_kills(100, fault)
    assert result.returncode == 1
    assert "AssertionError" in result.stderr


# --- Removal --------------------------------------------------------------------------------------


def idle(library, name, total=1):
    """Return a set that its users have left, as after a kill."""
    semset = join(library, name, total)
    library.operate(semset.id, _set.leave(semset.account))
    semset.semid.value = -1
    return semset


def unready(library, name):
    """Return the id of a set whose creator was killed before it was ready."""
    return library.get(_set.key(name), library.size, _sysv.IPC_CREAT | 0o600)


@pytest.mark.parametrize("mark", [_set.MARK_IDLE, _set.MARK_UNREADY], ids=["idle", "unready"])
def test_a_remover_that_was_stopped_does_not_hang_whoever_opens(native, name, mark):
    old = unready(native, name) if mark is _set.MARK_UNREADY else idle(native, name).id
    with beside(lambda: native.operate(old, mark)):
        semset, created = open_set(native, name, 3, link=False)
        assert (created, semset.id != old, semset.total()) == (True, True, 3)
    assert semset.users() == 1
    semset.leave()


def test_a_newcomer_shares_no_account_when_a_remover_dies_just_then(native, name, monkeypatch):
    def enter(semset, account, operations):
        if operations is _set.JOIN_LAST:
            native.operate(old.id, [(_set.DEAD, -1, NOWAIT)])  # as its death does
        return entered(semset, account, operations)

    old, entered = idle(native, name), _set.Set.enter
    native.operate(old.id, [(_set.DEAD, 1, 0)])
    monkeypatch.setattr(_set.Set, "enter", enter)
    newcomer, child = (_set.Set(native, name, old.id) for _ in range(2))
    child.join_anew()
    assert (newcomer.join(), child.is_usable()) == (False, False)
    native.operate(old.id, [(_set.DEAD, -1, NOWAIT)])
    assert (newcomer.join(), newcomer.account < native.size - 1) == (True, True)
    assert newcomer.leave()


def test_only_idle_sets_of_this_user_are_removed(native, monkeypatch):
    names = [unique_name() for _ in range(5)]
    used, unused, stays, new, old = names
    kept = join(native, used)
    idle(native, unused)
    persistent = join(native, stays)
    persistent.operate(_set.STAY)
    persistent.leave()
    ids = [unready(native, old), unready(native, new)]
    rows = [row for row in _sets.rows() if row.key in map(_set.key, names)]
    for row in rows:
        row.created -= 100 * (row.id == ids[0])
    monkeypatch.setattr(_sets, "rows", lambda: iter(rows))
    assert _sets.remove_idle(most=0) == []
    assert sorted(_sets.remove_idle()) == sorted([unused, ""])
    assert _sets.remove_idle([stays, used]) == [stays]
    assert _sets.remove_idle() == []
    with pytest.raises(_sysv.Removed):
        native.value(ids[0], 0)
    native.remove(ids[1])
    kept.leave()


def test_what_is_joined_or_removed_meanwhile_is_not_removed(native, name, monkeypatch):
    semset = idle(native, name)
    found = [one for one in _sets.removable() if one[1] == semset.id]
    semset.join_anew()
    semset.semid.value = semset.id
    monkeypatch.setattr(_sets, "removable", lambda *arguments: iter(found))
    assert (len(found), _sets.remove_idle()) == (1, [])
    assert (semset.users(), semset.leave()) == (1, True)
    assert _sets.remove_idle() == []  # it was removed meanwhile


def test_what_another_process_removes_is_neither_removed_nor_listed(native, name, monkeypatch):
    semid, last = unready(native, name), native.size - 1
    (row,) = (row for row in _sets.rows() if row.id == semid)
    monkeypatch.setattr(_sets, "rows", lambda: iter([row]))
    words = _set.words(name)
    for place in range(0, len(words), 3):
        native.operate(semid, _set.write_name(place, words[place : place + 3], last))
    assert native.operate(semid, _set.MARK_UNREADY)
    assert list(_sets.removable()) == list(_sets.removable([name])) == []
    native.remove(semid)
    assert list(_sets.removable()) == list_robust(idle_too=True) == []


# --- Other users and other programs ---------------------------------------------------------------


@as_root
@pytest.mark.parametrize("anew", [False, True])
def test_another_user_takes_an_idle_one_over_and_resizes_it(library, name, anew):
    semset = join(library, name, 2, mode=0o666)
    library.operate(semset.id, _set.leave(semset.account))
    library.operate(semset.id, [(semset.account, 1, 0)])  # a child that was forked in C holds one
    with as_nobody():
        with pytest.raises(FileNotFoundError):
            open_set(library, name, create=False)
        theirs, created = open_set(library, name, 3, link=False, anew=anew)
        assert (created, theirs.id, theirs.users(), theirs.free()) == (True, semset.id, 1, 3)
        assert theirs.leave()
        assert library.value(semset.id, USERS) == 0
    new, created = open_set(library, name, 5)  # root may remove it
    assert (created, new.id != semset.id, new.leave()) == (True, True, True)


def failing(monkeypatch, symbol, number, condition=lambda *arguments: True):
    """Return the native calls, of which one fails."""
    library = _sysv.load()
    real = getattr(library, symbol)

    def fail(*arguments):
        if condition(*arguments):
            ctypes.set_errno(number)
            return -1
        return real(*arguments)

    monkeypatch.setattr(library, symbol, fail)
    return library


@pytest.mark.parametrize("more", [-3, 0, 5])
def test_another_programs_set_is_refused_and_left_alone(native, name, semget, more):
    foreign = semget(_set.key(name), native.size + more)
    assert native.operate(foreign, [(NAME, 4, 0)])
    for options in ({}, {"link": False}, {"create": False}, {"anew": True}):
        with pytest.raises(FileExistsError, match="another program.*another name") as raised:
            open_set(native, name, **options)
        assert raised.value.filename == name
    assert native.value(foreign, NAME) == 4


@pytest.mark.parametrize("place", [0, NAME, NAME + 9])
def test_another_programs_set_that_is_old_is_not_removed(native, name, semget, monkeypatch, place):
    foreign = semget(_set.key(name), native.size)
    # It looks like new, or is empty where ours begins.
    for change in (1, -1) if place == 0 else (4,):
        assert native.operate(foreign, [(place, change, 0)])
    row = next(row for row in _sets.rows() if row.id == foreign)
    row.created = row.operated = 1
    monkeypatch.setattr(_sets, "rows", lambda: iter([row]))
    assert _sets.remove_idle() == []


def test_another_name_with_the_same_key_is_refused(library, monkeypatch):
    number = _set.key(unique_name() + ".key")
    monkeypatch.setattr(_set, "key", lambda name: number)
    one, other, longer = f"/{PREFIX}.one", f"/{PREFIX}.two", f"/{PREFIX}.three"
    semset = join(library, one)
    for name in (other, longer):
        for anew in (False, True):
            with pytest.raises(FileExistsError, match=f"the key {number:#x}"):
                open_set(library, name, anew=anew)
    assert (semset.users(), semset.leave()) == (1, True)
    join(library, other).leave()


@pytest.mark.parametrize(
    ("symbol", "number", "kind", "text"),
    [
        ("_semget", errno.ENOSPC, OSError, "kernel.sem"),
        ("_semget", errno.EINVAL, OSError, "kernel.sem allows no set of this size"),
        ("_semget", errno.ENOMEM, OSError, "memory"),
        ("_semget", errno.ENOSYS, NotImplementedError, "no System V semaphores"),
        ("semop", errno.ENOSPC, OSError, "ipcs -s"),
        ("semop", errno.EACCES, PermissionError, "another user"),
        ("semop", errno.EINVAL, OSError, "one process"),
        ("semop", errno.ENOMEM, OSError, "memory"),
        ("semop", errno.EIO, OSError, os.strerror(errno.EIO)),
    ],
)
def test_errors_say_what_helps(monkeypatch, native, name, symbol, number, kind, text):
    monkeypatch.setattr(_sets, "remove_idle", list)  # there may be idle sets of others
    # Not semget without flags, which creates nothing.
    library = failing(monkeypatch, symbol, number, lambda *given: given[2])
    with pytest.raises(kind, match=text) as raised:
        open_set(library, name)
    if kind is not NotImplementedError:
        assert (raised.value.errno, raised.value.filename) == (number, name)
    join(native, name, anew=True).leave()


def test_where_no_set_is_listed_none_is_removed(monkeypatch):
    def no_proc():
        raise FileNotFoundError(errno.ENOENT, "", "/proc/sysvipc/sem")

    monkeypatch.setattr(_sets, "rows", no_proc)
    assert _sets.remove_idle() == []


def test_idle_sets_make_room(monkeypatch, name):
    rooms = []
    monkeypatch.setattr(_sets, "remove_idle", lambda: rooms.append("removed") or rooms)
    full = failing(monkeypatch, "_semget", errno.ENOSPC, lambda *a: a[2] and len(rooms) < 2)
    join(full, name).leave()
    assert rooms == ["removed"] * 2
    rooms.clear()
    monkeypatch.setattr(_sets, "remove_idle", list)  # there is none
    with pytest.raises(OSError, match="ipcs -s") as raised:
        open_set(full, name)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, name)


@pytest.mark.parametrize("profile", ["macos", "netbsd", "openbsd"])
def test_more_sets_than_one_process_may_use_there_are_refused(profile):
    library, names = profiles.sysv_library(profile), [unique_name() for _ in range(6)]
    some = [join(library, name) for name in names[:5]]
    with pytest.raises(OSError, match="one process") as raised:
        open_set(library, names[5])
    assert raised.value.errno == errno.EINVAL
    some.pop().leave()
    some.append(join(library, names[5]))  # the set is there, not ready
    assert some[-1].free() == 1
    for semset in some:
        semset.leave()


# --- Platforms ------------------------------------------------------------------------------------


def test_systems_whose_calls_cannot_serve_are_refused_without_a_call(monkeypatch):
    def refused(platform, name):
        with pytest.raises(NotImplementedError, match=name):
            _sysv.load(platform)

    with monkeypatch.context() as patch:
        patch.setattr(_sysv.ctypes, "CDLL", lambda *arguments: 1 / 0)
        for platform in "cygwin msys android emscripten wasi win32 aix ios".split():
            refused(platform, platform)
        # Android of before 3.13 says that it is Linux.
        patch.setattr(sys, "getandroidapilevel", lambda: 30, raising=False)
        refused("linux", "android")
    monkeypatch.setattr(_sysv.ctypes, "CDLL", lambda *arguments: object())
    refused("linux", "linux")


def test_a_kernel_that_ignores_undo_is_refused_and_nothing_is_left(name):
    library = profiles.sysv_library("gvisor")
    for _ in range(2):
        with pytest.raises(NotImplementedError, match=r"SEM_UNDO.*NamedSemaphore"):
            open_set(library, name)
    assert _set.key(name) not in [row.key for row in _sets.rows()]


def test_a_signal_handlers_timeout_is_no_answer_of_the_kernel(native, name, monkeypatch):
    def interrupted(*arguments):
        raise TimeoutError

    library = _sysv.load()
    monkeypatch.setattr(library, "operate", interrupted)
    with pytest.raises(TimeoutError) as raised:
        open_set(library, name)
    assert raised.value.errno is None
    join(native, name).leave()  # it is there, not ready


def test_who_has_a_timed_wait():
    have = {name for name in profiles.SYSV_NAMES if profiles.sysv_library(name).semtimedop}
    assert have == {"native", "illumos", "musl", "glibc32", "musl32"}


def test_semctl_declares_three_parameters_and_so_is_called_as_variadic(library):
    assert tuple(library._semctl.argtypes) == (ctypes.c_int,) * 3


def test_a_limit_of_five_operations_a_call_is_enough():
    steps = [_set.JOIN_LAST, _set.STAY, _set.MARK_IDLE, _set.MARK_UNUSED, _set.MARK_UNREADY]
    steps += [_set.take_first(99, 9), _set.take_rest(99, 2, 9, False), _set.give_up(99)]
    steps += [_set.take_over(99), _set.leave(99, True), _set.give_number(99, 0), _set.resize(1, 2)]
    steps += [_set.make_ready(99, 1, 9), _set.write_name(0, [1, 2, 3], 99)]
    assert max(map(len, steps)) == 5


@pytest.mark.skipif(not os.path.exists("/proc/sysvipc/sem"), reason="only Linux lists the sets")
def test_sets_of_other_programs_are_not_listed(native, semget, name):
    semget(0, 1)
    semget(_set.key(name), native.size)
    assert name not in [one.name for one in list_robust(idle_too=True)]
