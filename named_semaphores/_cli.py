# SPDX-License-Identifier: Apache-2.0
"""The command line: ``named-semaphores``, or ``python -m named_semaphores``.

Exit codes: 0 done; 1 no token in time; 2 a usage error, or the system refused. ``run`` hands on the command's.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys

from . import __version__, _opening
from .core import NamedSemaphore, _checked_name, _linked, _system_libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn, Sequence

    from .listing import SemaphoreInfo

_DONE, _NO_TOKEN, _ERROR = range(3)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code. A signal that ends a command ends this process too."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command: list[str] | None = None
    if arguments[:1] == ["run"] and "--" in arguments:
        # By hand: what argparse makes of "--" differs from version to version.
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    code = _ERROR
    prog = _prog()
    try:
        options = _parser(prog).parse_args(arguments)
        options.command = command
        _system_libc()  # NotImplementedError where there are no semaphores
        code = options.do(options)
    except SystemExit as error:  # argparse's
        code = error.code if isinstance(error.code, int) else _ERROR
    except KeyboardInterrupt:
        code = -signal.SIGINT
    except BrokenPipeError:
        code = 128 + 13  # what a shell says of a program that SIGPIPE ended
    except (OSError, ValueError, NotImplementedError) as error:
        _complain(prog, error)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _prog() -> str:
    if getattr(sys.modules["__main__"], "__package__", None) == __package__:
        return f"{os.path.basename(sys.executable)} -m {__package__}"
    return "named-semaphores"


def _complain(prog: str, problem: object) -> None:
    text = str(problem)
    if isinstance(problem, OSError) and problem.strerror:
        text = problem.strerror if problem.filename is None else f"{os.fsdecode(problem.filename)}: {problem.strerror}"
    try:
        if sys.stderr is not None:  # else it is closed, and print would take standard output
            print(f"{prog}: {text}", file=sys.stderr, flush=True)
    except OSError:  # the terminal hung up
        pass


def _show(text: object) -> None:
    try:
        print(text, flush=True)
    except OSError:  # once is enough: at its end the interpreter would try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_ERROR, f"{self.prog}: {message} (--help tells more)\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description="Semaphores that all processes of this machine share by name.",
        epilog="Exit codes: 0 done, 1 no token in time, 2 error; run: the command's. COMMAND --help tells more.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"named-semaphores {__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)

    def add(
        do: Callable[[argparse.Namespace], int], name: str, text: str, more: str, example: str, **options: Any
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. {more}",
            epilog=f"Example: {prog} {example}",
            allow_abbrev=False,
            **options,
        )
        added.set_defaults(do=do, prog=prog, parser=added)
        return added

    def add_wait(parser: argparse.ArgumentParser) -> None:
        wait = parser.add_mutually_exclusive_group()
        wait.add_argument("--timeout", type=_seconds, metavar="S", help="wait no longer than S seconds for a token")
        wait.add_argument("--no-wait", dest="timeout", action="store_const", const=0.0, help="do not wait for a token")

    run = add(
        _run,
        "run",
        "run a command with a token, at most so many at once on this machine",
        "Waits for a token, runs the command, and puts the token back however the command ends. Its exit code is the command's: 128+N if "
        "signal N ended it, 127 if it was not found, 126 if it cannot be executed. SIGINT, SIGTERM, SIGHUP and other signals reach the "
        "command. The semaphore is created if there is none, and stays for later runs.",
        "run build --slots 2 -- make all",
        usage=f"{prog} run NAME [--slots N] [--timeout S | --no-wait] [--conflict-exit-code E] -- COMMAND...",
    )
    run.add_argument("name", metavar="NAME", help="the semaphore")
    run.add_argument("misplaced", nargs="*", default=[], help=argparse.SUPPRESS)  # with a default it is not named as missing
    run.add_argument(
        "--slots",
        type=_count,
        default=1,
        metavar="N",
        help="create it with N tokens (default 1). An existing one keeps its number, which nobody can ask: give the same N everywhere",
    )
    add_wait(run)
    run.add_argument(
        "--conflict-exit-code", type=_exit_code, default=_NO_TOKEN, metavar="E", help="exit code if there was no token in time (default 1)"
    )

    listing = add(
        _list,
        "list",
        "list the semaphores of this machine",
        "PIDS are the processes that have it open; a ? among them stands for processes that this user may not look into: those of others.",
        "list --json",
    )
    listing.add_argument("--json", action="store_true", help="for programs: also why a value is missing, and times in seconds")

    value = add(_value, "value", "print the number of free tokens", "", "value build")
    value.add_argument("name", metavar="NAME", help="the semaphore")

    acquire = add(
        _acquire,
        "acquire",
        "take a token",
        "It stays taken after this command, until somebody releases it: run is safer.",
        "acquire build --timeout 10",
    )
    acquire.add_argument("name", metavar="NAME", help="the semaphore")
    add_wait(acquire)

    release = add(_release, "release", "put tokens back", "", "release build")
    release.add_argument("name", metavar="NAME", help="the semaphore")
    release.add_argument("-n", type=_count, default=1, metavar="N", help="how many (default 1)")

    create = add(_create, "create", "create a semaphore", "An error if there is one.", "create build --value 4 --mode 0660")
    create.add_argument("name", metavar="NAME", help="the semaphore")
    create.add_argument("--value", type=int, required=True, metavar="N", help="its number of tokens")
    create.add_argument(
        "--mode",
        type=_mode,
        metavar="MODE",
        help="who may use it, in octal, whatever the umask (default 0600: this user); 0660: the group too",
    )

    unlink = add(
        _unlink,
        "unlink",
        "remove names",
        "Who has such a semaphore open goes on using it; the name is free for another.",
        "unlink build",
    )
    unlink.add_argument("names", nargs="*", metavar="NAME", help="the semaphores")
    unlink.add_argument(
        "--unused",
        action="store_true",
        help="those of this user that no process has open, also if a token of theirs is taken by the acquire command; asks first (Linux)",
    )
    unlink.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _number(convert: Callable[[str], Any], fits: Callable[[Any], bool], what: str) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        try:
            result = convert(text)
        except ValueError:
            result = None
        if result is None or not fits(result):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return result

    return number


_seconds = _number(float, lambda number: not math.isnan(number) and number >= 0, "a number of seconds from 0")
_count = _number(int, lambda number: number >= 1, "a number from 1")
_exit_code = _number(int, lambda number: 0 <= number <= 255, "an exit code from 0 to 255")
_mode = _number(lambda text: int(text, 8), lambda number: 0 <= number <= 0o777, "a mode in octal, as 0660")


def _say_waiting(options: argparse.Namespace) -> Callable[[], None]:
    def say() -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            _complain(options.prog, f"waiting for a token of {options.name}")

    return say


def _run(options: argparse.Namespace) -> int:
    import shutil

    from ._run import Stoppable, run  # type: ignore[attr-defined,unused-ignore]

    if options.misplaced or not options.command:
        options.parser.error("the command to run comes last, after --")
    semaphore = Stoppable(options.name, options.slots, unlink_on_delete=False)
    try:
        code: int = run(semaphore, options.command, options.timeout, options.conflict_exit_code, _say_waiting(options))
        return code
    except OSError as error:
        if error.filename == semaphore.name:
            raise
        number, program = error.errno or 0, options.command[0]
        if number == errno.EACCES and not os.path.dirname(program) and shutil.which(program, os.F_OK) is None:
            number = errno.ENOENT  # a folder of PATH that this user may not read
        _complain(options.prog, OSError(number, os.strerror(number), program))
        return 127 if number in (errno.ENOENT, errno.ENOTDIR) else 126  # as shells do


def _acquire(options: argparse.Namespace) -> int:
    from ._run import Signals, Stoppable, take  # type: ignore[attr-defined,unused-ignore]

    semaphore = _linked(Stoppable, options.name)
    signals = Signals()
    signals.__enter__()
    if take(semaphore, signals, options.timeout, _say_waiting(options)):
        return _DONE  # with signals blocked to the end: one that ended this process now would say that there is no token
    signals.__exit__()
    return -signals.noted[0] if signals.noted else _NO_TOKEN


def _value(options: argparse.Namespace) -> int:
    _show(_linked(NamedSemaphore, options.name).value)
    return _DONE


def _release(options: argparse.Namespace) -> int:
    _linked(NamedSemaphore, options.name).release(options.n)
    return _DONE


def _create(options: argparse.Namespace) -> int:
    if options.mode is not None:
        os.umask(0)  # as mkdir -m does: who gives a mode wants that mode
    mode = 0o600 if options.mode is None else options.mode
    NamedSemaphore(options.name, options.value, NamedSemaphore.Flags.RAISE_IF_EXISTS, unlink_on_delete=False, mode=mode)
    return _DONE


def _list(options: argparse.Namespace) -> int:
    from .listing import list_semaphores

    found = list_semaphores()
    if options.json:
        import json

        _show(json.dumps([_as_json(info) for info in found], indent=2))
        return _DONE
    table = [("NAME", "VALUE", "MODE", "OWNER", "AGE", "PIDS")]
    table += [
        (_shown(i.name), "?" if i.value is None else str(i.value), f"{i.mode:04o}", i.owner, _shown_age(i.age), _shown_pids(i))
        for i in found
    ]
    widths = [max(map(len, column)) for column in zip(*table)]
    _show("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table))
    return _DONE


def _as_json(info: SemaphoreInfo) -> dict[str, Any]:
    return {**info._asdict(), "mode": f"{info.mode:04o}", "owner": info.owner, "age": round(info.age, 3)}


def _shown(name: str) -> str:
    # Anybody can make a file with a name that does things to a terminal.
    return name if name.isprintable() else ascii(name)[1:-1]


def _shown_age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _shown_pids(info: SemaphoreInfo) -> str:
    pids = [str(pid) for pid in info.pids or ()]
    return ",".join(pids if info.all_pids else [*pids, "?"]) or "-"


def _unlink(options: argparse.Namespace) -> int:
    if options.unused:
        if options.names:
            options.parser.error("either names or --unused")
        return _unlink_unused(options)
    if not options.names:
        options.parser.error("which names?")
    return _unlink_names(options, options.names)


def _unlink_names(options: argparse.Namespace, names: Sequence[str]) -> int:
    libc = _system_libc()
    code = _DONE
    for name in names:
        try:
            # Without opening it, which its mode may not allow. Other programs' names may have more characters than ours.
            _opening.unlink(libc, name if options.unused else _checked_name(name))
        except (OSError, ValueError) as error:
            _complain(options.prog, error)
            code = _ERROR
    return code


def _unlink_unused(options: argparse.Namespace) -> int:
    from .listing import list_semaphores

    terminal = sys.stdin is not None and sys.stdin.isatty()
    if not options.yes and not terminal:
        options.parser.error("--unused asks first, and standard input is no terminal: add --yes")
    me = os.geteuid()  # type: ignore[attr-defined,unused-ignore]
    names, code = _unused(options, [info.name for info in list_semaphores() if info.uid == me])
    if not names:
        _show("no unused semaphores")
        return code
    _show("\n".join(map(_shown, names)))
    if not options.yes:
        try:
            answer = input(f"Remove {len(names)}? [y/N] ")
        except EOFError:  # Ctrl-D
            answer = ""
            _show("")
        if answer.strip().lower() not in ("y", "yes"):
            return code
        names, _ = _unused(options, names)  # the question may have been open for long
    return max(code, _unlink_names(options, names))


def _unused(options: argparse.Namespace, names: Sequence[str]) -> tuple[list[str], int]:
    from .listing import is_in_use

    unused, code = [], _DONE
    for name in names:
        try:
            if not is_in_use(name):
                unused.append(name)
        except FileNotFoundError:  # removed since
            pass
        except PermissionError as error:
            _complain(options.prog, error)
            code = _ERROR
    return unused, code
