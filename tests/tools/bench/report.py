# SPDX-License-Identifier: Apache-2.0
"""The results as Markdown, as it stands in README.md."""

from __future__ import annotations

import statistics
from typing import Callable

import targets
from peers import LABELS
from results import Results, p99
from tables import heading, table

Cell = Callable[[list[float]], str]


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
    return f"{median(values)}, {seconds(p99(values))}"


def median_as(form: str) -> Cell:
    return lambda values: format(statistics.median(values), form)


def range_of_counts(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f} ({min(values) / max(1, max(values)):.2f})"


def markdown(results: Results, titles: dict[str, tuple[str, Cell]], notes: list[str]) -> str:
    """Return a section with a table for each group that was measured, and one of the targets."""
    parts = [heading(), *(f"**{note}**\n" for note in notes)]
    for group, measured in results.groups.items():
        title, cell = titles[group]
        operations = list(dict.fromkeys(operation for operation, _ in measured))
        labels = dict.fromkeys(label for _, label in measured)
        rows = [["", *operations]]
        for label in dict.fromkeys((*filter(labels.__contains__, LABELS), *labels)):
            values = (measured.get((operation, label)) for operation in operations)
            rows.append([label, *(cell(some) if some else "" for some in values)])
        parts.append(f"### {group}: {title}\n\n{table(rows)}")
    checked = list(targets.rows(results))
    if checked:
        parts.append("### Targets\n\n" + table([["", "measured (quartiles)", ""], *checked]))
    return "\n".join(parts)
