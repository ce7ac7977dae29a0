# SPDX-License-Identifier: Apache-2.0
"""Forked processes, none of which outlives a block, and memory that they share."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import sys
import traceback
from typing import Any, Callable


def shared(ctype: Any) -> Any:
    """Return an object of the ctypes type in memory that all children share."""
    return ctype.from_buffer(mmap.mmap(-1, ctypes.sizeof(ctype)))


class Children:
    """Forked processes. Leaving the with statement kills those that still run."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def start(self, function: Callable[..., object], *arguments: Any) -> int:
        """Call the function in a new process; return the process's id."""
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self.pids.append(pid)
            return pid
        status = 1
        try:
            function(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def join(self) -> None:
        """Wait until all functions have returned; RuntimeError if one of them raised."""
        while self.pids:
            _, status = os.waitpid(self.pids[0], 0)
            del self.pids[0]
            if status:
                raise RuntimeError("a child process failed")

    def kill(self, pid: int) -> int:
        """Kill one process and wait until it has ended. Return the status of its end."""
        os.kill(pid, signal.SIGKILL)
        self.pids.remove(pid)
        return os.waitpid(pid, 0)[1]

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        self.pids.clear()


class Gate:
    """A pipe between processes: each ``give`` lets one ``wait`` return."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()

    def give(self, count: int = 1) -> None:
        os.write(self._in, b"x" * count)

    def wait(self, count: int = 1, seconds: float = 60) -> None:
        """Wait for so many ``give``. TimeoutError: a process that should give may have failed."""
        while count:
            if not select.select([self._out], [], [], seconds)[0]:
                raise TimeoutError(f"no other process has given in {seconds} s")
            count -= len(os.read(self._out, count))

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)
