"""Figure: within-class variability against the depth of the layer, at three times of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ncpipe.figures.axes import scale_values
from ncpipe.figures.definitions import DEFINITIONS
from ncpipe.figures.series import (
    Band,
    Tables,
    counted,
    declared_ufms,
    extremes,
    labels,
    lost,
    measured,
    networks,
    plural,
)
from ncpipe.figures.style import (
    Look,
    add_legend,
    empty_figure,
    looks,
    mark_handle,
    new_figure,
    without_solver,
    wrapped,
)
from ncpipe.study.spec import FigureOptions

USUAL = ("nc1_pinv",)
PANEL_WIDTH, ROW_HEIGHT = 1.3, 1.55
NAMES_THAT_FIT = 16
"""Letters that layer names on one axis may have together."""


@dataclass(frozen=True)
class Stage:
    """A time of a run that is drawn, and how."""

    name: str
    marker: str
    filled: bool
    line: str


STAGES = (
    Stage("initialisation", "o", False, ":"),
    Stage("zero training error", "s", False, "--"),
    Stage("last measured", "o", True, "-"),
)


@dataclass
class Panel:
    """One label and metric: rows of all layers and times, and the bands drawn from them."""

    label: str
    metric: str
    group: str
    rows: pd.DataFrame
    zero_error: Mapping[str, float]
    bands: list[Band] = field(default_factory=list)

    def draw(self, axes: Axes, look: Look) -> None:
        for stage, rows in zip(STAGES, self._at_stages()):
            band = Band.of(rows, "depth")
            face = look.colour if stage.filled else "white"
            axes.fill_between(band.x, band.low, band.high, color=look.colour, alpha=0.15, linewidth=0)
            axes.plot(band.x, band.middle, color=look.colour, ls=stage.line, marker=stage.marker, mfc=face, mew=0.8)
            self.bands.append(band)

    def _at_stages(self) -> Iterator[pd.DataFrame]:
        run, by_run = self.rows["run_id"], self.rows.groupby("run_id")["time"]
        since = self.rows[self.rows["time"] >= run.map(self.zero_error).astype(float)]
        for times in (by_run.min(), since.groupby("run_id")["time"].min(), by_run.max()):
            yield self.rows[self.rows["time"] == run.map(times)]

    def alike(self, other: Panel) -> bool:
        """Whether the two share a y axis."""
        return (self.group, self.metric) == (other.group, other.metric)

    def name_axes(self, axes: Axes, leftmost: bool, letters: int) -> None:
        names = self.rows.drop_duplicates("depth").set_index("depth")["layer"].sort_index()
        kind = "UFM " if self.group == "ufm" else ""
        axes.set_title(wrapped(kind + without_solver(self.label), letters), loc="left", pad=4)
        axes.set_xlabel(f"layer\n({names.index[-1]} = features)")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if names.map(len).sum() <= NAMES_THAT_FIT:
            axes.set_xticks(list(names.index), list(names))
            axes.set_xlabel("layer\n")
        axes.margins(x=0.1)
        axes.tick_params(labelleft=leftmost)
        if leftmost:
            axes.set_ylabel(f"{self.metric}\n{DEFINITIONS.get(self.metric, '')}")


def draw(tables: Tables, options: FigureOptions) -> Figure:
    panels = list(_panels(tables, options))
    if not panels:
        return empty_figure(options.width, "collapse_depth: no measured network and no ReLU extended UFM")
    look = looks(tables["runs"])
    columns = max(1, min(len(panels), int(options.width / PANEL_WIDTH)))
    lines = -(-len(panels) // columns)
    figure = new_figure(options.width, ROW_HEIGHT * lines)
    grid = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for number, (axes, panel) in enumerate(zip(grid, panels)):
        panel.draw(axes, look[panel.label])
        first = number % columns == 0 or not panels[number - 1].alike(panel)
        panel.name_axes(axes, first, int(16 * options.width / columns) - 3)
    for axes in grid[len(panels) :]:
        axes.remove()
    _scale_groups(grid, panels)
    add_legend(figure, (mark_handle(s.name, s.marker, "black", s.filled, s.line) for s in STAGES))
    return figure


def _panels(tables: Tables, options: FigureOptions) -> Iterator[Panel]:
    """Every network label, then the ReLU extended UFMs, for one metric after the other."""
    nets, ufms = networks(tables), _relu_ufms(tables)
    kinds = (
        ("networks", nets, options.split, dict(zip(nets["run_id"], nets["zero_error_epoch"]))),
        ("ufm", ufms, "train", _first_perfect(tables, ufms)),
    )
    for metric in options.metrics or USUAL:
        for kind, runs, split, zero_error in kinds:
            rows = measured(tables, runs, split, layer=None).query("metric == @metric")
            for label in labels(runs):
                own = rows[rows["label"] == label]
                if own["value"].notna().any():
                    yield Panel(label, metric, kind, own, zero_error)


def _relu_ufms(tables: Tables) -> pd.DataFrame:
    return declared_ufms(tables, "gradient_descent").query("activation == 'relu'")


def _first_perfect(tables: Tables, ufms: pd.DataFrame) -> dict[str, float]:
    """First measured iteration at which a UFM classifies every sample."""
    rows = measured(tables, ufms).query("metric == 'accuracy' and value >= 1")
    return {str(run): float(time) for run, time in rows.groupby("run_id")["time"].min().items()}


def _scale_groups(grid: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """One y scale for all networks and one for all UFMs: their values are decades apart."""
    for axes, panel in zip(grid, panels):
        alike = [band for other in panels if other.alike(panel) for band in other.bands]
        scale_values(axes, "y", extremes(alike))


def caption(tables: Tables, options: FigureOptions) -> str:
    metrics = " and ".join(options.metrics or USUAL)
    nets, ufms = networks(tables), _relu_ufms(tables)
    return (
        f"{metrics} against the depth of the layer, {options.split} split, of {counted(nets, 'network')},"
        f" and against the feature levels of {plural(len(ufms), 'ReLU extended UFM')}: at the start,"
        " at the first measured time without training error, and at the end. Medians and ranges over seeds."
        " Networks share one y axis, UFMs another."
        f"{lost(tables, 'network', 'network')}{lost(tables, 'declared', 'UFM')}"
    )
