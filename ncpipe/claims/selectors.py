"""What claims read of the tables: runs, final values and settings."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from ncpipe.claims.claim import Frames
from ncpipe.study.selection import flat

# The papers speak of training past zero error; NaN, no such epoch, is not equal to itself.
NETWORKS = "kind == 'network' and status == 'done' and zero_error_epoch == zero_error_epoch"


def run_ids(frames: Frames, query: str) -> pd.Index:
    """Ids of the runs that a query of the ``runs`` table selects."""
    return pd.Index(frames["runs"].query(query)["run_id"])


def measured(
    frames: Frames, runs: pd.Index, metric: str, layer: str | None = "features", split: str = "train"
) -> pd.DataFrame:
    """Rows of the ``collapse`` table of a metric of these runs, by time; ``layer`` None takes all."""
    table = frames["collapse"]
    chosen = (table["metric"] == metric) & (table["split"] == split) & table["run_id"].isin(runs)
    if layer is not None:
        chosen &= table["layer"] == layer
    return table[chosen].sort_values("time")


def final(frames: Frames, runs: pd.Index, metric: str, layer: str = "features", split: str = "train") -> pd.Series:
    """Value of a metric at the last measured time, by run."""
    return measured(frames, runs, metric, layer, split).groupby("run_id")["value"].last()


def since_zero_error(frames: Frames, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at and after the first epoch without training error of their run."""
    zero = frames["runs"].set_index("run_id")["zero_error_epoch"]
    return rows[rows["time"] >= rows["run_id"].map(zero).astype(float)]


def setting(frames: Frames, key: str) -> pd.Series:
    """A setting by its dotted key ('head.temperature'), by run; None where a run has none of that name."""
    runs = frames["runs"]
    values: list[Any] = [flat(json.loads(text)).get(key) if text else None for text in runs["settings"]]
    return pd.Series(values, index=pd.Index(runs["run_id"]), dtype=object)


def log10(values: pd.Series) -> pd.Series:
    return pd.Series(np.log10(values.astype(float)), index=values.index)
