"""Figure: a metric against the depth of the layer, at three times of the run; of L-BFGS at its end alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.captions import counted, lost, not_drawn
from ncpipe.figures.drawing.definitions import definition, title
from ncpipe.figures.drawing.panels import Panel, draw_panels
from ncpipe.figures.drawing.runs import Tables, declared_ufms, few, labels, networks
from ncpipe.figures.drawing.series import Band, measured
from ncpipe.records.reading import fits_of
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import plural

USUAL = ("nc1_pinv",)
PANEL_WIDTH, ROW_HEIGHT = 1.3, 1.7
LETTERS_THAT_FIT = 19
"""Letters that layer names on one axis may have together, two of each counted for the gap beside it."""
LETTERS_UPRIGHT = 28
"""Letters of a definition in words, in one line beside a panel."""
NAMES_THAT_STAND = 12
"""Names of UFM levels that fit one axis upright."""


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
class DepthPanel(Panel):
    """Values of all layers at the stages of training."""

    colour: str
    zero_error: Mapping[str, float]

    def draw(self, axes: Axes) -> None:
        for stage, rows in zip(STAGES, self._at_stages()):
            band = Band.of(rows, "depth")
            face = self.colour if stage.filled else "white"
            axes.fill_between(band.x, band.low, band.high, color=self.colour, alpha=0.15, linewidth=0)
            axes.plot(band.x, band.middle, color=self.colour, ls=stage.line, marker=stage.marker, mfc=face, mew=0.8)
            self.bands.append(band)

    def _at_stages(self) -> Iterator[pd.DataFrame]:
        """Rows of every stage; of runs with one measured time the last alone."""
        run, by_run = self.rows["run_id"], self.rows.groupby("run_id")["time"]
        since = self.rows[self.rows["time"] >= run.map(self.zero_error).astype(float)]
        several = by_run.nunique() > 1
        first, perfect = by_run.min()[several], since.groupby("run_id")["time"].min()
        for times in (first, perfect[perfect.index.isin(first.index)], by_run.max()):
            yield self.rows[self.rows["time"] == run.map(times)]

    def name_axes(self, axes: Axes, leftmost: bool, scaled: bool, width: float) -> None:
        names = self.rows.drop_duplicates("depth").set_index("depth")["layer"].astype("str").sort_index()
        kind, label = ("", self.label) if self.kind == "network" else ("UFM ", style.without_solver(self.label))
        if self.kind == "optimum":
            label = model_of(self.label)
        axes.set_title(style.wrapped(kind + label, int(16 * width) - 5, rows=3), loc="left", pad=4)
        axes.set_xlabel(f"layer\n({names.index[-1]} = features)")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        fits = names.map(len).sum() + 2 * len(names) <= LETTERS_THAT_FIT
        if fits or (self.kind != "network" and len(names) <= NAMES_THAT_STAND):
            axes.set_xticks(list(names.index), list(names), rotation=0 if fits else 90)
            axes.set_xlabel("layer\n" if fits else "layer")
        axes.margins(x=0.1)
        if scaled:
            about = definition(self.metric)
            about = about if "$" in about else style.wrapped(about, LETTERS_UPRIGHT)
            axes.set_ylabel(f"{title(self.metric)}\n{about}")


def applies(study: Study) -> bool:
    """Whether there are networks."""
    return bool(study.networks)


def draw(tables: Tables, options: FigureOptions) -> Figure:
    panels = list(_panels(tables, options))
    if not panels:
        return style.empty_figure(options.width, "collapse_depth: no measured network and no ReLU UFM")
    counts = set(Counter(panel.metric for panel in panels).values())
    columns = whole_rows(counts.pop() if len(counts) == 1 else len(panels), int(options.width / PANEL_WIDTH))
    figure, _ = draw_panels(panels, options.width, columns, ROW_HEIGHT)
    stages = STAGES if any(panel.kind != "optimum" for panel in panels) else STAGES[-1:]
    style.add_legend(figure, (style.mark_handle(s.name, s.marker, "black", s.filled, s.line) for s in stages))
    return figure


def whole_rows(panels: int, most: int) -> int:
    """Columns, at most so many, by which the panels of every metric fill whole rows; where none do, the fewest that
    need no more rows."""
    most = max(1, most)
    return max((n for n in range(2, most + 1) if panels % n == 0), default=-(-panels // -(-panels // most)))


def _panels(tables: Tables, options: FigureOptions) -> Iterator[DepthPanel]:
    """Every network label, then the ReLU UFMs, for one metric after the other; black where several labels are one."""
    look = style.looks(tables["runs"])
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
            for _, shown in rows.groupby(models, sort=False):
                if shown["value"].notna().any():
                    label = str(shown["label"].iloc[0])
                    colour = "black" if kind == "optimum" else look[label].colour
                    yield DepthPanel(label, metric, kind, shown, colour, zero_error)


def _descents(tables: Tables) -> pd.DataFrame:
    return declared_ufms(tables, "gradient_descent").query("activation == 'relu'")


def _optima(tables: Tables) -> pd.DataFrame:
    """ReLU UFMs that L-BFGS took to an optimum other than zero, and no gradient descent was set on."""
    runs, fits = declared_ufms(tables, "lbfgs").query("activation == 'relu'"), fits_of(tables, kind="declared")
    descended = set(map(style.without_solver, labels(_descents(tables))))
    left_out = fits.loc[fits["missed"].eq(True) | fits["optimum_is_zero"].eq(True), "run_id"]
    return runs[~runs["run_id"].isin(left_out) & ~runs["label"].map(style.without_solver).isin(descended)]


def model_of(label: str) -> str:
    """A UFM's label up to its solver: without the settings that vary within a model, as width and penalties."""
    return label.partition(" (L-BFGS)")[0]


def _first_perfect(tables: Tables, ufms: pd.DataFrame) -> dict[str, float]:
    """First measured iteration at which a UFM classifies every sample."""
    rows = measured(tables, ufms, ["accuracy"]).query("value >= 1")
    return {str(run): float(time) for run, time in rows.groupby("run_id")["time"].min().items()}


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
        f"{not_drawn(nets, ufms)}{lost(tables, 'network', 'declared')}"
    )
