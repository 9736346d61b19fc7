"""Two studies side by side: do common runs reproduce, and what became of labels and claims."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.wording import needs
from ncpipe.compare.agreement import Tables, agreement
from ncpipe.compare.comparison import Comparison, Row, defined, facts, pair
from ncpipe.compare.runs import MAIN
from ncpipe.compare.sources import StudySource

METRICS = MAIN[:-2]  # accuracy and loss are among the ends
QUANTITIES = [*METRICS, "final_train_loss", "final_test_loss", "final_train_accuracy", "final_test_accuracy",
              "zero_error_epoch"]  # fmt: skip
"""What labels are compared by: metrics of the last features, and columns of the table ``runs``."""


def compare_studies(a: StudySource, b: StudySource) -> Comparison:
    """Put two studies side by side.

    Runs are the same where their ids are, which hold the hash of the settings. Networks and declared UFMs of one
    label but not of the same ids are compared by the medians over their seeds.
    """
    runs_a, runs_b = (dict(zip(*(s.tables["runs"][key].to_pylist() for key in ("run_id", "status")))) for s in (a, b))
    common = [run_id for run_id in runs_a if run_id in runs_b]
    return Comparison(
        kind="studies",
        a={"study": a.name},
        b={"study": b.name},
        rows=[*facts("provenance", a.metadata, b.metadata), *_labels(a.tables, b.tables),
              *_claims(a.tables, b.tables)],
        agreement=agreement(a.tables, b.tables, common),
        runs={
            "only_a": [run_id for run_id in runs_a if run_id not in runs_b],
            "only_b": [run_id for run_id in runs_b if run_id not in runs_a],
            "common": common,
            "without_results": [i for i in common if runs_a[i] == runs_b[i] == "missing"],
        },
    )  # fmt: skip


def _labels(a: Tables, b: Tables) -> Iterator[Row]:
    x, y = _by_label(a), _by_label(b)
    for (kind, label), runs in x.items():
        others = y.get((kind, label))
        if others is None or set(runs.index) == set(others.index):
            continue
        for quantity in QUANTITIES:
            spread_a, spread_b = _spread(runs[quantity]), _spread(others[quantity])
            if seeds := max(spread_a["seeds"], spread_b["seeds"]):
                ranged = seeds > 1 and min(spread_a["seeds"], spread_b["seeds"]) > 0
                apart = spread_a["low"] > spread_b["high"] or spread_b["low"] > spread_a["high"] if ranged else None
                spreads = {f"{key}_{side}": spread[key] for side, spread in (("a", spread_a), ("b", spread_b))
                           for key in ("seeds", "low", "high")}  # fmt: skip
                row = {"table": "labels", "quantity": quantity, "label": label, "apart": apart}
                yield row | pair(spread_a["median"], spread_b["median"]) | spreads


def _by_label(tables: Tables) -> dict[tuple[str, str], pd.DataFrame]:
    """``QUANTITIES`` of the networks and declared UFMs of every kind and label, by run."""
    collapse = tables["collapse"].to_pandas().query("layer == 'features' and split == 'train' and metric in @METRICS")
    last = collapse[collapse["time"] == collapse.groupby("run_id")["time"].transform("max")]
    metrics = last.pivot_table(index="run_id", columns="metric", values="value", dropna=False, aggfunc="last")
    runs = tables["runs"].to_pandas().query("kind in ['network', 'declared']").set_index("run_id")
    values = runs.join(metrics).reindex(columns=QUANTITIES).astype("float64")
    return {key: values.loc[rows.index] for key, rows in runs.groupby(["kind", "label"], sort=False)}


def _spread(values: pd.Series) -> Row:
    """Number, median and range of the finite values."""
    finite = values[np.isfinite(values)]
    numbers = {"median": finite.median(), "low": finite.min(), "high": finite.max()}
    return {"seeds": len(finite)} | {key: defined(value) for key, value in numbers.items()}


def _claims(a: Tables, b: Tables) -> Iterator[Row]:
    """Claims of A in their order, then those of B only; verdict None: not put to the tables."""
    x, y = ({row["claim_id"]: row for row in tables["claims"].to_pylist()} for tables in (a, b))
    for claim in dict.fromkeys([*x, *y]):
        sides = {"a": x.get(claim), "b": y.get(claim)}
        row = {"table": "claims", "quantity": claim, "statement": next(c["statement"] for c in sides.values() if c)}
        for side, decided in sides.items():
            row[f"verdict_{side}"] = decided and decided["verdict"]
            row[f"needs_{side}"] = decided and needs(decided)
        yield (
            row
            | pair(*(decided and decided["effect"] for decided in sides.values()))
            | {"changed": None not in (row["verdict_a"], row["verdict_b"]) and row["verdict_a"] != row["verdict_b"]}
        )
