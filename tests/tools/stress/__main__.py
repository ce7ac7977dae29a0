# SPDX-License-Identifier: Apache-2.0
"""Print what storms of signals, deaths of holders and other faults cost this library and its peers.

``tox -e stress``, or ``python tests/tools/stress [--quick] [--no-peers] [--only FAULT ...]``;
README.md explains the faults. Each figure comes from a process of its own, so that a crash or a
hang is a figure too. The tests of kills, races and leaks come last, at full size, by pytest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(HERE)), "lib"), os.path.dirname(HERE)]

import peers  # noqa: E402
from peers import Naive, Named, NamedCtypes, NamedPolling, Peer, Robust, prepare, sweep  # noqa: E402
from support import EXACT  # noqa: E402
from tables import heading, put_into_readme, table  # noqa: E402

from stress.deaths import KINDS  # noqa: E402

OURS = (Named, NamedCtypes, NamedPolling, Robust)
SIGNALS = {
    "with": ("`with sem: pass`", 'storm.busy(peer, {n}, "with")', 100_000),
    "body": ("`with` and a body", 'storm.busy(peer, {n}, "body")', 100_000),
    "nested": ("nested `with`", 'storm.busy(peer, {n}, "nested")', 100_000),
    "try": ("`acquire`, `try`, `finally`", 'storm.busy(peer, {n}, "try")', 100_000),
    "waiting-with": ("`with` that waits", 'storm.waiting(peer, {n}, "with")', 100_000),
    "waiting-timeout": (
        "`acquire(timeout=10)` that waits", 'storm.waiting(peer, {n}, "timed")', 100_000
    ),
    "early-signal": ("a signal just before the kernel sleeps", "storm.noticed(peer, {n})", 40_000),
}  # fmt: skip
SEVERAL = {
    "hold": ("`with sem.hold(2)`", 'storm.busy(peer, {n}, "hold")', 100_000),
    "slot": ("`with sem.slot()`", 'storm.busy(peer, {n}, "slot")', 100_000),
    "release": ("`acquire(n=2)`, `release(2)`", 'storm.busy(peer, {n}, "release")', 100_000),
    "first": ("waiting for the first of two", 'storm.waiting(peer, {n}, "first")', 100_000),
    "rest": ("waiting for the second", 'storm.waiting(peer, {n}, "rest")', 100_000),
}
THREADS = {
    "closing": ("`close()` while four threads wait", "faults.closing(peer, {n})", 100),
    "forking": ("a child of `fork` ends", "faults.forking(peer, {n})", 1),
    "succeeding": (
        "the name was made anew, its first creator closes", "faults.succeeding(peer, {n})", 1
    ),
}  # fmt: skip
DEATHS = {kind: (kind, f'deaths.dying(peer, {{n}}, "{kind}")', 100) for kind in KINDS}
KILLS = {"timeline": ("for so many seconds", "timeline.killing(peer, {n})", 10)}
LOSERS = (peers.PosixIpc, peers.Predecessor, peers.Multiprocessing, Naive)
FILES = (peers.Portalocker, peers.Filelock)
MORTAL = (peers.PosixIpc, peers.Multiprocessing, peers.SysvIpc, *FILES)
# Key, title, peers, and faults: what it is, the call, times at full size.
TABLES = (
    ("signals", "Signals, whose handlers raise", (*OURS, *LOSERS), SIGNALS),
    (
        "several", "Signals, where several tokens or a numbered one are taken", (Robust,), SEVERAL,
    ),
    (
        "threads", "Threads, forks, successors",
        (Named, NamedCtypes, Robust, peers.PosixIpc, peers.Predecessor, Naive), THREADS,
    ),
    ("deaths", "Deaths of a process that holds a token", (Named, Robust, *MORTAL), DEATHS),
    ("kills", "A limit of three under SIGKILLs", (Named, Robust, *FILES), KILLS),
)  # fmt: skip
CHOICES = [choice for key, _, _, faults in TABLES for choice in (key, *faults)]
# Those with a full size.
TESTS = [f"test_{name}.py" for name in "model sysv_model sysv robust forks core async run".split()]

CODE = """
import json, sys
sys.path[:1] = {path!r}
import peers
from named_semaphores import _set
from stress import deaths, faults, storm, timeline
_set.FORKING = 0  # a process that has just forked leaves its sets to its child; not counted here
print(json.dumps({call}))
"""
# Figures that are no fault.
USUAL = ("interrupts", "rounds", "s at most", "open at once", "workers killed")


def is_promised(peer: type[Peer], fault: str) -> bool:
    """Whether the peer must come out of this without a fault."""
    if peer is Named and (fault in KINDS or fault == "timeline"):
        return False  # nothing brings a killed holder's token back
    if peer is NamedPolling and fault == "early-signal":
        return False  # without timed waits only the next signal is noticed
    if fault in {**SIGNALS, **SEVERAL} and not EXACT:
        return False  # before CPython 3.11 a signal can come between a token and its owner
    return peer in OURS and fault != "try"  # what is lost there is lost after acquire has returned


def measure(peer: type[Peer], call: str, seconds: float) -> tuple[str, bool]:
    """Run the call in a new process. Return its figures, or how it failed, and whether there was
    no fault.
    """
    code = CODE.format(path=sys.path[:2], call=call.replace("peer", f"peers.{peer.__name__}()"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes)
    output = None
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:  # whatever ended this, an interrupt too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = sweep(process.pid)
    if output is None:
        return "hangs", False
    if process.returncode < 0:
        return f"dies of signal {-process.returncode}", False
    if process.returncode:
        return errors.strip().splitlines()[-1][:60], False
    figures = {**json.loads(output), "names left": len(left)}
    faults = {what: figure for what, figure in figures.items() if what not in USUAL}
    shown = {  # the first fault's figure in any case
        what: figure
        for what, figure in figures.items()
        if what == next(iter(faults)) or (figure and what not in ("interrupts", "rounds"))
    }
    words = "; ".join(f"{figure} {what}" for what, figure in shown.items())
    return words, not any(faults.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/tools/stress", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the times")
    own = "this library and the naive class only"
    parser.add_argument("--no-peers", action="store_true", help=own)
    only = f"only these faults or tables: {', '.join(CHOICES)}"
    parser.add_argument("--only", nargs="+", choices=CHOICES, metavar="FAULT", help=only)
    readme = "put the tables into README.md, in place of this Python's"
    parser.add_argument("--readme", action="store_true", help=readme)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that "finally" runs
    missing = prepare()
    for label, why in missing.items():
        print(f"*** Left out: {label}: {why}", file=sys.stderr)
    failed, lines = False, [heading()]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # for lock files
        for key, title, compared, faults in TABLES:
            wanted = {key, *faults} & set(options.only or CHOICES)
            chosen = {fault: faults[fault] for fault in faults if {key, fault} & wanted}
            columns = [
                peer
                for peer in compared
                if peer.label not in missing and (not options.no_peers or peer in (*OURS, Naive))
            ]
            rows = [["", "times", *(peer.label for peer in columns)]]
            for fault, (what, call, size) in chosen.items():
                quick = options.quick and size > 10
                count = max(3, size // 100) if quick else size
                rows.append([what, f"{count:,}"])
                for peer in columns:
                    # A few show that others lose tokens.
                    n = count if peer in OURS else min(count, 5_000)
                    figures, well = measure(peer, call.format(n=n), 120 + n / 200)
                    rows[-1].append(figures + ("" if n == count else f" of {n:,}"))
                    failed |= is_promised(peer, fault) and not well
                    print(f"{title}: {what}: {peer.label}: {rows[-1][-1]}", file=sys.stderr)
            if chosen:
                lines.append(f"### {title}\n\n{table(rows)}")
    text = "\n".join(lines)
    print(text, flush=True)
    if options.readme:
        put_into_readme(os.path.join(HERE, "README.md"), text)
    if options.only:
        return failed
    tests = [os.path.join(os.path.dirname(os.path.dirname(HERE)), test) for test in TESTS]
    full = [] if options.quick else ["--full", "--timeout=0"]
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *full, *tests]
    return subprocess.run(pytest, check=False).returncode or failed


if __name__ == "__main__":
    sys.exit(main())
