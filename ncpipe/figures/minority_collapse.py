"""Figure: lengths of class means and classifier rows of UFMs with classes of different size, beside the theorem."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncpipe.claims.dang2024 import Array, Optimum, optima
from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading, scale_values
from ncpipe.figures.drawing.captions import lost
from ncpipe.figures.drawing.runs import Tables
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import plural

KINDS = ("declared",)
HEIGHT = 2.0
CURVE = 400
"""Points of the theorem's line."""


def applies(study: Study) -> bool:
    """Whether non-negative features of classes of different size are fitted by cross entropy."""
    problems = (spec.model for spec in study.problems.values())
    return any(p.nonnegative and p.loss == "ce" and not p.balanced for p in problems)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    fits = [optimum for _, optimum in optima(tables)]
    if not fits:
        return style.empty_figure(options.width, "minority_collapse: no UFM of the theorem that reached its optimum")
    figure = style.new_figure(options.width, HEIGHT)
    left, right = figure.subplots(1, 2)
    ratios = sorted({_ratio(optimum) for optimum in fits})
    colours = list(style.OKABE_ITO.values())
    looks = {
        r: Look(colours[i % len(colours)], "-", style.MARKERS[i % len(style.MARKERS)]) for i, r in enumerate(ratios)
    }
    _draw(left, fits, looks, lambda optimum: _margins(np.diag(optimum.means_reached), optimum))
    low, high = left.get_xlim()
    grid = np.geomspace(low, high, CURVE)
    for K in sorted({len(optimum.counts) for optimum in fits}):
        left.plot(grid, np.log(np.maximum(K * np.sqrt(grid) - (K - 1), 1)), color=style.GREY, linewidth=0.9, zorder=1)
    heading(left, "class means", r"$|h_k|^2$ as margin $M_k$; line: theorem")
    _draw(right, fits, looks, lambda optimum: _row_lengths(optimum.weights_reached))
    for optimum in fits:
        x, y = optimum.counts / optimum.threshold, _row_lengths(optimum.weights)
        right.plot(x, y, color=style.GREY, linewidth=0.6, zorder=1)
    heading(right, "classifier rows", "length over the longest; lines: theorem")
    named = {f"sizes 1 : {ratio:g}" if ratio > 1 else "one size": look for ratio, look in looks.items()}
    style.add_legend(figure, [style.mark_handle(label, look.marker, look.colour) for label, look in named.items()])
    return figure


def _ratio(optimum: Optimum) -> float:
    return float(optimum.counts.max() / optimum.counts.min())


def _margins(squares: Array, optimum: Optimum) -> Array:
    """|h_k|^2 in units of what the theorem multiplies M_k with."""
    return squares / optimum.unit


def _row_lengths(gram: Array) -> Array:
    lengths = np.sqrt(np.diag(gram))
    return lengths / (lengths.max() or 1.0)


def _draw(axes: Axes, fits: list[Optimum], looks: dict[float, Look], of: Callable[[Optimum], Array]) -> None:
    for optimum in fits:
        look = looks[_ratio(optimum)]
        x = optimum.counts / optimum.threshold
        axes.plot(x, of(optimum), look.marker, color=look.colour, ms=3, mew=0, zorder=3)
    scale_values(axes, "x", [optimum.counts / optimum.threshold for optimum in fits])
    axes.axvline(1, color=style.GREY, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
    axes.set_xlabel(r"samples of the class $n_k$ / threshold")


def caption(tables: Tables, options: FigureOptions) -> str:
    count = len(list(optima(tables)))
    return (
        f"Classes of {plural(count, 'UFM')} with non-negative features and cross entropy that L-BFGS took to the"
        " optimum, a point each, against the samples n_k of the class over N^2 lW lH K/(K-1), from which down the"
        " theorem of Dang et al. 2024 has a class mean of zero. Left: squared length of the class mean in units of"
        " sqrt((K-1) lW / (K n_k lH)), which is the margin M_k of the theorem. Right: length of the classifier's row"
        " over the longest of its model; lines join what the theorem gives for the classes of a model. Colours:"
        f" samples of the smallest class to those of the largest.{lost(tables, 'declared')}"
    )
