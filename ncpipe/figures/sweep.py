"""Figure: where runs end, against one setting that the study varies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ncpipe.claims.evidence.selectors import flat_settings
from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import LOG_FROM, heading, place_ticks, scale_values
from ncpipe.figures.drawing.captions import counted, lost
from ncpipe.figures.drawing.definitions import definition, title
from ncpipe.figures.drawing.runs import MOST_LABELS, Tables, evenly
from ncpipe.figures.drawing.series import Band, extremes, measured
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions

KINDS = ("network",)
PANEL_WIDTH, ROW_HEIGHT = 1.25, 1.75
NAMES, NARROW, LETTERS = 1.5, 4.5, 27
"""Inches and letters in a row of the names of lines, and the width up to which these are in a legend."""
BESIDE = 0.5
"""Inches beside an axis."""
LEVEL = (0, (4, 2))
"""Dashes of what has no place on the axis."""
DODGE = 0.3
"""Width over which the lines stand side by side at a category."""


@dataclass(frozen=True)
class Scale:
    """The horizontal axis: numbers where they are, other values side by side in the order of the study."""

    values: tuple[Any, ...]
    """The different values, without null; numbers ascending."""

    @classmethod
    def of(cls, column: pd.Series) -> Scale:
        values = [value for value in column if value is not None]
        scale = cls(tuple({_text(value): value for value in values}.values()))
        return cls(tuple(sorted(scale.values))) if scale.numeric else scale

    @property
    def numeric(self) -> bool:
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    @property
    def logarithmic(self) -> bool:
        """Positive values whose ratios are more alike than their differences, or that span decades."""
        values = np.array(self.values, float)
        if len(values) < 2 or values[0] <= 0:
            return False
        return bool(values[-1] >= LOG_FROM * values[0] or _unevenness(np.log(values)) < _unevenness(values) - 1e-9)

    def place(self, value: Any) -> float:
        return float(value) if self.numeric else float([_text(v) for v in self.values].index(_text(value)))

    @property
    def inches(self) -> float:
        """Width that its labels need."""
        letters = 0 if self.numeric else max(len(part) for value in self.values for part in _text(value).split("_"))
        return style.LETTER * (letters + 2) * len(self.values)

    def draw(self, axes: Axes, name: str, inches: float) -> None:
        axes.set_xlabel(name.removesuffix(".name").rpartition(".")[2].replace("_", " "))
        if not self.numeric:
            longest = max(4, int(inches / style.LETTER / len(self.values)) - 1)
            axes.set_xticks(range(len(self.values)), [_broken(_text(value), longest) for value in self.values])
            axes.set_xlim(-0.5, len(self.values) - 0.5)
        elif min(self.values) == 0 and max(self.values) >= LOG_FROM * min(v for v in (*self.values, np.inf) if v > 0):
            scale_values(axes, "x", [np.array(self.values, float)])
        else:
            self._draw_numbers(axes, inches)

    def _draw_numbers(self, axes: Axes, inches: float) -> None:
        """Ticks at the values, as many as have room."""
        if self.logarithmic:
            axes.set_xscale("log")
        room = max(2, int(inches / style.LETTER / (max(len(_text(value)) for value in self.values) + 2)))
        step = -(-len(self.values) // room)
        place_ticks(axes.xaxis, {value: _text(value) for value in self.values[::-1][::step]})
        axes.margins(x=0.06)


@dataclass(frozen=True)
class Line:
    """Runs that differ in the setting on the axis and in their seed only."""

    name: str
    runs: pd.DataFrame
    """Rows of ``runs`` with their ``place`` on the axis; NaN where they are without the setting."""

    @property
    def is_level(self) -> bool:
        """The runs are without the setting."""
        return bool(self.runs["place"].isna().all())


def draw(tables: Tables, options: FigureOptions) -> Figure:
    runs = _runs(tables, options)
    panels = list(_panels(tables, runs, options))
    if not panels:
        reason = f"sweep: no run that ended well has the setting {options.over!r} and a metric to show"
        return style.empty_figure(options.width, reason)
    lines = evenly(_lines(runs, str(options.over)), MOST_LABELS)
    look = style.looks(pd.concat([line.runs.assign(label=line.name) for line in lines]))
    look |= {line.name: replace(look[line.name], line=LEVEL) for line in lines if line.is_level}
    scale = Scale.of(runs["over"])
    room = options.width - NAMES * (len(lines) > 1 and options.width > NARROW)
    columns = style.columns_for(len(panels), room, max(PANEL_WIDTH, BESIDE + scale.inches))
    figure, grid = style.panel_figure(options.width, len(panels), columns, ROW_HEIGHT)
    shared, ends = style.shared_words([line.name for line in lines]), []
    for axes, (name, about, values) in zip(grid, panels):
        of_lines = _draw_panel(axes, lines, values, scale, look)
        ends.append((axes, [(x, y, style.without_words(of, shared), colour) for x, y, of, colour in of_lines]))
        heading(axes, name, about)
        scale.draw(axes, str(options.over), room / columns - BESIDE)
    if shared:
        figure.suptitle(shared, x=0.01, ha="left", size=style.TEXT_SIZE)
    if room == options.width or not style.name_lines(ends[columns - 1 : columns], ROW_HEIGHT - 0.7, LETTERS):
        names = [line.name for line in lines if line.name != shared]
        style.add_legend(figure, [style.line_handle(style.without_words(name, shared), look[name]) for name in names])
    return figure


def _runs(tables: Tables, options: FigureOptions) -> pd.DataFrame:
    """Networks and UFMs that ended well and know the setting: its value ``over``, ``place``, and the text ``line`` of
    all other settings but the seed."""
    done = tables["runs"].query("status == 'done' and kind in ('network', 'declared')")
    trees, key = flat_settings(done), str(options.over)
    knows = [key in tree for tree in trees]
    having = [tree for tree in trees if key in tree]
    over = pd.Series([tree.pop(key) for tree in having], index=done.index[knows], dtype=object)
    scale = Scale.of(over)
    if not scale.values:
        return done.iloc[:0].assign(over=over.iloc[:0])
    same = {"seed", *_decided(having, over, key)}
    rest = [json.dumps({k: v for k, v in tree.items() if k not in same}, sort_keys=True) for tree in having]
    place = [np.nan if value is None else scale.place(value) for value in over]
    return done[knows].assign(over=over, place=place, line=[f"{text} {p != p}" for text, p in zip(rest, place)])


def _decided(trees: Sequence[dict[str, Any]], over: pd.Series, key: str) -> set[str]:
    """Settings that go with a name, as loss.gamma and the rate of each loss with loss.name: one value for each."""
    others = {name for tree in trees for name in tree} if key.rpartition(".")[2] == "name" else set()
    pairs = {(_text(value), name, _text(tree.get(name))) for tree, value in zip(trees, over) for name in others}
    values = Counter(name for _, name, _ in pairs)
    return {name for name, count in values.items() if count == over.map(_text).nunique()}


def _lines(runs: pd.DataFrame, key: str) -> list[Line]:
    """One for each rest of the settings, named by what the labels of its runs have in common."""
    groups = [group for _, group in runs.groupby("line", sort=False)]
    names = [style.shared_words([*map(style.without_solver, group["label"].unique())]) for group in groups]
    without = f" no {key.rsplit('.', 1)[-1]}"
    names = [name + without * bool(group["place"].isna().all()) for name, group in zip(names, groups)]
    unique = [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
    return [Line(name, group) for name, group in zip(unique, groups)]


def _panels(tables: Tables, runs: pd.DataFrame, options: FigureOptions) -> Iterator[tuple[str, str, pd.Series]]:
    """Title, definition and final value by run of every metric that a run has; usually test accuracy and NC1."""
    usual = (("accuracy", "test"), ("nc1_pinv", options.split))
    chosen = usual if options.metrics is None else tuple((metric, options.split) for metric in options.metrics)
    for metric, split in chosen:
        rows = measured(tables, runs, [metric], split).sort_values("time")
        values = rows.drop_duplicates("run_id", keep="last").set_index("run_id")["value"].astype(float)
        if np.isfinite(values).any():
            yield f"{title(metric)} ({split})", definition(metric), values


def _draw_panel(
    axes: Axes, lines: Sequence[Line], values: pd.Series, scale: Scale, look: dict[str, Look]
) -> list[style.End]:
    """Draw the lines; where each ends, with its name."""
    drawn, ends = [], []
    for number, line in enumerate(lines):
        runs = line.runs.assign(value=line.runs["run_id"].map(values))
        if line.is_level:
            _draw_level(axes, runs["value"], look[line.name])
            runs = runs.assign(place=scale.place(scale.values[-1]))
        band, of_line = Band.of(runs, "place"), look[line.name]
        drawn.append(band)
        offset = 0.0 if scale.numeric else DODGE * ((number + 0.5) / len(lines) - 0.5)
        if len(band):
            x, y = band.end
            ends.append((x + offset, y, line.name, of_line.colour))
        if line.is_level:
            continue
        if scale.numeric:
            band.draw(axes, of_line)
            axes.plot(band.x, band.middle, of_line.marker, color=of_line.colour, ms=3.2, clip_on=False, zorder=4)
        else:
            _draw_categories(axes, band, offset, of_line)
    _scale_up(axes, extremes(drawn))
    return ends


def _draw_categories(axes: Axes, band: Band, offset: float, look: Look) -> None:
    reach = np.stack([band.middle - band.low, band.high - band.middle])
    axes.errorbar(band.x + offset, band.middle, reach, fmt=look.marker, color=look.colour, ms=3.5, elinewidth=0.9)


def _draw_level(axes: Axes, values: pd.Series, look: Look) -> None:
    """Runs without the setting: their median across the panel, and their range."""
    values = values[np.isfinite(values)]
    if values.empty:
        return
    axes.axhspan(values.min(), values.max(), color=look.colour, alpha=0.12, linewidth=0)
    axes.axhline(values.median(), color=look.colour, linestyle=look.line, linewidth=0.9)


def _scale_up(axes: Axes, values: Sequence[NDArray[np.float64]]) -> None:
    """By decades where values span them; else from zero, or about the values where zero is far or below."""
    flat = np.concatenate([*values, np.zeros(0)])
    low, high = flat.min(), flat.max()
    if low >= 0 and not 0.5 * high < low < high:
        scale_values(axes, "y", values)
        return
    margin = 0.08 * (high - low or abs(high))
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _unevenness(places: NDArray[np.float64]) -> float:
    steps = np.diff(places)
    return float(steps.std() / steps.mean())


def _broken(text: str, longest: int) -> str:
    """A line for each part between underscores, where ``text`` is too long for one."""
    parts = [text] if len(text) <= longest else text.replace("_", "_\n").split("\n")
    return "\n".join(style.shortened(part, longest) for part in parts)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def caption(tables: Tables, options: FigureOptions) -> str:
    runs = _runs(tables, options)
    usual = f"Test accuracy and nc1_pinv ({options.split} split)"
    shown = usual if options.metrics is None else f"{' and '.join(options.metrics)} ({options.split} split)"
    with_name = ", in what goes with it" if str(options.over).endswith(".name") else ""
    without = " Dashed: runs without it." if len(runs) and runs["place"].isna().any() else ""
    return (
        f"{shown} of the last features at the end of {counted(runs, 'run')}, against the setting"
        f" {options.over}. A line joins runs that differ in this setting{with_name} and in their seed only:"
        f" medians over seeds, and their range.{without}{lost(tables, 'network', 'declared')}"
    )
