"""Words of captions: numbers of runs, and what is not drawn."""

from __future__ import annotations

import pandas as pd

from ncpipe.figures.drawing.runs import MOST_LABELS, Tables, labels
from ncpipe.system.words import plural


def not_drawn(*kinds: pd.DataFrame, most: int = MOST_LABELS) -> str:
    """A sentence where ``few`` leaves labels out, or nothing."""
    counts = [len(labels(runs)) for runs in kinds]
    parts = [f"{most} of {count:,}" for count in counts if count > most]
    return f" Drawn are {' and '.join(parts)} labels, evenly spaced in the order of the plan." if parts else ""


def counted(runs: pd.DataFrame, what: str) -> str:
    """'12 networks (4 labels, 3 seeds)'."""
    names, seeds = len(labels(runs)), runs["seed"].nunique()
    return f"{plural(len(runs), what)} ({plural(names, 'label')}, {plural(seeds, 'seed')})"


def lost(tables: Tables, kind: str, what: str) -> str:
    """A sentence on the runs that are in no figure, or nothing."""
    counts = tables["runs"].query("kind == @kind and status != 'done'")["status"].value_counts()
    parts = [f"{plural(count, what)} {status}" for status, count in sorted(counts.items())]
    return f" Not shown: {', '.join(parts)}." if parts else ""
