# SPDX-License-Identifier: Apache-2.0
"""Which library is loaded on which platform."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from named_semaphores._libc import load
from named_semaphores.core import _system_libc


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


@pytest.mark.parametrize("platform", ["linux", "darwin", "freebsd14", "netbsd10", "openbsd7", "dragonfly6", "sunos5", "aix", "android"])
def test_what_the_process_has_is_taken(loader, platform):
    loader.libraries = {None: WITH}
    assert load(platform) is WITH
    assert loader.asked == [None]


@pytest.mark.parametrize(
    ("platform", "library"),
    [("linux", "libpthread.so.0"), ("netbsd10", "libpthread.so"), ("openbsd7", "libpthread.so"), ("dragonfly6", "libpthread.so")],
)
def test_the_thread_library_is_taken_where_the_process_has_none(loader, platform, library):
    # glibc before 2.34, for one.
    loader.libraries = {None: WITHOUT, library: WITH}
    assert load(platform) is WITH
    assert loader.asked == [None, library]


@pytest.mark.parametrize("platform", ["cygwin", "msys"])
def test_cygwins_library_is_asked_for_by_its_name_and_never_the_process(loader, platform):
    loader.libraries = {None: WITH, "cygwin1.dll": WITH, "msys-2.0.dll": WITHOUT}
    assert load(platform) is WITH
    assert loader.asked == ["cygwin1.dll"]


def test_old_msys2_has_another_name_for_it(loader):
    loader.libraries = {None: WITHOUT, "msys-2.0.dll": WITH}
    assert load("msys") is WITH
    assert loader.asked == ["cygwin1.dll", "msys-2.0.dll"]


@pytest.mark.parametrize("platform", ["win32", "emscripten", "wasi"])
def test_systems_without_semaphores_are_not_asked(loader, platform):
    loader.libraries = {None: WITH}
    with pytest.raises(NotImplementedError, match=rf"\({platform}\) has no POSIX named semaphores.*Cygwin, MSYS2 or WSL"):
        load(platform)
    assert loader.asked == []


@pytest.mark.parametrize("platform", ["linux", "cygwin", "darwin", "nowhere"])
def test_a_system_whose_libraries_have_none_is_refused(loader, platform):
    loader.libraries = {None: WITHOUT}
    with pytest.raises(NotImplementedError, match=rf"\({platform}\) has no POSIX named semaphores"):
        load(platform)


def test_a_ctypes_that_cannot_load_the_process_is_no_error_of_its_own(monkeypatch):
    def refuse(name):
        raise TypeError("bad argument type for built-in operation")  # what Windows says to CDLL(None)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(NotImplementedError):
        load("nowhere")


def test_the_running_systems_library_is_found_once():
    assert _system_libc() is _system_libc()
    assert hasattr(load(), "sem_open")
