"""Figure: loss and accuracy of class-incremental learning against its steps, by the start of the new rows."""

from __future__ import annotations

import json
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading, scale_time, scale_values
from ncpipe.figures.drawing.captions import lost
from ncpipe.figures.drawing.runs import Tables, labels
from ncpipe.figures.drawing.series import Band, draw_bands, extremes, histories, last_time, name_bands
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import plural

KINDS = ("continual",)
QUANTITIES = {
    "old_loss": ("test loss", "old classes"),
    "test_old_accuracy": ("test accuracy", "old classes"),
    "test_new_accuracy": ("test accuracy", "new classes"),
    "test_accuracy": ("test accuracy", "all classes"),
}
"""By name in ``history``: title, and the images."""
BEFORE = {"old_loss": "before_old_loss", "test_old_accuracy": "before_old_accuracy"}
"""The level that the trained network has on its own."""
INITS = {"random": "violet", "class_mean": "orange", "least_squares": "blue"}
BLACK = style.OKABE_ITO["black"]
ROW_HEIGHT, NARROW = 1.35, 5.0
MOST_NETWORKS = 4


def applies(study: Study) -> bool:
    return bool(study.continual)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    runs = learnings(tables)
    shown = list(dict.fromkeys(runs["network"]))[:MOST_NETWORKS]
    rows = histories(tables, runs)
    if rows.empty:
        return style.empty_figure(options.width, "continual_curves: no classes have been added to a network")
    look, per_row = _looks(runs), 2 if options.width < NARROW else 4
    lines = 4 // per_row
    figure = style.new_figure(options.width, ROW_HEIGHT * lines * len(shown) + 0.15)
    grid = figure.subplots(lines * len(shown), per_row, squeeze=False).reshape(len(shown), 4)
    for panels, network in zip(grid, shown):
        of_network = rows[rows["run_id"].isin(runs.loc[runs["network"] == network, "run_id"])]
        drawn = [
            _panel(axes, of_network, quantity, look, last_time(rows)) for axes, quantity in zip(panels, QUANTITIES)
        ]
        if network == shown[0]:
            for axes, words in zip(panels, QUANTITIES.values()):
                heading(axes, *words)
            named = per_row == 4 and name_bands(panels[-1], drawn[-1], rows, look, ROW_HEIGHT - 0.5)
        if len(shown) > 1:
            panels[0].set_ylabel(style.wrapped(network, 26))
    for axes in grid[-1][-per_row:]:
        axes.set_xlabel("step")
    before = style.mark_handle("before the switch", "", BLACK, line="--")
    style.add_legend(figure, [*([] if named else style.label_handles(labels(runs), look)), before])
    return figure


def learnings(tables: Tables) -> pd.DataFrame:
    """Rows of ``runs`` of kind continual that ended well, with the label of their network; without the word that all
    labels begin with."""
    runs = tables["runs"].query("kind == 'continual' and status == 'done'")
    by_id = tables["runs"].drop_duplicates("run_id").set_index("run_id")["label"]
    return runs.assign(
        network=runs["network_id"].map(by_id),
        label=runs["label"].str.removeprefix("continual "),
        init=[json.loads(text)["init"] for text in runs["settings"]],
    )


def _looks(runs: pd.DataFrame) -> dict[str, Look]:
    """A colour per start; settings that vary beside it change the line."""
    by_label: dict[str, Look] = {}
    for init, colour in INITS.items():
        lines = zip(labels(runs[runs["init"] == init]), cycle(style.LINE_STYLES), cycle(style.MARKERS))
        by_label |= {label: Look(style.OKABE_ITO[colour], line, marker) for label, line, marker in lines}
    return by_label


def _panel(axes: Axes, rows: pd.DataFrame, quantity: str, look: dict[str, Look], last: float) -> dict[str, Band]:
    drawn = draw_bands(axes, rows, "quantity", quantity, look)
    level = rows[rows["quantity"] == BEFORE.get(quantity)]["value"].median()
    if quantity in BEFORE:
        axes.axhline(level, color=BLACK, linestyle="--", linewidth=0.7, zorder=1)
    if quantity.endswith("accuracy"):
        axes.set_ylim(0, 1.03)
    else:
        scale_values(axes, "y", [*extremes(drawn.values()), level])
    scale_time(axes, last)
    return drawn


def caption(tables: Tables, options: FigureOptions) -> str:
    runs = learnings(tables)
    networks = runs["network"].nunique()
    more = f" The first {MOST_NETWORKS} of {networks} kinds of network." if networks > MOST_NETWORKS else ""
    counted = plural(runs["network_id"].nunique(), "network")
    return (
        f"Class-incremental learning by the classifier alone on the frozen features of {counted}: test loss on the"
        " old classes, and test accuracy on old, new and all classes, decided among all, against steps of SGD; 0 is"
        " before the first. Colours: how the rows of the new classes start. Medians over seeds with their range;"
        f" dashed: the network with its old classes alone.{more}{lost(tables, 'continual')}"
    )
