# SPDX-License-Identifier: Apache-2.0
"""Tables of the results, and the files that keep them."""

from __future__ import annotations

import platform
import sys

import pyperf
import targets
from results import Results
from subjects import ALL, FAIL, OPERATIONS, PAIR, TIMEOUT, TRY, USE, Polling

_OURS = "this library"
_SHORT = {TRY: "non-blocking", TIMEOUT: "timeout", FAIL: "fails", PAIR: "acq.+rel.", USE: "link, use"}
_IN_PROCESS = (*OPERATIONS, "import")


def markdown(results: Results, missing: list[str], quick: bool) -> str:
    """Return the whole report."""
    title = f"named_semaphores on {platform.python_implementation()} {platform.python_version()}, {platform.machine()}, {sys.platform}"
    parts = [f"# {title}{', quick run' if quick else ''}\n"]
    parts += [f"**Left out:** {line}\n" for line in missing]
    within = [operation for operation in _IN_PROCESS if any(key[0] == operation for key in results.values)]
    others = [operation for operation, _ in results.values if operation not in _IN_PROCESS]
    if within:
        parts.append(_section("Time in one process (the least of all rounds)", results, within, _time))
        parts.append(_section("How many times as long as this library (median of the rounds' ratios)", results, within, _ratio))
    across = [operation for operation in dict.fromkeys(others) if not operation.startswith(("timeout of", "token after", "CPU", "memory"))]
    polling = [operation for operation in dict.fromkeys(others) if operation.startswith(("timeout of", "token after", "CPU"))]
    memory = [operation for operation in dict.fromkeys(others) if operation.startswith("memory")]
    for name, operations, cell in (
        ("Between processes, and with many open (median; times as long as this library)", across, _both),
        ("Polling, where there is no timed wait (median, 95 %)", polling, _spread),
        ("Memory (bytes)", memory, _bytes),
    ):
        if operations:
            parts.append(_section(name, results, operations, cell, turned=True))
    checks = list(targets.rows(results))
    if checks:
        parts.append("## Targets\n\n" + _table([["target", "measured (quartiles)", "", "with bare ctypes calls"], *map(list, checks)]))
    return "\n".join(parts)


def _section(name: str, results: Results, operations: list[str], cell: object, turned: bool = False) -> str:
    known = list(dict.fromkeys([subject_type.label for subject_type in ALL] + [Polling.label] + [subject for _, subject in results.values]))
    subjects = [label for label in known if any((operation, label) in results.values for operation in operations)]
    rows = [["", *(_SHORT.get(operation, operation) for operation in operations)]]
    rows += [[label, *(cell(results, operation, label) for operation in operations)] for label in subjects]  # type: ignore[operator]
    return f"## {name}\n\n" + _table([list(row) for row in zip(*rows)] if turned else rows)


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    units = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
    unit = next((unit for unit, size in units.items() if value < 1000 * size), "s")
    number = value / units[unit]
    return f"{number:.{0 if number >= 100 or unit == 'ns' else 1}f} {unit}"


def _time(results: Results, operation: str, subject: str) -> str:
    return _seconds(results.least(operation, subject))


def _ratio(results: Results, operation: str, subject: str) -> str:
    ratio = results.ratio(operation, subject, _OURS)
    return f"{ratio[0]:.3g}" if ratio else ""


def _both(results: Results, operation: str, subject: str) -> str:
    middle = _seconds(results.median(operation, subject))
    return f"{middle} ({_ratio(results, operation, subject)})" if middle and subject != _OURS else middle


def _spread(results: Results, operation: str, subject: str) -> str:
    values = sorted(results.get(operation, subject))
    if len(values) < 2:
        return _seconds(values[0]) if values else ""
    return f"{_seconds(results.median(operation, subject))}, {_seconds(values[(len(values) * 19 - 1) // 20])}"


def _bytes(results: Results, operation: str, subject: str) -> str:
    used = results.least(operation, subject)
    return "" if used is None else f"{used:.0f}"


def store(results: Results, path: str) -> None:
    """Write the values as pyperf does, so that ``pyperf compare_to`` and ``pyperf stats`` read them."""
    benchmarks = []
    for number, ((operation, subject), values) in enumerate(results.values.items()):
        positive = [value for value in values if value > 0]  # pyperf takes no other
        if positive:
            unit = "byte" if operation.startswith("memory") else "second"
            metadata = {"name": f"{operation}: {subject}", "unit": unit}
            benchmarks.append(pyperf.Benchmark([pyperf.Run(positive, metadata=metadata, collect_metadata=not number)]))
    pyperf.BenchmarkSuite(benchmarks).dump(path, replace=True)
