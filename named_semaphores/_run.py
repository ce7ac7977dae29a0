# SPDX-License-Identifier: Apache-2.0
"""Holding a token in a program that signals may end: what ``run`` and ``acquire`` of the command line do.

No signal handler raises anything here, so no token is ever between two owners: while this waits, handlers only note the signal, and the
wait looks at the notes after each call that gave no token. Once a token is taken, signals are blocked, and received by sigwait.
"""

from __future__ import annotations

import os
import signal
import sys

from .core import NamedSemaphore

assert sys.platform != "win32"  # for mypy; there a semaphore's constructor has refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from ._libc import Handle, Libc

# Those that do not end a process: it is stopped and continued with its command by the terminal, or both do nothing. SIGCHLD is for us.
_HARMLESS = {"SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCONT", "SIGCHLD", "SIGWINCH", "SIGURG", "SIGINFO"}
# A handler in Python would return to the faulty instruction, for ever. Blocked they still end a process that has a fault.
_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT", "SIGSYS", "SIGEMT"}
# Linux tells who sent a signal. The codes of other systems differ, and macOS and OpenBSD have no such call.
_sigwaitinfo: Any = getattr(signal, "sigwaitinfo", None) if sys.platform.startswith("linux") else None


class Stoppable(NamedSemaphore):
    """A semaphore whose wait ends when a signal was noted."""

    signals: Signals

    def _wait_endless(self) -> bool:
        return self._wait(None)

    def _wait(self, deadline: int | None, opened: tuple[Libc, Handle] | None = None) -> bool:
        # A signal that comes before the wait does not end its first slice, which is a second long.
        self._stop_if_noted()
        return super()._wait(deadline, opened)

    def _raise_unless_in_vain(self, libc: Libc, status: int, error: int) -> None:
        super()._raise_unless_in_vain(libc, status, error)
        self._stop_if_noted()

    def _stop_if_noted(self) -> None:
        if self.signals.noted:
            raise _Stopped


class _Stopped(Exception):
    pass


class Signals:
    """The signals that end this process: noted from the beginning on, blocked after ``block``, as they were at the end.

    A signal that was ignored before (nohup, a shell's background job) stays so, for the command too.
    """

    def __init__(self) -> None:
        self.noted: list[int] = []
        self.before: set[int] | None = None  # what was blocked

    def __enter__(self) -> Signals:
        self._handlers: dict[int, Any] = {}
        faults = set()
        for signum in signal.valid_signals():
            name = getattr(signum, "name", "")  # that of a real-time signal is a number
            if name in _HARMLESS or signal.getsignal(signum) in (signal.SIG_IGN, None):
                continue
            if name in _FAULTS:
                faults.add(signum)
            else:
                self._handlers[signum] = signal.signal(signum, self._note)
        self._endings = {*self._handlers, *faults}
        # With a handler: where it is ignored children are not waited for, and BSDs drop a blocked signal whose default is to do nothing.
        self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        return self

    def _note(self, signum: int, frame: object) -> None:
        self.noted.append(signum)

    def block(self) -> None:
        """Let no signal end this process from here on."""
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, {*self._endings, signal.SIGCHLD})

    def default(self) -> None:  # pragma: no cover (in the child)
        """Prepare a child for its program: handlers to the default first, so that a signal that waits ends it."""
        for signum in self._handlers:
            signal.signal(signum, signal.SIG_DFL)
        for name in ("SIGPIPE", "SIGXFSZ"):  # which Python ignores
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before or ())

    def receive(self) -> tuple[int, bool, int]:
        """Wait for a blocked signal. Return it, whether the terminal sent it to all its foreground processes, and the sender or 0."""
        watched = {*self._endings, signal.SIGCHLD}
        keys = (signal.SIGINT, signal.SIGQUIT)
        if _sigwaitinfo is None:
            # What a key may have sent is taken for that if this is one of the terminal's foreground processes.
            signum = signal.sigwait(watched)
            return signum, signum in keys and _is_in_foreground(), 0
        info = _sigwaitinfo(watched)
        signum = info.si_signo
        # When a terminal hangs up, its session's leader gets SIGHUP alone; the foreground processes get it when the leader has ended.
        everybody = signum in keys or (signum == signal.SIGHUP and os.getsid(0) != os.getpid())
        return signum, everybody and info.si_code > 0, info.si_pid  # positive: the kernel's (SI_FROMKERNEL of asm-generic/siginfo.h)

    def __exit__(self, *exception: object) -> None:
        if self.before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.before)  # what is pending is noted, too late to matter
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)


def _is_in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:  # there is none
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # it hung up
        return False
    finally:
        os.close(terminal)


def take(semaphore: Stoppable, signals: Signals, timeout: float | None, at_wait: Callable[[], None]) -> bool:
    """Take a token, after which signals are blocked. False: there was none in time, or a signal was noted."""
    semaphore.signals = signals
    try:
        taken = semaphore.acquire(False)
        if not taken and timeout != 0:
            at_wait()
            taken = semaphore.acquire(timeout=timeout)
    except _Stopped:
        return False
    if taken:
        signals.block()
        if signals.noted:
            semaphore.release()
            return False
    return taken


def run(semaphore: Stoppable, command: list[str], timeout: float | None, conflict: int, at_wait: Callable[[], None]) -> int:
    """Run the command with a token. Return its exit code, or -n if signal n is to end this process.

    OSError: the command could not be started.
    """
    with Signals() as signals:
        if not take(semaphore, signals, timeout, at_wait):
            return -signals.noted[0] if signals.noted else conflict
        try:
            return _run(signals, command)
        finally:
            semaphore.release()


def _run(signals: Signals, command: list[str]) -> int:
    child, missed = _start(signals, command)
    interrupted = False
    while True:
        signum, everybody, sender = signals.receive()
        if signum == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:  # else it was stopped or continued
                break
        elif signum in missed or not _has_got_it(child, everybody, sender):
            missed.discard(signum)
            os.kill(child, signum)
        interrupted = interrupted or (signum == signal.SIGINT and everybody)
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    by = os.WTERMSIG(status)
    # A shell's script or loop ends at Ctrl-C only if we end by it. To the shell the code is the same, 128 + 2.
    return -by if interrupted and by == signal.SIGINT else 128 + by


def _start(signals: Signals, command: list[str]) -> tuple[int, set[int]]:
    """Start the command. Return its process, and the signals that it may have missed, since they came before there was one.

    By hand, since subprocess cannot tell those. Once the child is there, it gets what the terminal sends as we do. While it waits for its
    cue here, such a signal stays pending, and one more makes no difference. So it gets each once, whether we send it again or not.
    """
    cue, give_cue = os.pipe()
    failure, report = os.pipe()  # exec closes it
    child = os.fork()
    if not child:  # pragma: no cover (nothing measures a process that execs)
        try:
            os.close(give_cue)
            if os.read(cue, 1):
                signals.default()
                os.execvp(command[0], command)
        except OSError as error:
            os.write(report, str(error.errno).encode())
        finally:
            os._exit(127)
    missed = set(signal.sigpending())
    os.write(give_cue, b".")
    for file in (cue, give_cue, report):
        os.close(file)
    with open(failure, "rb") as reports:
        number = int(reports.read() or 0)
    if number:
        os.waitpid(child, 0)
        raise OSError(number, os.strerror(number))
    return child, missed


def _has_got_it(child: int, everybody: bool, sender: int) -> bool:
    """Return whether the child got the signal itself: from the terminal, or from itself (kill 0)."""
    if sender == child:
        return True
    try:
        return everybody and os.getpgid(child) == os.getpgrp()
    except ProcessLookupError:  # macOS, of one that has ended
        return True
