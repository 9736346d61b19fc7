"""Figure: critical points of UFMs, objective above the optimum against the share of negative curvatures."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading
from ncpipe.figures.drawing.captions import lost
from ncpipe.figures.drawing.runs import Tables, declared_ufms
from ncpipe.records.reading import critical_points
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import plural

KINDS = ("declared",)
LEAST_WIDTH, HEIGHT = 1.6, 1.75
NAMES = {
    "optimum": ("optimum", "*", style.OKABE_ITO["green"]),
    "saddle": ("strict saddle", "o", style.OKABE_ITO["blue"]),
    "minimum": ("above, no negative curvature", "X", style.OKABE_ITO["vermillion"]),
}
SIZES = {"optimum": 6.5, "saddle": 3.0, "minimum": 4.5}


def applies(study: Study) -> bool:
    """Whether there are UFMs for solver landscape."""
    return any(spec.solver.name == "landscape" for spec in study.problems.values())


def draw(tables: Tables, options: FigureOptions) -> Figure:
    points = _points(tables)
    if points.empty:
        return style.empty_figure(options.width, "ufm_landscape: no UFM by solver landscape")
    groups = list(points.groupby("label", sort=False))
    columns = style.columns_for(len(groups), options.width, LEAST_WIDTH)
    figure, grid = style.panel_figure(options.width, len(groups), columns, HEIGHT)
    for number, (axes, (label, rows)) in enumerate(zip(grid, groups)):
        _draw(axes, rows)
        heading(axes, style.wrapped(style.without_solver(str(label)), int(13 * options.width / columns)))
        if number % columns == 0:
            axes.set_ylabel("$f\\,/f^* - 1$")
        if number >= len(groups) - columns:
            axes.set_xlabel("share of negative curvatures")
    shown = [NAMES[kind] for kind in NAMES if (points["sort"] == kind).any()]
    style.add_legend(figure, [style.mark_handle(*name) for name in shown])
    return figure


def _points(tables: Tables) -> pd.DataFrame:
    """The critical points with their run's label and what they are, ``sort``."""
    points = critical_points(tables)
    sort = pd.Series("saddle", index=points.index).mask(points["above"] == 0, "optimum")
    if len(points):
        sort = sort.mask((points["above"] > 0) & (points["index"] == 0), "minimum")
    runs = declared_ufms(tables, "landscape")
    labelled = points.assign(sort=sort, label=points["run_id"].map(runs.set_index("run_id")["label"]))
    return labelled.sort_values("label", key=lambda labels: labels.map(list(runs["label"]).index), kind="stable")


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    for kind, (_, marker, colour) in NAMES.items():
        chosen = rows[rows["sort"] == kind]
        axes.plot(
            chosen["negative_share"], chosen["above"], marker, color=colour, ms=SIZES[kind], mew=0,
            alpha=0.6 if kind == "saddle" else 1, zorder=3 + (kind != "saddle"),
        )  # fmt: skip
    axes.margins(0.06)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def caption(tables: Tables, options: FigureOptions) -> str:
    points = _points(tables)
    sorts = points["sort"].value_counts()
    saddles, minima = int(sorts.get("saddle", 0)), int(sorts.get("minimum", 0))
    kinks = int((points["kinks"] > 0).sum()) if len(points) else 0
    return (
        f"Critical points of {plural(points['run_id'].nunique(), 'UFM')} from random starts, one of those that"
        f" rotations and permutations lead into each other: {plural(saddles, 'strict saddle')}, and {minima} above"
        " the optimum f* without negative curvature. Against the share of negative eigenvalues of the Hessian, on"
        " spheres of the Riemannian one; where no closed form tells f* it is the lowest objective found."
        + (f" {plural(kinks, 'point')} at kinks of a ReLU." if kinks else "")
        + lost(tables, "declared")
    )
