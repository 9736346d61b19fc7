"""A figure drawn in ncpipe's style from the tables of a study, its caption, and its files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from matplotlib.figure import Figure

from ncpipe.figures.drawing.captions import facts
from ncpipe.figures.drawing.style import fix_layout, style
from ncpipe.records.checks import reading
from ncpipe.records.reading import Frames as Tables
from ncpipe.records.reading import metadata, read_tables
from ncpipe.settings.source import is_own, own
from ncpipe.study.config import FIGURES, FigureOptions
from ncpipe.system.errors import UserError
from ncpipe.system.files import replacing, sealed
from ncpipe.tables.selection import compared

WITHOUT_CLOCK = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
"""Metadata that would differ between two drawings of the same tables."""
CAPTION_FIELD = {"svg": "Description", "pdf": "Subject", "png": "Description"}


def draw(tables: Tables, options: FigureOptions) -> Figure:
    """The figure ``options.name`` in ncpipe's style."""
    module = FIGURES[options.name]
    with style(options.font), running(options.name):
        figure = module.draw(tables, options)
        if not isinstance(figure, Figure):
            raise UserError(f"{options.name}: draw gave {type(figure).__name__}; it must return a matplotlib Figure")
        fix_layout(figure)
        return figure


def caption(tables: Tables, options: FigureOptions, scale: str = "") -> str:
    """What the figure shows: quantities, split and runs, then their data, seeds and the scale of the study."""
    module = FIGURES[options.name]
    with running(options.name):
        text = str(module.caption(tables, options)) if hasattr(module, "caption") else about(options.name)
    return text + facts(tables, getattr(module, "KINDS", ("network", "declared")), scale)


def running(name: str) -> AbstractContextManager[None]:
    """Around what the module of a figure does: mistakes of a user's own are told with their line."""
    return own(name).running() if is_own(name) else nullcontext()


def about(name: str) -> str:
    """What the figure of this name shows, in one line: the first of its module."""
    return (FIGURES[name].__doc__ or "").partition("\n")[0].removeprefix("Figure: ")


def save_figure(
    options: FigureOptions | str,
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
    stored = read_tables(tables_folder)
    with reading(tables_folder):
        tables = compared(stored)
        text = caption(tables, chosen, metadata(tables_folder / "runs.parquet").get("scale", ""))
        figure = draw(tables, chosen)
    with style(chosen.font):
        return [_save(figure, target, kind, text) for kind in kinds]


def _save(figure: Figure, target: Path, kind: str, text: str) -> Path:
    path = target.with_name(f"{target.name}.{kind}")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=WITHOUT_CLOCK[kind] | {CAPTION_FIELD[kind]: text})
        if kind == "svg":  # it goes into the report; PNG has checksums of its own
            temporary.write_text(sealed(temporary.read_text(encoding="utf-8")), encoding="utf-8")
    return path
