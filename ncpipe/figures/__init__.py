"""The figures of a study, drawn from its tables alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ncpipe.figures import (
    central_path,
    collapse_curves,
    collapse_depth,
    collapse_map,
    continual_curves,
    frames,
    gram_heatmaps,
    level_curves,
    matched_sweep,
    matched_ufm,
    nc_curves,
    predictions,
    stationarity,
    sweep,
    training_curves,
    ufm_phase,
    ufm_success,
    ufm_trajectories,
)
from ncpipe.figures.drawing.facts import facts
from ncpipe.figures.drawing.style import fix_layout, style
from ncpipe.records.checks import reading
from ncpipe.records.reading import Frames as Tables
from ncpipe.records.reading import metadata, read_tables
from ncpipe.study.config import FigureName, FigureOptions
from ncpipe.system.files import replacing, sealed
from ncpipe.tables.selection import compared


@dataclass(frozen=True)
class Drawing:
    """How a figure is drawn, and what stands under it."""

    draw: Callable[[Tables, FigureOptions], Figure]
    caption: Callable[[Tables, FigureOptions], str]
    kinds: tuple[str, ...] = ("network", "declared")
    """Of the runs that it shows."""

    @property
    def about(self) -> str:
        """What the figure shows, in one line: the first of its module."""
        return (sys.modules[self.draw.__module__].__doc__ or "").splitlines()[0].removeprefix("Figure: ")


DRAWINGS: dict[FigureName, Drawing] = {
    "central_path": Drawing(central_path.draw, central_path.caption, ("declared",)),
    "collapse_curves": Drawing(collapse_curves.draw, collapse_curves.caption),
    "collapse_depth": Drawing(collapse_depth.draw, collapse_depth.caption),
    "collapse_map": Drawing(collapse_map.draw, collapse_map.caption, ("network",)),
    "continual_curves": Drawing(continual_curves.draw, continual_curves.caption, ("continual",)),
    "frames": Drawing(frames.draw, frames.caption),
    "gram_heatmaps": Drawing(gram_heatmaps.draw, gram_heatmaps.caption, ("network",)),
    "level_curves": Drawing(level_curves.draw, level_curves.caption),
    "matched_sweep": Drawing(matched_sweep.draw, matched_sweep.caption, ("network",)),
    "matched_ufm": Drawing(matched_ufm.draw, matched_ufm.caption, ("network",)),
    "nc_curves": Drawing(nc_curves.draw, nc_curves.caption),
    "predictions": Drawing(predictions.draw, predictions.caption, ("network",)),
    "stationarity": Drawing(stationarity.draw, stationarity.caption, ("network",)),
    "sweep": Drawing(sweep.draw, sweep.caption, ("network",)),
    "training_curves": Drawing(training_curves.draw, training_curves.caption, ("network",)),
    "ufm_phase": Drawing(ufm_phase.draw, ufm_phase.caption, ("declared",)),
    "ufm_success": Drawing(ufm_success.draw, ufm_success.caption, ("declared",)),
    "ufm_trajectories": Drawing(ufm_trajectories.draw, ufm_trajectories.caption, ("declared",)),
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


def caption(tables: Tables, options: FigureOptions, scale: str = "") -> str:
    """What the figure shows: quantities, split and runs, then their data, seeds and the scale of the study."""
    drawing = DRAWINGS[options.name]
    return drawing.caption(tables, options) + facts(tables, drawing.kinds, scale)


def save_figure(
    options: FigureOptions | FigureName,
    tables_folder: Path,
    target: Path,
    kinds: Iterable[str] = tuple(WITHOUT_CLOCK),
) -> list[Path]:
    """Draw from the tables in a folder; write ``target`` as svg, pdf and png.

    Equal tables give equal bytes. The caption stands in the metadata of each file, for the report and for readers.

    Args:
        options: of the figure, or its name.
        tables_folder: holds the Parquet tables.
        target: path of the figure without its suffix.
        kinds: of ``svg``, ``pdf`` and ``png``, those to write.
    """
    chosen = FigureOptions(name=options) if isinstance(options, str) else options
    found = read_tables(tables_folder)
    with reading(tables_folder):
        tables = compared(found)
        text = caption(tables, chosen, metadata(tables_folder / "runs.parquet").get("scale", ""))
        figure = draw(tables, chosen)
    return [_save(figure, target, kind, text) for kind in kinds]


def _save(figure: Figure, target: Path, kind: str, text: str) -> Path:
    path = target.with_name(f"{target.name}.{kind}")
    with style(), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=WITHOUT_CLOCK[kind] | {CAPTION_FIELD[kind]: text})
        if kind == "svg":  # it goes into the report; PNG has checksums of its own
            temporary.write_text(sealed(temporary.read_text(encoding="utf-8")), encoding="utf-8")
    return path


__all__ = ["DRAWINGS", "caption", "draw", "save_figure"]
