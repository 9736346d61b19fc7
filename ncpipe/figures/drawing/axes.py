"""Axes: decades with a place for zero, times that start at 0, headings that name and define a metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from ncpipe.figures.drawing.definitions import at_other_frame, definition, title
from ncpipe.figures.drawing.style import GREY, HALO, SMALL

SMALLEST = 1e-32
"""Smaller values are drawn between here and zero."""
STEPS = (1, 2, 3, 5, 10, 20, 50, 100)
"""Decades between two labelled ticks."""
LOG_FROM = 15.0
"""Ratio of the largest to the smallest positive value from which an axis is logarithmic."""


def scale_values(axes: Axes, which: Literal["x", "y"], values: Iterable[ArrayLike]) -> None:
    """Scale an axis for non-negative values: by decades where they span decades, else linear from zero.

    Among decades zero keeps a place and tick of its own, one step below the smallest decade.
    """
    flat = np.concatenate([np.ravel(np.asarray(v, dtype=float)) for v in values] or [np.zeros(0)])
    flat = flat[np.isfinite(flat)]
    positive = flat[flat > 0]
    axis = axes.xaxis if which == "x" else axes.yaxis
    limits, scale = (axes.set_xlim, axes.set_xscale) if which == "x" else (axes.set_ylim, axes.set_yscale)
    if len(positive) == 0 or positive.max() < LOG_FROM * positive.min():
        limits(0, 1.08 * positive.max() if positive.max(initial=0) > SMALLEST else 1)
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        return
    low, high = max(positive.min(), SMALLEST), positive.max()
    floored = bool((flat < low).any())
    if floored:
        threshold = 10.0 ** math.floor(math.log10(low))
        scale("symlog", linthresh=threshold, linscale=_zero_room(threshold, high))
        limits(0, high * (high / threshold) ** 0.04)
    else:
        scale("log")
        limits(low**1.04 / high**0.04, high**1.04 / low**0.04)
    _decade_ticks(axis, low, high, floored)


def _zero_room(threshold: float, high: float) -> float:
    """Room between zero and the smallest decade, in decades (matplotlib draws linscale / 0.9 of them)."""
    return max(0.5, 0.09 * math.log10(high / threshold))


def _decade_ticks(axis: Axis, low: float, high: float, zero: bool, most: int = 5) -> None:
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    exponents = range(first if zero else math.ceil(math.log10(low) - 1e-9), last + 1)
    if math.log10(high / low) < 2:
        ticks = [
            m * 10.0**e for e in range(first, last + 1) for m in (1, 3) if low * 0.9 <= m * 10.0**e <= high * 1.1
        ]
        minor: list[float] = []
    else:
        step = next(s for s in STEPS if s * most >= len(exponents))
        ticks = [10.0**e for e in exponents if e % step == 0]
        minor = [10.0**e for e in exponents] if step > 1 else _between(exponents)
        # The room for zero holds one label only.
        ticks = [t for t in ticks if not zero or len(exponents) < 4 or t > 10.0 ** (first + step / 3)]
    place_ticks(axis, _decade_texts([0.0] * zero + ticks), minor)


def place_ticks(axis: Axis, texts: Mapping[float, str], minor: Sequence[float] = ()) -> None:
    """Ticks at these places with these texts, and small ones without."""
    axis.set_major_locator(FixedLocator([*texts]))
    axis.set_major_formatter(FixedFormatter([*texts.values()]))
    axis.set_minor_locator(FixedLocator(minor))
    axis.set_minor_formatter(NullFormatter())


def _between(exponents: range) -> list[float]:
    return [m * 10.0**e for e in exponents for m in range(2, 10)]


def _decade_texts(ticks: Sequence[float]) -> dict[float, str]:
    """Plain numbers where all are short, else powers of ten, and 0."""
    if all(tick == 0 or 1e-3 * 0.99 < tick < 1e3 * 1.01 for tick in ticks):
        return {tick: f"{tick:g}" for tick in ticks}
    return {tick: _power(tick) if tick else "0" for tick in ticks}


def _power(tick: float) -> str:
    exponent = math.floor(math.log10(tick) + 1e-9)
    factor = round(tick / 10.0**exponent)
    return f"$10^{{{exponent}}}$" if factor == 1 else f"${factor}\\!\\times\\!10^{{{exponent}}}$"


def scale_time(axes: Axes, last: float, most: int = 4) -> None:
    """Epochs or iterations on x: 0 has its own place, then decades from 1, of which at most so many are labelled."""
    last = max(last, 1.0)
    axes.set_xscale("symlog", linthresh=1.0, linscale=_zero_room(1.0, last))
    axes.set_xlim(0, last * max(last, 10) ** 0.04)
    decades = range(math.floor(math.log10(last)) + 1)
    step = next(s for s in STEPS if s * most >= len(decades))
    # The 1 stands close to the 0: it is left out where labels are sparse.
    ticks = [10.0**e for e in decades if e % step == 0 and (e > 0 or step == 1)]
    minor = _between(decades) if len(decades) < 4 else [10.0**e for e in decades]
    place_ticks(axes.xaxis, _decade_texts([0.0, *ticks]), minor)


def heading(axes: Axes, name: str, about: str | None = None) -> None:
    """What the y axis shows, and what it is about underneath: of a metric or history quantity its definition."""
    name, about = (title(name), definition(name)) if about is None else (name, about)
    axes.set_title(name, loc="left", pad=12 if about else 3)
    note = axes.annotate(
        about, (0, 1), xytext=(0, 3), xycoords="axes fraction", textcoords="offset points", color=GREY, size=SMALL
    )
    note.set_in_layout(False)  # its height is in the title's pad; its width may pass the panel


def draw_other_frames(axes: Axes, metric: str, classes: pd.Series) -> list[float]:
    """The values of a distance to one exact frame at the other, by number of classes, dashed and named."""
    values = {k: value for k in sorted(set(classes.dropna())) if (value := at_other_frame(metric, k)) is not None}
    for k, value in values.items():
        axes.axhline(value, color=GREY, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
        axes.annotate(
            f"{'ETF' if metric.endswith('_of') else 'OF'}, K = {k:.0f}", (0, value), (2, -1),
            ("axes fraction", "data"), "offset points", color=GREY, size=SMALL, va="top", path_effects=HALO,
        )  # fmt: skip
    return [*values.values()]


def mark_times(axes: Axes, times: Iterable[tuple[float, str]]) -> None:
    """Small triangles on the x axis: (time, colour)."""
    for time, colour in times:
        axes.plot(
            time, 0, marker="^", ms=4, color=colour, mec="white", mew=0.4, clip_on=False, zorder=5,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
