"""Figure: collapse metrics of the last features against epochs, beside those of the UFMs against iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading, scale_time, scale_values
from ncpipe.figures.drawing.captions import counted, lost, not_drawn
from ncpipe.figures.drawing.runs import Tables, declared_ufms, few, labels, networks, zero_error_epochs
from ncpipe.figures.drawing.series import draw_bands, last_time, measured
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import listed

USUAL = ("nc1_pinv", "nc2_means_etf", "nc3_duality", "nc4_mismatch")
ROW_HEIGHT = 1.3
PANEL_WIDTH = 1.5
"""Inches that a panel needs at least."""


@dataclass(frozen=True)
class Column:
    """What one of the two kinds of runs contributes to every metric's panels."""

    time: str
    kind: str
    runs: pd.DataFrame
    rows: pd.DataFrame
    marks: dict[str, float]


def applies(study: Study) -> bool:
    """Whether there are networks."""
    return bool(study.networks)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    metrics = options.metrics or USUAL
    columns = _columns(tables, metrics, options.split)
    if not columns:
        return style.empty_figure(
            options.width, "collapse_curves: no measured network and no UFM by gradient descent"
        )
    look = style.looks(tables["runs"])
    groups = max(1, int(options.width / PANEL_WIDTH) // len(columns))
    lines = -(-len(metrics) // groups)
    figure = style.new_figure(options.width, ROW_HEIGHT * lines + 0.25)
    grid = figure.subplots(lines, groups * len(columns), squeeze=False)
    by_metric = grid.reshape(-1, len(columns))
    for number, (panels, metric) in enumerate(zip(by_metric, metrics)):
        _draw_metric(panels, columns, metric, look)
        for axes, column in zip(panels, columns):
            lowest = number + groups >= len(metrics)
            axes.tick_params(labelbottom=lowest)
            axes.set_xlabel(column.time if lowest else "")
    for axes in by_metric[len(metrics) :].flat:
        axes.remove()
    marked = [style.mark_handle("zero training error", "^")] if any(column.marks for column in columns) else []
    handles = [handle for c in columns for handle in style.label_handles(labels(c.runs), look, c.kind)]
    style.add_legend(figure, handles + marked)
    return figure


def _columns(tables: Tables, metrics: Sequence[str], split: str) -> list[Column]:
    nets, ufms = few(networks(tables)), few(declared_ufms(tables, "gradient_descent"))
    columns = [
        Column("epoch (networks)", "", nets, measured(tables, nets, metrics, split), zero_error_epochs(nets)),
        Column("iteration (UFM)", "UFM ", ufms, measured(tables, ufms, metrics), {}),
    ]
    return [column for column in columns if len(column.rows)]


def _draw_metric(panels: NDArray, columns: Sequence[Column], metric: str, look: dict[str, Look]) -> None:
    first, *of_ufms = (
        draw_bands(axes, column.rows, "metric", metric, look, column.marks) for axes, column in zip(panels, columns)
    )
    for axes, column in zip(panels, columns):
        scale_time(axes, last_time(column.rows))
    # Networks decide the scale: a UFM ends at the rounding error of its solver, decades below.
    lowest = min((float(values.min()) for values in first if len(values)), default=0.0)
    for axes in panels:
        scale_values(axes, "y", first + [values.clip(min=lowest) for extreme in of_ufms for values in extreme])
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    heading(panels[0], metric)


def caption(tables: Tables, options: FigureOptions) -> str:
    nets, ufms = networks(tables), declared_ufms(tables, "gradient_descent")
    parts = [f"{options.split} split, of {counted(nets, 'network')} against epochs"] if len(nets) else []
    parts += (
        [f"training features of {counted(ufms, 'UFM')} by gradient descent against iterations"] if len(ufms) else []
    )
    return (
        f"Collapse metrics of the last features ({listed(options.metrics or USUAL)}),"
        f" {', beside the '.join(parts)}."
        " Lines are medians over seeds, bands their range; a triangle marks the first epoch without training error."
        " Time axes are logarithmic with a place for 0. Where the networks decide the scale, a UFM leaves the panel"
        " below on its way to rounding error."
        f"{not_drawn(nets, ufms)}{lost(tables, 'network', 'declared')}"
    )
