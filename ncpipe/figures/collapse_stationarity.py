"""Figure: within-class variability of networks against loss, gradient and test error on the way to a minimum."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncpipe.claims.wu2025 import ERROR, GRADIENT, LOSS, NC1, SMALL_GRADIENT, SMALL_LOSS, path
from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import scale_values
from ncpipe.figures.drawing.captions import counted, lost, not_drawn
from ncpipe.figures.drawing.runs import Tables, few, labels, networks
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions

KINDS = ("network",)
HEIGHT = 1.9
PANELS = {LOSS: SMALL_LOSS, GRADIENT: SMALL_GRADIENT, ERROR: None}
"""What NC1 is drawn against, and from where down it is small."""
TITLES = {LOSS: "training loss", GRADIENT: "gradient norm", ERROR: "test error"}


def draw(tables: Tables, options: FigureOptions) -> Figure:
    nets, points = _chosen(tables)
    if points.empty:
        return style.empty_figure(
            options.width, "collapse_stationarity: no network with squared error and an end phase"
        )
    looks = style.looks(nets)
    figure = style.new_figure(options.width, HEIGHT)
    for axes, (name, small) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items()):
        _draw(axes, points, name, looks)
        if small is not None:
            axes.axvline(small, color=style.GREY, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
    figure.axes[0].set_ylabel(r"$\mathrm{Tr}\,\Sigma_W\,/\,\mathrm{Tr}\,\Sigma_B$")
    style.add_legend(figure, style.label_handles(labels(nets), looks))
    return figure


def _chosen(tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The networks that are drawn, and their points of the end phase, with their label."""
    points = path(tables, end_phase=True).reset_index()
    nets = few(networks(tables).query("run_id in @points.run_id"))
    return nets, points.merge(nets[["run_id", "label"]], on="run_id")


def _draw(axes: Axes, points: pd.DataFrame, name: str, looks: dict[str, Look]) -> None:
    """Every run a thin line through its points, and a mark where it ends."""
    for _, own in points.dropna(subset=[name, NC1]).groupby("run_id", sort=False):
        look = looks[own["label"].iloc[0]]
        axes.plot(own[name], own[NC1], color=look.colour, linestyle=look.line, linewidth=0.8)
        axes.plot(own[name].iloc[-1:], own[NC1].iloc[-1:], look.marker, color=look.colour, ms=4, mew=0, zorder=3)
    scale_values(axes, "x", [points[name]])
    scale_values(axes, "y", [points[NC1]])
    axes.set_xlabel(TITLES[name])


def caption(tables: Tables, options: FigureOptions) -> str:
    nets, _ = _chosen(tables)
    return (
        f"nc1_trace_ratio of the last features of {counted(nets, 'network')} against the training loss without"
        " penalties, the norm of the gradient of the objective over that of the weight decay alone, and the test"
        " error, at the measured iterations of the end phase. A line is a run, its mark the end; dashed: what the"
        f" claims of wu2025 count as small.{not_drawn(networks(tables))}{lost(tables, 'network')}"
    )
