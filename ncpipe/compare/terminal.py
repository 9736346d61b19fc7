"""A comparison as tables in the terminal, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from ncpipe.claims.evidence.wording import SYMBOLS, number
from ncpipe.compare.pairs import Pair
from ncpipe.compare.runs import RunComparison, RunName
from ncpipe.compare.studies import ClaimPair, LabelledPair, StudyComparison
from ncpipe.compare.values import Agreement, Deviation
from ncpipe.compare.wording import (
    cells,
    changed_first,
    counted,
    headline,
    needed,
    not_compared,
    number_or_inf,
    seed_range,
    sentences,
    shown_first,
    value,
    verdicts,
    where,
)

LISTED = 12
"""Rows that are listed of what may be long; the page and the JSON have all."""


def print_comparison(comparison: RunComparison | StudyComparison) -> None:
    """Print the answer in words, then the tables."""
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(headline(comparison), style="bold")
    if isinstance(comparison, StudyComparison):
        _print_studies(console, comparison)
    else:
        _print_runs(console, comparison)


def _print_runs(console: Console, comparison: RunComparison) -> None:
    for side, run in (("A", comparison.a), ("B", comparison.b)):
        console.print(f"{side}  {_named(run)}", soft_wrap=True)
    settings = [(s.name, value(s.a), value(s.b)) for s in (*comparison.settings, *comparison.words)]
    print_table(console, f"settings ({comparison.equal_settings} equal)", ("A", "B"), settings)
    print_agreement(console, comparison.agreement)
    _pairs(console, "course", comparison.course)
    for split in ("train", "test"):
        pairs = tuple(pair for pair in comparison.finals if pair.split == split)
        main = shown_first(pairs)
        rest = f"; {len(pairs) - len(main)} more on the page and in --json" if len(pairs) > len(main) else ""
        _pairs(console, f"last features, {split}{rest}", main)
    _pairs(console, "history, last value", comparison.history)
    others = [pair for pair in comparison.fit if not pair.equal]
    _pairs(console, f"fit ({len(comparison.fit) - len(others)} equal)", others)


def _named(run: RunName) -> str:
    ended = "" if run.status == "done" else f", {run.status}"
    return f"{run.run_id}\n   {run.kind} '{run.label}' of {run.study}{ended}"


def _print_studies(console: Console, comparison: StudyComparison) -> None:
    for sentence in sentences(comparison):
        console.print(sentence)
    console.print(f"A  {comparison.a}\nB  {comparison.b}", soft_wrap=True)
    provenance = [(entry.name, value(entry.a), value(entry.b)) for entry in comparison.provenance]
    print_table(console, f"provenance ({len(comparison.equal_provenance)} equal)", ("A", "B"), provenance)
    for side, ids in (("A", comparison.only_a), ("B", comparison.only_b)):
        if ids:
            console.print(f"\nonly in {side}: {counted(len(ids), 'run')}", style="bold")
            console.print("\n".join(_first(ids)), soft_wrap=True)
    print_agreement(console, comparison.agreement)
    _labels(console, comparison.labels)
    _claims(console, comparison.claims)


def _first(items: Sequence[str]) -> list[str]:
    """The first items, and how many there are beside."""
    rest = len(items) - LISTED
    return [*items[:LISTED], *([f"and {rest} more"] if rest > 0 else [])]


def print_agreement(console: Console, agreement: Agreement | None) -> None:
    """Deviations by quantity; the run and place where each is largest stand below, by number."""
    if agreement is None:
        return
    listed = agreement.deviations[:LISTED]
    places = dict.fromkeys(_place(d) for d in listed)
    marks = {place: f"[{i}]" for i, place in enumerate(places, start=1)}
    rows = [
        (
            f"{d.table} {d.quantity}",
            f"{d.differing} of {d.values}",
            number(d.relative) if d.relative is not None else "one side",
            number_or_inf(d.a),
            number_or_inf(d.b),
            marks[_place(d)],
        )
        for d in listed
    ]
    rest = len(agreement.deviations) - len(listed)
    title = "largest relative difference" + (f" ({rest} more quantities on the page)" if rest else "")
    print_table(console, title, ("differ", "relative", "A", "B", "in"), rows)
    for place, mark in marks.items():
        console.print(f"{mark} {place}", soft_wrap=True)
    words = [(f"{w.column} of {counted(len(w.run_ids), 'run')}", value(w.a), value(w.b)) for w in agreement.words]
    print_table(console, "another end or machine", ("A", "B"), words)
    for sentence in not_compared(agreement):
        console.print(f"\n{sentence}")


def _place(deviation: Deviation) -> str:
    return f"{deviation.run_id} {where(deviation)}".strip()


def _labels(console: Console, pairs: Iterable[LabelledPair]) -> None:
    """One table for each label."""
    by_label: dict[str, list[LabelledPair]] = {}
    for pair in pairs:
        by_label.setdefault(pair.label, []).append(pair)
    for label, own in by_label.items():
        seeds = " | ".join(str(max(getattr(pair, side).seeds for pair in own)) for side in "ab")
        rows = [(pair.quantity, *cells(pair.median), seed_range(pair)) for pair in own]
        title = f"{label}: medians over {seeds} seeds"
        print_table(console, title, ("A", "B", "B − A", "B / A", "seed range"), rows)


def _claims(console: Console, claims: Sequence[ClaimPair]) -> None:
    """Claims whose verdict changed come first; a star marks them."""
    rows = []
    for claim in changed_first(claims):
        a, b = (f"{SYMBOLS.get(verdict, '')} {verdict}".strip() for verdict in verdicts(claim))
        x, y, *_ = cells(claim.effect)
        rows.append((("* " if claim.changed else "  ") + claim.claim_id, needed(claim), a, b, x, y))
    print_table(console, "claims: verdict and effect", ("needs", "A", "B", "effect A", "effect B"), rows)


def _pairs(console: Console, title: str, pairs: Iterable[Pair]) -> None:
    rows = [(pair.quantity, *cells(pair)) for pair in pairs]
    print_table(console, title, ("A", "B", "B − A", "B / A"), rows)


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table under its title, or nothing where it has no row."""
    if not rows:
        return
    console.print(f"\n{title}", style="bold", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("", *columns):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
