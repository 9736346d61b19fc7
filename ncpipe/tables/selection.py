"""The choice among networks in the tables: which runs are selected, and tables without the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ncpipe.records.reading import Frames, StoredTables
from ncpipe.study.config import SelectSpec
from ncpipe.study.selection import Alternatives, alternatives
from ncpipe.training.settings import NetworkSpec

NOT_SELECTED = "not selected"
"""Status that a run has in comparisons where the rule has not chosen it."""


def selected(rule: SelectSpec, specs: Mapping[str, NetworkSpec], rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Ids of the networks that ``rule`` chooses by their ``rows`` of the ``runs`` table; none of a group in which
    every value has a run that diverged or is missing. Networks without the setting are all chosen."""
    by_id = {row["run_id"]: row for row in rows}
    groups = alternatives(specs, rule.over)
    competing = {run_id for group in groups for ids in group.values() for run_id in ids}
    winners = (run_id for group in groups for run_id in _winner(rule, group, by_id))
    return {*winners, *(specs.keys() - competing)}


def _winner(rule: SelectSpec, group: Alternatives, by_id: Mapping[str, Mapping[str, Any]]) -> list[str]:
    sign = -1 if rule.by.endswith("accuracy") else 1
    column = f"final_{rule.by}"
    means = {
        value: sign * fmean(by_id[run_id][column] for run_id in ids)
        for value, ids in group.items()
        if all(by_id[i]["status"] == "done" and by_id[i].get(column) is not None for i in ids)
    }
    costs = {value: mean for value, mean in means.items() if math.isfinite(mean)}
    if not costs:
        return []
    best = min(costs.values())
    # of equal means, which rounding may tell apart, the smaller value
    return group[min(value for value, cost in costs.items() if math.isclose(cost, best, rel_tol=1e-12))]


def compared(tables: Frames) -> Frames:
    """The tables as figures, claims and report compare runs: what the study's rule has not chosen has the status
    'not selected', as what was computed on it, and no matched UFM. Without a rule these are the tables themselves."""
    runs = tables["runs"]
    dropped = runs["selected"].eq(False)  # null, as without a rule, is not
    if not dropped.any():
        return tables
    lost = runs.loc[dropped, "run_id"]
    dropped |= runs["network_id"].isin(lost)
    fits = tables["ufm"]
    changed = {
        "runs": runs.assign(status=runs["status"].mask(dropped, NOT_SELECTED)),
        "ufm": fits[~fits["network_id"].isin(lost)],
    }
    return tables | changed if isinstance(tables, StoredTables) else {**tables, **changed}
