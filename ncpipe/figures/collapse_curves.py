"""Figure: collapse metrics of the last features against epochs, above those of the UFMs against iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import draw_other_frames, heading, scale_time, scale_values
from ncpipe.figures.drawing.captions import counted, lost, not_drawn
from ncpipe.figures.drawing.runs import Tables, declared_ufms, few, labels, networks, zero_error_epochs
from ncpipe.figures.drawing.series import Band, draw_bands, extremes, last_time, measured, name_bands
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import listed

USUAL = ("nc1_pinv", "nc2_means_etf", "nc3_duality", "nc4_mismatch")
ROW_HEIGHT, HEAD = 1.35, 0.3
PANEL_WIDTH, NAMES, NARROW = 1.04, 1.3, 4.5
"""Inches that a panel needs at least, that the names of lines take, and below which these are in a legend."""
LETTERS = 22


@dataclass(frozen=True)
class Kind:
    """One of the two kinds of runs, which has a row of panels."""

    name: str
    time: str
    runs: pd.DataFrame
    rows: pd.DataFrame
    marks: dict[str, float]

    def draw(self, axes: Axes, metric: str, look: Mapping[str, Look]) -> tuple[dict[str, Band], list[float]]:
        """The bands, and the values of the exact other frames."""
        drawn = draw_bands(axes, self.rows, "metric", metric, look, self.marks)
        scale_time(axes, last_time(self.rows))
        return drawn, draw_other_frames(axes, metric, self.runs["classes"])


def applies(study: Study) -> bool:
    """Whether there are networks."""
    return bool(study.networks)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    metrics = options.metrics or USUAL
    kinds = _kinds(tables, metrics, options.split)
    if not kinds:
        return style.empty_figure(
            options.width, "collapse_curves: no measured network and no UFM by gradient descent"
        )
    look, narrow = style.looks(tables["runs"]), options.width < NARROW
    most = style.columns_for(len(metrics), options.width - NAMES * (not narrow), PANEL_WIDTH)
    lines = -(-len(metrics) // most)
    across = -(-len(metrics) // lines)
    names = 0 if narrow else max(len(labels(kind.runs)) for kind in kinds)
    height = max(ROW_HEIGHT, 2 * names * style.LINE + HEAD)
    figure = style.new_figure(options.width, (height * len(kinds) + HEAD) * lines)
    grid = figure.subplots(lines * len(kinds), across, squeeze=False).reshape(lines, -1, across).transpose(0, 2, 1)
    panels, handles = grid.reshape(-1, len(kinds)), []
    for axes in panels[len(metrics) :].flat:
        axes.remove()
    drawn = [_draw_metric(line, kinds, metric, look) for line, metric in zip(panels, metrics)]
    for number, kind in enumerate(kinds):
        beside = panels[across - 1, number], drawn[across - 1][number]
        if narrow or not name_bands(*beside, kind.rows, look, height - HEAD, LETTERS):
            handles += style.label_handles(labels(kind.runs), look, "UFM " * (kind.time == "iteration"))
        for axes in panels[: len(metrics), number]:
            axes.set_xlabel(kind.time)
        for axes in panels[: len(metrics) : across, number]:
            axes.set_ylabel(kind.name)
    handles += [style.mark_handle("zero training error", "^")] if any(kind.marks for kind in kinds) else []
    style.add_legend(figure, handles)
    return figure


def _kinds(tables: Tables, metrics: Sequence[str], split: str) -> list[Kind]:
    nets, ufms = few(networks(tables)), few(declared_ufms(tables, "gradient_descent"))
    kinds = [
        Kind("networks", "epoch", nets, measured(tables, nets, metrics, split), zero_error_epochs(nets)),
        Kind("UFMs", "iteration", ufms, measured(tables, ufms, metrics), {}),
    ]
    return [kind for kind in kinds if len(kind.rows)]


def _draw_metric(panels: NDArray, kinds: Sequence[Kind], metric: str, look: dict[str, Look]) -> list[dict[str, Band]]:
    drawn = [kind.draw(axes, metric, look) for axes, kind in zip(panels, kinds)]
    values = [[*extremes(bands.values()), np.array(levels)] for bands, levels in drawn]
    # Networks decide the scale: a UFM ends at the rounding error of its solver, decades below.
    lowest = min((float(part.min()) for part in values[0] if len(part)), default=0.0)
    for axes in panels:
        scale_values(axes, "y", values[0] + [part.clip(min=lowest) for of in values[1:] for part in of])
    heading(panels[0], metric)
    return [bands for bands, _ in drawn]


def caption(tables: Tables, options: FigureOptions) -> str:
    nets, ufms = networks(tables), declared_ufms(tables, "gradient_descent")
    parts = [f"{options.split} split, of {counted(nets, 'network')} against epochs"] if len(nets) else []
    parts += (
        [f"training features of {counted(ufms, 'UFM')} by gradient descent against iterations"] if len(ufms) else []
    )
    return (
        f"Collapse metrics of the last features ({listed(options.metrics or USUAL)}),"
        f" {', above the '.join(parts)}."
        " Lines are medians over seeds, bands their range; a triangle marks the first epoch without training error."
        " Time axes are logarithmic with a place for 0. Dashed: a distance to one exact frame where the other is, for"
        " nc3_duality where the classifier is an OF. Where the networks decide the scale, a UFM leaves the panel"
        " below on its way to rounding error."
        f"{not_drawn(nets, ufms)}{lost(tables, 'network', 'declared')}"
    )
