# SPDX-License-Identifier: Apache-2.0
"""SIGKILL processes at random moments while they open, take, give, resize and close:
``python tests/tools/stress/kills.py [--full]``.

16 processes share some names. One stays open, and takes several tokens as well as single ones. The
others are opened and closed all the time, with this or that number, so that they end and begin
anew. Each process notes in shared memory how many tokens it holds, and checks that all together
hold no more than the greatest number named. A process that is about to be killed does not count:
the kernel gives its tokens away before its note can be cleared. Now and then all processes come to
rest, and ``holders`` must be exactly what they noted.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import sys
import time
import traceback
import warnings

try:
    from named_semaphores import RobustSemaphore
except ImportError:  # run from a checkout
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "../../..")))
    from named_semaphores import RobustSemaphore
from named_semaphores import _set, _sets
from named_semaphores._sysv import system

PROCESSES = 16
TOKENS = 4
SIZES = (2, 3, 4, 5)
NAMES = 9  # the first is the one that stays open
MOVES, RESTS, WAITS, GONE = range(4)  # what a process does


class Notes:
    """Shared memory. A note counts its changes, so that no two are equal."""

    def __init__(self) -> None:
        size = PROCESSES * (NAMES + 2) + 5
        self.words = memoryview(mmap.mmap(-1, 8 * size)).cast("Q")
        self.doomed = PROCESSES * NAMES  # the processes that count no more
        self.states = self.doomed + PROCESSES
        self.limits = self.states + PROCESSES
        self.most, self.entries, self.failed, self.rest, self.begun = (
            self.limits + i for i in range(5)
        )

    def change(self, place: int, value: int) -> None:
        self.words[place] = (self.words[place] >> 8) + 1 << 8 | value

    def held(self, process: int, which: int) -> int:
        return self.words[which * PROCESSES + process] & 255

    def note(self, process: int, which: int, held: int) -> None:
        self.change(which * PROCESSES + process, held)

    def doom(self, process: int) -> bool:
        """Count the process no more. Return whether it held tokens."""
        self.words[self.doomed + process] = 1
        return any(self.held(process, which) for which in range(NAMES))

    def renew(self, process: int) -> None:
        for which in range(NAMES):
            self.note(process, which, 0)
        self.set_state(process, MOVES)
        self.words[self.doomed + process] = 0

    def state(self, process: int) -> int:
        return self.words[self.states + process] & 255

    def set_state(self, process: int, state: int) -> None:
        self.change(self.states + process, state)

    def pause(self, process: int) -> None:
        """Stay as long as all processes are to rest."""
        if self.words[self.rest]:
            self.set_state(process, RESTS)
            while self.words[self.rest]:
                time.sleep(0.001)
            self.set_state(process, MOVES)

    def end(self, process: int) -> None:
        self.doom(process)
        self.set_state(process, GONE)
        os._exit(0)

    def check(self, which: int) -> None:
        """Raise if more tokens are held than there can be.

        Two equal readings were true at one moment between them.
        """
        first = None
        for _ in range(100):
            held = self.words[which * PROCESSES : (which + 1) * PROCESSES].tolist()
            doomed = self.words[self.doomed : self.doomed + PROCESSES].tolist()
            if first == (held, doomed):
                break
            first = (held, doomed)
        else:
            return
        count = sum(word & 255 for word, excluded in zip(held, doomed) if not excluded)
        self.words[self.most] = max(self.words[self.most], count)
        if count > max(SIZES):
            raise AssertionError(f"{count} tokens are held")


def work(process: int, notes: Notes, names: list[str], parent: int) -> None:
    """Use the names until killed, or until this process dies by itself."""
    while os.getppid() == parent:
        which = random.choice((0, random.randrange(1, NAMES)))
        sem = RobustSemaphore(names[which], random.choice((None, *SIZES)))
        notes.words[notes.begun] += not sem.linked_existing_semaphore
        for _ in range(random.randrange(6)):
            use(process, which, sem, notes)
            if random.random() < 0.1:
                sem.resize(random.choice(SIZES))
        if random.random() < 0.02:
            notes.end(process)
        sem.close()


def use(process: int, which: int, sem: RobustSemaphore, notes: Notes) -> None:
    n = random.choice((1, 1, 1, 2, 3))
    way = random.randrange(3)
    notes.pause(process)
    notes.set_state(process, WAITS)
    try:
        if way == 0:
            with sem if n == 1 else sem.hold(n, timeout=1):
                hold(process, which, n, notes)
        elif sem.acquire(timeout=1 if way == 1 else random.random() / 100, n=n):
            hold(process, which, n, notes)
            if random.random() < 0.5:
                sem.release(n)
            else:
                for _ in range(n):
                    sem.release()
    except (ValueError, TimeoutError):  # there are fewer than n now, or it is the turn of others
        if n == 1 or notes.held(process, which):
            raise
    finally:
        notes.set_state(process, MOVES)


def hold(process: int, which: int, n: int, notes: Notes) -> None:
    notes.set_state(process, MOVES)
    notes.note(process, which, n)
    notes.check(which)
    notes.words[notes.entries] += 1
    until = time.perf_counter() + random.random() / 5000
    while time.perf_counter() < until:
        pass
    notes.pause(process)
    if random.random() < 0.01:
        notes.end(process)
    notes.note(process, which, 0)


def start(process: int, notes: Notes, names: list[str]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        try:
            random.seed()
            warnings.simplefilter("ignore")  # about another number
            work(process, notes, names, parent)
        except BaseException:
            notes.words[notes.failed] = 1
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def compare(notes: Notes, pids: list[int], kept: RobustSemaphore, names: list[str]) -> int:
    """Bring all processes to rest. Return how many lists of holders were compared."""
    notes.words[notes.rest] = 1
    try:
        for _ in range(200):
            time.sleep(0.002)
            before = notes.words[: notes.limits].tolist()
            states = [notes.state(process) for process in range(PROCESSES)]
            if MOVES in states:
                continue
            found = [look(kept if name == names[0] else None, name) for name in names]
            alive = {pid for pid, state in zip(pids, states) if state != GONE}
            listed = {pid for holders, *_ in found for pid, _ in holders}
            if notes.words[: notes.limits].tolist() == before and listed <= alive:
                break
        else:
            return 0
    finally:
        notes.words[notes.rest] = 0
    waiting = {pid for pid, state in zip(pids, states) if state == WAITS}
    for which, (holders, turn, free, total) in enumerate(found):
        noted = {}
        for pid, process in zip(pids, range(PROCESSES)):
            if states[process] == RESTS and notes_held(before, process, which):
                noted[pid] = notes_held(before, process, which)
        seen = {pid: count for pid, count in holders if pid not in waiting}
        assert seen == noted, f"{names[which]}: {holders} hold, {noted} noted"
        firsts = [count for pid, count in holders if pid in waiting]
        assert len(firsts) >= turn, f"{names[which]}: nobody has the turn: {holders}"
        assert free + sum(count for _, count in holders) == total
    return len(found)


def look(kept: RobustSemaphore | None, name: str) -> tuple[list[tuple[int, int]], int, int, int]:
    """Return what holders say, whether somebody has the turn, free tokens, and all."""
    try:
        sem = kept or RobustSemaphore(name, None, LINK)
    except FileNotFoundError:
        return [], 0, 0, 0
    semset = sem._set
    while True:
        values = semset.library.values(semset.id)
        assert values is not None
        holders = [tuple(holder) for holder in sem.holders]
        if values == semset.library.values(semset.id):
            break
    if sem is not kept:
        sem.close()
    free = values[_set.TOKENS] - semset.library.system.bias
    return holders, values[_set.TURN], free, values[_set.TOTAL]  # type: ignore[return-value]


def notes_held(words: list[int], process: int, which: int) -> int:
    return words[which * PROCESSES + process] & 255


LINK = RobustSemaphore.Flags.RAISE_IF_NOT_EXISTS


def run(kills: int, prefix: str = f"nst{os.getpid()}_") -> str:
    """Kill so many processes. Return what happened; AssertionError if anything was lost or left."""
    names = [f"/{prefix}kills.{number}" for number in range(NAMES)]
    try:
        return measure(kills, names)
    finally:  # after a failure there may be some
        for one in _sets.listed():
            if one.name in names:
                system().remove(one.row.id)


def measure(kills: int, names: list[str]) -> str:
    notes = Notes()
    kept = RobustSemaphore(names[0], TOKENS)
    begin = time.perf_counter()
    holders = compared = 0
    pids = [start(process, notes, names) for process in range(PROCESSES)]
    try:
        for number in range(kills):
            process = random.randrange(PROCESSES)
            time.sleep(random.random() / 1000)
            if number % 100 == 50:
                compared += compare(notes, pids, kept, names)
            holders += notes.doom(process)
            os.kill(pids[process], signal.SIGKILL)
            os.waitpid(pids[process], 0)
            notes.renew(process)
            pids[process] = start(process, notes, names)
            assert not notes.words[notes.failed], "a process failed"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
    values = kept._set.library.values(kept._set.id)
    assert values is not None
    kept_total = kept.total
    assert kept.value == kept_total, f"{kept_total - kept.value} tokens lost"
    assert (values[_set.TURN], values[_set.USERS], values[_set.DEAD]) == (0, 1, 0)
    accounts = values[kept._set.accounts :]
    assert sorted(accounts) == [0] * (len(accounts) - 2) + [1, 1], "an account is left"
    time.sleep(1)  # a process that has just forked leaves the set to its child
    kept.close()
    # The last user has closed each name, or was killed: RAISE_IF_EXISTS creates it anew.
    only = RobustSemaphore.Flags.RAISE_IF_EXISTS
    for name in names:
        with RobustSemaphore(name, TOKENS + 1, only) as sem:
            assert (sem.value, sem.total) == (TOKENS, TOKENS + 1), f"not begun anew: {name}"
        sem.close()
    left = [one.name for one in _sets.listed() if one.name in names]
    assert not left, f"left behind: {left}"
    entries, most, begun = (notes.words[i] for i in (notes.entries, notes.most, notes.begun))
    seconds = time.perf_counter() - begin
    return (
        f"{kills} kills, {holders} of them of holders, {entries} entries, {begun} sets, at most "
        f"{most} tokens held, {compared} lists of holders exact, 0 lost, 0 gained, {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="20,000 kills (minutes)")
    parser.add_argument("--kills", type=int, default=300, help="how many (default: %(default)s)")
    options = parser.parse_args()
    print(run(20_000 if options.full else options.kills))


if __name__ == "__main__":
    main()
