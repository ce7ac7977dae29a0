# SPDX-License-Identifier: Apache-2.0
"""The command line's help, and all commands except run.

Signals have their default actions (``__main__`` sets them). Only acquire can lose a token by a signal, and blocks signals.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import time

from . import NamedSemaphore, __version__, _sysv
from ._base import check_integer
from ._check import check_name
from ._errors import explained
from ._run import ERROR, NO_TOKEN, complain, prog, seconds, tokens
from ._semlock import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Callable, NoReturn

    from .listing import SemaphoreInfo

_signal: Any = signal  # for mypy: Windows lacks some of it
_DONE = 0
_SLICE = 0.1  # seconds that acquire blocks signals at a time

_RECOVERY = """\
Recovery: run never loses a token; the kernel returns it when the command ends. A POSIX semaphore loses the token of a killed process. To check:
type "list"; FREE plus the tokens that the processes in PIDS hold should be the number of tokens you created (the semaphore does not store that
number). To repair: type "release NAME" once for each lost token. To start over: stop the processes in PIDS, then type "unlink NAME" and "create
NAME --value N"; unlink wakes nobody, so a process that waits on the old semaphore waits for ever.

Exit codes: 0: done; 1: no token in time; 2: wrong usage, or the system refused. run has the command's exit code; 127: not found, 126: not
executable. For the options type COMMAND --help."""


def main(words: Sequence[str]) -> int:
    """Do what the words say, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # it is None if the descriptor is closed
            stream.reconfigure(
                errors="backslashreplace"
            )  # another program's name may have any character
    try:
        options = _parser(prog()).parse_args(words)
        code: int = options.do(options)
        return code
    except SystemExit as error:  # argparse's
        return error.code if isinstance(error.code, int) else ERROR
    except (OSError, ValueError, NotImplementedError) as error:
        complain(error)
        return ERROR


# --- The parser ---------------------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(ERROR, f"{self.prog}: {message} (--help tells more)\n")


class _Paragraphs(argparse.HelpFormatter):
    """Fills each paragraph by itself."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in text.split("\n\n"))


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description="Counted limits that all processes of this machine share by name. There are two kinds. Robust semaphores (System V; RobustSemaphore in "
        "Python): the kernel returns the tokens of a process that ends. POSIX named semaphores (NamedSemaphore): C programs can use them too.",
        epilog=_RECOVERY,
        formatter_class=_Paragraphs,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"named-semaphores {__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)

    def add(
        do: Callable[[Any], int] | None,
        name: str,
        text: str,
        more: str,
        example: str,
        **options: Any,
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. {more}",
            epilog=f"Example: {prog} {example}",
            allow_abbrev=False,
            **options,
        )
        added.set_defaults(do=do, parser=added)
        return added

    def add_name(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "name", type=_argument(check_name), metavar="NAME", help="the semaphore"
        )

    def add_kind(parser: argparse.ArgumentParser) -> None:
        kind = parser.add_mutually_exclusive_group()
        kind.add_argument(
            "--robust",
            dest="kind",
            action="store_const",
            const="robust",
            help="the robust one of this name",
        )
        kind.add_argument(
            "--posix",
            dest="kind",
            action="store_const",
            const="posix",
            help="the POSIX one of this name",
        )

    def add_wait(parser: argparse.ArgumentParser, what: str) -> None:
        wait = parser.add_mutually_exclusive_group()
        wait.add_argument(
            "--timeout",
            type=_argument(seconds),
            metavar="S",
            help=f"wait no longer than S seconds for {what}",
        )
        wait.add_argument(
            "--no-wait", dest="timeout", action="store_const", const=0.0, help="do not wait"
        )

    # For its help only; _run parses run's words.
    run = add(
        None,
        "run",
        "run a command with a token, at most so many at once on this machine",
        "Acquires a token of the robust semaphore NAME, then executes the command in the same process: the exit code and all signals are the "
        "command's. The kernel returns the token when the command ends, also when it is killed. A process that the command leaves in the background "
        "holds no token. The semaphore needs no creation and no removal: it exists while a process has it open.",
        "run build --slots 2 make all",
        usage=f"{prog} run NAME [--slots N] [--take K] [--timeout S | --no-wait] [--conflict-exit-code E] [--verbose] [--] COMMAND...",
    )
    run.add_argument("name", metavar="NAME", help="the semaphore")
    run.add_argument(
        "command",
        nargs="*",
        metavar="COMMAND",
        help="begins with the first word after NAME that is no option",
    )
    run.add_argument(
        "--slots",
        metavar="N",
        help="the number of tokens; an error if other processes have it open with another number. Default: its number, or 1 if no process has it open",
    )
    run.add_argument("--take", metavar="K", help="take K tokens, all at once (default 1)")
    run.add_argument("--timeout", metavar="S", help="wait no longer than S seconds for a token")
    run.add_argument("--no-wait", action="store_true", help="do not wait for a token")
    run.add_argument(
        "--conflict-exit-code",
        metavar="E",
        help="exit code if no token was free in time (default 1)",
    )
    run.add_argument(
        "--verbose",
        action="store_true",
        help="after a second, say that it waits, even if standard error is no terminal",
    )

    listing = add(
        _list,
        "list",
        "list the semaphores of this machine",
        "USERS: how many times processes have it open. PIDS: these processes; ? means that there may be others, which the system does not show to "
        "this user; for robust semaphores it shows none to anybody. TOTAL and WAITING exist for robust semaphores only. Robust semaphores are listed on Linux, if this user may read them.",
        "list --watch 1",
    )
    listing.add_argument(
        "--json",
        action="store_true",
        help="for programs; also has the reason of a missing value, and times in seconds",
    )
    listing.add_argument(
        "--watch",
        nargs="?",
        type=_argument(seconds),
        const=2.0,
        metavar="SECONDS",
        help="redraw the list on the terminal every SECONDS (default 2) until Ctrl-C",
    )

    value = add(_value, "value", "print the number of free tokens", "", "value build")
    add_name(value)
    add_kind(value)

    acquire = add(
        _acquire,
        "acquire",
        "take a token of a POSIX semaphore",
        "It stays taken after this command, until a release: run is safer.",
        "acquire pool --timeout 10",
    )
    add_name(acquire)
    add_wait(acquire, "a token")
    acquire.add_argument(
        "--verbose",
        action="store_true",
        help="after a second, say that it waits, even if standard error is no terminal",
    )

    release = add(_release, "release", "put tokens of a POSIX semaphore back", "", "release pool")
    add_name(release)
    release.add_argument(
        "-n", type=_argument(tokens), default=1, metavar="N", help="how many (default 1)"
    )

    create = add(
        _create,
        "create",
        "create a semaphore",
        "A POSIX semaphore; with --robust a robust one, which exists until unlink or a restart of the machine, also without users. An error if it exists.",
        "create pool --value 4 --mode 0660",
    )
    add_name(create)
    create.add_argument(
        "--value", type=int, required=True, metavar="N", help="its number of tokens"
    )
    create.add_argument(
        "--mode",
        type=_argument(_mode),
        default=0o600,
        metavar="MODE",
        help="who may use it, in octal, whatever the umask (default 0600: this user); 0660: the group too",
    )
    add_kind(create)

    resize = add(
        _resize,
        "resize",
        "change the number of tokens of a robust semaphore",
        "In one step, for all processes that have it open. A smaller N waits until enough tokens are free.",
        "resize build 4",
    )
    add_name(resize)
    resize.add_argument("total", type=int, metavar="N", help="the new number of tokens")
    add_wait(resize, "tokens to become free")

    unlink = add(
        _unlink,
        "unlink",
        "remove semaphores",
        "The name is free for a new semaphore. Processes that have a POSIX one open continue to use it. Processes that wait on a robust one get an error.",
        "unlink pool",
    )
    unlink.add_argument(
        "names", nargs="*", type=_argument(check_name), metavar="NAME", help="the semaphores"
    )
    add_kind(unlink)
    unlink.add_argument(
        "--unused",
        action="store_true",
        help="only semaphores that no process has open, even if the acquire command took a token. Without NAME: only robust ones, which processes "
        "that are killed or end with a token leave in the kernel, and no POSIX ones, because they may be another program's. Lists them and asks first (Linux)",
    )
    unlink.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _argument(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert_argument(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert_argument


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ValueError(f"{text!r} is not a mode in octal, as 0660")
    return mode


# --- One semaphore ------------------------------------------------------------------------------------------------------------------


def _open_posix(name: str) -> NamedSemaphore:
    return NamedSemaphore(
        name, handle_existence=NamedSemaphore.Flags.RAISE_IF_NOT_EXISTS, unlink_on_delete=False
    )


def _open_robust(name: str) -> _sysv.Set:
    return _sysv.system().open(name, None, create=False)


def _kinds(name: str) -> list[str]:
    """Return of which kinds there is a semaphore of this name."""
    kinds = []
    try:
        _open_posix(name).close()
        kinds.append("posix")
    except (FileNotFoundError, NotImplementedError):
        pass
    except OSError:  # this user may not open it, or it is another file
        kinds.append("posix")
    try:
        _open_robust(name).leave()
        kinds.append("robust")
    except (
        FileNotFoundError,
        FileExistsError,
        NotImplementedError,
    ):  # FileExistsError: another set has this key
        pass
    except OSError:
        kinds.append("robust")
    return kinds


def _kind(name: str, given: str | None) -> str:
    kinds = [given] if given else _kinds(name)
    if not kinds:
        raise FileNotFoundError(
            errno.ENOENT, f"{os.strerror(errno.ENOENT)} (there is no semaphore of this name)", name
        )
    if len(kinds) > 1:
        raise ValueError(
            f"a POSIX and a robust semaphore have the name {name}: add --posix or --robust"
        )
    return kinds[0]


def _only_posix(name: str, why: str) -> NamedSemaphore:
    try:
        return _open_posix(name)
    except FileNotFoundError:
        if "robust" in _kinds(name):
            raise ValueError(f"{name} is robust: {why}") from None
        raise


def _value(options: argparse.Namespace) -> int:
    if _kind(options.name, options.kind) == "posix":
        _show(_open_posix(options.name).value)
        return _DONE
    opened = _open_robust(options.name)
    try:
        _show(opened.value())
    finally:
        opened.leave()
    return _DONE


def _acquire(options: argparse.Namespace) -> int:
    semaphore = _only_posix(
        options.name, "the kernel would return the token when this command ends; use run"
    )
    begin, told = time.monotonic(), not (options.verbose or os.isatty(2))
    deadline = float("inf") if options.timeout is None else begin + options.timeout
    # The exit code must tell the truth: no signal may end this process between the acquire and its exit. So signals are blocked during each
    # slice of the wait; a pending one ends the process after a slice without a token. With a token they stay blocked.
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, signal.valid_signals())
    while not semaphore.acquire(timeout=max(0.0, min(_SLICE, deadline - time.monotonic()))):
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
        now = time.monotonic()
        if now >= deadline:
            complain(
                f"{options.name}: no token was free"
                + (f" within {options.timeout:g} s" if options.timeout else "")
            )
            return NO_TOKEN
        if not told and now > begin + 1:
            told = True
            complain(f"waiting for a token of {options.name}")
        _signal.pthread_sigmask(_signal.SIG_BLOCK, signal.valid_signals())
    return _DONE


def _release(options: argparse.Namespace) -> int:
    why = "each holder returns its own tokens, at its end at the latest; for more tokens use resize"
    _only_posix(options.name, why).release(options.n)
    return _DONE


def _create(options: argparse.Namespace) -> int:
    name = options.name
    kind = options.kind or "posix"
    there = [other for other in _kinds(name) if other != kind]
    if kind == "posix":
        os.umask(0)  # the mode is exact, as with mkdir -m
        NamedSemaphore(
            name,
            options.value,
            NamedSemaphore.Flags.RAISE_IF_EXISTS,
            unlink_on_delete=False,
            mode=options.mode,
        )
    else:
        total = check_integer(name, "value", options.value, 1, _sysv.MAX_TOKENS)
        _sysv.system().open(name, total, link=False, persist=True, mode=options.mode).leave()
    if there:
        complain(
            f"now a POSIX and a robust semaphore have the name {name}: two limits, which know nothing of each other"
        )
    return _DONE


def _resize(options: argparse.Namespace) -> int:
    total = check_integer(options.name, "the number of tokens", options.total, 1, _sysv.MAX_TOKENS)
    try:
        opened = _open_robust(options.name)
    except FileNotFoundError:
        if "posix" in _kinds(options.name):
            raise ValueError(
                f"{options.name} is a POSIX semaphore, which does not store its number of tokens: use release and acquire"
            ) from None
        raise
    try:
        if opened.resize(total, options.timeout):
            return _DONE
        complain(
            f"{options.name}: too few tokens were free"
            + (f" within {options.timeout:g} s" if options.timeout else "")
        )
        return NO_TOKEN
    finally:
        opened.leave()


# --- unlink -------------------------------------------------------------------------------------------------------------------------


def _unlink(options: argparse.Namespace) -> int:
    if options.unused:
        return _unlink_unused(options)
    if not options.names:
        options.parser.error("which names?")
    code = _DONE
    for name in options.names:
        try:
            if _kind(name, options.kind) == "posix":
                _unlink_posix(name)
            else:
                _open_robust(name).remove()
        except (OSError, ValueError, NotImplementedError) as error:
            complain(error)
            code = ERROR
    return code


def _unlink_posix(name: str) -> None:
    # Not opened: its mode may forbid that to its owner.
    libc = system()
    try:
        libc.unlink(name)
    except OSError as error:
        raise explained(error, libc, name) from None


def _unlink_unused(options: argparse.Namespace) -> int:
    from .listing import list_posix

    names = options.names or None
    robust = _sysv.idle_sets(names) if options.kind != "posix" else []
    posix: list[str] = []
    code = _DONE
    if options.kind != "robust":
        me = os.geteuid()  # type: ignore[attr-defined,unused-ignore]
        posix, code = _unused(names or [info.name for info in list_posix() if info.uid == me])
    if posix and not names:
        _show(
            f"Kept, because they may be another program's; name the ones to remove: {' '.join(map(_shown, posix))}"
        )
        posix = []
    if not posix and not robust:
        _show("nothing to remove")
        return code
    _show(
        "\n".join([f"{name} (POSIX)" for name in posix] + [f"{name} (robust)" for name in robust])
    )
    if not options.yes:
        if not _agrees(options, len(posix) + len(robust)):
            return code
        posix, _ = _unused(posix)  # another process may have opened one since
    for name in posix:
        try:
            _unlink_posix(name)
        except OSError as error:
            complain(error)
            code = ERROR
    if robust:
        _sysv.remove_idle_sets(names)  # checks again, in the step that removes
    return code


def _agrees(options: argparse.Namespace, count: int) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        options.parser.error(f"not removed: to remove {count} without a question, add --yes")
    try:
        answer = input(f"Remove {count}? [y/N] ")
    except EOFError:  # Ctrl-D
        _show("")
        return False
    return answer.strip().lower() in ("y", "yes")


def _unused(names: Sequence[str]) -> tuple[list[str], int]:
    """Return the POSIX semaphores of these that no process has open, and the exit code."""
    from .listing import is_in_use

    unused, code = [], _DONE
    for name in names:
        try:
            if not is_in_use(name):
                unused.append(name)
        except FileNotFoundError:  # robust, or unlinked since
            pass
        except PermissionError as error:
            complain(error)
            code = ERROR
    return unused, code


# --- list ---------------------------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from .listing import list_semaphores

    if options.watch is not None:
        if options.json:
            options.parser.error("either --json or --watch")
        return _watch(options)
    found = list_semaphores()
    if options.json:
        import json

        _show(json.dumps([_as_json(info) for info in found], indent=2))
    else:
        _show("\n".join(_table(found)))
    return _DONE


def _as_json(info: SemaphoreInfo) -> dict[str, Any]:
    return {
        **info._asdict(),
        "mode": f"{info.mode:04o}",
        "owner": info.owner,
        "age": round(info.age, 3),
    }


def _table(found: Sequence[SemaphoreInfo]) -> list[str]:
    rows = [
        ("NAME", "KIND", "FREE", "TOTAL", "WAITING", "USERS", "PIDS", "MODE", "OWNER", "AGE"),
        *map(_row, found),
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _row(info: SemaphoreInfo) -> tuple[str, ...]:
    free = "?" if info.value is None else str(info.value)
    pids = [str(pid) for pid in info.pids or ()]
    if not info.all_pids and info.users != 0:
        pids.append("?")
    if info.kind == "robust":
        numbers = free, str(info.total), str(info.waiting), str(info.users)
    else:
        users = str(len(pids)) if info.all_pids else f"{len(pids) - 1}+" if len(pids) > 1 else "?"
        numbers = free, "-", "-", users
    return (
        _shown(info.name),
        info.kind,
        *numbers,
        ",".join(pids) or "-",
        f"{info.mode:04o}",
        info.owner,
        _shown_age(info.age),
    )


def _shown(name: str) -> str:
    # A file's name may contain control sequences for a terminal.
    return name if name.isprintable() else ascii(name)[1:-1]


def _shown_age(age: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if age >= size:
            return f"{age // size:.0f}{unit}"
    return f"{age:.0f}s"


def _watch(options: argparse.Namespace) -> int:
    """Redraw the list at the top of the terminal. One write replaces the last picture, so nothing flickers, and Ctrl-C can end it at any time."""
    from .listing import list_semaphores

    if sys.stdout is None or not sys.stdout.isatty():
        options.parser.error("--watch needs a terminal")
    _show("\n" * _size()[1])  # scrolls the terminal's contents up, where they stay
    for _ in _every(min(max(0.1, options.watch), 1e6)):  # select refuses more than some centuries
        columns, height = _size()
        heading = f"{time.strftime('%H:%M:%S')}, every {options.watch:g} s until Ctrl-C"
        try:
            lines = [heading, "", *_table(list_semaphores())]
        except OSError as error:
            lines = [heading, "", str(error)]
        room = max(1, height - 1)
        if len(lines) > room:
            lines[room - 1 :] = [f"... {len(lines) - room + 1} more"]
        # Cursor to the top; clear the rest of each line; clear the rest of the screen.
        _show(
            "\x1b[H" + "".join(f"{line[: columns - 1]}\x1b[K\n" for line in lines) + "\x1b[J",
            end="",
        )
    return _DONE


def _size() -> tuple[int, int]:
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    return columns or 80, lines or 24  # 0: unknown


def _every(interval: float) -> Iterator[None]:
    """Yield at once, then after each interval, and whenever the terminal's size changes."""
    import select

    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # type: ignore[attr-defined,unused-ignore]
    signal.set_wakeup_fd(writing)
    signal.signal(_signal.SIGWINCH, lambda signum, frame: None)
    while True:
        yield
        if select.select([reading], [], [], interval)[0]:
            os.read(reading, 1000)


def _show(text: object, end: str = "\n") -> None:
    try:
        print(text, end=end, flush=True)
    except OSError:  # else the interpreter tries again at its end, and complains again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
