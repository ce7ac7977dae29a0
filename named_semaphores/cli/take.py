# SPDX-License-Identifier: Apache-2.0
"""Take tokens of a set for the command line, where no Python signal handler runs.

So one call waits to the end, and what it returns is not lost; ``_several`` does the same for
RobustSemaphore, in slices that signals may interrupt.
"""

from __future__ import annotations

from .. import _set
from .._checks import clock
from .._sysv import NOWAIT

TYPE_CHECKING: bool = False
if TYPE_CHECKING:
    from .._sysv import Operation

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02  # seconds, where a timed wait must poll


def take(semset: _set.Set, n: int, deadline: int | None) -> bool:
    """Take n tokens.

    Returns:
        False: they were not free when ``clock()`` was the deadline (None: never, 0: at once).

    Raises:
        ValueError: there are fewer than n in all.
    """
    bias, account = semset.library.system.bias, semset.account
    semset.check_total(n)
    if semset.operate(_set.take(account, n, bias, NOWAIT)):
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
        semset.check_total(n)  # there were fewer than n, and there may be more again
    semset.check_total(n)
    return False


def _wait(semset: _set.Set, operations: list[Operation], deadline: int | None) -> bool:
    library, pause = semset.library, _FIRST_PAUSE
    now = [(number, change, flags | NOWAIT) for number, change, flags in operations]
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
            library.sleep(min(pause, left / 1e9))
            pause = min(pause * 2, _LONGEST_PAUSE)
        except InterruptedError:  # SIGSTOP, then SIGCONT
            pass
