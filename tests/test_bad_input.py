# SPDX-License-Identifier: Apache-2.0
"""Bad input gives an exception that names the semaphore and the value at fault, and changes nothing."""

from __future__ import annotations

import copy
import errno
import itertools
import math
import os
import pickle
from decimal import Decimal

import pytest

from named_semaphores import NamedSemaphore, _errors, _shm

Flags = NamedSemaphore.Flags


@pytest.fixture
def sem(Semaphore, name):
    sem = Semaphore(name, 2, Flags.RAISE_IF_EXISTS)
    yield sem
    assert sem.acquire(False)  # whatever was tried, there are two tokens, and they can be taken and given
    assert sem.acquire(False)
    assert not sem.acquire(False)
    sem.release(2)
    sem.close()


@pytest.fixture
def unmade(Semaphore, name):
    """Yield the class; nothing of the name must be there afterwards."""
    yield Semaphore
    with pytest.raises(FileNotFoundError):
        Semaphore(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)


class NotANumber:
    def __repr__(self):
        return "<no number>"


def test_an_empty_name(Semaphore):
    for bad in ["", "/"]:
        with pytest.raises(ValueError, match=f"must not be empty: {bad!r}"):
            Semaphore(bad)


def test_a_character_that_names_do_not_have(Semaphore):
    for character in ["/", "@", " ", "\0", "\n", "\\", "*", ":", "~", "\udcff", "\u0301"]:
        for bad in (f"a{character}b", f"/{character}", f"a{character}", f"/a{character}/"):
            with pytest.raises(ValueError) as raised:
                Semaphore(bad)
            assert f"{bad!r} has {character!r}" in str(raised.value)


def test_a_name_that_is_no_str(Semaphore):
    for bad in [None, 7, b"name", ["name"], NamedSemaphore]:
        with pytest.raises(TypeError) as raised:
            Semaphore(bad)
        assert f"must be a str, not {bad!r}" in str(raised.value)


def test_a_name_that_is_too_long(Semaphore):
    for bad in ["x" * 1000, "ü" * 200]:
        with pytest.raises(OSError, match="has at most|too long") as raised:
            Semaphore(bad)
        assert raised.value.errno == errno.ENAMETOOLONG
        assert raised.value.filename == f"/{bad}"


def test_an_initial_value_that_is_out_of_range_or_no_int(unmade, name):
    for bad in [-1, 2**32, 2**64, 1.0, "1", None, math.inf, b"1", Decimal(1), NotANumber()]:
        with pytest.raises(ValueError) as raised:
            unmade(name, bad)
        assert f"{name!r}: initial_value must be an int from 0 to " in str(raised.value)
        assert f"not {bad!r}" in str(raised.value)


def test_an_initial_value_of_one_more_than_the_maximum(Semaphore, sem):
    bad = sem._libc.value_max + 1
    with pytest.raises(ValueError, match=f"from 0 to {bad - 1}, not {bad}"):
        Semaphore(f"{sem.name}x", bad)


def test_a_flag_that_is_none(unmade, name):
    for bad in [1, "LINK_OR_CREATE", None, Flags]:
        with pytest.raises(ValueError) as raised:
            unmade(name, 1, bad)
        assert f"{name!r}: handle_existence must be a member of NamedSemaphore.Flags, not {bad!r}" in str(raised.value)


def test_a_mode_that_is_none(unmade, name):
    for bad in [-1, 0o1000, "0600", 6.0, None]:
        with pytest.raises(ValueError) as raised:
            unmade(name, mode=bad)
        assert f"{name!r}: mode must be an int from 0 to 511 (0o777), not {bad!r}" in str(raised.value)


def test_a_mode_is_given_by_name(unmade, name):
    with pytest.raises(TypeError):
        unmade(name, 1, Flags.LINK_OR_CREATE, None, 0o600)


def test_a_timeout_that_is_negative_or_no_number(sem):
    for bad in [-1, -1e-9, -math.inf, math.nan, "1", "", b"", [], 1j, Decimal("nan"), Decimal("snan"), -(10**400), NotANumber()]:
        for arguments in ((True, bad), (False, bad)):
            with pytest.raises(ValueError) as raised:
                sem.acquire(*arguments)
            assert repr(sem.name) in str(raised.value)
            assert repr(bad) in str(raised.value)


def test_a_timeout_without_waiting(sem):
    for timeout in [0, 1, 0.5, math.inf]:
        with pytest.raises(ValueError) as raised:
            sem.acquire(blocking=False, timeout=timeout)
        assert f"{sem.name!r}: can't specify a timeout ({timeout!r}) for a non-blocking acquire" in str(raised.value)


def test_blocking_that_is_no_bool(sem):
    for bad, timeout in itertools.product([0, 1, None, "yes", 0.5, []], [None, 1]):
        with pytest.raises(ValueError) as raised:
            sem.acquire(bad, timeout)
        assert f"{sem.name!r}: blocking must be True or False, not {bad!r}" in str(raised.value)
        assert (f"say timeout={bad!r}" in str(raised.value)) is isinstance(bad, (int, float))


def test_a_release_of_none_or_of_no_int(sem):
    for bad in [0, -1, "1", 1.0, None, math.inf, False, Decimal(2), NotANumber()]:
        with pytest.raises(ValueError) as raised:
            sem.release(bad)
        assert f"{sem.name!r}: n must be an int of at least 1, not {bad!r}" in str(raised.value)


def test_a_release_of_more_than_there_can_be(sem):
    for n in (sem._libc.value_max + 1, 2**32, 2**64, 10**100):
        with pytest.raises(OSError, match=str(n)) as raised:
            sem.release(n)
        assert raised.value.errno == errno.EOVERFLOW
        assert raised.value.filename == sem.name


def test_use_after_close(Semaphore, sem):
    link = Semaphore(sem.name)
    link.close()
    for use in (
        lambda: link.acquire(),
        lambda: link.acquire(False),
        lambda: link.acquire(timeout=1),
        lambda: link.acquire(timeout=0),
        lambda: link.release(),
        lambda: link.release(2),
        lambda: link.value,
        lambda: link.unlink(),
        lambda: link.__enter__(),
        lambda: link.__exit__(None, None, None),
        lambda: Semaphore.__exit__(link, None, None, None),
        lambda: pickle.dumps(link),
        lambda: copy.copy(link),
    ):
        with pytest.raises(ValueError) as raised:
            use()
        assert str(raised.value) == f"semaphore {sem.name!r} is closed"


def test_with_after_close_does_not_run_the_block(Semaphore, sem):
    link = Semaphore(sem.name)
    link.close()
    with pytest.raises(ValueError, match=f"'{sem.name}' is closed"), link:
        pytest.fail("it ran")


def test_bad_arguments_come_before_the_system_is_asked(monkeypatch, name):
    # Where there are no semaphores, a bad name is a bad name.
    monkeypatch.setattr(NamedSemaphore, "_libc", None)
    monkeypatch.setattr("named_semaphores._libc.load", pytest.fail)
    for arguments, error in ((("",), ValueError), ((7,), TypeError), ((name, 1, 1), ValueError)):
        with pytest.raises(error):
            NamedSemaphore(*arguments)


def test_nothing_is_left_of_refused_constructors(unmade, name):
    for arguments in ((name, -1), (name, 1, None)):
        with pytest.raises(ValueError, match=name):
            unmade(*arguments)
    assert not [entry for entry in os.listdir("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") if name[1:] in entry]


def test_an_address_that_nothing_is_mapped_at_is_an_error():
    for address in (-4096, 4096):  # on 32 bits they may be negative
        with pytest.raises(OSError, match="nothing is mapped"):
            _shm.is_file_of("/dev/shm", address)


def test_a_warning_that_is_an_error_is_told_and_raised_in_nobody_elses_code(capsys):
    _errors.warn_of_name(OSError(13, "not for you", "/jobs"))
    said = capsys.readouterr().err
    assert "RuntimeWarning" in said
    assert "/jobs" in said
