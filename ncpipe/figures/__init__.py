"""The figures of a study, drawn from its tables alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ncpipe.figures import (
    collapse_curves,
    collapse_depth,
    frames,
    matched_ufm,
    training_curves,
    ufm_phase,
    ufm_trajectories,
)
from ncpipe.figures.style import fix_layout, style
from ncpipe.files import replacing
from ncpipe.study.spec import FigureName, FigureOptions
from ncpipe.tables.collect import read_tables
from ncpipe.tables.selection import compared

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Drawing:
    """How a figure is drawn, and what stands under it."""

    draw: Callable[[Tables, FigureOptions], Figure]
    caption: Callable[[Tables, FigureOptions], str]


DRAWINGS: dict[FigureName, Drawing] = {
    "collapse_curves": Drawing(collapse_curves.draw, collapse_curves.caption),
    "collapse_depth": Drawing(collapse_depth.draw, collapse_depth.caption),
    "frames": Drawing(frames.draw, frames.caption),
    "matched_ufm": Drawing(matched_ufm.draw, matched_ufm.caption),
    "training_curves": Drawing(training_curves.draw, training_curves.caption),
    "ufm_phase": Drawing(ufm_phase.draw, ufm_phase.caption),
    "ufm_trajectories": Drawing(ufm_trajectories.draw, ufm_trajectories.caption),
}

WITHOUT_CLOCK = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
"""Metadata that would differ between two drawings of the same tables."""
CAPTION_FIELD = {"svg": "Description", "pdf": "Subject", "png": "Description"}


def draw(tables: Tables, options: FigureOptions) -> Figure:
    """The figure ``options.name`` in ncpipe's style."""
    with style():
        figure = DRAWINGS[options.name].draw(tables, options)
        fix_layout(figure)
        return figure


def caption(tables: Tables, options: FigureOptions) -> str:
    """What the figure shows: quantities, split, runs and seeds."""
    return DRAWINGS[options.name].caption(tables, options)


def save_figure(options: FigureOptions | FigureName, tables_folder: Path, target: Path) -> list[Path]:
    """Draw from the tables in a folder; write ``target`` as svg, pdf and png.

    Equal tables give equal bytes. The caption stands in the metadata of each file, for the report and for readers.

    Args:
        options: of the figure, or its name.
        tables_folder: holds the Parquet tables.
        target: path of the figure without its suffix.
    """
    chosen = FigureOptions(name=options) if isinstance(options, str) else options
    tables = compared(read_tables(tables_folder))
    text = caption(tables, chosen)
    figure = draw(tables, chosen)
    return [_save(figure, target, kind, text) for kind in WITHOUT_CLOCK]


def _save(figure: Figure, target: Path, kind: str, text: str) -> Path:
    path = target.with_name(f"{target.name}.{kind}")
    with style(), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=WITHOUT_CLOCK[kind] | {CAPTION_FIELD[kind]: text})
    return path


__all__ = ["DRAWINGS", "caption", "draw", "save_figure"]
