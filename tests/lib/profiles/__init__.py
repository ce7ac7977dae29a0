# SPDX-License-Identifier: Apache-2.0
"""Platform profiles: the class, bound to library objects that behave as each platform's does.
``fake.py`` says how they are made.

``native`` is the class as users have it, with SemLock's calls; ``native-ctypes`` is the same
library through ctypes alone.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from functools import cache

import pytest

from named_semaphores import NamedSemaphore, _sysv
from named_semaphores._sysv import SysV

_CLASSES = {
    "macos": "macos.MacOSSemaphore",
    "musl": "linux.MuslSemaphore",
    "musl32": "linux.Musl32Semaphore",
    "glibc2.17": "linux.Glibc217Semaphore",
    "glibc32": "linux.Glibc32Semaphore",
    "freebsd": "bsd.FreeBSDSemaphore",
    "netbsd": "bsd.NetBSDSemaphore",
    "openbsd": "bsd.OpenBSDSemaphore",
    "dragonfly": "bsd.DragonFlySemaphore",
    "illumos": "others.IllumosSemaphore",
    "cygwin": "others.CygwinSemaphore",
}
NAMES = ["native", "native-ctypes", *_CLASSES]
SYSV_NAMES = [
    "native",
    "macos",
    "freebsd",
    "netbsd",
    "openbsd",
    "dragonfly",
    "illumos",
    "musl",
    "glibc32",
    "musl32",
]


def semaphore_class(profile: str) -> type[NamedSemaphore]:
    """Return the class for a profile. Skips the test where there can be no fakes."""
    if profile == "native":
        return NamedSemaphore
    if profile == "native-ctypes":
        from .native import CtypesSemaphore

        return CtypesSemaphore
    reason = why_impossible()
    if reason:
        pytest.skip(f"NO PLATFORM PROFILES, ALL THEIR TESTS ARE SKIPPED: {reason}")
    module, name = _CLASSES[profile].split(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)  # type: ignore[no-any-return]


@cache
def sysv_library(profile: str) -> SysV:
    """Return the System V calls for a profile of SYSV_NAMES; ``native`` are the running system's.
    Skips the test where there are none.
    """
    if profile == "native":
        try:
            return _sysv.system()
        except NotImplementedError as error:
            pytest.skip(f"NO SYSTEM V SEMAPHORES, ALL THEIR TESTS ARE SKIPPED: {error}")
    reason = why_impossible()
    if reason:
        pytest.skip(f"NO PLATFORM PROFILES, ALL THEIR TESTS ARE SKIPPED: {reason}")
    fake, platform = importlib.import_module(f"{__name__}.sysv").FAKES[profile]
    return SysV(fake(), platform)


@cache
def why_impossible() -> str | None:
    """Return why this Python, or this system, cannot play other platforms, or None."""
    if not sys.platform.startswith("linux"):
        return (
            f"the fakes are made of Linux's process-shared semaphores, and this is {sys.platform}"
        )
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
