# SPDX-License-Identifier: Apache-2.0
"""The command line's words and its help. ``commands`` does what they say; run's are in ``run``."""

from __future__ import annotations

import argparse
import sys

from .. import __version__
from . import commands
from .run import ERROR, complain, mode, number, prog, seconds

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable, NoReturn


def main(words: Sequence[str]) -> int:
    """Do what the words say, and return the exit code. SystemExit: after help or wrong words."""
    if sys.stdout is not None:
        # Another program's name may have any character.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = argparse.Namespace()
    try:
        _parser().parse_args(words, options)
        return options.do(options) or 0
    except (NotImplementedError, OSError, ValueError) as error:
        complain(error, getattr(options, "name", ""))
        return ERROR


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        complain(f"{message} (--help tells more)")
        sys.exit(ERROR)

    def _print_message(self, message: str, file: Any = None) -> None:
        commands.show(message, end="")  # argparse ignores that help cannot be written


def _parser() -> argparse.ArgumentParser:
    style: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = _Parser(prog=prog(), description=_ALL, epilog=_EXIT_CODES, **style)
    parser.add_argument("--version", action="version", version=f"named-semaphores {__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for name, (do, text, more, options) in _COMMANDS.items():
        added = subparsers.add_parser(
            name,
            help=text,
            description=f"Example: %(prog)s {more}",
            usage=f"{prog()} run NAME [OPTION...] [--] COMMAND..." if name == "run" else None,
            **style,
        )
        added.set_defaults(do=do)
        group = added.add_mutually_exclusive_group() if _ONE_OF & options.keys() else added
        for words, option_text in options.items():
            names = words.split()
            settings: Any = {"action": "store_true"}
            if names[-1].isupper():
                settings = {"metavar": names.pop(), **_SETTINGS.get(names[-1], {})}
            (group if words in _ONE_OF else added).add_argument(
                *names, help=option_text, **settings
            )
    return parser


_SETTINGS: dict[str, dict[str, Any]] = {
    "--slots": {"type": number, "default": 1},
    "total": {"type": number},
    "names": {"nargs": "*"},
    "command": {"nargs": "*"},
    "-n": {"type": number, "default": 1},
    "--timeout": {"type": seconds},
    "--mode": {"type": mode, "default": 0o600},
}
_ONE_OF = {"--robust", "--posix", "-w --timeout S", "-n --no-wait"}  # at most one of these
_NAME = {"name NAME": "the semaphore"}
_KIND = {"--robust": "the robust one of this name", "--posix": "the POSIX one of this name"}
_JSON = {"--json": "as JSON, with all that is known"}
_WAIT = {
    "-w --timeout S": "wait no longer than S seconds",
    "-n --no-wait": "do not wait",
    "--verbose": "say after a second that it waits (run: and who holds the tokens), even if "
    "standard error is no terminal",
}
_MODE = {
    "--mode MODE": "who may use a new semaphore, in octal, whatever the umask (default 0600: this "
    "user; 0660: the group, too)"
}

_ALL = """Example: %(prog)s run build --slots 2 make all

Limits how many processes on one machine do something at the same time. They
only need to agree on a name. There are two kinds. Robust semaphores: when a
process ends, the kernel takes its tokens back. POSIX semaphores (--posix): for
C programs and NamedSemaphore; the token of a killed process is lost."""
_EXIT_CODES = """Exit codes: 0: done; 1: no token in time; 2: wrong usage, or the system
refused. run has the command's exit code; 127: not found, 126: not executable.

COMMAND --help tells more."""

# What each command does; one line; an example and more; its words. A word in capitals is the value
# of the option or argument before it.
_COMMANDS: dict[str, tuple[Callable[[Any], int | None] | None, str, str, dict[str, str]]] = {
    "run": (
        None,  # the module "run" reads its words; here is its help
        "run a command with a token, at most so many at once on this machine",
        """build --slots 2 make all

Takes a token of the robust semaphore NAME, then executes the command in the
same process: the exit code and all signals are the command's. The kernel
takes the token back when the command ends, also when it is killed. A process
that the command leaves in the background holds no token. The semaphore needs
no creation and no removal: it exists while a process has it open.""",
        {
            **_NAME,
            "command COMMAND": "begins with the first word after NAME that is no option",
            "--slots N": "the number of tokens, for all processes; the last N given is the limit "
            "(default: as it is, or 1 for a new semaphore)",
            "--take K": "take K tokens (default 1)",
            "--slot-env VAR": "set the environment variable VAR to a number from 0 to N-1 that no "
            "other holder has (N at most 32)",
            **_WAIT,
            "-E --conflict-exit-code CODE": "exit code if no token was free in time (default 1)",
            **_MODE,
        },
    ),
    "list": (
        commands.list_,
        "list the semaphores of this machine",
        """--json

FREE: tokens that are free; below 0 after a resize to fewer than are taken.
USERS: how many processes have it open. HOLDERS: the processes that hold
tokens (robust ones). PIDS: the processes that have it open (POSIX ones). ?:
not known to this user. Only Linux lists semaphores, and robust ones only if
this user may read them.""",
        _JSON,
    ),
    "holders": (
        commands.holders,
        "show who holds tokens",
        "build\n\nOf a POSIX semaphore only the processes that have it open are known.",
        {**_NAME, **_KIND, **_JSON},
    ),
    "value": (
        commands.value,
        "print the number of free tokens",
        "build\n\nTakes no token.",
        {**_NAME, **_KIND},
    ),
    "create": (
        commands.create,
        "create a semaphore that stays",
        """pool --slots 4 --mode 0660

Makes a robust semaphore, or with --posix a POSIX one. It exists until unlink
or a restart of the machine, also without users. Fails if the name exists.""",
        {
            **_NAME,
            "--slots N": "its number of tokens (default 1); 0 only with --posix",
            "--posix": "a POSIX semaphore, which run does not use",
            **_MODE,
        },
    ),
    "resize": (
        commands.resize,
        "change the number of tokens of a robust semaphore",
        """build 4

Changes the number for all processes, immediately. Holders keep their tokens:
after a change to fewer, newcomers wait until enough are free.""",
        {**_NAME, "total N": "the new number of tokens"},
    ),
    "unlink": (
        commands.unlink,
        "remove semaphores",
        """pool

Removes the names, in use or not. Processes that have a POSIX one open
continue to use it. Processes that wait for a robust one get an error.""",
        {
            "names NAME": "the semaphores",
            **_KIND,
            "--unused": "only robust semaphores that no process has open. Without NAME: all of "
            "this user's, except those made by create. (Killed processes leave unused ones.) "
            "Asks first. Linux only",
            "--yes": "do not ask",
        },
    ),
    "acquire": (
        commands.acquire,
        "take a token of a POSIX semaphore",
        """pool --timeout 5

The token stays taken after this command ends, until somebody releases it: use
run if you can. The token of a killed process is lost: "release NAME" puts one
back.""",
        {**_NAME, **_WAIT},
    ),
    "release": (
        commands.release,
        "put tokens of a POSIX semaphore back",
        "pool\n\nNothing checks whether the tokens were taken before.",
        {**_NAME, "-n N": "so many tokens (default 1)"},
    ),
}
