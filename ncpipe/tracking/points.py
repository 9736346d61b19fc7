"""The metrics of the mirror: points of curves and final values, by the names that MLflow groups them under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from ncpipe.records.schemas import UFM

MAX_METRIC_KEYS = 100
"""More make the UI crawl: what exceeds them is in the tables."""

HISTORY_KEYS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "test_loss": "test/loss",
    "test_accuracy": "test/accuracy",
    "learning_rate": "learning_rate",
    "test_old_accuracy": "test/old_accuracy",
    "test_new_accuracy": "test/new_accuracy",
    "old_loss": "test/old_loss",
    "before_old_loss": "before/old_loss",
    "before_old_accuracy": "before/old_accuracy",
    "objective": "ufm/objective",
    "gap": "ufm/gap",
    "gradient_norm": "ufm/gradient_norm",
}
COLLAPSE_PREFIXES = {"train": "nc/", "test": "nc_test/"}

FIT_KEYS = {"value": "ufm/objective", "gap": "ufm/gap", "gradient_norm": "ufm/gradient_norm"}
"""Logged from the ``ufm`` table for fits that keep no history, such as constructions."""
FIT_SCALARS = {name: f"ufm/{name}" for name in ("optimum", "success_fraction", "dead_directions")} | {
    f"{which}_{what}": f"matched/{which}_{what}"
    for which in ("predicted", "measured")
    for what in ("loss", "feature_norm", "weight_norm")
}
FIT_SCALARS |= {name: f"matched/{name}" for name in UFM.names if name.endswith("_error")}


class Point(NamedTuple):
    """One value of a metric, in the order of MLflow's ``Metric``; the timestamp is in milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


def metric_points(tables: Mapping[str, pa.Table]) -> pd.DataFrame:
    """Finite values of all metrics of all runs: columns ``run_id``, ``key``, ``step``, ``value``."""
    history, collapse = tables["history"].to_pandas(), tables["collapse"].to_pandas()
    fits, runs = tables["ufm"].to_pandas(), tables["runs"].to_pandas()
    last = collapse[collapse["layer"] == "features"]
    without_history = fits[~fits["run_id"].isin(history["run_id"])]
    parts = [
        history_points(history),
        _scalars(without_history, FIT_KEYS, step="iterations"),
        _scalars(fits, FIT_SCALARS, step="iterations"),
        _scalars(runs, {"zero_error_epoch": "zero_error_epoch"}, step="zero_error_epoch"),
        _long(last, last["split"].map(COLLAPSE_PREFIXES) + last["metric"]),
    ]
    points = pd.concat(parts, ignore_index=True)
    return finite(points)


def history_points(history: pd.DataFrame) -> pd.DataFrame:
    """Points of the ``history`` table alone."""
    return finite(_long(history, history["quantity"].map(HISTORY_KEYS)))


def finite(points: pd.DataFrame) -> pd.DataFrame:
    """Those that MLflow can show: it turns infinity into a number, and the rest has no key."""
    return points[points["key"].notna() & np.isfinite(points["value"].astype(float))]


def _long(frame: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"run_id": frame["run_id"], "key": keys, "step": frame["time"], "value": frame["value"]})


def _scalars(frame: pd.DataFrame, keys: Mapping[str, str], step: str) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"run_id": frame["run_id"], "key": key, "step": frame[step].fillna(0), "value": frame[name]})
        for name, key in keys.items()
    ]
    return pd.concat(parts, ignore_index=True)


def run_points(points: pd.DataFrame | None, start: int) -> list[Point]:
    """Points of one run of its first ``MAX_METRIC_KEYS`` metrics; those without a recorded time at its start."""
    if points is None:
        return []
    kept = points[points["key"].isin(points["key"].unique()[:MAX_METRIC_KEYS])]
    timestamps = kept["timestamp"].fillna(start).astype("int64")
    columns = kept["key"], kept["value"].astype(float), timestamps, kept["step"]
    return [Point(*point) for point in zip(*(column.tolist() for column in columns))]
