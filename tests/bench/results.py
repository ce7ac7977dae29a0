# SPDX-License-Identifier: Apache-2.0
"""Measured values, and the statistics that hold on a machine others use too."""

from __future__ import annotations

import json
import statistics


class Results:
    """Values for each operation and subject, in the order of the rounds."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], list[float]] = {}

    def add(self, operation: str, subject: str, value: float) -> None:
        self.values.setdefault((operation, subject), []).append(value)

    def get(self, operation: str, subject: str) -> list[float]:
        return self.values.get((operation, subject), [])

    def least(self, operation: str, subject: str) -> float | None:
        return min(self.get(operation, subject), default=None)

    def median(self, operation: str, subject: str) -> float | None:
        values = self.get(operation, subject)
        return statistics.median(values) if values else None

    def ratio(self, operation: str, subject: str, other: str) -> tuple[float, float, float] | None:
        """Return the median, and the quartiles, of the ratios of each round: what slowed the machine for a while slowed both."""
        ratios = [a / b for a, b in zip(self.get(operation, subject), self.get(operation, other))]
        if len(ratios) < 2:
            return (ratios[0],) * 3 if ratios else None
        low, middle, high = statistics.quantiles(ratios, n=4)
        return middle, low, high

    def write(self, path: str) -> None:
        with open(path, "w") as file:
            json.dump([[*key, values] for key, values in self.values.items()], file)

    def read(self, path: str) -> None:
        with open(path) as file:
            for operation, subject, values in json.load(file):
                self.values.setdefault((operation, subject), []).extend(values)
