"""Words of captions: numbers of runs, what is not drawn, and the data with their size, the seeds and the scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from ncpipe.figures.drawing.runs import MOST_LABELS, Tables, labels
from ncpipe.system.words import plural

KINDS = {
    "network": ("Networks", "network", "epoch"),
    "declared": ("UFMs", "UFM", "iteration"),
    "continual": ("Class-incremental learning", "run", "step"),
}
"""Kinds of runs: name, one of them, and unit of time."""


def not_drawn(*kinds: pd.DataFrame, most: int = MOST_LABELS) -> str:
    """A sentence where ``few`` leaves labels out, or nothing."""
    counts = [len(labels(runs)) for runs in kinds]
    parts = [f"{most} of {count:,}" for count in counts if count > most]
    return f" Drawn are {' and '.join(parts)} labels, evenly spaced in the order of the plan." if parts else ""


def counted(runs: pd.DataFrame, what: str) -> str:
    """'12 networks (4 labels, 3 seeds)'."""
    names, seeds = len(labels(runs)), runs["seed"].nunique()
    return f"{plural(len(runs), what)} ({plural(names, 'label')}, {plural(seeds, 'seed')})"


def lost(tables: Tables, *kinds: str) -> str:
    """A sentence on the runs of these kinds that are in no figure, or nothing."""
    counts = tables["runs"].query("status != 'done'").groupby(["kind", "status"]).size()
    parts = [f"{plural(counts[kind, s], KINDS[kind][1])} {s}" for kind in kinds for k, s in counts.index if k == kind]
    return f" Not shown: {', '.join(parts)}." if parts else ""


def facts(tables: Tables, kinds: Sequence[str], scale: str = "") -> str:
    """Sentences on the runs of these kinds that ended well, each led by a space, as ' Networks: digits (K = 10,
    N = 1350), seeds 0 to 2. Scale: small.'; nothing where there is no such run.

    Args:
        tables: of the study.
        kinds: of runs, as in the ``runs`` table.
        scale: size of the study; empty where it has only one.
    """
    done = tables["runs"].query("status == 'done'")
    parts = [f"{KINDS[kind][0]}: {_data(runs)}" for kind in kinds if len(runs := done[done["kind"] == kind])]
    if parts and scale:
        parts.append(f"Scale: {scale}")
    return "".join(f" {part}." for part in parts)


def _data(runs: pd.DataFrame) -> str:
    """'digits (K = 10, N = 1350), seeds 0 to 2'; what has no data set, as UFMs: 'K = 4, N = 20 to 200, seed 0'."""
    names = runs["dataset"].astype(object).where(runs["dataset"].notna(), "")
    groups = [(str(name), runs[names == name]) for name in dict.fromkeys(names)]
    sizes = [(name, ", ".join(_sizes(group))) for name, group in groups]
    described = [f"{name} ({size})" if name and size else name or size for name, size in sizes]
    return ", ".join([*filter(None, described), *_seeds(runs["seed"])])


def _sizes(runs: pd.DataFrame) -> Iterator[str]:
    for symbol, column in (("K", "classes"), ("N", "train_samples")):
        values = sorted({int(value) for value in runs[column].dropna()})
        if values:
            yield f"{symbol} = {values[0]}" + (f" to {values[-1]}" if len(values) > 1 else "")


def _seeds(column: pd.Series) -> Iterator[str]:
    seeds = sorted({int(seed) for seed in column.dropna()})
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        yield f"seeds {seeds[0]} to {seeds[-1]}"
    elif seeds:
        yield f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
