# SPDX-License-Identifier: Apache-2.0
"""Measured values, and the statistics that hold on a machine which others use too."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator


def percentile(values: Iterable[float], share: int) -> float:
    """Return the value below which this share (in percent) of the values is."""
    ordered = sorted(values)
    return ordered[max(0, (len(ordered) * share - 1) // 100)]


class Results:
    """Values for each group, operation and peer, in the order of the rounds."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[tuple[str, str], list[float]]] = {}

    def add(self, group: str, operation: str, peer: str, value: float) -> None:
        self.groups.setdefault(group, {}).setdefault((operation, peer), []).append(value)

    def get(self, group: str, operation: str, peer: str) -> list[float]:
        return self.groups.get(group, {}).get((operation, peer), [])

    def operations(self, group: str) -> list[str]:
        return list(dict.fromkeys(operation for operation, _ in self.groups[group]))

    def peers(self, group: str) -> list[str]:
        return list(dict.fromkeys(peer for _, peer in self.groups[group]))

    def median(self, group: str, operation: str, peer: str) -> float | None:
        values = self.get(group, operation, peer)
        return statistics.median(values) if values else None

    def ratio(
        self, group: str, operation: str, peer: str, other: str
    ) -> tuple[float, float, float] | None:
        """Return the median and the quartiles of the rounds' ratios: what slows one slows both."""
        ratios = [
            a / b
            for a, b in zip(self.get(group, operation, peer), self.get(group, operation, other))
        ]
        if len(ratios) < 2:
            return (ratios[0],) * 3 if ratios else None
        low, middle, high = statistics.quantiles(ratios, n=4)
        return middle, low, high

    def _rows(self) -> Iterator[tuple[str, str, str, list[float]]]:
        for group, measured in self.groups.items():
            for (operation, peer), values in measured.items():
                yield group, operation, peer, values

    def write(self, path: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(list(self._rows()), file, indent=0)

    def read(self, path: str) -> None:
        with open(path, encoding="utf-8") as file:
            for group, operation, peer, values in json.load(file):
                for value in values:
                    self.add(group, operation, peer, value)
