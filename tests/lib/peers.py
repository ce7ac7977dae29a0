# SPDX-License-Identifier: Apache-2.0
"""The peers of tests/tools/bench and tests/tools/stress: this library, and what else its user
could take.

Each ``Peer`` opens, closes and inspects one kind of semaphore. The calls of the hot path are source
text, in which ``sem`` is the semaphore and ``limit`` a number of seconds: a function around them
would take time, and would lose tokens of its own under signals.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from support import unique_name

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.path.join(ROOT, ".bench")  # measured data
OLD = "NAMED_SEMAPHORES_OLD"  # the environment's word for another tree of this library

try:
    import named_semaphores
except ImportError:  # not installed: take the package of this tree
    sys.path.append(ROOT)
    import named_semaphores  # noqa: F401


class Peer:
    label = ""
    try_acquire = "sem.acquire(False)"
    timed_acquire = "sem.acquire(timeout=limit)"
    busy: Any = ()  # exceptions of a call that got no token; without any, it returns False
    interrupted: Any = ()  # exceptions of a wait that a signal ended, instead of the handler's own
    has_name = True
    waits_in_kernel = True  # else it polls
    has_asyncio = False  # acquire_async, async with
    takes_several = False  # hold(2)
    opens_at_once = True  # else a file is opened at each acquire

    def create(self, name: str, tokens: int = 1) -> Any:
        """Create a semaphore; an error if the name exists."""
        raise NotImplementedError

    def link(self, name: str) -> Any:
        """Open an existing semaphore; an error if there is none."""
        raise NotImplementedError

    def close(self, sem: Any) -> None:
        """Close this process's handle."""
        sem.close()

    def discard(self, sem: Any) -> None:
        """Close the creator's handle and remove the name."""
        sem.close()

    def fresh(self, tokens: int = 1) -> Any:
        """Return a new semaphore, where possible without a name, so that no end leaves one."""
        sem = self.create(unique_name(), tokens)
        sem.unlink()
        return sem

    def drop(self, sem: Any) -> None:
        """Close what ``fresh`` or ``empty`` returned."""
        self.close(sem)

    def empty(self) -> Any:
        """Return a new semaphore whose only token is taken."""
        sem = self.fresh()
        sem.acquire()
        return sem

    def in_child(self, sem: Any) -> Any:
        """Return the object with which a forked child uses the semaphore."""
        return sem

    def wait(self, sem: Any) -> None:
        """Acquire in the way that this peer is measured for."""
        sem.acquire()

    def value(self, sem: Any) -> int:
        """Return the number of free tokens."""
        return int(sem.value)

    def put_right(self, sem: Any, expected: int) -> tuple[int, int]:
        """Make the number of free tokens right. Return how many were lost, and how many gained."""
        missing = expected - self.value(sem)
        for _ in range(missing):
            sem.release()
        for _ in range(-missing):
            sem.acquire()
        return max(0, missing), max(0, -missing)


class Unclosed(Peer):
    """A peer whose handles need no close, and whose names nobody can use once they are removed."""

    def close(self, sem: Any) -> None:
        pass

    def discard(self, sem: Any) -> None:
        pass

    def drop(self, sem: Any) -> None:
        self.discard(sem)

    def fresh(self, tokens: int = 1) -> Any:
        return self.create(unique_name(), tokens)


class Named(Peer):
    label = "NamedSemaphore"
    has_asyncio = True

    def __init__(self) -> None:
        from named_semaphores import NamedSemaphore

        self.type: Any = NamedSemaphore
        self.flags: Any = NamedSemaphore.Flags

    def create(self, name: str, tokens: int = 1) -> Any:
        return self.type(name, tokens, self.flags.RAISE_IF_EXISTS)

    def link(self, name: str) -> Any:
        return self.type(name, handle_existence=self.flags.RAISE_IF_NOT_EXISTS)


class NamedCtypes(Named):
    label = "NamedSemaphore, ctypes engine"
    hidden: tuple[str, ...] = ()

    def __init__(self) -> None:
        from named_semaphores._libc import Libc

        super().__init__()
        libc = Libc(_Without(ctypes.CDLL(None), *self.hidden), sys.platform)
        self.type = type("CtypesSemaphore", (self.type,), {"_libc": libc})


class NamedPolling(NamedCtypes):
    """The ctypes engine on a library without timed waits, as on macOS: timed waits poll."""

    label = "NamedSemaphore, polling"
    hidden = ("timedwait", "clockwait")
    waits_in_kernel = False

    def wait(self, sem: Any) -> None:
        sem.acquire(timeout=3600)


class _Without:
    """The library without the functions whose names contain one of the parts."""

    def __init__(self, lib: Any, *parts: str) -> None:
        self._lib, self._parts = lib, parts

    def __getattr__(self, symbol: str) -> Any:
        if any(part in symbol for part in self._parts):
            raise AttributeError(symbol)
        return getattr(self._lib, symbol)


class Robust(Named):
    label = "RobustSemaphore"
    takes_several = True

    def __init__(self) -> None:
        from named_semaphores import RobustSemaphore, _set

        super().__init__()
        self.type = RobustSemaphore
        _set.FORKING = 0  # else a process that has just forked leaves its sets idle

    def fresh(self, tokens: int = 1) -> Any:
        # The name ends with its last user; after unlink() nobody could acquire.
        return self.create(unique_name(), tokens)

    def drop(self, sem: Any) -> None:
        # A process that holds tokens, or has just forked, does not remove the set when it closes.
        with contextlib.suppress(FileNotFoundError):
            sem.unlink()
        sem.close()

    def put_right(self, sem: Any, expected: int) -> tuple[int, int]:
        """Release what this process holds, and end its turn: it should have nothing."""
        from named_semaphores import _set

        lost = dict(sem.holders).get(os.getpid(), 0)
        if lost:
            sem.release(lost)
        lost += sem._set.operate(_set.END_TURN)
        missing = expected - self.value(sem)
        return lost + max(0, missing), max(0, -missing)


class RobustBefore(Robust):
    """RobustSemaphore of another tree, to which this one is compared."""

    label = "RobustSemaphore, before"

    def __init__(self) -> None:
        folder = os.environ.get(OLD)
        if not folder:
            raise ImportError("--old names no other tree")
        place = os.path.join(folder, "named_semaphores")
        spec: Any = importlib.util.spec_from_file_location(
            "nst_before", os.path.join(place, "__init__.py"), submodule_search_locations=[place]
        )
        copy = sys.modules["nst_before"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        self.type = copy.RobustSemaphore
        self.flags = self.type.Flags


class PosixIpc(Peer):
    label = "posix_ipc"
    try_acquire = "sem.acquire(0)"
    timed_acquire = "sem.acquire(limit)"

    def __init__(self) -> None:
        self.module: Any = importlib.import_module("posix_ipc")
        self.busy = self.module.BusyError
        self.interrupted = (self.module.SignalError,)

    def create(self, name: str, tokens: int = 1) -> Any:
        return self.module.Semaphore(name, self.module.O_CREX, initial_value=tokens)

    def link(self, name: str) -> Any:
        return self.module.Semaphore(name)

    def discard(self, sem: Any) -> None:
        sem.unlink()
        sem.close()


class Multiprocessing(Unclosed):
    label = "multiprocessing.Semaphore"
    timed_acquire = "sem.acquire(True, limit)"
    has_name = False

    def create(self, name: str, tokens: int = 1) -> Any:
        import multiprocessing

        return multiprocessing.get_context("fork").Semaphore(tokens)

    def value(self, sem: Any) -> int:
        return int(sem.get_value())


class Threading(Multiprocessing):
    label = "threading.Semaphore"
    timed_acquire = "sem.acquire(timeout=limit)"

    def create(self, name: str, tokens: int = 1) -> Any:
        import threading

        return threading.Semaphore(tokens)


class SysvIpc(Unclosed):
    label = "sysv_ipc, undo"
    try_acquire = "sem.block = False; sem.acquire()"
    timed_acquire = ""

    def __init__(self) -> None:
        self.module: Any = importlib.import_module("sysv_ipc")
        self.busy = self.module.BusyError
        # Without, sem.acquire(5) waits for ever, as sem.acquire(0) does.
        if self.module.SEMAPHORE_TIMEOUT_SUPPORTED:
            self.timed_acquire = "sem.acquire(limit)"

    def create(self, name: str, tokens: int = 1) -> Any:
        sem = self.module.Semaphore(_key(name), self.module.IPC_CREX, initial_value=tokens)
        sem.undo = True
        return sem

    def link(self, name: str) -> Any:
        sem = self.module.Semaphore(_key(name))
        sem.undo = True
        return sem

    def discard(self, sem: Any) -> None:
        sem.remove()


class Filelock(Unclosed):
    label = "filelock"
    try_acquire = "sem.acquire(blocking=False)"
    waits_in_kernel = False
    opens_at_once = False

    def __init__(self) -> None:
        self.module: Any = importlib.import_module("filelock")
        self.busy = self.module.Timeout
        # tests/tools/bench and stress remove it. No TemporaryDirectory: a child would remove that.
        self.folder = tempfile.mkdtemp()
        self.names: dict[int, tuple[str, int]] = {}

    def create(self, name: str, tokens: int = 1) -> Any:
        sem = self._open(name, tokens)
        self.names[id(sem)] = name, tokens
        return sem

    def _open(self, name: str, tokens: int) -> Any:
        assert tokens == 1
        return self.module.FileLock(self.folder + name)

    def link(self, name: str) -> Any:
        return self._open(name, 1)

    def discard(self, sem: Any) -> None:
        del self.names[id(sem)]

    def empty(self) -> Any:
        sem = self.fresh()
        self.holder = self.in_child(sem)  # sem itself is reentrant
        self.holder.acquire()
        return sem

    def in_child(self, sem: Any) -> Any:
        return self._open(*self.names[id(sem)])  # filelock refuses what was there before a fork

    def value(self, sem: Any) -> int:
        """Return how many tokens could be taken now."""
        name, tokens = self.names[id(sem)]
        taken = []
        for one in [self._open(name, tokens) for _ in range(tokens)]:
            with contextlib.suppress(self.busy):
                exec(self.try_acquire, {"sem": one})
                taken.append(one)
        for one in taken:
            one.release()
        return len(taken)


class Portalocker(Filelock):
    """portalocker's counted semaphore, which has a file for each token."""

    label = "portalocker"
    try_acquire = "sem.acquire(0)"
    timed_acquire = "sem.acquire(limit)"

    def __init__(self) -> None:
        self.module = importlib.import_module("portalocker")
        if not hasattr(self.module, "NamedBoundedSemaphore"):
            raise ImportError(f"portalocker {self.module.__version__} has no NamedBoundedSemaphore")
        self.busy = self.module.AlreadyLocked
        self.folder = tempfile.mkdtemp()
        self.names = {}

    def _open(self, name: str, tokens: int) -> Any:
        return self.module.NamedBoundedSemaphore(
            tokens, name=name[1:], directory=self.folder, timeout=3600
        )


ALL: tuple[type[Peer], ...] = (
    Named,
    NamedCtypes,
    NamedPolling,
    Robust,
    RobustBefore,
    PosixIpc,
    Multiprocessing,
    Threading,
    SysvIpc,
    Filelock,
    Portalocker,
)
OURS = (Named, NamedCtypes, NamedPolling, Robust)
FILES = (Filelock, Portalocker)
# Those that processes share, and that wait in the kernel.
SHARED = (Named, NamedCtypes, Robust, RobustBefore, PosixIpc, Multiprocessing, SysvIpc)
LABELS = {peer.label: peer for peer in ALL}


def available(*types: type[Peer]) -> Iterator[Any]:
    """Yield those of the peers that can be had; ``prepare`` tells which cannot."""
    for peer_type in types or ALL:
        with contextlib.suppress(ImportError):
            yield peer_type()


def prepare() -> dict[str, str]:
    """Return the peers that cannot be had, by label, and why."""
    os.makedirs(CACHE, exist_ok=True)
    missing = {}
    for peer_type in ALL:
        try:
            peer_type()
        except ImportError as error:
            missing[peer_type.label] = str(error)
    return missing


# What a process leaves behind. Names contain the id of the process that ran the measurement
# (support.unique_name), and so do the keys of sysv_ipc's sets.


def _key(name: str) -> int:
    process, number = re.findall(r"nst(\d+)_[0-9a-f]+\.(\d+)", name)[0]
    return _first_key(int(process)) | int(number) % 256


def _first_key(process: int) -> int:
    return 0x40000000 | (process % 2**22) << 8


def sweep(process: int) -> list[str]:
    """Remove and return what this process, which has ended, and its children left behind."""
    left = glob.glob(f"/dev/shm/*nst{process}_*")
    for path in left:
        os.unlink(path)
    return [*left, *_sweep_sets(process)]


def _sweep_sets(process: int) -> Iterator[str]:
    from named_semaphores import _set, _sets, _sysv
    from named_semaphores.listing import list_robust

    try:
        names = {_set.key(one.name): one.name for one in list_robust(idle_too=True)}
        for row in list(_sets.rows()):
            name = names.get(row.key, "")
            if name.startswith(f"/nst{process}_") or row.key & ~0xFF == _first_key(process):
                _sysv.system().remove(row.id)
                yield f"the set of {name or hex(row.key)}"
    except (NotImplementedError, FileNotFoundError):
        return
