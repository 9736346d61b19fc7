"""Figure: what the models without a parameter predict of networks, against what is measured in them."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ncpipe.claims.evidence.misfits import PREDICTED
from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.captions import counted, not_drawn
from ncpipe.figures.drawing.runs import Tables, few, labels, networks
from ncpipe.figures.drawing.series import draw_seeds
from ncpipe.figures.gram_heatmaps import unit_gram
from ncpipe.figures.matched_sweep import MODELS
from ncpipe.records.reading import fits_of
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import plural
from ncpipe.ufm.misfit import gram_distance

KINDS = ("network",)
SIZES = {
    "weight_norm": "$|W|$",
    "feature_norm": "$|H|$",
    "objective": "objective",
    "hidden_weight_norm": "$|W_1|$",
    "hidden_norm": "$|H_1|$",
}
GRAMS = {"means_gram_error": "class means", "weights_gram_error": "classifier", "hidden_gram_error": "$H_1$"}
MOST_LABELS = 14
PANEL_WIDTH, LINE, HEADS = 0.75, 0.115, 0.55
LINEAR_TO = 30.0
"""Per cent up to which an axis is linear; beyond, small errors would be lost beside large ones."""


def applies(study: Study) -> bool:
    return bool(study.networks) and not {"predicted", "predicted_extended"}.isdisjoint(study.config.ufm.matched)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    rows = few(errors(tables), MOST_LABELS)
    shown = [name for name in (*SIZES, *GRAMS) if rows[name].notna().any()]
    if not shown:
        return style.empty_figure(options.width, "predictions: no error of a model without a parameter")
    lines, shared = list(dict.fromkeys(zip(rows["label"], rows["model"]))), style.shared_words(labels(rows))
    letters = int(0.28 * options.width / style.LETTER)
    names = [textwrap.fill(style.without_words(label, shared), letters) for label, _ in lines]
    levels = _levels(shown, max(1, int((0.72 * options.width - 0.1) / PANEL_WIDTH)))
    height = LINE * len(lines) * (1.15 + max(name.count("\n") for name in names)) + HEADS
    figure = style.new_figure(options.width, height * len(levels))
    most = max(map(len, levels))
    grid = figure.subplot_mosaic([[*level, *["."] * (most - len(level))] for level in levels])
    for name, axes in grid.items():
        _draw_panel(axes, rows, name, lines)
    for level in levels:
        grid[level[0]].set_yticks(range(len(lines)), names)
    models = [MODELS[model] for model in PREDICTED if model in set(rows["model"])]
    style.add_legend(figure, [style.mark_handle(name, look.marker, look.colour) for name, look in models])
    return figure


def _levels(shown: list[str], most: int) -> list[list[str]]:
    """The panels side by side; where these are too many, sizes above Grams."""
    groups = [[name for name in shown if name in group] for group in (SIZES, GRAMS)] if len(shown) > most else [shown]
    return [group[i : i + most] for group in groups for i in range(0, len(group), most)]


def errors(tables: Tables) -> pd.DataFrame:
    """Predictions beside networks, a row each: ``network_id``, ``label`` and ``seed`` of the network, ``model``, by
    ``SIZES`` measured over predicted minus one, in per cent, by ``GRAMS`` the distance of the Grams of unit norm."""
    nets = networks(tables)[["run_id", "label", "seed"]].rename(columns={"run_id": "network_id"})
    fits = fits_of(tables, "measured_hidden_gram", "predicted_hidden_gram", kind="matched", model=PREDICTED)
    pairs = zip(fits["measured_hidden_gram"], fits["predicted_hidden_gram"])
    fits = fits.assign(hidden_gram_error=[_distance(*pair) for pair in pairs])
    for name in SIZES:
        predicted, measured = fits[f"predicted_{name}"].astype(float), fits[f"measured_{name}"].astype(float)
        fits[name] = 100 * (measured / predicted.where(predicted > 0) - 1)
    return nets.merge(fits.drop(columns="seed"), on="network_id")


def _distance(*grams: object) -> float:
    measured, predicted = map(unit_gram, grams)
    return np.nan if measured is None or predicted is None else gram_distance(measured, predicted)


def _draw_panel(axes: Axes, rows: pd.DataFrame, name: str, lines: list[tuple[str, str]]) -> None:
    axes.axvline(0, color=style.GREY, linewidth=0.6, zorder=1)
    ends: list[float] = []
    for line, (label, model) in enumerate(lines):
        of_line = rows[(rows["label"] == label) & (rows["model"] == model)].dropna(subset=name)
        if len(of_line):
            ends += draw_seeds(axes, of_line.groupby("seed")[name].median(), line, MODELS[model][1], 5)
    _scale(axes, rows[name].dropna().to_numpy(float), ends, signed=name in SIZES)
    axes.set(ylim=(len(lines) - 0.5, -0.5), yticks=range(len(lines)), yticklabels=[])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title(f"{SIZES[name]}\nerror, %" if name in SIZES else f"{GRAMS[name]}\ndistance", loc="left", pad=3)


def _scale(axes: Axes, values: NDArray[np.float64], ends: list[float], signed: bool) -> None:
    """Zero, all seeds, and of the intervals what is not too far out, as they may be of two seeds."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = (high - low) / 2
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    pad = 0.06 * (high - low) or 1.0
    axes.set_xlim(low - pad if signed else 0, high + pad)
    axes.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
    if signed and max(-low, high) > LINEAR_TO:
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        ends = [math.copysign(10.0 ** int(math.log10(abs(end))), end) for end in (low, high) if abs(end) >= 10]
        axes.xaxis.set_major_locator(FixedLocator([0, *ends]))
        axes.xaxis.set_minor_locator(FixedLocator([sign * 10.0**e for sign in (-1, 1) for e in range(8)]))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low * 1.5, high * 1.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}".replace("-", "−")))


def caption(tables: Tables, options: FigureOptions) -> str:
    rows = errors(tables)
    nets, zero = rows.drop_duplicates("network_id"), int((rows["predicted_weight_norm"] == 0).sum())
    without, shared = len(networks(tables)) - len(nets), style.shared_words(labels(few(rows, MOST_LABELS)))
    return (
        f"What {counted(nets, 'network')} are at their last measured time against what two models say of them: the"
        " non-negative UFM of a head that reads BatchNorm and ReLU, and the extended ReLU UFM where one layer without"
        " BatchNorm stands between. Nothing was fitted: penalties follow from the weight decay; 0 means right."
        " Errors: measured over predicted minus one, of Frobenius norms of classifier, last features and the layer"
        " below, and of the penalised objective. Distances: Frobenius, of the measured from the predicted Grams of"
        " class means (uncentred), classifier and layer below, each of unit norm. Means over seeds with Student's"
        f" 95 % interval, seeds as ticks; beyond {LINEAR_TO:g} % an axis is logarithmic."
        + (f" {plural(zero, 'prediction')} of zero without a relative error." if zero else "")
        + (f" Left out: {plural(without, 'network')} of which neither model speaks." if without else "")
        + (f" All networks are {shared}." if shared else "")
        + not_drawn(rows, most=MOST_LABELS)
    )
