# SPDX-License-Identifier: Apache-2.0
"""The command line's words, its help and its exit code. ``run`` and ``commands`` do the rest.

Not with argparse: it would take options out of the command that run executes, and its import takes
longer than all that run does.
"""

from __future__ import annotations

from .. import __version__
from .._common import TYPE_CHECKING, check_name
from .run import ERROR, complain, prog, run, show

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable

    Reader = Callable[[str], Any]


def main(words: Sequence[str]) -> int:
    """Do what the words say, and return the exit code."""
    try:
        return _do(*words) or 0
    except (NotImplementedError, OSError, ValueError) as error:
        complain(error)
        return ERROR


def _do(command: str = "", *words: str) -> int | None:
    command = "--help" if command == "-h" else command
    if command not in _HELP:
        raise ValueError(f"there is no command {command!r} ({prog()} --help lists them)")
    options = {"--help": True} if command.startswith("-") else parse(command, words)
    if "--help" in options:
        show(_HELP[command].replace("PROG", prog()).rstrip())
        return None
    if command == "run":
        return run(options)
    from . import commands  # imports what run does not need

    do: Callable[[dict[str, Any]], int | None] = getattr(commands, f"do_{command}")
    return do(options)


# --- Words ----------------------------------------------------------------------------------------


def parse(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the options by their long names, and the arguments by those in the command's help."""
    known, arguments = _known(command)
    found: dict[str, Any] = {}
    given: list[str] = []
    rest = list(words)
    while rest and not (command == "run" and len(given) == 2):  # the rest is of its command
        word = rest.pop(0)
        if word in ("-h", "--help"):
            return {"--help": True}
        if word == "--":
            break
        if not word.startswith("-"):
            given.append(word)
            continue
        name, equals, value = word.partition("=")
        if not word.startswith("--"):  # "-w 5", "-w5" or "-w=5"
            name, equals, value = word[:2], word[2:], word[2:].lstrip("=")
        option, reader = known.get(name, ("", None))
        if not option or (equals and not reader):
            import difflib  # slow, and seldom needed

            like = difflib.get_close_matches(_FLOCK.get(name, name), known)
            hint = f"did you mean {' or '.join(like)}? " if like else ""
            tells = f"{hint}{prog()} {command} --help lists them"
            if command == "run":
                tells += "; put -- before a command that begins with '-'"
            raise ValueError(f"{command}: there is no option {word} ({tells})")
        if reader and not equals:
            value = rest.pop(0) if rest else ""
        found[option] = _read(f"{command}: {option}", reader, value) if reader else True
    given += rest

    needed = [argument for argument in arguments if not argument.startswith("[")]
    if len(given) < len(needed) or "" in given[: len(needed)]:
        tells = f"{prog()} {command} --help tells more"
        raise ValueError(f"{command} needs {' and '.join(needed)} ({tells})")
    for argument in arguments:
        if "..." in argument:
            found[argument.strip("[.]")], given = given, []
        else:
            found[argument] = _read(f"{command}: {argument}", _READERS[argument], given.pop(0))
    if given:
        raise ValueError(f"{command}: there is a word too many: {given[0]!r}")
    for one, other in _NOT_BOTH:
        if one in found and other in found:
            raise ValueError(f"{command}: either {one} or {other}, not both")
    return found


def _known(command: str) -> tuple[dict[str, tuple[str, Reader | None]], list[str]]:
    """Return what the command's help tells: {option: (long name, reader)}, and the arguments.

    "  -w --timeout S   wait no longer than S seconds": two options, which _READERS["S"] reads.
    "  NAME             the semaphore": an argument. A line that begins with more spaces: neither.
    """
    known: dict[str, tuple[str, Reader | None]] = {}
    arguments = []
    for line in _HELP[command].splitlines():
        entry = line[2:].partition("  ")[0].split() if line.startswith("  ") else []
        names = [part for part in entry if part.startswith("-")]
        known.update((name, (names[-1], _READERS.get(entry[-1]))) for name in names)
        if not names:
            arguments += entry
    return known, arguments


def _read(what: str, reader: Reader, text: str) -> Any:
    try:
        return reader(text)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _number(text: str) -> int:
    """Return the number. ``int`` would also accept other digits than ASCII's, and ``1_0``."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def _seconds(text: str) -> float:
    count = float(text) if text.isascii() and "_" not in text else -1.0
    if not count >= 0:  # true for NaN, too
        raise ValueError(f"{text!r} is not a number of seconds from 0")
    return count


def _mode(text: str) -> int:
    if not text or set(text) - set("01234567") or int(text, 8) > 0o777:
        raise ValueError(f"{text!r} is not a mode in octal, as 0660")
    return int(text, 8)


def _variable(text: str) -> str:
    if not text or "=" in text:
        raise ValueError(f"{text!r} is not the name of an environment variable")
    return text


# What reads a value, by the value's name in the help.
_READERS: dict[str, Reader] = {
    "NAME": check_name,
    "N": _number,
    "K": _number,
    "CODE": _number,
    "S": _seconds,
    "MODE": _mode,
    "VAR": _variable,
}
_FLOCK = {"--nonblock": "--no-wait", "--wait": "--timeout"}
_NOT_BOTH = (("--robust", "--posix"), ("--timeout", "--no-wait"), ("--slot-env", "--take"))

# --- Help -----------------------------------------------------------------------------------------

_NAME = "  NAME             the semaphore\n"
_KIND = """\
  --robust         the robust one of this name
  --posix          the POSIX one of this name
"""
_JSON = "  --json           as JSON, with all that is known\n"
_WAIT = """\
  -w --timeout S   wait no longer than S seconds
  -n --no-wait     do not wait
  --verbose        say after a second that it waits, as on a terminal
"""
_MODE = """\
  --mode MODE      who may use a new semaphore, in octal, whatever the umask
                   (default 0600: this user; 0660: the group, too)
"""
# _known reads the lines that begin with two spaces.
_HELP = {
    "--version": f"named-semaphores {__version__}",
    "--help": """usage: PROG COMMAND ...
Example: PROG run build --slots 2 make all

Limits how many processes on one machine do something at the same time. They
only need to agree on a name. Robust semaphores: when a process ends, its
tokens are free at once. POSIX semaphores (--posix) are for C programs and
NamedSemaphore: a killed process's token is lost.

  run              run a command with a token: at most so many at once
  list             list the semaphores of this machine
  holders          show who holds tokens
  value            print the number of free tokens
  create           create a semaphore that stays
  resize           change the number of tokens of a robust semaphore
  unlink           remove semaphores
  acquire          take a token of a POSIX semaphore
  release          put tokens of a POSIX semaphore back
  --version        print the version

Exit codes: 0: done; 1: no token in time; 2: wrong usage, or the system
refused. run has the command's exit code; 127: not found, 126: not executable.

COMMAND --help tells more.""",
    "run": f"""usage: PROG run NAME [OPTION...] [--] COMMAND...
Example: PROG run build --slots 2 make all

Takes a token of the robust semaphore NAME, and executes the command in the
same process: exit code and signals are the command's. The kernel frees the
token when the command ends, even by SIGKILL; a process that it leaves in the
background holds none. The semaphore exists while a process has it open.

{_NAME}\
  COMMAND...       begins with the first word after NAME that is no option
  --slots N        the number of tokens, for all processes; the last N given is
                   the limit (default: as it is, or 1 for a new semaphore)
  --take K         take K tokens (default 1)
  --slot-env VAR   set the environment variable VAR to a number from 0 to N-1
                   that no other holder has (N at most 32)
{_WAIT}\
  -E --conflict-exit-code CODE   if no token was free in time (default 1)
{_MODE}""",
    "list": f"""usage: PROG list [OPTION...]
Example: PROG list --json

FREE is below 0 after a resize to fewer than are taken. USERS: how many
processes have it open. HOLDERS: those that hold tokens (robust). PIDS: those
that have it open (POSIX). ?: not known to this user. Only Linux lists
semaphores, and robust ones only if this user may read them.

{_JSON}""",
    "holders": f"""usage: PROG holders [OPTION...] NAME
Example: PROG holders build

Of a POSIX semaphore only the processes that have it open are known.

{_NAME}{_KIND}{_JSON}""",
    "value": f"""usage: PROG value [OPTION...] NAME
Example: PROG value build

Prints the number of free tokens, and takes none.

{_NAME}{_KIND}""",
    "create": f"""usage: PROG create [OPTION...] NAME
Example: PROG create pool --slots 4 --mode 0660

Makes a robust semaphore that exists until unlink or a restart of the machine,
also without users. Fails if one of the same kind has the name.

{_NAME}\
  --slots N        its number of tokens (default 1); 0 only with --posix
  --posix          a POSIX semaphore instead, which run does not use
{_MODE}""",
    "resize": f"""usage: PROG resize NAME N
Example: PROG resize build 4

Changes the number for all processes, immediately. Holders keep their tokens:
after a change to fewer, newcomers wait until enough are free.

{_NAME}\
  N                the new number of tokens
""",
    "unlink": f"""usage: PROG unlink [OPTION...] [NAME...]
Example: PROG unlink pool

Removes the names, in use or not. Users of a POSIX one continue to use it;
waiters for a robust one get an error.

  [NAME...]        the semaphores
{_KIND}\
  --unused         only robust ones that no process has open (kills leave some);
                   without NAME: all of this user's, except those made by
                   create. Asks first. Linux only
  --yes            do not ask
""",
    "acquire": f"""usage: PROG acquire [OPTION...] NAME
Example: PROG acquire pool --timeout 5

The token stays taken after this command ends, until somebody releases it:
"release NAME" puts one back. Use run if you can.

{_NAME}{_WAIT}""",
    "release": f"""usage: PROG release [OPTION...] NAME
Example: PROG release pool

Nothing checks whether the tokens were taken before.

{_NAME}\
  -n N             so many tokens (default 1)
""",
}
