# SPDX-License-Identifier: Apache-2.0
"""Opening, creating and unlinking where the system interrupts or refuses, and where other processes do the same at once."""

from __future__ import annotations

import errno
import os

import profiles
import pytest
from kinds import bound, file_of
from support import skip_without_room_for

from named_semaphores import NamedSemaphore

if profiles.why_impossible():
    pytest.skip(
        f"NO PLATFORM PROFILES, ALL OF test_opening.py IS SKIPPED: {profiles.why_impossible()}",
        allow_module_level=True,
    )

from profiles.bsd import FreeBSD
from profiles.linux import Musl, MuslSemaphore

Flags = NamedSemaphore.Flags

# --- the system interrupts or refuses -------------------------------------------------------------------------------------------------


class Interrupted(FreeBSD):
    """The first call of each kind is; POSIX allows sem_open to fail so."""

    def __init__(self):
        super().__init__()
        self.kinds = [0, os.O_CREAT | os.O_EXCL]

    def do_sem_open(self, name, oflag, mode, value):
        if oflag in self.kinds:
            self.kinds.remove(oflag)
            raise OSError(errno.EINTR, "")
        return super().do_sem_open(name, oflag, mode, value)


def test_an_open_that_is_interrupted_is_repeated(name):
    lib = Interrupted()
    sem = bound(lib, "freebsd14")(name)
    assert not sem.linked_existing_semaphore
    assert not lib.kinds
    lib.kinds = [0]
    link = bound(lib, "freebsd14")(name)
    assert link.linked_existing_semaphore
    link.close()
    lib.kinds = [0]
    sem.close()  # opens it again, to see whose it is
    assert not lib.kinds
    assert not os.path.exists(file_of(name, type(sem)))


def test_musls_names_are_no_directories():
    for bad in (".", ".."):
        with pytest.raises(OSError) as raised:
            MuslSemaphore(bad)
        assert raised.value.filename == f"/{bad}"
        assert raised.value.errno == errno.EINVAL


@pytest.fixture
def rest(name):
    """Yield 255 of musl's semaphores: it opens one more."""
    skip_without_room_for(256)
    sems = [
        MuslSemaphore(f"{name}.{number}", number, unlink_on_delete=False) for number in range(255)
    ]
    yield sems
    for sem in sems:
        sem.unlink()


def test_musl_opens_256_semaphores_and_says_so(name, rest):
    last = MuslSemaphore(name)
    for another in (f"{name}x", rest[7].name):
        with pytest.raises(OSError, match="on musl 256 semaphores") as raised:
            MuslSemaphore(another)
        assert raised.value.errno == errno.EMFILE
        assert raised.value.filename == another
    assert rest[254].value == 254
    last.close()  # it cannot open its name again to compare, and compares what is mapped
    assert not os.path.exists(file_of(name, MuslSemaphore))


def test_musls_successors_are_left_though_they_cannot_be_opened(name, rest):
    last = MuslSemaphore(name)
    last.unlink()
    os.link(
        file_of(rest[1].name, MuslSemaphore), file_of(name, MuslSemaphore)
    )  # stands for another process's
    last.close()
    assert os.path.exists(file_of(name, MuslSemaphore))
    os.unlink(file_of(name, MuslSemaphore))


# --- other processes come between -----------------------------------------------------------------------------------------------------


class Raced(Musl):
    """Before one call out of several, another process does something."""

    def __init__(self, name, symbol, call, do):
        super().__init__()
        self.moment = (symbol, call)
        self.do = lambda: do(MuslSemaphore._libc, name)
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
    libc.create(name, 0o600, 9, [])


def theirs_is_removed(libc, name):
    libc.unlink(name)


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
                theirs_is_removed(MuslSemaphore._libc, name)

    lib = Twice(name, "create", 1, theirs_is_made)
    sem = bound(lib, "linux")(name, 1)
    assert (sem.linked_existing_semaphore, sem.unlink_on_delete, sem.value) == (False, True, 1)
    assert lib.calls == {"link": 2, "create": 2, "unlink": 0}
    sem.close()


@pytest.mark.parametrize(
    ("symbol", "call", "do"),
    [
        ("unlink", 1, theirs_is_removed),
        ("unlink", 1, theirs_is_replaced),
        ("create", 2, theirs_is_made),
    ],
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
    sem = bound(Raced(name, "link", 2, theirs_is_replaced), "linux")(
        name, 1
    )  # the second link is the look of clean-up
    sem.close()
    assert MuslSemaphore(name, unlink_on_delete=True).value == 9
