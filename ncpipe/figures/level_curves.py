"""Figure: within-class variability at several depths over training, beside the levels of the ReLU extended UFM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import mark_times, scale_time
from ncpipe.figures.drawing.captions import counted, lost
from ncpipe.figures.drawing.definitions import definition, title
from ncpipe.figures.drawing.panels import Panel, draw_panels
from ncpipe.figures.drawing.runs import Tables, declared_ufms, evenly, labels, networks, zero_error_epochs
from ncpipe.figures.drawing.series import Band, at_shared_times, labels_with_value, last_time, measured
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions
from ncpipe.system.words import plural

USUAL = ("nc1_pinv",)
MOST_LABELS, MOST_LEVELS = 6, 5
PANEL_WIDTH, ROW_HEIGHT = 1.6, 1.75
SHADES = mpl.colormaps["YlGnBu"]
LIGHTEST, DARKEST = 0.32, 1.0
UFM_LEVELS = {"H1": "$H_1$", "features": r"$\mathrm{relu}(W_1H_1)$"}
"""Measured layers of the extended UFM that stand for layers of a network, and their names."""


@dataclass
class LevelPanel(Panel):
    """Curves of the layers that are drawn, in the order of their depth; the kind is the unit of time."""

    names: Mapping[str, str] = field(default_factory=dict)
    zero_error: float | None = None
    looks: dict[str, Look] = field(default_factory=dict, init=False)

    def draw(self, axes: Axes) -> None:
        levels = self.rows.sort_values("depth")["layer"].drop_duplicates()
        shades = [mpl.colors.to_hex(SHADES(x)) for x in np.linspace(LIGHTEST, DARKEST, len(levels))]
        self.looks = {layer: Look(shade, "-", "o") for layer, shade in zip(levels, shades)}
        for layer, look in self.looks.items():
            band = Band.of(at_shared_times(self.rows[self.rows["layer"] == layer]))
            band.draw(axes, look)
            self.bands.append(band)
        scale_time(axes, last_time(self.rows))
        mark_times(axes, [] if self.zero_error is None else [(self.zero_error, style.GREY)])

    def name_curves(self, axes: Axes) -> None:
        """Layers at the ends of their lines."""
        drawn = [(band, layer, look) for band, (layer, look) in zip(self.bands, self.looks.items()) if len(band)]
        ends = [(*band.end, self.names.get(layer, layer), look.colour) for band, layer, look in drawn]
        style.name_lines([(axes, ends)], ROW_HEIGHT - 0.7)

    def name_axes(self, axes: Axes, leftmost: bool, scaled: bool, width: float) -> None:
        axes.set_title(style.wrapped(self.label, int(15 * width) - 4), loc="left", pad=4)
        axes.set_xlabel(self.kind)
        if leftmost:
            axes.set_ylabel(f"{title(self.metric)}\n{definition(self.metric)}")


def draw(tables: Tables, options: FigureOptions) -> Figure:
    panels = list(_panels(tables, options))
    if not panels:
        return style.empty_figure(options.width, "level_curves: no measured network and no ReLU extended UFM")
    columns = style.columns_for(len(panels), options.width, PANEL_WIDTH)
    figure, grid = draw_panels(panels, options.width, columns, ROW_HEIGHT)
    for axes, panel in zip(grid, panels):
        panel.name_curves(axes)
    if any(panel.zero_error is not None for panel in panels):
        style.add_legend(figure, [style.mark_handle("zero training error", "^")])
    return figure


def _panels(tables: Tables, options: FigureOptions) -> Iterator[LevelPanel]:
    """For one metric after the other the networks' labels, then those of the UFMs."""
    nets, ufms = networks(tables), _extended_ufms(tables)
    metrics = options.metrics or USUAL
    of_nets = measured(tables, nets, metrics, options.split, layer=None)
    of_ufms = measured(tables, ufms, metrics, layer=list(UFM_LEVELS))
    zero_error = zero_error_epochs(nets)
    for metric in metrics:
        net_rows, ufm_rows = (rows[rows["metric"] == metric] for rows in (of_nets, of_ufms))
        for label in varied(nets, labels_with_value(net_rows, nets))[:MOST_LABELS]:
            rows = spread_levels(net_rows[net_rows["label"] == label])
            yield LevelPanel(label, metric, "epoch", rows, {}, zero_error.get(label))
        for label in labels_with_value(ufm_rows, ufms):
            rows, name = ufm_rows[ufm_rows["label"] == label], "UFM " + style.without_solver(label)
            yield LevelPanel(name, metric, "iteration", rows, UFM_LEVELS)


def _extended_ufms(tables: Tables) -> pd.DataFrame:
    return declared_ufms(tables, "gradient_descent").query("model == 'extended' and activation == 'relu'")


def varied(nets: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The labels, one of every data set, model, loss and bias first: a sweep of other settings comes after."""
    kinds = nets.drop_duplicates("label").set_index("label")[["dataset", "model", "loss", "bias"]].loc[list(names)]
    place = kinds.groupby(list(kinds), dropna=False).cumcount()
    return [str(name) for name in place.sort_values(kind="stable").index]


def spread_levels(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of at most ``MOST_LEVELS`` depths, spread evenly, the first and the last among them."""
    return rows[rows["depth"].isin(evenly(sorted(rows["depth"].unique()), MOST_LEVELS))]


def caption(tables: Tables, options: FigureOptions) -> str:
    metrics = " and ".join(options.metrics or USUAL)
    nets, ufms = networks(tables), _extended_ufms(tables)
    names = len(labels(nets))
    more = f" Shown are {MOST_LABELS} of {names} labels." if names > MOST_LABELS else ""
    levels = f"the two feature levels of {plural(len(ufms), 'ReLU extended UFM')} by gradient descent over iterations"
    return (
        f"{metrics} over training at up to {MOST_LEVELS} layers from the first (light) to the last features (dark),"
        f" {options.split} split, of {counted(nets, 'network')}{', beside ' + levels if len(ufms) else ''}."
        " Medians over seeds with their range; a triangle marks the first epoch without training error."
        " Time axes are logarithmic with a place for 0."
        f" Networks share one y axis, UFMs another.{more}"
        f"{lost(tables, 'network', 'declared')}"
    )
