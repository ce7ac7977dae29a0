# SPDX-License-Identifier: Apache-2.0
"""Tables of tests/tools/bench and stress, printed and kept in the README.md beside each."""

from __future__ import annotations

import platform
import re
import sys


def version() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def heading() -> str:
    return f"## {version()}, {platform.machine()}, {sys.platform}\n"


def table(rows: list[list[str]]) -> str:
    """Return the rows as Markdown; the first is the head."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def put_into_readme(path: str, text: str) -> None:
    """Replace this Python's section, which begins with ``heading``, by the text, or append it."""
    with open(path, encoding="utf-8") as file:
        before = file.read()
    section = re.compile(rf"^## {re.escape(version())},.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    after = (
        section.sub(lambda _: text + "\n", before, count=1)
        if section.search(before)
        else f"{before.rstrip()}\n\n{text}"
    )
    with open(path, "w", encoding="utf-8") as file:
        file.write(after.rstrip() + "\n")
