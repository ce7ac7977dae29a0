# SPDX-License-Identifier: Apache-2.0
"""The command line's run: take tokens, then execute the command in this process.

The kernel gives the tokens back when the process ends. Before the exec nothing does, since no
finalizer and no Python signal handler is concerned. No import here leads to argparse, enum or
typing: each costs more than all the rest of run.
"""

from __future__ import annotations

import errno
import os
import sys

from .. import _libc, _set, _sets, _sysv
from .._common import TYPE_CHECKING, check_integer, clock, deadline_of

if TYPE_CHECKING:
    from typing import Any

NO_TOKEN, ERROR = 1, 2  # exit codes
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127  # a shell's
SILENCE = 1_000_000_000  # nanoseconds of waiting before the message

# "SET:PID" for each run among this process's ancestors, and for this process. Whether they still
# hold tokens, the kernel tells.
ANCESTORS = "NAMED_SEMAPHORES_RUN"


def run(options: dict[str, Any]) -> int:
    """Execute the command. Return the exit code if no token was free in time, or if that fails."""
    name, variable = options["NAME"], options.get("--slot-env")
    library = _sysv.system()
    slots, n = options.get("--slots", 1), options.get("--take", 1)
    no_token: int = options.get("--conflict-exit-code", NO_TOKEN)
    check_integer(name, "--slots", slots, 1, _set.NUMBERS if variable else library.most)
    check_integer(name, "--take", n, 1, options.get("--slots", library.most))
    check_integer(name, "--conflict-exit-code", no_token, 0, 255)
    semset, created = _sets.open_set(library, name, slots, mode=options.get("--mode", 0o600))
    try:
        if created:
            if is_posix(name):
                complain(
                    f"{name[1:]}: there is a POSIX semaphore of this name, too; run makes a "
                    "robust one, and the two know nothing of each other"
                )
            _sets.remove_idle(most=100)  # earlier runs left sets: nobody remained to remove them
        elif "--slots" in options:  # the number named last holds
            semset.resize(slots, complain)
        if variable:
            _check_total(semset)
        if not _take_or_tell(semset, n, options):
            return no_token
        give = _set.give(semset.account, n)
        if variable:
            slot = _take_number(semset)
            os.environ[variable] = str(slot)
            give = _set.give_number(semset.account, slot)
        ancestors = os.environ.get(ANCESTORS, "")
        os.environ[ANCESTORS] = f"{ancestors} {semset.id}:{os.getpid()}".lstrip()
        code = _execute(name[1:], options["COMMAND"])
        semset.operate(give)
        return code
    finally:  # reached only without an exec
        semset.leave()


def _check_total(semset: _set.Set) -> None:
    if semset.total() > _set.NUMBERS:
        raise ValueError(f"run: --slot-env has {_set.NUMBERS} numbers, fewer than the slots")


def _take_number(semset: _set.Set) -> int:
    """Take the lowest free number. This process holds a token, so there is one, or will be."""
    while True:
        for number in range(_set.NUMBERS):
            if semset.operate(_set.take_number(number)):
                return number
        _check_total(semset)  # it may have been resized during the wait


def is_posix(name: str) -> bool:
    try:
        _libc.system().link(name)
    except (NotImplementedError, OSError) as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def _take_or_tell(semset: _set.Set, n: int, options: dict[str, Any]) -> bool:
    if take(semset, n, 0):
        return True
    name = semset.name[1:]
    timeout = 0 if "--no-wait" in options else options.get("--timeout")
    deadline = deadline_of(timeout)
    refusal = _waits_for_itself(semset, n)
    if refusal and deadline is None:
        raise ValueError(refusal)
    silence_ends = clock() + SILENCE
    tells = "--verbose" in options or os.isatty(2)
    if tells and (deadline is None or silence_ends < deadline):
        if take(semset, n, silence_ends):
            return True
        held = _sets.held_by(semset.holders(), "; ")
        complain(f"waiting for {n} of {semset.total()} tokens of {name}{held}")
    if timeout != 0 and take(semset, n, deadline):
        return True
    within = f" within {timeout:g} s" if timeout else ""
    held = _sets.held_by(semset.holders(), "; ")
    not_free = f"{n} of {semset.total()} tokens were not free{within}"
    complain(refusal or f"{name}: {not_free}{held}")
    return False


def take(semset: _set.Set, n: int, deadline: int | None) -> bool:
    """Return True with n tokens; False if they were not free when ``clock()`` was the deadline.

    No Python signal handler runs, so one call waits to the end, and its result is not lost.
    RobustSemaphore waits in slices instead: see ``_several``.
    """
    bias, account = semset.library.bias, semset.account
    semset.check_number(n)
    if semset.operate(_set.take(account, n, bias, _sysv.NOWAIT)):
        return True
    if deadline == 0:
        return False
    if n == 1:
        return _wait(semset, _set.take(account, 1, bias), deadline)
    notice = semset.library.operations > 5
    while _wait(semset, _set.take_first(account, bias), deadline):
        if _wait(semset, _set.take_rest(account, n, bias, notice), deadline):
            return True
        semset.operate(_set.give_up(account))
        if deadline is not None and clock() >= deadline:
            break
        semset.check_number(n)  # there were fewer than n, and there may be more again
    semset.check_number(n)
    return False


def _wait(semset: _set.Set, operations: list[_sysv.Operation], deadline: int | None) -> bool:
    library = semset.library
    now = [(number, change, flags | _sysv.NOWAIT) for number, change, flags in operations]
    while True:
        try:
            if deadline is None:
                return semset.operate(operations)
            if library.semtimedop:
                return semset.ask(library.operate, operations, deadline - clock())
            if semset.operate(now):
                return True
            if clock() >= deadline:
                return False
            library.sleep(0.01)
        except InterruptedError:  # SIGSTOP, then SIGCONT
            pass


def _waits_for_itself(semset: _set.Set, n: int) -> str:
    """Return what to say if the ancestors hold so many tokens that there can never be enough."""
    told = os.environ.get(ANCESTORS, "").split()
    held = sum(tokens for pid, tokens in semset.holders() if f"{semset.id}:{pid}" in told)
    total = semset.total()
    if not held or total - held >= n:
        return ""
    return (
        f"{semset.name[1:]}: this run would wait for itself: it was started by a run that holds "
        f"{held} of {total} tokens until it ends"
    )


def _execute(name: str, words: list[str]) -> int:
    """Execute the command, as execvp(3). If that fails, say why and return the exit code."""
    # os.execvp would pass over a script without "#!", which is the shell's, and could execute
    # another program of that name.
    problem, code = os.strerror(errno.ENOENT), _NOT_FOUND
    for folder in [""] if "/" in words[0] else os.get_exec_path():
        path = os.path.join(folder, words[0])
        try:
            try:
                os.execv(path, words)
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                os.execv("/bin/sh", ["/bin/sh", path, *words[1:]])
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            problem, code = str(error.strerror), _CANNOT_EXECUTE
    if code == _NOT_FOUND and len(words) == 1 and set(words[0]) & set(" ;&|<>$"):
        problem += f" (for a shell: {prog()} run {name} sh -c {words[0]!r})"
    complain(f"{words[0]}: {problem}")
    return code


# --- What the user reads --------------------------------------------------------------------------


def prog() -> str:
    """Return how the user called this program."""
    package = (__package__ or "").rpartition(".")[0]
    if getattr(sys.modules["__main__"], "__package__", None) == package:
        return f"{os.path.basename(sys.executable)} -m {package}"
    return "named-semaphores"


def show(text: object) -> None:
    """Write a line to standard output, without a buffer that Python would try again at its end."""
    # Another program's name may have any character. No stdout: it was closed at the start.
    descriptor, encoding = (1, sys.stdout.encoding) if sys.stdout else (-1, "ascii")
    data = f"{text}\n".encode(encoding, "backslashreplace")
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def complain(problem: object) -> None:
    """Write one line to standard error: a text or an exception. Names lose their slash."""
    text = str(problem).replace("semaphore '/", "semaphore '")
    if isinstance(problem, OSError) and problem.filename is not None:
        folder, _, name = problem.filename.rpartition("/")
        text = f"{problem.filename if folder else name}: {problem.strerror}"
    try:
        os.write(2, os.fsencode(f"{prog()}: {text}\n"))  # bytes: a file's name may not be encodable
    except OSError:  # nobody reads it
        pass
