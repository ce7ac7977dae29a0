# SPDX-License-Identifier: Apache-2.0
"""Platform profiles: library objects that behave as each platform's does. ``posix.py`` and
``sysv.py`` have the fakes, ``kinds.py`` the classes that are bound to them.

``native`` is the running system's library, as users have it; ``native-ctypes`` is the same without
SemLock's calls.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

import pytest

from named_semaphores import _sysv
from named_semaphores._libc import Libc, load
from named_semaphores._sysv import SysV

from . import posix, sysv

NAMES = ["native", "native-ctypes", *posix.FAKES]
SYSV_NAMES = ["native", *(name for name in sysv.FAKES if name != "gvisor")]


@cache
def posix_library(profile: str) -> Libc | None:
    """Return the library for a profile; None: the one that the package takes itself. Skips the
    test where there can be no fakes.
    """
    if profile == "native":
        return None
    if profile == "native-ctypes":
        return Libc(load())
    skip_without_fakes()
    fake, platform = posix.FAKES[profile]
    return Libc(fake(), platform)


@cache
def sysv_library(profile: str) -> SysV:
    """Return the System V calls for a profile. Skips the test where there are none."""
    if profile == "native":
        try:
            return _sysv.system()
        except NotImplementedError as error:
            pytest.skip(f"NO SYSTEM V SEMAPHORES, ALL THEIR TESTS ARE SKIPPED: {error}")
    skip_without_fakes()
    fake, platform = sysv.FAKES[profile]
    return SysV(fake(), platform)


def skip_without_fakes() -> None:
    """Skip the test where there can be none."""
    if why_impossible():
        pytest.skip(f"NO PLATFORM PROFILES, ALL THEIR TESTS ARE SKIPPED: {why_impossible()}")


@cache
def why_impossible() -> str | None:
    """Return why this Python, or this system, cannot play other platforms, or None."""
    if not sys.platform.startswith("linux"):
        return f"the fakes are made of Linux's semaphores, and this is {sys.platform}"
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, use_errno=True)

    def fail() -> int:
        ctypes.set_errno(11)
        return -1

    callback = prototype(fail)
    ctypes.set_errno(0)
    prototype(ctypes.cast(callback, ctypes.c_void_p).value or 0)()
    if ctypes.get_errno() != 11:  # PyPy 7.3.11 puts back the errno of before
        return f"a callback of {sys.implementation.name} cannot set errno"
    return None
