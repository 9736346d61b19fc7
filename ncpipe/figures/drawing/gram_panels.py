"""Panels that show a Gram matrix: colours around zero, shared by the figures that have such panels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from ncpipe.figures.drawing.style import GREY, SMALL

COLOURS = mpl.colormaps["RdBu_r"].with_extremes(bad="#DDDDDD")


def unit_gram(values: Any) -> NDArray[np.float64] | None:
    """A Gram, K x K or its entries row by row, as a matrix of unit norm; None where it is zero or unknown."""
    gram = np.asarray([] if values is None else values, dtype=float).ravel()
    norm = float(np.linalg.norm(gram))
    size = round(len(gram) ** 0.5)
    return gram.reshape(size, size) / norm if np.isfinite(norm) and norm > 0 else None


def colour_limit(classes: Iterable[int]) -> float:
    """Where colours of sqrt(K) G saturate: for ten classes at half the diagonal of an exact OF, for more classes
    lower, so that the off-diagonal of an ETF, -1/sqrt(K(K-1)), shows."""
    return min(0.5, 5 / max(classes, default=10))


def draw_gram(axes: Axes, gram: NDArray[np.float64] | None, absent: str, limit: float) -> AxesImage | None:
    """A Gram of unit norm times sqrt(K), so that the diagonal of an OF is 1; ``absent`` in its place without one."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, linewidth=0.4)
    if gram is None:
        axes.set_box_aspect(1)
        axes.text(0.5, 0.5, absent, transform=axes.transAxes, ha="center", va="center", color=GREY, size=SMALL)
        return None
    return axes.imshow(gram * len(gram) ** 0.5, cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")


def add_gram_bar(figure: Any, image: AxesImage, panels: list[Axes], limit: float, shrink: float) -> None:
    """The colour bar at the right of these panels."""
    bar = figure.colorbar(image, ax=panels, extend="both", aspect=30, pad=0.02, shrink=shrink)
    bar.outline.set_linewidth(0.4)
    bar.set_ticks([-limit, 0, limit])
    bar.set_label(r"$\sqrt{K}\,G\,/\,\Vert G\Vert_F$", size=SMALL, labelpad=1)
