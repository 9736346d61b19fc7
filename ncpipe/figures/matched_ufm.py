"""Figure: Gram matrices, norms and loss that the matched UFMs predict, against those measured in the networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import scale_values
from ncpipe.figures.drawing.captions import counted, not_drawn
from ncpipe.figures.drawing.gram_panels import add_gram_bar, colour_limit, draw_gram, unit_gram
from ncpipe.figures.drawing.runs import Tables, few, labels
from ncpipe.figures.drawing.style import Look
from ncpipe.records.reading import fits_of, rows_of
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import plural

KINDS = ("network",)
MARKERS = {
    "predicted": ("^", True), "predicted_extended": ("D", False), "plain": ("o", True), "extended": ("s", False)
}  # fmt: skip
"""Models of networks: marker and whether it is filled. Grams are drawn of the first two that there are."""
GRAMS = {"means_gram": "class means", "weights_gram": "classifier weights"}
SCALARS = {"feature_norm": r"$|H|_F$", "weight_norm": r"$|W|_F$", "loss": "loss without penalties"}
MOST_LABELS = 8
NARROW = 4.5


def applies(study: Study) -> bool:
    return bool(study.networks and study.config.ufm.matched)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    fits = matched_fits(tables)
    if fits.empty:
        return style.empty_figure(options.width, "matched_ufm: no UFM has been matched to a network")
    look, shown = style.looks(tables["runs"]), labels(fits)[:MOST_LABELS]
    narrow = options.width < NARROW
    blocks = [(label, gram) for label in shown for gram in GRAMS]
    lines = len(blocks) if narrow else len(shown)
    cell = (options.width - 0.75) / (3 if narrow else 6)
    heights = (lines * (cell + (0.42 if narrow else 0.16)) + 0.3, options.width / (1.15 if narrow else 3.3))
    figure = style.new_figure(options.width, sum(heights))
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_grams(upper, _with_grams(tables, fits, shown), blocks, lines)
    _draw_scalars(lower, few(fits), look, narrow)
    looks = {model: mark for model, mark in MARKERS.items() if model in set(fits["model"])}
    models = [style.mark_handle(_named(model), mark, "black", filled) for model, (mark, filled) in looks.items()]
    style.add_legend(figure, models + style.label_handles(labels(few(fits)), look))
    return figure


def _named(model: str) -> str:
    return model.replace("_", " ") if model.startswith("predicted") else f"matched {model}"


def _two_models(fits: pd.DataFrame) -> list[str]:
    drawn = [model for model in MARKERS if model in set(fits["model"])]
    return [*drawn, *(model for model in ("plain", "extended") if model not in drawn)][:2]


def matched_fits(tables: Tables) -> pd.DataFrame:
    """Matched fits, without Grams, with the label and seed of their network, networks in the order of ``runs``."""
    nets = tables["runs"].query("kind == 'network'")[["run_id", "label", "seed"]]
    nets = nets.rename(columns={"run_id": "network_id", "seed": "network_seed"}).assign(order=range(len(nets)))
    fits = fits_of(tables, kind="matched").merge(nets, on="network_id")
    return fits.sort_values(["order", "model"], ascending=[True, False])


def _with_grams(tables: Tables, fits: pd.DataFrame, shown: Iterable[str]) -> pd.DataFrame:
    """The fits of the first seed of these labels with their Grams."""
    first = fits.sort_values(["network_seed", "order"]).drop_duplicates("label").query("label in @shown")
    chosen = fits[fits["network_id"].isin(first["network_id"])]
    names = [f"{side}_{gram}" for side in ("measured", "predicted") for gram in GRAMS]
    return chosen.merge(rows_of(tables, "ufm", ["run_id", *names], run_id=set(chosen["run_id"])), on="run_id")


def _draw_grams(figure: Any, fits: pd.DataFrame, blocks: list[tuple[str, str]], lines: int) -> None:
    columns, image, limit = 3 * len(blocks) // lines, None, colour_limit(fits["classes"].dropna().astype(int))
    # An empty column keeps means and weights apart.
    ratios = {"width_ratios": [1, 1, 1, 0.05, 1, 1, 1]} if columns > 3 else {}
    grid = figure.subplots(lines, len(ratios.get("width_ratios", "abc")), squeeze=False, gridspec_kw=ratios)
    if ratios:
        for axes in grid[:, 3]:
            axes.remove()
        grid = np.delete(grid, 3, axis=1)
    for number, (label, gram) in enumerate(blocks):
        line, first = divmod(number * 3, columns)
        panels, of_label = grid[line, first : first + 3], fits[fits["label"] == label]
        image = _draw_block(panels, of_label, _two_models(fits), gram, limit) or image
        if line == 0 or columns == 3:
            panels[0].set_title(f"{GRAMS[gram]}\nmeasured", loc="left", pad=3)
            for axes, model in zip(panels[1:], _two_models(fits)):
                axes.set_title(model, loc="left", pad=3)
        if first == 0:
            panels[0].set_ylabel(style.wrapped(label, 16), size=style.SMALL)
    if image is not None:
        add_gram_bar(figure, image, list(grid.ravel()), limit, 0.5)


def _draw_block(panels: Any, fits: pd.DataFrame, models: list[str], gram: str, limit: float) -> AxesImage | None:
    """The measured Gram and the two predicted ones, each with its distance to the measured one."""
    by_model = {str(fit["model"]): fit for _, fit in fits.iterrows()}
    measured = fits[f"measured_{gram}"].iloc[0]
    image = draw_gram(panels[0], unit_gram(measured), "unknown", limit)
    for axes, model in zip(panels[1:], models):
        predicted = by_model[model][f"predicted_{gram}"] if model in by_model else None
        absent = "no fit" if model not in by_model or predicted is None else "predicts zero"
        draw_gram(axes, unit_gram(predicted), absent, limit)
        distance = None if predicted is None else by_model[model][f"{gram}_error"]
        axes.set_xlabel("" if pd.isna(distance) else f"distance {distance:.2f}", labelpad=2, size=style.SMALL)
    return image


def _draw_scalars(figure: Any, fits: pd.DataFrame, look: dict[str, Look], narrow: bool) -> None:
    first, second, third = SCALARS
    grid = figure.subplot_mosaic([[first, second], [third, "."]] if narrow else [[first, second, third]])
    for column, axes in grid.items():
        pair = fits[[f"measured_{column}", f"predicted_{column}"]].to_numpy(float)
        _draw_pairs(axes, fits, pair, look)
        for which in ("x", "y"):
            scale_values(axes, which, [pair])
        axes.set(box_aspect=1, xlabel="measured", ylabel="predicted")
        axes.set_title(SCALARS[column], loc="left")


def _draw_pairs(axes: Axes, fits: pd.DataFrame, pair: NDArray[np.float64], look: dict[str, Look]) -> None:
    axes.axline((0, 0), (1, 1), color=style.GREY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=1)
    for (measured, predicted), label, model in zip(pair, fits["label"], fits["model"]):
        marker, filled = MARKERS[model]
        colour = look[label].colour
        axes.plot(
            measured, predicted, marker, color=colour, mfc=colour if filled else "none", ms=4, mew=0.8, clip_on=False
        )


def caption(tables: Tables, options: FigureOptions) -> str:
    fits = matched_fits(tables)
    nets = tables["runs"][tables["runs"]["run_id"].isin(fits["network_id"])]
    zero, names = int((fits["predicted_weight_norm"] == 0).sum()), len(labels(fits))
    missing = f" {plural(zero, 'matched fit')} predict zero features and weights." if zero else ""
    missing += f" Grams of the first {MOST_LABELS} of {names} labels." if names > MOST_LABELS else ""
    return (
        "What the plain UFM and the ReLU extended UFM predict, with penalties inferred from the trained network, and"
        " where they are drawn those with no parameter inferred (predicted)."
        " Top: Gram matrices of uncentred class means and of classifier weights, scaled to unit norm, of the first"
        " seed of each label, with the distance of the prediction to the measurement."
        " Bottom: Frobenius norms of last features and classifier and the training loss of"
        f" {counted(nets, 'network')}; the dashed line is equality.{missing}{not_drawn(fits)}"
    )
