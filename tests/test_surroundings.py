# SPDX-License-Identifier: Apache-2.0
"""Terminals, background processes and users around the command line's run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shell import ENVIRONMENT, SECONDS, Terminal, call, line
from support import NOBODY, wait_for, why_always_the_same_user

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


@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="coverage's files would be its streams")
def test_closed_standard_streams_stay_closed(run):
    read, write = os.pipe()
    code = "n=; for i in 0 1 2; do test -e /proc/$$/fd/$i || n=$n$i; done"
    process = subprocess.Popen(
        run("sh", "-c", f"{code}; echo $n >/dev/fd/{write}; exit 4"),
        env=ENVIRONMENT,
        cwd="/",
        pass_fds=[write],
        preexec_fn=lambda: os.closerange(0, 3),
    )
    os.close(write)
    with open(read) as pipe:
        assert pipe.read() == "012\n"
    assert process.wait(SECONDS) == 4
    assert is_free(run)


def test_a_process_that_the_command_leaves_holds_nothing(run):
    result = call(run("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"))
    free = is_free(run)
    os.kill(int(result.stdout), signal.SIGKILL)
    assert (result.returncode, free) == (0, True)


@pytest.mark.skipif(why_always_the_same_user() is not None, reason=f"{why_always_the_same_user()}")
def test_a_set_user_id_commands_token_comes_back(run, tmp_path):
    def effective_user():
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(re.search(r"^Uid:\t\d+\t(\d+)", status, re.MULTILINE)[1])

    if os.statvfs(tmp_path).f_flag & os.ST_NOSUID:
        pytest.skip("the temporary folder is mounted nosuid")
    program = shutil.copy(shutil.which("sleep"), tmp_path)
    os.chown(program, NOBODY, NOBODY)
    os.chmod(program, 0o4755)
    process = subprocess.Popen(run(program, "600"), env=ENVIRONMENT, cwd="/")
    wait_for(lambda: effective_user() == NOBODY)
    assert not is_free(run)
    process.kill()
    process.wait(SECONDS)
    assert is_free(run)
