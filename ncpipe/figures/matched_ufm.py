"""Figure: frames, norms and loss that the matched UFMs predict, against those measured in the networks."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import scale_values
from ncpipe.figures.drawing.captions import counted, not_drawn
from ncpipe.figures.drawing.runs import Tables, few, labels
from ncpipe.figures.drawing.style import Look
from ncpipe.records.reading import fits_of
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import plural
from ncpipe.ufm.misfit import frames_apart

KINDS = ("network",)
MARKERS = {
    "predicted": ("^", True), "predicted_extended": ("D", False), "plain": ("o", True), "extended": ("s", False)
}  # fmt: skip
"""Models of networks: marker and whether it is filled."""
GRAMS = {"means_gram_error": "class means\ndistance", "weights_gram_error": "classifier\ndistance"}
SCALARS = {"feature_norm": "norm of features", "weight_norm": "norm of classifier", "loss": "loss without penalties"}
NARROW, LINE, HEADS = 4.5, 0.13, 0.55


def applies(study: Study) -> bool:
    return bool(study.networks and study.config.ufm.matched)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    fits = few(matched_fits(tables))
    if fits.empty:
        return style.empty_figure(options.width, "matched_ufm: no UFM has been matched to a network")
    look, narrow = style.looks(tables["runs"]), options.width < NARROW
    names = [textwrap.fill(label, int(0.25 * options.width / style.LETTER)) for label in labels(fits)]
    first, second, third = SCALARS
    lines = [[first, second], [third, "."]] if narrow else [[first, second, third]]
    heights = (
        LINE * sum(1.3 + name.count("\n") for name in names) + HEADS,
        len(lines) * options.width / (2.1 if narrow else 3.2),
    )
    figure = style.new_figure(options.width, sum(heights))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    panels = upper.subplots(1, len(GRAMS))
    for axes, (name, title) in zip(panels, GRAMS.items()):
        _draw_distances(axes, fits, name, look)
        axes.set_title(title, loc="left", pad=9)
    panels[0].set_yticks(range(len(names)), names)
    for text, label in zip(panels[0].get_yticklabels(), labels(fits)):
        text.set_color(look[label].colour)
    for name, axes in lower.subplot_mosaic(lines).items():
        _draw_pairs(axes, fits, name, look)
        axes.set_title(SCALARS[name], loc="left")
    looks = {model: mark for model, mark in MARKERS.items() if model in set(fits["model"])}
    models = [style.mark_handle(_named(model), mark, "black", filled) for model, (mark, filled) in looks.items()]
    style.add_legend(figure, models)
    return figure


def _named(model: str) -> str:
    return model.replace("_", " ") if model.startswith("predicted") else f"matched {model}"


def matched_fits(tables: Tables) -> pd.DataFrame:
    """Matched fits, without Grams, with the label and seed of their network, networks in the order of ``runs``."""
    nets = tables["runs"].query("kind == 'network'")[["run_id", "label", "seed"]]
    nets = nets.rename(columns={"run_id": "network_id", "seed": "network_seed"}).assign(order=range(len(nets)))
    fits = fits_of(tables, kind="matched").merge(nets, on="network_id")
    return fits.sort_values(["order", "model"], ascending=[True, False])


def _draw_distances(axes: Axes, fits: pd.DataFrame, name: str, look: dict[str, Look]) -> None:
    """A line a label, with a mark a network and model; where all have K classes, how far an ETF is from an OF."""
    lines = {label: line for line, label in enumerate(labels(fits))}
    models = [model for model in MARKERS if model in set(fits["model"])]
    places = np.linspace(-0.2, 0.2, len(models)) if len(models) > 1 else [0.0]
    beside = dict(zip(models, places))
    for value, label, model in zip(fits[name].astype(float), fits["label"], fits["model"]):
        _mark(axes, value, lines[label] + beside[model], model, look[label])
    classes = fits["classes"].dropna().unique()
    if len(classes) == 1:
        apart = frames_apart(float(classes[0]))
        axes.axvline(apart, color=style.GREY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            "ETF to OF", (apart, 1), xytext=(0, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", va="bottom", size=style.SMALL, color=style.GREY,
        )  # fmt: skip
    axes.set(ylim=(len(lines) - 0.5, -0.5), yticks=range(len(lines)), yticklabels=[])
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.5)
    axes.set_axisbelow(True)


def _draw_pairs(axes: Axes, fits: pd.DataFrame, name: str, look: dict[str, Look]) -> None:
    pair: NDArray[np.float64] = fits[[f"measured_{name}", f"predicted_{name}"]].to_numpy(float)
    axes.axline((0, 0), (1, 1), color=style.GREY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=1)
    for (measured, predicted), label, model in zip(pair, fits["label"], fits["model"]):
        _mark(axes, measured, predicted, model, look[label])
    for which in ("x", "y"):
        scale_values(axes, which, [pair])
    axes.set(box_aspect=1, xlabel="measured", ylabel="predicted")


def _mark(axes: Axes, x: float, y: float, model: str, look: Look) -> None:
    marker, filled = MARKERS[model]
    colour = look.colour
    axes.plot(x, y, marker, color=colour, mfc=colour if filled else "none", ms=4, mew=0.8, clip_on=False)


def caption(tables: Tables, options: FigureOptions) -> str:
    fits = matched_fits(tables)
    nets = tables["runs"][tables["runs"]["run_id"].isin(fits["network_id"])]
    zero = int((fits["predicted_weight_norm"] == 0).sum())
    missing = f" {plural(zero, 'matched fit')} predict zero features and weights." if zero else ""
    return (
        f"What UFMs predict of {counted(nets, 'network')}: the plain and the ReLU extended one with penalties"
        " inferred from the trained network, and where they are drawn those with no parameter inferred (predicted)."
        " Top, means_gram_error and weights_gram_error: Frobenius distance of the predicted from the measured Gram,"
        " each of unit norm, of uncentred class means and of the classifier's weights, a mark a network; 0 is right."
        " Bottom: Frobenius norms of last features and classifier and the training loss; the dashed line is equality,"
        f" colours are those of the names above.{missing}{not_drawn(fits)}"
    )
