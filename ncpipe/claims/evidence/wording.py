"""Claims in words: their numbers and verdicts as the report, the claims page, MLflow and Markdown show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Row = Mapping[str, Any]

VERDICTS = ("supported", "contradicted", "undecided")
SYMBOLS = dict(zip(VERDICTS, "✓✗?"))

COLUMNS = ("claim", "verdict", "statistic", "effect", "range", "95 % interval over seeds", "runs", "seeds", "data")


def number(value: float | None) -> str:
    """Three significant digits, powers of ten where they are shorter; a dash for what is not there."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"


def span(low: float | None, high: float | None) -> str:
    """'0.01 … 0.02'; a dash where there is no such range."""
    return "–" if "–" in (number(low), number(high)) else f"{number(low)} … {number(high)}"


def needs(claim: Row) -> str:
    """What the statistic must be where the claim holds: '< 0.01'."""
    return f"{'<' if claim['direction'] == 'below' else '>'} {number(claim['threshold'])}"


def held(claim: Row) -> str:
    """On how many of its runs the claim holds: '3 of 4'."""
    return f"{claim['holds']:.0f} of {claim['count']:.0f}" if claim["count"] else "none"


def short_id(claim: Row) -> str:
    """The claim's number within its paper: '2a' of 'tirer2022-2a'."""
    return claim["claim_id"].removeprefix(f"{claim['paper']}-")


def by_paper(claims: Iterable[Row]) -> dict[str, list[Row]]:
    """The claims of every paper, in their order."""
    papers: dict[str, list[Row]] = {}
    for claim in claims:
        papers.setdefault(claim["paper"], []).append(claim)
    return papers


def counted(verdicts: Iterable[str]) -> dict[str, int]:
    """How many there are of each verdict."""
    given = list(verdicts)
    return {verdict: given.count(verdict) for verdict in VERDICTS}


def markdown(claims: Iterable[Row]) -> str:
    """The table of verdicts of a documentation page."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(_cells, claims)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _cells(claim: Row) -> list[str]:
    cells = [
        f"**{short_id(claim)}** {claim['statement']}",
        f"{SYMBOLS[claim['verdict']]} {claim['verdict']}",
        f"{claim['statistic']}, needs {needs(claim)}",
        number(claim["effect"]),
        span(claim["low"], claim["high"]),
        span(claim["interval_low"], claim["interval_high"]),
        held(claim),
        str(claim["seeds"]),
        claim["data"] or "–",
    ]
    return [in_cell(text) for text in cells]


def in_cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    return text.replace("|", "\\|")
