# SPDX-License-Identifier: Apache-2.0
"""Measured values."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable

Value = tuple[str, str, float]  # the operation, the peer's label, and what was measured


def p99(values: list[float]) -> float:
    """Return the value below which 99 % of the values are."""
    return statistics.quantiles(values, n=100, method="inclusive")[98]


class Results:
    """Values for each group, operation and peer, in the order of the rounds."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[tuple[str, str], list[float]]] = {}

    def add(self, group: str, values: Iterable[Value]) -> None:
        for operation, peer, value in values:
            self.groups.setdefault(group, {}).setdefault((operation, peer), []).append(value)

    def get(self, group: str, operation: str, peer: str) -> list[float]:
        return self.groups.get(group, {}).get((operation, peer), [])

    def ratios(self, group: str, operation: str, peer: str, other: str) -> list[float]:
        """Return the ratios of the rounds: what slows one of the two slows both."""
        both = (self.get(group, operation, label) for label in (peer, other))
        return [a / b for a, b in zip(*both)]

    def keep(self, path: str) -> None:
        """Write the values to a file, in place of earlier ones of the same groups."""
        rows = []
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                rows = [row for row in json.load(file) if row[0] not in self.groups]
        for group, measured in self.groups.items():
            rows += [[group, *key, values] for key, values in measured.items()]
        with open(path, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=0)
