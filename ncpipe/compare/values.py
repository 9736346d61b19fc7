"""All values that two studies have of the same runs, put against each other: does a rerun reproduce?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ncpipe.compare.pairs import defined
from ncpipe.compare.sources import Frames
from ncpipe.records.schemas import UFM

KEY = ["table", "quantity", "run_id", "split", "layer", "time"]
ENDS = ("parameters", "zero_error_epoch", "final_epoch", "final_train_loss", "final_test_loss",
        "final_train_accuracy", "final_test_accuracy")  # fmt: skip
"""Numbers of the table ``runs`` that are results, not settings."""
WORDS = ("status", "device", "precision")
"""And its words."""
LISTS = [field.name for field in UFM if pa.types.is_list(field.type)]
NUMBERS = [field.name for field in UFM if not pa.types.is_list(field.type) and not pa.types.is_string(field.type)]
"""Columns of the table ``ufm`` by kind."""


@dataclass(frozen=True)
class Deviation:
    """How far a quantity of a table differs over the runs of both studies."""

    table: str
    quantity: str
    values: int
    differing: int
    one_sided: int
    """Of the differing values those that are a finite number on one side only, or missing there."""
    relative: float | None
    """Largest |a - b| / max(|a|, |b|) over finite values; None where only one-sided values differ."""
    run_id: str
    """Where that is; of one-sided values, the first."""
    split: str
    layer: str
    time: int
    """Epoch or iteration; of a list its position; -1: no time."""
    a: float | None
    b: float | None


@dataclass(frozen=True)
class Reworded:
    """A word of the table ``runs`` that differs: how it ended, and what it was computed on."""

    column: str
    a: str | None
    b: str | None
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """All values of the common runs, and those that differ."""

    only_a: tuple[str, ...]
    """Quantities that B's tables do not have at all, as those of another version; not compared."""
    only_b: tuple[str, ...]
    values: int
    differing: int
    runs: int
    differing_runs: int
    deviations: tuple[Deviation, ...]
    """Largest first."""
    words: tuple[Reworded, ...]


def agreement(a: Frames, b: Frames, ids: Collection[str]) -> Agreement:
    """Compare every value that the tables hold of these runs: histories, collapse metrics, fits and ends.

    Equal means the same number (0 and -0 are), or undefined on both sides. Wall-clock times are left out.
    """
    one, two = _long(a), _long(b)
    known_a, known_b = (set(zip(long["table"], long["quantity"])) for long in (one, two))
    shared = [_chosen(long, ids, known_a & known_b) for long in (one, two)]
    both = shared[0].merge(shared[1], on=KEY, how="outer", suffixes=("_a", "_b"), indicator=True)
    x, y = both["value_a"].to_numpy(float), both["value_b"].to_numpy(float)
    present = (both["_merge"] == "both").to_numpy()
    same = present & ((x == y) | (np.isnan(x) & np.isnan(y)))
    finite = np.isfinite(x) & np.isfinite(y)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = np.where(finite & ~same, np.abs(x - y) / np.maximum(np.abs(x), np.abs(y)), np.nan)
    both = both.assign(differs=~same, one_sided=~same & ~finite, relative=relative)
    words = tuple(_words(a["runs"], b["runs"], ids))
    others = both[both["differs"]]
    changed = set(others["run_id"]).union(*(word.run_ids for word in words))
    return Agreement(
        only_a=tuple(sorted({quantity for _, quantity in known_a - known_b})),
        only_b=tuple(sorted({quantity for _, quantity in known_b - known_a})),
        values=len(both) + len(WORDS) * len(ids),
        differing=len(others) + sum(len(word.run_ids) for word in words),
        runs=len(ids),
        differing_runs=len(changed),
        deviations=tuple(sorted(_deviations(both), key=lambda d: -np.inf if d.relative is None else -d.relative)),
        words=words,
    )


def _deviations(both: pd.DataFrame) -> Iterator[Deviation]:
    counts = both.groupby(["table", "quantity"], sort=False).size().to_dict()
    for (table, quantity), group in both[both["differs"]].groupby(["table", "quantity"], sort=False):
        bounded = group["relative"].notna().any()
        worst: pd.Series = group.iloc[int(group["relative"].fillna(-1).to_numpy().argmax())]
        yield Deviation(
            table=str(table),
            quantity=str(quantity),
            values=int(counts[table, quantity]),
            differing=len(group),
            one_sided=int(group["one_sided"].sum()),
            relative=float(worst["relative"]) if bounded else None,
            run_id=worst["run_id"],
            split=worst["split"],
            layer=worst["layer"],
            time=int(worst["time"]),
            a=defined(worst["value_a"]),
            b=defined(worst["value_b"]),
        )


def _long(tables: Frames) -> pd.DataFrame:
    """One row per value, under ``KEY``."""
    collapse, fits = tables["collapse"], tables["ufm"]
    places = collapse.drop_duplicates(["run_id", "split", "layer", "time"])
    parts = [
        ("history", tables["history"]),
        ("collapse", collapse.rename(columns={"metric": "quantity"})),
        ("collapse", _melted(places, ["rank", "condition"], ["split", "layer", "time"])),
        ("runs", _melted(tables["runs"], ENDS)),
        ("ufm", _melted(fits, NUMBERS)),
        ("ufm", _exploded(fits)),
    ]
    rows = [_keyed(table, part) for table, part in parts if len(part)]
    return pd.concat(rows or [_keyed("", pd.DataFrame())], ignore_index=True)


def _chosen(long: pd.DataFrame, ids: Collection[str], quantities: Collection[tuple[str, str]]) -> pd.DataFrame:
    """The values of these runs and quantities."""
    own = long[long["run_id"].isin(ids)]
    wanted = [pair in quantities for pair in zip(own["table"], own["quantity"])]
    return own[np.array(wanted, dtype=bool)]


def _melted(rows: pd.DataFrame, columns: Sequence[str], places: Sequence[str] = ()) -> pd.DataFrame:
    """Columns of quantities as rows."""
    # the table ufm has a column named value
    long = rows.melt(["run_id", *places], columns, "quantity", "number")
    return long.rename(columns={"number": "value"})


def _keyed(table: str, rows: pd.DataFrame) -> pd.DataFrame:
    whole = rows.assign(table=table).reindex(columns=[*KEY, "value"])
    whole = whole.astype({"split": object, "layer": object}).fillna({"split": "", "layer": "", "time": -1})
    return whole.assign(value=pd.to_numeric(whole["value"])).astype({"time": "int64", "value": "float64"})


def _exploded(fits: pd.DataFrame) -> pd.DataFrame:
    """Lists by position; a null list has no value."""
    long = _melted(fits, LISTS).dropna(subset="value").explode("value")
    return long.assign(time=long.groupby(["run_id", "quantity"]).cumcount())


def _words(a: pd.DataFrame, b: pd.DataFrame, ids: Collection[str]) -> Iterator[Reworded]:
    both = a[a["run_id"].isin(ids)].merge(b, on="run_id", suffixes=("_a", "_b"))
    for column in WORDS:
        found: dict[tuple[str | None, str | None], list[str]] = {}
        for run_id, x, y in zip(both["run_id"], both[f"{column}_a"], both[f"{column}_b"]):
            if (pair := (word(x), word(y)))[0] != pair[1]:
                found.setdefault(pair, []).append(run_id)
        yield from (Reworded(column, x, y, tuple(run_ids)) for (x, y), run_ids in found.items())


def word(value: Any) -> str | None:
    """Text of a table; None for null, which pandas may write as NaN."""
    return value if isinstance(value, str) else None
