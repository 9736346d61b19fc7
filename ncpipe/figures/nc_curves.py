"""Figure: collapse over training of networks with squared error and no bias, beside both extended UFMs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ncpipe.claims.evidence.curves import METRICS, NETWORKS, curve_distances, extended_ufms
from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import scale_time, scale_values
from ncpipe.figures.drawing.captions import counted, lost, not_drawn
from ncpipe.figures.drawing.runs import Tables, few, labels
from ncpipe.figures.drawing.series import draw_bands, extremes, last_time, measured
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions
from ncpipe.system.words import plural

ROWS = dict(zip(METRICS, ("scatter", "means to OF", "classifier to OF", "product to OF")))
UFMS = {"relu": "ReLU extended UFM", "linear": "linear extended UFM"}
MOST_LABELS = 6
ROW_HEIGHT, LINE, NARROW = 1.05, 0.115, 18
BELOW = 100
"""A UFM is drawn down to so much below the networks: it ends at rounding error, decades further."""


@dataclass(frozen=True)
class Column:
    """Runs of one kind with their curves."""

    name: str
    note: str
    time: str
    runs: pd.DataFrame
    rows: pd.DataFrame
    sgd_ends: dict[str, float] = field(default_factory=dict)
    """Last epoch of SGD by label, where an end phase follows."""

    def head(self, letters: int) -> list[str]:
        note = " ".join(style.shortened(word, letters) for word in self.note.split())
        return textwrap.wrap(self.name, letters) + textwrap.wrap(note, letters, max_lines=4, placeholder=" …")

    def handles(self, look: dict[str, Look]) -> Iterator[Line2D]:
        """Handles of several labels, without the words that all have."""
        names, kind = labels(self.runs), "" if self.time != "iteration" else f"{self.name.split()[0]} UFM "
        shared = style.shared_words([style.without_solver(name) for name in names])
        for name in names if len(names) > 1 else ():
            yield style.line_handle(kind + style.without_words(style.without_solver(name), shared), look[name])


def draw(tables: Tables, options: FigureOptions) -> Figure:
    networks, *ufms = columns = _columns(tables)
    if networks.rows.empty:
        return style.empty_figure(options.width, "nc_curves: no network with squared error and no bias")
    if not ufms:
        return style.empty_figure(options.width, "nc_curves: no extended UFM by gradient descent")
    look = style.looks(pd.concat([column.runs for column in columns]))  # few enough that no two are alike
    letters = max(8, int((options.width - 0.65) / len(columns) / style.LETTER) - 2)
    heads = [column.head(letters) for column in columns]
    lines = max(map(len, heads))
    figure = style.new_figure(options.width, ROW_HEIGHT * len(ROWS) + LINE * lines + 0.25)
    grid = figure.subplots(len(ROWS), len(columns), sharex="col", sharey="row", squeeze=False)
    for panels, metric in zip(grid, ROWS):
        _draw_row(panels, columns, metric, look)
    for panels, column, head in zip(grid.T, columns, heads):
        scale_time(panels[0], last_time(column.rows), most=4 if letters > NARROW else 2)
        panels[0].set_title("\n".join(head + [""] * (lines - len(head))), loc="left", pad=3)
        panels[-1].set_xlabel(textwrap.fill(column.time, letters))
    ends = [style.mark_handle("last epoch of SGD", "^")] if networks.sgd_ends else []
    style.add_legend(figure, [handle for column in columns for handle in column.handles(look)] + ends)
    return figure


def _columns(tables: Tables) -> list[Column]:
    """That of the networks, and one of each model that is measured."""
    nets, ufms = compared(tables)
    drawn, distances = few(nets, MOST_LABELS), curve_distances(tables)
    rows = measured(tables, drawn, METRICS)
    last = drawn["run_id"].map(rows.groupby("run_id", observed=True)["time"].max()).astype(float)
    ends = drawn[last > drawn["epochs"]].groupby("label", sort=False)["epochs"].median()
    time = "epoch, end-phase iteration" if len(ends) else "epoch"
    columns = [Column("networks", style.shared_words(labels(drawn)), time, drawn, rows, dict(ends))]
    for activation, name in UFMS.items():
        drawn_ufms = few(ufms[ufms["activation"] == activation], MOST_LABELS)
        note = _note(distances.loc[distances["model"] == activation, "distance"])
        columns.append(Column(name, note, "iteration", drawn_ufms, measured(tables, drawn_ufms, METRICS)))
    return [column for column in columns if column is columns[0] or len(column.rows)]


def compared(tables: Tables) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of ``runs``: the networks, and the UFMs of as many classes as they have, or where none has, all."""
    nets, ufms = tables["runs"].query(NETWORKS), extended_ufms(tables)
    alike = ufms[ufms["classes"].isin(nets["classes"])]
    return nets, alike if len(alike) else ufms


def _note(distances: pd.Series) -> str:
    """'0.31 decades from the networks (0.20–0.42)'; nothing where none is compared."""
    if len(distances) < 2:
        return "".join(f"{value:.2f} decades from the network" for value in distances)
    low, middle, high = distances.quantile([0, 0.5, 1])
    return f"{middle:.2f} decades from the networks ({low:.2f}–{high:.2f})"


def _draw_row(panels: NDArray, columns: Sequence[Column], metric: str, look: dict[str, Look]) -> None:
    first, *of_ufms = (
        extremes(draw_bands(axes, column.rows, "metric", metric, look, column.sgd_ends).values())
        for axes, column in zip(panels, columns)
    )
    lowest = min((float(values[values > 0].min(initial=1)) for values in first), default=0.0) / BELOW
    scale_values(panels[0], "y", first + [values.clip(min=lowest) for extreme in of_ufms for values in extreme])
    panels[0].set_ylabel(ROWS[metric])


def caption(tables: Tables, options: FigureOptions) -> str:
    nets, ufms = compared(tables)
    shared = style.shared_words(labels(few(nets, MOST_LABELS)))
    number = (
        " Decades: each measured time of a network is assigned to a time of the UFM, never back, so that the mean"
        " distance of the logarithms of all four metrics is least; median and range over the networks."
    )
    if not ufms["classes"].isin(nets["classes"]).any():
        number = " The numbers of classes differ, on which the metrics depend: no distance is given."
    return (
        "Scatter within classes (nc1_pinv) and Frobenius distances from an orthogonal frame (OF) of the uncentred"
        f" class means, the classifier and their product, of {counted(nets, 'network')} with squared error and no"
        f" bias, beside {plural(len(ufms), 'extended UFM')} by gradient descent, training features. Lines are medians"
        " over seeds, bands their range. Time axes are logarithmic with a place for 0; a UFM leaves the panel below"
        f" on its way to rounding error.{number if len(ufms) else ''}"
        f"{f' All networks are {shared}.' if shared else ''}{not_drawn(nets, ufms, most=MOST_LABELS)}"
        f"{lost(tables, 'network', 'declared')}"
    )
