# SPDX-License-Identifier: Apache-2.0
"""Print what storms of signals, deaths of holders and other faults cost this library and its peers.

``tox -e stress``, or ``python tests/tools/stress [--quick] [--only FAULT ...]``; README.md explains
the faults. Each figure comes from a process of its own, so that a crash or a hang is a figure too.
The tests of kills, races and leaks come last, at full size, by pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.dirname(HERE)
TESTS = os.path.dirname(TOOLS)
sys.path[:0] = [os.path.join(TESTS, "lib"), TOOLS]

import peers  # noqa: E402
from alone import peers_ready, run_alone  # noqa: E402
from peers import FILES, OURS, Named, NamedPolling, Peer, Robust  # noqa: E402
from support import EXACT  # noqa: E402
from tables import heading, put_into_readme, table  # noqa: E402

from stress import deaths, faults, storm, timeline  # noqa: E402

SIGNALS = {
    **{name: partial(storm.busy, statement=name) for name in ("with", "body", "nested", "try")},
    "waiting-with": partial(storm.waiting, statement="with"),
    "waiting-timeout": partial(storm.waiting, statement="timed"),
    "early-signal": storm.noticed,
}
SEVERAL = {
    **{name: partial(storm.busy, statement=name) for name in ("hold", "slot", "release")},
    **{name: partial(storm.waiting, statement=name) for name in ("first", "rest")},
}
THREADS = {"closing": faults.closing}
DEATHS = {kind: partial(deaths.dying, kind=kind) for kind in deaths.KINDS}
KILLS = {"timeline": timeline.killing}
FAULTS = {**SIGNALS, **SEVERAL, **THREADS, **DEATHS, **KILLS}
# How often at full size; "timeline" for so many seconds.
TIMES = {
    **dict.fromkeys((*SIGNALS, *SEVERAL), 100_000),
    **dict.fromkeys((*THREADS, *DEATHS), 100),
    "early-signal": 40_000,
    "timeline": 10,
}
LOSERS = (peers.PosixIpc, peers.Multiprocessing)
MORTAL = (peers.PosixIpc, peers.Multiprocessing, peers.SysvIpc, *FILES)
# Key, title, peers, and faults.
TABLES = (
    ("signals", "Signals, whose handlers raise", (*OURS, *LOSERS), SIGNALS),
    ("several", "Signals, where several tokens or a numbered one are taken", (Robust,), SEVERAL),
    ("threads", "Threads that wait", (*OURS, peers.PosixIpc), THREADS),
    ("deaths", "Deaths of a process that holds a token", (Named, Robust, *MORTAL), DEATHS),
    ("kills", "A limit of three under SIGKILLs", (Named, Robust, peers.Portalocker), KILLS),
)
CHOICES = [choice for key, _, _, some in TABLES for choice in (key, *some)]
# The suite's files with a full size.
FULL = [f"test_{name}.py" for name in "sysv_model sysv robust forks core async run".split()]
# Figures that are no fault.
USUAL = ("interrupts", "rounds", "s at most", "open at once", "workers killed")


def is_promised(peer: type[Peer], fault: str) -> bool:
    """Whether the peer must come out of this without a fault."""
    if peer is Named and fault in {**DEATHS, **KILLS}:
        return False  # nothing brings a killed holder's token back
    if peer is NamedPolling and fault == "early-signal":
        return False  # without timed waits only the next signal is noticed
    if fault in {**SIGNALS, **SEVERAL} and not EXACT:
        return False  # before CPython 3.11 a signal can come between a token and its owner
    return peer in OURS and fault != "try"  # what is lost there is lost after acquire has returned


def measure(peer: type[Peer], fault: str, times: int) -> tuple[str, bool]:
    """Return the figures of a new process, or how it failed, and whether there was no fault."""
    arguments = (HERE, "--only", fault, "--figures", peer.__name__, str(times))
    ended = run_alone(*arguments, seconds=120 + times / 200, stderr=subprocess.PIPE)
    if ended.status is None:
        return "hangs", False
    if ended.status < 0:
        return f"dies of signal {-ended.status}", False
    if ended.status:
        return ended.errors.strip().splitlines()[-1][:60], False
    figures = {**json.loads(ended.output), "names left": len(ended.left)}
    found = {what: figure for what, figure in figures.items() if what not in USUAL}
    first = next(iter(found))  # shown in any case
    words = "; ".join(
        f"{figure} {what}"
        for what, figure in figures.items()
        if what == first or (figure and what not in ("interrupts", "rounds"))
    )
    return words, not any(found.values())


def measure_all(only: list[str], quick: bool) -> tuple[str, bool]:
    """Return the tables, and whether this library failed."""
    failed, lines = False, [heading()]
    with peers_ready() as missing:
        for key, title, compared, some in TABLES:
            chosen = [fault for fault in some if {key, fault} & set(only)]
            columns = [peer for peer in compared if peer.label not in missing]
            rows = [["", "times", *(peer.label for peer in columns)]]
            for fault in chosen:
                count = TIMES[fault]
                if quick and count > 10:
                    count = max(3, count // 100)
                rows.append([fault, f"{count:,}"])
                for peer in columns:
                    # A few show that others lose tokens.
                    times = count if peer in OURS else min(count, 5_000)
                    figures, well = measure(peer, fault, times)
                    rows[-1].append(figures + ("" if times == count else f" of {times:,}"))
                    failed |= is_promised(peer, fault) and not well
                    print(f"{title}: {fault}: {peer.label}: {rows[-1][-1]}", file=sys.stderr)
            if chosen:
                lines.append(f"### {title}\n\n{table(rows)}")
    return "\n".join(lines), failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/tools/stress", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the times")
    only = f"only these faults or tables: {', '.join(CHOICES)}"
    parser.add_argument("--only", nargs="+", choices=CHOICES, metavar="FAULT", help=only)
    readme = "put the tables into README.md, in place of this Python's"
    parser.add_argument("--readme", action="store_true", help=readme)
    parser.add_argument("--figures", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.figures:
        peer, times = options.figures
        print(json.dumps(FAULTS[options.only[0]](getattr(peers, peer)(), int(times))))
        return 0
    text, failed = measure_all(options.only or CHOICES, options.quick)
    print(text, flush=True)
    if options.readme:
        put_into_readme(os.path.join(HERE, "README.md"), text)
    if options.only:
        return failed
    full = [] if options.quick else ["--full", "--timeout=0"]
    tests = [os.path.join(TESTS, test) for test in FULL]
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *full, *tests]
    return subprocess.run(pytest, check=False).returncode or failed


if __name__ == "__main__":
    sys.exit(main())
