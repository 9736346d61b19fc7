"""Figure: Gram matrices of class means and classifier, beside the exact frames and what the matched UFMs predict."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.captions import counted, lost
from ncpipe.figures.drawing.gram_panels import add_gram_bar, colour_limit, draw_gram, unit_gram
from ncpipe.figures.drawing.runs import Tables, labels, networks
from ncpipe.figures.level_curves import varied
from ncpipe.records.reading import fits_of, rows_of
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.ufm.misfit import gram_distance

KINDS = ("network",)
Array = NDArray[np.float64]

GRAMS = {"means_uncentred": "class means,\nuncentred", "weights": "classifier\nweights"}
MODELS = ("plain", "extended")
CELL, GAP = 0.68, 0.25
"""Least inches of a panel, and room between two groups in panels."""
ROW, TITLE, LEFT, RIGHT = 0.24, 0.36, 0.35, 0.55
"""Inches under a row, over a line, and at both sides."""
MOST_LINES = 2
MOST_NAMES = 20


@dataclass(frozen=True)
class Column:
    """One system: its Grams of unit norm by kind, and what stands under each."""

    title: str
    grams: dict[str, Array | None]
    notes: dict[str, str]
    absent: str = ""


@dataclass(frozen=True)
class Group:
    """Columns that stand together: the exact frames, or a network and its predictions."""

    title: str
    columns: list[Column]


def applies(study: Study) -> bool:
    """Whether there are networks."""
    return bool(study.networks)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    shown, _ = _chosen(tables, options)
    grams = _grams(tables, shown.values())
    if not shown:
        return style.empty_figure(
            options.width, "gram_heatmaps: no network with Gram matrices, of 100 classes at most"
        )
    groups = [_network(tables, grams, run_id, label) for label, run_id in shown.items()]
    size = max(len(group.columns) for group in groups)
    places = _places(options.width, size)
    lines = [groups[i : i + places] for i in range(0, len(groups), places)]
    classes = [len(gram) for group in groups for c in group.columns for gram in c.grams.values() if gram is not None]
    limit, frames = colour_limit(classes), _frames(Counter(classes).most_common(1)[0][0] if classes else 10)
    widths = _widths([2, *[size] * len(lines[0])])
    cell = (options.width - LEFT - RIGHT) / sum(widths)
    figure = style.new_figure(options.width, len(lines) * (2 * (cell + ROW) + TITLE))
    figure.get_layout_engine().set(w_pad=0.02, wspace=0.02)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(2 * len(lines), len(widths), squeeze=False, gridspec_kw={"width_ratios": widths})
    drawn, image = set(), None
    for number, line in enumerate(lines):
        rows, first = grid[2 * number : 2 * number + 2], 0
        for group in (frames, *line):
            for column, panels in zip(group.columns, rows[:, first:].T):
                image = _draw_column(panels, column, limit) or image
                drawn |= set(panels)
            _name_group(rows[0, first], group, int(len(group.columns) * cell / style.LETTER))
            first += len(group.columns) + 1
        for axes, name in zip(rows[:, 0], GRAMS.values()):
            axes.set_ylabel(name, size=style.SMALL)
    for axes in set(grid.ravel()) - drawn:
        axes.remove()
    if image is not None:
        add_gram_bar(figure, image, [axes for axes in grid.ravel() if axes in drawn], limit, 0.9 / len(lines))
    return figure


def _places(width: float, size: int) -> int:
    """Networks in a line, so many columns each, beside the two exact frames."""
    cells = (width - LEFT - RIGHT) / CELL
    return max(1, int((cells - 2) / (size + GAP)))


def _widths(sizes: Sequence[int]) -> list[float]:
    """Widths of the columns of a line: panels, and a gap between two groups."""
    return [width for size in sizes for width in (*[1.0] * size, GAP)][:-1]


def _chosen(tables: Tables, options: FigureOptions) -> tuple[dict[str, str], list[str]]:
    """The network of each label that is shown, and the labels for which there is no room."""
    nets = networks(tables)
    nets = nets[nets["run_id"].isin(_with_grams(tables)["run_id"])]
    names = varied(nets, labels(nets))
    matched = _matched(tables)["network_id"].isin(nets["run_id"]).any()
    most = MOST_LINES * _places(options.width, 1 + len(MODELS) if matched else 1)
    grams = _grams(tables, nets.loc[nets["label"].isin(names[:most]), "run_id"])
    chosen = {label: _median_seed(grams, nets[nets["label"] == label]) for label in names[:most]}
    return chosen, names[most:]


def _with_grams(tables: Tables) -> pd.DataFrame:
    """A row for every run that has Grams."""
    return rows_of(tables, "grams", ["run_id", "gram", "row", "column"], gram="means_uncentred", row=0, column=0)


def _grams(tables: Tables, networks: Iterable[str]) -> pd.DataFrame:
    """Rows of ``grams`` of these networks and of the UFMs matched to them."""
    fits = fits_of(tables, kind="matched", network_id=set(networks))
    return rows_of(tables, "grams", gram=GRAMS, run_id={*networks, *fits["run_id"]})


def _median_seed(grams: pd.DataFrame, nets: pd.DataFrame) -> str:
    """The run whose class means have the median distance to an OF; of an even number the lower median."""
    distances = {}
    for run_id in nets["run_id"]:
        gram = _gram(grams, run_id, "means_uncentred")
        distances[str(run_id)] = np.inf if gram is None else gram_distance(gram, _frame(len(gram), etf=False))
    ordered = sorted(distances, key=lambda run_id: distances[run_id])
    return ordered[(len(ordered) - 1) // 2]


def _gram(grams: pd.DataFrame, run_id: str, name: str) -> Array | None:
    rows = grams[(grams["run_id"] == run_id) & (grams["gram"] == name)]
    return unit_gram(rows.sort_values(["row", "column"])["value"])


def _matched(tables: Tables) -> pd.DataFrame:
    fits = fits_of(tables, kind="matched")
    return fits[fits["run_id"].isin(_with_grams(tables)["run_id"])]


def _frame(classes: int, etf: bool) -> Array:
    """The Gram of the exact frame, of unit norm."""
    gram = np.eye(classes) - etf / classes
    return gram / np.linalg.norm(gram)


def _frames(classes: int) -> Group:
    exact = {"exact\nOF": False, "exact\nETF": True}
    columns = [Column(title, dict.fromkeys(GRAMS, _frame(classes, etf)), {}) for title, etf in exact.items()]
    return Group("", columns)


def _network(tables: Tables, grams: pd.DataFrame, run_id: str, label: str) -> Group:
    """The network and what its matched UFMs predict, as far as they are there."""
    measured = {name: _gram(grams, run_id, name) for name in GRAMS}
    fits = _matched(tables)
    by_model = dict(fits.loc[fits["network_id"] == run_id, ["model", "run_id"]].itertuples(index=False, name=None))
    notes = {name: _frame_note(gram) for name, gram in measured.items()}
    columns = [Column("measured" if by_model else "", measured, notes, "undefined")]
    for model in MODELS if by_model else ():
        predicted = {name: _gram(grams, by_model.get(model, ""), name) for name in GRAMS}
        absent = "predicts\nzero" if model in by_model else "no fit"
        notes = {name: _distance_note(measured[name], gram) for name, gram in predicted.items()}
        columns.append(Column(model, predicted, notes, absent))
    return Group(label, columns)


def _frame_note(gram: Array | None) -> str:
    if gram is None or len(gram) == 1:
        return ""
    of, etf = (gram_distance(gram, _frame(len(gram), etf)) for etf in (False, True))
    return f"OF {of:.2f}\nETF {etf:.2f}"


def _distance_note(measured: Array | None, predicted: Array | None) -> str:
    if measured is None or predicted is None or measured.shape != predicted.shape:
        return ""
    return f"off {gram_distance(measured, predicted):.2f}"


def _draw_column(panels: Sequence[Axes], column: Column, limit: float) -> AxesImage | None:
    image = None
    for axes, (name, gram) in zip(panels, column.grams.items()):
        image = draw_gram(axes, gram, column.absent, limit) or image
        axes.set_xlabel(column.notes.get(name, ""), labelpad=2, size=style.SMALL)
    panels[0].set_title(column.title, loc="left", pad=3, size=style.SMALL)
    return image


def _name_group(axes: Axes, group: Group, letters: int) -> None:
    """The label over the first panel of its group, above what its columns are."""
    title = axes.get_title(loc="left")
    lines = textwrap.wrap(group.title, max(8, letters))[:3]
    axes.set_title("\n".join([*lines, *([title] if title else [])]), loc="left", pad=3, size=style.SMALL)


def caption(tables: Tables, options: FigureOptions) -> str:
    nets = networks(tables)
    shown, left_out = _chosen(tables, options)
    matched = _matched(tables)["network_id"].isin(shown.values()).any()
    predicted = (
        " Beside it what the matched plain and ReLU extended UFM predict, with the distance of the prediction to the"
        " measurement." * bool(matched)
    )
    names = ", ".join(left_out) if len(left_out) <= MOST_NAMES else f"{len(left_out):,} other labels"
    rest = f" No room for {names}." if left_out else ""
    return (
        "Gram matrices of the uncentred class means (upper row) and of the classifier's weight rows (lower row), each"
        " of unit Frobenius norm times sqrt(K), of the last features on the training split at the last measured"
        f" epoch, of {counted(nets, 'network')}: of each label the seed whose class means have the median distance to"
        " the OF. Classes stand in the order of the data set. Left, the exact orthogonal frame (OF) and simplex ETF;"
        f" under a network its Frobenius distances to them.{predicted} Colours are shared and saturate at the ends of"
        f" the bar.{rest}{lost(tables, 'network')}"
    )
