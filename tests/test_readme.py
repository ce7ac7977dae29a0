# SPDX-License-Identifier: Apache-2.0
"""README's code runs as written, and so does code written for named-semaphores 1.0.3."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import subprocess
import sys

import pytest
from support import SLOW

from named_semaphores import NamedSemaphore

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
    README = file.read()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_blocks_run_top_to_bottom():
    code = "\n".join(blocks("python"))
    assert "async with" in code
    try:
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60 * SLOW, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        with contextlib.suppress(FileNotFoundError):  # another run of this test was first
            NamedSemaphore("builds", handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS).unlink()  # it stays, as README says


def test_command_lines_are_understood():
    for line in "\n".join(blocks("console")).splitlines():
        command = line.split("#")[0].split()[1:]
        if command[:1] == ["named-semaphores"]:
            done = subprocess.run(
                [sys.executable, "-m", "named_semaphores", command[1], "--help"],
                capture_output=True,
                text=True,
                timeout=60 * SLOW,
                check=False,
            )
            assert done.returncode == 0, line
            for option in re.findall(r"--[a-z][a-z-]+", " ".join(command[1:])):
                assert option in done.stdout, line


def test_the_first_command(name):
    done = subprocess.run(
        [sys.executable, "-m", "named_semaphores", "run", name, "--slots", "2", "--", "echo", "hello"],
        capture_output=True,
        text=True,
        timeout=60 * SLOW,
        check=True,
    )
    assert done.stdout == "hello\n"
    NamedSemaphore(name).unlink()


def test_what_was_written_for_1_0_3(name):
    flags = NamedSemaphore.Flags
    assert [flag.name for flag in flags] == ["RAISE_IF_EXISTS", "LINK_OR_CREATE", "RAISE_IF_NOT_EXISTS", "UNLINK_AND_CREATE"]
    assert [flag.value for flag in flags] == [0, 1, 2, 3]
    bare = name[1:]

    # One variable, made anew again and again: each time the old object goes after the new one has come.
    sem = NamedSemaphore(bare)
    assert sem.name == name
    sem = NamedSemaphore(bare, initial_value=3)
    gc.collect()
    sem = NamedSemaphore(bare)
    gc.collect()
    sem.acquire()
    sem.release()
    if sem.acquire(timeout=5):
        sem.release()
    with NamedSemaphore(bare) as sem:
        pass
    gc.collect()
    sem.close()

    created = NamedSemaphore(bare, handle_existence=flags.RAISE_IF_EXISTS)
    linked = NamedSemaphore(bare, handle_existence=flags.RAISE_IF_NOT_EXISTS)
    with pytest.raises(FileExistsError):
        NamedSemaphore(bare, handle_existence=flags.RAISE_IF_EXISTS)
    del linked
    gc.collect()
    assert NamedSemaphore(bare, handle_existence=flags.RAISE_IF_NOT_EXISTS).linked_existing_semaphore
    del created
    gc.collect()
    with pytest.raises(FileNotFoundError):
        NamedSemaphore(bare, handle_existence=flags.RAISE_IF_NOT_EXISTS)

    sem = NamedSemaphore(bare, unlink_on_delete=False)
    del sem
    sem = NamedSemaphore(bare, unlink_on_delete=False)
    assert sem.linked_existing_semaphore
    sem.unlink()
    del sem
    sem = NamedSemaphore(bare, handle_existence=flags.UNLINK_AND_CREATE)
    del sem
    gc.collect()
    with pytest.raises(FileNotFoundError):
        NamedSemaphore(bare, handle_existence=flags.RAISE_IF_NOT_EXISTS)
