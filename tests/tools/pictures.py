# SPDX-License-Identifier: Apache-2.0
"""Draw what tests/tools/bench and tests/tools/stress measured last: ``tox -e pictures``.

The pictures have no background, so colours and text must be readable on white and on black.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.path.dirname(os.path.dirname(HERE)), ".bench")

GREY, BLUE, GREEN, RED = "#808080", "#3b82d6", "#2f9e5f", "#d9483b"
GREYS = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")

plt.rcParams.update(dict.fromkeys(GREYS, GREY))
plt.rcParams["svg.fonttype"] = "none"  # text stays text
plt.rcParams["svg.hashsalt"] = "named_semaphores"  # the same data give the same file
plt.rcParams["font.family"] = "sans-serif"
plt.rcParams["savefig.transparent"] = True


def read(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def save(figure: Any, path: str) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    print(path)


def draw_cost_of_with(measured: list[Any], version: str, path: str) -> None:
    """Draw a bar for each peer: the least time of ``with sem: pass``."""
    times = {
        peer: min(values) * 1e6
        for group, operation, peer, values in measured
        # The polling one differs only in waits.
        if (group, operation) == ("calls", "with") and "polling" not in peer
    }
    peers = sorted(times, key=lambda peer: times[peer], reverse=True)
    figure, axes = plt.subplots(figsize=(7.5, 0.32 * len(peers) + 0.9))
    ours = {"NamedSemaphore": BLUE, "RobustSemaphore": GREEN}
    colors = [ours.get(peer.partition(",")[0], GREY) for peer in peers]
    axes.barh(peers, [times[peer] for peer in peers], color=colors, height=0.62)
    for row, peer in enumerate(peers):
        micro = times[peer]
        axes.text(micro * 1.08, row, f"{micro:.2f}" if micro < 10 else f"{micro:.0f}", va="center")
    axes.set_xscale("log")
    axes.set_xlim(0.05, max(times.values()) * 2.5)
    axes.set_xlabel(f"“with sem: pass” without a wait, µs (logarithmic), {version}")
    axes.xaxis.set_major_formatter("{x:g}")
    save(figure, path)


def draw_kills(recorded: dict[str, Any], path: str) -> None:
    """Draw a timeline for each peer: six workers at three tokens, some of them killed inside."""
    labels = ("RobustSemaphore", "NamedSemaphore", "portalocker")
    figure, panels = plt.subplots(len(labels), 1, figsize=(8.5, 7.7), sharex=True)
    for axes, label in zip(panels, labels):
        axes.set_title(label, loc="left", fontsize=10, fontweight="bold")
        draw_timeline(axes, recorded[label])
    panels[-1].set_xlabel("seconds")
    kinds = [
        Line2D([], [], color=GREEN, linewidth=7, label="worker inside"),
        Line2D([], [], color=GREY, linewidth=1.5, label="worker waits"),
        Line2D([], [], color=RED, linestyle="", **KILLED, label="worker killed"),
        Line2D([], [], color=GREEN, linewidth=7, alpha=0.75, label="token taken"),
        Line2D([], [], color=BLUE, linewidth=7, alpha=0.75, label="token free"),
        Line2D([], [], color=RED, linewidth=7, alpha=0.75, label="token lost"),
    ]
    spaces = {"handlelength": 1.2, "columnspacing": 1.2, "frameon": False}
    figure.legend(handles=kinds, loc="upper center", ncols=6, fontsize=8, **spaces)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    save(figure, path)


KILLED = {"marker": "x", "markersize": 7, "markeredgewidth": 2}


def draw_timeline(axes: Any, recorded: dict[str, Any]) -> None:
    end, workers, tokens, bars = (recorded[key] for key in ("seconds", "workers", "tokens", "bars"))
    for state, color, width in (("waits", GREY, 1.5), ("inside", GREEN, 9)):
        lines = [(workers - bar[0], bar[2], bar[3]) for bar in bars if bar[1] == state]
        axes.hlines(*zip(*lines), colors=color, linewidth=width, clip_on=False)
    killed = [(until, workers - worker) for worker, _, _, until, died in bars if died]
    axes.plot(*zip(*killed), color=RED, linestyle="", **KILLED)
    # The first killed holders had the tokens that are lost at the end.
    losses = sorted(until for until, _ in killed)[: recorded["lost"]]
    inside = [(begin, until) for _, state, begin, until, _ in bars if state == "inside"]
    times = sorted({0.0, *(at for pair in inside for at in pair), end})
    lost = [sum(loss <= at for loss in losses) for at in times]
    taken = [sum(begin <= at < until for begin, until in inside) for at in times]
    free = [tokens - some - others for some, others in zip(lost, taken)]
    base = [-1.35] * len(times)
    for heights, color in ((lost, RED), (taken, GREEN), (free, BLUE)):
        top = [below + 0.45 * height for below, height in zip(base, heights)]
        axes.fill_between(times, base, top, step="post", color=color, linewidth=0, alpha=0.75)
        base = top
    axes.set_xlim(0, end)
    axes.set_ylim(-1.5, workers + 0.6)
    rows = [f"worker {number}" for number in range(workers, 0, -1)]
    axes.set_yticks([-0.68, *range(1, workers + 1)], [f"{tokens} tokens", *rows], fontsize=8)


def main() -> None:
    measured = glob.glob(os.path.join(glob.escape(CACHE), "CPython*.json"))
    if not measured:
        sys.exit("nothing was measured: run tox -e bench and tox -e stress first")
    newest = max(measured, key=os.path.getmtime)
    version = os.path.basename(newest)[: -len(".json")].replace("-", " ")
    draw_cost_of_with(read(newest), version, os.path.join(HERE, "bench", "with.svg"))
    draw_kills(read(os.path.join(CACHE, "kills.json")), os.path.join(HERE, "stress", "kills.svg"))


if __name__ == "__main__":
    main()
