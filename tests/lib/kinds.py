# SPDX-License-Identifier: Apache-2.0
"""What the contract suite runs for: each class of the package, on each platform profile, and how
they differ.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache
from typing import Any

import profiles
from support import PYPY, collect

from named_semaphores import NamedSemaphore, RobustSemaphore
from named_semaphores._libc import Libc, system


class Kind:
    """A class on one platform profile. Its attributes say where it differs from the others, and
    nothing else does; here, NamedSemaphore's.
    """

    is_bounded = False  # release() of more than this object took is a ValueError

    def __init__(self, profile: str) -> None:
        library = profiles.posix_library(profile)
        self.cls: Any = NamedSemaphore
        if library:
            self.cls = _bound(f"Named_{profile}", NamedSemaphore, _libc=library)

    @property
    def libc(self) -> Any:
        """The bound library."""
        return libc_of(self.cls)

    @property
    def tells_value(self) -> bool:
        return bool(self.libc.platform != "darwin")

    def discard(self, sem: Any) -> None:
        """Close the semaphore, and leave nothing of it, also if the test still has tokens."""
        sem.close()

    def exists(self, name: str) -> bool:
        """Return whether there is a semaphore of this name."""
        return exists(name, self.cls)


class Robust(Kind):
    """RobustSemaphore."""

    is_bounded = True
    tells_value = True

    def __init__(self, profile: str) -> None:
        library = profiles.sysv_library(profile)
        self.cls: Any = RobustSemaphore
        if profile != "native":
            self.cls = _bound(f"Robust_{profile}", RobustSemaphore, _library=library)

    def discard(self, sem: Any) -> None:
        # The set stays as long as this process holds a token.
        with contextlib.suppress(ValueError):
            for _ in range(5):  # a release of what was unlinked does nothing
                sem.release()
        sem.close()

    def exists(self, name: str) -> bool:
        if PYPY:  # it ends the use of a closed semaphore only when it collects
            collect()
        return super().exists(name)


def _bound(name: str, base: type, **attributes: Any) -> type:
    """Return a subclass that pickling finds by this module and its name."""
    name = name.replace(".", "_").replace("-", "_")
    globals()[name] = type(name, (base,), {"__module__": __name__, **attributes})
    return globals()[name]  # type: ignore[no-any-return]


POSIX = profiles.NAMES
# With timed waits and without; test_sysv.py tries the calls of the others.
ROBUST = [f"robust-{profile}" for profile in ("native", "macos", "musl32")]
NATIVE = ["native", "native-ctypes", "robust-native"]
ALL = [*POSIX, *ROBUST]


@cache
def kind(profile: str) -> Kind:
    """Return the kind for a profile. Skips the test where it cannot be played."""
    return Robust(profile.partition("-")[2]) if profile in ROBUST else Kind(profile)


def bound(lib: Any, platform: str) -> type[NamedSemaphore]:
    """Return NamedSemaphore, bound to the library."""
    return type("Bound", (NamedSemaphore,), {"_libc": Libc(lib, platform)})


def libc_of(cls: type[NamedSemaphore] = NamedSemaphore) -> Any:
    """Return the library that the class is bound to."""
    return cls._libc or system()


def file_of(name: str, cls: type[NamedSemaphore] = NamedSemaphore) -> str:
    """Return the path of the semaphore's file, also where it stands in for what the kernel has."""
    libc = libc_of(cls)
    if hasattr(libc.lib, "path"):
        return os.fsdecode(libc.lib.path(os.fsencode(name)))
    return str(libc.files + name[1:])


def exists(name: str, cls: Any = NamedSemaphore) -> bool:
    """Return whether there is a semaphore of this name."""
    try:
        cls(name, handle_existence=cls.Flags.RAISE_IF_NOT_EXISTS).close()
    except FileNotFoundError:
        return False
    return True


def tokens(sem: Any) -> int:
    """Return how many tokens can be taken. Unlike ``value`` this works everywhere."""
    taken = 0
    while sem.acquire(False):
        taken += 1
    if taken:
        sem.release(taken)
    return taken
