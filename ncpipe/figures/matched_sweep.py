"""Figure: how far predictions of the matched UFMs are from networks over a sweep of weight decay, and the misfit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ncpipe.claims.evidence.misfits import matched_signatures, misfit_values
from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import place_ticks, scale_values
from ncpipe.figures.drawing.runs import Tables, evenly, networks
from ncpipe.figures.drawing.series import Band, draw_seeds
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions
from ncpipe.system.words import plural
from ncpipe.ufm.misfit import misfit

KINDS = ("network",)
PANELS = {
    "weights_gram": "classifier,\ndistance of Grams",
    "means_gram": "class means,\ndistance of Grams",
    "hidden_gram": "class means one layer\nbelow, distance of Grams",
    "scatter": "scatter, share of\nvariance (model: 0)",
}
MODELS = {
    "plain": ("matched plain UFM", Look(style.OKABE_ITO["blue"], "-", "o")),
    "extended": (
        "matched extended UFM",
        Look(style.OKABE_ITO["vermillion"], (0, (4, 1.5)), "s"),
    ),  # the two may agree
    "predicted": ("UFM without a parameter", Look(style.OKABE_ITO["green"], (0, (1, 1)), "^")),
    "predicted_extended": (
        "extended UFM without a parameter",
        Look(style.OKABE_ITO["purple"], (0, (3, 1, 1, 1)), "D"),
    ),
}
GUESS_COLOUR, GUESS_WIDTH = "#BBBBBB", 2.6  # wide, so that it shows under a model that predicts the same
MOST_LABELS, MOST_CURVED = 9, 4
NARROW = 4.5
ROW_HEIGHT, STRIP = 1.05, 0.2


@dataclass(frozen=True)
class Sweep:
    """Networks that differ in weight decay and seed."""

    label: str
    rows: pd.DataFrame
    """Columns ``decay``, ``seed``, ``source`` (guess, a model, or measured of the scatter), ``quantity`` and
    ``value``: of Grams the distance from the network's."""
    misfits: pd.DataFrame
    """Columns ``matched``, ``seed``, ``error`` and ``guess_error``."""


def draw(tables: Tables, options: FigureOptions) -> Figure:
    every = sweeps(tables)[:MOST_LABELS]
    if not every:
        return style.empty_figure(options.width, "matched_sweep: no UFM matched to a network without training error")
    curved = [sweep for sweep in every if sweep.rows["decay"].nunique() > 1][
        : MOST_CURVED if options.width > NARROW else 0
    ]
    shown = {name: title for name, title in PANELS.items() if any(name in set(s.rows["quantity"]) for s in curved)}
    heights = [ROW_HEIGHT * len(curved) + 0.5] * bool(curved) + [STRIP * len(every) + 0.55]
    figure = style.new_figure(options.width, sum(heights))
    *upper, lower = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    if curved:
        _draw_curves(upper[0], curved, shown)
    _draw_misfits(lower, every)
    style.add_legend(figure, _legend(every))
    return figure


def _draw_curves(place: SubFigure, curved: Sequence[Sweep], shown: Mapping[str, str]) -> None:
    """Quantities above the first sweep, its label at the left of each, and the decay under the lowest panels."""
    grid = place.subplots(len(curved), len(shown), squeeze=False, sharex=True)
    for sweep, panels in zip(curved, grid):
        for axes, quantity in zip(panels, shown):
            _draw_quantity(axes, sweep, quantity)
        panels[0].set_ylabel(style.wrapped(sweep.label, 18), size=style.SMALL)
    _scale_decays(grid[0, 0], np.unique(np.concatenate([sweep.rows["decay"] for sweep in curved])))
    for first, last, title in zip(grid[0], grid[-1], shown.values()):
        first.set_title(title, loc="left", pad=4)
        last.set_xlabel("weight decay")


# --- what is drawn --------------------------------------------------------------------------------


def sweeps(tables: Tables) -> list[Sweep]:
    """The sweeps in the order of ``runs``, seeds merged."""
    signatures = matched_signatures(tables)
    if signatures.empty:
        return []
    by_run = dict(zip(tables["runs"]["run_id"], tables["runs"]["label"]))
    by_sweep = signatures.groupby("sweep", sort=False)["run_id"]
    names = {sweep: style.shared_words([by_run[run] for run in ids.unique()]) for sweep, ids in by_sweep}
    signatures, values = (t.assign(name=t["sweep"].map(names)) for t in (signatures, misfit_values(tables)))
    named = dict(zip(signatures["run_id"], signatures["name"]))
    order = [name for name in dict.fromkeys(map(named.get, by_run)) if name]
    return [Sweep(n, _long(signatures[signatures["name"] == n]), values[values["name"] == n]) for n in order]


def _long(signatures: pd.DataFrame) -> pd.DataFrame:
    """Distances of models and guess from the networks, and the networks' scatter, of which all predict none."""
    rows: list[tuple[Any, ...]] = []
    for (_, seed, matched), fits in signatures.groupby(["sweep", "seed", "matched"], dropna=False, sort=False):
        misfits = misfit([*fits["predicted"]], [*fits["measured"]], fits["classifier"].iloc[0])
        for source, distances in ((matched, misfits.model), ("guess", misfits.guess)):
            for name in set(PANELS) & distances.keys():
                of = "measured" if name == "scatter" else source
                rows += [(decay, seed, of, name, value) for decay, value in zip(fits["decay"], distances[name])]
    return pd.DataFrame(rows, columns=["decay", "seed", "source", "quantity", "value"])


# --- drawing --------------------------------------------------------------------------------------


def _draw_quantity(axes: Axes, sweep: Sweep, quantity: str) -> None:
    rows = sweep.rows[sweep.rows["quantity"] == quantity]
    guess = Band.of(rows[rows["source"] == "guess"], "decay")
    axes.plot(guess.x, guess.middle, color=GUESS_COLOUR, linewidth=GUESS_WIDTH)
    for source, (_, look) in MODELS.items():
        Band.of(rows[rows["source"] == source], "decay").draw(axes, look)
    band = Band.of(rows[rows["source"] == "measured"], "decay")
    if len(band):  # an empty line that is not clipped has no finite extent, and breaks the layout
        axes.vlines(band.x, band.low, band.high, color="black", linewidth=0.8, zorder=4)
        axes.plot(band.x, band.middle, "o", color="black", ms=3, clip_on=False, zorder=4)
    scale_values(axes, "y", [rows["value"]])
    if rows.empty:
        axes.text(
            0.5, 0.5, "not predicted", transform=axes.transAxes, ha="center", color=style.GREY, size=style.SMALL
        )


def _scale_decays(axes: Axes, decays: NDArray[np.float64]) -> None:
    """A logarithmic axis, which all panels share, with at most three of the weight decays as its ticks."""
    axes.set_xscale("log")
    low, high = decays[0], decays[-1]
    room = (high / low) ** 0.08 if high > low else 2
    axes.set_xlim(low / room, high * room)
    place_ticks(axes.xaxis, {decay: f"{decay:g}" for decay in evenly(list(decays), 3)}, list(decays))


def _draw_misfits(place: SubFigure, every: Sequence[Sweep]) -> None:
    """Mean error over seeds with Student's interval, a line for each sweep, and the guess's as a grey bar."""
    axes = place.subplots()
    kinds = _kinds(every)
    shifts = np.linspace(-0.16, 0.16, len(kinds)) if len(kinds) > 1 else [0.0]
    tops = []
    for line, sweep in enumerate(every):
        for shift, model in zip(shifts, kinds):
            of_model = sweep.misfits[sweep.misfits["matched"] == model]
            if of_model.empty:
                continue
            look, guess = MODELS[model][1], float(of_model["guess_error"].mean())
            axes.vlines(guess, line + shift - 0.16, line + shift + 0.16, color=GUESS_COLOUR, linewidth=GUESS_WIDTH)
            mean, ends = float(of_model["error"].mean()), draw_seeds(axes, of_model["error"], line + shift, look, 3.5)
            tops += [mean, guess, *(min(end, 2 * mean) for end in ends)]  # of two seeds it may be far out
    axes.set(ylim=(len(every) - 0.5, -0.5), xlim=(0, 1.08 * max(tops, default=0) or 1), xlabel="error (0: right)")
    axes.set_yticks(range(len(every)), [sweep.label for sweep in every])
    axes.tick_params(axis="y", length=0)


def _kinds(every: Sequence[Sweep]) -> list[str]:
    """The models of the sweeps."""
    drawn = {kind for sweep in every for kind in sweep.misfits["matched"]}
    return [kind for kind in MODELS if kind in drawn]


def _legend(every: Sequence[Sweep]) -> Iterator[Artist]:
    yield style.mark_handle("network", "o", "black")
    for label, look in (MODELS[kind] for kind in _kinds(every)):
        yield Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, label=label)
    yield Line2D([], [], color=GUESS_COLOUR, linewidth=GUESS_WIDTH, label="guess")


def caption(tables: Tables, options: FigureOptions) -> str:
    every, nets = sweeps(tables), networks(tables)
    shown = matched_signatures(tables)["run_id"].nunique()
    more = f" Shown are the first {MOST_LABELS} of {len(every)} sweeps." if len(every) > MOST_LABELS else ""
    left = len(nets) - shown
    without = f" Left out: {plural(left, 'network')} with training error or without a match." if left else ""
    return (
        f"Predictions of UFMs for {plural(shown, 'network')} of {plural(len(every), 'sweep')} of weight decay:"
        " Frobenius distances of the predicted from the measured Grams of the classifier, of class means (uncentred)"
        " and, where the model has them, of those one layer below, each of unit norm, and the share of variance"
        " within classes, of the first sweeps of several weight decays where there is room. Medians over seeds with"
        " their range. Grey: the guess, an orthogonal frame, for the classifier a simplex ETF with a bias or cross"
        " entropy. Bottom: the error, root mean square of the distances that a model has, mean over seeds with"
        " Student's 95 % interval, and the seeds as ticks."
        f"{more}{without}"
    )
