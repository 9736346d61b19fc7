"""Figure: singular values of the signal-to-noise matrix on the simulated central path, beside their law."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading, scale_values
from ncpipe.figures.drawing.captions import counted, lost
from ncpipe.figures.drawing.runs import Tables, declared_ufms, labels
from ncpipe.figures.drawing.series import histories
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study

KINDS = ("declared",)
LEAST_WIDTH, HEIGHT = 1.9, 2.7
DASHED = (0, (4, 2))
MOST_POINTS = 20
"""Points drawn on a curve; the law is drawn at all times."""


def applies(study: Study) -> bool:
    """Whether there are UFMs for solver central_path."""
    return any(spec.solver.name == "central_path" for spec in study.problems.values())


def draw(tables: Tables, options: FigureOptions) -> Figure:
    runs = declared_ufms(tables, "central_path")
    rows = _directions(histories(tables, runs))
    names = [name for name in labels(runs) if (rows["label"] == name).any()]
    if not names:
        return style.empty_figure(options.width, "central_path: no UFM by the solver central_path")
    titles = [_sizes(runs[runs["label"] == name]) for name in names]
    if len(set(titles)) < len(names):
        titles = [style.wrapped(name, int(12 * LEAST_WIDTH)) for name in names]
    columns = style.columns_for(len(names), options.width, LEAST_WIDTH)
    lines = -(-len(names) // columns)
    figure = style.new_figure(options.width, HEIGHT * lines)
    grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[5, 3] * lines)
    pairs = [*zip(grid[::2].flat, grid[1::2].flat)]
    for (upper, lower), name, title in zip(pairs, names, titles):
        _draw_column(upper, lower, rows, runs[runs["label"] == name].sort_values("seed"))
        heading(upper, title, "")
    for axes in chain(*pairs[len(names) :]):
        axes.remove()
    style.add_legend(figure, _legend())
    return figure


def _directions(history: pd.DataFrame) -> pd.DataFrame:
    """Measured value and law of every run, time > 0 and direction, as columns ``value`` and ``law``."""
    parts = history["quantity"].astype(str).str.extract(r"^(snr|snr_law)_(\d+)$")
    rows = history.assign(kind=parts[0], direction=pd.to_numeric(parts[1])).dropna(subset="kind").query("time > 0")
    table = rows.pivot(index=["run_id", "label", "time", "direction"], columns="kind", values="value").reset_index()
    return table.rename(columns={"snr": "value", "snr_law": "law"}).sort_values("time")


def _sizes(runs: pd.DataFrame) -> str:
    run = runs.iloc[0]
    return f"K = {run['classes']:.0f}, N = {run['train_samples']:.0f}, d = {run['dim']:.0f}"


def _draw_column(upper: Axes, lower: Axes, rows: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Singular values of the first seed above, the spread of those of every seed below."""
    chosen = rows[rows["run_id"].isin(runs["run_id"])]
    first = chosen[chosen["run_id"] == runs["run_id"].iloc[0]]
    _draw_values(upper, first)
    _draw_growth(upper, first, float(runs["classes"].iloc[0]), float(runs["train_samples"].iloc[0]))
    spreads = []
    for run_id in reversed(runs["run_id"].to_list()):  # the first seed on top
        by_time = chosen[chosen["run_id"] == run_id].groupby("time")["value"]
        spread = by_time.max() / by_time.min() - 1
        colour = "black" if run_id == runs["run_id"].iloc[0] else "#B0B0B0"
        lower.plot(spread.index.to_numpy(float), spread.to_numpy(float), color=colour)
        spreads.append(spread.to_numpy(float))
    scale_values(upper, "y", [first["value"], first["law"]])
    low, high = upper.get_ylim()
    upper.set_ylim(low / 1.4, high)  # room for the name of the smallest
    scale_values(lower, "y", spreads)
    for axes in (upper, lower):
        scale_values(axes, "x", [chosen["time"]])
    upper.tick_params(labelbottom=False)
    upper.set_ylabel("singular value $w_i$")
    lower.set_ylabel(r"$w_1/w_{K-1}-1$")
    lower.set_xlabel("time $t$")


def _draw_values(axes: Axes, rows: pd.DataFrame) -> None:
    last = int(rows["direction"].max())
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.82, last))
    for direction in range(1, last + 1):
        of_direction, colour = rows[rows["direction"] == direction], to_hex(shades[direction - 1])
        x, step = of_direction["time"].to_numpy(float), max(1, len(of_direction) // MOST_POINTS)
        axes.plot(x, of_direction["law"].to_numpy(float), color=colour)
        axes.plot(x[::step], of_direction["value"].to_numpy(float)[::step], "o", color=colour, ms=2.6, mew=0)
        if direction in (1, last):
            name, start = f"$w_{{{direction}}}$", (x[0], float(of_direction["value"].iloc[0]))
            offset, side = ((0, 4), "bottom") if direction == 1 else ((4, -2), "top")
            axes.annotate(name, start, offset, textcoords="offset points", color=colour, size=style.SMALL, va=side)


def _draw_growth(axes: Axes, rows: pd.DataFrame, classes: float, samples: float) -> None:
    """The common growth at late times, (4 K t / N)^(1/4), from where all values are over sqrt(K)."""
    smallest = rows.groupby("time")["value"].min()
    times = smallest.index[smallest**2 >= classes].to_numpy(float)
    axes.plot(
        times, (4 * classes * times / samples) ** 0.25, color=style.GREY, linestyle=DASHED, linewidth=0.9, zorder=1
    )


def _legend() -> Iterator[Line2D]:
    yield style.mark_handle("measured on the features", "o")
    yield Line2D([], [], color=style.GREY, label="law")
    yield Line2D([], [], color=style.GREY, linestyle=DASHED, linewidth=0.8, label="$(4Kt/N)^{1/4}$")


def caption(tables: Tables, options: FigureOptions) -> str:
    runs = declared_ufms(tables, "central_path")
    return (
        "Renormalised gradient flow of the least-squares loss on the central path:"
        f" {counted(runs, 'simulation')}. Above, singular values of the signal-to-noise matrix against time, of the"
        " first seed: points are measured on the features, lines are the closed-form law, dashes its growth at late"
        " times. Below, the largest over the smallest singular value, minus 1: black the first seed, grey the others."
        f"{lost(tables, 'declared')}"
    )
