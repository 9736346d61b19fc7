"""How runs ended, as far as the ``runs`` table takes it from the other tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ncpipe.study.layout import RUNS_A_PART
from ncpipe.study.study import Study
from ncpipe.tables.reading import files

# NaN is above all numbers there.
ZERO_ERROR = """
SELECT run_id, min(time) FROM read_parquet(?)
WHERE quantity = 'train_accuracy' AND value >= 1 AND NOT isnan(value) GROUP BY run_id
"""
LAST_TIMES = """
SELECT run_id, max(time) AS time FROM read_parquet(?) WHERE source = 'net' AND layer = 'features' GROUP BY run_id
"""
NETWORK_ENDS = f"""
SELECT run_id, 'final_' || split || '_' || metric, value FROM read_parquet(?) JOIN ({LAST_TIMES}) USING (run_id, time)
WHERE source = 'net' AND layer = 'features' AND metric IN ('loss', 'accuracy') AND split IN ('train', 'test')
"""
CONTINUAL_ENDS = """
SELECT run_id, 'final_' || quantity, arg_max(value, time) FROM read_parquet(?)
WHERE quantity IN ('train_loss', 'test_loss', 'train_accuracy', 'test_accuracy') AND NOT isnan(value)
GROUP BY run_id, quantity
"""
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
    """And of continual learning: last values of the history."""
    declared: dict[str, dict[str, Any]] = field(default_factory=dict)
    """And of declared UFM problems."""
    fits: Path | None = None
    """The ``ufm`` table."""

    @classmethod
    def of(cls, study: Study) -> Ends:
        """Of the tables of the study that are on disk."""
        history, collapse, fits = (study.layout.tables / f"{name}.parquet" for name in ("history", "collapse", "ufm"))
        with duckdb.connect(config={"threads": 1}) as connection:

            def found(query: str, *paths: Path) -> list[tuple[Any, ...]]:
                return connection.execute(query, [files(path) for path in paths]).fetchall()

            return cls(
                dict(found(ZERO_ERROR, history)) if study.networks else {},
                _by_run(found(NETWORK_ENDS, collapse, collapse)) if study.networks else {},
                _by_run(found(CONTINUAL_ENDS, history)) if study.continual else {},
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
            own = batch.filter(pc.field("kind") == kind).to_pandas()
            for row in own.to_dict("records"):
                yield {str(key): value for key, value in row.items()}


def _by_run(values: list[tuple[Any, ...]]) -> dict[str, dict[str, float]]:
    ends: dict[str, dict[str, float]] = {}
    for run_id, column, value in values:
        ends.setdefault(run_id, {})[column] = value
    return ends
