"""How runs ended, as far as the ``runs`` table takes it from the other tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ncpipe.records.reading import batches
from ncpipe.records.writing import PERFECT
from ncpipe.study.layout import RUNS_A_PART
from ncpipe.study.study import Study

LAST: dict[str, Any] = {
    "source": "net",
    "layer": "features",
    "metric": ["loss", "accuracy"],
    "split": ["train", "test"],
}
"""Rows of ``collapse`` with the losses and accuracies of networks."""
QUANTITIES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
FIT = ["run_id", "kind", "network_id", "model", "loss", "bias", "classes", "samples", "dim", "activation", "seed"]
FIT += ["feature_decay", "solver", "weight_decay", "status", "iterations", "value"]
"""Columns of the ``ufm`` table that the ``runs`` table has too."""


@dataclass(frozen=True)
class Ends:
    """By run id; empty before there are results."""

    zero_error_epoch: dict[str, int] = field(default_factory=dict)
    """First epoch with 100 % running training accuracy, where there is one."""
    network: dict[str, dict[str, float]] = field(default_factory=dict)
    """Columns ``final_…`` of networks: metrics of the last features at the last time."""
    continual: dict[str, dict[str, float]] = field(default_factory=dict)
    """Columns ``final_…`` of runs of continual learning: last values of the history that are defined."""
    declared: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Columns of declared UFM problems."""
    fits: Path | None = None
    """The ``ufm`` table."""

    @classmethod
    def of(cls, study: Study) -> Ends:
        """Ends from the tables of the study that are on disk."""
        history, collapse, fits = (study.layout.tables / f"{name}.parquet" for name in ("history", "collapse", "ufm"))
        return cls(
            zero_error_epochs(history) if study.networks else {},
            _by_run(last_values(collapse, ("split", "metric"), **LAST)) if study.networks else {},
            _by_run(last_values(history, ("quantity",), True, quantity=QUANTITIES)) if study.continual else {},
            {fit["run_id"]: fit_end(fit) for fit in _fits(fits, "declared")},
            fits,
        )

    def matched_fits(self) -> Iterator[dict[str, Any]]:
        """Rows of the ``ufm`` table of matched models, columns ``FIT``."""
        return iter(()) if self.fits is None else _fits(self.fits, "matched")


def fit_end(fit: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the ``runs`` table that tell how a fit ended."""
    return {
        "status": fit["status"],
        "final_epoch": fit["iterations"],
        "final_train_loss": fit["value"],
        "device": "cpu",
    }


def _fits(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(RUNS_A_PART, columns=FIT):
            yield from batch.filter(pc.field("kind") == kind).to_pandas().to_dict("records")


def zero_error_epochs(history: Path) -> dict[str, int]:
    """First epoch with 100 % running training accuracy, by run, where there is one."""
    found: dict[str, int] = {}
    for batch in batches(history, ["run_id", "time", "value"], quantity="train_accuracy"):
        perfect = batch.filter(pc.field("value") >= PERFECT)
        for run_id, time in zip(perfect["run_id"].to_pylist(), perfect["time"].to_pylist()):
            found[run_id] = min(time, found.get(run_id, time))
    return found


def _by_run(values: Mapping[tuple[str, ...], float]) -> dict[str, dict[str, float]]:
    """Columns ``final_…`` by run, of last values."""
    ends: dict[str, dict[str, float]] = {}
    for (run_id, *names), value in values.items():
        ends.setdefault(run_id, {})["_".join(["final", *names])] = value
    return ends


def last_values(path: Path, by: Sequence[str], defined: bool = False, **wanted: Any) -> dict[tuple[str, ...], float]:
    """Values at the last time, by run and the columns ``by``; with ``defined`` at the last time that is not NaN."""
    found: dict[tuple[str, ...], tuple[int, float]] = {}
    keys = ["run_id", *by]
    for batch in batches(path, [*keys, "time", "value"], **wanted):
        rows = pa.Table.from_batches([batch.filter(~pc.is_nan(pc.field("value"))) if defined else batch])
        last = rows.sort_by("time").group_by(keys, use_threads=False).aggregate([("time", "last"), ("value", "last")])
        for row in last.to_pylist():
            key = tuple(row[name] for name in keys)
            if key not in found or row["time_last"] >= found[key][0]:
                found[key] = row["time_last"], row["value_last"]
    return {key: value for key, (_, value) in found.items()}
