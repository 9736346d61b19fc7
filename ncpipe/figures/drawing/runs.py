"""Runs that figures draw: those that ended well, their labels and settings."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from ncpipe.records.reading import Frames
from ncpipe.settings.sweep import flat

Tables = Frames

MOST_LABELS = 60
"""Labels that are drawn in a panel of lines."""


def networks(tables: Tables) -> pd.DataFrame:
    """Rows of ``runs``: trained networks that ended well."""
    return tables["runs"].query("kind == 'network' and status == 'done'")


def declared_ufms(tables: Tables, solver: str) -> pd.DataFrame:
    """Rows of ``runs``: the study's own UFM problems by one solver."""
    return tables["runs"].query("kind == 'declared' and status == 'done' and optimizer == @solver")


def flat_settings(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The settings of every run by dotted key; empty where none are known."""
    return [flat(json.loads(text)) if isinstance(text, str) else {} for text in runs["settings"]]


def labels(runs: pd.DataFrame) -> list[str]:
    """Labels in the order of the table."""
    return list(dict.fromkeys(runs["label"]))


def few(runs: pd.DataFrame, most: int = MOST_LABELS) -> pd.DataFrame:
    """The rows of at most ``most`` labels, evenly spaced in their order."""
    names = labels(runs)
    places = np.unique(np.linspace(0, len(names) - 1, most).round().astype(int))
    return runs if len(names) <= most else runs[runs["label"].isin([names[i] for i in places])]


def zero_error_epochs(runs: pd.DataFrame) -> dict[str, float]:
    """Median over seeds of the first epoch without training error, by label, where there is one."""
    medians = runs.dropna(subset="zero_error_epoch").groupby("label", sort=False)["zero_error_epoch"].median()
    return {str(label): float(value) for label, value in medians.items()}
