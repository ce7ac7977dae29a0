# SPDX-License-Identifier: Apache-2.0
"""The command line except run: in this process, in real processes, and in terminals."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest
from stress.terminals import ENVIRONMENT, PLACE, SECONDS, Terminal
from support import PREFIX, Child, collect, wait_for

import named_semaphores
from named_semaphores import NamedSemaphore, _cli, _libc, _semlock, _sysv, core, listing

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells")
with_glibc = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and _semlock.system().is_glibc), reason="glibc's files"
)


def line(*words):
    return [sys.executable, "-m", "named_semaphores", *words]


def cli(*words, **options):
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


def quick(capfd, *words):
    """Run the command line in this process. Not for a successful acquire, which leaves signals blocked."""
    code = _cli.main(words)
    out, err = capfd.readouterr()
    return out, err, code


@pytest.fixture
def sem(name):
    """Yield a POSIX semaphore with one token, which the test's end removes."""
    with_name = NamedSemaphore(name, 1, unlink_on_delete=True)
    yield with_name
    with_name.close()


@pytest.fixture
def robust(name):
    """Yield a robust semaphore of three tokens, open in this process."""
    try:
        opened = _sysv.system().open(name, 3)
    except NotImplementedError as error:
        pytest.skip(str(error))
    yield opened
    opened.leave()


@pytest.fixture
def new(name):
    """Yield a name that the test's end removes."""
    yield name
    try:
        _semlock.system().unlink(os.fsencode(name))
    except FileNotFoundError:
        pass


def create(name, value=0):
    NamedSemaphore(name, value, unlink_on_delete=False)
    collect()  # this process does not have it open


def tokens(name):
    return NamedSemaphore(
        name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS, unlink_on_delete=False
    ).value


def exists(name):
    try:
        tokens(name)
    except FileNotFoundError:
        return False
    return True


# POSIX ones


def test_create_value_acquire_release_unlink(new):
    for words, code, out in (
        (["create", new, "--value", "2"], 0, ""),
        (["value", new], 0, "2\n"),
        (["acquire", new], 0, ""),
        (["acquire", new[1:], "--timeout", "5"], 0, ""),
        (["value", new, "--posix"], 0, "0\n"),
        (["release", new], 0, ""),
        (["release", new, "-n", "2"], 0, ""),
        (["value", new], 0, "3\n"),
        (["unlink", new], 0, ""),
    ):
        result = cli(*words)
        assert (result.returncode, result.stdout, result.stderr) == (code, out, "")
    assert not exists(new)


@pytest.mark.parametrize(
    ("wait", "within"), [(["--no-wait"], ""), (["--timeout", "0.01"], " within 0.01 s")], ids=str
)
def test_acquire_gets_no_token_in_time(sem, capfd, wait, within):
    sem.acquire()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert quick(capfd, "acquire", sem.name, *wait) == (
        "",
        f"named-semaphores: {sem.name}: no token was free{within}\n",
        1,
    )
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    sem.release()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_the_wait_of_acquire_and_costs_no_token(sem, signum):
    sem.acquire()
    with Terminal(line("acquire", sem.name)) as terminal:
        terminal.read(f"waiting for a token of {sem.name}")
        if signum == signal.SIGINT:
            terminal.type("\x03")
        else:
            terminal.process.send_signal(signum)
        assert terminal.end() == -signum
    assert terminal.shown.count("waiting") == 1
    assert "Traceback" not in terminal.shown
    sem.release()
    assert sem.value == 1


def test_what_acquire_took_no_signal_can_belie(sem):
    """After a signal at any moment: exit code 0 with a token, or death without one."""
    taken = 0
    for number in range(20):
        with Child(line("acquire", sem.name), cwd="/", env=ENVIRONMENT) as process:
            if number % 2:
                wait_for(lambda: sem.value == 0)
            process.terminate()
            assert process.wait(SECONDS) in (0, -signal.SIGTERM)
        assert sem.value == (0 if process.returncode == 0 else 1)
        if process.returncode == 0:
            taken += 1
            sem.release()
    assert taken >= 5


def test_acquire_waits(sem):
    sem.acquire()
    with Child(
        line("acquire", sem.name, "--verbose"),
        cwd="/",
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert "waiting for a token" in process.stderr.readline()
        sem.release()
        assert process.wait(SECONDS) == 0
    assert sem.value == 0
    sem.release()


@pytest.fixture
def umask():
    before = os.umask(0o077)
    yield
    os.umask(before)


@with_glibc
@pytest.mark.parametrize(("given", "mode"), [([], 0o600), (["--mode", "0660"], 0o660)])
def test_create_sets_the_mode(new, capfd, umask, given, mode):
    assert quick(capfd, "create", new, "--value", "2", *given) == ("", "", 0)
    assert os.stat("/dev/shm/sem." + new[1:]).st_mode & 0o777 == mode


def test_unlink_goes_on_after_a_failure(new, capfd):
    assert quick(capfd, "create", new, "--value", "0") == ("", "", 0)
    out, err, code = quick(capfd, "unlink", new + ".no", new)
    assert (out, code, err.count("\n")) == ("", 2, 1)
    assert not exists(new)


# Robust ones, and both


def test_a_robust_one_that_stays(robust, name, capfd):
    stays = name + ".stays"
    assert quick(capfd, "create", stays, "--robust", "--value", "4", "--mode", "0640") == (
        "",
        "",
        0,
    )
    assert quick(capfd, "value", stays) == ("4\n", "", 0)
    assert quick(capfd, "create", stays, "--robust", "--value", "4")[2] == 2
    out, err, code = quick(
        capfd, "create", stays + ".0", "--robust", "--value", "4", "--mode", "0400"
    )
    assert (out, "mode must allow its owner" in err, code) == ("", True, 2)
    assert quick(capfd, "resize", stays, "6") == ("", "", 0)
    assert quick(capfd, "value", stays) == ("6\n", "", 0)
    (found,) = [found for found in listing.list_semaphores() if found.name == stays]
    assert (found.kind, found.value, found.total, found.users, found.stays, found.mode) == (
        "robust",
        6,
        6,
        0,
        True,
        0o640,
    )
    assert quick(capfd, "unlink", stays) == ("", "", 0)
    assert quick(capfd, "value", stays)[2] == 2


def test_resize_waits_until_enough_are_free(robust, capfd):
    system = _sysv.system()
    system.operate(robust.id, _sysv.take(2))
    for wait, within in ((["--no-wait"], ""), (["--timeout", "0.02"], " within 0.02 s")):
        said = f"named-semaphores: {robust.name}: too few tokens were free{within}\n"
        assert quick(capfd, "resize", robust.name, "1", *wait) == ("", said, 1)
    with Child(line("resize", robust.name, "1"), cwd="/", env=ENVIRONMENT) as process:
        wait_for(lambda: robust.waiting() == 1)
        system.operate(robust.id, _sysv.give(2))
        assert process.wait(SECONDS) == 0
    assert (robust.value(), robust.total()) == (1, 1)


def test_value_of_a_robust_one(robust, capfd):
    assert quick(capfd, "value", robust.name) == ("3\n", "", 0)
    assert quick(capfd, "value", robust.name, "--robust") == ("3\n", "", 0)
    assert quick(capfd, "value", robust.name, "--posix")[2] == 2


def test_a_name_of_both_kinds_needs_a_word(robust, new, capfd):
    said = f"named-semaphores: now a POSIX and a robust semaphore have the name {new}: two limits, which know nothing of each other\n"
    assert quick(capfd, "create", new, "--value", "2") == ("", said, 0)
    for words in (["value", new], ["unlink", new]):
        said = f"named-semaphores: a POSIX and a robust semaphore have the name {new}: add --posix or --robust\n"
        assert quick(capfd, *words) == ("", said, 2)
    assert quick(capfd, "value", new, "--posix") == ("2\n", "", 0)
    assert quick(capfd, "value", new, "--robust") == ("3\n", "", 0)
    assert cli("acquire", new).returncode == 0
    assert tokens(new) == 1
    assert quick(capfd, "unlink", new, "--posix") == ("", "", 0)
    assert not exists(new)
    assert robust.value() == 3
    assert quick(capfd, "unlink", new, "--robust") == ("", "", 0)
    assert quick(capfd, "value", new)[2] == 2


def test_a_robust_one_beside_a_posix_one(sem, robust, capfd):
    robust.leave()
    out, err, code = quick(capfd, "create", sem.name, "--robust", "--value", "2")
    assert (out, code) == ("", 0)
    assert "two limits" in err
    assert quick(capfd, "unlink", sem.name, "--robust") == ("", "", 0)


def test_acquire_and_release_say_why_not_a_robust_one(robust, capfd):
    for command, helps in (("acquire", "use run"), ("release", "use resize")):
        out, err, code = quick(capfd, command, robust.name)
        assert (out, code, err.count("\n")) == ("", 2, 1)
        assert f"{robust.name} is robust: " in err
        assert helps in err
    assert robust.value() == 3


def test_resize_says_why_not_a_posix_one(sem, capfd):
    out, err, code = quick(capfd, "resize", sem.name, "3")
    assert (out, code, err.count("\n")) == ("", 2, 1)
    assert "use release and acquire" in err


@with_glibc
def test_what_may_not_be_opened_is_there_nevertheless(robust, new, capfd):
    Path("/dev/shm/sem." + new[1:]).write_bytes(
        bytes(7)
    )  # too short for a POSIX semaphore: opening fails
    out, err, code = quick(capfd, "value", new)
    assert (out, code, "add --posix or --robust" in err) == ("", 2, True)


def test_a_robust_one_that_may_not_be_opened(name, capfd, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(errno.EACCES, "not for you", name)

    monkeypatch.setattr(_sysv.SysV, "open", refuse)
    assert quick(capfd, "value", name) == ("", f"named-semaphores: {name}: not for you\n", 2)


# Errors


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words.split(), id=words)
        for words in (
            "",
            "nonsense",
            "value",
            "value MISSING",
            "value a/b",
            "value EXISTS --posix --robust",
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
            "create MISSING --value many",
            "create MISSING --value 99999999999",
            "create MISSING --value 1 --mode 0999",
            "create MISSING --value 1 --mode 1777",
            "create MISSING --value 0 --robust",
            "create MISSING --value 32768 --robust",
            "resize MISSING",
            "resize MISSING 3",
            "resize EXISTS 0",
            "resize EXISTS 32768",
            "unlink",
            "unlink MISSING",
            "unlink MISSING --robust",
            "unlink a/b",
            "list --watch",
            "list --watch soon",
            "list --watch --json",
            "list now",
        )
    ],
)
def test_an_error_is_one_line_and_exit_code_2(sem, capfd, monkeypatch, words):
    replaced = {"EXISTS": sem.name, "MISSING": sem.name + ".no"}
    out, err, code = quick(capfd, *(replaced.get(word, word) for word in words))
    assert (out, code) == ("", 2)
    assert err.startswith("named-semaphores")
    assert err.count("\n") == 1
    assert sem.value == 1


@pytest.mark.parametrize(
    ("command", "what"),
    [("create {} --value 0 --robust", "value"), ("resize {} 0", "the number of tokens")],
)
def test_a_number_of_tokens_that_cannot_be_is_refused_with_the_name(name, capfd, command, what):
    said = f"named-semaphores: semaphore '{name}': {what} must be an int from 1 to 32767, not 0\n"
    assert quick(capfd, *command.format(name).split()) == ("", said, 2)


def test_an_error_names_the_semaphore_and_says_what_helps(capfd):
    _, err, _ = quick(capfd, "value", PREFIX)
    assert (
        err
        == f"named-semaphores: /{PREFIX}: {os.strerror(errno.ENOENT)} (there is no semaphore of this name)\n"
    )


def test_a_system_without_semaphores(capfd, monkeypatch):
    def refuse():
        raise NotImplementedError("this system has none")

    for module, function in (
        (listing, "system"),
        (_sysv, "list_sets"),
        (_sysv, "system"),
        (_semlock, "system"),
    ):
        monkeypatch.setattr(module, function, refuse)
    monkeypatch.setattr(core, "_running", None)
    assert quick(capfd, "list") == ("", "named-semaphores: this system has none\n", 2)
    assert quick(capfd, "release", "x") == ("", "named-semaphores: this system has none\n", 2)
    assert quick(capfd, "value", "x")[2] == 2


def test_a_python_without_ctypes(capfd, monkeypatch):
    import signal as python_signal

    from named_semaphores import __main__

    handlers = {
        signum: python_signal.getsignal(signum)
        for signum in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)
    }
    monkeypatch.setitem(sys.modules, "named_semaphores._cli", None)
    monkeypatch.setattr(sys, "argv", ["named-semaphores", "list"])
    try:
        with pytest.raises(SystemExit) as caught:
            __main__.main()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    assert caught.value.code == 2
    assert "needs ctypes" in capfd.readouterr().err


def test_ctrl_c_ends_it_as_any_program():
    for words in (["list", "--watch"], ["resize", "x", "1"]):
        code = f"import os, sys; sys.argv[1:] = {words!r}; from named_semaphores import __main__, _cli\n_cli.main = lambda words: os.kill(os.getpid(), 2)\n__main__.main()"
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            check=False,
        )
        assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


def test_the_version():
    result = cli("--version")
    assert (result.returncode, result.stdout, result.stderr) == (
        0,
        f"named-semaphores {named_semaphores.__version__}\n",
        "",
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["run"],
        ["list"],
        ["value"],
        ["acquire"],
        ["release"],
        ["create"],
        ["resize"],
        ["unlink"],
    ],
    ids=str,
)
def test_help(capfd, words):
    out, err, code = quick(capfd, *words, "--help")
    assert (err, code) == ("", 0)
    assert out.startswith("usage: named-semaphores ")
    assert not words or "Example: named-semaphores " + words[0] in " ".join(out.split())
    assert max(map(len, out.splitlines()[5:])) <= 80


def test_help_says_how_to_get_a_token_back(capfd):
    out = " ".join(quick(capfd, "--help")[0].split())
    for word in (
        "loses the token of a killed process",
        '"release NAME"',
        '"unlink NAME"',
        "waits for ever",
    ):
        assert word in out


def test_a_copy_inside_another_package(tmp_path, sem):
    vendor = tmp_path / "app" / "_vendor"
    shutil.copytree(
        PLACE / "named_semaphores",
        vendor / "named_semaphores",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    python = [sys.executable, "-m", "app._vendor.named_semaphores"]
    result = subprocess.run(
        [*python, "value", sem.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (result.stdout, result.stderr, result.returncode) == ("1\n", "", 0)
    result = subprocess.run(
        [*python, "nonsense"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.stderr.startswith(
        f"{os.path.basename(sys.executable)} -m app._vendor.named_semaphores: "
    )


# list


@with_glibc
def test_list(sem, robust, capfd):
    out, err, code = quick(capfd, "list")
    assert (err, code) == ("", 0)
    heading, *rows = out.splitlines()
    assert heading.split() == [
        "NAME",
        "KIND",
        "FREE",
        "TOTAL",
        "WAITING",
        "USERS",
        "PIDS",
        "MODE",
        "OWNER",
        "AGE",
    ]
    posix, robust_ = (row.split() for row in rows if row.startswith(sem.name + " "))
    assert posix[1:5] == ["posix", "1", "-", "-"]
    assert str(os.getpid()) in posix[6].split(",")
    assert robust_[1:8] == ["robust", "3", "3", "0", "1", "?", "0600"]


@with_glibc
def test_list_as_json(sem, robust):
    result = cli("list", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    posix, robust_ = (found for found in json.loads(result.stdout) if found["name"] == sem.name)
    assert (posix["kind"], posix["value"], posix["mode"], posix["uid"], posix["why_no_value"]) == (
        "posix",
        1,
        "0600",
        os.getuid(),
        None,
    )
    assert os.getpid() in posix["pids"]
    assert 0 <= posix["age"] < SECONDS
    assert [robust_[key] for key in ("kind", "value", "total", "waiting", "users", "stays")] == [
        "robust",
        3,
        3,
        0,
        1,
        False,
    ]


def info(**given):
    found = {
        "name": "/x",
        "value": 1,
        "why_no_value": None,
        "pids": (),
        "all_pids": True,
        "mode": 0o600,
        "uid": os.getuid(),
        "created": 0,
    }
    return listing.SemaphoreInfo(**{**found, **given})


@pytest.mark.parametrize(
    ("given", "column", "shown"),
    [
        pytest.param({"name": "/x\x1b[2J"}, 0, "/x\\x1b[2J", id="control-characters"),
        pytest.param({"value": None}, 2, "?", id="no-value"),
        pytest.param({"pids": (), "all_pids": True}, 6, "-", id="nobody"),
        pytest.param({"pids": (), "all_pids": True}, 5, "0", id="no-users"),
        pytest.param({"pids": (), "all_pids": False}, 6, "?", id="who-knows"),
        pytest.param({"pids": None, "all_pids": False}, 6, "?", id="cannot-know"),
        pytest.param({"pids": None, "all_pids": False}, 5, "?", id="nor-how-many"),
        pytest.param({"pids": (1, 22), "all_pids": True}, 6, "1,22", id="these"),
        pytest.param({"pids": (1, 22), "all_pids": False}, 6, "1,22,?", id="these-and-others"),
        pytest.param({"pids": (1, 22), "all_pids": False}, 5, "2+", id="two-and-others"),
        pytest.param({"uid": 4_000_000_000}, 8, "4000000000", id="no-such-user"),
        pytest.param({"created": 1e9 - 5}, 9, "5s", id="seconds"),
        pytest.param({"created": 1e9 - 119}, 9, "1m", id="minutes"),
        pytest.param({"created": 1e9 - 3 * 3600}, 9, "3h", id="hours"),
        pytest.param({"created": 1e9 - 100 * 86400}, 9, "100d", id="days"),
    ],
)
def test_list_shows(capfd, monkeypatch, given, column, shown):
    monkeypatch.setattr(listing.time, "time", lambda: 1e9)
    monkeypatch.setattr(listing, "list_semaphores", lambda: [info(**given)])
    out, _, _ = quick(capfd, "list")
    assert out.splitlines()[1].split()[column] == shown


@with_glibc
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize(
    ("ending", "shown"),
    [
        pytest.param(
            b"\xe4", dict.fromkeys(["ascii", "latin-1", "utf-8"], b"\\udce4"), id="not-decoded"
        ),
        pytest.param(
            b"\xc3\xa4",
            {"ascii": b"\\xe4", "latin-1": b"\xe4", "utf-8": b"\xc3\xa4"},
            id="not-encoded",
        ),
    ],
)
def test_other_programs_names_that_the_output_cannot_show(name, ending, shown, encoding):
    file = os.fsencode("/dev/shm/sem." + name[1:])
    create(name)
    os.rename(file, file + ending)
    try:
        result = cli(
            "list", env={**ENVIRONMENT, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}, text=False
        )
        assert (result.returncode, result.stderr) == (0, b"")
        assert os.fsencode(name) + shown[encoding] + b" " in result.stdout
    finally:
        os.unlink(file + ending)


def test_a_reader_that_leaves(sem):
    reading, writing = os.pipe()
    os.close(reading)
    result = cli("value", sem.name, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (result.returncode, result.stderr) == (-signal.SIGPIPE, "")


@on_linux
def test_output_that_cannot_be_written(sem):
    with open("/dev/full", "w") as full:
        result = cli("value", sem.name, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 2
    assert result.stderr.endswith(f"named_semaphores: {os.strerror(errno.ENOSPC)}\n")
    assert result.stderr.count("\n") == 1


def test_no_output_at_all(sem):
    for name, code in ((sem.name, 0), (sem.name + ".no", 2)):
        assert (
            cli(
                "value", name, capture_output=False, preexec_fn=lambda: os.closerange(0, 3)
            ).returncode
            == code
        )


# list --watch


def resize_window(terminal, lines, columns):
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def pictures(shown):
    return shown.split("\x1b[H")[1:]


@on_linux
def test_watch_redraws_until_ctrl_c(sem):
    # Room for whatever semaphores the machine has, before the first picture.
    command = "stty rows 60000 cols 100 && exec " + " ".join(line("list", "--watch", "0.1"))
    with Terminal(["sh", "-c", command]) as terminal:
        terminal.read(f"\x1b\\[H.*every 0.1 s until Ctrl-C[\\s\\S]*{sem.name} +posix +1 ")
        sem.acquire()
        terminal.read(f"{sem.name} +posix +0 ")
        sem.release()
        resize_window(terminal, 4, 20)
        terminal.read(r"\.\.\. \d+ more")
        terminal.type("\x03")
        assert terminal.end() == -signal.SIGINT
    assert "Traceback" not in terminal.shown
    *_, last = (picture for picture in pictures(terminal.shown) if "more" in picture)
    rows = [
        row.replace("\x1b[K", "").replace("\x1b[J", "").rstrip("\r") for row in last.split("\n")
    ]
    assert len(rows) <= 4  # nothing scrolls
    assert max(map(len, rows[:3])) < 20


@on_linux
@pytest.mark.parametrize("seconds", ["600", "inf"])
def test_watch_redraws_at_once_when_the_window_changes(sem, seconds):
    with Terminal(line("list", "--watch", seconds)) as terminal:
        terminal.read(f"every {seconds} s")
        terminal.read("\x1b\\[J")
        resize_window(terminal, 200, 11)
        terminal.read("\x1b\\[J[\\s\\S]*\x1b\\[J")
    assert re.search(r"\x1b\[H\d\d:\d\d:\d\d, \x1b", terminal.shown)


@pytest.fixture
def terminal_of_24_lines(monkeypatch):
    monkeypatch.setattr(_cli, "_every", lambda interval: range(2))
    monkeypatch.setattr(
        os, "get_terminal_size", lambda descriptor: os.terminal_size((0, 0))
    )  # it does not tell
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)


def test_watch_shows_an_error_and_goes_on(capfd, monkeypatch, terminal_of_24_lines):
    def fail():
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(listing, "list_semaphores", fail)
    out, _, code = quick(capfd, "list", "--watch")
    assert (out.count("no memory"), code) == (2, 0)


@pytest.mark.parametrize(("rows", "shown", "more"), [(20, 20, 0), (21, 19, 2), (100, 19, 81)])
def test_watch_shows_what_has_room(capfd, monkeypatch, terminal_of_24_lines, rows, shown, more):
    monkeypatch.setattr(
        listing,
        "list_semaphores",
        lambda: [info(name=f"/semaphore{number}") for number in range(rows)],
    )
    picture = pictures(quick(capfd, "list", "--watch")[0])[0]
    assert picture.count("/semaphore") == shown
    assert picture.count("\n") <= 23
    assert (f"... {more} more" in picture) is bool(more)


@on_linux
def test_every_interval_and_at_once_when_the_window_changes():
    before = signal.getsignal(signal.SIGWINCH)
    descriptors = set(os.listdir("/proc/self/fd"))
    try:
        every = _cli._every(600)
        next(every)
        os.kill(os.getpid(), signal.SIGWINCH)
        next(every)
        every = _cli._every(0.01)
        next(every)
        next(every)
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGWINCH, before)
        for descriptor in set(os.listdir("/proc/self/fd")) - descriptors:
            try:
                os.close(int(descriptor))
            except OSError:  # listdir's own
                pass


# unlink --unused


@with_glibc
def test_unlink_unused_takes_what_nobody_has_open(sem, new, capfd):
    for ending in (".a", ".b", ".c"):
        create(new + ending)
    out, err, code = quick(
        capfd, "unlink", "--unused", "--yes", new + ".a", new + ".b", sem.name, new + ".none"
    )
    assert (out, err, code) == (f"{new}.a (POSIX)\n{new}.b (POSIX)\n", "", 0)
    assert [exists(new + ending) for ending in (".a", ".b", ".c")] == [False, False, True]
    assert exists(sem.name)
    assert quick(capfd, "unlink", "--unused", "--yes", new + ".a") == ("nothing to remove\n", "", 0)
    assert quick(capfd, "unlink", "--unused", "--yes", "--robust", new + ".c") == (
        "nothing to remove\n",
        "",
        0,
    )
    assert quick(capfd, "unlink", new + ".c") == ("", "", 0)


@with_glibc
def test_unlink_unused_never_takes_posix_ones_that_are_not_named(new, capfd, monkeypatch):
    monkeypatch.setattr(
        listing,
        "list_posix",
        lambda: [info(name=new, uid=os.geteuid()), info(name=new + ".other", uid=os.geteuid() + 1)],
    )
    monkeypatch.setattr(_sysv, "idle_sets", lambda names: [])
    create(new)
    out, err, code = quick(capfd, "unlink", "--unused", "--yes")
    assert (err, code) == ("", 0)
    said, nothing = out.splitlines()
    assert said.startswith("Kept, because they may be another program's")
    assert said.endswith(f" {new}")
    assert nothing == "nothing to remove"
    assert exists(new)


@on_linux
def test_unlink_unused_takes_robust_ones_that_nobody_has_open(robust, name, capfd, monkeypatch):
    idle, stays = name + ".idle", name + ".stays"
    subprocess.run(line("run", idle, "true"), cwd="/", env=ENVIRONMENT, check=True)
    quick(capfd, "create", stays, "--robust", "--value", "1")
    ours = _sysv.list_sets
    monkeypatch.setattr(
        _sysv,
        "list_sets",
        lambda: [found for found in ours() if found.name and PREFIX in found.name],
    )
    monkeypatch.setattr(listing, "list_posix", list)
    assert quick(capfd, "unlink", "--unused", "--yes") == (f"{idle} (robust)\n", "", 0)
    assert sorted(found.name for found in _sysv.list_sets()) == [name, stays]
    assert quick(capfd, "unlink", "--unused", "--yes", stays, name, "--posix") == (
        "nothing to remove\n",
        "",
        0,
    )
    assert quick(capfd, "unlink", "--unused", "--yes", stays, name) == (
        f"{stays} (robust)\n",
        "",
        0,
    )
    assert [found.name for found in _sysv.list_sets()] == [name]


@with_glibc
@pytest.mark.parametrize(
    ("answer", "left"), [("y", False), ("YES", False), ("n", True), ("", True)]
)
def test_unlink_unused_asks(new, answer, left):
    create(new)
    with Terminal(line("unlink", "--unused", new)) as terminal:
        terminal.read(r"Remove 1\? \[y/N\]")
        assert new in terminal.shown
        terminal.type(answer + "\n")
        assert terminal.end() == 0
    assert exists(new) is left


@with_glibc
def test_unlink_unused_looks_again_after_the_question(new):
    create(new)
    with Terminal(line("unlink", "--unused", new)) as terminal:
        terminal.read(r"Remove 1\?")
        opened = NamedSemaphore(new)
        terminal.type("y\n")
        assert terminal.end() == 0
    assert exists(new)
    opened.close()


@with_glibc
def test_unlink_unused_asks_no_pipe_but_says_what_it_would_remove(new):
    create(new)
    result = cli("unlink", "--unused", new, input="y\n")
    assert (result.returncode, result.stdout) == (2, f"{new} (POSIX)\n")
    assert "add --yes" in result.stderr
    assert exists(new)


@with_glibc
def test_unlink_unused_takes_the_end_of_input_for_a_no(new, monkeypatch, capfd):
    def end(question):
        raise EOFError

    create(new)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", end)
    assert quick(capfd, "unlink", "--unused", new) == (f"{new} (POSIX)\n\n", "", 0)
    assert exists(new)


@with_glibc
def test_unlink_unused_leaves_what_it_cannot_look_into(new, capfd, monkeypatch):
    look = listing.is_in_use

    def is_in_use(name):
        if name == new + ".odd":
            raise PermissionError(errno.EACCES, "no", name)
        return look(name)

    monkeypatch.setattr(listing, "is_in_use", is_in_use)
    for ending in ("", ".odd"):
        create(new + ending)
    names = [new, new + ".gone", new + ".odd"]
    assert quick(capfd, "unlink", "--unused", "--yes", *names) == (
        f"{new} (POSIX)\n",
        f"named-semaphores: {new}.odd: no\n",
        2,
    )
    assert quick(capfd, "unlink", new + ".odd") == ("", "", 0)


@with_glibc
def test_unlink_unused_says_what_could_not_be_removed(new, capfd, monkeypatch):
    def refuse(self, name):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    create(new)
    monkeypatch.setattr(_libc.Libc, "unlink", refuse)
    _, err, code = quick(capfd, "unlink", "--unused", "--yes", new)
    monkeypatch.undo()
    assert (code, err.count("\n"), new in err) == (2, 1, True)


@with_glibc
def test_unlink_unused_refuses_where_nobody_knows(new, capfd, monkeypatch):
    def is_in_use(name):
        raise NotImplementedError("cannot tell")

    monkeypatch.setattr(listing, "is_in_use", is_in_use)
    create(new)
    assert quick(capfd, "unlink", "--unused", "--yes", new) == (
        "",
        "named-semaphores: cannot tell\n",
        2,
    )
    assert exists(new)
