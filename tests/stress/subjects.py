# SPDX-License-Identifier: Apache-2.0
"""What is put under stress: this library, its peers, and a class as one would write it, which shows that the faults are real."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.path.join(ROOT, ".stress")
PEERS = os.path.join(CACHE, str(sysconfig.get_config_var("SOABI")))  # posix_ipc is an extension: one for each interpreter
POSIX_IPC, PREDECESSOR = os.path.join(PEERS, "posix_ipc"), os.path.join(PEERS, "predecessor")


class Subject:
    """One kind of semaphore. Statements see ``sem`` and leave in ``got`` whether they took a token; they are run as they stand, since a
    function around them would lose tokens of its own.
    """

    label = ""
    wait = "got = sem.acquire()"
    timed = "got = sem.acquire(timeout=limit)"
    busy: Any = ()  # what a timed wait raises when its time is over
    interrupted: Any = ()  # what a wait raises instead of the handler's exception
    named = True
    removes_names = True  # when the object goes
    keeps_quiet = True

    def create(self, name: str, value: int = 1) -> Any:
        """Create a semaphore; an error if there is one."""
        raise NotImplementedError

    def link(self, name: str) -> Any:
        raise NotImplementedError

    def close(self, sem: Any) -> None:
        sem.close()

    def discard(self, sem: Any) -> None:
        """Close it, and remove its name."""
        sem.close()

    def value(self, sem: Any) -> int:
        return int(sem.value)

    def take(self, sem: Any) -> None:
        """Take a token that is there."""
        assert sem.acquire(False)


class ThisLibrary(Subject):
    label = "this library"

    def __init__(self) -> None:
        from named_semaphores import NamedSemaphore

        self.type: Any = NamedSemaphore

    def create(self, name: str, value: int = 1) -> Any:
        return self.type(name, value, self.type.Flags.RAISE_IF_EXISTS)

    def link(self, name: str) -> Any:
        return self.type(name, 1, self.type.Flags.RAISE_IF_NOT_EXISTS)


class Polling(ThisLibrary):
    """This library where there are no timed waits. The functions are the real ones: callbacks in Python would look at signals."""

    label = "this library, polling"

    def __init__(self) -> None:
        from named_semaphores._libc import Libc, load

        super().__init__()
        libc = Libc(without(load(), "timedwait", "clockwait"))
        assert not libc.has_timed_wait
        self.type = type("PollingSemaphore", (self.type,), {"_libc": libc})


class _Without:
    def __init__(self, lib: Any, *parts: str) -> None:
        self._lib, self._parts = lib, parts

    def __getattr__(self, symbol: str) -> Any:
        if any(part in symbol for part in self._parts):
            raise AttributeError(symbol)
        return getattr(self._lib, symbol)


def without(lib: Any, *parts: str) -> Any:
    """Return the library without the functions whose names contain one of the parts."""
    return _Without(lib, *parts)


class PosixIpc(Subject):
    label = "posix_ipc"
    wait = "sem.acquire(); got = True"
    timed = "sem.acquire(limit); got = True"
    removes_names = False  # it leaves that to its user

    def __init__(self) -> None:
        sys.path.append(POSIX_IPC)
        import posix_ipc

        self.module: Any = posix_ipc
        self.busy = posix_ipc.BusyError
        self.interrupted = (posix_ipc.SignalError,)

    def create(self, name: str, value: int = 1) -> Any:
        return self.module.Semaphore(name, self.module.O_CREX, initial_value=value)

    def link(self, name: str) -> Any:
        return self.module.Semaphore(name)

    def discard(self, sem: Any) -> None:
        sem.unlink()
        sem.close()

    def take(self, sem: Any) -> None:
        sem.acquire(0)


class Predecessor(ThisLibrary):
    label = "named-semaphores 1.0.3"

    def __init__(self) -> None:
        if sys.version_info < (3, 9):
            raise ImportError("named-semaphores 1.0.3 does not work here: it uses str.removeprefix, of Python 3.9")
        sys.path.append(POSIX_IPC)
        sys.path.insert(0, PREDECESSOR)
        import posix_ipc

        from named_semaphores.semaphore import NamedSemaphore  # type: ignore[import-not-found]

        self.type = NamedSemaphore
        self.interrupted = (posix_ipc.SignalError,)

    def create(self, name: str, value: int = 1) -> Any:
        return super().create(name[1:].replace(".", "_"), value)  # it allows neither slash nor dot

    def link(self, name: str) -> Any:
        return super().link(name[1:].replace(".", "_"))

    def close(self, sem: Any) -> None:
        sem.__del__()  # it has no close

    discard = close


class Multiprocessing(Subject):
    label = "multiprocessing.Semaphore"
    timed = "got = sem.acquire(True, limit)"
    named = False

    def create(self, name: str, value: int = 1) -> Any:
        import multiprocessing

        return multiprocessing.Semaphore(value)

    def close(self, sem: Any) -> None:
        pass

    discard = close

    def value(self, sem: Any) -> int:
        return int(sem.get_value())


class Naive(Subject):
    """A class as one would write it: correct as long as nothing happens."""

    label = "naive class"

    def __init__(self) -> None:
        from stress import naive

        self.type = naive.Naive

    def create(self, name: str, value: int = 1) -> Any:
        return self.type(name, value, create=True)

    def link(self, name: str) -> Any:
        return self.type(name, 0, create=False)


SUBJECTS: dict[str, type[Subject]] = {
    subject.label: subject for subject in (ThisLibrary, PosixIpc, Predecessor, Multiprocessing, Naive, Polling)
}
COLUMNS = [label for label in SUBJECTS if label != Polling.label]


def prepare() -> list[str]:
    """Install the peers for this interpreter; return what could not be had, and why."""
    os.makedirs(PEERS, exist_ok=True)
    with open(os.path.join(CACHE, ".gitignore"), "w", encoding="utf-8") as file:
        file.write("*\n")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--upgrade", "--target"]
    missing = []
    for arguments in ([POSIX_IPC, "posix_ipc", "typing_extensions"], [PREDECESSOR, "--no-deps", "named-semaphores==1.0.3"]):
        done = subprocess.run([*pip, *arguments], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            missing.append(f"{arguments[-1]}: {done.stderr.strip()[-200:]}")
    return missing
