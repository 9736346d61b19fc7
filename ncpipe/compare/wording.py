"""Comparisons in words: headline, sentences and tables, which terminal and page show, and the JSON of the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ncpipe.claims.evidence.wording import SYMBOLS, number, span
from ncpipe.compare.agreement import Agreement
from ncpipe.compare.comparison import Comparison, Row
from ncpipe.compare.runs import MAIN
from ncpipe.system.files import plain
from ncpipe.system.words import listed, plural

LISTED = 12
"""Rows that the terminal lists of what may be long; the page and the JSON have all."""


@dataclass(frozen=True)
class Section:
    """A table of texts under its title, with notes below it."""

    title: str
    columns: Sequence[str]
    """Headings of all columns but the first, which names the row."""
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    brief_rows: int | None = None
    """Rows that stand in the terminal; None: all."""
    brief_columns: int | None = None
    numbers: bool = True
    """Whether the columns are numbers, which stand flush right on the page."""


def headline(comparison: Comparison) -> str:
    """The answer in one line: 'Equal in all 4,032 values of 12 common runs.'"""
    if comparison.kind == "studies" and not comparison.runs["common"]:
        return "No run is in both."
    if comparison.agreement is not None:
        return reproduced(comparison.agreement)
    a, b = comparison.a, comparison.b
    if (a["study"], a["run_id"]) == (b["study"], b["run_id"]):
        return "This is one run twice."
    if (a["kind"] == "network") != (b["kind"] == "network"):
        return "A network and a UFM: their settings are not compared."
    if not (settings := comparison.of("settings")):
        return "The settings of these runs are not in the tables."
    names = [row["quantity"] for row in settings if not row["equal"]]
    equal = f"{plural(len(settings) - len(names), 'setting')} equal"
    return f"Settings that differ: {listed(names)}; {equal}." if names else f"No setting differs, {equal}."


def reproduced(agreement: Agreement) -> str:
    """Whether all values of the common runs are equal, or how far they differ at most."""
    runs = plural(agreement.runs, "common run")
    if not agreement.differing:
        return f"Equal in all {agreement.values:,} values of {runs}."
    where = runs if agreement.runs == 1 else f"{agreement.differing_runs} of {runs}"
    parts = [f"Differs in {agreement.differing:,} of {agreement.values:,} values, in {where}"]
    bounded = [d for d in agreement.deviations if d["relative"] is not None]
    if bounded:
        parts.append(f"by {number(bounded[0]['relative'])} relative at most ({bounded[0]['quantity']})")
    if one_sided := sum(d["one_sided"] for d in agreement.deviations):
        parts.append(f"{plural(one_sided, 'value')} on one side only")
    parts += sorted({f"another {word['column']}" for word in agreement.words})
    return "; ".join(parts) + "."


def sentences(comparison: Comparison) -> Iterator[str]:
    """What there is to say of studies beside the headline: runs of one study only, what became of the claims."""
    runs, claims, labels = comparison.runs, comparison.of("claims"), comparison.of("labels")
    only = [f"{plural(len(runs[f'only_{s}']), 'run')} only in {s.upper()}" for s in "ab" if runs.get(f"only_{s}")]
    if only:
        yield f"{', '.join(only)}."
    if without := runs.get("without_results"):
        yield f"{plural(len(without), 'common run')} without results on either side."
    if claims:
        both = [row for row in claims if row["verdict_a"] and row["verdict_b"]]
        parts = [f"{sum(row['changed'] for row in both)} of {plural(len(both), 'verdict')} changed"]
        for side, other in (("A", "verdict_b"), ("B", "verdict_a")):
            if alone := sum(row[other] is None for row in claims):
                parts.append(f"{plural(alone, 'claim')} only in {side}")
        yield f"{', '.join(parts)}."
    if labels:
        told = [row for row in labels if row["apart"] is not None]
        apart = plural(len({row["label"] for row in labels}), "label") + " with other runs"
        count = f"{sum(row['apart'] for row in told)} of {plural(len(told), 'quantity')}"
        yield f"{apart}: {count} beyond the range over seeds."


def value(cell: Any) -> str:
    """A setting or a fact: a number as it was written, text as it is, a dash for none."""
    if cell is None or cell == "":
        return "–"
    return cell if isinstance(cell, str) else json.dumps(cell)


def cells(row: Row) -> tuple[str, str, str, str]:
    """A, B, their difference ('=' where they are equal), and the ratio: a power of ten from a factor of ten on."""
    difference = "=" if row["equal"] and row["a"] is not None else number_or_inf(row["difference"])
    sign = "+" if difference != "=" and (row["difference"] or 0) > 0 else ""
    large = row["log10_ratio"] is not None and abs(row["log10_ratio"]) >= 1
    ratio = f"10^{row['log10_ratio']:.1f}" if large else number(row["ratio"])
    return number_or_inf(row["a"]), number_or_inf(row["b"]), sign + difference, ratio


def number_or_inf(value: float | None) -> str:
    """Whole numbers in full, others with three digits."""
    if value is not None and math.isfinite(value) and value == int(value) and abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{value}" if value is not None and math.isinf(value) else number(value)


# --- tables ----------------------------------------------------------------------------------------


def sections(comparison: Comparison) -> Iterator[Section]:
    """The tables of a comparison in their order; of those without rows only the notes are to be shown."""
    facts = comparison.of("settings", "computed", "provenance")
    told = "settings" if comparison.kind == "runs" else "provenance"
    same = [row["quantity"] for row in comparison.of(told) if row["equal"]]
    words = [(row["quantity"], value(row["a"]), value(row["b"])) for row in facts if not row["equal"]]
    equal = f"Equal: {', '.join(same)}." if told == "provenance" else f"{plural(len(same), 'setting')} equal."
    notes = [equal] if same and (told == "provenance" or not words) else []
    yield Section(f"{told} ({len(same)} equal)", ("A", "B"), words, notes, numbers=False)
    for side in "ab":
        if ids := comparison.runs.get(f"only_{side}"):
            title = f"only in {side.upper()}: {plural(len(ids), 'run')}"
            yield Section(title, (), [(run_id,) for run_id in ids], brief_rows=LISTED, numbers=False)
    if comparison.agreement is not None:
        yield from deviations(comparison.agreement)
    yield _pairs("course", comparison.of("course"))
    for split in ("train", "test"):
        last = [row for row in comparison.of("last") if row["split"] == split]
        brief = sum(row["quantity"] in MAIN for row in last)  # these come first
        yield _pairs(f"last features, {split}", last, brief)
    yield _pairs("history, last value", comparison.of("history"))
    fit = sorted(comparison.of("ufm"), key=lambda row: row["equal"])
    same_fit = sum(row["equal"] for row in fit)
    yield _pairs(f"fit ({same_fit} equal)", fit, len(fit) - same_fit)
    yield from _labels(comparison.of("labels"))
    yield _claims(comparison.of("claims"))


def _pairs(title: str, rows: Sequence[Row], brief_rows: int | None = None) -> Section:
    listed = [(row["quantity"], *cells(row)) for row in rows]
    return Section(title, ("A", "B", "B − A", "B / A"), listed, brief_rows=brief_rows)


def deviations(agreement: Agreement) -> Iterator[Section]:
    """Deviations by quantity; the run and place where each is largest stand below, by number."""
    marks: dict[str, str] = {}
    rows = []
    for d in agreement.deviations:
        mark = marks.setdefault(f"{d['run_id']} {where(d)}".strip(), f"[{len(marks) + 1}]")
        relative = "one side" if d["relative"] is None else number(d["relative"])
        count = f"{d['differing']} of {d['values']}"
        rows.append((f"{d['table']} {d['quantity']}", count, relative, *map(number_or_inf, (d["a"], d["b"])), mark))
    places = [f"{mark} {place}" for place, mark in marks.items()]
    yield Section("largest relative difference", ("differ", "relative", "A", "B", "in"), rows, places, LISTED)
    words = [
        (
            f"{w['column']} of {plural(len(w['run_ids']), 'run')}",
            value(w["a"]),
            value(w["b"]),
            ", ".join(w["run_ids"]),
        )
        for w in agreement.words
    ]
    notes = list(not_compared(agreement))
    yield Section("another end or machine", ("A", "B", "runs"), words, notes, brief_columns=2, numbers=False)


def where(deviation: Row) -> str:
    """'train, layer1, at 10': the place of a value within its run; empty for a value that has none."""
    parts = [deviation["split"], deviation["layer"]]
    parts += [f"at {deviation['time']}"] if deviation["time"] >= 0 else []
    return ", ".join(part for part in parts if part)


def not_compared(agreement: Agreement) -> Iterator[str]:
    """Quantities that one side's tables do not have."""
    for side, names in (("A", agreement.only_a), ("B", agreement.only_b)):
        if names:
            yield f"Not compared, since only in the tables of {side}: {', '.join(names)}."


def _labels(pairs: Sequence[Row]) -> Iterator[Section]:
    """One table for each label."""
    columns = ("A", "B", "B − A", "B / A", "seed range", "range of A", "range of B", "seeds")
    notes = ["A difference is beyond the seed range where the ranges of A and of B do not overlap."]
    for label in dict.fromkeys(row["label"] for row in pairs):
        rows = [row for row in pairs if row["label"] == label]
        seeds = " | ".join(str(max(row[f"seeds_{side}"] for row in rows)) for side in "ab")
        listed = [
            (row["quantity"], *cells(row), {None: "one seed", True: "beyond", False: "within"}[row["apart"]],
             *(span(row[f"low_{s}"], row[f"high_{s}"]) for s in "ab"), f"{row['seeds_a']} | {row['seeds_b']}")
            for row in rows
        ]  # fmt: skip
        yield Section(f"{label}: medians over {seeds} seeds", columns, listed, notes, brief_columns=5)
        notes = []


def _claims(claims: Sequence[Row]) -> Section:
    """Claims whose verdict changed come first; a star marks them. A dash: it was not put to the tables."""
    rows = []
    for row in sorted(claims, key=lambda row: not row["changed"]):
        verdicts = (f"{SYMBOLS.get(row[v], '')} {row[v] or '–'}".strip() for v in ("verdict_a", "verdict_b"))
        name = ("* " if row["changed"] else "  ") + row["quantity"]
        rows.append((name, needed(row), *verdicts, *cells(row)[:2], row["statement"]))
    columns = ("needs", "A", "B", "effect A", "effect B", "statement")
    return Section("claims: verdict and effect", columns, rows, brief_columns=5, numbers=False)


def needed(claim: Row) -> str:
    """The threshold, or both where they differ."""
    return " | ".join(dict.fromkeys(text for text in (claim["needs_a"], claim["needs_b"]) if text))


def as_json(comparison: Comparison) -> str:
    """The whole comparison; an infinite number is the text 'inf' or '-inf', since JSON has none."""
    return json.dumps(plain({"headline": headline(comparison)} | asdict(comparison)), indent=2, allow_nan=False)
