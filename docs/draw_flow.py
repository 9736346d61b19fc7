"""The picture of docs/architecture.md: what flows between the stages of a study.

Usage: python docs/draw_flow.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STAGES = {
    "dataset": (0, 2), "train": (1, 2), "features": (2, 2), "collapse": (3, 1), "match": (3, 2.5), "fit": (2, 0.4),
    "continual": (3, 3.5), "tables": (4, 2), "figure": (5, 1.1), "report": (6, 2), "sync": (5, 3),
}  # fmt: skip
"""Stage -> column and row."""
FLOW = [
    ("dataset", "train", "images"), ("train", "features", "checkpoints"), ("features", "collapse", "statistics"),
    ("features", "match", "statistics"), ("fit", "collapse", "statistics"), ("features", "continual", "features"),
    ("collapse", "tables", "metrics"), ("match", "tables", "fits"), ("continual", "tables", "history"),
    ("tables", "figure", "Parquet"), ("tables", "report", "claims"), ("figure", "report", "SVG"),
    ("tables", "sync", "Parquet"),
]  # fmt: skip
"""From, to, what is handed over."""
WIDTH, HEIGHT, STEP = 1.0, 0.42, 2.15


def main() -> None:
    """Write docs/images/architecture.svg."""
    plt.rcParams |= {"font.family": "DejaVu Sans", "svg.hashsalt": "ncpipe", "svg.fonttype": "path"}
    figure, axes = plt.subplots(figsize=(11.5, 3.6))
    for start, end, what in FLOW:
        _arrow(axes, start, end, what)
    for name, (column, row) in STAGES.items():
        corner = (column * STEP - WIDTH / 2, row - HEIGHT / 2)
        box = FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle="round,pad=0.02", facecolor="white", edgecolor="#0072b2")
        axes.add_patch(box)
        axes.text(column * STEP, row, name, ha="center", va="center", fontsize=9, family="monospace")
    axes.set(xlim=(-0.6, 6 * STEP + 0.6), ylim=(-0.1, 3.9), aspect="equal")
    axes.axis("off")
    target = Path(__file__).parent / "images/architecture.svg"
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None})
    print(target)


def _arrow(axes: plt.Axes, start: str, end: str, what: str) -> None:
    (x0, y0), (x1, y1) = STAGES[start], STAGES[end]
    begin, stop = (x0 * STEP + WIDTH / 2 + 0.03, y0), (x1 * STEP - WIDTH / 2 - 0.03, y1)
    axes.add_patch(FancyArrowPatch(begin, stop, arrowstyle="-|>", mutation_scale=9, color="#888888", lw=1))
    middle = ((begin[0] + stop[0]) / 2, (begin[1] + stop[1]) / 2)
    axes.text(*middle, what, ha="center", va="center", fontsize=6.5, color="#555555", backgroundcolor="white",
              bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # fmt: skip


if __name__ == "__main__":
    main()
