"""Figure: are class means and classifier weights nearer to an orthogonal frame or to a simplex ETF?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.captions import counted, lost, not_drawn
from ncpipe.figures.drawing.definitions import definition
from ncpipe.figures.drawing.runs import Tables, declared_ufms, few, labels, networks
from ncpipe.figures.drawing.series import measured
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.ufm.misfit import frames_apart

PANELS = {
    "class means": ("nc2_means_of", "nc2_means_uncentred_etf"),
    "classifier weights": ("nc2_weights_of", "nc2_weights_etf"),
}
"""Distance to the OF on x, to the ETF on y."""
UFM_MARKER = "D"


def applies(study: Study) -> bool:
    """Whether there are networks."""
    return bool(study.networks)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    nets, ufms = few(networks(tables)), few(_reference_ufms(tables))
    names = [name for pair in PANELS.values() for name in pair]
    paths = [measured(tables, nets, names, options.split), measured(tables, ufms, names)]
    if not any(len(rows) for rows in paths):
        return style.empty_figure(options.width, "frames: no measured network and no plain UFM")
    look, stacked = style.looks(tables["runs"]), options.width < 2 * 2.2
    side = (options.width if stacked else options.width / 2) - 0.55
    figure = style.new_figure(options.width, (side + 0.75) * (2 if stacked else 1))
    grid = figure.subplots(2, 1) if stacked else figure.subplots(1, 2)
    for axes, (title, metrics) in zip(grid, PANELS.items()):
        points = [_coordinates(rows, metrics) for rows in paths]
        _draw_frames(axes, pd.concat([nets, ufms])["classes"].dropna().unique(), _reach(points))
        _draw_networks(axes, points[0], look)
        _draw_ufms(axes, points[1], look)
        _name_axes(axes, title, metrics)
    shown = [style.mark_handle(name, look[name].marker, look[name].colour) for name in labels(nets)]
    shown += [
        style.mark_handle(f"UFM {style.without_solver(name)}", UFM_MARKER, look[name].colour, filled=False)
        for name in labels(ufms)
    ]
    style.add_legend(figure, shown)
    return figure


def _reference_ufms(tables: Tables) -> pd.DataFrame:
    return declared_ufms(tables, "gradient_descent").query("model == 'plain'")


def _coordinates(rows: pd.DataFrame, metrics: tuple[str, str]) -> pd.DataFrame:
    """One row per run and time where both distances are known: label, run_id, time, x, y."""
    wide = rows[rows["metric"].isin(metrics)].pivot_table(
        index=["label", "run_id", "time"], columns="metric", values="value", sort=False
    )
    wide = wide.reindex(columns=list(metrics)).dropna().reset_index()
    return wide.set_axis(["label", "run_id", "time", "x", "y"], axis=1).sort_values("time", kind="stable")


def _reach(kinds: Iterable[pd.DataFrame]) -> float:
    """Far enough for every end; a path from initialisation may begin outside."""
    ends = [points.groupby("run_id")[["x", "y"]].last().to_numpy(float).max(initial=0.0) for points in kinds]
    return max([frames_apart(2) * 0.75, *ends]) * 1.12


def _draw_networks(axes: Axes, points: pd.DataFrame, look: dict[str, Look]) -> None:
    """Where each network ended, and faintly how it came there."""
    for (label, _), path in points.groupby(["label", "run_id"], sort=False):
        look_of_label, end = look[str(label)], path.iloc[-1]
        colour, line, marker = look_of_label.colour, look_of_label.line, look_of_label.marker
        axes.plot(path["x"], path["y"], color=colour, linestyle=line, alpha=0.35, linewidth=0.6)
        axes.plot(end["x"], end["y"], marker, color=colour, mec="white", mew=0.5, ms=4.8, zorder=4)


def _draw_ufms(axes: Axes, points: pd.DataFrame, look: dict[str, Look]) -> None:
    for label, rows in points.groupby("label", sort=False):
        ends, colour = rows.groupby("run_id")[["x", "y"]].last(), look[str(label)].colour
        axes.plot(ends["x"], ends["y"], UFM_MARKER, color=colour, mfc="none", mew=0.9, ms=5, clip_on=False, zorder=5)


def _draw_frames(axes: Axes, classes: Iterable[float], reach: float) -> None:
    """The two exact frames for each number of classes, and the diagonal between their halves."""
    axes.plot([0, reach], [0, reach], color=style.GREY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=1)
    axes.set(xlim=(-0.04 * reach, reach), ylim=(-0.04 * reach, reach), aspect="equal")
    for number in sorted(set(classes)):
        gap = frames_apart(number)
        axes.plot([0, gap], [gap, 0], "+", color="black", ms=7, mew=0.9, zorder=3)
        # The ETFs of several K stand side by side: slanted, their names pass each other.
        for name, point, offset, angle in (("OF", (0, gap), (6, 0), 0), ("ETF", (gap, 0), (4, 4), 45)):
            axes.annotate(
                f"{name}, K={number:.0f}", point, offset, textcoords="offset points", size=style.SMALL, ha="left",
                va="bottom" if angle else "center", rotation=angle, rotation_mode="anchor", zorder=6,
                path_effects=style.HALO,
            )  # fmt: skip
    for text, above in (("nearer an OF", 1), ("nearer an ETF", -1)):
        place = (0.84 * reach * (1 - 0.035 * above), 0.84 * reach * (1 + 0.035 * above))
        looks: dict[str, Any] = {"color": style.GREY, "size": style.SMALL, "path_effects": style.HALO}
        axes.text(*place, text, rotation=45, ha="center", va="center", **looks)


def _name_axes(axes: Axes, title: str, metrics: tuple[str, str]) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel(definition(metrics[0]))
    axes.set_ylabel(definition(metrics[1]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def caption(tables: Tables, options: FigureOptions) -> str:
    nets, ufms = networks(tables), _reference_ufms(tables)
    classes = sorted({int(k) for k in pd.concat([nets, ufms])["classes"].dropna()})
    gaps = ", ".join(f"{frames_apart(k):.3f} for K = {k}" for k in classes)
    return (
        "Distance of the uncentred class means (left) and of the classifier weights (right) to an orthogonal frame"
        f" (OF) and to a simplex ETF, {options.split} split: {counted(nets, 'network')}, circles at the last epoch"
        f" with their path from initialisation, and {counted(ufms, 'plain UFM')} by gradient descent, diamonds."
        f" Crosses are the exact frames, sqrt(2 - 2 sqrt((K-1)/K)) apart: {gaps}."
        f"{not_drawn(nets, ufms)}{lost(tables, 'network')}"
    )
