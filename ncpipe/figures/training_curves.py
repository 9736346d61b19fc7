"""Figure: loss and error of the networks against epochs."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading, scale_values
from ncpipe.figures.drawing.captions import counted, lost, not_drawn
from ncpipe.figures.drawing.runs import Tables, few, labels, networks, zero_error_epochs
from ncpipe.figures.drawing.series import draw_bands, extremes, histories, last_time, name_bands
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study

KINDS = ("network",)
QUANTITIES = (("train_loss", "test_loss"), ("train_error", "test_error"))
"""A row shares its y axis."""
ROW_HEIGHT, NARROW = 1.45, 3.0
MOST_DROPS = 6
"""Learning-rate drops that are marked; a schedule with more is not one of steps."""


def applies(study: Study) -> bool:
    """Whether there are networks."""
    return bool(study.networks)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    nets = few(networks(tables))
    rows = histories(tables, nets)
    epochs = rows["run_id"].map(dict(zip(nets["run_id"], nets["epochs"]))).astype(float)
    rows = _with_errors(rows[rows["time"] <= epochs])  # without the end phase, of other units
    if rows.empty:
        return style.empty_figure(options.width, "training_curves: no network has been trained")
    look, narrow = style.looks(tables["runs"]), options.width < NARROW
    figure = style.new_figure(options.width, ROW_HEIGHT * (4 if narrow else 2) + 0.15)
    grid = figure.subplots(4, 1).reshape(2, 2) if narrow else figure.subplots(2, 2)
    last, drops = max(1, last_time(rows)), learning_rate_drops(rows)
    # not of the end phase: a mark far outside leaves panels no room
    marks = {label: epoch for label, epoch in zero_error_epochs(nets).items() if epoch <= last}
    drops = drops if len(drops) <= MOST_DROPS else []
    drawn = []
    for line, names in zip(grid, QUANTITIES):
        of_line = [draw_bands(axes, rows, "quantity", name, look, marks) for axes, name in zip(line, names)]
        drawn.append(of_line)
        for axes, name in zip(line, names):
            scale_values(axes, "y", extremes(band for bands in of_line for band in bands.values()))
            heading(axes, name)
            axes.set_xlim(0, last * 1.02)
            for epoch in drops:
                axes.axvline(epoch, color=style.GREY, alpha=0.5, linewidth=0.6, linestyle=(0, (1, 2)), zorder=0)
    for axes in grid[-1] if not narrow else [grid[-1][-1]]:
        axes.set_xlabel("epoch")
    named = not narrow and name_bands(grid[0, 1], drawn[0][1], rows, look, 1.0, 24)
    handles = [] if named else style.label_handles(labels(nets), look)
    handles += [style.mark_handle("zero training error", "^")] * bool(marks)
    handles += [style.mark_handle("learning rate divided", "", line=":")] * bool(drops)
    style.add_legend(figure, handles)
    return figure


def _with_errors(rows: pd.DataFrame) -> pd.DataFrame:
    """Add train_error and test_error, 1 - accuracy."""
    errors = rows[rows["quantity"].str.endswith("_accuracy")]
    # Rounding: 1 - 0.99 of a fraction of N samples is exact to 1e-12, not to zero.
    values = (1 - errors["value"]).round(12)
    names = errors["quantity"].str.replace("accuracy", "error")
    return pd.concat([rows, errors.assign(value=values, quantity=names)])


def learning_rate_drops(rows: pd.DataFrame) -> list[int]:
    """Epochs that begin with a learning rate below 2/3 of the one before, of any run."""
    rates = rows[rows["quantity"] == "learning_rate"].sort_values(["run_id", "time"])
    before = rates.groupby("run_id")["value"].shift()
    return sorted({int(time) for time in rates["time"][rates["value"] < before * 2 / 3]})


def caption(tables: Tables, options: FigureOptions) -> str:
    nets = networks(tables)
    return (
        f"Loss and error (1 - accuracy) of {counted(nets, 'network')} against epochs: running averages in training"
        " mode (left), test split in evaluation mode (right). Medians over seeds with their range; an error"
        f" of 0 stands at the bottom of its axis.{not_drawn(nets)}{lost(tables, 'network')}"
    )
