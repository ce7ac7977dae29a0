# SPDX-License-Identifier: Apache-2.0
"""README's code runs as written, on names of this run."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys

from support import SLOW, run_python

from named_semaphores import NamedSemaphore, RobustSemaphore

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
    README = file.read()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


# Where README's code says the name of a semaphore.
NAME = re.compile(r"""((?:NamedSemaphore|RobustSemaphore)\(\s*)"/?([^"]+)\"""")


def test_python_blocks_run_top_to_bottom(name):
    code, count = NAME.subn(rf'\1"{name}.\2"', "\n".join(blocks("python")))
    assert count
    assert "async with" in code
    try:
        done = run_python(code, options=["-W", "error"])
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        for _, used in NAME.findall(code):
            with contextlib.suppress(FileNotFoundError):  # some stay, as README says
                NamedSemaphore(
                    used, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS
                ).unlink()


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


def test_the_command_lines_run_in_order(name):
    (block,) = (block for block in blocks("console") if "create pool" in block)
    names = sorted(set(re.findall(r"named-semaphores (?:run|create) (\w+)", block)))
    assert names == ["build", "disk", "pool"]
    script = re.sub(
        r"\b(build|disk|pool)\b",
        rf"{name}.\1",
        block.replace("$ named-semaphores", f'"{sys.executable}" -m named_semaphores'),
    )
    # The last run finds a token, if the first, in the background, has begun: else it makes a semaphore of one.
    first, rest = script.split("\n", 1)
    script = f'{first}\nuntil "{sys.executable}" -m named_semaphores value {name}.build >/dev/null 2>&1; do :; done\n{rest}'
    done = subprocess.run(
        ["sh", "-euc", script + "wait"],
        capture_output=True,
        text=True,
        timeout=60 * SLOW,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"{name}.pool +posix +3 ", done.stdout)
    assert done.stdout.endswith("\n2\n")
    RobustSemaphore(f"{name}.build").close()


def test_the_first_command(name):
    command = [
        sys.executable,
        "-m",
        "named_semaphores",
        "run",
        name,
        "--slots",
        "2",
        "--",
        "echo",
        "hello",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, check=True)
    assert done.stdout == "hello\n"
    RobustSemaphore(name).close()  # the command's end leaves an idle set, which counts as not there
