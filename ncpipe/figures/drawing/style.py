"""The look of all figures: sizes, fonts, and the colour and line that a label keeps over a whole study."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from ncpipe.ufm.solvers import SOLVERS

Floats = NDArray[np.float64]

OKABE_ITO = {
    "blue": "#1670B5",
    "vermillion": "#D55E00",
    "green": "#15A066",
    "purple": "#CC79A7",
    "orange": "#F7B214",
    "sky": "#56BBF7",
    "black": "#000000",
    "violet": "#6600CC",
}
"""Okabe and Ito's palette, with violet for yellow, which is lost on white, and a little apart: of any two
the distance in CIELAB is 24 or more also for the green- and the red-blind, and 18 for the blue-blind (Machado et al.
2009)."""

GREY = "#666666"
LINE_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
MARKERS = ("o", "s", "^")
HALO = [withStroke(linewidth=1.8, foreground="white")]
"""About texts that points and paths may lie under."""
TEXT_SIZE, SMALL = 7.0, 6.5
MOST_DIRECT, LEADER = 8, 9
"""Lines of a panel that are named at their ends, and points from a panel to the names."""
LINE = SMALL * 1.15 / 72
"""Inches from one line of small text to the next."""
PAGE_HEIGHT = 9.0
"""Inches that no figure is higher than."""
LEGEND_ROW, LETTER = 0.135, 0.0535
"""Inches that a row of the legend is high, and a letter in it wide."""

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT_SIZE,
    "axes.titlesize": TEXT_SIZE,
    "axes.labelsize": TEXT_SIZE,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "savefig.dpi": 300,
    "figure.dpi": 150,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "ncpipe",
}


FONTS: dict[str, dict[str, Any]] = {
    "sans": {},
    "serif": {"font.family": ["STIXGeneral", "DejaVu Sans"], "mathtext.fontset": "stix"},
}
"""Fonts that come with matplotlib: the same glyphs and bytes on every machine; STIX is like Times."""


def style(font: str = "sans") -> AbstractContextManager[None]:
    """matplotlib with ncpipe's settings, for drawing and for saving."""
    return mpl.rc_context(RC | FONTS[font])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Look:
    """How a label is drawn."""

    colour: str
    line: Any
    marker: str


def looks(runs: pd.DataFrame) -> dict[str, Look]:
    """The look of every label, in the order of the ``runs`` table: equal in all figures of a study.

    Labels of a UFM that differ in the solver only share a look; past the eighth, line and marker change.
    """
    names = runs[runs["kind"].isin(["network", "declared"])]
    order = dict.fromkeys(map(without_solver, names["label"]))
    colours = list(OKABE_ITO.values())
    styles = [(colour, line, mark) for line, mark in zip(LINE_STYLES, MARKERS) for colour in colours]
    by_name = {name: Look(*styles[i % len(styles)]) for i, name in enumerate(order)}
    return {label: by_name[without_solver(label)] for label in names["label"]}


def without_solver(label: str) -> str:
    """A UFM's label without the name of its solver."""
    for name, solver in SOLVERS.items():
        label = label.replace(f" ({solver.label or name})", "")
    return label


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def columns_for(panels: int, width: float, least: float) -> int:
    """Columns in which panels are at least so wide."""
    return max(1, min(panels, int(width / least)))


def panel_figure(width: float, panels: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, row by row, ``height`` inches a row; up to a quarter less where a page is full."""
    rows = -(-panels // columns)
    figure = new_figure(width, rows * max(0.75 * height, min(height, (PAGE_HEIGHT - 0.3) / rows)))
    return figure, panel_grid(figure, panels, columns)


def panel_grid(figure: FigureBase, panels: int, columns: int) -> list[Axes]:
    """So many panels of a figure, row by row."""
    grid = list(figure.subplots(-(-panels // columns), columns, squeeze=False).flat)
    for axes in grid[panels:]:
        axes.remove()
    return grid[:panels]


def fix_layout(figure: Figure) -> None:
    """Lay out once for all files: every further pass would move panels of fixed aspect a little.

    The solver of the layout differs in its last digits from one call to the next, files may not.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        for _ in range(2):  # panels of fixed aspect shrink in the first pass and leave room for their titles
            engine.execute(figure)
        figure.set_layout_engine("none")
    for part in figure.subfigs:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(9))
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position(original=True).bounds, 9))


def empty_figure(width: float, reason: str) -> Figure:
    """A figure that says in one line why there is nothing to show."""
    figure = Figure(figsize=(width, 0.5))
    figure.text(0.5, 0.5, reason, ha="center", va="center", color=GREY)
    return figure


def line_handle(label: str, look: Look) -> Line2D:
    return Line2D([], [], color=look.colour, linestyle=look.line, label=label)


def mark_handle(label: str, marker: str, colour: str = GREY, filled: bool = True, line: Any = "none") -> Line2D:
    face = colour if filled else "white"
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle=line, label=label)


def add_legend(figure: Figure, handles: Iterable[Artist]) -> None:
    """One legend under the panels, in as many columns as fit; the figure grows by its height."""
    listed = list(handles)
    if not listed:
        return
    width, height = figure.get_size_inches()
    longest = int(width / LETTER) - 10
    texts = [shortened(str(handle.get_label()), longest) for handle in listed]
    columns = max(1, min(len(listed), int(width / (LETTER * max(map(len, texts)) + 0.42))))
    rows = -(-len(listed) // columns)
    figure.set_size_inches(width, height + LEGEND_ROW * rows + 0.05)
    figure.legend(
        listed,
        texts,
        loc="outside lower center",
        ncols=columns,
        handlelength=1.8,
        columnspacing=1.4,
        labelspacing=0.3,
    )


End = tuple[float, float, str, str]
"""Where a line ends, x and y, its name and its colour."""


def name_lines(panels: Sequence[tuple[Axes, Sequence[End]]], height: float, letters: int = 60) -> bool:
    """Write the names of lines right of the panel where they end farthest apart, in their colours and kept apart,
    with a thin line to the end of each that is moved.

    To be called when the y axes have their scales. Returns False, and writes nothing, where there are more names than
    fit, or no panel has all: then a legend has to.

    Args:
        panels: axes and the ends of their lines, equally many and in the same order in all.
        height: of the axes in inches, about.
        letters: in a row of a name, of which it has two at most.
    """
    placed = [(axes, ends, *_placed(axes, ends, height, letters)) for axes, ends in panels if ends]
    if not placed:
        return True
    most = max(len(ends) for _, ends, *_ in placed)
    if not len({name for _, ends, *_ in placed for *_, name, _ in ends}) <= most <= MOST_DIRECT:
        return False
    whole = [panel for panel in placed if len(panel[1]) == most]
    axes, ends, texts, own, apart = min(whole, key=lambda panel: float(abs(panel[3][:, 1] - panel[4]).sum()))
    right = axes.transAxes + ScaledTranslation(LEADER / 72, 0, axes.figure.dpi_scale_trans)
    for (*_, colour), text, end, place in zip(ends, texts, own, apart):
        thin = {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        axes.annotate(
            text, end, (1, place), "axes fraction", textcoords=right, color=colour, size=SMALL, va="center",
            linespacing=1.05, arrowprops=thin, annotation_clip=False,
        )  # fmt: skip
    return True


def _placed(axes: Axes, ends: Sequence[End], height: float, letters: int) -> tuple[list[str], Floats, Floats]:
    """Names in rows, where lines end or leave the axes, and the heights of the names, at least a row apart."""
    from scipy.optimize import isotonic_regression

    texts = [wrapped(name, letters) for *_, name, _ in ends]
    own = (axes.transData - axes.transAxes).transform([end[:2] for end in ends]).clip(0, 1)
    order = np.argsort(own[:, 1], kind="stable")
    rows = np.array([1 + texts[i].count("\n") for i in order]) * LINE / height
    # The smallest shift of all that keeps them apart is a monotone regression of what is left of the heights.
    steps = np.cumsum(rows) - rows[0] / 2 - rows / 2
    apart = np.empty(len(ends))
    apart[order] = isotonic_regression(own[order, 1] - steps).x.clip(0, max(0, 1 - steps[-1])) + steps
    return texts, own, apart


def shared_words(labels: Sequence[str]) -> str:
    """The words that all labels have, in the order of the first; of none nothing."""
    shared = set.intersection(*(set(_words(label)) for label in labels)) if labels else set()
    return " ".join(word for word in _words(labels[0]) if word in shared) if labels else ""


def without_words(label: str, shared: str) -> str:
    """``label`` without these words; whole where it has no other."""
    return " ".join(word for word in _words(label) if word not in _words(shared)) or label


def _words(label: str) -> list[str]:
    """'no bias' is one."""
    return re.findall(r"(?:no|penalised) \S+|\S+", label)


def shortened(text: str, longest: int) -> str:
    """``text`` with its middle left out where it is longer than ``longest`` characters."""
    if len(text) <= longest:
        return text
    tail = longest // 2
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def wrapped(text: str, letters: int, rows: int = 2) -> str:
    """``text`` in one row of so many characters, or in several of about equal length; what is longer is shortened."""
    if len(text) <= letters:
        return text
    parts = textwrap.wrap(text, min(letters, len(text) // rows + 4), break_long_words=False)
    parts = [*parts[: rows - 1], " ".join(parts[rows - 1 :])]
    return "\n".join(shortened(part, letters) for part in parts if part)


def label_handles(labels: Iterable[str], look: Mapping[str, Look], kind: str = "") -> list[Line2D]:
    """A line per label, its text led by ``kind``."""
    return [line_handle(kind + without_solver(label), look[label]) for label in labels]
