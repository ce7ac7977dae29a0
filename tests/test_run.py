# SPDX-License-Identifier: Apache-2.0
"""The command line's run, in real processes and terminals."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest
import shell
from shell import ENVIRONMENT, PROG, SECONDS, Terminal, call, status_of
from stress import runs
from support import (
    NOBODY,
    PREFIX,
    PYPY,
    SLOW,
    Child,
    unique_name,
    wait_for,
    why_always_the_same_user,
)

import named_semaphores
from named_semaphores import NamedSemaphore, RobustSemaphore, _opening, _sets, _sysv
from named_semaphores.cli import run as command
from named_semaphores.cli import take

try:
    _sysv.system()
except NotImplementedError as error:
    pytest.skip(str(error), allow_module_level=True)

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
HOLD = ["sh", "-c", "echo; read it; exit 0"]  # tells that it runs, and ends with its input


def line(*words):
    return shell.line("run", *words)


def run(*words, **options):
    return call(line(*words), **options)


def start(*words):
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return Child(line(*words), cwd="/", env=ENVIRONMENT, text=True, **streams)


def end(process):
    """Return all a process writes from now on, and its exit code."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return out, err, process.returncode


def quick(capfd, *words):
    """Run in this process: only for what executes nothing. Return standard error and the code."""
    code = command.run(list(words))
    out, err = capfd.readouterr()
    assert out == ""
    return err, code


def listed():
    return [each for each in _sets.listed() if each.name is not None]


def users(name):
    """Return how many processes have the semaphore open."""
    return next((each.users for each in listed() if each.name == name), 0)


@pytest.fixture(autouse=True)
def no_idle_set():
    """Remove the sets that executed commands leave."""
    yield
    _sets.remove_idle([each.name for each in listed() if PREFIX in each.name])


@pytest.fixture
def opened(name):
    """Yield a robust semaphore of two tokens, open in this process."""
    with contextlib.closing(RobustSemaphore(name, 2)) as opened:
        yield opened


@pytest.fixture
def bare(name):
    """The name as a user types it."""
    return name[1:]


# The command


def test_the_command_is_this_very_process_and_holds_a_token(opened):
    with start(opened.name, "sh", "-c", "echo $$; read it; exit 7") as process:
        assert int(process.stdout.readline()) == process.pid
        assert (opened.value, users(opened.name)) == (1, 2)
        assert [tuple(holder) for holder in opened.holders] == [(process.pid, 1)]
        assert end(process) == ("", "", 7)
    assert (opened.value, users(opened.name)) == (2, 1)


def test_exit_code_and_words_are_the_commands(name):
    dashes = ["sh", "-c", 'test "$1" = -- && test "$2" = --slots', "sh", "--", "--slots"]
    for words, code in ((["true"], 0), (["--", "sh", "-c", "kill -9 $$"], -9), (dashes, 0)):
        result = run(name, *words)
        assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(words, expected, id=words)
        for words, expected in (
            ("--slots 3 x make --slots 9", {"slots": 3, "command": ["make", "--slots", "9"]}),
            ("x --slots 3 make --slots 9", {"slots": 3, "command": ["make", "--slots", "9"]}),
            ("--slots=3 x --take=2 make", {"slots": 3, "take": 2}),
            ("--take 2 x --slots=3 -- -x", {"slots": 3, "take": 2, "command": ["-x"]}),
            ("x make", {"slots": None, "take": 1, "timeout": None, "no_wait": False}),
            ("x -n make", {"no_wait": True}),
            ("x -w 1.5 -E 75 make", {"timeout": 1.5, "conflict_exit_code": 75}),
            ("x -w.5 -E0 make", {"timeout": 0.5, "conflict_exit_code": 0}),
            ("x --timeout 2 --conflict-exit-code 255 --verbose make", {"verbose": True}),
            ("x --mode 660 --slot-env GPU make", {"mode": 0o660, "slot_env": "GPU"}),
        )
    ],
)
def test_options_stand_on_both_sides_of_the_name(words, expected):
    options = command._parse(words.split())
    assert {key: getattr(options, key) for key in expected} == expected
    assert options.name == "x"
    assert options.command[0] in ("make", "-x")


def test_what_cannot_be_run(name, bare, tmp_path):
    text = tmp_path / "text"
    text.write_text("no program")
    for word, code, reason in (
        ("no-such-command", 127, errno.ENOENT),
        ("", 127, errno.ENOENT),
        (str(text / "below"), 127, errno.ENOTDIR),
        (str(text), 126, errno.EACCES),
        (str(tmp_path), 126, errno.EACCES),
    ):
        result, said = run(bare, word), f"{PROG}: {word}: {os.strerror(reason)}\n"
        assert (result.returncode, result.stderr) == (code, said)
    result = run(bare, "echo a; echo b")
    assert result.returncode == 127
    assert f"(for a shell: {PROG} run {bare} sh -c 'echo a; echo b')" in result.stderr
    assert name not in [found.name for found in listed()]


@pytest.mark.parametrize("by", ["path", "PATH"])
def test_a_script_without_an_interpreter_line_is_the_shells(name, tmp_path, by):
    script = tmp_path / "script"
    script.write_text('echo "$0 $1"; exit 3\n')
    script.chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = run(name, str(script) if by == "path" else "script", "a b", env=environment)
    assert (result.stdout, result.stderr, result.returncode) == (f"{script} a b\n", "", 3)


def test_the_search_goes_on_past_what_may_not_be_executed(name, tmp_path):
    for folder, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "script").write_text("echo found\n")
        (tmp_path / folder / "script").chmod(mode)
    a, b, none = (f"{tmp_path}/{folder}" for folder in ("a", "b", "none"))
    for path, cwd, expected in (
        (f"{none}:{a}:{b}", "/", ("found\n", 0)),
        (f"{a}:{none}", "/", ("", 126)),
        ("", b, ("found\n", 0)),  # an empty entry is the current folder
        (f":{b}", str(tmp_path), ("found\n", 0)),
        (f"{none}:", b, ("found\n", 0)),
    ):
        result = run(name, "script", cwd=cwd, env={**ENVIRONMENT, "PATH": path})
        assert (result.stdout, result.returncode) == expected


@pytest.fixture
def cannot_execute(request, monkeypatch):
    """Let execv fail, with EACCES or the given errno."""
    number = getattr(request, "param", errno.EACCES)

    def refuse(program, arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "execv", refuse)
    monkeypatch.setenv(command.ANCESTORS, "")
    return number


@pytest.mark.parametrize("cannot_execute", [errno.EACCES, errno.E2BIG], indirect=True)
def test_where_the_system_refuses(bare, capfd, cannot_execute):
    """EACCES: a folder of the PATH that cannot be searched. E2BIG: too many words."""
    code, number = {errno.EACCES: (127, errno.ENOENT)}.get(cannot_execute, (126, cannot_execute))
    said = f"named-semaphores: no-such-command: {os.strerror(number)}\n"
    assert quick(capfd, bare, "no-such-command") == (said, code)
    with contextlib.closing(RobustSemaphore(bare, 2)) as opened, opened.slot():
        assert quick(capfd, bare, "--slot-env", "SLOT", "no-such-command") == (said, code)
    assert os.environ.pop("SLOT") == "1"


# What the command finds


def test_the_command_gets_the_descriptors(name):
    # GNU make's job server is a pipe.
    reading, writing = os.pipe()
    code = f"import os; os.write({writing}, b'told')"
    result = run(name, sys.executable, "-c", code, pass_fds=[writing])
    os.close(writing)
    with open(reading) as pipe:
        assert (result.returncode, pipe.read()) == (0, "told")


@on_linux
@pytest.mark.skipif(SLOW > 1, reason="qemu forgets what is ignored at exec")
def test_the_command_finds_signals_and_descriptors_as_they_were(name):
    # As nohup, a background job, and a parent without wait ignore them. PyPy replaces SIGINT's
    # setting without a look at it.
    ignored = [signal.SIGHUP, signal.SIGCHLD, *([] if PYPY else [signal.SIGINT])]

    def prepare():
        for signum in ignored:
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1, signal.SIGTERM})

    for words in (["cat", "/proc/self/status"], ["ls", "/proc/self/fd"]):
        expected, found = (
            # SigQ counts the signals that wait for all of this user's processes
            [
                line
                for line in result.stdout.splitlines()
                if words[0] == "ls" or line.startswith(("SigB", "SigC", "SigI", "SigP", "Shd"))
            ]
            for result in (
                call(words, preexec_fn=prepare),
                run(name, *words, preexec_fn=prepare),
            )
        )
        assert found == expected
        if words[0] == "cat":
            assert f"SigIgn:\t{sum(1 << signum - 1 for signum in ignored):016x}" in expected
            assert "SigBlk:\t0000000000004200" in expected


def test_the_command_finds_the_environment_as_it_was(name):
    environment = {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"], "LC_ALL": "C.UTF-8", "A": "\udcff"}
    result = run(name, "/usr/bin/env", env=environment, errors="surrogateescape")
    found = dict(entry.split("=", 1) for entry in result.stdout.splitlines())
    assert found.pop(command.ANCESTORS)
    assert found == environment


# Tokens


def test_no_more_than_the_slots_run_at_once(name, tmp_path):
    count = 'touch "$1/$$"; ls "$1" | wc -l; sleep 0.1; rm "$1/$$"'
    words = [name, "--slots", "3", "sh", "-c", count, "sh", str(tmp_path)]
    ended = [end(process) for process in [start(*words) for _ in range(8)]]
    assert {(err, code) for _, err, code in ended} == {("", 0)}
    assert 1 <= max(int(out) for out, _, _ in ended) <= 3


def test_a_semaphore_begins_anew_when_nobody_has_it_open(name):
    for slots in ("3", "5"):
        with start(name, "--slots", slots, *HOLD) as process:
            process.stdout.readline()
            assert [each.total for each in listed() if each.name == name] == [int(slots)]
            assert end(process)[1] == ""
    assert run(name, "--take", "2", "true").returncode == 2  # one token is the default


def test_the_number_named_last_holds(opened, bare):
    opened.acquire(n=2)
    result = run(bare, "--slots", "3", "true")
    said = f"{PROG}: {bare}: now 3 slots for all processes, before 2\n"
    assert (result.returncode, result.stderr, opened.total) == (0, said, 3)
    assert (run(bare, "true").stderr, opened.total) == ("", 3)
    result = run(bare, "--slots", "1", "--no-wait", "true")
    assert (result.returncode, opened.total, opened.value) == (1, 1, 0)
    opened.release(2)
    assert (run(bare, "--slots", "1", "true").returncode, opened.value) == (0, 1)


def test_several_tokens_are_taken_at_once(opened):
    opened.acquire()
    assert run(opened.name, "--take", "2", "--no-wait", "true").returncode == 1
    with start(opened.name, "--take", "2", *HOLD) as process:
        wait_for(lambda: opened.waiting == 1)
        opened.release()
        process.stdout.readline()
        assert (opened.value, opened.holders) == (0, [(process.pid, 2)])
        end(process)
    assert opened.value == 2


@pytest.mark.parametrize("timeout", [[], ["--timeout", "600"]], ids=str)
def test_a_wait_for_more_than_a_resize_left_ends(opened, bare, timeout):
    opened.acquire(n=1)
    with start(bare, "--take", "2", *timeout, "echo", "it runs") as process:
        wait_for(lambda: opened.waiting == 1)
        opened.resize(1)
        out, err, code = end(process)
    assert (out, code) == ("", 2)
    assert f"--take 2 is too many: semaphore '{bare}'" in err
    opened.release(1)


def test_a_wait_that_a_resize_ended_too_early_begins_anew(bare, capfd, monkeypatch, cannot_execute):
    takes = iter([False, False, True])
    monkeypatch.setattr(take, "take", lambda *arguments: next(takes))
    assert quick(capfd, bare, "no-such-command")[1] == 127


@pytest.mark.parametrize("conflict", [[], ["-E", "75"]], ids=str)
@pytest.mark.parametrize(
    ("wait", "within"),
    [(["--no-wait"], ""), (["--timeout", "0"], ""), (["-w0.05"], " within 0.05 s")],
    ids=str,
)
def test_no_token_in_time(opened, bare, capfd, wait, within, conflict):
    opened.acquire(n=2)
    err, code = quick(capfd, bare, *wait, *conflict, "echo", "it runs")
    holder = f"{os.getpid()} (2 tokens)"
    said = f"named-semaphores: {bare}: none of 2 tokens was free{within}; held by {holder}\n"
    assert (err, code) == (said, 75 if conflict else 1)
    opened.release(2)
    assert (opened.value, users(opened.name)) == (2, 1)


@pytest.mark.parametrize(
    "wait", [[], ["--verbose"], ["--timeout", "600"], ["-w1e300"], ["-w", "inf"]], ids=str
)
def test_it_waits_for_a_token_also_after_it_was_stopped(opened, wait):
    opened.acquire(n=2)
    with start(opened.name, *wait, "echo", "it runs") as process:
        wait_for(lambda: opened.waiting == 1)
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: status_of(process.pid)[0] == "T")
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: status_of(process.pid)[0] != "T")
        wait_for(lambda: opened.waiting == 1)
        opened.release(1)
        assert end(process)[::2] == ("it runs\n", 0)
    opened.release(1)
    assert opened.value == 2


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL]
)
def test_a_signal_ends_the_wait_and_costs_no_token(opened, signum):
    """Also the wait for the rest of several, which has one token and the turn."""
    opened.acquire(n=1)
    with start(opened.name, "--take", "2", "echo", "it runs") as process:
        wait_for(lambda: opened.waiting == 1)
        process.send_signal(signum)
        assert end(process) == ("", "", -signum)
    opened.release(1)
    assert (opened.value, users(opened.name)) == (2, 1)
    assert opened.acquire(False, n=2)
    opened.release(2)


def test_a_wait_for_what_is_removed_ends(name, bare):
    opened = RobustSemaphore(name, 1)
    opened.acquire(n=1)
    with start(bare, "echo", "it runs") as process:
        wait_for(lambda: opened.waiting == 1)
        opened.unlink()
        out, err, code = end(process)
    assert (out, code) == ("", 2)
    assert err.startswith(f"{PROG}: {bare}: ")
    assert "removed" in err
    assert err.count("\n") == 1
    opened.close()


@pytest.mark.parametrize("timeout", [[], ["--timeout", "600"]], ids=str)
def test_those_who_wait_are_served_in_turn(opened, timeout):
    opened.acquire(n=2)
    waiting = []
    for _ in range(3):
        waiting.append(start(opened.name, *timeout, *HOLD))
        wait_for(lambda: opened.waiting == len(waiting))
    for process in waiting[:2]:
        opened.release(1)
        assert process.stdout.readline() == "\n"
        assert opened.waiting == len(waiting) - waiting.index(process) - 1
    for process in waiting:
        assert end(process)[2] == 0
    assert opened.value == 2


def test_a_numbered_slot(opened, bare):
    """The lowest number that no other has."""
    words = [bare, "--slot-env", "SLOT", "sh", "-c", "echo $SLOT; read it"]
    with start(*words) as first:
        assert first.stdout.readline() == "0\n"
        second = start(*words)
        assert second.stdout.readline() == "1\n"
        assert run(bare, "-n", "--slot-env", "SLOT", "true").returncode == 1
        with start(*words) as third:
            wait_for(lambda: opened.waiting == 1)
            first.kill()
            assert third.stdout.readline() == "0\n"
            end(third)
        end(second)
    result = run(bare, "--slots", "33", "--slot-env", "SLOT", "true")
    assert (result.returncode, result.stderr.count("\n")) == (2, 2)  # and that it has resized
    assert opened.value == 33


# Run inside run


def nested(name, *inner):
    """Return a command that runs another run of the same name."""
    return ["sh", "-c", '"$@"; echo $?', "sh", *line(name, *inner)]


def test_a_run_that_waits_for_its_own_ancestor_ends(name, bare):
    itself = f"{PROG}: {bare}: this run would wait for itself: it was started by a run that holds "
    for outer, inner, out, said in (
        ([], ["echo", "a"], "2\n", "the only token"),
        ([], ["-n", "-E", "9", "echo", "a"], "9\n", "the only token"),
        ([], ["-w", "0.01", "echo", "a"], "1\n", "the only token"),
        (["--slots", "2"], ["--take", "2", "echo", "a"], "2\n", "1 of 2 tokens"),
        (["--slots", "2"], ["echo", "a"], "a\n0\n", None),
        ([], ["--slots", "2", "echo", "a"], "a\n0\n", ""),
    ):
        result = run(bare, *outer, *nested(bare, *inner))
        assert result.stdout == out
        assert result.stderr.startswith(itself + said if said else "")
        assert result.stderr.count("\n") == (said is not None)
    result = run(bare, *line(bare, "true"))  # executes run in the same process
    assert (result.returncode, result.stderr.startswith(itself)) == (2, True)


def test_a_run_waits_for_what_its_ancestor_does_not_hold(opened, bare):
    opened.acquire(n=1)
    with start(bare, *nested(bare, "echo", "a")) as process:
        wait_for(lambda: opened.waiting == 1)
        opened.release(1)
        assert end(process) == ("a\n0\n", "", 0)


# What it says


def test_it_says_on_a_terminal_that_it_waits_and_who_holds(opened, bare):
    """And nothing elsewhere, but with --verbose."""
    opened.acquire(n=2)
    several, silent = start(bare, "--take", "2", "true"), start(bare, "-w", "1.2", "true")
    wait_for(lambda: opened.waiting == 2)
    says = f"waiting for 1 of 2 tokens of {bare} \\(\\d others? waits?\\); "
    says += f"held by {os.getpid()} \\(2 tokens\\)"
    with Terminal(line(bare, "echo", "it runs")) as terminal:
        with start(bare, "--verbose", "true") as verbose:
            assert re.search(says, verbose.stderr.readline())
            terminal.read(says)
            assert end(silent)[1].count("\n") == 1  # that it got none
            opened.release(2)
            assert terminal.end() == 0
            assert end(verbose) == ("", "", 0)
    assert terminal.shown.count("waiting") == 1
    assert "it runs" in terminal.shown
    assert end(several) == ("", "", 0)


def test_it_says_that_there_is_a_posix_semaphore_of_this_name(name, bare):
    posix = NamedSemaphore(name, 4, unlink_on_delete=True)
    result = run(bare, "true")
    said = f"{PROG}: {bare}: there is a POSIX semaphore of this name, too; run makes a robust one"
    assert (result.returncode, result.stderr.count("\n")) == (0, 1)
    assert result.stderr.startswith(said)
    with contextlib.closing(RobustSemaphore(name)):
        assert run(bare, "true").stderr == ""  # it makes none
    posix.close()


@on_linux
@pytest.mark.skipif(why_always_the_same_user() is not None, reason="one user only")
def test_it_says_so_of_another_users_posix_semaphore(bare, capfd, cannot_execute):
    with contextlib.closing(NamedSemaphore(bare, unlink_on_delete=True)):
        os.seteuid(NOBODY)
        try:
            err, _ = quick(capfd, bare, "true")
        finally:
            os.seteuid(0)
    assert "a POSIX semaphore of this name, too" in err


def test_help_is_for_the_other_module(capfd):
    assert [quick(capfd, *words) for words in (["--help"], ["x", "-h"])] == [("", None)] * 2
    assert run("x", "--help").stdout.startswith("usage: ")


def test_a_system_without_such_semaphores(capfd, monkeypatch):
    def refuse(*arguments, **options):
        raise NotImplementedError("there are none")

    monkeypatch.setattr(_opening, "open_set", refuse)
    said = "named-semaphores: run needs System V semaphores: there are none\n"
    assert quick(capfd, "x", "true") == (said, 2)


def test_a_python_without_ctypes(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "named_semaphores._opening", None)
    monkeypatch.delattr(named_semaphores, "_opening")
    err, code = quick(capfd, "x", "true")
    assert (code, "run needs ctypes" in err) == (2, True)


def test_nobody_to_complain_to(capfd, monkeypatch):
    def hung_up(descriptor, data):
        raise OSError(errno.EIO, "hung up")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert quick(capfd) == ("", 2)
    monkeypatch.setattr(os, "write", hung_up)
    assert command.run([]) == 2


# Beside Python programs


HOLDS = """
import sys
from named_semaphores import RobustSemaphore
with RobustSemaphore(sys.argv[1], 2):
    print(flush=True)
    sys.stdin.read()
"""


def python(name):
    """Start a Python program that takes a token and holds it until its input ends."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return Child([sys.executable, "-c", HOLDS, name], env=ENVIRONMENT, **streams)


@pytest.mark.parametrize("end_by", ["exit", "kill"])
def test_one_limit_for_python_and_run(opened, end_by):
    """Each holds one token, which returns when its holder ends or is killed."""

    def finish(process):
        process.kill() if end_by == "kill" else process.stdin.close()
        process.wait(SECONDS)

    name = opened.name
    with python(name) as first, start(name, *HOLD) as second:
        first.stdout.readline()
        second.stdout.readline()
        assert opened.value == 0
        with start(name, *HOLD) as third, python(name) as fourth:
            wait_for(lambda: opened.waiting == 2)
            finish(first)
            finish(second)
            third.stdout.readline()
            fourth.stdout.readline()
            assert opened.value == 0
            finish(third)
            finish(fourth)
    wait_for(lambda: (opened.value, users(opened.name)) == (2, 1))


def test_it_starts_without_what_takes_long():
    code = """
import os, sys
before = set(sys.modules)
sys.argv[1:] = ["run", sys.argv[1], "true"]
slow = {"argparse", "enum", "re", "shutil", "signal", "subprocess", "typing", "asyncio"}
def tell(*arguments):
    print(sorted(slow & set(sys.modules)), flush=True)
    os._exit(0)
os.execv = tell
from named_semaphores.__main__ import main
main()
"""
    result = call([sys.executable, "-S", "-c", code, unique_name()])
    # PyPy's ctypes needs two of them.
    assert (result.stdout, result.stderr) == ("['enum', 're']\n" if PYPY else "[]\n", "")


def test_a_zipapp_hands_its_exit_code_on(name, tmp_path):
    shutil.copytree(
        Path(named_semaphores.__file__).parent,
        tmp_path / "app" / "named_semaphores",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    archive = tmp_path / "app.pyz"
    zipapp.create_archive(tmp_path / "app", archive, main="named_semaphores.__main__:main")
    for words, code in (
        (["run", name, "sh", "-c", "exit 3"], 3),
        (["run", name], 2),
        (["value", name], 2),
        (["--version"], 0),
    ):
        result = call([sys.executable, str(archive), *words], env=os.environ)
        assert result.returncode == code
        assert "Traceback" not in result.stderr


def in_a_namespace(numbers, script):
    """Run the shell script in an IPC namespace of its own, with these limits of semaphores."""
    if not shutil.which("unshare") or call(["unshare", "--ipc", "true"]).returncode:
        pytest.skip("this machine lacks IPC namespaces")
    script = f"echo {numbers} >/proc/sys/kernel/sem; {script}"
    return call(["unshare", "--ipc", "sh", "-c", script, "sh", *line()])


@on_linux
def test_run_removes_what_earlier_runs_left():
    script = 'for i in $(seq 12); do "$@" x.$i true || exit; done; cat /proc/sysvipc/sem | wc -l'
    result = in_a_namespace("32000 1024000000 500 32000", script)
    assert (result.returncode, result.stderr) == (0, "")
    assert 1 + 1 <= int(result.stdout) <= 1 + 2  # with a heading


@on_linux
def test_sets_that_nobody_has_open_give_way_to_new_ones():
    """Where the system's limit is reached."""
    code = "import os, sys; from named_semaphores import RobustSemaphore as R; "
    python = f"{sys.executable} -c '{code}s = R(sys.argv[1]); os._exit(0)'"
    script = f'for i in 1 2 3 4; do {python} /x.$i || exit; done; "$@" x.9 true'
    result = in_a_namespace("32000 1024000000 500 3", script)
    assert (result.returncode, result.stderr) == (0, "")


# Storms


@on_linux
def test_a_storm_of_kills_costs_no_token(full):
    for seconds in (0.15, 1, 3):  # longer where processes start so slowly that no kill met one
        figures = runs.storm(2000 if full else 80, seconds)
        assert 0 < figures.inside <= runs.SLOTS
        assert (figures.failed, figures.left) == (0, "")
        if any(figures.killed.values()):
            break
    assert sum(figures.killed.values()) > (100 if full else 0)
    assert not full or min(figures.killed.values()) > 10


@on_linux
def test_the_storm_notices_who_is_inside_too_many():
    def unlimited(name):
        return []

    # Longer where processes start slowly.
    assert any(runs.storm(40, seconds, unlimited).inside > runs.SLOTS for seconds in (0.5, 5, 20))
