"""Runs that figures draw: those that ended well, their labels and settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from ncpipe.records.reading import Frames

Tables = Frames
T = TypeVar("T")

MOST_LABELS = 8
"""Labels that are drawn in a figure: as many as there are colours."""


def networks(tables: Tables) -> pd.DataFrame:
    """Rows of ``runs``: trained networks that ended well."""
    return tables["runs"].query("kind == 'network' and status == 'done'")


def declared_ufms(tables: Tables, solver: str) -> pd.DataFrame:
    """Rows of ``runs``: the study's own UFM problems by one solver."""
    return tables["runs"].query("kind == 'declared' and status == 'done' and optimizer == @solver")


def labels(runs: pd.DataFrame) -> list[str]:
    """Labels in the order of the table."""
    return list(dict.fromkeys(runs["label"]))


def few(runs: pd.DataFrame, most: int = MOST_LABELS) -> pd.DataFrame:
    """The rows of at most ``most`` labels, evenly spaced in their order."""
    return runs[runs["label"].isin(evenly(labels(runs), most))]


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(most, len(items)))
    return [items[place] for place in places.round().astype(int)]


def zero_error_epochs(runs: pd.DataFrame) -> dict[str, float]:
    """Median over seeds of the first epoch without training error, by label, where there is one."""
    medians = runs.dropna(subset="zero_error_epoch").groupby("label", sort=False)["zero_error_epoch"].median()
    return {str(label): float(value) for label, value in medians.items()}
