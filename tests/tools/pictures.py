# SPDX-License-Identifier: Apache-2.0
"""Draw what tests/tools/bench and tests/tools/stress measured last: ``tox -e pictures``.

The pictures have no background, so colours and text must be readable on white and on black.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.path.dirname(os.path.dirname(HERE)), ".bench")

GREY, BLUE, GREEN, RED = "#808080", "#3b82d6", "#2f9e5f", "#d9483b"

plt.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "named_semaphores",  # the same data give the same file
        "font.family": "sans-serif",
        "font.size": 10,
        "savefig.transparent": True,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY
        ),
    }
)


def draw_cost_of_with(measured: list[Any], version: str, path: str) -> None:
    """Draw a bar for each peer: the least time of ``with sem: pass``."""
    times = {
        peer: min(values)
        for group, operation, peer, values in measured
        if (group, operation) == ("calls", "with")
    }
    times.pop("NamedSemaphore, polling", None)  # differs only in waits
    peers = sorted(times, key=lambda peer: times[peer], reverse=True)
    figure, axes = plt.subplots(figsize=(7.5, 0.32 * len(peers) + 0.9))
    ours = [
        BLUE if peer.startswith("NamedSemaphore") else GREEN if peer == "RobustSemaphore" else GREY
        for peer in peers
    ]
    axes.barh(peers, [times[peer] * 1e6 for peer in peers], color=ours, height=0.62)
    for row, peer in enumerate(peers):
        micro = times[peer] * 1e6
        axes.text(micro * 1.08, row, f"{micro:.2f}" if micro < 10 else f"{micro:.0f}", va="center")
    axes.set_xscale("log")
    axes.set_xlim(0.05, max(times.values()) * 1e6 * 2.5)
    axes.set_xlabel(f"“with sem: pass” without a wait, µs (logarithmic), {version}")
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _save(figure, path)


def draw_kills(recorded: dict[str, Any], path: str) -> None:
    """Draw a timeline for each peer: six workers at three tokens, some of them killed inside."""
    labels = [
        label for label in ("RobustSemaphore", "NamedSemaphore", "portalocker") if label in recorded
    ]
    figure, panels = plt.subplots(
        len(labels), 1, figsize=(8.5, 2.4 * len(labels) + 0.5), sharex=True, squeeze=False
    )
    for axes, label in zip(panels[:, 0], labels):
        _draw_timeline(axes, label, recorded[label])
    panels[-1, 0].set_xlabel("seconds")
    kinds = [
        mpl.lines.Line2D([], [], color=GREEN, linewidth=7, label="worker inside"),
        mpl.lines.Line2D([], [], color=GREY, linewidth=1.5, label="worker waits"),
        mpl.lines.Line2D(
            [],
            [],
            color=RED,
            marker="x",
            markersize=7,
            markeredgewidth=2,
            linestyle="",
            label="worker killed",
        ),
        mpl.lines.Line2D([], [], color=GREEN, linewidth=7, alpha=0.75, label="token taken"),
        mpl.lines.Line2D([], [], color=BLUE, linewidth=7, alpha=0.75, label="token free"),
        mpl.lines.Line2D([], [], color=RED, linewidth=7, alpha=0.75, label="token lost"),
    ]
    figure.legend(
        handles=kinds,
        loc="upper center",
        ncols=6,
        fontsize=8,
        handlelength=1.2,
        columnspacing=1.2,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    _save(figure, path)


def _draw_timeline(axes: Any, label: str, recorded: dict[str, Any]) -> None:
    end, workers, tokens, bars = (recorded[key] for key in ("seconds", "workers", "tokens", "bars"))
    for state, color, width in (("waits", GREY, 1.5), ("inside", GREEN, 9)):
        of_state = [
            (workers - worker, begin, until)
            for worker, its, begin, until, _ in bars
            if its == state
        ]
        if of_state:
            axes.hlines(*zip(*of_state), colors=color, linewidth=width, clip_on=False)
    axes.plot(
        *zip(*[(until, workers - worker) for worker, _, _, until, died in bars if died]),
        "x",
        color=RED,
        markersize=7,
        markeredgewidth=2,
    )
    # A token is lost if it is neither free nor held at the end; the first killed holders had them.
    last = max(until for _, _, _, until, _ in bars)
    lost_at_end = (
        tokens
        - recorded["free"][-1][1]
        - sum(state == "inside" and until == last for _, state, _, until, _ in bars)
    )
    kills = sorted(until for _, _, _, until, died in bars if died)[:lost_at_end]
    times = sorted({0.0, *(at for at, _ in recorded["free"]), *kills, last})
    free = [
        next((count for since, count in reversed(recorded["free"]) if since <= at), tokens)
        for at in times
    ]
    lost = [sum(kill <= at for kill in kills) for at in times]
    taken = [tokens - here - gone for here, gone in zip(free, lost)]
    base = [-1.35] * len(times)
    for counts, color in ((lost, RED), (taken, GREEN), (free, BLUE)):
        top = [below + 0.45 * count for below, count in zip(base, counts)]
        if any(counts):
            axes.fill_between(times, base, top, step="post", color=color, linewidth=0, alpha=0.75)
        base = top
    axes.set_title(label, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlim(0, end)
    axes.set_ylim(-1.5, workers + 0.6)
    axes.set_yticks([-0.68, *range(1, workers + 1)])
    axes.set_yticklabels(
        [f"{tokens} tokens", *(f"worker {number}" for number in range(workers, 0, -1))], fontsize=8
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _save(figure: Any, path: str) -> None:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    print(path)


def main() -> int:
    results = [
        os.path.join(CACHE, name)
        for name in os.listdir(CACHE)
        if name.startswith("CPython") and name.endswith(".json")
    ]
    if not results:
        sys.exit("nothing was measured: run tox -e bench and tox -e stress first")
    newest = max(results, key=os.path.getmtime)
    version = os.path.basename(newest)[: -len(".json")].replace("-", " ")
    with open(newest, encoding="utf-8") as file:
        draw_cost_of_with(json.load(file), version, os.path.join(HERE, "bench", "with.svg"))
    with open(os.path.join(CACHE, "kills.json"), encoding="utf-8") as file:
        draw_kills(json.load(file), os.path.join(HERE, "stress", "kills.svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
