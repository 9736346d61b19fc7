"""Figure: a metric against the depth of the layer, at three times of the run; of L-BFGS at its end alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ncpipe.figures.drawing.axes import scale_values
from ncpipe.figures.drawing.definitions import definition
from ncpipe.figures.drawing.series import (
    Band,
    Tables,
    counted,
    declared_ufms,
    extremes,
    few,
    labels,
    lost,
    measured,
    networks,
    not_drawn,
    plural,
)
from ncpipe.figures.drawing.style import (
    Look,
    add_legend,
    empty_figure,
    looks,
    mark_handle,
    new_figure,
    without_solver,
    wrapped,
)
from ncpipe.records.reading import fits_of
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study

USUAL = ("nc1_pinv",)
PANEL_WIDTH, ROW_HEIGHT = 1.3, 1.7
LETTERS_THAT_FIT = 19
"""Letters that layer names on one axis may have together, two of each counted for the gap beside it."""
LETTERS_UPRIGHT = 28
"""Letters of a definition in words, in one line beside a panel."""
NAMES_THAT_STAND = 12
"""Names of UFM levels that fit one axis upright."""


NEUTRAL = Look("black", "-", "o")
"""Look in panels in which several labels are one."""


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
        """Rows of every stage; of runs with one measured time the last alone."""
        run, by_run = self.rows["run_id"], self.rows.groupby("run_id")["time"]
        since = self.rows[self.rows["time"] >= run.map(self.zero_error).astype(float)]
        several = by_run.nunique() > 1
        first, perfect = by_run.min()[several], since.groupby("run_id")["time"].min()
        for times in (first, perfect[perfect.index.isin(first.index)], by_run.max()):
            yield self.rows[self.rows["time"] == run.map(times)]

    def alike(self, other: Panel) -> bool:
        """Whether the two share a y axis."""
        return (self.group, self.metric) == (other.group, other.metric)

    def name_axes(self, axes: Axes, leftmost: bool, letters: int) -> None:
        names = self.rows.drop_duplicates("depth").set_index("depth")["layer"].astype("str").sort_index()
        kind, label = ("", self.label) if self.group == "network" else ("UFM ", without_solver(self.label))
        if self.group == "optimum":
            label = model_of(self.label)
        axes.set_title(wrapped(kind + label, letters), loc="left", pad=4)
        axes.set_xlabel(f"layer\n({names.index[-1]} = features)")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        fits = names.map(len).sum() + 2 * len(names) <= LETTERS_THAT_FIT
        if fits or (self.group != "network" and len(names) <= NAMES_THAT_STAND):
            axes.set_xticks(list(names.index), list(names), rotation=0 if fits else 90)
            axes.set_xlabel("layer\n" if fits else "layer")
        axes.margins(x=0.1)
        axes.tick_params(labelleft=leftmost)
        if leftmost:
            about = definition(self.metric)
            axes.set_ylabel(f"{self.metric}\n{about if '$' in about else wrapped(about, LETTERS_UPRIGHT)}")


def applies(study: Study) -> bool:
    return bool(study.networks)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    panels = list(_panels(tables, options))
    if not panels:
        return empty_figure(options.width, "collapse_depth: no measured network and no ReLU UFM")
    look = looks(tables["runs"])
    counts = set(Counter(panel.metric for panel in panels).values())
    columns = whole_rows(counts.pop() if len(counts) == 1 else len(panels), max(1, int(options.width / PANEL_WIDTH)))
    lines = -(-len(panels) // columns)
    figure = new_figure(options.width, ROW_HEIGHT * lines)
    grid = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for number, (axes, panel) in enumerate(zip(grid, panels)):
        panel.draw(axes, NEUTRAL if panel.group == "optimum" else look[panel.label])
        first = number % columns == 0 or not panels[number - 1].alike(panel)
        panel.name_axes(axes, first, int(16 * options.width / columns) - 3)
    for axes in grid[len(panels) :]:
        axes.remove()
    _scale_groups(grid, panels)
    stages = STAGES if any(panel.group != "optimum" for panel in panels) else STAGES[-1:]
    add_legend(figure, (mark_handle(s.name, s.marker, "black", s.filled, s.line) for s in stages))
    return figure


def whole_rows(panels: int, most: int) -> int:
    """Columns, at most so many, by which the panels of every metric fill whole rows; ``most`` where none do."""
    return max((columns for columns in range(2, most + 1) if panels % columns == 0), default=min(panels, most))


def _panels(tables: Tables, options: FigureOptions) -> Iterator[Panel]:
    """Every network label, then the ReLU UFMs, for one metric after the other."""
    nets, ufms = networks(tables), _descents(tables)
    kinds: tuple[tuple[str, pd.DataFrame, str, dict[str, float]], ...] = (
        ("network", few(nets), options.split, dict(zip(nets["run_id"], nets["zero_error_epoch"]))),
        ("descent", few(ufms), "train", _first_perfect(tables, ufms)),
        ("optimum", _optima(tables), "train", {}),
    )
    for metric in options.metrics or USUAL:
        for kind, runs, split, zero_error in kinds:
            rows = measured(tables, runs, [metric], split, layer=None)
            models = rows["label"].map(model_of if kind == "optimum" else str)
            for _, own in rows.groupby(models, sort=False):
                if own["value"].notna().any():
                    yield Panel(str(own["label"].iloc[0]), metric, kind, own, zero_error)


def _descents(tables: Tables) -> pd.DataFrame:
    return declared_ufms(tables, "gradient_descent").query("activation == 'relu'")


def _optima(tables: Tables) -> pd.DataFrame:
    """ReLU UFMs that L-BFGS took to an optimum other than zero, and no gradient descent was set on."""
    runs, own = declared_ufms(tables, "lbfgs").query("activation == 'relu'"), fits_of(tables, kind="declared")
    descended = set(map(without_solver, labels(_descents(tables))))
    other = own.loc[own["missed"].eq(True) | own["optimum_is_zero"].eq(True), "run_id"]
    return runs[~runs["run_id"].isin(other) & ~runs["label"].map(without_solver).isin(descended)]


def model_of(label: str) -> str:
    """A UFM's label up to its solver: without the settings that vary within a model, as width and penalties."""
    return label.partition(" (L-BFGS)")[0]


def _first_perfect(tables: Tables, ufms: pd.DataFrame) -> dict[str, float]:
    """First measured iteration at which a UFM classifies every sample."""
    rows = measured(tables, ufms, ["accuracy"]).query("value >= 1")
    return {str(run): float(time) for run, time in rows.groupby("run_id")["time"].min().items()}


def _scale_groups(grid: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """One y scale for all networks and one for the UFMs of a solver: their values are decades apart."""
    for axes, panel in zip(grid, panels):
        alike = [band for other in panels if other.alike(panel) for band in other.bands]
        scale_values(axes, "y", extremes(alike))


def caption(tables: Tables, options: FigureOptions) -> str:
    nets, ufms, optima = networks(tables), _descents(tables), _optima(tables)
    of = [f"of {counted(nets, 'network')}"] * bool(len(nets))
    if len(ufms):
        of.append(f"of the feature levels of {plural(len(ufms), 'ReLU extended UFM')}")
    timed = ": at the start, at the first measured time without training error, and at the end." * bool(of)
    if len(optima):
        of.append(
            f"of {plural(len(optima), 'ReLU UFM')} that L-BFGS took to the optimum, at its end alone, in one panel"
            " for all widths and penalties of a model"
        )
    return (
        f"{' and '.join(options.metrics or USUAL)} against the depth of the layer, {options.split} split,"
        f" {', and '.join(of)}{timed or '.'} Medians and ranges over seeds."
        " Networks share one y axis, the UFMs of a solver another."
        f"{not_drawn(nets, ufms)}{lost(tables, 'network', 'network')}{lost(tables, 'declared', 'UFM')}"
    )
