"""A comparison as tables in the terminal, readable at 80 columns."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ncpipe.compare.comparison import Comparison
from ncpipe.compare.wording import Section, headline, sections, sentences


def print_comparison(comparison: Comparison) -> None:
    """Print the answer in words, then the tables."""
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(headline(comparison), style="bold")
    for sentence in sentences(comparison):
        console.print(sentence)
    for name, side in (("A", comparison.a), ("B", comparison.b)):
        console.print(f"{name}  {side.get('run_id', side['study'])}", soft_wrap=True)
        if comparison.kind == "runs":
            ended = "" if side["status"] == "done" else f", {side['status']}"
            console.print(f"   {side['kind']} '{side['label']}' of {side['study']}{ended}", soft_wrap=True)
    for section in sections(comparison):
        print_section(console, section)


def print_section(console: Console, section: Section) -> None:
    """A table in brief under its title, if it has a row, and the notes on what is shown."""
    rows = section.rows[: section.brief_rows]
    rest = len(section.rows) - len(rows)
    more = f"; {rest} more on the page and in --json" if rest else ""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_header=bool(section.columns))
    for column in ("", *section.columns)[: section.brief_columns and section.brief_columns + 1]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    if rows or rest:
        console.print(f"\n{section.title}{more}", style="bold", soft_wrap=True)
    if rows:
        console.print(table)
    shown = {cell for row in rows for cell in row}
    for note in section.notes:
        mark = note.split(" ", 1)[0]
        is_place = mark.startswith("[")
        if mark in shown or not is_place:  # places of rows that are shown
            console.print(note, soft_wrap=is_place)
