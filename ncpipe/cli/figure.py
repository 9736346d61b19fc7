"""The command ``ncpipe figure``: options and target from texts, and the list of all figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ncpipe.figures.drawing.output import WITHOUT_CLOCK, about, save_figure
from ncpipe.settings.messages import validated
from ncpipe.study.config import FIGURES, FigureOptions
from ncpipe.study.layout import tables_in
from ncpipe.system.errors import UserError


def figure_list() -> Iterator[str]:
    """Every figure with what it shows, a line each."""
    longest = max(map(len, FIGURES))
    yield from (f"{name:{longest}s}  {about(name)}" for name in FIGURES)


def figure_options(name: str, metrics: str | None = None, **others: str | None) -> FigureOptions:
    """The options of a figure as the command has them, ``metrics`` with commas; None where not given.

    Raises:
        UserError: in one line, with the nearest name of an unknown figure or metric.
    """
    listed = None if metrics is None else tuple(part.strip() for part in metrics.split(",") if part.strip())
    given = {"name": name, "metrics": listed, **others}
    return validated(FigureOptions, {key: value for key, value in given.items() if value is not None}, "figure")


def save_from_tables(options: FigureOptions, tables: Path, output: Path | None) -> list[Path]:
    """Draw from the tables in a folder, or in ``tables`` of it; write ``output`` in the format of its ending, or
    without one in all formats.

    Raises:
        UserError: another ending, or what ``read_tables`` raises.
    """
    target = output or Path(options.stem)
    kind, tables = target.suffix.removeprefix("."), tables_in(tables)
    if not kind:
        return save_figure(options, tables, target)
    if kind not in WITHOUT_CLOCK:
        raise UserError(f"--output {target}: expected a name that ends in .svg, .pdf or .png, or has no ending")
    return save_figure(options, tables, target.with_suffix(""), (kind,))
