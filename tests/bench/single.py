# SPDX-License-Identifier: Apache-2.0
"""One process, no contention: what each operation costs, and importing."""

from __future__ import annotations

import os
import subprocess
import sys
import timeit
from typing import Any, Callable

from results import Results
from subjects import CACHE, CREATE, LINK, OPERATIONS, PREDECESSOR, USE, CLoop, available, fresh_name

from named_semaphores import NamedSemaphore

_BLOCK = 0.003  # seconds a subject is measured before the next has its turn


def measure(results: Results, quick: bool) -> None:
    """Time all operations. pyperf's Runner measures one subject after the other; here they take turns, so that ratios hold."""
    link = fresh_name()
    NamedSemaphore(link, unlink_on_delete=False).close()  # nobody has it open: a link maps it
    try:
        subjects = list(available())
        timers = {(subject, operation): _timer(subject, operation, link) for subject in subjects for operation in subject.statements}
        for operation in OPERATIONS:
            _take_turns(results, operation, {subject: timer for (subject, its), timer in timers.items() if its == operation}, quick)
    finally:
        NamedSemaphore(link, unlink_on_delete=True).close()


def _timer(subject: Any, operation: str, link: str) -> Callable[[int], float]:
    fresh = fresh_name()
    names = {"s": None, "e": None, "fresh": fresh, "fresh_bytes": os.fsencode(fresh), "link": link, "link_bytes": os.fsencode(link)}
    if operation not in (CREATE, LINK, USE):
        names.update(s=subject.open(), e=subject.empty())
    if isinstance(subject, CLoop):
        return subject.timer(operation, names)
    names.update(subject.namespace())
    setup = "; ".join(f"{name} = names[{name!r}]" for name in names)  # locals: what is looked up is the same for all
    return timeit.Timer(subject.statements[operation], setup, globals={"names": names}).timeit


def _take_turns(results: Results, operation: str, timers: dict[Any, Callable[[int], float]], quick: bool) -> None:
    loops = {subject: _loops(timer) for subject, timer in timers.items()}
    order = list(timers)
    for _ in range(8 if quick else 24):
        order.append(order.pop(0))  # nobody always comes after the same neighbour
        for subject in order:
            results.add(operation, subject.label, timers[subject](loops[subject]) / loops[subject])
            subject.after_round()


def _loops(timer: Callable[[int], float]) -> int:
    loops = 1
    while True:
        seconds = timer(loops)
        if seconds >= _BLOCK / 4:
            return max(1, int(loops * _BLOCK / seconds))
        loops *= 4


_IMPORTS = {
    "this library": "named_semaphores",
    "ctypes, enum, weakref": "ctypes, enum, weakref",
    "posix_ipc": "posix_ipc",
    "named-semaphores 1.0.3": "named_semaphores.semaphore",
    "threading.Semaphore": "threading",
    "multiprocessing.Semaphore": "multiprocessing.synchronize",
    "filelock": "filelock",
    "portalocker": "portalocker",
    "fasteners": "fasteners",
}


def measure_import(results: Results, quick: bool) -> None:
    """Time each import in a new process, without that process's start."""
    root = os.path.dirname(os.path.dirname(sys.modules["named_semaphores"].__file__ or ""))
    # All from compiled modules, whatever the environment says, and none compiled into somebody's checkout.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": os.path.abspath(os.path.join(CACHE, "pycache"))}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    failed: set[str] = set()
    for number in range(6 if quick else 21):
        for label, modules in _IMPORTS.items():
            path = os.path.join(CACHE, PREDECESSOR) if "1.0.3" in label else root
            code = (
                f"import sys, time; sys.path.insert(0, {path!r}); t = time.perf_counter()\nimport {modules}\nprint(time.perf_counter() - t)"
            )
            if label not in failed:
                ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
                if ran.returncode:
                    failed.add(label)
                elif number:  # the first compiles
                    results.add("import", label, float(ran.stdout))
