"""Figure: how often random starts reach the optimum of UFMs, against the width and around the threshold of zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading, place_ticks, scale_values
from ncpipe.figures.drawing.captions import lost
from ncpipe.figures.drawing.runs import Tables, declared_ufms
from ncpipe.figures.drawing.series import Band
from ncpipe.figures.drawing.style import Look
from ncpipe.records.reading import fits_of, unconstrained
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import plural

KINDS = ("declared",)
LEAST_WIDTH, HEIGHT = 1.55, 1.75
LEAST_PENALTIES = 3
MODEL = ["depth", "classes", "activation"]
"""What makes a model; a problem has its penalties besides."""
ZERO = 0.5
"""Objective of the zero solution: squared error, no bias."""


@dataclass(frozen=True)
class Family:
    """Fits of one model over several widths, or over several penalties."""

    label: str
    look: Look
    fits: pd.DataFrame


@dataclass(frozen=True)
class Panel:
    """A column of the fits against another, for every family."""

    title: str
    about: str
    x: str
    y: str
    families: Sequence[Family]
    line: str | None = None
    """Column that the line shows where it is not the median of ``y``."""

    def draw(self, axes: Axes) -> None:
        for family in self.families:
            self._draw_family(axes, family)
        heading(axes, self.title, self.about)
        (_width_axis if self.x == "dim" else _penalty_axis)(
            axes, np.concatenate([family.fits[self.x] for family in self.families])
        )
        if self.y == "dead_directions":
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        else:
            axes.set_ylim(0, 1.04)

    def _band(self, family: Family) -> Band:
        rows = pd.DataFrame({"x": family.fits[self.x], "value": family.fits[self.line or self.y]}, dtype=float)
        return Band.of(rows, "x")

    def ends(self) -> list[style.End]:
        """Where the families' lines end."""
        return [(*band.end, f.label, f.look.colour) for f in self.families if len(band := self._band(f))]

    def _draw_family(self, axes: Axes, family: Family) -> None:
        """The median with its range, or the line beside the values of every fit."""
        shown = self._band(family)
        shown.draw(axes, family.look)
        x, y = (family.fits[self.x], family.fits[self.y]) if self.line else (shown.x, shown.middle)
        look = family.look
        axes.plot(x, y, look.marker, color=look.colour, ms=2.8, mew=0, clip_on=False, zorder=4)


def _width_axis(axes: Axes, values: np.ndarray) -> None:
    axes.set_xlabel("width $d$")
    axes.set_xscale("log")
    ticks = sorted(set(values))
    place_ticks(axes.xaxis, {tick: f"{tick:g}" for tick in ticks[:: -(-len(ticks) // 6)]})
    axes.set_xlim(ticks[0] / 1.12, ticks[-1] * 1.12)


def _penalty_axis(axes: Axes, values: np.ndarray) -> None:
    axes.set_xlabel("penalties / threshold")
    scale_values(axes, "x", [values])
    axes.axvline(1, color=style.GREY, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)


def applies(study: Study) -> bool:
    """Whether two widths of one problem with two weight layers or more are solved by L-BFGS."""
    widths: dict[str, set[Any]] = {}
    for spec in study.problems.values():
        if spec.solver.name == "lbfgs" and spec.model.depth > 1:
            widths.setdefault(spec.model_dump_json(exclude={"seed", "dim"}), set()).add(spec.dim)
    return any(len(different) > 1 for different in widths.values())


def draw(tables: Tables, options: FigureOptions) -> Figure:
    panels = _panels(_fits(tables))
    if not panels:
        return style.empty_figure(options.width, "ufm_success: no UFM by L-BFGS over two widths or three penalties")
    columns = style.columns_for(len(panels), options.width, LEAST_WIDTH)
    figure, grid = style.panel_figure(options.width, len(panels), columns, HEIGHT)
    for axes, panel in zip(grid, panels):
        panel.draw(axes)
    if not style.name_lines([(axes, panel.ends()) for axes, panel in zip(grid, panels)], HEIGHT - 0.7):
        looks = {family.label: family.look for panel in panels for family in panel.families}
        style.add_legend(figure, [style.line_handle(label, look) for label, look in looks.items()])
    return figure


def _panels(fits: pd.DataFrame) -> list[Panel]:
    """Dead directions have a panel where some start that was the best one left any."""
    widths, penalties = list(_over_widths(fits)), list(_over_penalties(fits))
    panels = []
    if widths:
        panels.append(Panel("success", "of random starts", "dim", "success_fraction", widths))
    if any(family.fits["dead_directions"].gt(0).any() for family in widths):
        panels.append(Panel("dead directions", "of the best start", "dim", "dead_directions", widths))
    if penalties:
        panels.append(Panel("success", "where zero is not optimal", "excess", "success_below", penalties))
        about = "1 − f/f(0); line: optimum"
        panels.append(Panel("gain over zero", about, "excess", "gain", penalties, line="best_gain"))
    return panels


def _fits(tables: Tables) -> pd.DataFrame:
    """Fits of UFMs with squared error by L-BFGS that have a threshold of zero: with ``excess``, penalties over it."""
    runs = declared_ufms(tables, "lbfgs").reindex(columns=["run_id", "depth"])
    fits = (
        unconstrained(fits_of(tables, kind="declared"))
        .merge(runs, on="run_id")
        .dropna(subset=["zero_threshold", "success_fraction", "depth"])
    )
    finite = np.isfinite(fits["zero_threshold"].astype(float))
    fits = fits[finite & (fits["loss"] == "mse") & (fits["bias"] == "none")]
    excess = (1 / fits["zero_threshold"].astype(float)).map("{:.9g}".format).astype(float)
    gains = {name: 1 - fits[of] / ZERO for name, of in (("gain", "value"), ("best_gain", "optimum"))}
    success = fits["success_fraction"].mask(fits["optimum_is_zero"].astype(bool))
    return fits.assign(excess=excess, success_below=success, **gains).sort_values("depth", kind="stable")


def _over_widths(fits: pd.DataFrame) -> Iterator[Family]:
    """Problems of two widths or more of which zero is no optimum."""
    live = fits[~fits["optimum_is_zero"].astype(bool)]
    sweeps = [(k, g) for k, g in live.groupby([*MODEL, "excess"], sort=False) if g["dim"].nunique() > 1]
    for (*model, excess), group in sweeps:
        same = [other for (*other_model, other), _ in sweeps if other_model == model]
        note = f", {excess:.2g} of the threshold" if len(same) > 1 else ""
        yield Family(_name(model, fits) + note, _look(model, fits, same.index(excess)), group)


def _over_penalties(fits: pd.DataFrame) -> Iterator[Family]:
    """Models of three penalties or more at one width: the width that has the most of them."""
    for model, group in fits.groupby(MODEL, sort=False):
        penalties = group.groupby("dim")["excess"].nunique()
        if penalties.max() >= LEAST_PENALTIES:
            at_width = group[group["dim"] == penalties.idxmax()]
            yield Family(_name(list(model), fits), _look(list(model), fits), at_width)


def _name(model: Sequence[Any], fits: pd.DataFrame) -> str:
    """'L = 3', and whatever else tells the models of the study apart."""
    words = {"classes": "K = {:.0f}", "activation": "{}"}
    named = dict(zip(MODEL, model))
    rest = [text.format(named[key]) for key, text in words.items() if fits[key].nunique() > 1]
    return ", ".join([f"L = {named['depth']:.0f}", *rest])


def _look(model: Sequence[Any], fits: pd.DataFrame, number: int = 0) -> Look:
    """A colour for every model, a line and a marker for every problem of it."""
    models = [list(key) for key in fits[MODEL].drop_duplicates().itertuples(index=False, name=None)]
    colours = list(style.OKABE_ITO.values())
    kind = number % len(style.LINE_STYLES)
    return Look(colours[models.index(list(model)) % len(colours)], style.LINE_STYLES[kind], style.MARKERS[kind])


def caption(tables: Tables, options: FigureOptions) -> str:
    fits = _fits(tables)
    shown = pd.concat([fits.head(0), *(f.fits for panel in _panels(fits) for f in panel.families)])
    starts = shown["starts"].dropna().unique()
    each = f", {starts[0]:.0f} random starts each" if len(starts) == 1 else ""
    return (
        f"{plural(shown['run_id'].nunique(), 'UFM')} without bias by L-BFGS{each}; L is the number of weight layers."
        " Success: the fraction of starts within 1e-8, relative, of the best known value, against the width, and at"
        " one width against the penalties over those from which on zero is optimal. Gain: how far the objective is"
        " below that of the zero solution, 1/2; lines are the closed-form optimum, points the best start of a fit."
        f" Medians and ranges over {plural(shown['seed'].nunique(), 'seed')}.{lost(tables, 'declared')}"
    )
