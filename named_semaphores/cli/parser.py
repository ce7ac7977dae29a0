# SPDX-License-Identifier: Apache-2.0
"""The command line's words and its help. ``commands`` does what they say; run's are in ``run``."""

from __future__ import annotations

import argparse
import sys

from .. import __version__
from . import commands
from .run import ERROR, complain, integer, like, mode, prog, seconds
from .tables import show

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable, NoReturn

_INT_MAX = 2**31 - 1


def main(words: Sequence[str]) -> int:
    """Do what the words say, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # it is None if the descriptor is closed
            # Another program's name may have any character.
            stream.reconfigure(errors="backslashreplace")
    options = argparse.Namespace()
    try:
        _, others = _parser(prog()).parse_known_args(words, options)
        if others:
            hint = like(others[0], options.parser.known())
            options.parser.error(f"unexpected: {others[0]}" + (f"; {hint.strip()}" if hint else ""))
        code: int = options.do(options)
        return code
    except SystemExit as error:  # argparse's
        return error.code if isinstance(error.code, int) else ERROR
    except (OSError, ValueError, NotImplementedError) as error:
        complain(error, getattr(options, "name", ""))
        return ERROR


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(ERROR, f"{self.prog}: {message} (--help tells more)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse ignores that help cannot be written.
        if file is sys.stdout:
            show(message, end="")
        else:
            super()._print_message(message, file)

    def known(self) -> list[str]:
        return [option for option in self._option_string_actions if option.startswith("--")]


class _Paragraphs(argparse.HelpFormatter):
    """Fills each paragraph by itself; an example stays in one line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(
            each if each.startswith("Example: ") else fill(each, width, indent)
            for each in text.split("\n\n")
        )


def _argument(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert_argument(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert_argument


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description=f"Example: {prog} run build --slots 2 make all\n\n"
        "Limits how many processes on one machine do something at the same time. They only need "
        "to agree on a name. There are two kinds. Robust semaphores: the kernel takes the tokens "
        "of a process back when it ends. POSIX semaphores (--posix): for C programs and "
        "NamedSemaphore; the token of a killed process is lost.",
        epilog="Exit codes: 0: done; 1: no token in time; 2: wrong usage, or the system refused. "
        "run has the command's exit code; 127: not found, 126: not executable.\n\n"
        "COMMAND --help tells more.",
        formatter_class=_Paragraphs,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"named-semaphores {__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)

    def add(
        do: Callable[[Any], int] | None, name: str, text: str, example: str, more: str, **rest: Any
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = subparsers.add_parser(
            name,
            help=text,
            description=f"Example: {prog} {name} {example}\n\n{more}",
            formatter_class=_Paragraphs,
            allow_abbrev=False,
            **rest,
        )
        added.set_defaults(do=do, parser=added)
        return added

    _add_run(add, prog)

    found = add(
        commands.list_,
        "list",
        "list the semaphores of this machine",
        "--json",
        "FREE: tokens that are free; below 0 after a resize to fewer than are taken. USERS: how "
        "many processes have it open. HOLDERS: the processes that hold tokens (robust ones). "
        "PIDS: the processes that have it open (POSIX ones). ?: others that this user may not "
        "look into. Robust semaphores are listed on Linux, if this user may read them.",
    )
    _add_json(found)

    holders = add(
        commands.holders,
        "holders",
        "show who holds tokens",
        "build",
        "Of a POSIX semaphore only the processes that have it open are known.",
    )
    _add_name(holders)
    _add_kind(holders)
    _add_json(holders)

    value = add(
        commands.value, "value", "print the number of free tokens", "build", "Takes no token."
    )
    _add_name(value)
    _add_kind(value)

    create = add(
        commands.create,
        "create",
        "create a semaphore that stays",
        "pool --slots 4 --mode 0660",
        "Makes a robust semaphore, or with --posix a POSIX one. It exists until unlink or a "
        "restart of the machine, also without users. An error if there is one of this name.",
    )
    _add_name(create)
    create.add_argument(
        "--slots",
        type=_argument(lambda text: integer(text, 0, _INT_MAX, "a number")),
        default=1,
        metavar="N",
        help="its number of tokens (default 1); 0 only with --posix",
    )
    create.add_argument(
        "--posix", action="store_true", help="a POSIX semaphore, which run does not use"
    )
    create.add_argument(
        "--mode",
        type=_argument(mode),
        default=0o600,
        metavar="MODE",
        help="who may use it, in octal, whatever the umask (default 0600: this user; 0660: the "
        "group, too)",
    )

    resize = add(
        commands.resize,
        "resize",
        "change the number of tokens of a robust semaphore",
        "build 4",
        "Changes the number at once, for all processes. Processes that hold tokens keep them: "
        "after a change to fewer, newcomers wait until enough tokens are back.",
    )
    _add_name(resize)
    resize.add_argument(
        "total",
        type=_argument(lambda text: integer(text, 0, _INT_MAX, "a number")),
        metavar="N",
        help="the new number of tokens",
    )

    unlink = add(
        commands.unlink,
        "unlink",
        "remove semaphores",
        "pool",
        "The name is free for a new semaphore. Processes that have a POSIX one open continue to "
        "use it. Processes that wait for a robust one get an error.",
    )
    unlink.add_argument("names", nargs="*", metavar="NAME", help="the semaphores")
    _add_kind(unlink)
    unlink.add_argument(
        "--unused",
        action="store_true",
        help="only robust semaphores that no process has open. Without NAME: all of this user's, "
        "but those that create made; killed processes leave such ones. Asks first. Linux only",
    )
    unlink.add_argument("--yes", action="store_true", help="do not ask")

    acquire = add(
        commands.acquire,
        "acquire",
        "take a token of a POSIX semaphore",
        "pool --timeout 5",
        "The token stays taken after this command ends, until somebody releases it: use run if "
        'you can. The token of a killed process is lost: "release NAME" puts one back.',
    )
    _add_name(acquire)
    wait = acquire.add_mutually_exclusive_group()
    wait.add_argument(
        "--timeout", type=_argument(seconds), metavar="S", help="wait no longer than S seconds"
    )
    wait.add_argument(
        "--no-wait", dest="timeout", action="store_const", const=0.0, help="do not wait"
    )
    acquire.add_argument(
        "--verbose",
        action="store_true",
        help="after a second, say that it waits, even if standard error is no terminal",
    )

    release = add(
        commands.release,
        "release",
        "put tokens of a POSIX semaphore back",
        "pool",
        "The system does not check that they were taken.",
    )
    _add_name(release)
    release.add_argument(
        "-n",
        type=_argument(lambda text: integer(text, 1, _INT_MAX, "a number")),
        default=1,
        metavar="N",
        help="so many tokens (default 1)",
    )
    return parser


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the semaphore")


def _add_kind(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_mutually_exclusive_group()
    for kind, text in (("robust", "the robust one"), ("posix", "the POSIX one")):
        kinds.add_argument(
            f"--{kind}",
            dest="kind",
            action="store_const",
            const=kind,
            help=f"{text} of this name",
        )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, with all that is known")


def _add_run(add: Callable[..., argparse.ArgumentParser], prog: str) -> None:
    """For its help only: ``run`` reads run's words."""
    run = add(
        None,
        "run",
        "run a command with a token, at most so many at once on this machine",
        "build --slots 2 make all",
        "Takes a token of the robust semaphore NAME, then executes the command in the same "
        "process: the exit code and all signals are the command's. The kernel takes the token "
        "back when the command ends, also when it is killed. A process that the command leaves in "
        "the background holds no token. The semaphore needs no creation and no removal: it exists "
        "while a process has it open.",
        usage=f"{prog} run NAME [OPTION...] [--] COMMAND...",
    )
    run.add_argument("name", metavar="NAME", help="the semaphore")
    run.add_argument(
        "command",
        nargs="*",
        metavar="COMMAND",
        help="begins with the first word after NAME that is no option",
    )
    for options, metavar, text in (
        ("--slots", "N", "the number of tokens, for all processes: the number named last holds "
         "(default: its number, or 1 if no process has it open)"),
        ("--take", "K", "take K tokens (default 1)"),
        ("--slot-env", "VAR", "give the command a number from 0 to N-1 that no other has, in the "
         "environment variable VAR (N at most 32)"),
        ("-w --timeout", "S", "wait no longer than S seconds"),
        ("-n --no-wait", None, "do not wait"),
        ("-E --conflict-exit-code", "CODE", "exit code if no token was free in time (default 1)"),
        ("--mode", "MODE", "who may use it if it is created, in octal (default 0600: this user; "
         "0660: the group, too)"),
        ("--verbose", None, "say after a second that it waits and who holds the tokens, even if "
         "standard error is no terminal"),
    ):  # fmt: skip
        more: Any = {"metavar": metavar} if metavar else {"action": "store_true"}
        run.add_argument(*options.split(), help=text, **more)
