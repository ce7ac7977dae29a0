# SPDX-License-Identifier: Apache-2.0
"""The results as Markdown, as it stands in README.md."""

from __future__ import annotations

import statistics
from typing import Callable

import targets
from peers import LABELS
from results import Results, percentile
from tables import heading, table

_ORDER = {label: number for number, label in enumerate(LABELS)}


def seconds(value: float) -> str:
    units = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
    unit = next((unit for unit, size in units.items() if value < 1000 * size), "s")
    number = value / units[unit]
    return f"{number:.{0 if number >= 100 or unit == 'ns' else 1}f} {unit}"


def least(values: list[float]) -> str:
    return seconds(min(values))


def median(values: list[float]) -> str:
    return seconds(statistics.median(values))


def median_and_p99(values: list[float]) -> str:
    return f"{median(values)}, {seconds(percentile(values, 99))}"


def range_of_counts(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f} ({min(values) / max(1, max(values)):.2f})"


def plain(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}"


def share(values: list[float]) -> str:
    return f"{statistics.median(values):.3%}"


def number_of_bytes(values: list[float]) -> str:
    return f"{min(values):.0f}"


def markdown(
    results: Results, titles: dict[str, tuple[str, Callable[[list[float]], str]]], notes: list[str]
) -> str:
    """Return a section with a table for each group that was measured, and one of the targets."""
    parts = [heading(), *(f"**{note}**\n" for note in notes)]
    for group, (title, cell) in titles.items():
        if group in results.groups:
            operations = results.operations(group)
            rows = [["", *operations]]
            for peer in sorted(
                results.peers(group), key=lambda label: _ORDER.get(label, len(_ORDER))
            ):
                values = (results.get(group, operation, peer) for operation in operations)
                rows.append([peer, *(cell(some) if some else "" for some in values)])
            parts.append(f"### {group}: {title}\n\n{table(rows)}")
    checked = [
        [target, measured, "met" if met else "NOT MET"]
        for target, measured, met in targets.rows(results)
    ]
    if checked:
        parts.append("### Targets\n\n" + table([["", "measured (quartiles)", ""], *checked]))
    return "\n".join(parts)
