# SPDX-License-Identifier: Apache-2.0
"""Terminals, signals and other programs around the command line's run and around flock(1): ``python
tests/tools/stress/terminals.py`` prints a table.

Each scenario returns its outcome in words. The suite compares run's with the expected one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1] / "lib"), str(HERE.parent), str(HERE.parents[2])]

from support import SLOW, unique_name, wait_for, why_always_the_same_user  # noqa: E402

import named_semaphores  # noqa: E402

PLACE = Path(named_semaphores.__file__).resolve().parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(PLACE), os.environ.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    ),
}
SECONDS = 60 * SLOW
PROG = f"{os.path.basename(sys.executable)} -m named_semaphores"  # as it calls itself


def line(*words: str) -> list[str]:
    """Return our command line."""
    return [sys.executable, "-m", "named_semaphores", *words]


def call(line: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; return what it wrote and its exit code."""
    given = {"capture_output": True, "text": True, "timeout": SECONDS, "check": False}
    return subprocess.run(line, **{**given, "cwd": "/", "env": ENVIRONMENT, **options})


class Terminal:
    """A command that has a terminal of its own, in the foreground of it."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.master: int | None
        self.master, slave = os.openpty()
        self.shown = ""

        def own_terminal() -> None:
            for signum in (signal.SIGINT, signal.SIGQUIT):  # a shell's background job ignores them
                signal.signal(signum, signal.SIG_DFL)
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd="/",
            start_new_session=True,
            preexec_fn=own_terminal,
            **{"env": ENVIRONMENT, **options},
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
        assert select.select([self.master], [], [], SECONDS)[0], (
            f"waited {SECONDS} s in vain, after {self.shown!r}"
        )
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

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = None

    def __exit__(self, *exception: object) -> None:
        for pid in processes_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.master is not None:
            os.close(self.master)


class Run:
    """Our run, on a semaphore with one token."""

    label = "run"

    def __init__(self) -> None:
        self.name = unique_name()

    def line(self, *command: str) -> list[str]:
        return line("run", self.name, *command)

    def token(self) -> str:
        """Return "token back" or "token taken"."""
        return "token back" if self._at_once("--no-wait") == 0 else "token taken"

    def _at_once(self, option: str) -> int:
        return call([*self.line(option), "true"]).returncode

    def clean(self) -> None:
        from named_semaphores import _sets

        _sets.remove_idle([self.name])


class Flock(Run):
    label = "flock"

    def __init__(self) -> None:
        descriptor, self.name = tempfile.mkstemp()
        os.close(descriptor)

    def line(self, *command: str) -> list[str]:
        return [
            "flock",
            *([command[0], self.name] if command[0].startswith("-") else [self.name]),
            *command[command[0].startswith("-") :],
        ]

    def token(self) -> str:
        return "token back" if self._at_once("-n") == 0 else "token taken"

    def clean(self) -> None:
        os.unlink(self.name)


def processes_of(session: int) -> list[int]:
    """Return the session's processes."""
    everybody = os.listdir("/proc") if os.path.exists("/proc") else []
    return [
        pid
        for pid in map(int, filter(str.isdigit, everybody))
        if (status_of(pid) or [""] * 4)[3] == str(session)
    ]


def status_of(pid: int) -> list[str] | None:
    """Return a process's state, parent, group, session and so on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


WAITS = "echo pid $$; exec sleep 600"


def ended(code: int) -> str:
    return f"ends by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def lives(pid: int) -> bool:
    return (status_of(pid) or ["Z"])[0] != "Z"


def command_of(terminal: Terminal) -> int:
    """Return the process of the command, once it is there."""
    return int(terminal.read(r"pid (\d+)\s")[1])


def fate(pid: int) -> str:
    """Say whether the command lives, and kill it."""
    if not lives(pid):
        return "command ended"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not lives(pid))
    return "command lives on"


def after(subject: Run, code: int, pid: int) -> str:
    """Describe the end, the command, and the token."""
    token = subject.token()
    return f"{ended(code)}, {fate(pid)}, {token}"


# --- Scenarios ------------------------------------------------------------------------------------


def interrupted_wait(subject: Run) -> str:
    """Ctrl-C while it waits"""
    with Terminal(subject.line("sh", "-c", WAITS)) as holder:
        pid = command_of(holder)
        with Terminal(
            ["sh", "-c", f"{shlex.join(subject.line('echo', 'it runs'))}; echo goes on"]
        ) as terminal:
            wait_for(lambda: waiter_of(terminal.process.pid))
            terminal.type("\x03")
            terminal.end()
        os.kill(pid, signal.SIGKILL)
        holder.end()
    shell = "the script goes on" if "goes on" in terminal.shown else "the script ends"
    assert "it runs" not in terminal.shown
    return f"{shell}, {subject.token()}"


def waiter_of(pid: int) -> bool:
    """Return whether a child of this process waits in semop or flock."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if re.search("sem|flock|locks", Path(f"/proc/{child}/wchan").read_text()):
                return True
        except (FileNotFoundError, ProcessLookupError):
            pass
    return False


def ctrl_c(subject: Run) -> str:
    """Ctrl-C while the command runs"""
    with Terminal(
        ["sh", "-c", f"{shlex.join(subject.line('sh', '-c', WAITS))}; echo goes on"]
    ) as terminal:
        pid = command_of(terminal)
        terminal.type("\x03")
        terminal.end()
    wait_for(lambda: not lives(pid))
    return f"{'the script goes on' if 'goes on' in terminal.shown else 'the script ends'}, {subject.token()}"


def ctrl_c_survived(subject: Run) -> str:
    """Ctrl-C, and the command goes on"""
    code = """
import os, signal, time
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"got"))
print("pid", os.getpid(), flush=True)
while True:
    time.sleep(1)
"""
    # As at a prompt: the shell has the session, and lives on.
    with Terminal(
        [
            "sh",
            "-m",
            "-c",
            f"trap : INT; {shlex.join(subject.line(sys.executable, '-c', code))}; echo code $?; read it",
        ]
    ) as terminal:
        pid = command_of(terminal)
        terminal.type("\x03")
        terminal.read("got")
        if isinstance(subject, Flock):
            terminal.read(r"code \d+\s")  # the prompt is back
        token = subject.token()
        prompt = "the prompt comes back" if "code" in terminal.shown else "goes on too"
        what = fate(pid)
        terminal.read(r"code \d+\s")
    return f"{prompt}, {what}, {token}"


def ctrl_backslash(subject: Run) -> str:
    """Ctrl-\\"""
    with Terminal(subject.line("sh", "-c", WAITS)) as terminal:
        pid = command_of(terminal)
        terminal.type("\x1c")
        return after(subject, terminal.end(), pid)


def ctrl_z(subject: Run) -> str:
    """Ctrl-Z, then fg"""
    run = shlex.join(subject.line("sh", "-c", "echo pid $$; read it; exit 5"))
    with Terminal(["sh", "-m", "-c", f"{run}; echo stopped $?; fg; echo ended $?"]) as terminal:
        command_of(terminal)
        terminal.type("\x1a")
        stopped = int(terminal.read(r"stopped (\d+)\s")[1])
        meanwhile = subject.token()
        terminal.type("it\n")
        code = int(terminal.read(r"ended (\d+)\s")[1])
        terminal.end()
    by = signal.Signals(stopped - 128).name if stopped > 128 else stopped
    return f"stopped by {by}, {meanwhile}; then exit code {code}, {subject.token()}"


def hang_up(subject: Run) -> str:
    """the terminal hangs up"""
    with Terminal(subject.line("sh", "-c", WAITS)) as terminal:
        pid = command_of(terminal)
        terminal.hang_up()
        code = terminal.process.wait(SECONDS)
    wait_until_settled(pid)
    return after(subject, code, pid)


def wait_until_settled(pid: int) -> None:
    # A command that lives on cannot be waited for.
    end = time.monotonic() + 0.5 * SLOW
    while lives(pid) and time.monotonic() < end:
        time.sleep(0.01)


def _signalled(subject: Run, send: Callable[[int], None], *before: str) -> str:
    process = subprocess.Popen(
        [*before, *subject.line("sh", "-c", WAITS)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    pid = int(process.stdout.readline().split()[1])
    send(process.pid)
    code = process.wait(SECONDS)
    process.stdout.close()
    wait_until_settled(pid)
    return after(subject, code, pid)


def term_alone(subject: Run) -> str:
    """SIGTERM"""
    return _signalled(subject, lambda pid: os.kill(pid, signal.SIGTERM))


def term_group(subject: Run) -> str:
    """SIGTERM to the process group"""
    return _signalled(subject, lambda pid: os.killpg(pid, signal.SIGTERM))


def kill_alone(subject: Run) -> str:
    """SIGKILL"""
    return _signalled(subject, lambda pid: os.kill(pid, signal.SIGKILL))


def by_timeout(subject: Run) -> str:
    """`timeout SECONDS ...`"""
    begin = time.monotonic()
    subject.token()
    seconds = 0.5 + 10 * (time.monotonic() - begin)  # long enough for Python to start
    return _signalled(subject, lambda pid: None, "timeout", f"{seconds:.2f}")


def in_its_own_session(subject: Run) -> str:
    """`setsid --wait ...`"""
    shown = _output(
        [
            "setsid",
            "--wait",
            *subject.line(
                "sh", "-c", "read a b c d e session rest </proc/$$/stat; echo $session; exit 3"
            ),
        ]
    )
    return f"{'a session of its own' if int(shown[0]) != os.getsid(0) else 'the same session'}, exit code {shown[1]}, {subject.token()}"


def _output(line: list[str], **options: Any) -> tuple[str, int]:
    result = call(line, **options)
    return result.stdout.strip(), result.returncode


def under_nohup(subject: Run) -> str:
    """`nohup ...`, then the terminal hangs up"""
    with tempfile.TemporaryDirectory() as folder:
        line = shlex.join(
            subject.line("sh", "-c", "echo pid $$; kill -HUP $$; sleep 0.2; echo lives on")
        )
        with Terminal(["sh", "-c", f"nohup {line} >{shlex.quote(folder)}/out 2>&1"]) as terminal:
            wait_for(
                lambda: (
                    "pid" in Path(folder, "out").read_text()
                    if os.path.exists(f"{folder}/out")
                    else False
                )
            )
            terminal.hang_up()
            wait_for(lambda: subject.token() == "token back")
        out = Path(folder, "out").read_text()
    return f"{'command lives on' if 'lives on' in out else 'command ended'} to its end, {subject.token()}"


def empty_environment(subject: Run) -> str:
    """`env -i ...`"""
    place = f"PYTHONPATH={ENVIRONMENT['PYTHONPATH']}"  # where this is not installed
    shown, code = _output(["env", "-i", place, *_with_path(subject.line("/usr/bin/env"))])
    # Python adds the second one in the C locale (PEP 538).
    added = [line.partition("=")[0] for line in shown.splitlines() if line != place]
    added = [name for name in added if name != "LC_CTYPE"]
    return f"added: {' '.join(added) or 'nothing'}, exit code {code}, {subject.token()}"


def _with_path(line: list[str]) -> list[str]:
    return [shutil.which(line[0]) or line[0], *line[1:]]


def no_streams(subject: Run) -> str:
    """standard input, output and error closed"""
    read, write = os.pipe()
    code = f"n=; for i in 0 1 2; do test -e /proc/$$/fd/$i || n=$n$i; done; echo $n >/dev/fd/{write}; exit 4"
    process = subprocess.Popen(
        subject.line("sh", "-c", code),
        env=ENVIRONMENT,
        cwd="/",
        pass_fds=[write],
        preexec_fn=lambda: os.closerange(0, 3),
    )
    os.close(write)
    with open(read) as pipe:
        shown = pipe.read().strip()
    return f"closed in the command: {' '.join(shown)}; exit code {process.wait(SECONDS)}, {subject.token()}"


def daemon(subject: Run) -> str:
    """the command leaves a process in the background"""
    shown, code = _output(subject.line("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"))
    token = subject.token()
    what = fate(int(shown)).replace("command", "that process")
    return f"exit code {code}, {what}, {token}"


def first_process(subject: Run) -> str:
    """the first process of a PID namespace, and SIGTERM from inside"""
    command = (
        "echo pid $$; trap '' USR1; (sleep 0.2; kill -TERM 1; kill -KILL 1) & sleep 0.5; exit 6"
    )
    line = ["unshare", "--pid", "--fork", "--kill-child", *subject.line("sh", "-c", command)]
    shown, code = _output(line)
    number = shown.split()[1]
    return f"the command has PID {number}, exit code {code}, {subject.token()}"


def other_user(subject: Run) -> str:
    """a set-user-ID command, killed"""
    folder = tempfile.mkdtemp(dir="/var/tmp")
    try:
        os.chmod(folder, 0o755)
        program = shutil.copy(shutil.which("sleep") or "", folder)
        os.chown(program, 65534, 65534)
        os.chmod(program, 0o4755)
        process = subprocess.Popen(subject.line(program, "600"), env=ENVIRONMENT, cwd="/")
        wait_for(lambda: effective_user(process.pid) == 65534)
        meanwhile = subject.token()
        pid = with_user(process.pid)
        os.kill(pid, signal.SIGKILL)
        code = process.wait(SECONDS)
    finally:
        shutil.rmtree(folder)
    return f"{meanwhile} while it runs; {ended(code)}, {subject.token()}"


def with_user(pid: int) -> int:
    """Return the process with another effective user: this one, or its child."""
    children = [
        int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]
    return next(process for process in (pid, *children) if _effective(process) == 65534)


def effective_user(pid: int) -> int:
    try:
        return _effective(with_user(pid))
    except (StopIteration, OSError):
        return 0


def _effective(pid: int) -> int:
    return int(
        re.search(r"^Uid:\t\d+\t(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]
    )


# Each with run's expected outcome.
SCENARIOS: dict[Callable[[Run], str], str] = {
    interrupted_wait: "the script ends, token back",
    ctrl_c: "the script ends, token back",
    ctrl_c_survived: "goes on too, command lives on, token taken",
    ctrl_backslash: "ends by SIGQUIT, command ended, token back",
    ctrl_z: "stopped by SIGTSTP, token taken; then exit code 5, token back",
    hang_up: "ends by SIGHUP, command ended, token back",
    term_alone: "ends by SIGTERM, command ended, token back",
    term_group: "ends by SIGTERM, command ended, token back",
    kill_alone: "ends by SIGKILL, command ended, token back",
    by_timeout: "exit code 124, command ended, token back",
    in_its_own_session: "a session of its own, exit code 3, token back",
    under_nohup: "command lives on to its end, token back",
    empty_environment: "added: NAMED_SEMAPHORES_RUN, exit code 0, token back",
    no_streams: "closed in the command: 0 1 2; exit code 4, token back",
    daemon: "exit code 0, that process lives on, token back",
    first_process: "the command has PID 1, exit code 6, token back",
    other_user: "token taken while it runs; ends by SIGKILL, token back",
}


def missing(scenario: Callable[[Run], str]) -> str | None:
    """Return what this machine lacks for the scenario, or None."""
    if scenario is first_process:
        if (
            not shutil.which("unshare")
            or subprocess.run(
                ["unshare", "--pid", "--fork", "true"], stderr=subprocess.DEVNULL, check=False
            ).returncode
        ):
            return "PID namespaces"
    if scenario is other_user and why_always_the_same_user():
        return f"another user, for a set-user-ID program: {why_always_the_same_user()}"
    if scenario is no_streams and "COVERAGE_RUN" in os.environ:
        return "standard streams that coverage does not use for its files"
    needs = {by_timeout: "timeout", in_its_own_session: "setsid", under_nohup: "nohup"}.get(
        scenario
    )
    return needs if needs and not shutil.which(needs) else None


def main() -> int:
    subjects = [Run, *([Flock] if shutil.which("flock") else [])]
    print("| what happens |", " | ".join(subject.label for subject in subjects), "|")
    print("|---" * (len(subjects) + 1) + "|")
    failed = False
    for scenario, expected in SCENARIOS.items():
        lacks = missing(scenario)
        seen = []
        for kind in subjects if not lacks else ():
            subject = kind()
            try:
                seen.append(scenario(subject))
            finally:
                subject.clean()
        failed |= not lacks and seen[0] != expected
        print(f"| {scenario.__doc__} |", " | ".join(seen) or f"not here: {lacks}", "|", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
