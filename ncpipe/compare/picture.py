"""The curves of two runs as one SVG, for the page."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ncpipe.compare.comparison import Comparison, Row
from ncpipe.figures.drawing.axes import heading, scale_time, scale_values
from ncpipe.figures.drawing.style import OKABE_ITO, Look, add_legend, fix_layout, line_handle, panel_figure, style

LOOKS = {"A": Look(OKABE_ITO["blue"], "-", "o"), "B": Look(OKABE_ITO["vermillion"], (0, (4, 1.5)), "s")}
COLUMNS, WIDTH, ROW_HEIGHT = 3, 6.4, 1.3


def curves_svg(comparison: Comparison) -> bytes:
    """Main metrics of the last features and quantities of the history against time, of both runs.

    Equal comparisons give equal bytes.
    """
    with style():
        curves = comparison.curves
        figure, grid = panel_figure(WIDTH, len(curves), COLUMNS, ROW_HEIGHT)
        for number, (axes, curve) in enumerate(zip(grid, curves)):
            _draw(axes, curve)
            if number + COLUMNS >= len(curves):  # the lowest of its column
                axes.set_xlabel(times(comparison))
        runs = {"A": comparison.a, "B": comparison.b}
        add_legend(figure, [line_handle(f"{side}: {run['run_id']}", LOOKS[side]) for side, run in runs.items()])
        fix_layout(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        return stream.getvalue()


def times(comparison: Comparison) -> str:
    """What the time axis counts."""
    units = ["epoch" if run["kind"] == "network" else "iteration" for run in (comparison.a, comparison.b)]
    return units[0] if units[0] == units[1] else f"{units[0]} (A), {units[1]} (B)"


def _draw(axes: Axes, curve: Row) -> None:
    points: dict[str, Sequence[tuple[float, float]]] = {"A": curve["a"], "B": curve["b"]}
    columns = {side: np.array(pairs, dtype=float).reshape(-1, 2).T for side, pairs in points.items()}
    for side, (x, y) in columns.items():
        look = LOOKS[side]
        axes.plot(x, y, color=look.colour, linestyle=look.line)
        if len(x) == 1:  # a solver of which only the end is kept
            axes.plot(x, y, look.marker, color=look.colour, clip_on=False, zorder=4)
    scale_time(axes, max(x.max(initial=1) for x, _ in columns.values()))
    scale_values(axes, "y", [y for _, y in columns.values()])
    heading(axes, curve["quantity"])
