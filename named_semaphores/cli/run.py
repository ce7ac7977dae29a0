# SPDX-License-Identifier: Apache-2.0
"""The command line's run: take tokens, then execute the command in this process.

The kernel gives the tokens back when the process ends. Nothing gives them back between the take
and the exec: no finalizer of this process does, and there is no Python signal handler.

This module imports neither argparse, enum nor typing, directly or not: each costs more than all
the rest of run.
"""

from __future__ import annotations

import errno
import os
import sys
from itertools import cycle

from .. import _set, _sets, _sysv
from .._common import check_integer, check_name, clock, deadline_of

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn

NO_TOKEN, ERROR = 1, 2  # exit codes
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127  # a shell's
_SILENCE = 1_000_000_000  # nanoseconds of waiting before the message
_PAUSE = 0.01  # seconds, where a timed wait must poll

# "SET:PID" for each run among this process's ancestors, and for this process. Whether they still
# hold tokens, the kernel tells.
ANCESTORS = "NAMED_SEMAPHORES_RUN"


def run(words: list[str]) -> int:
    """Execute the command line after "run". Return the exit code if that fails, or after help."""
    options = _Options()
    try:
        if _parse(words, options):
            return _run(options)
    except (NotImplementedError, OSError, ValueError) as error:
        complain(error, options.name or "")
        return ERROR
    from .parser import main

    return main(["run", "--help"])


# --- Words ----------------------------------------------------------------------------------------


class _Options:
    name: str | None = None
    command: list[str]
    slots: int | None = None
    take = 1
    timeout: float | None = None
    conflict_exit_code = NO_TOKEN
    mode = 0o600
    slot_env = ""
    no_wait = verbose = False


def number(text: str) -> int:
    """Return the number. ``int`` would also accept other digits than ASCII's, and ``1_0``."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def _variable(text: str) -> str:
    if not text or "=" in text:
        raise ValueError(f"{text!r} is not the name of an environment variable")
    return text


def mode(text: str) -> int:
    if not text or set(text) - set("01234567") or int(text, 8) > 0o777:
        raise ValueError(f"{text!r} is not a mode in octal, as 0660")
    return int(text, 8)


def seconds(text: str) -> float:
    count = float(text) if text.isascii() and "_" not in text else -1.0
    if not count >= 0:  # true for NaN, too
        raise ValueError(f"{text!r} is not a number of seconds from 0")
    return count


_FLAGS = ("--no-wait", "--verbose")
_VALUES: dict[str, Callable[[str], Any]] = {
    "--slots": number,
    "--take": number,
    "--timeout": seconds,
    "--conflict-exit-code": number,
    "--mode": mode,
    "--slot-env": _variable,
}
_SHORT = {"-n": "--no-wait", "-w": "--timeout", "-E": "--conflict-exit-code"}  # flock's
_LIKE = {"--nonblock": "--no-wait", "--wait": "--timeout"}  # flock's, too


def _parse(words: list[str], options: _Options) -> bool:
    """Set the options. Return False if the user asks for help.

    The command begins with the first word after the name that is no option.
    """
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            return False
        if word == "--":
            break
        if not word.startswith("-"):
            if options.name is not None:
                rest.insert(0, word)
                break
            options.name = word
            continue
        option, equals, value = word.partition("=")
        if word[:2] in _SHORT:  # "-w 5", "-w5" or "-w=5"
            option, equals, value = _SHORT[word[:2]], word[2:], word[2:].lstrip("=")
        given: Any = True
        if option in _VALUES:
            try:
                given = _VALUES[option](value if equals or not rest else rest.pop(0))
            except ValueError as error:
                raise ValueError(f"run: {option}: {error}") from None
        elif option not in _FLAGS or equals:
            import difflib  # takes long, and is needed for a mistyped word only

            like = _LIKE.get(option, option)
            found = difflib.get_close_matches(like, [*_FLAGS, *_VALUES])
            hint = f"did you mean {' or '.join(found)}? " if found else ""
            raise ValueError(
                f"run: there is no option {word} ({hint}{prog()} run --help lists them; a command "
                "that begins with '-' needs '--' before it)"
            )
        setattr(options, option[2:].replace("-", "_"), given)
    options.command = rest
    if options.name is None or not any(rest[:1]):
        raise ValueError(f"run needs a name and a command ({prog()} run --help tells more)")
    if options.no_wait and options.timeout is not None:
        raise ValueError("run: either --timeout or --no-wait, not both")
    if options.slot_env and options.take > 1:
        raise ValueError("run: either --slot-env or --take, not both")
    return True


# --- Tokens ---------------------------------------------------------------------------------------


def _run(options: _Options) -> int:
    name = check_name(options.name)
    deadline = deadline_of(0 if options.no_wait else options.timeout)
    library = _sysv.system()
    slots, most = 1 if options.slots is None else options.slots, library.system.bias - 1
    check_integer(name, "--slots", slots, 1, most)
    check_integer(name, "--take", options.take, 1, options.slots or most)
    check_integer(name, "--conflict-exit-code", options.conflict_exit_code, 0, 255)
    semset, created = _sets.open_set(library, name, slots, mode=options.mode)
    try:
        if created:
            if is_posix(name):
                complain(
                    f"{options.name}: there is a POSIX semaphore of this name, too; run makes a "
                    "robust one, and the two know nothing of each other"
                )
            _sets.remove_idle(most=100)  # earlier runs left sets: nobody remained to remove them
        elif options.slots is not None:  # the number named last holds
            before = semset.total()
            if before != slots and semset.users() > 1:
                complain(f"{options.name}: now {slots} slots for all processes, before {before}")
            semset.resize(slots)
        if options.slot_env and semset.total() > _set.NUMBERS:
            raise ValueError(f"run: --slot-env has {_set.NUMBERS} numbers, fewer than the slots")
        if not _take_or_tell(semset, options, deadline):
            return options.conflict_exit_code
        give = _set.give(semset.account, options.take)
        if options.slot_env:
            # A number is free, or will be in an instant.
            numbers = cycle(range(_set.NUMBERS))
            slot = next(k for k in numbers if semset.operate(_set.take_number(k)))
            os.environ[options.slot_env] = str(slot)
            give = _set.give_number(semset.account, slot)
        ancestors = os.environ.get(ANCESTORS, "")
        os.environ[ANCESTORS] = f"{ancestors} {semset.id}:{os.getpid()}".lstrip()
        code = _execute(options)
        semset.operate(give)
        return code
    finally:  # reached only without an exec
        semset.leave()


def is_posix(name: str) -> bool:
    """Return whether there is a POSIX semaphore of this name."""
    from .._libc import Libc, load

    try:
        Libc(load()).link(name)
    except (NotImplementedError, OSError) as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def _take_or_tell(semset: _set.Set, options: _Options, deadline: int | None) -> bool:
    """Take the tokens, or say why not."""
    n = options.take
    if take(semset, n, 0):
        return True
    refusal = _waits_for_itself(semset, options)
    if refusal and deadline is None:
        raise ValueError(refusal)
    silence_ends = clock() + _SILENCE
    if (deadline is None or silence_ends < deadline) and (options.verbose or os.isatty(2)):
        if take(semset, n, silence_ends):
            return True
        total = semset.total()
        complain(f"waiting for {n} of {total} tokens of {options.name}{_held_by(semset)}")
    # take() also returns False early: there were fewer tokens in all than n, and are enough again.
    while deadline is None or clock() < deadline:
        if take(semset, n, deadline):
            return True
    within = f" within {options.timeout:g} s" if options.timeout else ""
    not_free = f"{n} of {semset.total()} tokens were not free{within}"
    complain(refusal or f"{options.name}: {not_free}{_held_by(semset)}")
    return False


def take(semset: _set.Set, n: int, deadline: int | None) -> bool:
    """Take n tokens. ValueError: there are fewer in all.

    No Python signal handler runs, so one call waits to the end, and what it returns is not lost.
    ``_several`` does the same for RobustSemaphore, in slices that signals may interrupt.

    Returns:
        False: they were not free when ``clock()`` was the deadline (None: never, 0: at once).
    """
    bias, account = semset.library.system.bias, semset.account
    semset.check_number(n)
    if semset.operate(_set.take(account, n, bias, _sysv.NOWAIT)):
        return True
    if deadline == 0:
        return False
    if n == 1:
        return _wait(semset, _set.take(account, 1, bias), deadline)
    notice = semset.library.system.operations > 5
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
            left = deadline - clock()
            if library.semtimedop:
                return semset.ask(library.operate, operations, left)
            if semset.operate(now):
                return True
            if left <= 0:
                return False
            library.sleep(min(_PAUSE, left / 1e9))
        except InterruptedError:  # SIGSTOP, then SIGCONT
            pass


def _held_by(semset: _set.Set) -> str:
    holders = semset.holders()
    return f"; {_set.shown_holders(holders)}" if holders else ""


def _waits_for_itself(semset: _set.Set, options: _Options) -> str:
    """Return what to say if the ancestors hold so many tokens that there can never be enough."""
    told = os.environ.get(ANCESTORS, "").split()
    held = sum(n for pid, n in semset.holders() if f"{semset.id}:{pid}" in told)
    total = semset.total()
    if not held or total - held >= options.take:
        return ""
    return (
        f"{options.name}: this run would wait for itself: it was started by a run that holds "
        f"{held} of {total} tokens until it ends"
    )


def _execute(options: _Options) -> int:
    """Execute the command. If that fails, say why and return the exit code."""
    words = options.command
    try:
        _execvp(words)
    except OSError as error:
        problem = error.strerror
        if error.errno == errno.ENOENT and len(words) == 1 and set(words[0]) & set(" ;&|<>$"):
            problem = f"{problem} (for a shell: {prog()} run {options.name} sh -c {words[0]!r})"
        complain(OSError(error.errno, problem, words[0]))
        return _NOT_FOUND if error.errno == errno.ENOENT else _CANNOT_EXECUTE


def _execvp(words: list[str]) -> NoReturn:
    """As execvp(3): unlike ``os.execvp``, run a script without "#!" by the shell."""
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in [""] if os.path.dirname(words[0]) else folders:
        path = os.path.join(folder, words[0])
        try:
            os.execv(path, words)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execv("/bin/sh", ["/bin/sh", path, *words[1:]])
            if error.errno == errno.EACCES:
                failure = error
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
    raise failure


def prog() -> str:
    """Return how the user called this program."""
    package = (__package__ or "").rpartition(".")[0]
    if getattr(sys.modules["__main__"], "__package__", None) == package:
        return f"{os.path.basename(sys.executable)} -m {package}"
    return "named-semaphores"


def complain(problem: object, typed: str = "") -> None:
    """Write one line to standard error: a text or an exception.

    typed: what the user typed, which takes the place of the semaphore's name with its slash.
    """
    text = str(problem)
    slashed = typed if typed.startswith("/") else f"/{typed}"
    if isinstance(problem, OSError) and problem.filename is not None:
        name = typed if typed and problem.filename == slashed else problem.filename
        text = f"{name}: {problem.strerror}"
    text = text.replace(repr(slashed), repr(typed or slashed))
    try:
        os.write(2, os.fsencode(f"{prog()}: {text}\n"))  # bytes: a file's name may not be encodable
    except OSError:  # nobody reads it
        pass
