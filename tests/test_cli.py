# SPDX-License-Identifier: Apache-2.0
"""The command line except run, and all that it refuses."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from holders import as_nobody, as_root, in_child, own_sets
from shell import ENVIRONMENT, PLACE, PROG, SECONDS, Terminal, call, impatient, line
from support import PREFIX, Child, collect, wait_for

import named_semaphores
from named_semaphores import NamedSemaphore, RobustSemaphore, _libc, _set, _sets, _sysv, listing
from named_semaphores.cli import commands, parser

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells")
GLIBC = sys.platform.startswith("linux") and _libc.system().is_glibc
with_glibc = pytest.mark.skipif(not GLIBC, reason="glibc's files")


def quick(capfd, *words):
    """Run the command line in this process. Not for acquire, which leaves signals blocked, nor
    for a run that executes something.
    """
    code = parser.main(words)
    out, err = capfd.readouterr()
    return out, err, code


def steps(capfd, *expected):
    """Run command lines one after the other: each with its output, without an error."""
    for words, out in expected:
        assert (words, *quick(capfd, *words.split())) == (words, out, "", 0)


@pytest.fixture
def bare(name):
    """The name as a user types it; the test's end removes a POSIX semaphore that has it."""
    yield name[1:]
    with contextlib.suppress(FileNotFoundError):
        _libc.system().unlink(name)


@pytest.fixture
def sem(name):
    """Yield a POSIX semaphore with one token, which the test's end removes."""
    with contextlib.closing(NamedSemaphore(name, 1, unlink_on_delete=True)) as sem:
        yield sem


@pytest.fixture
def robust(name):
    """Yield a robust semaphore of three tokens, open in this process."""
    try:
        opened = RobustSemaphore(name, 3)
    except NotImplementedError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture
def alone():
    """Yield whether this test sees no sets of others; then nobody else removes its idle ones."""
    with own_sets() as are_own:
        yield are_own


def leave_idle(name, mode=0o600):
    """Leave a set that nobody has open, as a killed process does."""
    kept = []
    assert in_child(lambda: kept.append(RobustSemaphore(name, mode=mode))) == "None"


def sets():
    """Return the names of this run's sets, idle ones too, as users type them."""
    return sorted(one.name[1:] for one in listing.list_robust(idle_too=True) if PREFIX in one.name)


# POSIX ones


def test_create_value_acquire_release_unlink(bare, capfd):
    before = os.umask(0o077)
    steps(capfd, (f"create {bare} --posix --mode 0660", ""), (f"value {bare}", "1\n"))
    os.umask(before)
    if GLIBC:
        assert os.stat("/dev/shm/sem." + bare).st_mode & 0o777 == 0o660
    result = call(line("acquire", "/" + bare, "--timeout", "5"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for wait, within in ((["--no-wait"], ""), (["--timeout", "0.01"], " within 0.01 s")):
        said = f"named-semaphores: {bare}: no token was free{within}\n"
        assert quick(capfd, "acquire", bare, *wait) == ("", said, 1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    steps(
        capfd,
        (f"value {bare} --posix", "0\n"),
        (f"release {bare}", ""),
        (f"release {bare} -n 2", ""),
        (f"value {bare}", "3\n"),
        (f"unlink {bare}", ""),
        (f"create {bare} --posix --slots 0", ""),
        (f"value {bare}", "0\n"),
    )


def test_acquire_waits_until_a_token_is_free_or_a_signal_comes(sem, bare):
    said, words = f"waiting for a token of {bare}", impatient("acquire", bare)
    options = {"cwd": "/", "env": ENVIRONMENT, "stderr": subprocess.PIPE, "text": True}
    with sem, Child([*words, "--verbose"], **options) as process:
        with Terminal(words) as typed, Terminal(words) as sent:
            typed.read(said)
            typed.type("\x03")
            sent.read(said)
            sent.process.terminate()
            for terminal, signum in ((typed, signal.SIGINT), (sent, signal.SIGTERM)):
                assert terminal.end() == -signum
                assert terminal.shown.count("waiting") == 1
                assert "Traceback" not in terminal.shown
        assert process.stderr.readline() == f"named-semaphores: {said}\n"
        time.sleep(0.05)
        sem.release()
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == ""
    assert sem.value == 1


def test_what_acquire_took_no_signal_can_belie(sem):
    """After a signal at any moment: exit code 0 with a token, or death without one."""
    taken = 0
    for number in range(24):
        pid = os.fork()  # a new interpreter would spend most of its time on its start
        if not pid:
            code = 99
            try:
                code = parser.main(["acquire", sem.name])
                time.sleep(0.01)  # the signal comes before the end of the process
            finally:
                os._exit(code)
        if number % 2:
            wait_for(lambda: sem.value == 0)
        else:
            time.sleep(random.uniform(0, 0.004))
        os.kill(pid, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert (code, sem.value) in ((0, 0), (-signal.SIGTERM, 1))
        if code == 0:
            taken += 1
            sem.release()
    assert taken >= 12


# Robust ones, and both


@on_linux
def test_create_makes_a_robust_one_that_stays(name, bare, capfd):
    steps(
        capfd,
        (f"create {bare} --slots 4 --mode 640", ""),
        (f"value {bare} --robust", "4\n"),
        (f"resize {bare} 6", ""),
    )
    collect()  # create's object, which PyPy still has
    (found,) = [found for found in listing.list_robust() if found.name == name]
    assert (found.total, found.users, found.stays, found.mode) == (6, 0, True, 0o640)
    with contextlib.closing(RobustSemaphore(name)) as robust, robust.hold(6):
        steps(capfd, (f"resize {bare} 1", ""), (f"value {bare}", "0\n"))
    assert quick(capfd, "create", bare)[2] == 2
    steps(capfd, (f"unlink {bare}", ""), (f"create {bare}", ""), (f"value {bare}", "1\n"))
    steps(capfd, (f"unlink {bare}", ""))


def test_a_name_of_both_kinds_needs_a_word(robust, bare, capfd):
    steps(capfd, (f"create {bare} --posix --slots 2", ""))
    said = (
        f"named-semaphores: a POSIX and a robust semaphore have the name '{bare}': "
        "add --posix or --robust\n"
    )
    for command in ("value", "unlink", "holders"):
        assert quick(capfd, command, bare) == ("", said, 2)
    steps(
        capfd,
        (f"release {bare}", ""),
        (f"value {bare} --posix", "3\n"),
        (f"unlink {bare} --robust", ""),
        (f"value {bare}", "3\n"),
    )
    steps(
        capfd,
        (f"create {bare}", ""),
        (f"unlink {bare} --posix", ""),
        (f"value {bare}", "1\n"),
        (f"unlink {bare}", ""),
    )
    assert quick(capfd, "value", bare)[2] == 2


@pytest.mark.parametrize("command", ["acquire", "release"])
def test_a_command_for_posix_ones_says_why_not(robust, bare, capfd, command):
    out, err, code = quick(capfd, command, bare)
    assert (out, code, err.count("\n")) == ("", 2, 1)
    assert "(no POSIX semaphore has this name; run takes the tokens of a robust one)" in err
    assert robust.value == 3


@on_linux
def test_unlink_removes_an_idle_one_and_goes_on_after_a_failure(alone, name, bare, capfd):
    leave_idle(name)
    assert quick(capfd, "value", bare + ".other")[2] == 2
    assert sets() == [bare]
    out, err, code = quick(capfd, "unlink", bare + ".no", bare)
    assert (out, code, err.count("\n")) == ("", 2, 1)
    assert sets() == []
    assert quick(capfd, "unlink", bare)[2] == 2


@on_linux
@pytest.mark.parametrize("more", [-3, 5])
def test_another_programs_set_is_left_alone(name, bare, capfd, more):
    library = _sysv.system()
    foreign = library.get(_set.key(name), library.size + more, _sysv.IPC_CREAT | 0o600)
    for words in ("value", "holders", "unlink", "resize 2", "create", "unlink --unused --yes"):
        command, *others = words.split()
        _, err, code = quick(capfd, command, bare, *others)
        assert (code, err.count("\n")) == (2, 1)
    library.remove(foreign)


# Other users


@on_linux
@as_root
def test_another_users_set_is_explained(alone, name, bare, capfd):
    leave_idle(name)
    with as_nobody():
        assert quick(capfd, "value", bare)[2] == 2
        for words in (["create"], ["unlink"], ["unlink", "--unused", "--yes"]):
            _, err, code = quick(capfd, *words, bare)
            assert (code, err.count("\n")) == (2, 1)
            if "--unused" in words:
                assert err.startswith(f"named-semaphores: {bare}: not removed: a process has it")
                continue
            assert "belongs to another user" in err
            assert "that user or root can remove it: unlink" in err
            assert "mode 0o660 from the start" in err
        assert name not in quick(capfd, "unlink", "--unused", "--yes")[0]
    assert sets() == [bare]
    steps(capfd, (f"unlink --unused --yes {bare}", f"{bare}\n"))
    leave_idle(name, 0o666)
    with as_nobody():
        _, err, code = quick(capfd, "unlink", bare)
        assert (code, "belongs to another user" in err) == (2, True)
        steps(capfd, (f"create {bare}", ""), (f"value {bare}", "1\n"))
    steps(capfd, (f"unlink {bare}", ""))


@on_linux
@as_root
def test_value_and_holders_of_what_may_be_read_only(name, bare, capfd):
    for mode, known in ((0o644, True), (0o600, False)):
        with contextlib.closing(RobustSemaphore(name, 3, mode=mode)) as robust:
            with robust.hold(2), as_nobody():
                value, holders = (quick(capfd, words, bare) for words in ("value", "holders"))
        assert value[::2] == (("1\n", 0) if known else ("", 2))
        assert (f"\n{os.getpid()} " in holders[0]) is known
        assert collect()  # PyPy removes the set only now
        assert known or "Permission denied (it belongs " in value[1]
        assert known or "Permission denied (it belongs " in holders[1]


def listed_by_linux_only():
    raise NotImplementedError("this system (freebsd) does not list POSIX semaphores")


@with_glibc
@as_root
def test_another_users_posix_semaphore(name, bare, capfd, monkeypatch):
    with contextlib.closing(NamedSemaphore(name, 5, unlink_on_delete=True, mode=0o644)):
        with as_nobody(), monkeypatch.context() as patch:
            steps(capfd, (f"value {bare}", "5\n"))
            for not_listed in (list, listed_by_linux_only):
                patch.setattr(commands, "list_posix", not_listed)
                for command in ("unlink", "value"):
                    out, err, code = quick(capfd, command, bare)
                    assert (out, code, "it belongs to user 0" in err) == ("", 2, True)
        with contextlib.closing(RobustSemaphore(name)), as_nobody():
            assert "add --posix or --robust" in quick(capfd, "value", bare)[1]


# Errors


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "there is no command '' (named-semaphores --help lists them)"),
        ("nonsense", "there is no command 'nonsense'"),
        ("value", "value needs NAME (named-semaphores value --help tells more)"),
        ("value MISSING other", "value: there is a word too many: 'other'"),
        ("value MISSING", "MISSING: No such file or directory (no process has a semaphore of"),
        ("value /MISSING", "semaphores: MISSING: No such file or directory"),
        ("value EXISTS --posix --robust", "value: either --robust or --posix, not both"),
        ("acquire EXISTS --timeout nan", "acquire: --timeout: 'nan' is not a number of seconds"),
        ("acquire EXISTS --time 1", "acquire: there is no option --time (did you mean --timeout?"),
        ("release MISSING", "MISSING: No such file"),
        ("release EXISTS -n 0", "n must be an int from 1 to 1000000, not 0"),
        ("release EXISTS -n 2147483647", "EXISTS"),
        ("create EXISTS --posix", "EXISTS: File exists"),
        ("create MISSING --slots 1_0", "create: --slots: '1_0' is not a number"),
        ("create MISSING --slots 0", "'MISSING': --slots must be an int from 1 to 16383, not 0"),
        ("create MISSING --posix --slots 99999999999", "'MISSING': --slots must be an int from 0"),
        ("create MISSING --mode 0400", "'MISSING': mode must allow its owner"),
        ("resize MISSING", "resize needs NAME and N"),
        ("resize MISSING many", "resize: N: 'many' is not a number"),
        ("resize MISSING 3", "MISSING: No such file"),
        ("resize EXISTS 0", "'EXISTS': N must be an int from 1 to 16383, not 0"),
        ("unlink", "which names?"),
        ("unlink MISSING", "MISSING: No such file"),
        ("unlink --unused --posix MISSING", "POSIX semaphores are removed by name only"),
        ("unlink --unused --yes MISSING", "MISSING: not removed: a process has it open, you may"),
        ("holders MISSING", "MISSING: No such file"),
        ("holders MISSING --posix", "MISSING: No such file"),
        ("list --watch", "list: there is no option --watch"),
        ("run", "run needs NAME and COMMAND... (named-semaphores run --help tells more)"),
        ("run MISSING --", "run needs NAME and COMMAND"),
        ("run MISSING EMPTY", "run needs NAME and COMMAND"),
        ("run MISSING --slot 2 true", "no option --slot (did you mean --slots or --slot-env? "),
        ("run MISSING --wait 2 true", "did you mean --timeout"),
        ("run MISSING -x true", "put -- before a command that begins with '-')"),
        ("run MISSING -n5 true", "no option -n5"),
        ("run MISSING --verbose=1 true", "no option --verbose=1"),
        ("run MISSING --slots", "run: --slots: '' is not a number"),
        ("run MISSING --slots 0 x", "'MISSING': --slots must be an int from 1 to 16383, not 0"),
        ("run MISSING --slots=16384 true", "--slots must be an int from 1 to 16383, not 16384"),
        ("run MISSING --slots \uff12 true", "--slots: '\uff12' is not"),
        ("run MISSING --take 0 true", "--take must be an int from 1 to 16383, not 0"),
        ("run MISSING --slots 2 --take 3 true", "--take must be an int from 1 to 2, not 3"),
        ("run MISSING --take 2 true", "semaphore 'MISSING': n must be an int from 1 to 1"),
        ("run MISSING -w soon true", "--timeout: could not convert string to float: 'soon'"),
        ("run MISSING -w \uff12 true", "--timeout: '\uff12' is not"),
        ("run MISSING -E 256 true", "--conflict-exit-code must be an int from 0 to 255"),
        ("run MISSING --mode 1777 true", "--mode: '1777' is not a mode in octal, as 0660"),
        ("run MISSING --slot-env A=B true", "'A=B' is not the name of an environment variable"),
        ("run MISSING --slot-env EMPTY true", "'' is not the name of an environment variable"),
        ("run MISSING --slot-env A --take 2 true", "either --slot-env or --take"),
        ("run a/b true", "'a/b' has '/'"),
        ("run EMPTY MISSING true", "run needs NAME and COMMAND"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(sem, bare, capfd, monkeypatch, words, says):
    monkeypatch.setattr(os, "execv", lambda *arguments: os._exit(99))
    words, says = (
        text.replace("EXISTS", bare).replace("MISSING", bare + ".no") for text in (words, says)
    )
    out, err, code = quick(capfd, *(word.replace("EMPTY", "") for word in words.split()))
    assert (code, err.count("\n")) == (2, 1)
    assert out in ("", "nothing to remove\n")
    assert err.startswith("named-semaphores")
    assert says in err
    assert sem.value == 1


def test_a_system_without_semaphores(capfd, monkeypatch):
    def refuse(*arguments):
        raise NotImplementedError("this system has none")

    for module in ("core", "listing", "robust", "_sets", "_sysv"):
        monkeypatch.setattr(f"named_semaphores.{module}.system", refuse)
    none = "named-semaphores: this system has none\n"
    for words in ("release x", "create x", "create x --posix", "holders x --robust", "run x true"):
        assert quick(capfd, *words.split()) == ("", none, 2)
    assert quick(capfd, "value", "x")[2] == 2


@on_linux
def test_without_dev_shm_robust_ones_work(bare):
    """As on AWS Lambda. Nothing false is said about POSIX ones."""
    script = """
umount -l /dev/shm && rmdir /dev/shm 2>/dev/null
test -e /dev/shm/. && mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3
exec "$@" """
    code = f"""
from named_semaphores.cli.parser import main
for words in ("create {bare} --slots 2", "value {bare}", "holders {bare}", "list",
              "resize {bare} 3", "value {bare}", "unlink {bare}", "value {bare}"):
    code = main(words.split())
print(code)
"""
    unshared = ["unshare", "--mount", "--ipc", "sh", "-c", script, "sh"]
    if not shutil.which("unshare") or call(["unshare", "--mount", "true"]).returncode:
        pytest.skip("this machine lacks mount namespaces")
    result = call([*unshared, sys.executable, "-c", code])
    value, _, _, listed, after, code = result.stdout.splitlines()
    assert (value, after, code) == ("2", "3", "2")
    assert listed.split()[:4] == [bare, "robust", "2", "2"]
    missing = "No such file or directory (no process has a semaphore of this name open)"
    assert result.stderr == f"named-semaphores: {bare}: {missing}\n"


@on_linux
def test_list_says_what_it_cannot_list(sem, bare, capfd, monkeypatch):
    def refuse():
        raise FileNotFoundError(errno.ENOENT, "No such file", "/proc/sysvipc/sem")

    monkeypatch.setattr(_sets, "rows", refuse)
    out, err, code = quick(capfd, "list")
    assert code == 2
    assert f"\n{bare} " in out
    assert "does not list robust semaphores: /proc/sysvipc/sem: No such file" in err


def main(words, before=""):
    """Run the command line in a new process, after other code."""
    code = f"import sys\nsys.argv[1:] = {words!r}\n{before}\n"
    code += "from named_semaphores import __main__\n__main__.main()"
    return call([sys.executable, "-c", code])


@pytest.mark.parametrize("words", [["list"], ["run", "x", "true"]], ids=str)
def test_a_python_without_ctypes(words):
    result = main(words, "sys.modules['_ctypes'] = sys.modules['ctypes'] = None")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "needs ctypes, and cannot import it" in result.stderr


def test_ctrl_c_ends_it_as_any_program():
    interrupt = """
import os
from named_semaphores.cli import parser
parser.main = lambda words: os.kill(os.getpid(), 2)
"""
    result = main(["list"], interrupt)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


# Help and output


COMMANDS = ("run", "list", "holders", "value", "acquire", "release", "create", "resize", "unlink")


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)], ids=str)
def test_help_begins_with_an_example(capfd, words):
    out, err, code = quick(capfd, *words, "--help")
    assert (err, code) == ("", 0)
    assert out.startswith("usage: named-semaphores ")
    example = "Example: named-semaphores " + (words[0] if words else "run build --slots 2 make all")
    assert out.splitlines()[1].startswith(example)
    assert max(map(len, out.splitlines())) <= 80
    assert ('"release NAME" puts one back' in " ".join(out.split())) is (words == ["acquire"])


def test_the_version(capfd):
    steps(capfd, ("--version", f"named-semaphores {named_semaphores.__version__}\n"))


@on_linux
@pytest.mark.parametrize(
    ("words", "output", "number"),
    [
        ("value NAME", ">/dev/full", errno.ENOSPC),
        ("--help", ">/dev/full", errno.ENOSPC),
        ("list --json", ">&-", errno.EBADF),
        ("value NAME", "<&- >&- 2>&-", None),
    ],
)
def test_output_that_cannot_be_written(sem, words, output, number):
    words = line(*words.replace("NAME", sem.name).split())
    result = call(["sh", "-c", f'exec "$@" {output}', "sh", *words])
    said = f"{PROG}: standard output: {os.strerror(number)}\n" if number else ""
    assert (result.returncode, result.stderr) == (2, said)


def test_a_reader_that_leaves(sem):
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"capture_output": False, "stdout": writing, "stderr": subprocess.PIPE}
    result = call(line("value", sem.name), **streams)
    os.close(writing)
    assert (result.returncode, result.stderr) == (-signal.SIGPIPE, "")


COPY = """
import sys
from app._vendor.named_semaphores import NamedSemaphore
assert "named_semaphores" not in sys.modules
sem = NamedSemaphore(sys.argv[1])
import named_semaphores
assert named_semaphores.NamedSemaphore is not NamedSemaphore
link = named_semaphores.NamedSemaphore(sys.argv[1])
with sem:
    assert not link.acquire(False)
"""


@on_linux
def test_a_copy_inside_another_package(tmp_path, sem):
    copy = tmp_path / "app" / "_vendor" / "named_semaphores"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PLACE / "named_semaphores", copy, ignore=ignore)
    python, name = [sys.executable, "-W", "error"], sem.name + "x"
    module = [*python, "-m", "app._vendor.named_semaphores"]
    idle = [*module, "unlink", "--unused", "--yes", name]  # which the end of run leaves
    for words in ([*python, "-c", COPY, name], [*module, "run", name, "true"], idle):
        result = call(words, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
    result = call([*module, "unlink", "a/b", sem.name], cwd=tmp_path)
    assert result.stderr.startswith(f"{PROG.replace('-m ', '-m app._vendor.')}: ")
    assert (result.stderr.count("\n"), result.returncode) == (1, 2)
    assert not Path(f"/dev/shm/sem.{sem.name[1:]}").exists()


# list and holders


@with_glibc
def test_list(sem, robust, bare, capfd):
    with robust.hold(2):
        (table, *told), (text, *told_) = (
            quick(capfd, "list", *words) for words in ([], ["--json"])
        )
    assert told == told_ == ["", 0]
    heading, *rows = table.splitlines()
    columns = "NAME KIND FREE SLOTS WAITING USERS HOLDERS PIDS MODE OWNER AGE"
    assert heading.split() == columns.split()
    posix, robust_ = (row.split() for row in rows if row.startswith(bare + " "))
    assert posix[1:5] == ["posix", "1", "-", "-"]
    assert posix[6] == "-"
    assert str(os.getpid()) in posix[7].split(",")
    assert robust_[1:9] == ["robust", "1", "3", "0", "1", str(os.getpid()), "-", "0600"]
    posix, robust_ = (found for found in json.loads(text) if found["name"] == bare)
    assert (posix["kind"], posix["slots"], os.getpid() in posix["pids"]) == ("posix", None, True)
    assert 0 <= posix["age"] < SECONDS
    expected = {"kind": "robust", "value": 1, "slots": 3, "mode": "0600", "stays": False}
    expected["holders"] = [{"pid": os.getpid(), "tokens": 2}]
    assert {key: robust_[key] for key in expected} == expected


def held(*holders):
    return {"kind": "robust", "holders": tuple(listing.Holder(*holder) for holder in holders)}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"name": "/x\x1b[2J"}, {"NAME": "x\\x1b[2J"}),
        ({"value": None}, {"FREE": "?"}),
        ({"value": -2}, {"FREE": "-2"}),
        ({"users": 0, "pids": ()}, {"USERS": "0", "PIDS": "-"}),
        ({"pids": (), "all_pids": False}, {"PIDS": "?"}),
        ({"users": 2, "pids": (1, 22)}, {"USERS": "2", "PIDS": "1,22"}),
        ({"pids": (1, 22), "all_pids": False}, {"PIDS": "1,22,?"}),
        (held(), {"HOLDERS": "-"}),
        (held((0, 1), (5, 1), (None, 3)), {"HOLDERS": "?,5,?"}),
        ({"uid": 4_000_000_000}, {"OWNER": "4000000000"}),
        ({"created": 1e9 - 5}, {"AGE": "5s"}),
        ({"created": 1e9 - 119}, {"AGE": "1m"}),
        ({"created": 1e9 - 3 * 3600}, {"AGE": "3h"}),
        ({"created": 1e9 - 100 * 86400}, {"AGE": "100d"}),
    ],
    ids=str,
)
def test_list_shows(capfd, monkeypatch, given, shown):
    usual = {"name": "/x", "value": 1, "pids": (), "all_pids": True}
    usual.update(mode=0o600, uid=os.getuid(), created=0)
    monkeypatch.setattr(listing.time, "time", lambda: 1e9)
    listed = [listing.SemaphoreInfo(**{**usual, **given})]
    monkeypatch.setattr(commands, "list_posix", lambda: listed)
    monkeypatch.setattr(commands, "list_robust", list)
    row = dict(zip(*map(str.split, quick(capfd, "list")[0].splitlines())))
    assert {column: row[column] for column in shown} == shown


@with_glibc
@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"\\xe4"), ("latin-1", b"\xe4"), ("utf-8", b"\xc3\xa4")]
)
def test_other_programs_names_that_the_output_cannot_show(name, bare, encoding, shown):
    NamedSemaphore(name, 0, unlink_on_delete=False)
    collect()  # this process does not have it open
    file = os.fsencode("/dev/shm/sem." + bare)
    os.link(file, file + b"\xe4")  # no text
    os.rename(file, file + b"\xc3\xa4")
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    try:
        result = call(line("list"), env=environment, text=False)
    finally:
        os.unlink(file + b"\xe4")
        os.unlink(file + b"\xc3\xa4")
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"%s\\udce4 " % bare.encode() in result.stdout
    assert b"%s%s " % (bare.encode(), shown) in result.stdout


@on_linux
def test_holders_of_a_robust_one(robust, bare, capfd):
    steps(capfd, (f"holders {bare}", "PID  TOKENS  USER  ELAPSED  COMMAND\n"))
    words = line("run", bare, "sh", "-c", "read it; :", "a b")
    with robust.hold(2), Child(words, stdin=subprocess.PIPE, env=ENVIRONMENT) as process:
        wait_for(lambda: robust.value == 0)
        wait_for(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sh"))
        table = quick(capfd, "holders", bare)[0].splitlines()
        out, err, code = quick(capfd, "holders", "/" + bare, "--json")
        process.kill()
    rows = {int(row.split()[0]): row.split(None, 4)[1:] for row in table[1:]}
    assert rows[os.getpid()][0] == "2"
    assert rows[process.pid][0] == "1"
    assert rows[process.pid][3] == "sh -c read it; : a b"
    assert (err, code) == ("", 0)
    found = {holder["pid"]: holder for holder in json.loads(out)}
    assert sorted(found) == sorted(rows)
    assert found[process.pid]["user"] == listing.user_name(os.geteuid()) == rows[process.pid][1]
    assert 0 <= found[process.pid]["elapsed"] < SECONDS


def test_holders_that_are_not_known_well(robust, bare, capfd, monkeypatch):
    monkeypatch.setattr(_set.Set, "holders", lambda self: [(0, 1), (2**22 + 1, 1), (None, 3)])
    rows = [row.split(None, 4) for row in quick(capfd, "holders", bare)[0].splitlines()[1:]]
    assert rows == [
        ["0", "1", "?", "?", "(of another PID namespace)"],
        ["4194305", "1", "?", "?", "?"],
        ["?", "3", "?", "?", "(several processes)"],
    ]


@on_linux
def test_holders_of_a_posix_one(sem, bare, capfd):
    done = call(line("holders", bare))
    assert done.returncode == 0
    assert [row.split()[:2] for row in done.stdout.splitlines()[1:]] == [[str(os.getpid()), "?"]]
    assert f"{bare} is a POSIX semaphore: these processes have it open" in done.stderr
    shown = json.loads(call(line("holders", bare, "--json")).stdout)
    assert [(holder["pid"], holder["tokens"]) for holder in shown] == [(os.getpid(), None)]
    assert quick(capfd, "holders", bare)[0].count("\n") == 1  # not the command itself


# unlink --unused


@on_linux
def test_unlink_unused_takes_what_nobody_has_open(alone, robust, bare, capfd):
    if not alone:
        pytest.skip("other sets of this user would be removed, too")
    idle, stays = bare + ".idle", bare + ".stays"
    leave_idle(idle)
    steps(capfd, (f"create {stays}", ""), ("unlink --unused --yes", f"{idle}\n"))
    collect()  # create's object, which PyPy still has
    assert sets() == [bare, stays]
    for words in ("unlink --unused --yes", "unlink --unused"):
        steps(capfd, (words, "nothing to remove\n"))
    out, err, code = quick(capfd, "unlink", "--unused", "--yes", stays, bare)
    said = f"named-semaphores: {bare}: not removed: a process has it open, "
    assert (out, err.startswith(said), code) == (f"{stays}\n", True, 2)
    assert sets() == [bare]


@on_linux
def test_unlink_unused_takes_sets_that_were_never_made_ready(alone, name, capfd, monkeypatch):
    """Their creator was killed, more than a minute ago."""
    if not alone:
        pytest.skip("others' new sets would be removed, too")
    library = _sysv.system()
    library.get(_set.key(name), library.size, _sysv.IPC_CREAT | 0o600)
    steps(capfd, ("unlink --unused --yes", "nothing to remove\n"))
    monkeypatch.setattr(_sets, "_UNREADY", -1)
    steps(capfd, ("unlink --unused --yes", "(a set that was never made ready)\n"))


@on_linux
@pytest.mark.parametrize("answer", ["y", "YES", "n", ""])
def test_unlink_unused_asks(alone, name, bare, capfd, monkeypatch, answer):
    leave_idle(name)
    is_yes = answer in ("y", "YES")
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    steps(capfd, (f"unlink --unused {bare}", f"{bare}\n" * (1 + is_yes)))
    assert asked == ["Remove 1? [y/N] "]
    assert sets() == ([] if is_yes else [bare])
    _sets.remove_idle([name])


@on_linux
def test_unlink_unused_looks_again_after_the_question(alone, name, bare):
    leave_idle(name)
    for closed in ("</dev/null", "<&-", ">&-"):
        words = ["sh", "-c", f'exec "$@" {closed}', "sh", *line("unlink", "--unused", bare)]
        result = call(words)
        said = "unlink: without an answer or --yes nothing is removed"
        if closed == ">&-":
            said = "standard output: Bad file descriptor"
        assert (result.returncode, result.stderr) == (2, f"{PROG}: {said}\n")
        assert result.stdout in ("", f"{bare}\n", f"{bare}\nRemove 1? [y/N] ")
    assert sets() == [bare]
    with Terminal(line("unlink", "--unused", bare)) as terminal:
        terminal.read(r"Remove 1\? \[y/N\]")
        with contextlib.closing(RobustSemaphore(name)) as opened:
            terminal.type("y\n")
            assert terminal.end() == 2
            assert opened.value == 1
    assert f"{bare}: not removed: a process has it open" in terminal.shown
