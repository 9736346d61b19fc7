"""Figure: Gram matrices of class means and classifier of the networks, beside the exact frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.captions import counted, lost
from ncpipe.figures.drawing.runs import Tables, labels, networks
from ncpipe.figures.level_curves import varied
from ncpipe.records.reading import rows_of
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.ufm.misfit import gram_distance

KINDS = ("network",)
Array = NDArray[np.float64]

GRAMS = {"means_uncentred": "class means,\nuncentred", "weights": "classifier\nweights"}
FRAMES = {"exact OF": False, "exact ETF": True}
CELL, BESIDE, TITLE, NOTE = 0.72, 0.95, 0.4, 0.3
"""Inches: least of a panel, beside all, over two rows and under each."""
COLOURS = mpl.colormaps["RdBu_r"].with_extremes(bad="#DDDDDD")
MOST_LINES = 2
MOST_NAMES = 20


def applies(study: Study) -> bool:
    """Whether there are networks."""
    return bool(study.networks)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    shown, _ = _chosen(tables, options)
    if not shown:
        return style.empty_figure(
            options.width, "gram_heatmaps: no network with Gram matrices, of 100 classes at most"
        )
    classes = [len(gram) for grams in shown.values() for gram in grams.values() if gram is not None] or [10]
    frames = {
        name: dict.fromkeys(GRAMS, _frame(max(set(classes), key=classes.count), etf)) for name, etf in FRAMES.items()
    }
    columns: list[tuple[str, Mapping[str, Array | None]]] = [*frames.items(), *shown.items()]
    limit, across = colour_limit(classes), min(len(columns), _across(options.width))
    lines, cell = -(-len(columns) // across), min(1.2, (options.width - BESIDE) / across)
    figure = style.new_figure(options.width, lines * (len(GRAMS) * (cell + NOTE) + TITLE))
    grid = figure.subplots(lines * len(GRAMS), across, squeeze=False)
    panels, image = grid.reshape(lines, len(GRAMS), across).transpose(0, 2, 1).reshape(-1, len(GRAMS)), None
    for (title, grams), pair in zip(columns, panels):
        for axes, (name, gram) in zip(pair, grams.items()):
            image = _draw_gram(axes, gram, limit) or image
            if title not in frames:
                axes.set_xlabel(_note(gram), labelpad=2, size=style.SMALL)
            if axes in grid[:, 0]:
                axes.set_ylabel(GRAMS[name], size=style.SMALL)
        pair[0].set_title(
            style.wrapped(title, int(cell / style.LETTER) - 1, rows=4), loc="left", pad=3, size=style.SMALL
        )
    for axes in panels[len(columns) :].flat:
        axes.remove()
    if image is not None:
        bar = figure.colorbar(
            image, ax=[*panels[: len(columns)].flat], extend="both", aspect=30, pad=0.02, shrink=0.9 / lines
        )
        bar.outline.set_linewidth(0.4)
        bar.set_ticks([-limit, 0, limit])
        bar.set_label(r"$\sqrt{K}\,G\,/\,\Vert G\Vert_F$", size=style.SMALL, labelpad=1)
    return figure


def _across(width: float) -> int:
    """Panels beside each other, and a colour bar."""
    return max(3, int((width - BESIDE) / CELL))


def _chosen(tables: Tables, options: FigureOptions) -> tuple[dict[str, dict[str, Array | None]], list[str]]:
    """The Grams of the network of each label that is shown, and the labels for which there is no room."""
    nets = networks(tables)
    with_grams = rows_of(
        tables, "grams", ["run_id", "gram", "row", "column"], gram="means_uncentred", row=0, column=0
    )
    nets = nets[nets["run_id"].isin(with_grams["run_id"])]
    names = varied(nets, labels(nets))
    most = MOST_LINES * _across(options.width) - len(FRAMES)
    nets = nets[nets["label"].isin(names[:most])]
    rows = rows_of(tables, "grams", gram=GRAMS, run_id=set(nets["run_id"]))
    grams = {run_id: {name: _gram(rows, run_id, name) for name in GRAMS} for run_id in nets["run_id"]}
    return {label: _median_seed(grams, nets[nets["label"] == label]) for label in names[:most]}, names[most:]


def _median_seed(grams: dict[str, dict[str, Array | None]], nets: pd.DataFrame) -> dict[str, Array | None]:
    """Those of the run whose class means have the median distance to an OF; of an even number the lower median."""

    def distance(run_id: str) -> float:
        means = grams[run_id]["means_uncentred"]
        return np.inf if means is None else gram_distance(means, _frame(len(means), etf=False))

    return grams[sorted(nets["run_id"], key=distance)[(len(nets) - 1) // 2]]


def _gram(rows: pd.DataFrame, run_id: str, name: str) -> Array | None:
    own = rows[(rows["run_id"] == run_id) & (rows["gram"] == name)]
    return unit_gram(own.sort_values(["row", "column"])["value"])


def _frame(classes: int, etf: bool) -> Array:
    """The Gram of the exact frame, of unit norm."""
    gram = np.eye(classes) - etf / classes
    return gram / np.linalg.norm(gram)


def unit_gram(values: Any) -> Array | None:
    """A Gram, K x K or its entries row by row, as a matrix of unit norm; None where it is zero or unknown."""
    gram = np.asarray([] if values is None else values, dtype=float).ravel()
    norm = float(np.linalg.norm(gram))
    size = round(len(gram) ** 0.5)
    return gram.reshape(size, size) / norm if np.isfinite(norm) and norm > 0 else None


def colour_limit(classes: Iterable[int]) -> float:
    """Where colours of sqrt(K) G saturate: for ten classes at half the diagonal of an exact OF, for more classes
    lower, so that the off-diagonal of an ETF, -1/sqrt(K(K-1)), shows."""
    return min(0.5, 5 / max(classes, default=10))


def _draw_gram(axes: Axes, gram: Array | None, limit: float) -> AxesImage | None:
    """A Gram of unit norm times sqrt(K), so that the diagonal of an OF is 1."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, linewidth=0.4)
    if gram is None:
        axes.set_box_aspect(1)
        texts: dict[str, Any] = {"transform": axes.transAxes, "color": style.GREY, "size": style.SMALL}
        axes.text(0.5, 0.5, "undefined", ha="center", va="center", **texts)
        return None
    return axes.imshow(gram * len(gram) ** 0.5, cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")


def _note(gram: Array | None) -> str:
    if gram is None or len(gram) == 1:
        return ""
    of, etf = (gram_distance(gram, _frame(len(gram), etf)) for etf in (False, True))
    return f"to OF {of:.2f}\nto ETF {etf:.2f}"


def caption(tables: Tables, options: FigureOptions) -> str:
    nets = networks(tables)
    _, left_out = _chosen(tables, options)
    names = ", ".join(left_out) if len(left_out) <= MOST_NAMES else f"{len(left_out):,} other labels"
    rest = f" No room for {names}." if left_out else ""
    return (
        "Gram matrices of the uncentred class means (upper row) and of the classifier's weight rows (lower row), each"
        " of unit Frobenius norm times sqrt(K), of the last features on the training split at the last measured"
        f" epoch, of {counted(nets, 'network')}: of each label the seed whose class means have the median distance to"
        " the OF, nc2_means_of. Classes stand in the order of the data set. Left, the exact orthogonal frame (OF) and"
        " simplex ETF; under a network its Frobenius distances to them. What a matched UFM predicts is one of the"
        " two, or between: how far it is off stands in matched_ufm. Colours are shared and saturate at the ends of"
        f" the bar.{rest}{lost(tables, 'network')}"
    )
