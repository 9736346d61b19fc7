"""Figure: a collapse metric over depth and epochs as a heat map, a panel for every network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Stroke, withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from ncpipe.figures.collapse_depth import whole_rows
from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import LOG_FROM, SMALLEST, scale_time
from ncpipe.figures.drawing.captions import counted, lost
from ncpipe.figures.drawing.definitions import definition, title
from ncpipe.figures.drawing.runs import Tables, networks, zero_error_epochs
from ncpipe.figures.drawing.series import at_shared_times, labels_with_value, measured
from ncpipe.figures.level_curves import varied
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study

KINDS = ("network",)
USUAL = ("nc1_pinv",)
MOST_LABELS = 12
PANEL_WIDTH, ROW_HEIGHT = 1.6, 1.45
COLOURS = mpl.colormaps["viridis"].with_extremes(under="black", bad="#DDDDDD")
MARK = (0, (3, 1.5))
HALO = [Stroke(linewidth=2.2, foreground="white"), withStroke(linewidth=0)]


@dataclass(frozen=True)
class Panel:
    """Medians over the seeds of one label: rows are depths, columns measured epochs."""

    label: str
    medians: pd.DataFrame
    last_layer: str
    zero_error: float | None

    def draw(self, axes: Axes, norm: Normalize) -> Any:
        times, depths = self.medians.columns.to_numpy(float), self.medians.index.to_numpy(float)
        scale_time(axes, times[-1])
        values = np.ma.masked_invalid(self.medians.to_numpy(float))
        if isinstance(norm, LogNorm):  # what is below the scale has its colour; zero would have none
            values = np.ma.maximum(values, float(norm.vmin or SMALLEST) / 2)
        mesh = axes.pcolormesh(_edges(axes, times), _depth_edges(depths), values, norm=norm, cmap=COLOURS)
        axes.set_xlim(times[0], times[-1])
        if self.zero_error is not None:
            axes.axvline(self.zero_error, color="black", linewidth=1.0, linestyle=MARK, path_effects=HALO)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True) if len(depths) > 6 else FixedLocator(list(depths)))
        return mesh


def applies(study: Study) -> bool:
    """Whether there are networks."""
    return bool(study.networks)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    metrics = options.metrics or USUAL
    by_metric = {metric: list(_panels(tables, metric, options.split)) for metric in metrics}
    by_metric = {metric: panels for metric, panels in by_metric.items() if panels}
    if not by_metric:
        return style.empty_figure(options.width, f"collapse_map: no network with {metrics[0]} at two epochs or more")
    counts, columns = {len(panels) for panels in by_metric.values()}, max(1, int(options.width / PANEL_WIDTH))
    if len(counts) == 1:
        columns = whole_rows(counts.pop(), columns)
    heights = [ROW_HEIGHT * -(-len(panels) // columns) for panels in by_metric.values()]
    figure = style.new_figure(options.width, sum(heights))
    parts = figure.subfigures(len(by_metric), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (metric, panels) in zip(parts, by_metric.items()):
        _draw_metric(part, metric, panels, columns, int(14 * options.width / columns) - 3)
    if any(panel.zero_error is not None for panels in by_metric.values() for panel in panels):
        line = Line2D([], [], color="black", linewidth=1.0, linestyle=MARK, label="zero training error")
        style.add_legend(figure, [line])
    return figure


def _panels(tables: Tables, metric: str, split: str) -> Iterator[Panel]:
    nets = networks(tables)
    rows = at_shared_times(measured(tables, nets, [metric], split, layer=None))
    zero_error = zero_error_epochs(nets)
    for label in varied(nets, labels_with_value(rows, nets, times=2))[:MOST_LABELS]:
        of_label = rows[rows["label"] == label]
        medians = of_label.pivot_table(index="depth", columns="time", values="value", aggfunc="median", dropna=False)
        last = of_label.loc[of_label["depth"] == of_label["depth"].max(), "layer"].iloc[0]
        yield Panel(label, medians, str(last), zero_error.get(label))


def _draw_metric(figure: Any, metric: str, panels: Sequence[Panel], columns: int, letters: int) -> None:
    norm, mesh = _norm(panels), None
    grid = style.panel_grid(figure, len(panels), columns)
    for number, (axes, panel) in enumerate(zip(grid, panels)):
        mesh = panel.draw(axes, norm)
        axes.set_title(style.wrapped(panel.label, letters), loc="left", pad=3)
        axes.set_ylabel(f"layer ({panel.medians.index[-1]} = {panel.last_layer})", size=style.SMALL)
        if number + columns >= len(panels):
            axes.set_xlabel("epoch")
    below = isinstance(norm, LogNorm) and any((p.medians.to_numpy(float) < norm.vmin).any() for p in panels)
    shrink, extend = min(1.0, 1.6 * columns / len(panels)), "min" if below else "neither"
    bar = figure.colorbar(mesh, ax=grid, extend=extend, aspect=25, pad=0.015, shrink=shrink)
    bar.outline.set_linewidth(0.4)
    bar.set_label(f"{title(metric)}\n{definition(metric)}")


def _norm(panels: Sequence[Panel]) -> Normalize:
    """One scale for all panels: by decades for values that are not negative and span them, else linear."""
    values = np.concatenate([panel.medians.to_numpy(float).ravel() for panel in panels])
    values = values[np.isfinite(values)]
    positive = values[values > SMALLEST]
    if len(positive) and values.min() >= 0 and positive.max() >= LOG_FROM * positive.min():
        return LogNorm(positive.min(), positive.max())
    low, high = values.min(), values.max()
    return Normalize(low, high if high > low else low + 1)


def _edges(axes: Axes, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cells meet halfway between two measured epochs, as the axis shows it."""
    scale = axes.xaxis.get_transform()
    places = scale.transform(times)
    return np.concatenate([times[:1], scale.inverted().transform((places[1:] + places[:-1]) / 2), times[-1:]])


def _depth_edges(depths: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = (depths[1:] + depths[:-1]) / 2
    return np.concatenate([[depths[0] - 0.5], middle, [depths[-1] + 0.5]])


def caption(tables: Tables, options: FigureOptions) -> str:
    nets, metrics = networks(tables), options.metrics or USUAL
    rows = at_shared_times(measured(tables, nets, metrics, options.split, layer=None))
    names = labels_with_value(rows, nets, times=2)
    more = f" Shown are {MOST_LABELS} of {len(names)} labels." if len(names) > MOST_LABELS else ""
    return (
        f"{' and '.join(metrics)} over depth, from the first measured layer (bottom) to the last features (top), and"
        f" epochs, {options.split} split, of {counted(nets, 'network')}: medians over seeds, all panels of a metric"
        " in one colour scale. A cell stands for a measured epoch and reaches halfway to the next one; time axes are"
        " logarithmic with a place for 0. The dashed line is the median first epoch without training error."
        f"{more}{lost(tables, 'network')}"
    )
