"""Figure: distance of networks from the model's predictions against their distance from stationarity."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncpipe.figures.axes import heading, scale_values
from ncpipe.figures.series import Tables, counted, few, labels, lost, measured, networks, not_drawn
from ncpipe.figures.style import Look, add_legend, empty_figure, label_handles, looks, mark_handle, new_figure
from ncpipe.study.spec import FigureOptions

SPLIT = "full_batch"
"""BatchNorm has the statistics of all training images: the function that theory speaks of."""
PREMISE = "stationarity"
PANELS = {
    "nc2_means_of": "class means from the orthogonal frame that is predicted",
    "objective_gap": "objective above the optimum, with no parameter matched",
}
ROW_HEIGHT, NARROW = 2.1, 4.5


def draw(tables: Tables, options: FigureOptions) -> Figure:
    nets = few(networks(tables))
    rows = paths(tables, nets)
    shown = [name for name in PANELS if name in rows and rows[name].notna().any()]
    if not shown:
        return empty_figure(options.width, f"stationarity: no network is measured in the split {SPLIT}")
    look, narrow = looks(tables["runs"]), options.width < NARROW
    figure = new_figure(options.width, ROW_HEIGHT * (len(shown) if narrow else 1) + 0.3)
    grid = figure.subplots(len(shown) if narrow else 1, 1 if narrow else len(shown), squeeze=False).flatten()
    for axes, name in zip(grid, shown):
        _draw_paths(axes, rows.dropna(subset=[name, PREMISE]), name, look)
        heading(axes, name, PANELS[name])
        axes.set_xlabel(r"distance from stationarity, $|\nabla f|\,/\,|\Lambda\theta|$")
    marks = [mark_handle("last epoch of SGD", "o", filled=False), mark_handle("end", "s")]
    add_legend(figure, label_handles(labels(nets), look) + marks)
    return figure


def paths(tables: Tables, nets: pd.DataFrame) -> pd.DataFrame:
    """Columns ``stationarity`` and those of ``PANELS`` by run, label and time; ``epochs``, the last of SGD."""
    rows = measured(tables, nets, (PREMISE, *PANELS), split=SPLIT)
    wide = rows.pivot_table(index=["run_id", "label", "time"], columns="metric", values="value").reset_index()
    epochs = dict(zip(nets["run_id"], nets["epochs"]))
    return wide.reindex(columns=["run_id", "label", "time", PREMISE, *PANELS]).assign(
        epochs=wide["run_id"].map(epochs)
    )


def _draw_paths(axes: Axes, rows: pd.DataFrame, name: str, look: dict[str, Look]) -> None:
    """A path for every network, from the initialisation to the end of the end phase, where there is one."""
    for (_, label), own in rows[rows["time"] > 0].groupby(["run_id", "label"], sort=False):
        style, own = look[str(label)], own.sort_values("time")
        axes.plot(own[PREMISE], own[name], color=style.colour, linestyle=style.line, linewidth=0.8, alpha=0.8)
        trained, end = own[own["time"] <= own["epochs"]].tail(1), own.tail(1)
        axes.plot(trained[PREMISE], trained[name], "o", color=style.colour, mfc="white", ms=4)
        axes.plot(end[PREMISE], end[name], "s", color=style.colour, ms=4)
    scale_values(axes, "x", [rows[PREMISE].to_numpy()])
    scale_values(axes, "y", [rows[name].to_numpy()])
    axes.invert_xaxis()


def caption(tables: Tables, options: FigureOptions) -> str:
    nets = networks(tables)
    return (
        f"How far {counted(nets, 'network')} are from what the model predicts, against how far they are from a"
        " stationary point of the penalised loss over all training images (norm of its gradient over that of the"
        " weight decay's); training goes to the right, one path a network. Distance of the class means' Gram from an"
        " orthogonal frame; objective above the optimum that follows from the weight decay alone, for networks whose"
        f" head reads BatchNorm and ReLU.{not_drawn(nets)}{lost(tables, 'network', 'network')}"
    )
