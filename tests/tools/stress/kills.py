# SPDX-License-Identifier: Apache-2.0
"""SIGKILL processes at random moments while they open, take, give, resize and close: ``python tests/tools/stress/kills.py [--full]``.

16 processes share some names. One stays open, and its number of tokens changes. The others are opened and closed all the time, with this or
that number, so that they end and begin anew. Each process notes in shared memory how many tokens it holds, and of how many, and looks whether
all together hold more than there are. A process that is about to be killed is not counted: the kernel gives its tokens away before its note
can be cleared.
"""

from __future__ import annotations

import argparse
import gc
import mmap
import os
import random
import signal
import sys
import time
import traceback

try:
    from named_semaphores import RobustSemaphore, _sysv
except ImportError:  # run from a checkout
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "../../..")))
    from named_semaphores import RobustSemaphore, _sysv

PROCESSES = 16
TOKENS = 4
SIZES = (3, 4, 5)  # no process takes more than 3 at once, and a note has 4 bits for each number
NAMES = 9  # the first is the one that stays open


class Notes:
    """Shared memory. A note counts its changes, so that no two are equal."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 8 * (PROCESSES * (NAMES + 1) + 5))).cast("Q")
        self.doomed = PROCESSES * NAMES  # the processes that count no more
        self.limit, self.most, self.entries, self.begun, self.failed = (
            PROCESSES * (NAMES + 1) + i for i in range(5)
        )

    def change(self, place: int, value: int) -> None:
        self.words[place] = (self.words[place] >> 8) + 1 << 8 | value

    def note(self, process: int, which: int, held: int, of: int = 0) -> None:
        self.change(which * PROCESSES + process, held | of << 4)

    def doom(self, process: int) -> bool:
        """Count the process no more. Return whether it held tokens."""
        self.words[self.doomed + process] = 1
        return any(self.words[which * PROCESSES + process] & 15 for which in range(NAMES))

    def renew(self, process: int) -> None:
        for which in range(NAMES):
            self.note(process, which, 0)
        self.words[self.doomed + process] = 0

    def check(self, which: int) -> None:
        """Raise if more tokens are held than there are. Two equal readings were true at one moment between them."""
        first = None
        for _ in range(100):
            held = self.words[which * PROCESSES : (which + 1) * PROCESSES].tolist()
            doomed = self.words[self.doomed : self.doomed + PROCESSES].tolist()
            limit = self.words[self.limit]
            if first == (held, doomed, limit):
                break
            first = (held, doomed, limit)
        else:
            return
        inside = [word & 255 for word, excluded in zip(held, doomed) if word & 15 and not excluded]
        count, numbers = sum(word & 15 for word in inside), {word >> 4 for word in inside}
        self.words[self.most] = max(self.words[self.most], count)
        if len(numbers) > 1 or count > (limit & 255 if which == 0 else max(numbers, default=0)):
            raise AssertionError(f"{count} tokens of {numbers}, {limit & 255} are held")


def work(process: int, notes: Notes, names: list[str], parent: int) -> None:
    """Use the names until killed, or until this process dies by itself."""
    while os.getppid() == parent:
        which = random.choice((0, random.randrange(1, NAMES)))
        size = random.choice(SIZES) if which else TOKENS
        try:
            sem = RobustSemaphore(names[which], size)
        except ValueError:  # somebody has it open with another number
            continue
        notes.words[notes.begun] += not sem.linked_existing_semaphore
        for _ in range(random.randrange(6)):
            use(process, which, sem, size, notes)
            if process == 0 and which == 0:
                resize(sem, notes)
        if random.random() < 0.02:
            os._exit(0)
        sem.close()


def use(process: int, which: int, sem: RobustSemaphore, size: int, notes: Notes) -> None:
    n = random.choice((1, 1, 1, 2, 3))
    way = random.randrange(3)
    if way == 0:
        with sem if n == 1 else sem.tokens(n):
            hold(process, which, n, size, notes)
    elif sem.acquire(timeout=None if way == 1 else random.random() / 100, n=n):
        hold(process, which, n, size, notes)
        if random.random() < 0.5:
            sem.release(n)
        else:
            for _ in range(n):
                sem.release()


def hold(process: int, which: int, n: int, size: int, notes: Notes) -> None:
    notes.note(process, which, n, size)
    notes.check(which)
    notes.words[notes.entries] += 1
    until = time.perf_counter() + random.random() / 5000
    while time.perf_counter() < until:
        pass
    if random.random() < 0.01:
        notes.doom(process)
        os._exit(0)
    notes.note(process, which, 0)


def resize(sem: RobustSemaphore, notes: Notes) -> None:
    # The limit is noted before it grows and after it shrinks: a death between leaves it too high, never too low.
    size = random.choice(SIZES)
    if size >= notes.words[notes.limit] & 255:
        notes.change(notes.limit, size)
        sem.resize(size)
    elif sem.resize(size, random.random() / 100):
        notes.change(notes.limit, size)


def close(*sems: RobustSemaphore) -> None:
    for sem in sems:
        sem.close()
    for _ in range(3):  # PyPy ends their use only now
        gc.collect()


def start(process: int, notes: Notes, names: list[str]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        try:
            random.seed()
            work(process, notes, names, parent)
        except BaseException:
            notes.words[notes.failed] = 1
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def run(kills: int, prefix: str = f"nst{os.getpid()}_") -> str:
    """Kill so many processes. Return what happened; AssertionError if a token was lost or gained, or a set is left."""
    names = [f"/{prefix}kills.{number}" for number in range(NAMES)]
    notes = Notes()
    notes.change(notes.limit, TOKENS)
    kept = RobustSemaphore(names[0], TOKENS)
    begin = time.perf_counter()
    holders = 0
    pids = [start(process, notes, names) for process in range(PROCESSES)]
    try:
        for _ in range(kills):
            process = random.randrange(PROCESSES)
            time.sleep(random.random() / 1000)
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
        state = kept.value - kept.initial_value
        close(kept)
        # The last user has closed each name, or was killed: RAISE_IF_EXISTS creates it anew, with another number.
        anew = [
            RobustSemaphore(name, TOKENS + 1, RobustSemaphore.Flags.RAISE_IF_EXISTS)
            for name in names
        ]
        fresh = [(sem.value, sem.initial_value) for sem in anew]
        close(*anew)
    assert not notes.words[notes.failed], "a process failed"
    assert state == 0, f"{-state} tokens lost"
    assert set(fresh) == {(TOKENS + 1, TOKENS + 1)}, f"not begun anew: {fresh}"
    left = [listed.name for listed in _sysv.list_sets() if listed.name in names]
    assert not left, f"left behind: {left}"
    entries, most, begun = (
        notes.words[notes.entries],
        notes.words[notes.most],
        notes.words[notes.begun],
    )
    seconds = time.perf_counter() - begin
    return (
        f"{kills} kills, {holders} of them of holders, {entries} entries, {begun} sets, at most {most} tokens held, "
        f"0 lost, 0 gained, {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="20,000 kills (minutes)")
    parser.add_argument("--kills", type=int, default=300, help="how many (default: %(default)s)")
    options = parser.parse_args()
    print(run(20_000 if options.full else options.kills))


if __name__ == "__main__":
    main()
