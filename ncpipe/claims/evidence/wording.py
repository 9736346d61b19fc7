"""Claims in words: their numbers and verdicts as the report, the claims page, MLflow and Markdown show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ncpipe.system.words import plural

Row = Mapping[str, Any]

VERDICTS = ("supported", "contradicted", "undecided")
NO_RUN = "no run"
"""In place of the verdict of a claim that no run of the study speaks of."""
SYMBOLS = dict(zip((*VERDICTS, NO_RUN), "✓✗?○"))

ROUNDING = 1e-12
"""Size of what rounding leaves of a zero, of numbers about one."""

COLUMNS = ("claim", "verdict", "statistic", "effect", "range", "95 % interval over seeds", "runs", "seeds", "data")


def number(value: float | None) -> str:
    """Three significant digits, powers of ten where they are shorter; a dash for what is not there.

    One digit below ``ROUNDING``: more of them is noise.
    """
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:.1g}" if abs(value) < ROUNDING else f"{value:.3g}"


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


def verdict(claim: Row) -> str:
    """The verdict as pages show it: of a claim that no run speaks of there is none."""
    return claim["verdict"] if claim["count"] else NO_RUN


def by_subject(claims: Iterable[Row]) -> dict[str, list[Row]]:
    """The claims that runs speak of: first those on networks, then those on models, whose data are all UFMs."""
    subjects: dict[str, list[Row]] = {"networks": [], "models": []}
    for claim in claims:
        if claim["count"]:
            parts = (claim["data"] or "").split("), ")
            subjects["models" if all(part.startswith("UFM (") for part in parts) else "networks"].append(claim)
    return {subject: found for subject, found in subjects.items() if found}


def finding(claims: Iterable[Row]) -> str:
    """What became of a paper's claims, in a sentence: of each verdict the first claim, and how many more."""
    given = list(claims)
    tested = [claim for claim in given if claim["count"]]
    parts = []
    for each in VERDICTS:
        if found := [claim for claim in tested if claim["verdict"] == each]:
            first, rest = found[0]["statement"].rstrip("."), len(found) - 1
            more = f" and {rest} more" if rest else ""
            parts.append(f"{len(found)} {each}, “{first}” ({short_id(found[0])}){more}")
    if rest := len(given) - len(tested):
        parts.append(f"no run speaks of {rest}")
    return f"{plural(len(given), 'claim')}: {'; '.join(parts)}."


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
