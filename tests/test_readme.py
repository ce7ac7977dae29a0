# SPDX-License-Identifier: Apache-2.0
"""README's code runs as written, and programs that were written after 1.0.3's README run."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from holders import close
from shell import ENVIRONMENT, call
from support import run_python, wait_for

from named_semaphores import NamedSemaphore, RobustSemaphore, _sets, _sysv

try:
    _sysv.system()
except NotImplementedError as refusal:
    pytest.skip(str(refusal), allow_module_level=True)

PROJECT = Path(__file__).resolve().parent.parent
README = PROJECT.joinpath("README.md").read_text(encoding="utf-8")
# (language, code) of each fenced block; other tests run "python zookeeper".
BLOCKS = re.findall(r"^```(\w[^\n]*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in BLOCKS if language == "python"]
LINES = [
    re.sub(r"^\$ |^[*/\d]+( [*\d]+){4} +| +# .*", "", line)  # prompt, cron's five fields, comment
    for language, code in BLOCKS
    if language in ("console", "cron")
    for line in code.splitlines()
]
COMMANDS = [line for line in LINES if re.match(r"(named-|.* named_)semaphores ", line)]

# Where Python and the command line say the name of a semaphore.
NAME = re.compile(r'(Semaphore\("|"run", "|named.semaphores (?:run|holders) )(\w+)')


@pytest.fixture
def own(name):
    """A function that returns the code with names of this test; afterwards none of them is left."""
    names = []

    def rename(code):
        names.extend(f"{name}.{found[1]}" for found in NAME.findall(code))
        assert names
        return NAME.sub(rf"\g<1>{name}.\2", code)

    yield rename
    for each in names:
        flag = NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS
        with contextlib.suppress(FileNotFoundError):  # README's signal stays until unlink()
            NamedSemaphore(each, handle_existence=flag).unlink()
        wait_for(functools.partial(_removed, each))


def _removed(name):
    """Remove the idle set that run leaves. Its command may close its output before it ends."""
    close(RobustSemaphore(name))
    return _sets.find(_sysv.system(), f"/{name.lstrip('/')}") is None


def test_all_blocks_are_found():
    languages = {language for language, _ in BLOCKS}
    assert languages == {"python", "python conftest", "python zookeeper", "console", "cron"}
    assert README.count("```") == 2 * len(BLOCKS)
    assert len(PYTHON) > 8
    assert len(COMMANDS) > 4


def test_the_prose_is_short():
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"\S*\w\S*", prose)) <= 1000


def test_contributors_find_each_module_and_what_it_is_built_on():
    contributing, package = PROJECT / ".github" / "CONTRIBUTING.md", PROJECT / "named_semaphores"
    if not contributing.exists():
        pytest.skip("the sdist has no .github")
    house = contributing.read_text(encoding="utf-8").partition("| module |")[2].partition("\n\n")[0]
    seen = []
    for row in house.splitlines()[2:]:
        names, built_on = (re.findall(r"`([\w/]+)`", row.split("|")[cell]) for cell in (1, 3))
        seen += names
        files = [package / f"{module}.py" for module in names if module != "cli/"]
        imports = re.findall(r"^ *from \.(.*)", "".join(map(Path.read_text, files)), re.MULTILINE)
        for module in built_on:
            assert re.search(rf"\b{module}\b", "\n".join(imports)), (names, module)
    assert sorted(seen) == sorted(["cli/", *(file.stem for file in package.glob("*.py"))])
    for file in package.rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 430, file


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: NAME.search(code)[2])
def test_a_python_block_runs(code, own):
    # The subprocess outlives its parent, as that recipe says: a ResourceWarning.
    options = ["-W", "error", "-W", "ignore::ResourceWarning"]
    done = run_python(own(code), options=options)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_fixture_runs(own, tmp_path):
    (code,) = (code for language, code in BLOCKS if language == "python conftest")
    files = {
        "pytest.ini": "[pytest]\n",
        "conftest.py": own(code),
        "test_browser.py": "from conftest import browsers\n"
        "def test_with(browser): assert browsers.value == 1\n"
        "def test_without(): assert browsers.value == 2\n",
    }
    for file, text in files.items():
        tmp_path.joinpath(file).write_text(text, encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = call([*words, str(tmp_path)])
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_line_runs(line, own, name, tmp_path):
    python = f"exec {shlex.quote(sys.executable)}"
    programs = {
        "python3": f'{python} "$@"',
        "named-semaphores": f'{python} -m named_semaphores "$@"',
        **dict.fromkeys(("make", "fetch-mail", "python"), "exit 0"),  # what run executes
    }
    for program, script in programs.items():
        tmp_path.joinpath(program).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        tmp_path.joinpath(program).chmod(0o755)
    slots = re.search(r"--slots (\d+)", line)
    sem = RobustSemaphore(f"{name}.{NAME.search(line)[2]}", int(slots[1]) if slots else 4)
    with sem:  # somebody whom holders shows
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        done = call(["sh", "-euc", own(line)], env={**ENVIRONMENT, "PATH": path})
    sem.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert ("echo" in line) == ("at most" in done.stdout)
    assert ("holders" in line) == (str(os.getpid()) in done.stdout)


def test_ci_finds_the_command_for_the_tests():
    assert [line for line in LINES if re.fullmatch(r"python3 -m venv \.venv && .*tox", line)]


@pytest.mark.refcounts
def test_programs_for_1_0_3_run(name):
    code = """
import sys
from named_semaphores import NamedSemaphore

name, Flags = sys.argv[1], NamedSemaphore.Flags
creator = NamedSemaphore(name, handle_existence=Flags.RAISE_IF_EXISTS)
user = NamedSemaphore(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
assert (creator.linked_existing_semaphore, user.linked_existing_semaphore) == (False, True)
del user
NamedSemaphore(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
del creator  # unlinks
try:
    NamedSemaphore(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
except FileNotFoundError:
    print("was unlinked")

sem = NamedSemaphore(name, unlink_on_delete=False)
del sem
sem = NamedSemaphore(name, unlink_on_delete=False)
assert sem.linked_existing_semaphore
sem.unlink()
for flag in Flags.RAISE_IF_EXISTS, Flags.LINK_OR_CREATE:
    sem = NamedSemaphore(name, handle_existence=flag)
try:  # the creator was deleted when its variable got the second object
    sem = NamedSemaphore(name, handle_existence=Flags.RAISE_IF_NOT_EXISTS)
except FileNotFoundError:
    print("was unlinked")
sem = NamedSemaphore(name, handle_existence=Flags.UNLINK_AND_CREATE)
"""
    done = run_python(code, name, options=["-W", "error"])
    assert (done.stdout, done.stderr) == ("was unlinked\n" * 2, "")
