"""Figure: gap, within-class variability, frames and duality of the declared UFMs under gradient descent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading, scale_time, scale_values
from ncpipe.figures.drawing.captions import counted, lost, not_drawn
from ncpipe.figures.drawing.runs import Tables, declared_ufms, few, labels
from ncpipe.figures.drawing.series import Band, at_shared_times, extremes, histories, last_time, measured
from ncpipe.figures.drawing.style import Look
from ncpipe.records.reading import fits_of
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import listed
from ncpipe.ufm.misfit import frames_apart

KINDS = ("declared",)
COLUMN_WIDTH, ROW_HEIGHT, LOW, HEAD = 1.45, 1.05, 0.74, 0.45
"""Inches of a column, which is one label; of a row where the labels have one block of rows, and where they have two,
which fill a page; and over a block."""
OF, FIRST = (Look(style.OKABE_ITO[name], "-", "o") for name in ("blue", "green"))
ETF = Look(style.OKABE_ITO["vermillion"], (0, (4, 1.5)), "o")  # dashed: the two distances may be equal
NEUTRAL = Look("black", "-", "o")


@dataclass(frozen=True)
class Curve:
    """A metric of a layer, or a quantity of the history (layer None), and how it is drawn."""

    name: str
    layer: str | None
    look: Look


@dataclass(frozen=True)
class Row:
    """A row of panels: a title and its curves; frames have a predicted limit for the other frame."""

    title: str
    curves: tuple[Curve, ...]
    frames: bool = False
    about: str = ""
    """Definition of what is drawn; empty: that of the metric in the title."""


def _of_and_etf(title: str, of: str, etf: str, about: str, frames: bool) -> Row:
    return Row(title, (Curve(of, "features", OF), Curve(etf, "features", ETF)), frames, about)


USUAL = (
    Row("gap", (Curve("gap", None, NEUTRAL),)),
    Row("nc1_pinv", (Curve("nc1_pinv", "H1", FIRST), Curve("nc1_pinv", "features", NEUTRAL))),
    _of_and_etf(
        "class means", "nc2_means_of", "nc2_means_uncentred_etf", "uncentred means to OF, to ETF", frames=True
    ),
    _of_and_etf("classifier", "nc2_weights_of", "nc2_weights_etf", r"$WW^\top$ to OF, to ETF", frames=True),
    _of_and_etf("product", "nc3_of", "nc3_etf", r"$W\bar M^\top$ to OF, $WM^\top$ to ETF", frames=False),
)


def applies(study: Study) -> bool:
    """Whether there are UFMs for solver gradient_descent."""
    return any(spec.solver.name == "gradient_descent" for spec in study.problems.values())


def draw(tables: Tables, options: FigureOptions) -> Figure:
    rows = USUAL if options.metrics is None else tuple(_row(metric) for metric in options.metrics)
    source = _Source(tables, {curve.name for row in rows for curve in row.curves}, most_labels(options.width))
    if not source.labels:
        return style.empty_figure(options.width, "ufm_trajectories: no UFM by gradient descent")
    columns = style.columns_for(len(source.labels), options.width, COLUMN_WIDTH)
    blocks = -(-len(source.labels) // columns)
    figure = style.new_figure(options.width, blocks * ((LOW if blocks > 1 else ROW_HEIGHT) * len(rows) + HEAD))
    grid = figure.subplots(blocks * len(rows), columns, squeeze=False)
    for line, row in enumerate(rows * blocks):
        chosen = source.labels[line // len(rows) * columns :][:columns]
        _draw_row(grid[line], row, chosen, source)
    by_label = grid.reshape(blocks, len(rows), columns).transpose(0, 2, 1).reshape(-1, len(rows))
    for panels, label in zip(by_label, source.labels):
        _name_column(panels, label, int(13 * options.width / columns))
    for axes in by_label[len(source.labels) :].flat:
        axes.remove()
    style.add_legend(figure, _legend(rows))
    return figure


def most_labels(width: float) -> int:
    """Labels for which a page has room: two blocks."""
    return 2 * int(width / COLUMN_WIDTH)


class _Source:
    """The series of the declared UFMs by label, and where L-BFGS ends for the same problem."""

    def __init__(self, tables: Tables, names: Set[str], most: int) -> None:
        descent, lbfgs = few(declared_ufms(tables, "gradient_descent"), most), declared_ufms(tables, "lbfgs")
        lbfgs = lbfgs[lbfgs["label"].map(style.without_solver).isin(descent["label"].map(style.without_solver))]
        self.measured = measured(tables, descent, names | {"nc1_pinv"}, layer=None)  # that every measured one has
        self.history = histories(tables, descent, names)
        self.labels = [name for name in labels(descent) if (self.measured["label"] == name).any()]
        self.final = measured(tables, lbfgs, names, layer=None)
        self.final_gap = fits_of(tables, run_id=set(lbfgs["run_id"])).merge(lbfgs[["run_id", "label"]], on="run_id")
        self.classes = dict(zip(descent["label"], descent["classes"]))

    def band(self, label: str, curve: Curve) -> Band:
        rows = self._named(self.history if curve.layer is None else self.measured, curve)
        rows = rows[rows["label"] == label]
        if curve.name == "gap":  # rounding takes the gap below zero
            rows = rows.assign(value=rows["value"].clip(lower=0))
        return Band.of(at_shared_times(rows))

    def lbfgs(self, label: str, curve: Curve) -> float:
        """Median final value by L-BFGS of the same problem; NaN where there is none."""
        if curve.layer is None:
            if curve.name != "gap":
                return float("nan")
            rows = self.final_gap.assign(value=self.final_gap["gap"].clip(lower=0))
        else:
            rows = self._named(self.final, curve)
        same = rows["label"].map(style.without_solver) == style.without_solver(label)
        return float(rows.loc[same, "value"].median()) if same.any() else float("nan")

    @staticmethod
    def _named(rows: pd.DataFrame, curve: Curve) -> pd.DataFrame:
        if curve.layer is None:
            return rows[rows["quantity"] == curve.name]
        return rows[(rows["metric"] == curve.name) & (rows["layer"] == curve.layer)]


def _row(metric: str) -> Row:
    for row in USUAL:
        if metric in [curve.name for curve in row.curves] and len({c.name for c in row.curves}) == 1:
            return row
    return Row(metric, (Curve(metric, "features", NEUTRAL),))


def _draw_row(panels: Sequence[Axes], row: Row, chosen: Sequence[str], source: _Source) -> None:
    drawn: list[Band] = []
    values: list[float] = []
    for axes, label in zip(panels, chosen):
        by_curve = {curve: source.band(label, curve) for curve in row.curves}
        for curve, band in by_curve.items():
            if len(band):
                band.draw(axes, curve.look)
        drawn += by_curve.values()
        scale_time(axes, last_time(source.measured))
        ends = [(source.lbfgs(label, curve), curve.look.colour) for curve in row.curves]
        _draw_limits(axes, row, source.classes[label], ends)
        values += [value for value, _ in ends]
        if not any(map(len, by_curve.values())):
            absent = "no closed form" if row.curves[0].layer is None else "undefined"
            axes.text(0.5, 0.7, absent, transform=axes.transAxes, ha="center", color=style.GREY)
    for axes in panels[: len(chosen)]:
        scale_values(axes, "y", [*extremes(drawn), values])
    for axes in panels[1 : len(chosen)]:
        axes.tick_params(labelleft=False)
    heading(panels[0], row.title, row.about or None)


def _draw_limits(axes: Axes, row: Row, classes: float, ends: Sequence[tuple[float, str]]) -> None:
    """The predicted distance of one exact frame to the other, and the end of L-BFGS at the right edge."""
    if row.frames:
        axes.axhline(frames_apart(classes), color=style.GREY, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
    for value, colour in ends:
        axes.plot(
            1, value, "<", color=colour, ms=4, mew=0, clip_on=False, zorder=5, transform=axes.get_yaxis_transform()
        )


def _name_column(panels: NDArray, label: str, letters: int) -> None:
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    panels[-1].set_xlabel("iteration")
    name = style.wrapped(style.without_solver(label), letters)
    panels[0].annotate(name, (0, 1), (0, 20), "axes fraction", textcoords="offset points", weight="bold")


def _legend(rows: Sequence[Row]) -> Iterator[Line2D]:
    curves = [curve for row in rows for curve in row.curves]
    if any(curve.layer == "H1" for curve in curves):
        yield style.line_handle("gap; last features", NEUTRAL)
        yield style.line_handle("first features H1", FIRST)
    if any(curve.look is OF for curve in curves):
        yield style.line_handle("distance to OF", OF)
        yield style.line_handle("distance to ETF", ETF)
    if any(row.frames for row in rows):
        yield Line2D([], [], color=style.GREY, linewidth=0.7, linestyle=(0, (4, 2)), label="OF to ETF, exact")
    yield style.mark_handle("end of L-BFGS", "<")


def caption(tables: Tables, options: FigureOptions) -> str:
    ufms = declared_ufms(tables, "gradient_descent")
    usual = (
        "objective above the closed-form optimum, NC1, distances of uncentred class means, of weights and of their"
        " product to the OF and the ETF"
    )
    shown = listed(options.metrics) if options.metrics else usual
    return (
        f"{counted(ufms, 'UFM')} under plain gradient descent: {shown}, against iterations (logarithmic, with a place"
        " for 0). Medians over seeds with their range. Grey: the distance of"
        " one exact frame to the other, to which the distance of the frame that is not approached tends; triangles at"
        " the right edge are the ends of L-BFGS on the same problem."
        f"{not_drawn(ufms, most=most_labels(options.width))}{lost(tables, 'declared')}"
    )
