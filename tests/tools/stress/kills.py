# SPDX-License-Identifier: Apache-2.0
"""SIGKILL processes at random moments while they open, take, give, resize and close.

16 processes share some names. One stays open, and takes several tokens as well as single ones. The
others are opened and closed all the time, with this or that number, so that they end and begin
anew. Each process notes in shared memory how many tokens it holds, and checks that all together
hold no more than the greatest number named. A process that is about to be killed does not count:
the kernel gives its tokens away before its note can be cleared. Now and then all processes come to
rest, and ``holders`` must be exactly what they noted.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import time
import warnings

from forks import Children, shared
from support import collect

from named_semaphores import RobustSemaphore, _set, _sets
from named_semaphores._sysv import system
from named_semaphores.listing import list_robust

PROCESSES = 16
TOKENS = 4
SIZES = (2, 3, 4, 5)
NAMES = 9  # the first is the one that stays open
MOVES, RESTS, WAITS, GONE = range(4)  # what a process does
LINK = RobustSemaphore.Flags.RAISE_IF_NOT_EXISTS

_Words = ctypes.c_uint64 * PROCESSES


class Notes(ctypes.Structure):
    """Shared memory. What it says of a process counts its changes, so that no two are equal."""

    _fields_ = [
        ("holds", _Words * NAMES),  # tokens
        ("states", _Words),
        ("dooms", _Words),  # whether the process counts no more
        *((name, ctypes.c_uint64) for name in ("most", "entries", "begun", "rest")),
    ]

    def held(self, process: int, which: int) -> int:
        return self.holds[which][process] & 255  # type: ignore[no-any-return]

    def note(self, process: int, which: int, held: int) -> None:
        _change(self.holds[which], process, held)

    def state(self, process: int) -> int:
        return self.states[process] & 255  # type: ignore[no-any-return]

    def set_state(self, process: int, state: int) -> None:
        _change(self.states, process, state)

    def doom(self, process: int) -> bool:
        """Count the process no more. Return whether it held tokens."""
        self.dooms[process] = 1
        return any(self.held(process, which) for which in range(NAMES))

    def renew(self, process: int) -> None:
        for which in range(NAMES):
            self.note(process, which, 0)
        self.set_state(process, MOVES)
        self.dooms[process] = 0

    def pause(self, process: int) -> None:
        """Stay as long as all processes are to rest."""
        if self.rest:
            self.set_state(process, RESTS)
            while self.rest:
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
            held, doomed = list(self.holds[which]), list(self.dooms)
            if first == (held, doomed):
                count = sum(word & 255 for word, gone in zip(held, doomed) if not gone)
                self.most = max(self.most, count)
                assert count <= max(SIZES), f"{count} tokens are held"
                return
            first = held, doomed


def _change(words: ctypes.Array[ctypes.c_uint64], process: int, value: int) -> None:
    words[process] = (words[process] >> 8) + 1 << 8 | value


def work(process: int, notes: Notes, names: list[str], parent: int) -> None:
    """Use the names until killed, or until this process dies by itself."""
    warnings.simplefilter("ignore")  # about another number
    while os.getppid() == parent:
        which = random.choice((0, random.randrange(1, NAMES)))
        sem = RobustSemaphore(names[which], random.choice((None, *SIZES)))
        notes.begun += not sem.linked_existing_semaphore
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
    notes.entries += 1
    until = time.perf_counter() + random.random() / 5000
    while time.perf_counter() < until:
        pass
    notes.pause(process)
    if random.random() < 0.01:
        notes.end(process)
    notes.note(process, which, 0)


def compare(notes: Notes, pids: list[int], kept: RobustSemaphore, names: list[str]) -> int:
    """Bring all processes to rest. Return how many lists of holders were compared."""
    notes.rest = 1
    try:
        for _ in range(200):
            time.sleep(0.002)
            before = bytes(notes)
            states = {pid: notes.state(process) for process, pid in enumerate(pids)}
            if MOVES in states.values():
                continue
            found = [look(kept if name == names[0] else None, name) for name in names]
            listed = {pid for holders, *_ in found for pid in holders}
            gone = {pid for pid in listed if states.get(pid, GONE) == GONE}
            if bytes(notes) == before and not gone:
                break
        else:
            return 0
        for which, (holders, turn, free, total) in enumerate(found):
            noted = {
                pid: notes.held(process, which)
                for process, pid in enumerate(pids)
                if states[pid] == RESTS and notes.held(process, which)
            }
            resting = {pid: count for pid, count in holders.items() if states[pid] != WAITS}
            assert resting == noted, f"{names[which]}: {holders} hold, {noted} noted"
            waiting = len(holders) - len(resting)
            assert waiting >= turn, f"{names[which]}: nobody has the turn: {holders}"
            assert free + sum(holders.values()) == total
        return len(found)
    finally:
        notes.rest = 0


def look(kept: RobustSemaphore | None, name: str) -> tuple[dict[int, int], int, int, int]:
    """Return what holders say, whether somebody has the turn, free tokens, and all."""
    try:
        sem = kept or RobustSemaphore(name, None, LINK)
    except FileNotFoundError:
        return {}, 0, 0, 0
    semset = sem._set
    values = holders = None
    while values is None or values != semset.library.values(semset.id):
        values = semset.library.values(semset.id)
        holders = dict(sem.holders)
    if sem is not kept:
        sem.close()
    free = values[_set.TOKENS] - semset.library.bias
    return holders, values[_set.TURN], free, values[_set.TOTAL]


def run(kills: int, prefix: str) -> str:
    """Kill so many processes. Return what happened; AssertionError if anything was lost or left."""
    names = [f"/{prefix}kills.{number}" for number in range(NAMES)]
    try:
        return measure(kills, names)
    finally:  # after a failure there may be some
        for row in _sets.rows():
            if row.key in map(_set.key, names):
                system().remove(row.id)


def measure(kills: int, names: list[str]) -> str:
    notes = shared(Notes)
    kept = RobustSemaphore(names[0], TOKENS)
    begin = time.perf_counter()
    holders = compared = 0
    with Children() as children:

        def start(process: int) -> int:
            return children.start(work, process, notes, names, os.getpid())

        def kill(pid: int) -> None:
            assert children.kill(pid) in (0, signal.SIGKILL), "a process failed"

        pids = [start(process) for process in range(PROCESSES)]
        for number in range(kills):
            process = random.randrange(PROCESSES)
            time.sleep(random.random() / 1000)
            if number % 100 == 50:
                compared += compare(notes, pids, kept, names)
            holders += notes.doom(process)
            kill(pids[process])
            notes.renew(process)
            pids[process] = start(process)
        for process, pid in enumerate(pids):
            notes.doom(process)
            kill(pid)
    values = kept._set.library.values(kept._set.id)
    assert values is not None
    total = kept.total
    assert kept.value == total, f"{total - kept.value} tokens lost"
    assert (values[_set.TURN], values[_set.USERS], values[_set.DEAD]) == (0, 1, 0)
    accounts = values[kept._set.accounts :]
    assert sorted(accounts) == [0] * (len(accounts) - 2) + [1, 1], "an account is left"
    _set.FORKING = 0  # this process has just forked: it would leave the set to its child
    kept.close()
    collect()  # on PyPy only that ends the use
    # The last user has closed each name, or was killed: RAISE_IF_EXISTS creates it anew.
    only = RobustSemaphore.Flags.RAISE_IF_EXISTS
    for name in names:
        with RobustSemaphore(name, TOKENS + 1, only) as sem:
            assert (sem.value, sem.total) == (TOKENS, TOKENS + 1), f"not begun anew: {name}"
        sem.close()
    collect()
    left = [one.name for one in list_robust(idle_too=True) if one.name in names]
    assert not left, f"left behind: {left}"
    return (
        f"{kills} kills, {holders} of them of holders, {notes.entries} entries, {notes.begun} sets,"
        f" at most {notes.most} tokens held, {compared} lists of holders exact, 0 lost, 0 gained, "
        f"{time.perf_counter() - begin:.0f} s"
    )
