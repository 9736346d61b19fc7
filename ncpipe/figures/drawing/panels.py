"""Panels row by row, a label and metric each; those of a kind and metric share their y axis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import scale_values
from ncpipe.figures.drawing.series import Band, extremes


@dataclass
class Panel(ABC):
    """The rows of one label and metric, and the bands drawn from them."""

    label: str
    metric: str
    kind: str
    rows: pd.DataFrame
    bands: list[Band] = field(default_factory=list, init=False)

    @abstractmethod
    def draw(self, axes: Axes) -> None:
        """Draw the rows, and keep the bands."""

    @abstractmethod
    def name_axes(self, axes: Axes, leftmost: bool, scaled: bool, width: float) -> None:
        """Title and names of the axes; ``scaled`` panels bear numbers at the y axis; ``width`` in inches."""

    def alike(self, other: Panel) -> bool:
        """Whether the two share a y axis."""
        return (self.kind, self.metric) == (other.kind, other.metric)


def draw_panels(panels: Sequence[Panel], width: float, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels, so many in a row of so many inches of height."""
    figure, grid = style.panel_figure(width, len(panels), columns, height)
    for number, (axes, panel) in enumerate(zip(grid, panels)):
        panel.draw(axes)
        leftmost = number % columns == 0
        scaled = leftmost or not panels[number - 1].alike(panel)
        axes.tick_params(labelleft=scaled)
        panel.name_axes(axes, leftmost, scaled, width / columns)
    for axes, panel in zip(grid, panels):
        scale_values(axes, "y", extremes([band for other in panels if other.alike(panel) for band in other.bands]))
    return figure, grid
