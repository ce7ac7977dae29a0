# SPDX-License-Identifier: Apache-2.0
"""The command line, as its users call it: in processes of its own, and in terminals."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import PREFIX, SLOW, wait_for

import named_semaphores
from named_semaphores import NamedSemaphore, _cli, _opening, listing

PLACE = Path(named_semaphores.__file__).resolve().parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PLACE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
SECONDS = 60 * SLOW
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells")
with_glibc = pytest.mark.skipif(not (sys.platform.startswith("linux") and _cli._system_libc().is_glibc), reason="glibc's files")

# A command that tells what signals it gets, and ends at SIGTERM.
TELLS = """
import os, signal, sys, time
count = {}
def tell(*words):  # print cannot be interrupted by a handler that prints
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def got(signum, frame):
    count[signum] = count.get(signum, 0) + 1
    tell("got", signal.Signals(signum).name, count[signum])
for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(signum, got)
def end(signum, frame):
    tell("INT", count.get(signal.SIGINT, 0))
    sys.exit(9)
signal.signal(signal.SIGTERM, end)
tell("ready")
while True:  # signal.pause() would miss one that comes just before it
    time.sleep(0.01)
"""
# As on a system that does not tell who sent a signal.
SYSTEMS = {
    "linux": ["-m", "named_semaphores"],
    "others": ["-c", "from named_semaphores import _cli, _run; _run._sigwaitinfo = None; raise SystemExit(_cli.main())"],
}


def line(*arguments, system="linux"):
    return [sys.executable, *SYSTEMS[system], *arguments]


def cli(*arguments, **options):
    return subprocess.run(
        line(*arguments),
        **{"capture_output": True, "text": True, "timeout": SECONDS, "check": False, "cwd": "/", "env": ENVIRONMENT, **options},
    )


def start(*arguments, system="linux", **options):
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line(*arguments, system=system), **{"cwd": "/", "env": ENVIRONMENT, **streams, **options})


def end(process):
    """Return all a process writes from now on, and its exit code."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return out, err, process.returncode


class Terminal:
    """A command that has a terminal of its own, in the foreground of it."""

    def __init__(self, command):
        self.master, slave = os.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def __enter__(self):
        return self

    def type(self, keys):
        os.write(self.master, keys.encode())

    def read(self, text):
        """Return once the terminal shows the text."""
        while text not in self.shown:
            assert self._read(), f"ended without {text!r}: {self.shown!r}"

    def _read(self):
        try:
            data = os.read(self.master, 1000)
        except OSError:  # Linux's way to say that nobody has the terminal open any more
            return False
        self.shown += data.decode()
        return data

    def end(self):
        while self._read():
            pass
        return self.process.wait(SECONDS)

    def hang_up(self):
        os.close(self.master)
        self.master = None

    def __exit__(self, *exception):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.master is not None:
            os.close(self.master)


@pytest.fixture
def sem(name):
    """Yield a semaphore with one token, which the test's end removes."""
    with_name = NamedSemaphore(name, 1, unlink_on_delete=True)
    yield with_name
    with_name.close()


@pytest.fixture
def new(name):
    """Yield a name that the test's end removes."""
    yield name
    try:
        _opening.unlink(_cli._system_libc(), name)
    except FileNotFoundError:
        pass


def tokens(name):
    return NamedSemaphore(name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS, unlink_on_delete=False).value


# run


def test_run_creates_the_semaphore_and_leaves_it(new):
    inside = [sys.executable, "-m", "named_semaphores", "value", new]
    result = cli("run", new, "--slots", "3", "--", *inside)
    assert (result.returncode, result.stdout, result.stderr) == (0, "2\n", "")
    assert tokens(new) == 3
    result = cli("run", new, "--slots", "5", "--", *inside)
    assert result.stdout == "2\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        pytest.param(["sh", "-c", "exit 7"], 7, id="code"),
        pytest.param(["sh", "-c", "kill -9 $$"], 128 + 9, id="signal"),
        pytest.param(["sh", "-c", "kill -INT $$"], 128 + 2, id="interrupt-of-its-own"),
        pytest.param(["sh", "-c", 'test "$1" = -- && test "$2" = --slots', "sh", "--", "--slots"], 0, id="dashes"),
    ],
)
def test_run_hands_on_the_exit_code(sem, command, code):
    result = cli("run", sem.name, "--", *command)
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "")
    assert sem.value == 1


def test_the_version():
    result = cli("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"named-semaphores {named_semaphores.__version__}\n", "")


def test_run_says_what_cannot_be_run(sem, tmp_path):
    text, nonsense = tmp_path / "text", tmp_path / "nonsense"
    text.write_text("no program")
    nonsense.write_bytes(b"\0\0\0\0")
    nonsense.chmod(0o755)
    for command, code, reason in (
        ("no-such-command", 127, errno.ENOENT),
        (str(text / "below"), 127, errno.ENOTDIR),
        (str(text), 126, errno.EACCES),
        (str(tmp_path), 126, errno.EACCES),
        (str(nonsense), 126, errno.ENOEXEC),
    ):
        result = cli("run", sem.name, "--", command)
        assert result.returncode == code
        assert result.stderr.endswith(f" -m named_semaphores: {command}: {os.strerror(reason)}\n")
        assert result.stderr.count("\n") == 1
    assert sem.value == 1


def test_a_folder_of_the_path_that_cannot_be_read(sem, capsys, monkeypatch):
    def refuse(program, arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "execvp", refuse)
    _, err, code = quick(capsys, "run", sem.name, "--", "no-such-command")
    assert (err, code) == (f"named-semaphores: no-such-command: {os.strerror(errno.ENOENT)}\n", 127)


def test_run_gives_up_in_time(sem):
    sem.acquire()
    for wait in (["--no-wait"], ["--timeout", "0"], ["--timeout", "0.05"]):
        for conflict, code in (([], 1), (["--conflict-exit-code", "75"], 75)):
            result = cli("run", sem.name, *wait, *conflict, "--", "echo", "it runs")
            assert (result.returncode, result.stdout, result.stderr) == (code, "", "")
    sem.release()
    assert sem.value == 1


def test_run_waits_for_a_token_and_says_so_on_a_terminal(sem):
    sem.acquire()
    with Terminal(line("run", sem.name, "--", "echo", "it runs")) as terminal:
        terminal.read(f"waiting for a token of {sem.name}")
        sem.release()
        assert terminal.end() == 0
    assert terminal.shown.count("waiting") == 1
    assert "it runs" in terminal.shown
    assert sem.value == 1


def test_run_lets_no_more_than_the_slots_run_at_once(new, tmp_path):
    count = 'touch "$1/$$"; ls "$1" | wc -l; sleep 0.1; rm "$1/$$"'
    started = [start("run", new, "--slots", "3", "--", "sh", "-c", count, "sh", str(tmp_path)) for _ in range(8)]
    inside = []
    for process in started:
        out, err, code = end(process)
        assert (err, code) == ("", 0)
        inside.append(int(out))
    assert 1 <= max(inside) <= 3
    assert tokens(new) == 3


def test_run_hands_on_descriptors(sem):
    # GNU make's job server is a pipe.
    reading, writing = os.pipe()
    result = cli("run", sem.name, "--", sys.executable, "-c", f"import os; os.write({writing}, b'told')", pass_fds=[writing])
    os.close(writing)
    with open(reading) as pipe:
        assert (result.returncode, pipe.read()) == (0, "told")


@pytest.mark.parametrize("subcommand", ["run", "acquire"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_the_wait_and_costs_no_token(sem, subcommand, signum):
    sem.acquire()
    command = [subcommand, sem.name, *(["--", "echo", "it runs"] if subcommand == "run" else [])]
    with Terminal(line(*command)) as terminal:
        terminal.read("waiting")
        if signum == signal.SIGINT:
            terminal.type("\x03")
        else:
            terminal.process.send_signal(signum)
        assert terminal.end() == -signum
    assert "it runs" not in terminal.shown
    assert "Traceback" not in terminal.shown
    sem.release()
    assert sem.value == 1


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV])
def test_a_signal_to_run_reaches_the_command(sem, system, signum):
    with start("run", sem.name, "--", "sh", "-c", "echo ready; exec sleep 600", system=system) as process:
        assert process.stdout.readline() == "ready\n"
        assert sem.value == 0
        process.send_signal(signum)
        assert end(process) == ("", "", 128 + signum)
    assert sem.value == 1


def test_the_command_may_live_on_after_a_signal(sem):
    with start("run", sem.name, "--", sys.executable, "-c", TELLS) as process:
        assert process.stdout.readline() == "ready\n"
        for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            process.send_signal(signum)
            assert process.stdout.readline() == f"got {signum.name} 1\n"
        assert sem.value == 0
        process.send_signal(signal.SIGTERM)
        assert end(process) == ("INT 1\n", "", 9)
    assert sem.value == 1


@pytest.mark.parametrize("system", SYSTEMS)
def test_ctrl_c_reaches_the_command_once(sem, system):
    with Terminal(line("run", sem.name, "--", sys.executable, "-c", TELLS, system=system)) as terminal:
        terminal.read("ready")
        terminal.type("\x03")
        terminal.read("got SIGINT 1")
        terminal.process.send_signal(signal.SIGTERM)  # run receives it after SIGINT
        assert terminal.end() == 9
    assert "INT 1\r\n" in terminal.shown
    assert sem.value == 1


@pytest.mark.parametrize("system", SYSTEMS)
def test_ctrl_c_ends_the_command_and_the_shell_around_it(sem, system):
    run = shlex.join(line("run", sem.name, "--", "sh", "-c", "echo ready; exec cat", system=system))
    with Terminal(["sh", "-c", f"{run}; echo goes on"]) as terminal:
        terminal.read("ready")
        assert sem.value == 0
        terminal.type("\x03")
        assert terminal.end() != 0
    assert "goes on" not in terminal.shown
    assert "Traceback" not in terminal.shown
    assert sem.value == 1


def test_ctrl_c_is_not_for_a_command_in_another_group(sem):
    code = "import os, time; os.setpgid(0, 0); print('ready', flush=True)\nwhile True: time.sleep(0.01)"
    with Terminal(line("run", sem.name, "--", sys.executable, "-c", code)) as terminal:
        terminal.read("ready")
        terminal.type("\x03")  # it would not get it from the terminal
        assert terminal.end() == -signal.SIGINT
    assert sem.value == 1


@on_linux
def test_what_the_command_sends_to_its_group_is_not_doubled(sem):
    code = TELLS.replace('tell("ready")', 'os.kill(0, signal.SIGUSR1); tell("sent")')
    with start("run", sem.name, "--", sys.executable, "-c", code, start_new_session=True) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["got SIGUSR1 1\n", "sent\n"]
        process.send_signal(signal.SIGTERM)  # run receives it after SIGUSR1
        assert end(process) == ("INT 0\n", "", 9)
    assert sem.value == 1


def test_ctrl_z_stops_run_and_its_command(sem):
    run = shlex.join(line("run", sem.name, "--", "sh", "-c", "echo ready; read it; exit 5"))
    with Terminal(["sh", "-m", "-c", f"{run}; echo stopped $?; fg; echo ended $?"]) as terminal:
        terminal.read("ready")
        terminal.type("\x1a")
        terminal.read(f"stopped {128 + signal.SIGTSTP}")
        assert sem.value == 0
        terminal.type("it\n")
        terminal.read("ended 5")
        assert terminal.end() == 0
    assert sem.value == 1


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_terminal_hangs_up(sem, tmp_path, system):
    told = tmp_path / "told"
    command = f"trap 'echo hung up >{shlex.quote(str(told))}; exit 6' HUP; echo ready; while :; do sleep 0.05; done"
    with Terminal(line("run", sem.name, "--", "sh", "-c", command, system=system)) as terminal:
        terminal.read("ready")
        terminal.hang_up()
        assert terminal.process.wait(SECONDS) == 6
    assert told.read_text() == "hung up\n"
    assert sem.value == 1


def test_what_was_ignored_stays_so(sem):
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a job in the background of a shell's script
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # and a parent that never waits for its children

    command = [
        "sh",
        "-c",
        f"{'kill -HUP $$; kill -INT $$;' if SLOW == 1 else ''} echo ready; read it; exit 4",
    ]  # qemu forgets what is ignored at exec
    with start("run", sem.name, "--", *command, preexec_fn=ignore) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        process.stdin.write("it\n")
        assert end(process) == ("", "", 4)
    assert sem.value == 1


def test_a_stopped_command_is_still_running(sem):
    with start("run", sem.name, "--", "sh", "-c", "echo $$; kill -STOP $$; exit 3") as process:
        pid = int(process.stdout.readline())
        if sys.platform.startswith("linux"):
            wait_for(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text())
        assert sem.value == 0
        os.kill(pid, signal.SIGCONT)
        assert end(process) == ("", "", 3)
    assert sem.value == 1


def test_a_signal_before_the_command_starts_puts_the_token_back(sem):
    from named_semaphores import _run

    with _run.Signals() as signals:
        stoppable = _cli._linked(_run.Stoppable, sem.name)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: signals.noted)
        assert not _run.take(stoppable, signals, None, print)
        assert signals.noted == [signal.SIGTERM]
    assert sem.value == 1


def test_a_signal_before_the_wait_makes_it_needless(sem, monkeypatch):
    from named_semaphores import _run

    def interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: signals.noted)

    sem.acquire()
    with _run.Signals() as signals:
        stoppable = _cli._linked(_run.Stoppable, sem.name)
        stoppable._waits = map(pytest.fail, ["it waited"])
        monkeypatch.setattr("named_semaphores.core.waits", lambda *arguments: pytest.fail("it waited"))
        assert not _run.take(stoppable, signals, None, interrupt)
    sem.release()


def test_a_signal_during_the_wait_ends_it(sem):
    from named_semaphores import _run

    sem.acquire()
    sent = []
    with _run.Signals() as signals:
        stoppable = _cli._linked(_run.Stoppable, sem.name)
        kill = ["sh", "-c", f"sleep 0.1; kill -TERM {os.getpid()}"]
        assert not _run.take(stoppable, signals, None, lambda: sent.append(subprocess.Popen(kill)))
        assert signals.noted == [signal.SIGTERM]
    assert sent[0].wait() == 0
    sem.release()
    assert sem.value == 1


def test_the_foreground_where_the_terminal_has_hung_up(monkeypatch):
    from named_semaphores import _run

    def refuse(file):
        raise OSError(errno.EIO, "hung up")

    opened = os.open(os.devnull, os.O_RDONLY)
    monkeypatch.setattr(os, "open", lambda *arguments: opened)
    monkeypatch.setattr(os, "tcgetpgrp", refuse)
    assert not _run._is_in_foreground()


def test_a_command_that_has_just_ended_needs_no_signal(monkeypatch):
    from named_semaphores import _run

    def refuse(pid):
        raise ProcessLookupError

    monkeypatch.setattr(os, "getpgid", refuse)
    assert _run._has_got_it(1, True, 0)


# The others


def test_create_value_acquire_release_unlink(new):
    for arguments, code, out in (
        (["create", new, "--value", "2"], 0, ""),
        (["value", new], 0, "2\n"),
        (["acquire", new], 0, ""),
        (["acquire", new[1:], "--timeout", "5"], 0, ""),
        (["value", new], 0, "0\n"),
        (["acquire", new, "--no-wait"], 1, ""),
        (["acquire", new, "--timeout", "0.01"], 1, ""),
        (["release", new], 0, ""),
        (["release", new, "-n", "2"], 0, ""),
        (["value", new], 0, "3\n"),
        (["unlink", new], 0, ""),
    ):
        result = cli(*arguments)
        assert (result.returncode, result.stdout, result.stderr) == (code, out, "")
    with pytest.raises(FileNotFoundError):
        tokens(new)


def quick(capsys, *arguments):
    """Run the command line in this process, where nothing hangs on signals."""
    code = _cli.main(arguments)
    out, err = capsys.readouterr()
    return out, err, code


@pytest.fixture
def free_umask():
    umask = os.umask(0o077)
    yield
    os.umask(umask)


@with_glibc
@pytest.mark.parametrize(("given", "mode"), [([], 0o600), (["--mode", "0660"], 0o660)])
def test_create_sets_the_mode(new, capsys, free_umask, given, mode):
    assert quick(capsys, "create", new, "--value", "2", *given) == ("", "", 0)
    assert os.stat("/dev/shm/sem." + new[1:]).st_mode & 0o777 == mode


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(arguments.split(), id=arguments)
        for arguments in (
            "",
            "nonsense",
            "value",
            "value MISSING",
            "value a/b",
            "acquire MISSING",
            "acquire EXISTS --timeout nan",
            "acquire EXISTS --timeout -1",
            "acquire EXISTS --timeout 1 --no-wait",
            "acquire EXISTS --time 1",
            "release MISSING",
            "release EXISTS -n 0",
            "release EXISTS -n 2147483647",
            "create EXISTS --value 1",
            "create MISSING",
            "create MISSING --value -1",
            "create MISSING --value 99999999999",
            "create MISSING --value 1 --mode 0999",
            "create MISSING --value 1 --mode 1777",
            "run MISSING",
            "run MISSING true",
            "run MISSING --",
            "run MISSING true -- true",
            "run MISSING --slots 0 -- true",
            "run MISSING --slots 99999999999 -- true",
            "run MISSING --conflict-exit-code 256 -- true",
            "run a/b -- true",
            "unlink",
            "unlink MISSING",
            "unlink a/b",
            "unlink EXISTS --unused",
            "unlink --unused",
        )
    ],
)
def test_an_error_is_one_line_and_exit_code_2(sem, capsys, monkeypatch, arguments):
    monkeypatch.setattr(sys, "stdin", None)
    replaced = {"EXISTS": sem.name, "MISSING": sem.name + ".no"}
    out, err, code = quick(capsys, *(replaced.get(argument, argument) for argument in arguments))
    assert (out, code) == ("", 2)
    assert err.startswith("named-semaphores")
    assert err.count("\n") == 1
    assert sem.value == 1


def test_an_error_names_the_semaphore_and_says_what_helps(capsys):
    _, err, _ = quick(capsys, "value", PREFIX)
    assert err == f"named-semaphores: /{PREFIX}: {os.strerror(errno.ENOENT)} (there is no semaphore of this name)\n"


def test_a_semaphore_that_cannot_be_opened_is_no_missing_command(sem, capsys, monkeypatch):
    def refuse(self, *arguments, **options):
        raise OSError(errno.EOVERFLOW, "full", self.name)

    monkeypatch.setattr(NamedSemaphore, "acquire", refuse)
    assert quick(capsys, "run", sem.name, "--", "true") == ("", f"named-semaphores: {sem.name}: full\n", 2)


def test_a_system_without_semaphores(capsys, monkeypatch):
    def refuse():
        raise NotImplementedError("this system has none")

    monkeypatch.setattr(_cli, "_system_libc", refuse)
    assert quick(capsys, "value", "x") == ("", "named-semaphores: this system has none\n", 2)


def test_an_interrupt_ends_it_as_it_does_any_program(capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    sent = []
    monkeypatch.setattr(_cli, "_system_libc", interrupt)
    monkeypatch.setattr(signal, "signal", lambda signum, handler: sent.append(handler))
    monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append(signum))
    assert quick(capsys, "value", "x") == ("", "", -signal.SIGINT)
    assert sent == [signal.SIG_DFL, signal.SIGINT]


def test_nobody_to_complain_to(monkeypatch):
    class HungUp:
        def write(self, text):
            raise OSError(errno.EIO, "hung up")

    for stderr in (None, HungUp()):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert _cli.main(["value", PREFIX]) == 2


def test_importing_the_main_module_does_nothing():
    __import__("named_semaphores.__main__")


def test_unlink_goes_on_after_a_failure(new, capsys):
    assert quick(capsys, "create", new, "--value", "0") == ("", "", 0)
    out, err, code = quick(capsys, "unlink", new + ".no", new)
    assert (out, code, err.count("\n")) == ("", 2, 1)
    with pytest.raises(FileNotFoundError):
        tokens(new)


@pytest.mark.parametrize("arguments", [[], ["run"], ["list"], ["value"], ["acquire"], ["release"], ["create"], ["unlink"]])
def test_help(capsys, arguments):
    out, err, code = quick(capsys, *arguments, "--help")
    assert (err, code) == ("", 0)
    assert out.startswith("usage: named-semaphores ")
    assert not arguments or "Example: named-semaphores " + arguments[0] in out.replace("\n", " ")


def test_a_copy_inside_another_package(tmp_path, sem):
    vendor = tmp_path / "app" / "_vendor"
    shutil.copytree(PLACE, vendor / "named_semaphores", ignore=shutil.ignore_patterns("__pycache__"))
    python = [sys.executable, "-m", "app._vendor.named_semaphores"]
    result = subprocess.run([*python, "value", sem.name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("1\n", "", 0)
    result = subprocess.run([*python, "nonsense"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stderr.startswith(f"{os.path.basename(sys.executable)} -m app._vendor.named_semaphores: ")


# list


@with_glibc
def test_list(sem, capsys):
    out, err, code = quick(capsys, "list")
    assert (err, code) == ("", 0)
    heading, *rows = out.splitlines()
    assert heading.split() == ["NAME", "VALUE", "MODE", "OWNER", "AGE", "PIDS"]
    row = next(row for row in rows if row.startswith(sem.name + " ")).split()
    assert row[1:3] == ["1", "0600"]
    assert str(os.getpid()) in row[5].split(",")


@with_glibc
def test_list_as_json(sem):
    result = cli("list", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    found = next(found for found in json.loads(result.stdout) if found["name"] == sem.name)
    assert (found["value"], found["mode"], found["uid"], found["why_no_value"]) == (1, "0600", os.getuid(), None)
    assert os.getpid() in found["pids"]
    assert 0 <= found["age"] < SECONDS


def info(**given):
    found = {"name": "/x", "value": 1, "why_no_value": None, "pids": (), "all_pids": True, "mode": 0o600, "uid": os.getuid(), "created": 0}
    return listing.SemaphoreInfo(**{**found, **given})


@pytest.mark.parametrize(
    ("given", "column", "shown"),
    [
        pytest.param({"name": "/x\x1b[2J"}, 0, "/x\\x1b[2J", id="control-characters"),
        pytest.param({"value": None}, 1, "?", id="no-value"),
        pytest.param({"pids": (), "all_pids": True}, 5, "-", id="nobody"),
        pytest.param({"pids": (), "all_pids": False}, 5, "?", id="who-knows"),
        pytest.param({"pids": None, "all_pids": False}, 5, "?", id="cannot-know"),
        pytest.param({"pids": (1, 22), "all_pids": True}, 5, "1,22", id="these"),
        pytest.param({"pids": (1, 22), "all_pids": False}, 5, "1,22,?", id="these-and-others"),
        pytest.param({"created": 1e9 - 5}, 4, "5s", id="seconds"),
        pytest.param({"created": 1e9 - 119}, 4, "1m", id="minutes"),
        pytest.param({"created": 1e9 - 3 * 3600}, 4, "3h", id="hours"),
        pytest.param({"created": 1e9 - 100 * 86400}, 4, "100d", id="days"),
    ],
)
def test_list_shows(capsys, monkeypatch, given, column, shown):
    monkeypatch.setattr(listing.time, "time", lambda: 1e9)
    monkeypatch.setattr(listing, "list_semaphores", lambda: [info(**given)])
    out, _, _ = quick(capsys, "list")
    assert out.splitlines()[1].split()[column] == shown


def test_a_reader_that_leaves(sem):
    reading, writing = os.pipe()
    os.close(reading)
    result = cli("value", sem.name, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")


@on_linux
def test_output_that_cannot_be_written(sem):
    with open("/dev/full", "w") as full:
        result = cli("value", sem.name, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 2
    assert result.stderr.endswith(f"named_semaphores: {os.strerror(errno.ENOSPC)}\n")
    assert result.stderr.count("\n") == 1


def test_no_output_at_all(sem):
    result = cli("value", sem.name, capture_output=False, preexec_fn=lambda: os.closerange(0, 3))
    assert result.returncode == 0
    result = cli("value", sem.name + ".no", capture_output=False, preexec_fn=lambda: os.closerange(0, 3))
    assert result.returncode == 2


# unlink --unused

# This machine's other semaphores are none of the tests' business.
OURS = f"""
from named_semaphores import _cli, listing
everything = listing.list_semaphores
listing.list_semaphores = lambda: [info for info in everything() if {PREFIX!r} in info.name]
raise SystemExit(_cli.main())
"""


@pytest.fixture
def ours(monkeypatch):
    everything = listing.list_semaphores
    monkeypatch.setattr(listing, "list_semaphores", lambda: [info for info in everything() if PREFIX in info.name])


def create(name):
    NamedSemaphore(name, 0, unlink_on_delete=False)


def exists(name):
    try:
        tokens(name)
    except FileNotFoundError:
        return False
    return True


@with_glibc
def test_unlink_unused_takes_what_nobody_has_open(ours, sem, new, capsys):
    create(new + ".a")
    create(new + ".b")
    out, err, code = quick(capsys, "unlink", "--unused", "--yes")
    assert (out, err, code) == (f"{new}.a\n{new}.b\n", "", 0)
    assert not exists(new + ".a")
    assert not exists(new + ".b")
    assert exists(sem.name)
    assert quick(capsys, "unlink", "--unused", "--yes") == ("no unused semaphores\n", "", 0)


@with_glibc
@pytest.mark.parametrize(("answer", "left"), [("y", False), ("YES", False), ("n", True), ("", True)])
def test_unlink_unused_asks(new, answer, left):
    create(new)
    with Terminal([sys.executable, "-c", OURS, "unlink", "--unused"]) as terminal:
        terminal.read("Remove 1? [y/N]")
        assert new in terminal.shown
        terminal.type(answer + "\n")
        assert terminal.end() == 0
    assert exists(new) is left


@with_glibc
def test_unlink_unused_looks_again_after_the_question(new):
    create(new)
    with Terminal([sys.executable, "-c", OURS, "unlink", "--unused"]) as terminal:
        terminal.read("Remove 1? [y/N]")
        opened = NamedSemaphore(new)
        terminal.type("y\n")
        assert terminal.end() == 0
    assert exists(new)
    opened.close()


@with_glibc
def test_unlink_unused_asks_no_pipe(new):
    create(new)
    result = cli("unlink", "--unused", input="y\n")
    assert result.returncode == 2
    assert "add --yes" in result.stderr
    assert exists(new)


@with_glibc
def test_unlink_unused_takes_the_end_of_input_for_a_no(new, monkeypatch, capsys):
    def end(question):
        raise EOFError

    create(new)
    monkeypatch.setattr(listing, "list_semaphores", lambda: [SimpleNamespace(name=new, uid=os.geteuid())])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", end)
    assert quick(capsys, "unlink", "--unused") == (f"{new}\n\n", "", 0)
    assert exists(new)


@with_glibc
def test_unlink_unused_leaves_what_it_cannot_look_into(ours, new, capsys, monkeypatch):
    look = listing.is_in_use

    def is_in_use(name):
        if name == new + ".gone":
            raise FileNotFoundError
        if name == new + ".odd":
            raise PermissionError(errno.EACCES, "no", name)
        return look(name)

    monkeypatch.setattr(listing, "is_in_use", is_in_use)
    for end_ in ("", ".gone", ".odd"):
        create(new + end_)
    assert quick(capsys, "unlink", "--unused", "--yes") == (f"{new}\n", f"named-semaphores: {new}.odd: no\n", 2)
    for end_ in (".gone", ".odd"):
        assert quick(capsys, "unlink", new + end_) == ("", "", 0)


@with_glibc
def test_unlink_unused_refuses_where_nobody_knows(ours, new, capsys, monkeypatch):
    def is_in_use(name):
        raise NotImplementedError("cannot tell")

    monkeypatch.setattr(listing, "is_in_use", is_in_use)
    create(new)
    assert quick(capsys, "unlink", "--unused", "--yes") == ("", "named-semaphores: cannot tell\n", 2)
    assert exists(new)
