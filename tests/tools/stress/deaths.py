# SPDX-License-Identifier: Apache-2.0
"""Each way a process can end while it holds a token, and whether the token comes back."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from typing import Any, Callable

from peers import Peer
from support import unique_name


def _kill_oneself(number: int) -> None:
    if number != signal.SIGKILL:  # which has no handler
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


# How the process ends, and what its parent sees: the exit code, or the signal's number as a
# negative one.
KINDS: dict[str, tuple[Callable[[], object], int]] = {
    "SIGKILL": (lambda: _kill_oneself(signal.SIGKILL), -signal.SIGKILL),
    "SIGTERM": (lambda: _kill_oneself(signal.SIGTERM), -signal.SIGTERM),
    "SIGHUP": (lambda: _kill_oneself(signal.SIGHUP), -signal.SIGHUP),
    "SIGABRT": (os.abort, -signal.SIGABRT),
    "SIGSEGV": (lambda: ctypes.string_at(0), -signal.SIGSEGV),
    "os._exit": (lambda: os._exit(7), 7),
    "exception": (lambda: 1 // 0, 1),
    "sys.exit": (lambda: sys.exit(7), 7),
    "daemon-thread": (lambda: time.sleep(1000), 7),
}


def dying(peer: Peer, rounds: int, kind: str) -> dict[str, Any]:
    """End processes inside a with statement; count the tokens that stay taken.

    A child of fork runs to the end of the interpreter, as the process that started this one would:
    nothing here may catch what it raises.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    name = unique_name()
    sem = peer.create(name)
    lost = 0
    for _ in range(rounds):
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a traceback is expected
            _hold(peer.link(name) if peer.has_name else sem, kind)
            os._exit(99)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended == KINDS[kind][1], f"{kind}: the process ended with {ended}"
        lost += peer.put_right(sem, 1)[0]
    peer.discard(sem)
    return {"rounds": rounds, "lost": lost}


def _hold(sem: Any, kind: str) -> None:
    inside = threading.Event()

    def hold() -> None:
        with sem:
            inside.set()
            KINDS[kind][0]()

    if kind == "daemon-thread":
        threading.Thread(target=hold, daemon=True).start()
        inside.wait()
        sys.exit(7)
    hold()
