# SPDX-License-Identifier: Apache-2.0
"""The command line's run: acquire tokens, then execute the command in this process. The kernel returns the tokens when the process ends.

Nothing returns them between the acquire and the exec: no object here has a finalizer, and no Python signal handler is installed. This module
must not import enum, argparse or typing, directly or not: each costs more than everything else here.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from ._check import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn, TypeVar

    from ._sysv import Set

    Number = TypeVar("Number", int, float)

NO_TOKEN, ERROR = 1, 2  # exit codes
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127  # a shell's
_SILENCE = 1.0  # seconds of waiting before the message
_FOREVER = 1e9  # seconds, 31 years; a longer timeout may overflow the system's time_t, and waits without a limit
_MAX_TOKENS = 32767  # as in _sysv, which is imported only for a correct command line


def run(words: list[str]) -> int | None:
    """Acquire and execute as the words after "run" say. Returns only on failure, with the exit code, or with None if the user asks for help."""
    try:
        options = _parse(words)
        return None if options is None else _run(options)
    except ImportError as error:  # WASI's Python has no ctypes
        complain(f"run needs ctypes, and this Python cannot import it: {error}")
    except (NotImplementedError, OSError, ValueError) as error:
        complain(error)
    return ERROR


# --- Words --------------------------------------------------------------------------------------------------------------------------


class _Options:
    name: str | None = None
    command: list[str]
    slots: int | None = None
    take = 1
    timeout: float | None = None
    no_wait = verbose = False
    conflict_exit_code = NO_TOKEN


def _number(
    convert: Callable[[str], Number], text: str, least: float, most: float, what: str
) -> Number:
    try:
        number = convert(text)
    except ValueError:
        number = convert("-1")
    if not least <= number <= most:  # false for NaN too
        raise ValueError(f"{text!r} is not {what}")
    return number


def tokens(text: str) -> int:
    return _number(int, text, 1, _MAX_TOKENS, f"a number from 1 to {_MAX_TOKENS}")


def seconds(text: str) -> float:
    return _number(float, text, 0, float("inf"), "a number of seconds from 0")


def exit_code(text: str) -> int:
    return _number(int, text, 0, 255, "an exit code from 0 to 255")


_FLAGS = ("--no-wait", "--verbose")
_VALUES: dict[str, Callable[[str], Any]] = {
    "--slots": tokens,
    "--take": tokens,
    "--timeout": seconds,
    "--conflict-exit-code": exit_code,
}


def _parse(words: list[str]) -> _Options | None:
    """Return the options; None if the user asks for help. The first word after the name that is no option begins the command."""
    options = _Options()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        option, equals, value = word.partition("=")
        if word in ("-h", "--help"):
            return None
        if word in _FLAGS:
            setattr(options, _attribute(word), True)
        elif option in _VALUES:
            if not equals:
                if not rest:
                    raise ValueError(
                        f"run: {option} needs a value after it ({prog()} run --help tells more)"
                    )
                value = rest.pop(0)
            try:
                setattr(options, _attribute(option), _VALUES[option](value))
            except ValueError as error:
                raise ValueError(f"run {options.name or 'NAME'}: {option}: {error}") from None
        elif word.startswith("-") and word != "-":
            hint = f"{prog()} run --help lists the options; a command that begins with '-' needs '--' before it"
            raise ValueError(f"run: there is no option {word} ({hint})")
        elif options.name is not None:
            rest.insert(0, word)
            break
        else:
            options.name = word
    if options.name is None or not rest:
        missing = "a command" if options.name else "a name and a command"
        raise ValueError(
            f"run needs {missing}: {prog()} run {options.name or 'NAME'} [--slots N] COMMAND..."
        )
    if options.no_wait and options.timeout is not None:
        raise ValueError("run: either --timeout or --no-wait, not both")
    if options.slots is not None and options.take > options.slots:
        raise ValueError(
            f"run: --take {options.take} is more than --slots {options.slots}: such a number is never free"
        )
    options.command = rest
    return options


def _attribute(option: str) -> str:
    return option[2:].replace("-", "_")


# --- Tokens -------------------------------------------------------------------------------------------------------------------------


def _run(options: _Options) -> int:
    name = check_name(options.name)
    from . import _sysv

    try:
        system = _sysv.system()
        opened = system.open(name, options.slots)
    except NotImplementedError:
        raise NotImplementedError(
            f"run needs System V semaphores, which this system ({sys.platform}) does not have"
        ) from None
    except ValueError as error:  # other processes have it open with another number
        raise ValueError(f"{error} (without --slots, run takes the number that is there)") from None
    try:
        if not _take(opened, options):
            return options.conflict_exit_code
        code = _execute(options.command)
        system.operate(opened.id, _sysv.give(options.take))
        return code
    finally:  # reached only without an exec
        opened.leave()


def _take(opened: Set, options: _Options) -> bool:
    from . import _sysv

    n, total = options.take, _total(opened, options)
    timeout = 0.0 if options.no_wait else options.timeout
    deadline = None if timeout is None or timeout > _FOREVER else time.monotonic() + timeout
    try:
        if opened.library.operate(opened.id, _sysv.take(n, _sysv.NOWAIT)):
            return True
        if timeout != 0 and (options.verbose or os.isatty(2)):
            _tell_later(opened, n, total)
        while deadline is None or time.monotonic() < deadline:
            if _wait(opened, _sysv.take_of_total(n) if n > 1 else _sysv.take(n), deadline):
                return True
            total = _total(opened, options)
    except OSError as error:
        raise opened.failure(error) from None
    within = f" within {timeout:g} s" if timeout else ""
    complain(f"{opened.name}: {_of(n, total)} {'was' if n == 1 else 'were'} not free{within}")
    return False


def _total(opened: Set, options: _Options) -> int:
    """Return how many tokens there are. ValueError: fewer than the command is to take."""
    n, total = options.take, opened.total()
    if n > total:
        hint = "" if options.slots else "; --slots says how many there are"
        raise ValueError(
            f"run: --take {n} is more than {opened.name} has, {total}: such a number is never free{hint}"
        )
    return total


def _wait(opened: Set, operations: list[Any], deadline: float | None) -> bool:
    # One call for the whole wait: the kernel serves waiters in order, and a wait in slices would join the end of the queue with each slice.
    library = opened.library
    while True:
        try:
            if deadline is None:
                return library.operate(opened.id, operations)
            return library.wait(opened.id, operations, max(0.0, deadline - time.monotonic()))
        except InterruptedError:  # SIGSTOP, then SIGCONT
            pass


def _tell_later(opened: Set, n: int, total: int) -> None:
    # By a thread, so that the wait keeps its place in the queue. exec ends the thread.
    import _thread

    try:
        _thread.start_new_thread(_tell, (opened, n, total))
    except RuntimeError:  # this user's limit of threads
        pass


def _tell(opened: Set, n: int, total: int) -> None:
    """After a second, say that this process waits."""
    time.sleep(_SILENCE)
    try:
        waiting = opened.waiting()
    except OSError:  # removed
        return
    if waiting:
        others = (
            f" ({waiting - 1} other{' waits' if waiting == 2 else 's wait'})" if waiting > 1 else ""
        )
        complain(f"waiting for {_of(n, total)} of {opened.name}{others}")


def _of(n: int, total: int) -> str:
    return "the only token" if total == 1 else f"{n} of {total} tokens"


# --- The command --------------------------------------------------------------------------------------------------------------------


def _execute(command: list[str]) -> int:
    """Execute the command. If that fails, say why and return the exit code."""
    _restore_locale()
    try:
        _execvp(command)
    except OSError as error:
        complain(OSError(error.errno, error.strerror, command[0]))
        return _NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else _CANNOT_EXECUTE


def _execvp(command: list[str]) -> NoReturn:
    """As execvp(3). ``os.execvp`` does not run a script without "#!" by the shell."""
    program = command[0]
    is_path = bool(os.path.dirname(program))
    folders = [""] if is_path else os.environ.get("PATH", os.defpath).split(os.pathsep)
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in folders if program else ():
        path = os.path.join(folder, program)
        try:
            os.execv(path, command)
        except OSError as error:
            if error.errno == errno.ENOEXEC and _is_text(path):
                os.execv("/bin/sh", ["/bin/sh", path, *command[1:]])
            if is_path or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                raise
            if error.errno == errno.EACCES and os.path.exists(
                path
            ):  # false in a folder that this user may not search
                failure = error
    raise failure


def _is_text(path: str) -> bool:
    # The shells' own test: a program for another processor has a NUL in its first line.
    try:
        with open(path, "rb") as file:
            return b"\0" not in file.read(512).partition(b"\n")[0]
    except OSError:  # executable, but not readable
        return True


def _restore_locale() -> None:
    """Undo Python's change of the environment: in the C locale it sets LC_CTYPE (PEP 538). Only Linux keeps the earlier value."""
    if os.environ.get("LC_CTYPE") not in ("C.UTF-8", "C.utf8", "UTF-8"):
        return
    try:
        with open("/proc/self/environ", "rb") as file:
            found = file.read().split(b"\0")
    except OSError:
        return
    before = next((entry for entry in found if entry.startswith(b"LC_CTYPE=")), None)
    if before is None:
        del os.environ["LC_CTYPE"]
    else:
        os.environ["LC_CTYPE"] = os.fsdecode(before.partition(b"=")[2])


# --- Standard error -----------------------------------------------------------------------------------------------------------------


def prog() -> str:
    """Return how the user called this program."""
    if getattr(sys.modules["__main__"], "__package__", None) == __package__:
        return f"{os.path.basename(sys.executable)} -m {__package__}"
    return "named-semaphores"


def complain(problem: object) -> None:
    text = str(problem)
    if isinstance(problem, OSError) and problem.strerror:
        text = (
            problem.strerror
            if problem.filename is None
            else f"{os.fsdecode(problem.filename)}: {problem.strerror}"
        )
    if sys.stderr is None:  # it was closed at the start
        return
    try:
        os.write(2, os.fsencode(f"{prog()}: {text}\n"))  # bytes: a file's name may not be encodable
    except OSError:  # the terminal hung up
        pass
