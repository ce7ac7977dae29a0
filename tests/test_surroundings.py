# SPDX-License-Identifier: Apache-2.0
"""Terminals and background processes around the command line's run."""

from __future__ import annotations

import os
import shlex
import signal
import sys

import pytest
from shell import Terminal, call, line

from named_semaphores import _sets

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")


@pytest.fixture
def run(name):
    """Return the command line of run with further words; its semaphore has one token."""
    yield lambda *words: line("run", name, *words)
    _sets.remove_idle([name])


def is_free(run):
    return call(run("--no-wait", "true")).returncode == 0


def test_ctrl_c_ends_the_command_and_the_script_around_it(run):
    words = run("sh", "-c", "echo begins; exec sleep 600")
    with Terminal(["sh", "-c", f"{shlex.join(words)}; echo goes on"]) as terminal:
        terminal.read("begins")
        assert not is_free(run)
        terminal.type("\x03")
        terminal.end()
    assert "goes on" not in terminal.shown
    assert is_free(run)


def test_a_stopped_command_keeps_its_token_and_goes_on(run):
    words = shlex.join(run("sh", "-c", "echo begins; read it; exit 5"))
    with Terminal(["sh", "-m", "-c", f"{words}; echo stopped $?; fg; echo ended $?"]) as terminal:
        terminal.read("begins")
        terminal.type("\x1a")
        assert int(terminal.read(r"stopped (\d+)\s")[1]) == 128 + signal.SIGTSTP
        assert not is_free(run)
        terminal.type("it\n")
        assert terminal.read(r"ended (\d+)\s")[1] == "5"
        terminal.end()
    assert is_free(run)


def test_a_process_that_the_command_leaves_holds_nothing(run):
    result = call(run("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"))
    free = is_free(run)
    os.kill(int(result.stdout), signal.SIGKILL)
    assert (result.returncode, free) == (0, True)
