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
from functools import partial
from itertools import cycle

from .._checks import check_name, clock, deadline_of

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Callable, NoReturn

    from .._set import Set

NO_TOKEN, ERROR = 1, 2  # exit codes
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127  # a shell's
_SILENCE = 1_000_000_000  # nanoseconds of waiting before the message
_MOST = 16383  # as in _set, which is imported only for a correct command line

# "SET:PID" for each run among this process's ancestors, and for this process. Whether they still
# hold tokens, the kernel tells.
ANCESTORS = "NAMED_SEMAPHORES_RUN"


def run(words: list[str]) -> int | None:
    """Take tokens and execute the command.

    Args:
        words: the command line after "run".

    Returns:
        The exit code after a failure; None if the user asks for help. Otherwise it does not return.
    """
    typed = ""
    try:
        options = _parse(words)
        if options is None:
            return None
        typed = options.name or ""
        return _run(options)
    except ImportError as error:  # WASI's Python has no ctypes
        complain(f"run needs ctypes, and this Python cannot import it: {error}")
    except (NotImplementedError, OSError, ValueError) as error:
        complain(error, typed)
    return ERROR


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


def integer(text: str, least: int, most: int, what: str) -> int:
    """Return the number. ``int`` would also accept other digits than ASCII's, and ``1_0``."""
    if text.isascii() and text.isdigit() and least <= int(text) <= most:
        return int(text)
    raise ValueError(f"{text!r} is not {what} from {least} to {most}")


def seconds(text: str) -> float:
    try:
        number = float(text) if text.isascii() and "_" not in text else -1.0
    except ValueError:
        number = -1.0
    if not number >= 0:  # true for NaN, too
        raise ValueError(f"{text!r} is not a number of seconds from 0")
    return number


def mode(text: str) -> int:
    if text.isascii() and text.isdigit() and not set(text) & {"8", "9"} and int(text, 8) <= 0o777:
        return int(text, 8)
    raise ValueError(f"{text!r} is not a mode in octal, as 0660")


def _variable(text: str) -> str:
    if not text or "=" in text:
        raise ValueError(f"{text!r} is not the name of an environment variable")
    return text


_FLAGS = ("--no-wait", "--verbose")
_tokens = partial(integer, least=1, most=_MOST, what="a number")
_VALUES: dict[str, Callable[[str], Any]] = {
    "--slots": _tokens,
    "--take": _tokens,
    "--timeout": seconds,
    "--conflict-exit-code": partial(integer, least=0, most=255, what="an exit code"),
    "--mode": mode,
    "--slot-env": _variable,
}
_SHORT = {"-n": "--no-wait", "-w": "--timeout", "-E": "--conflict-exit-code"}  # flock's
_ITS_WORDS = {"--nonblock": "--no-wait", "--nb": "--no-wait", "--wait": "--timeout"}


def _parse(words: list[str]) -> _Options | None:
    """Return the options; None if the user asks for help.

    The command begins with the first word after the name that is no option.
    """
    options, rest = _Options(), list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            return None
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            if options.name is not None:
                rest.insert(0, word)
                break
            options.name = word
            continue
        option, equals, value = word.partition("=")
        if word[:2] in _SHORT:
            option, equals, value = _SHORT[word[:2]], word[2:], word[2:]  # -w5
        given: Any = True
        if option in _VALUES:
            if not equals and not rest:
                raise ValueError(f"run: {option} needs a value ({prog()} run --help tells more)")
            try:
                given = _VALUES[option](value if equals else rest.pop(0))
            except ValueError as error:
                raise ValueError(f"run {options.name or 'NAME'}: {option}: {error}") from None
        elif option not in _FLAGS or equals:
            hint = like(word, (*_FLAGS, *_VALUES))
            raise ValueError(
                f"run: there is no option {word} ({hint}{prog()} run --help lists them; a command "
                "that begins with '-' needs '--' before it)"
            )
        setattr(options, option[2:].replace("-", "_"), given)
    options.command = rest
    _check(options)
    return options


def _check(options: _Options) -> None:
    if options.name is None or not options.command:
        missing = "a command" if options.name else "a name and a command"
        usage = f"{prog()} run {options.name or 'NAME'} [--slots N] COMMAND..."
        raise ValueError(f"run needs {missing}: {usage}")
    if options.no_wait and options.timeout is not None:
        raise ValueError("run: either --timeout or --no-wait, not both")
    if options.slot_env and options.take > 1:
        raise ValueError("run: either --slot-env or --take, not both")
    if options.slots is not None and options.take > options.slots:
        raise ValueError(
            f"run: --take {options.take} is more than --slots {options.slots}: "
            "such a number is never free"
        )


def like(word: str, options: Iterable[str]) -> str:
    """Return a hint: which options the unknown one is like."""
    import difflib  # takes long, and is needed for a mistyped word only

    option, options = word.partition("=")[0], sorted(options)
    found = [other for other in options if len(option) > 3 and other.startswith(option)]
    found = found or difflib.get_close_matches(_ITS_WORDS.get(option, option), options)
    return f"did you mean {' or '.join(found)}? " if found else ""


# --- Tokens ---------------------------------------------------------------------------------------


def _run(options: _Options) -> int:
    name = check_name(options.name)
    from .. import _opening, _set, _sets, _sysv

    try:
        library = _sysv.system()
        semset, created = _opening.open_set(library, name, options.slots or 1, mode=options.mode)
    except NotImplementedError as error:
        raise NotImplementedError(f"run needs System V semaphores: {error}") from None
    try:
        if created:
            _tell_of_posix(name, options)
            _sets.sweep()  # earlier runs left their sets: nobody remained to remove them
        elif options.slots is not None:
            _resize(semset, options.slots, options)  # the number named last holds
        number = _take(semset, options)
        if number is None:
            return options.conflict_exit_code
        if options.slot_env:
            os.environ[options.slot_env] = str(number)
        ancestors = os.environ.get(ANCESTORS, "")
        os.environ[ANCESTORS] = f"{ancestors} {semset.id}:{os.getpid()}".lstrip()
        code = _execute(options)
        give = _set.give_number if options.slot_env else _set.give
        semset.operate(give(semset.account, number if options.slot_env else options.take))
        return code
    finally:  # reached only without an exec
        semset.leave()


def _resize(semset: Set, slots: int, options: _Options) -> None:
    before = semset.total()
    if before != slots and semset.users() > 1:
        number = "1 slot" if slots == 1 else f"{slots} slots"
        complain(f"{options.name}: now {number} for all processes, before {before}")
    semset.resize(slots)


def _tell_of_posix(name: str, options: _Options) -> None:
    from .._libc import Libc, load

    try:
        Libc(load()).link(name)
    except PermissionError:  # another user's
        pass
    except (NotImplementedError, OSError):
        return
    complain(
        f"{options.name}: there is a POSIX semaphore of this name, too; run makes a robust one, "
        "and the two know nothing of each other"
    )


def _take(semset: Set, options: _Options) -> int | None:
    """Return the slot's number (0 without --slot-env); None: not free in time."""
    n, limit = options.take, 0.0 if options.no_wait else options.timeout
    deadline = deadline_of(limit)
    number = _take_until(0, semset, options)
    if number is not None:
        return number
    refusal = _waits_for_itself(semset, options)
    if refusal and deadline is None:
        raise ValueError(refusal)
    if (limit is None or limit > _SILENCE / 1e9) and (options.verbose or os.isatty(2)):
        number = _take_until(clock() + _SILENCE, semset, options)
        if number is None:
            others = semset.waiting()
            waits = f" ({others} other{' waits' if others == 1 else 's wait'})" if others else ""
            wanted = _of(n, semset.total())
            complain(f"waiting for {wanted} of {options.name}{waits}{_held_by(semset)}")
    # take() also returns False early: there were fewer tokens in all than K, and are enough again.
    while number is None and limit != 0 and (deadline is None or clock() < deadline):
        number = _take_until(deadline, semset, options)
    if number is None:
        within = f" within {limit:g} s" if limit else ""
        total = semset.total()
        not_free = "the only token was not" if total == 1 else f"{n} of {total} tokens were not"
        if n == 1 < total:
            not_free = f"none of {total} tokens was"
        complain(refusal or f"{options.name}: {not_free} free{within}{_held_by(semset)}")
    return number


def _take_until(deadline: int | None, semset: Set, options: _Options) -> int | None:
    from .. import _set
    from . import take

    if options.slot_env and semset.total() > _set.NUMBERS:
        raise ValueError(
            f"run: --slot-env has {_set.NUMBERS} numbers, and {options.name} has {semset.total()} "
            "slots"
        )
    try:
        if not take.take(semset, options.take, deadline):
            return None
    except ValueError as error:
        raise ValueError(f"run: --take {options.take} is too many: {error}") from None
    if not options.slot_env:
        return 0
    # A number is free, or will be in an instant.
    numbers = cycle(range(_set.NUMBERS))
    return next(filter(lambda number: semset.operate(_set.take_number(number)), numbers))


def _of(n: int, total: int) -> str:
    return "the only token" if total == 1 else f"{n} of {total} tokens"


def _held_by(semset: Set) -> str:
    from .._sets import shown_holders

    holders = semset.holders()
    return f"; {shown_holders(holders)}" if holders else ""


def _waits_for_itself(semset: Set, options: _Options) -> str:
    """Return what to say if the ancestors hold so many tokens that there can never be enough."""
    told = os.environ.get(ANCESTORS, "").split()
    theirs = {pid: n for pid, n in semset.holders() if f"{semset.id}:{pid}" in told}
    held, total = sum(theirs.values()), semset.total()
    if not theirs or total - held >= options.take:
        return ""
    pids = ", ".join(map(str, theirs))
    return (
        f"{options.name}: this run would wait for itself: it was started by a run that holds "
        f"{_of(held, total)} until it ends (process {pids})"
    )


# --- The command ----------------------------------------------------------------------------------


def _execute(options: _Options) -> int:
    """Execute the command. If that fails, say why and return the exit code."""
    words = options.command
    try:
        _execvp(words)
    except OSError as error:
        problem = error.strerror
        if error.errno == errno.ENOENT and len(words) == 1 and set(words[0]) & set(" ;&|<>$"):
            line = words[0].replace("'", "'\\''")
            problem = f"{problem} (for a shell: {prog()} run {options.name} sh -c '{line}')"
        complain(OSError(error.errno, problem, words[0]))
        return _NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else _CANNOT_EXECUTE


def _execvp(words: list[str]) -> NoReturn:
    """As execvp(3): unlike ``os.execvp``, run a script without "#!" by the shell."""
    program = words[0]
    is_path = bool(os.path.dirname(program))
    folders = [""] if is_path else os.environ.get("PATH", os.defpath).split(os.pathsep)
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in folders if program else ():
        path = os.path.join(folder, program)
        try:
            os.execv(path, words)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execv("/bin/sh", ["/bin/sh", path, *words[1:]])
            if is_path or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                raise
            # A folder that this user may not search gives EACCES, too.
            if error.errno == errno.EACCES and os.path.exists(path):
                failure = error
    raise failure


# --- Standard error -------------------------------------------------------------------------------


def prog() -> str:
    """Return how the user called this program."""
    package = (__package__ or "").rpartition(".")[0]
    if getattr(sys.modules["__main__"], "__package__", None) == package:
        return f"{os.path.basename(sys.executable)} -m {package}"
    return "named-semaphores"


def shown(text: str) -> str:
    """Return the text without control sequences for a terminal: other programs chose it."""
    return text if text.isprintable() else ascii(text)[1:-1]


def complain(problem: object, typed: str = "") -> None:
    """Write one line to standard error.

    Args:
        problem: a text or an exception.
        typed: the semaphore's name as the user typed it, which takes the place of the name with
            its slash.
    """
    text = str(problem)
    slashed = typed if typed.startswith("/") else f"/{typed}"
    if isinstance(problem, OSError) and problem.filename is not None:
        name = os.fsdecode(problem.filename)
        text = f"{typed if name == slashed else name}: {problem.strerror}"
    text = text.replace(repr(slashed), repr(typed or slashed))
    if sys.stderr is None:  # it was closed at the start
        return
    try:
        os.write(2, os.fsencode(f"{prog()}: {text}\n"))  # bytes: a file's name may not be encodable
    except OSError:  # the terminal hung up
        pass
