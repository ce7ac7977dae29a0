# SPDX-License-Identifier: Apache-2.0
"""What is measured: this library, what it stands on, what it replaces, and what else its user could take."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Iterator

from named_semaphores import NamedSemaphore
from named_semaphores._libc import Libc, load

CACHE = os.environ.get("NAMED_SEMAPHORES_BENCH", ".bench")
PREFIX = os.environ.get("NAMED_SEMAPHORES_BENCH_PREFIX", f"/nsb{os.getpid()}-")  # of all names of a run, so that it can sweep them up
PREDECESSOR = "named-semaphores==1.0.3"

PAIR, WITH, TRY, TIMEOUT = "acquire+release", "with", "acquire(False)+release", "acquire(timeout=5)+release"
FAIL, VALUE, CREATE, LINK, USE = "acquire(False) fails", "value", "create+close", "link+close", "link+acquire+release+close"
OPERATIONS = (PAIR, WITH, TRY, TIMEOUT, FAIL, VALUE, CREATE, LINK, USE)

_numbers = itertools.count()


def fresh_name() -> str:
    return f"{PREFIX}{os.getpid()}-{next(_numbers)}"


def clock() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)  # one clock for all processes and for C


class Subject:
    """One way to share a limit. Statements see ``s`` (a token is free), ``e`` (none is), and what ``namespace`` adds."""

    label = ""
    crosses = True  # processes
    waits = True  # in the kernel, not by polling
    statements = {PAIR: "s.acquire(); s.release()", WITH: "with s: pass"}

    def open(self, value: int = 1) -> Any:
        """Return a new one, whose name (if it has one) is removed already: nothing is left, however this process ends."""
        raise NotImplementedError

    def link(self, name: str) -> Any:
        raise NotImplementedError

    def empty(self) -> Any:
        return self.open(0)

    def close(self, s: Any) -> None:
        s.close()

    def namespace(self) -> dict[str, Any]:
        return {}

    def acquire_within(self, s: Any, seconds: float) -> bool:
        return bool(s.acquire(timeout=seconds))

    def after_round(self) -> None:
        pass

    # What a process does in the measurements across processes.

    def ping(self, there: Any, back: Any, n: int) -> None:
        acquire, release = back.acquire, there.release
        for _ in range(n):
            release()
            acquire()

    def pong(self, there: Any, back: Any, n: int) -> None:
        acquire, release = there.acquire, back.release
        for _ in range(n):
            acquire()
            release()

    def post(self, s: Any) -> float:
        at = clock()
        s.release()
        return at

    def stamp(self, s: Any, stamps: Any, n: int) -> None:
        for i in range(n):
            s.acquire()
            stamps[i] = clock()

    def hammer(self, s: Any, stop: Any) -> int:
        acquire, release, n = s.acquire, s.release, 0
        while not stop[0]:
            acquire()
            release()
            n += 1
        return n


class ThisLibrary(Subject):
    label = "this library"
    type: Any = NamedSemaphore
    statements = {
        **Subject.statements,
        TRY: "s.acquire(False); s.release()",
        TIMEOUT: "s.acquire(timeout=5); s.release()",
        FAIL: "e.acquire(False)",
        VALUE: "s.value",
        CREATE: "type(fresh, 1, flags.RAISE_IF_EXISTS).close()",
        LINK: "type(link, 1, flags.RAISE_IF_NOT_EXISTS).close()",
        USE: "x = type(link, 1, flags.RAISE_IF_NOT_EXISTS); x.acquire(); x.release(); x.close()",
    }

    def open(self, value: int = 1) -> Any:
        s = self.type(fresh_name(), value, self.type.Flags.RAISE_IF_EXISTS, False)
        s.unlink()
        return s

    def link(self, name: str) -> Any:
        return self.type(name, 1, self.type.Flags.RAISE_IF_NOT_EXISTS)

    def create(self, name: str) -> Any:
        return self.type(name, 1, self.type.Flags.RAISE_IF_EXISTS)

    def namespace(self) -> dict[str, Any]:
        return {"type": self.type, "flags": self.type.Flags}


class _WithoutTimedWaits:
    """The C library as one that has no timed waits (macOS)."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib

    def __getattr__(self, symbol: str) -> Any:
        if "timedwait" in symbol or "clockwait" in symbol:
            raise AttributeError(symbol)
        return getattr(self._lib, symbol)


class Polling(ThisLibrary):
    label = "this library, polling"

    def __init__(self) -> None:
        libc = Libc(_WithoutTimedWaits(load()))
        assert not libc.has_timed_wait
        self.type = type("PollingSemaphore", (NamedSemaphore,), {"_libc": libc})


class Predecessor(ThisLibrary):
    label = "named-semaphores 1.0.3"
    statements = {
        **ThisLibrary.statements,
        # It has no close: deletion does it.
        CREATE: "type(fresh, 1, flags.RAISE_IF_EXISTS)",
        LINK: "type(link, 1, flags.RAISE_IF_NOT_EXISTS)",
        USE: "x = type(link, 1, flags.RAISE_IF_NOT_EXISTS); x.acquire(); x.release(); del x",
    }

    def __init__(self) -> None:
        if sys.version_info < (3, 9):
            raise ImportError("it uses str.removeprefix, which this Python has not")
        self.type = _predecessor()

    def close(self, s: Any) -> None:
        s.__del__()  # it has no close; what comes after this, when it is deleted, is not measured

    def after_round(self) -> None:
        # Each construction adds a handler to a logger named after the semaphore and looks through those it has: that would grow.
        import logging

        for name, logger in list(logging.root.manager.loggerDict.items()):
            if name.startswith("NamedSemaphore.") and isinstance(logger, logging.Logger):
                logger.handlers.clear()


def _predecessor() -> Any:
    """Import the other package of our import name, and put ours back in its place."""
    folder = os.path.join(CACHE, PREDECESSOR)
    if not os.path.isdir(folder):
        raise ImportError(f"{PREDECESSOR} is not in {CACHE}")
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "named_semaphores"}
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("named_semaphores.semaphore").NamedSemaphore
    finally:
        sys.path.remove(folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "named_semaphores"]:
            del sys.modules[name]
        sys.modules.update(ours)


class Bare(Subject):
    label = "bare ctypes calls"
    statements = {
        PAIR: "trywait(s); post(s)",
        FAIL: "trywait(e)",
        VALUE: "getvalue(s, byref(number)); number.value",
        CREATE: "close(handle(open(fresh_bytes, O_CREAT | O_EXCL, 0o600, 1))); unlink(fresh_bytes)",
        LINK: "close(handle(open(link_bytes, 0)))",
        USE: "x = handle(open(link_bytes, 0)); trywait(x); post(x); close(x)",
    }

    def __init__(self) -> None:
        self.wait = ctypes.CDLL(load()._name).sem_wait  # PyDLL would keep the GIL
        self.lib = ctypes.PyDLL(load()._name)
        self.lib.sem_open.restype = ctypes.c_void_p

    def open(self, value: int = 1) -> Any:
        name = os.fsencode(fresh_name())
        s = ctypes.c_void_p(self.lib.sem_open(name, os.O_CREAT | os.O_EXCL, 0o600, value))
        self.lib.sem_unlink(name)
        return s

    def link(self, name: str) -> Any:
        return ctypes.c_void_p(self.lib.sem_open(os.fsencode(name), 0))

    def namespace(self) -> dict[str, Any]:
        functions = {name: getattr(self.lib, "sem_" + name) for name in ("trywait", "post", "getvalue", "open", "close", "unlink")}
        others = {"handle": ctypes.c_void_p, "byref": ctypes.byref, "number": ctypes.c_int(), "O_CREAT": os.O_CREAT, "O_EXCL": os.O_EXCL}
        return {**functions, **others}

    def ping(self, there: Any, back: Any, n: int) -> None:
        wait, post = self.wait, self.lib.sem_post
        for _ in range(n):
            post(there)
            while wait(back):
                pass

    def pong(self, there: Any, back: Any, n: int) -> None:
        wait, post = self.wait, self.lib.sem_post
        for _ in range(n):
            while wait(there):
                pass
            post(back)

    def post(self, s: Any) -> float:
        at = clock()
        self.lib.sem_post(s)
        return at

    def stamp(self, s: Any, stamps: Any, n: int) -> None:
        for i in range(n):
            while self.wait(s):
                pass
            stamps[i] = clock()

    def hammer(self, s: Any, stop: Any) -> int:
        wait, post, n = self.wait, self.lib.sem_post, 0
        while not stop[0]:
            while wait(s):
                pass
            post(s)
            n += 1
        return n


class BareByref(Bare):
    label = "bare ctypes calls, byref"
    crosses = False
    statements = {operation: Bare.statements[operation] for operation in (PAIR, FAIL)}

    def open(self, value: int = 1) -> Any:
        address = super().open(value).value
        return ctypes.byref(ctypes.c_char.from_address(address))


class PosixIpc(Subject):
    label = "posix_ipc"
    statements = {
        **Subject.statements,
        TRY: "s.acquire(0); s.release()",
        TIMEOUT: "s.acquire(5); s.release()",
        FAIL: "try: e.acquire(0)\nexcept BusyError: pass",
        VALUE: "s.value",
        CREATE: "x = type(fresh, O_CREX, 0o600, 1); x.unlink(); x.close()",
        LINK: "type(link).close()",
        USE: "x = type(link); x.acquire(); x.release(); x.close()",
    }

    def __init__(self) -> None:
        self.module: Any = importlib.import_module("posix_ipc")

    def open(self, value: int = 1) -> Any:
        s = self.module.Semaphore(fresh_name(), self.module.O_CREX, 0o600, value)
        s.unlink()
        return s

    def link(self, name: str) -> Any:
        return self.module.Semaphore(name)

    def acquire_within(self, s: Any, seconds: float) -> bool:
        try:
            s.acquire(seconds)
        except self.module.BusyError:
            return False
        return True

    def namespace(self) -> dict[str, Any]:
        return {"BusyError": self.module.BusyError, "type": self.module.Semaphore, "O_CREX": self.module.O_CREX}


class Threading(Subject):
    label = "threading.Semaphore"
    crosses = False
    statements = {**ThisLibrary.statements, CREATE: "type(1)"}
    del statements[LINK], statements[USE], statements[VALUE]

    def __init__(self) -> None:
        self.type: Any = threading.Semaphore

    def open(self, value: int = 1) -> Any:
        return self.type(value)

    def namespace(self) -> dict[str, Any]:
        return {"type": self.type}


class Multiprocessing(Threading):
    label = "multiprocessing.Semaphore"
    crosses = True
    statements = {**Threading.statements, VALUE: "s.get_value()"}

    def __init__(self) -> None:
        self.type = multiprocessing.get_context("fork").Semaphore


class FileLock(Subject):
    label = "filelock"
    waits = False
    statements = {
        **Subject.statements,
        TRY: "s.acquire(blocking=False); s.release()",
        TIMEOUT: "s.acquire(timeout=5); s.release()",
        FAIL: "try: e.acquire(blocking=False)\nexcept Failed: pass",
    }

    def __init__(self) -> None:
        self.module: Any = importlib.import_module(self.label)
        self.folder = tempfile.TemporaryDirectory()

    def path(self) -> str:
        return os.path.join(self.folder.name, f"{next(_numbers)}.lock")

    def at(self, path: str) -> Any:
        return self.module.FileLock(path)

    def open(self, value: int = 1) -> Any:
        self.last = self.path()
        return self.at(self.last)

    def hammer(self, s: Any, stop: Any) -> int:
        return super().hammer(self.at(self.last), stop)  # filelock refuses an object that came through fork

    def empty(self) -> Any:
        path = self.path()
        self.holder = self.at(path)
        self.holder.acquire()
        return self.at(path)

    def namespace(self) -> dict[str, Any]:
        return {"Failed": self.module.Timeout}


class PortaLocker(FileLock):
    label = "portalocker"
    statements = {
        **Subject.statements,
        TRY: "s.acquire(0, fail_when_locked=True); s.release()",
        TIMEOUT: "s.acquire(5); s.release()",
        FAIL: "try: e.acquire(0, fail_when_locked=True)\nexcept Failed: pass",
    }

    def at(self, path: str) -> Any:
        return self.module.Lock(path, timeout=60)

    def namespace(self) -> dict[str, Any]:
        return {"Failed": self.module.AlreadyLocked}


class Fasteners(FileLock):
    label = "fasteners"
    statements = {**ThisLibrary.statements}
    del statements[VALUE], statements[CREATE], statements[LINK], statements[USE]

    def at(self, path: str) -> Any:
        return self.module.InterProcessLock(path)

    def namespace(self) -> dict[str, Any]:
        return {}


class CLoop(Subject):
    label = "C loop"
    statements = {PAIR: "pairs", FAIL: "tries", VALUE: "values", CREATE: "creations", LINK: "links", USE: "uses"}  # functions of loop.c

    def __init__(self) -> None:
        path = os.path.join(CACHE, "loop.so")
        if not os.path.exists(path):
            raise ImportError("no C compiler, or loop.c does not compile here")
        self.lib = ctypes.CDLL(path)
        for name in self.statements.values():
            getattr(self.lib, name).argtypes = [ctypes.c_void_p, ctypes.c_long]
        for name in ("ping", "pong", "stamp"):
            getattr(self.lib, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
        self.lib.post.restype, self.lib.post.argtypes = ctypes.c_double, [ctypes.c_void_p]
        self.lib.hammer.restype, self.lib.hammer.argtypes = ctypes.c_long, [ctypes.c_void_p, ctypes.c_void_p]
        self.ping, self.pong, self.post = self.lib.ping, self.lib.pong, self.lib.post  # type: ignore[method-assign]
        self.bare = Bare()

    def open(self, value: int = 1) -> Any:
        return self.bare.open(value)

    def link(self, name: str) -> Any:
        return self.bare.link(name)

    def stamp(self, s: Any, stamps: Any, n: int) -> None:
        self.lib.stamp(s, ctypes.byref(stamps), n)

    def hammer(self, s: Any, stop: Any) -> int:
        return int(self.lib.hammer(s, ctypes.byref(stop)))

    def timer(self, operation: str, names: dict[str, Any]) -> Callable[[int], float]:
        function = getattr(self.lib, self.statements[operation])
        arguments = {CREATE: "fresh_bytes", LINK: "link_bytes", USE: "link_bytes", FAIL: "e"}
        argument = names[arguments.get(operation, "s")]

        def timed(loops: int) -> float:
            begin = clock()
            function(argument, loops)
            return clock() - begin

        return timed


ALL = (ThisLibrary, Bare, BareByref, PosixIpc, Predecessor, Threading, Multiprocessing, FileLock, PortaLocker, Fasteners, CLoop)


def available(*types: Any) -> Iterator[Any]:
    """Yield the subjects that can be had here. The others were reported by ``prepare``."""
    for subject_type in types or ALL:
        try:
            yield subject_type()
        except ImportError:
            continue


def prepare(cache: str) -> list[str]:
    """Put what must be fetched or built into the cache, and return what will be missing and why."""
    os.makedirs(cache, exist_ok=True)
    missing = {Predecessor: _fetch_predecessor(cache), CLoop: _compile_loop(cache)}
    for subject_type in ALL:
        try:
            subject_type()
        except ImportError as error:
            missing[subject_type] = missing.get(subject_type) or str(error)
    return [f"{subject_type.label}: {why}" for subject_type, why in missing.items() if why]


def _fetch_predecessor(cache: str) -> str | None:
    folder = os.path.join(cache, PREDECESSOR)
    if os.path.isdir(folder):
        return None
    with tempfile.TemporaryDirectory(dir=cache) as new:
        unpacked = os.path.join(new, "unpacked")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", unpacked]
        error = _error(*command, PREDECESSOR)
        if not error:
            os.rename(unpacked, folder)
        return error


def _compile_loop(cache: str) -> str | None:
    library = os.path.join(cache, "loop.so")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    source = os.path.join(os.path.dirname(__file__), "loop.c")
    with tempfile.TemporaryDirectory(dir=cache) as new:
        compiled = os.path.join(new, "loop.so")
        error = "no C compiler (cc, gcc, clang)"
        if compiler:
            error = _error(compiler, "-O2", "-shared", "-fPIC", "-o", compiled, source, "-lpthread") or ""
        if not error:
            os.replace(compiled, library)  # another run may have the old one loaded
        elif os.path.exists(library):
            os.remove(library)  # it may be an older source's
        return error or None


def _error(*command: str) -> str | None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{os.path.basename(command[0])} says: {ran.stderr.strip() or ran.returncode}" if ran.returncode else None
