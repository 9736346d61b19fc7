"""Two studies side by side: do common runs reproduce, and what became of labels and claims."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.wording import needs
from ncpipe.compare.pairs import Pair, Setting, differing
from ncpipe.compare.runs import MAIN
from ncpipe.compare.sources import Frames, StudySource
from ncpipe.compare.values import Agreement, agreement

ENDS = ("final_train_loss", "final_test_loss", "final_train_accuracy", "final_test_accuracy", "zero_error_epoch")
"""Columns of the table ``runs`` that labels are compared by, beside ``MAIN``."""
METRICS = MAIN[:-2]  # accuracy and loss are among the ends


@dataclass(frozen=True)
class Spread:
    """A quantity over the seeds of a label."""

    seeds: int
    """Runs with a finite value."""
    median: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LabelledPair:
    """A quantity of the runs of one label in A and in B."""

    label: str
    quantity: str
    a: Spread
    b: Spread
    median: Pair
    apart: bool | None
    """Whether the ranges over seeds do not overlap; None where each side has one seed, so that there is no range."""


@dataclass(frozen=True)
class ClaimPair:
    """A claim as A and as B decide it; verdict None: not put to the tables."""

    claim_id: str
    statement: str
    needs_a: str | None
    """Direction and threshold, as '< 0.01'."""
    needs_b: str | None
    verdict_a: str | None
    verdict_b: str | None
    effect: Pair

    @property
    def changed(self) -> bool:
        """Whether both decide it, and differently."""
        return None not in (self.verdict_a, self.verdict_b) and self.verdict_a != self.verdict_b


@dataclass(frozen=True)
class StudyComparison:
    """Two studies side by side."""

    a: str
    b: str
    provenance: tuple[Setting, ...]
    """What differs of version, commit, study, scale and hash."""
    equal_provenance: tuple[str, ...]
    only_a: tuple[str, ...]
    """Ids of runs."""
    only_b: tuple[str, ...]
    common: tuple[str, ...]
    without_results: tuple[str, ...]
    """Common runs that are missing on both sides."""
    agreement: Agreement
    labels: tuple[LabelledPair, ...]
    """Labels of both whose runs are not the same."""
    claims: tuple[ClaimPair, ...]


def compare_studies(a: StudySource, b: StudySource) -> StudyComparison:
    """Put two studies side by side.

    Runs are the same where their ids are, which hold the hash of the settings. Networks and declared UFMs of one
    label but not of the same ids are compared by the medians over their seeds.
    """
    x, y = a.tables["runs"]["run_id"], b.tables["runs"]["run_id"]
    in_a, in_b = set(x), set(y)
    common = tuple(run_id for run_id in x if run_id in in_b)
    missing = _missing(a.tables) & _missing(b.tables)
    known = dict.fromkeys([*a.metadata, *b.metadata])
    changed = tuple(differing(a.metadata, b.metadata))
    return StudyComparison(
        a=a.name,
        b=b.name,
        provenance=changed,
        equal_provenance=tuple(key for key in known if key not in {entry.name for entry in changed}),
        only_a=tuple(run_id for run_id in x if run_id not in in_b),
        only_b=tuple(run_id for run_id in y if run_id not in in_a),
        common=common,
        without_results=tuple(run_id for run_id in common if run_id in missing),
        agreement=agreement(a.tables, b.tables, common),
        labels=tuple(_labels(a.tables, b.tables)),
        claims=tuple(_claims(a.tables["claims"], b.tables["claims"])),
    )


def _missing(tables: Frames) -> set[str]:
    return set(tables["runs"].query("status == 'missing'")["run_id"])


def _labels(a: Frames, b: Frames) -> Iterator[LabelledPair]:
    x, y = _by_label(a["runs"]), _by_label(b["runs"])
    ends_a, ends_b = _ends(a), _ends(b)
    for kind, label in x:
        one, two = x[kind, label], y.get((kind, label))
        if two is None or set(one) == set(two):
            continue
        for quantity in (*METRICS, *ENDS):
            pair = _labelled(label, quantity, ends_a[quantity].reindex(one), ends_b[quantity].reindex(two))
            if pair.a.seeds or pair.b.seeds:
                yield pair


def _by_label(runs: pd.DataFrame) -> dict[tuple[str, str], list[str]]:
    """Ids of the runs of every kind and label."""
    own = runs[runs["kind"].isin(["network", "declared"])]
    return {key: list(ids) for key, ids in own.groupby(["kind", "label"], sort=False)["run_id"]}  # type: ignore[misc]


def _ends(tables: Frames) -> pd.DataFrame:
    """By run: metrics of the last features at the last time on the training split, and ``ENDS``."""
    rows = tables["collapse"].query("layer == 'features' and split == 'train' and metric in @METRICS")
    last = rows[rows["time"] == rows.groupby("run_id")["time"].transform("max")]
    metrics = last.pivot_table(index="run_id", columns="metric", values="value", dropna=False, aggfunc="last")
    runs = tables["runs"].set_index("run_id")[list(ENDS)]
    return runs.join(metrics).reindex(columns=[*METRICS, *ENDS]).astype("float64")


def _labelled(label: str, quantity: str, a: pd.Series, b: pd.Series) -> LabelledPair:
    x, y = _spread(a), _spread(b)
    median, apart = Pair.of(quantity, x.median, y.median), None
    if max(x.seeds, y.seeds) > 1 and min(x.seeds, y.seeds) > 0:
        apart = bool(x.low > y.high or y.low > x.high)  # type: ignore[operator]  # both have values
    return LabelledPair(label, quantity, x, y, median, apart)


def _spread(values: pd.Series) -> Spread:
    finite = values[np.isfinite(values)]
    if finite.empty:
        return Spread(0, None, None, None)
    return Spread(len(finite), float(finite.median()), float(finite.min()), float(finite.max()))


def _claims(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[ClaimPair]:
    """Claims of A in their order, then those of B only."""
    x, y = _by_id(a), _by_id(b)
    for claim in dict.fromkeys([*x, *y]):
        one, two = x.get(claim), y.get(claim)
        given = [row for row in (one, two) if row]
        yield ClaimPair(
            claim_id=claim,
            statement=given[0]["statement"],
            needs_a=needs(one) if one else None,
            needs_b=needs(two) if two else None,
            verdict_a=one["verdict"] if one else None,
            verdict_b=two["verdict"] if two else None,
            effect=Pair.of("effect", one and one["effect"], two and two["effect"]),
        )


def _by_id(claims: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["claim_id"]: {str(key): value for key, value in row.items()} for row in claims.to_dict("records")}
