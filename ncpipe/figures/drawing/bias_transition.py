"""Panel of ``ufm_phase``: from simplex ETF to orthogonal frame as the penalty of the bias goes from 0 to infinity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ncpipe.figures.drawing.axes import place_ticks
from ncpipe.figures.drawing.style import GREY, OKABE_ITO, SMALL, mark_handle
from ncpipe.records.reading import Frames, rows_of
from ncpipe.ufm.misfit import frames_apart
from ncpipe.ufm.settings import UfmSpec

if TYPE_CHECKING:
    from torch import Tensor

    from ncpipe.ufm import Problem

Array = NDArray[np.float64]

OF, ETF = OKABE_ITO["blue"], OKABE_ITO["vermillion"]
DISTANCES = {"nc2_means_of": OF, "nc2_means_uncentred_etf": ETF, "nc2_weights_of": OF, "nc2_weights_etf": ETF}
"""Metric and colour; of the class means, then of the weights."""
MEANS_MARK, WEIGHTS_MARK = "o", "s"
ENDS: tuple[Literal["free"], Literal["none"]] = ("free", "none")
POINTS = 160
OPTIMUM = OKABE_ITO["sky"]


@dataclass(frozen=True)
class BiasAxis:
    """A logarithmic axis of penalties, with a place for 0 on its left and for infinity on its right."""

    low: float
    high: float

    @classmethod
    def of(cls, penalties: pd.Series) -> BiasAxis:
        """``penalties``: as the ``bias`` column has them, of which some are numbers."""
        numbers = pd.to_numeric(penalties, errors="coerce").dropna()
        return cls(float(numbers.min()), float(numbers.max()))

    @property
    def gap(self) -> float:
        """Factor between the outermost penalty and 0 or infinity."""
        return float(10 ** (0.3 + 0.12 * math.log10(self.high / self.low)))

    def places(self, penalties: pd.Series) -> Array:
        """Where penalties, 'free' and 'none' stand."""
        ends = {"free": self.low / self.gap, "none": self.high * self.gap}
        return np.array([ends[bias] if bias in ends else float(bias) for bias in penalties])

    def grid(self, room: float) -> Array:
        """Penalties close together, beyond the outermost by a factor."""
        return np.geomspace(self.low / room, self.high * room, POINTS)

    def scale(self, axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_xlim(self.low / self.gap**1.45, self.high * self.gap**1.45)
        exponents = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
        decades = [10.0**e for e in exponents][:: max(1, len(exponents) // 3)]
        ends = self.places(pd.Series(ENDS))
        place_ticks(axes.xaxis, {ends[0]: "0", **{x: f"{x:g}" for x in decades}, ends[1]: "∞"})


def draw_transition(upper: Axes, lower: Axes, axis: BiasAxis, fits: pd.DataFrame, tables: Frames) -> None:
    """Distances to both frames against the penalty, and the objective: lines of the closed form; and the distances
    that were reached.

    Args:
        upper: for the distances.
        lower: for the objective.
        axis: of the penalties.
        fits: rows of ``ufm`` of one model, with the ``settings`` of ``runs``.
        tables: of the study.
    """
    _draw_closed_form(upper, lower, axis, UfmSpec.model_validate_json(fits["settings"].iloc[0]))
    _draw_reached(upper, axis, fits, tables)
    largest = frames_apart(float(fits["classes"].iloc[0]))
    upper.set(ylabel="Gram distance", ylim=(-0.03 * largest, 1.25 * largest))
    lower.set(xlabel="penalty of the bias", ylabel="objective")
    upper.yaxis.set_major_locator(MaxNLocator(4))
    lower.yaxis.set_major_locator(MaxNLocator(3))
    axis.scale(upper)


def _draw_reached(axes: Axes, axis: BiasAxis, fits: pd.DataFrame, tables: Frames) -> None:
    columns = ["run_id", "metric", "time", "value"]
    rows = rows_of(tables, "collapse", columns, layer="features", metric=DISTANCES, run_id=set(fits["run_id"]))
    ends = rows.sort_values("time").groupby(["run_id", "metric"])["value"].last().unstack()
    reached = ends.reindex(index=fits["run_id"], columns=list(DISTANCES))
    x = axis.places(fits["bias"])
    for name, colour in DISTANCES.items():
        there = reached[name].notna().to_numpy()
        if not there.any():
            continue
        means = name.startswith("nc2_means")
        marker, size, face = (MEANS_MARK, 2.2, colour) if means else (WEIGHTS_MARK, 5, "none")
        axes.plot(
            x[there], reached[name][there], marker, color=colour, mfc=face, ms=size, mew=0.7, clip_on=False, zorder=4
        )


def _draw_closed_form(upper: Axes, lower: Axes, axis: BiasAxis, spec: UfmSpec) -> None:
    from ncpipe.ufm import (
        NoClosedForm,
        Problem,  # with torch, which the other figures do without
    )

    problem, room = Problem(**spec.declared()), axis.gap**0.4
    try:
        rows = [closed_form(replace(problem, bias=float(penalty))) for penalty in axis.grid(room)]
        ends = {end: closed_form(replace(problem, bias=end)) for end in ENDS}
    except NoClosedForm:
        upper.text(0.03, 0.95, "no closed form", transform=upper.transAxes, va="top", color=GREY)
        return
    pieces = [(axis.grid(room), np.array(rows))]
    for place, row in zip(axis.places(pd.Series(ENDS)), ends.values()):
        pieces.append((np.array([place / room, place * room]), np.array([row, row])))
    for x, values in pieces:
        lower.plot(x, values[:, 0], color=OPTIMUM, linewidth=1.6)
        for number, colour in enumerate(DISTANCES.values()):
            # Dashed, so that weights show where they are not as the means.
            style: Any = "-" if number < 2 else (0, (2, 2))
            upper.plot(x, values[:, 1 + number], color=colour, linewidth=1.1, linestyle=style, zorder=2)
    _mark_regimes((upper, lower), regime_change(problem, axis.low, axis.high))


def _mark_regimes(panels: Sequence[Axes], border: float | None) -> None:
    if border is None:
        return
    for axes in panels:
        axes.axvline(border, color="black", linewidth=0.9, linestyle=":", zorder=1)
    for text, side, shift in (("exact ETF", "right", -3), ("between", "left", 3)):
        panels[0].annotate(
            text, (border, 1), (shift, -1), ("data", "axes fraction"), "offset points", ha=side, va="top", size=SMALL,
            color=GREY,
        )  # fmt: skip


def closed_form(problem: Problem) -> list[float]:
    """Objective and, in the order of ``DISTANCES``, distances at the optimum; NaN where it has no frame.

    Raises:
        NoClosedForm: with the reason.
    """
    from ncpipe.collapse.frames import frame_distance, orthogonal_frame_gram, simplex_etf_gram

    optimum = problem.optimum()
    frames = (orthogonal_frame_gram(problem.classes), simplex_etf_gram(problem.classes))
    grams: list[Tensor | None] = [optimum.grams().get("features"), optimum.weights_gram()]
    distances = [math.nan if gram is None else frame_distance(gram, frame) for gram in grams for frame in frames]
    return [optimum.value, *distances]


def regime_change(problem: Problem, low: float, high: float) -> float | None:
    """The bias penalty from which on the fit takes part of the mean, by bisection; None where it is not between."""

    def takes_part(penalty: float) -> bool:
        return problem.classes == replace(problem, bias=penalty).optimum().rank

    if takes_part(low) or not takes_part(high):
        return None
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if takes_part(middle) else (middle, high)
    return high


def transition_handles() -> Iterator[Artist]:
    """Handles of the legend."""
    yield Line2D([], [], color=OF, linewidth=1.1, label="distance to OF")
    yield Line2D([], [], color=ETF, linewidth=1.1, label="distance to ETF")
    yield mark_handle("class means", MEANS_MARK)
    yield mark_handle("classifier weights", WEIGHTS_MARK, filled=False)


TRANSITION = (
    " Over the penalty of a bias, from free (0) to no bias (∞): distances of the uncentred class means and of the"
    " classifier weights to both frames, lines from the closed form and marks as reached, and the objective. Left of"
    " the dotted line the bias takes the whole mean and the frame is an exact ETF."
)
"""For the caption."""
