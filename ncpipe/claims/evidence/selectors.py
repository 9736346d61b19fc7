"""What claims read of the tables: runs, final values and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, Concatenate, Literal, ParamSpec

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.claim import Frames, Values
from ncpipe.networks.architectures import ARCHITECTURES
from ncpipe.records.reading import fits_of, rows_of, unconstrained
from ncpipe.settings.sweep import flat

Choices = ParamSpec("Choices")


def statistic(values: Callable[Concatenate[Frames, Choices], pd.Series]) -> Callable[Choices, Values]:
    """Decorator: what computes a statistic from tables and choices takes the choices, and gives what does so from
    tables alone, as claims have it."""
    return lambda *args, **named: lambda frames: values(frames, *args, **named)


TRAINED = "kind == 'network' and status == 'done'"
# The papers speak of training past zero error; NaN, no such epoch, is not equal to itself.
NETWORKS = f"{TRAINED} and zero_error_epoch == zero_error_epoch"


def run_ids(frames: Frames, query: str) -> pd.Index:
    """Ids of the runs that a query of the ``runs`` table selects."""
    return pd.Index(frames["runs"].query(query)["run_id"])


def measured(
    frames: Frames, runs: pd.Index, metric: str, layer: str | None = "features", split: str = "train"
) -> pd.DataFrame:
    """Rows of the ``collapse`` table of a metric of these runs, by time; ``layer`` None takes all."""
    wanted = {} if layer is None else {"layer": layer}
    return rows_of(frames, "collapse", metric=metric, split=split, run_id=set(runs), **wanted).sort_values("time")


def final(frames: Frames, runs: pd.Index, metric: str, layer: str = "features", split: str = "train") -> pd.Series:
    """Value of a metric at the last measured time, by run."""
    return by_run(at_last_time(measured(frames, runs, metric, layer, split)))


def at_last_time(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at the last measured time of their run."""
    return rows[rows["time"] == rows.groupby("run_id")["time"].transform("max")]


def by_run(rows: pd.DataFrame) -> pd.Series:
    """The values of rows of which every run has one, by run."""
    return rows.set_index("run_id")["value"].astype(float)


def ends(rows: pd.DataFrame, by: Sequence[str] = ("run_id",)) -> pd.DataFrame:
    """Columns ``first`` and ``last``: the values at the two ends of a run, or of what else ``by`` tells apart.

    What has one time only, so that nothing can be said of a change, is left out.
    """
    ordered = rows.sort_values("time")
    first = ordered.drop_duplicates(list(by)).set_index(list(by))
    last = ordered.drop_duplicates(list(by), keep="last").set_index(list(by)).reindex(first.index)
    values = pd.DataFrame({"first": first["value"], "last": last["value"]}, dtype=float)
    return values[last["time"] > first["time"]]


def log_change(table: pd.DataFrame) -> pd.Series:
    """log10 of last over first, of a table by ``ends``."""
    return log10(table["last"] / table["first"])


def past_zero_error(
    frames: Frames, metric: str, query: str = NETWORKS, layer: str = "features", split: str = "train"
) -> pd.DataFrame:
    """A metric at the first epoch without training error and at the last, by run: see ``ends``."""
    return ends(since_zero_error(frames, measured(frames, run_ids(frames, query), metric, layer, split)))


@statistic
def terminal_change(frames: Frames, metric: str, query: str = NETWORKS, split: str = "train") -> pd.Series:
    """log10 of a metric at the last epoch over that at the first one without training error."""
    return log_change(past_zero_error(frames, metric, query, split=split))


def since_zero_error(frames: Frames, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at and after the first epoch without training error of their run."""
    zero = frames["runs"].set_index("run_id")["zero_error_epoch"]
    return rows[rows["time"] >= rows["run_id"].map(zero).astype(float)]


def setting(frames: Frames, key: str) -> pd.Series:
    """A setting by its dotted key ('head.temperature'), by run; None where a run has none of that name."""
    values: list[Any] = [tree.get(key) for tree in flat_settings(frames["runs"])]
    return pd.Series(values, index=pd.Index(frames["runs"]["run_id"]), dtype=object)


def flat_settings(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The settings of every run by dotted key; empty where none are known."""
    return [flat(json.loads(text)) if isinstance(text, str) else {} for text in runs["settings"]]


NORMED, ONE_BELOW, BARE = "below the head", "one layer below", "none"


def batch_norms(frames: Frames) -> pd.Series:
    """Where the last BatchNorm of every network stands, by run: below the head, one layer below (a hidden layer
    without one reads it), or nowhere; None of runs that are no network, of heads with more hidden layers, and of
    architectures that do not tell."""
    told = [setting(frames, name) for name in ("model.name", "model.batch_norm", "head.feature_dim", "head.hidden")]
    found = [_batch_norm(*values) for values in zip(*told, strict=True)]
    return pd.Series(found, index=told[0].index, dtype=object)


def _batch_norm(model: str | None, layers: bool | str | None, projection: Any, hidden: Any) -> str | None:
    architecture = ARCHITECTURES.get(model or "")
    norm = architecture and architecture.last_norm
    if norm is None or (hidden or 0) > 1:
        return None
    if projection is None and (layers is False or norm == "none"):
        return BARE
    return ONE_BELOW if hidden or (layers == "all_but_last" and projection is None) else NORMED


def alike(frames: Frames, *names: str, without: Collection[str] = ()) -> pd.Series:
    """The settings of these names, groups of settings ('model') included, as text by run: equal where they are.

    No name takes all settings. ``without`` are the dotted keys of those that may differ.
    """
    chosen = [
        {
            key: value
            for key, value in tree.items()
            if key not in without and (not names or key.split(".")[0] in names)
        }
        for tree in flat_settings(frames["runs"])
    ]
    texts = [json.dumps(tree, sort_keys=True) for tree in chosen]
    return pd.Series(texts, index=pd.Index(frames["runs"]["run_id"]), dtype=object)


def recorded(frames: Frames, runs: pd.Index, quantity: str | None = None) -> pd.DataFrame:
    """Rows of the ``history`` table of a quantity of these runs, or of all quantities, by time."""
    wanted = {} if quantity is None else {"quantity": quantity}
    return rows_of(frames, "history", run_id=set(runs), **wanted).sort_values("time")


def class_counts(frames: Frames, runs: pd.Index | pd.Series) -> pd.Series:
    """Numbers of classes K of these runs."""
    return frames["runs"].set_index("run_id")["classes"].reindex(runs).astype(float)


def of_partners(
    runs: pd.Index, values: pd.Series, pair: pd.Series, best: Literal["min", "max", "first"]
) -> pd.Series:
    """For each run the value of its partner, which has the same ``pair``; of several the best, of none NaN."""
    by_pair = values.groupby(pair.reindex(values.index)).agg(best)
    return pd.Series(by_pair.reindex(pair.reindex(runs)).to_numpy(float), index=runs)


def solved(frames: Frames, query: str) -> pd.DataFrame:
    """Rows of the ``ufm`` table that a query selects, of declared problems by L-BFGS: that runs to stationarity."""
    return unconstrained(fits_of(frames, kind="declared", solver="lbfgs", status="done").query(query))


@statistic
def optimality(frames: Frames, query: str) -> pd.Series:
    """|objective - closed form| / closed form of the problems of ``solved`` that have a closed form."""
    known = solved(frames, query).dropna(subset=["gap", "optimum"]).set_index("run_id")
    return (known["gap"].astype(float) / known["optimum"].astype(float)).abs()


@statistic
def solved_end(frames: Frames, query: str, metric: str) -> pd.Series:
    """Value of a metric of the last features at the last time of the problems of ``solved``."""
    return final(frames, pd.Index(solved(frames, query)["run_id"]), metric)


def log10(values: pd.Series) -> pd.Series:
    with np.errstate(divide="ignore"):  # of zero: -inf
        return pd.Series(np.log10(values.astype(float)), index=values.index)
