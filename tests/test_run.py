# SPDX-License-Identifier: Apache-2.0
"""The command line's run, in real processes and terminals."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipapp

import pytest
import shell
from holders import users_of
from shell import ENVIRONMENT, PLACE, PROG, SECONDS, Terminal, call, status_of
from stress import runs
from support import NOBODY, PREFIX, PYPY, SLOW, Child, set_of, wait_for, why_always_the_same_user

from named_semaphores import NamedSemaphore, RobustSemaphore, _set, _sets, _sysv
from named_semaphores.cli import parser
from named_semaphores.cli import run as command
from named_semaphores.listing import list_robust

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


def begin(command):
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return Child(command, cwd="/", env=ENVIRONMENT, text=True, **streams)


def start(*words):
    return begin(line(*words))


def end(process):
    """Return all a process writes from now on, and its exit code."""
    return *process.communicate(timeout=SECONDS), process.returncode


def quick(capfd, *words):
    """Run in this process: only for what executes nothing. Return standard error and the code."""
    code = parser.main(["run", *words])
    out, err = capfd.readouterr()
    assert out == ""
    return err, code


@pytest.fixture(autouse=True)
def no_trace(monkeypatch):
    """Remove the sets that executed commands leave, and what run sets for a command."""
    monkeypatch.setenv(command.ANCESTORS, "")
    yield
    _sets.remove_idle([each.name for each in list_robust(idle_too=True) if PREFIX in each.name])


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
        assert (opened.value, users_of(opened)) == (1, 2)
        assert [tuple(holder) for holder in opened.holders] == [(process.pid, 1)]
        assert end(process) == ("", "", 7)
    assert (opened.value, users_of(opened)) == (2, 1)


def test_exit_code_and_words_are_the_commands(name):
    dashes = ["sh", "-c", 'test "$1" = -- && test "$2" = --slots', "sh", "--", "--slots"]
    for words, code in ((["--", "sh", "-c", "kill -9 $$"], -9), (dashes, 0)):
        result = run(name, *words)
        assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("x --slots 3 make --slots 9", {"--slots": 3, "COMMAND": ["make", "--slots", "9"]}),
        ("--slots=3 x --take=2 make", {"--slots": 3, "--take": 2}),
        ("--take 2 x --slots=3 -- -x", {"--slots": 3, "--take": 2, "COMMAND": ["-x"]}),
        ("-- x make", {}),
        ("x make", {}),
        ("-w 1.5 x -E 75 make", {"--timeout": 1.5, "--conflict-exit-code": 75}),
        ("x -w=.5 -E0 make", {"--timeout": 0.5, "--conflict-exit-code": 0}),
        ("x --timeout 2 --verbose make", {"--timeout": 2, "--verbose": True}),
        ("x --mode 660 --slot-env GPU make", {"--mode": 0o660, "--slot-env": "GPU"}),
    ],
)
def test_options_stand_on_both_sides_of_the_name(words, expected):
    usual = {"NAME": "/x", "COMMAND": ["make"]}
    assert parser.parse("run", words.split()) == {**usual, **expected}


def test_refused_numbers_change_nothing(opened):
    for words in ("--slots 1 --take 2 true", "--slots 33 --slot-env A true"):
        assert run(opened.name, *words.split()).returncode == 2
        assert opened.total == 2


def test_what_cannot_be_run(name, bare, capfd, tmp_path):
    text = tmp_path / "text"
    text.write_text("no program")
    for words, code, reason in (
        (["no-such-command"], 127, errno.ENOENT),
        ([str(text / "below")], 127, errno.ENOENT),
        ([str(text)], 126, errno.EACCES),
        ([str(tmp_path)], 126, errno.EACCES),
        (["/"], 126, errno.EACCES),
        (["true", "x" * 2**22], 126, errno.E2BIG),
    ):
        said = f"named-semaphores: {words[0]}: {os.strerror(reason)}\n"
        assert quick(capfd, bare, *words) == (said, code)
    err, code = quick(capfd, bare, "echo a; echo b")
    assert code == 127
    assert f"(for a shell: named-semaphores run {bare} sh -c 'echo a; echo b')" in err
    assert name not in [found.name for found in list_robust(idle_too=True)]


def test_the_command_is_searched_for_as_a_shell_does(name, tmp_path):
    """And a script without an interpreter line is the shell's."""
    for folder, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / folder).mkdir()
        for file, begin in (("script", ""), ("program", "#!/bin/sh\n")):
            (tmp_path / folder / file).write_text(begin + 'echo "$0 $1"; exit 3')
            (tmp_path / folder / file).chmod(mode)
    a, b, c, none = (f"{tmp_path}/{folder}" for folder in ("a", "b", "c", "none"))
    os.mkdir(c)
    shutil.copy(f"{b}/program", f"{c}/script")  # comes later, so it is not what runs
    for word, path, cwd, expected in (
        (f"{b}/script", none, "/", (f"{b}/script a b\n", 3)),
        ("script", f"{none}:{b}:{a}", "/", (f"{b}/script a b\n", 3)),
        ("program", f"{none}:{a}:{b}", "/", (f"{b}/program a b\n", 3)),
        ("script", f"{a}:{none}", "/", ("", 126)),
        ("script", f"{none}:", b, ("script a b\n", 3)),  # an empty entry is the current folder
        ("script", f"{b}:{c}", "/", (f"{b}/script a b\n", 3)),
    ):
        result = run(name, word, "a b", cwd=cwd, env={**ENVIRONMENT, "PATH": path})
        assert (result.stdout, result.returncode) == expected


# What the command finds


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

    with open(os.devnull) as file:  # GNU make's job server is a pipe that commands inherit
        options = {"pass_fds": [file.fileno()], "preexec_fn": prepare}
        expected = call(["ls", "/proc/self/fd"], **options).stdout
        assert run(name, "ls", "/proc/self/fd", **options).stdout == expected
        assert str(file.fileno()) in expected.split()
    words = ["cat", "/proc/self/status"]
    # Not SigQ, which counts the signals that wait for all of this user's processes.
    expected, found = (
        re.findall(r"^(?:Sig[BCIP]|Shd).*", each.stdout, re.MULTILINE)
        for each in (call(words, preexec_fn=prepare), run(name, *words, preexec_fn=prepare))
    )
    assert found == expected
    assert f"SigIgn:\t{sum(1 << signum - 1 for signum in ignored):016x}" in expected
    assert "SigBlk:\t0000000000004200" in expected


def test_the_command_finds_the_environment_as_it_was(name):
    environment = {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"], "LC_ALL": "C.UTF-8", "A": "\udcff"}
    result = run(name, "/usr/bin/env", env=environment, errors="surrogateescape")
    found = dict(entry.split("=", 1) for entry in result.stdout.splitlines())
    assert found.pop(command.ANCESTORS)
    assert found == environment


# Tokens


def test_a_semaphore_begins_anew_when_nobody_has_it_open(name):
    for slots in ("3", "5"):
        with start(name, "--slots", slots, *HOLD) as process:
            process.stdout.readline()
            assert [each.total for each in list_robust() if each.name == name] == [int(slots)]
            assert end(process)[1] == ""
    assert run(name, "--take", "2", "true").returncode == 2  # one token is the default


def test_the_number_named_last_holds(opened, bare):
    opened.acquire(n=2)
    result = run(bare, "--slots", "3", "true")
    said = f"{PROG}: semaphore '{bare}': now 3 tokens for all processes, before 2\n"
    assert (result.returncode, result.stderr, opened.total) == (0, said, 3)
    assert (run(bare, "true").stderr, opened.total) == ("", 3)
    result = run(bare, "--slots", "1", "--no-wait", "true")
    assert (result.returncode, opened.total, opened.value) == (1, 1, 0)
    opened.release(2)
    assert (run(bare, "--slots", "1", "true").returncode, opened.value) == (0, 1)


@pytest.mark.parametrize("timeout", [[], ["--timeout", "600"]], ids=str)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda opened: opened.resize(1),
            "n must be an int from 1 to 1, the number of tokens there are",
        ),
        (RobustSemaphore.unlink, ": No such file or directory (it was removed)"),
    ],
    ids=["too-small", "removed"],
)
def test_a_wait_ends_when_the_semaphore_is_made_too_small_or_removed(
    opened, bare, timeout, change, says
):
    opened.acquire(n=1)
    with start(bare, "--take", "2", *timeout, "echo", "it runs") as process:
        wait_for(lambda: opened.waiting == 1)
        change(opened)
        out, err, code = end(process)
    opened.release(1)
    assert (out, code, err.count("\n")) == ("", 2, 1)
    assert bare in err
    assert says in err


@pytest.mark.parametrize(
    ("words", "within", "expected"),
    [("--no-wait", "", 1), ("--timeout 0 -E 75", "", 75), ("-w 0.05", " within 0.05 s", 1)],
)
def test_no_token_in_time(opened, bare, capfd, words, within, expected):
    with opened.hold(2):
        err, code = quick(capfd, bare, *words.split(), "echo", "it runs")
    holder = f"{os.getpid()} (2 tokens)"
    said = f"named-semaphores: {bare}: 1 of 2 tokens were not free{within}; held by {holder}\n"
    assert (err, code) == (said, expected)
    assert (opened.value, users_of(opened)) == (2, 1)


@pytest.mark.parametrize(
    ("words", "n"),
    [("--verbose", 1), ("--timeout 600", 1), ("-w 1e300 --take 2", 2), ("--take 2", 2)],
)
def test_it_waits_for_its_tokens_also_after_it_was_stopped(opened, words, n):
    opened.acquire(n=2)
    with start(opened.name, *words.split(), *HOLD) as process:
        wait_for(lambda: opened.waiting == 1)
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: status_of(process.pid)[0] == "T")
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: status_of(process.pid)[0] != "T")
        wait_for(lambda: opened.waiting == 1)
        opened.release()  # of two it then waits for the other
        if n == 2:
            wait_for(lambda: opened.value == 0 and opened.waiting == 1)
            opened.release()
        process.stdout.readline()
        assert dict(opened.holders)[process.pid] == n
        assert end(process)[::2] == ("", 0)
    if n == 1:
        opened.release()
    assert opened.value == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_the_wait_and_costs_no_token(opened, signum):
    """Also the wait for the rest of several, which has one token and the turn."""
    opened.acquire(n=1)
    with start(opened.name, "--take", "2", "echo", "it runs") as process:
        wait_for(lambda: opened.waiting == 1)
        process.send_signal(signum)
        assert end(process) == ("", "", -signum)
    opened.release(1)
    assert (opened.value, users_of(opened)) == (2, 1)
    assert opened.acquire(False, n=2)
    opened.release(2)


def test_a_numbered_slot(opened, bare, capfd):
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
    with opened.slot():  # has number 0
        assert quick(capfd, bare, "--slot-env", "SLOT", "no-such-command")[1] == 127
    assert (os.environ.pop("SLOT"), opened.value) == ("1", 2)
    opened.resize(33)
    err, code = quick(capfd, bare, "--slot-env", "SLOT", "true")
    assert (code, "--slot-env has 32 numbers, fewer than the slots" in err) == (2, True)
    assert opened.value == 33
    opened.resize(1)
    opened.acquire()
    assert all(opened._set.operate(_set.take_number(number)) for number in range(32))
    with start(bare, "--slot-env", "SLOT", "true") as waiting:
        wait_for(lambda: opened.waiting == 1)
        opened.resize(33)  # and no number is free
        assert end(waiting)[2] == 2
    opened.release()


# Run inside run


ITSELF = "this run would wait for itself: it was started by a run that holds"


@pytest.mark.parametrize(
    ("total", "words", "code", "said"),
    [
        (1, "", 2, "1 of 1 tokens"),
        (1, "-n -E 9", 9, "1 of 1 tokens"),
        (1, "-w 0.01", 1, "1 of 1 tokens"),
        (2, "--take 2", 2, "1 of 2 tokens"),
    ],
)
def test_a_run_that_waits_for_its_own_ancestor_ends(
    name, bare, capfd, monkeypatch, total, words, code, said
):
    with contextlib.closing(RobustSemaphore(name, total)) as opened, opened:
        # This process stands in for the run that has executed it.
        monkeypatch.setenv(command.ANCESTORS, f"{set_of(name).id}:{os.getpid()}")
        said = f"named-semaphores: {bare}: {ITSELF} {said} until it ends\n"
        assert quick(capfd, bare, *words.split(), "echo", "a") == (said, code)


def nested(name, *inner):
    """Return a command that runs another run of the same name."""
    return ["sh", "-c", '"$@"; echo $?', "sh", *line(name, *inner)]


def test_a_run_knows_the_runs_that_started_it(bare):
    result = run(bare, *nested(bare, "echo", "a"))
    assert (result.stdout, ITSELF in result.stderr) == ("2\n", True)
    result = run(bare, *nested(bare, "--slots", "2", "echo", "a"))
    assert (result.stdout, ITSELF in result.stderr) == ("a\n0\n", False)
    result = run(bare, *line(bare, "true"))  # executes run in the same process
    assert (result.returncode, ITSELF in result.stderr) == (2, True)


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
    several, silent = (
        begin(shell.impatient("run", bare, *words, "true"))
        for words in (["--take", "2"], ["-w", "0.3"])
    )
    says = f"waiting for 1 of 2 tokens of {bare}; held by {os.getpid()} \\(2 tokens\\)"
    with Terminal(shell.impatient("run", bare, "echo", "it runs")) as terminal:
        with begin(shell.impatient("run", bare, "--verbose", "true")) as verbose:
            assert re.search(says, verbose.stderr.readline())
            terminal.read(says)
            assert end(silent)[1].count("\n") == 1  # that it got none
            opened.release(2)
            assert terminal.end() == 0
            assert end(verbose) == ("", "", 0)
    assert terminal.shown.count("waiting") == 1
    assert "it runs" in terminal.shown
    assert end(several) == ("", "", 0)


@pytest.mark.parametrize("user", [None, NOBODY])
def test_it_says_that_there_is_a_posix_semaphore_of_this_name(name, bare, capfd, user):
    if user and why_always_the_same_user():
        pytest.skip("one user only")
    says = f"{bare}: there is a POSIX semaphore of this name, too; run makes a robust one, and the"
    with contextlib.closing(NamedSemaphore(name, 4, unlink_on_delete=True)):
        if user:
            os.seteuid(user)
        try:
            err, _ = quick(capfd, bare, "no-such-command")
        finally:
            os.seteuid(os.getuid())
        assert (says in err, err.count("\n")) == (True, 2)
        with contextlib.closing(RobustSemaphore(name)):  # run makes none
            assert says not in quick(capfd, bare, "no-such-command")[0]


def test_help_is_for_the_other_module():
    for words in (["--help"], ["x", "-h"]):
        result = run(*words)
        assert (result.stdout.startswith("usage: "), result.returncode) == (True, 0)


def test_nobody_to_complain_to(monkeypatch):
    def hung_up(descriptor, data):
        raise OSError(errno.EIO, "hung up")

    monkeypatch.setattr(os, "write", hung_up)
    assert parser.main(["run"]) == 2


# Beside Python programs


def test_it_starts_without_what_takes_long(name):
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
    result = call([sys.executable, "-S", "-c", code, name])
    # PyPy's ctypes needs two of them.
    assert (result.stdout, result.stderr) == ("['enum', 're']\n" if PYPY else "[]\n", "")


def test_a_zipapp_hands_its_exit_code_on(name, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    package = tmp_path / "app" / "named_semaphores"
    shutil.copytree(PLACE / "named_semaphores", package, ignore=ignore)
    archive = tmp_path / "app.pyz"
    zipapp.create_archive(tmp_path / "app", archive, main="named_semaphores.__main__:main")
    for words, code in ((["run", name, "sh", "-c", "exit 3"], 3), (["value", name], 2)):
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
    script = 'for i in $(seq 6); do "$@" x.$i true || exit; done; cat /proc/sysvipc/sem | wc -l'
    result = in_a_namespace("32000 1024000000 500 32000", script)
    assert (result.returncode, result.stderr) == (0, "")
    assert 1 + 1 <= int(result.stdout) <= 1 + 2  # with a heading


@on_linux
def test_sets_that_nobody_has_open_give_way_to_new_ones():
    """Where the system's limit is reached."""
    code = "import os, sys; from named_semaphores import RobustSemaphore as R; "
    python = f"{sys.executable} -c '{code}s = R(sys.argv[1]); os._exit(0)'"
    script = f'for i in 1 2 3; do {python} /x.$i || exit; done; "$@" x.9 true'
    result = in_a_namespace("32000 1024000000 500 2", script)
    assert (result.returncode, result.stderr) == (0, "")


# Terminals and background processes around it


def is_free(name):
    return run(name, "--no-wait", "true").returncode == 0


@on_linux
def test_ctrl_c_ends_the_command_and_the_script_around_it(name):
    words = line(name, "sh", "-c", "echo begins; exec sleep 600")
    with Terminal(["sh", "-c", f"{shlex.join(words)}; echo goes on"]) as terminal:
        terminal.read("begins")
        assert not is_free(name)
        terminal.type("\x03")
        terminal.end()
    assert "goes on" not in terminal.shown
    assert is_free(name)


@on_linux
def test_a_stopped_command_keeps_its_token_and_goes_on(name):
    words = shlex.join(line(name, "sh", "-c", "echo begins; read it; exit 5"))
    with Terminal(["sh", "-m", "-c", f"{words}; echo stopped $?; fg; echo ended $?"]) as terminal:
        terminal.read("begins")
        terminal.type("\x1a")
        assert int(terminal.read(r"stopped (\d+)\s")[1]) == 128 + signal.SIGTSTP
        assert not is_free(name)
        terminal.type("it\n")
        assert terminal.read(r"ended (\d+)\s")[1] == "5"
        terminal.end()
    assert is_free(name)


@on_linux
def test_a_process_that_the_command_leaves_holds_nothing(name):
    result = run(name, "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    free = is_free(name)
    os.kill(int(result.stdout), signal.SIGKILL)
    assert (result.returncode, free) == (0, True)


# Storms


@on_linux
def test_a_storm_of_kills_costs_no_token(full):
    for seconds in (0.1, 1, 3):  # longer where processes start so slowly that no kill met one
        figures = runs.storm(2000 if full else 24, seconds)
        assert 0 < figures.inside <= runs.SLOTS
        assert (figures.failed, figures.left) == (0, [])
        if any(figures.killed.values()):
            break
    assert sum(figures.killed.values()) > (100 if full else 0)
    assert not full or min(figures.killed.values()) > 10


@on_linux
def test_the_storm_notices_who_is_inside_too_many():
    def unlimited(name):
        return []

    # Longer where processes start slowly.
    assert any(runs.storm(12, seconds, unlimited).inside > runs.SLOTS for seconds in (0.3, 5, 20))
