# SPDX-License-Identifier: Apache-2.0
"""The command line in processes and terminals of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

from support import SLOW

import named_semaphores

PLACE = Path(named_semaphores.__file__).resolve().parent.parent
_PATH = [str(PLACE), *filter(None, [os.environ.get("PYTHONPATH")])]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(_PATH)}
SECONDS = 60 * SLOW
PROG = f"{os.path.basename(sys.executable)} -m named_semaphores"  # as it calls itself


def line(*words: str) -> list[str]:
    """Return our command line."""
    return [sys.executable, "-m", "named_semaphores", *words]


def impatient(*words: str) -> list[str]:
    """Return our command line, which tells after 0.1 s, not after a second, that it waits."""
    code = """
from named_semaphores import __main__
from named_semaphores.cli import commands, run
assert commands.SILENCE == run.SILENCE
commands.SILENCE = run.SILENCE = 10**8
commands._SLICE = 0.01
__main__.main()
"""
    return [sys.executable, "-c", code, *words]


def call(line: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; return what it wrote and its exit code."""
    given = {"capture_output": True, "text": True, "timeout": SECONDS, "check": False}
    return subprocess.run(line, **{**given, "cwd": "/", "env": ENVIRONMENT, **options})


def status_of(pid: int) -> list[str]:
    """Return a process's state, parent, group, session and so on; "Z" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["Z", "", "", ""]


class Terminal:
    """A command that has a terminal of its own, in the foreground of it."""

    def __init__(self, command: list[str]) -> None:
        self.master, slave = os.openpty()
        self.shown = ""

        def own_terminal() -> None:
            for signum in (signal.SIGINT, signal.SIGQUIT):  # a shell's background job ignores them
                signal.signal(signum, signal.SIG_DFL)
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            **dict.fromkeys(("stdin", "stdout", "stderr"), slave),
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def read(self, pattern: str) -> re.Match[str]:
        """Return the match once the terminal shows the pattern."""
        while True:
            found = re.search(pattern, self.shown)
            if found:
                return found
            assert self._read(), f"ended without {pattern!r}: {self.shown!r}"

    def _read(self) -> bytes:
        ready = select.select([self.master], [], [], SECONDS)[0]
        assert ready, f"waited {SECONDS} s in vain, after {self.shown!r}"
        try:
            data = os.read(self.master, 1000)
        except OSError:  # Linux: no process has the terminal open
            return b""
        self.shown += data.decode()
        return data

    def end(self) -> int:
        """Return the exit code once no process has the terminal open."""
        while self._read():
            pass
        return self.process.wait(SECONDS)

    def __exit__(self, *exception: object) -> None:
        everybody = os.listdir("/proc") if os.path.exists("/proc") else []
        for pid in map(int, filter(str.isdigit, everybody)):
            if status_of(pid)[3] == str(self.process.pid):  # its session
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
