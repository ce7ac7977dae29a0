# SPDX-License-Identifier: Apache-2.0
"""The command line's run, in real processes and terminals."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import zipapp
from pathlib import Path

import pytest
from stress import runs, terminals
from stress.terminals import ENVIRONMENT, SECONDS, Terminal
from support import PREFIX, PYPY, SLOW, Child, unique_name, wait_for

import named_semaphores
from named_semaphores import _run, _sysv

try:
    SYSTEM = _sysv.system()
except NotImplementedError as error:
    pytest.skip(str(error), allow_module_level=True)

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
HOLD = ["sh", "-c", "echo; read it; exit 0"]  # tells that it runs, and ends with its input


def line(*words):
    return [sys.executable, "-m", "named_semaphores", "run", *words]


def run(*words, **options):
    return subprocess.run(
        line(*words),
        **{
            "capture_output": True,
            "text": True,
            "timeout": SECONDS,
            "check": False,
            "cwd": "/",
            "env": ENVIRONMENT,
            **options,
        },
    )


def start(*words, **options):
    streams = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    return Child(line(*words), **{"cwd": "/", "env": ENVIRONMENT, **streams, **options})


def end(process):
    """Return all a process writes from now on, and its exit code."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return out, err, process.returncode


@pytest.fixture(autouse=True)
def no_idle_set():
    """Remove the sets that executed commands leave."""
    yield
    _sysv.remove_idle_sets([found for found in _sysv.idle_sets() if PREFIX in found])


@pytest.fixture
def opened(name):
    """Yield a robust semaphore of two tokens, open in this process."""
    opened = SYSTEM.open(name, 2)
    yield opened
    opened.leave()


def take(opened, n=1):
    assert SYSTEM.operate(opened.id, _sysv.take(n, _sysv.NOWAIT))


def give(opened, n=1):
    SYSTEM.operate(opened.id, _sysv.give(n))


# The command


def test_the_command_is_this_very_process_and_holds_a_token(opened):
    with start(opened.name, "sh", "-c", "echo $$; read it; exit 7") as process:
        assert int(process.stdout.readline()) == process.pid
        assert (opened.value(), opened.users()) == (1, 2)
        assert end(process) == ("", "", 7)
    assert (opened.value(), opened.users()) == (2, 1)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        pytest.param(["true"], 0, id="nothing"),
        pytest.param(["sh", "-c", "kill -9 $$"], -9, id="killed"),
        pytest.param(
            ["sh", "-c", 'test "$1" = -- && test "$2" = --slots', "sh", "--", "--slots"],
            0,
            id="dashes",
        ),
    ],
)
def test_exit_code_and_words_are_the_commands(name, command, code):
    for separator in ([], ["--"]):
        result = run(name, *separator, *command)
        assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_options_stand_on_both_sides_of_the_name(name):
    for words in (
        ["--slots", "3", name],
        [name, "--slots", "3"],
        ["--slots=3", name, "--take=2"],
        ["--take", "2", name, "--slots=3", "--"],
    ):
        options = _run._parse([*words, "make", "--slots", "9"])
        assert (options.name, options.slots, options.command) == (name, 3, ["make", "--slots", "9"])


def test_all_options(name):
    options = _run._parse(
        [name, "--timeout", "1.5", "--conflict-exit-code", "75", "--verbose", "--", "-x"]
    )
    assert (options.timeout, options.conflict_exit_code, options.verbose, options.command) == (
        1.5,
        75,
        True,
        ["-x"],
    )
    assert (options.slots, options.take, options.no_wait) == (None, 1, False)


def test_what_cannot_be_run(name, tmp_path):
    text, nonsense = tmp_path / "text", tmp_path / "nonsense"
    text.write_text("no program")
    nonsense.write_bytes(b"\0\0\0\0")
    nonsense.chmod(0o755)
    for command, code, reason in (
        ("no-such-command", 127, errno.ENOENT),
        ("", 127, errno.ENOENT),
        (str(text / "below"), 127, errno.ENOTDIR),
        (str(text), 126, errno.EACCES),
        (str(tmp_path), 126, errno.EACCES),
        (str(nonsense), 126, errno.ENOEXEC),
    ):
        result = run(name, command)
        assert result.returncode == code
        assert (
            result.stderr
            == f"{os.path.basename(sys.executable)} -m named_semaphores: {command}: {os.strerror(reason)}\n"
        )
    assert name not in [found.name for found in _sysv.list_sets()]


@pytest.mark.parametrize("by", ["path", "PATH"])
def test_a_script_without_an_interpreter_line_is_the_shells(name, tmp_path, by):
    script = tmp_path / "script"
    script.write_text('echo "$0 $1"; exit 3\n')
    script.chmod(0o755)
    result = run(
        name,
        str(script) if by == "path" else "script",
        "a b",
        env={**ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert (result.stdout, result.stderr, result.returncode) == (f"{script} a b\n", "", 3)


def test_the_search_goes_on_past_what_may_not_be_executed(name, tmp_path):
    for folder, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "script").write_text("echo found\n")
        (tmp_path / folder / "script").chmod(mode)
    result = run(
        name, "script", env={**ENVIRONMENT, "PATH": f"{tmp_path}/none:{tmp_path}/a:{tmp_path}/b"}
    )
    assert (result.stdout, result.returncode) == ("found\n", 0)
    result = run(name, "script", env={**ENVIRONMENT, "PATH": f"{tmp_path}/a:{tmp_path}/none"})
    assert result.returncode == 126
    for path, folder in (
        ("", "b"),
        (f":{tmp_path}/b", "a/.."),
        (f"{tmp_path}/none:", "b"),
    ):  # an empty entry is the current folder
        result = run(name, "script", cwd=tmp_path / folder, env={**ENVIRONMENT, "PATH": path})
        assert (result.stdout, result.returncode) == ("found\n", 0)


def test_a_folder_of_the_path_that_cannot_be_searched(capfd, monkeypatch):
    def refuse(program, arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "execv", refuse)
    assert _run._execute(["no-such-command"]) == 127
    assert (
        capfd.readouterr().err
        == f"named-semaphores: no-such-command: {os.strerror(errno.ENOENT)}\n"
    )


def test_a_file_that_may_be_executed_but_not_read_is_the_shells(tmp_path):
    assert _run._is_text(str(tmp_path / "none"))


def test_a_command_line_that_is_too_long(capfd, monkeypatch):
    def refuse(program, arguments):
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))

    monkeypatch.setattr(os, "execv", refuse)
    assert _run._execute(["true", "x"]) == 126
    assert capfd.readouterr().err == f"named-semaphores: true: {os.strerror(errno.E2BIG)}\n"


# What the command finds


def test_the_command_gets_the_descriptors(name):
    # GNU make's job server is a pipe.
    reading, writing = os.pipe()
    result = run(
        name, sys.executable, "-c", f"import os; os.write({writing}, b'told')", pass_fds=[writing]
    )
    os.close(writing)
    with open(reading) as pipe:
        assert (result.returncode, pipe.read()) == (0, "told")


@on_linux
@pytest.mark.skipif(SLOW > 1, reason="qemu forgets what is ignored at exec")
def test_the_command_finds_signals_and_descriptors_as_they_were(name):
    ignored = [
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGCHLD,
    ]  # as nohup, a background job, and a parent without wait do
    if PYPY:  # it replaces SIGINT's setting without a look at it
        ignored.remove(signal.SIGINT)

    def prepare():
        for signum in ignored:
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1, signal.SIGTERM})

    options = {
        "preexec_fn": prepare,
        "capture_output": True,
        "text": True,
        "check": True,
        "timeout": SECONDS,
    }
    for command in (["cat", "/proc/self/status"], ["ls", "/proc/self/fd"]):
        expected, found = (
            # SigQ counts the signals that wait for all of this user's processes
            [
                line
                for line in text.splitlines()
                if command[0] == "ls" or line.startswith(("SigB", "SigC", "SigI", "SigP", "Shd"))
            ]
            for text in (
                subprocess.run(command, **options).stdout,
                run(name, *command, **options).stdout,
            )
        )
        assert found == expected
        if command[0] == "cat":
            assert f"SigIgn:\t{sum(1 << signum - 1 for signum in ignored):016x}" in expected
            assert "SigBlk:\t0000000000004200" in expected


@on_linux
@pytest.mark.parametrize(
    "locale", [{}, {"LC_CTYPE": "POSIX"}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C"}], ids=str
)
def test_the_command_finds_the_environment_as_it_was(name, locale):
    environment = {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"], **locale}
    result = run(name, "/usr/bin/env", env=environment)
    assert dict(entry.split("=", 1) for entry in result.stdout.splitlines()) == environment


@pytest.mark.parametrize(
    ("entries", "after"),
    [([b"A=b"], None), ([b"LC_CTYPE=POSIX", b""], "POSIX"), (None, "C.UTF-8")],
    ids=["none", "POSIX", "unknown"],
)
def test_the_locale_before_python_changed_it(monkeypatch, tmp_path, entries, after):
    if entries is not None:
        (tmp_path / "environ").write_bytes(b"\0".join(entries))
    monkeypatch.setenv("LC_CTYPE", "C.UTF-8")
    monkeypatch.setattr(
        _run, "open", lambda path, mode: open(tmp_path / "environ", mode), raising=False
    )
    _run._restore_locale()
    assert os.environ.get("LC_CTYPE") == after


# Tokens


def test_no_more_than_the_slots_run_at_once(name, tmp_path):
    count = 'touch "$1/$$"; ls "$1" | wc -l; sleep 0.1; rm "$1/$$"'
    started = [
        start(name, "--slots", "3", "sh", "-c", count, "sh", str(tmp_path)) for _ in range(8)
    ]
    inside = []
    for process in started:
        out, err, code = end(process)
        assert (err, code) == ("", 0)
        inside.append(int(out))
    assert 1 <= max(inside) <= 3


def test_a_semaphore_begins_anew_when_nobody_has_it_open(name):
    for slots in ("3", "5"):
        with start(name, "--slots", slots, *HOLD) as process:
            process.stdout.readline()
            assert [found.total for found in _sysv.list_sets() if found.name == name] == [
                int(slots)
            ]
            end(process)
    assert run(name, "--take", "2", "true").returncode == 2  # one token is the default


def test_another_number_of_slots_is_an_error(opened):
    result = run(opened.name, "--slots", "3", "true")
    assert result.returncode == 2
    assert f"{opened.name!r} was created with 2 tokens, not with 3" in result.stderr
    assert result.stderr.count("\n") == 1
    assert run(opened.name, "--slots", "2", "true").returncode == 0
    assert run(opened.name, "true").returncode == 0


def test_several_tokens_are_taken_at_once(opened):
    with start(opened.name, "--take", "2", *HOLD) as process:
        process.stdout.readline()
        assert opened.value() == 0
        end(process)
    assert opened.value() == 2
    take(opened)
    assert run(opened.name, "--take", "2", "--no-wait", "true").returncode == 1
    give(opened)
    result = run(opened.name, "--take", "3", "true")
    assert (result.returncode, "--take 3 is more than" in result.stderr, opened.value()) == (
        2,
        True,
        2,
    )


@pytest.mark.parametrize("timeout", [[], ["--timeout", "600"]], ids=str)
def test_a_wait_for_more_than_a_resize_left_ends(opened, timeout):
    take(opened)
    with start(opened.name, "--take", "2", *timeout, "echo", "it runs") as process:
        wait_for(lambda: opened.waiting() == 1)
        assert opened.resize(1)
        out, err, code = end(process)
    assert (out, code) == ("", 2)
    assert f"--take 2 is more than {opened.name} has, 1" in err
    give(opened)


@pytest.mark.parametrize("conflict", [[], ["--conflict-exit-code", "75"]], ids=str)
@pytest.mark.parametrize(
    ("wait", "within"),
    [(["--no-wait"], ""), (["--timeout", "0"], ""), (["--timeout", "0.05"], " within 0.05 s")],
    ids=str,
)
def test_no_token_in_time(opened, wait, within, conflict):
    take(opened, 2)
    result = run(opened.name, *wait, *conflict, "echo", "it runs")
    assert (result.returncode, result.stdout) == (75 if conflict else 1, "")
    assert result.stderr.endswith(
        f"named_semaphores: {opened.name}: 1 of 2 tokens was not free{within}\n"
    )
    assert result.stderr.count("\n") == 1
    give(opened, 2)
    assert (opened.value(), opened.users()) == (2, 1)


@pytest.mark.parametrize(
    "timeout", [[], ["--timeout", "600"], ["--timeout", "1e300"], ["--timeout", "inf"]], ids=str
)
def test_it_waits_for_a_token_also_after_it_was_stopped(opened, timeout):
    take(opened, 2)
    with start(opened.name, *timeout, "echo", "it runs") as process:
        wait_for(lambda: opened.waiting() == 1)
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: terminals.status_of(process.pid)[0] == "T")
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: terminals.status_of(process.pid)[0] != "T")
        wait_for(lambda: opened.waiting() == 1)
        give(opened)
        assert end(process) == ("it runs\n", "", 0)
    give(opened)
    assert opened.value() == 2


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL]
)
def test_a_signal_ends_the_wait_and_costs_no_token(opened, signum):
    take(opened, 2)
    with start(opened.name, "echo", "it runs") as process:
        wait_for(lambda: opened.waiting() == 1)
        process.send_signal(signum)
        assert end(process) == ("", "", -signum)
    give(opened, 2)
    assert (opened.value(), opened.users()) == (2, 1)


def test_a_wait_for_what_is_removed_ends(name):
    opened = SYSTEM.open(name, 1)
    take(opened)
    with start(name, "echo", "it runs") as process:
        wait_for(lambda: opened.waiting() == 1)
        opened.remove()
        out, err, code = end(process)
    assert (out, code) == ("", 2)
    assert f"named_semaphores: {name}: " in err
    assert "removed" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("timeout", [[], ["--timeout", "600"]], ids=str)
def test_those_who_wait_are_served_in_turn(opened, timeout):
    """Also after a second, when a wait in slices would join the queue anew."""
    take(opened, 2)
    waiting = []
    for number in range(3):
        waiting.append(start(opened.name, *timeout, *(["--verbose"] if not number else []), *HOLD))
        wait_for(lambda: opened.waiting() == len(waiting))
    assert "waiting" in waiting[0].stderr.readline()
    for process in waiting[:2]:
        give(opened)
        assert process.stdout.readline() == "\n"
        assert opened.waiting() == len(waiting) - waiting.index(process) - 1
    for process in waiting:
        assert end(process)[2] == 0
    assert opened.value() == 2


# What it says


def test_it_says_on_a_terminal_that_it_waits(opened):
    take(opened, 2)
    other = start(opened.name, "--take", "2", "true")
    wait_for(lambda: opened.waiting() == 1)
    with Terminal(line(opened.name, "echo", "it runs")) as terminal:
        terminal.read("waiting for 1 of 2 tokens of .*1 other waits")
        give(opened, 2)
        assert terminal.end() == 0
    assert terminal.shown.count("waiting") == 1
    assert "it runs" in terminal.shown
    assert end(other) == ("", "", 0)


def test_it_says_nothing_of_a_short_wait_or_elsewhere(opened):
    take(opened, 2)
    begin = time.monotonic()
    with start(opened.name, "--verbose", "true") as short:
        wait_for(lambda: opened.waiting() == 1)
        give(opened)
        out, err, code = end(short)
    assert (out, code) == ("", 0)
    assert err == "" or time.monotonic() - begin > 1  # else it was not short
    take(opened)
    assert "waiting" not in run(opened.name, "--timeout", "1.3", "true").stderr
    give(opened, 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(words, says, id=words)
        for words, says in (
            ("", "a name and a command: named-semaphores run NAME [--slots N] COMMAND..."),
            ("--slots 2", "a name and a command"),
            ("-- true", "a name and a command"),
            ("NAME", "a command: named-semaphores run NAME [--slots N] COMMAND..."),
            ("NAME --", "a command"),
            ("NAME --slot 2 true", "no option --slot"),
            ("NAME -x true", "no option -x"),
            ("NAME --verbose=1 true", "no option --verbose=1"),
            ("NAME --slots", "--slots needs a value"),
            ("NAME --slots 0 true", "run NAME: --slots: '0' is not a number from 1 to 32767"),
            ("NAME --slots -1 true", "--slots: '-1' is not a number from 1"),
            ("NAME --slots=32768 true", "--slots: '32768' is not"),
            ("NAME --slots 99999999999999999999 true", "--slots: '99999999999999999999' is not"),
            ("NAME --slots many true", "--slots: 'many' is not"),
            ("NAME --take 0 true", "--take: '0' is not"),
            ("NAME --slots 2 --take 3 true", "--take 3 is more than --slots 2"),
            ("NAME --timeout nan true", "--timeout: 'nan' is not a number of seconds from 0"),
            ("NAME --timeout -1 true", "--timeout: '-1' is not"),
            ("NAME --timeout 1 --no-wait true", "either --timeout or --no-wait"),
            (
                "NAME --conflict-exit-code 256 true",
                "--conflict-exit-code: '256' is not an exit code",
            ),
            ("a/b true", "'a/b' has '/'"),
            ("EMPTY NAME true", "a semaphore's name must not be empty: ''"),
        )
    ],
)
def test_an_error_is_one_line_that_says_what_to_type(name, capfd, monkeypatch, words, says):
    monkeypatch.setattr(os, "execv", lambda *arguments: os._exit(99))
    assert (
        _run.run([word.replace("NAME", name).replace("EMPTY", "") for word in words.split()]) == 2
    )
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("named-semaphores: ")
    assert says.replace("run NAME", f"run {name}" if "NAME" in words else "run NAME") in err
    assert err.count("\n") == 1


def test_help_is_for_the_other_module():
    assert _run.run(["--help"]) is None
    assert _run.run(["x", "-h"]) is None
    result = run("x", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: ")


def test_a_system_without_such_semaphores(capfd, monkeypatch):
    def refuse():
        raise NotImplementedError("use NamedSemaphore")

    monkeypatch.setattr(_sysv, "system", refuse)
    assert _run.run(["x", "true"]) == 2
    assert (
        capfd.readouterr().err
        == f"named-semaphores: run needs System V semaphores, which this system ({sys.platform}) does not have\n"
    )


def test_a_python_without_ctypes(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "named_semaphores._sysv", None)
    monkeypatch.delattr(named_semaphores, "_sysv")
    assert _run.run(["x", "true"]) == 2
    assert "run needs ctypes" in capfd.readouterr().err


def test_nobody_to_complain_to(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert _run.run([]) == 2

    def hung_up(descriptor, data):
        raise OSError(errno.EIO, "hung up")

    monkeypatch.undo()
    monkeypatch.setattr(os, "write", hung_up)
    assert _run.run([]) == 2


def test_no_room_for_a_thread(opened, monkeypatch):
    import _thread

    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    _run._tell_later(opened, 1, 2)


def test_what_the_thread_says(name, capfd, monkeypatch):
    monkeypatch.setattr(_run, "_SILENCE", 0)
    opened = SYSTEM.open(name, 2)
    _run._tell(opened, 1, 2)  # nobody waits
    take(opened, 2)
    with start(name, "true") as other:
        wait_for(lambda: opened.waiting() == 1)
        _run._tell(opened, 2, 2)
        opened.remove()
        assert end(other)[2] == 2
    _run._tell(opened, 1, 2)  # it is removed
    assert capfd.readouterr().err == f"named-semaphores: waiting for 2 of 2 tokens of {name}\n"


# Surroundings


@on_linux
@pytest.mark.parametrize("scenario", terminals.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_what_happens(scenario):
    lacks = terminals.missing(scenario)
    if lacks:
        pytest.skip(f"this machine lacks {lacks}")
    subject = terminals.Run()
    assert scenario(subject) == terminals.SCENARIOS[scenario]


HOLDS = """
import sys
from named_semaphores import RobustSemaphore
with RobustSemaphore(sys.argv[1], 2):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end_by", ["exit", "kill"])
def test_one_limit_for_python_and_run(name, end_by):
    """A Python program and run hold one token each; each token returns when its holder ends or is killed."""

    def finish(process):
        process.kill() if end_by == "kill" else process.stdin.close()
        process.wait(SECONDS)

    with Child(
        [sys.executable, "-c", HOLDS, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    ) as python:
        python.stdout.readline()
        with start(name, *HOLD) as first:
            first.stdout.readline()
            assert run(name, "--slots", "2", "--no-wait", "true").returncode == 1
            with start(name, "--slots", "2", *HOLD) as second:
                other = SYSTEM.open(name, 2)
                wait_for(lambda: other.waiting() == 1)
                finish(python)  # run gets the Python program's token
                second.stdout.readline()
                assert other.value() == 0
                finish(first)
                assert other.value() == 1
                take(other)
                with Child(
                    [sys.executable, "-c", HOLDS, name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=ENVIRONMENT,
                    text=True,
                ) as next_python:
                    wait_for(lambda: other.waiting() == 1)
                    finish(second)  # the Python program gets run's token
                    next_python.stdout.readline()
                    finish(next_python)
                give(other)
            assert (other.value(), other.users()) == (2, 1)
            other.leave()


def test_it_starts_without_what_takes_long():
    code = """
import os, sys
sys.argv[1:] = ["run", sys.argv[1], "true"]
def tell(*arguments):
    print([name for name in ("argparse", "enum", "re", "shutil", "signal", "subprocess", "typing") if name in sys.modules], flush=True)
    os._exit(0)
os.execv = tell
from named_semaphores.__main__ import main
main()
"""
    result = subprocess.run(
        [sys.executable, "-S", "-c", code, unique_name()],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=SECONDS,
    )
    # PyPy's ctypes needs two of them.
    assert (result.stdout, result.stderr) == ("['enum', 're']\n" if PYPY else "[]\n", "")


def test_a_zipapp_hands_its_exit_code_on(name, tmp_path):
    shutil.copytree(
        Path(named_semaphores.__file__).parent,
        tmp_path / "app" / "named_semaphores",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    zipapp.create_archive(
        tmp_path / "app", tmp_path / "app.pyz", main="named_semaphores.__main__:main"
    )
    for words, code in (
        (["run", name, "sh", "-c", "exit 3"], 3),
        (["run", name], 2),
        (["value", name], 2),
        (["--version"], 0),
    ):
        result = subprocess.run(
            [sys.executable, str(tmp_path / "app.pyz"), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert result.returncode == code
        assert "Traceback" not in result.stderr


@on_linux
def test_sets_that_nobody_has_open_give_way_to_new_ones():
    """Each run leaves an idle set, and the system limits the number of sets."""
    code = 'echo 32000 1024000000 500 3 >/proc/sys/kernel/sem && for i in 1 2 3 4 5 6 7; do "$@" run x.$i true || exit; done'
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "--ipc", "true"], stderr=subprocess.DEVNULL, check=False
        ).returncode
    ):
        pytest.skip("this machine lacks IPC namespaces")
    result = subprocess.run(
        ["unshare", "--ipc", "sh", "-c", code, "sh", *line()[:-1]],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=SECONDS,
    )
    assert (result.returncode, result.stderr) == (0, "")


# Storms


@on_linux
def test_a_storm_of_kills_costs_no_token(full):
    for seconds in (0.15, 1, 3):  # longer where processes start so slowly that no kill met one
        figures = runs.storm(runs.Ours(), 2000 if full else 80, seconds)
        assert 0 < figures.inside <= runs.SLOTS
        assert (figures.back, figures.failed, figures.commands_left, figures.left) == (
            f"{runs.SLOTS} of {runs.SLOTS}",
            0,
            0,
            "",
        )
        if any(figures.killed.values()):
            break
    assert sum(figures.killed.values()) > (100 if full else 0)
    assert not full or min(figures.killed.values()) > 10


@on_linux
def test_the_storm_notices_who_is_inside_too_many():
    class Unlimited(runs.Ours):
        def line(self, *command):
            return list(command)

    # Longer where processes start slowly.
    assert any(runs.storm(Unlimited(), 40, seconds).inside > runs.SLOTS for seconds in (0.5, 5, 20))
