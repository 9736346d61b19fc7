"""The summary of a study in words, from its tables."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ncpipe.claims.wording import counted as counted_verdicts
from ncpipe.claims.wording import number
from ncpipe.figures.series import Tables, counted, labels, measured, networks, plural

FRAMES = {
    "class means": ("nc2_means_of", "nc2_means_uncentred_etf"),
    "classifier weights": ("nc2_weights_of", "nc2_weights_etf"),
}


def sentences(tables: Tables) -> list[str]:
    """What was run, how far it collapsed, towards which frame, and what became of the claims."""
    return [*_runs(tables), *_collapse(tables), *_frames(tables), *_claims(tables["claims"])]


def interval(values: pd.Series) -> str:
    low, high = number(values.min()), number(values.max())
    return low if low == high else f"{low} to {high}"


def final_values(tables: Tables, runs: pd.DataFrame, metric: str) -> pd.Series:
    """Training-split value of the last features at the last time, by run."""
    rows = measured(tables, runs).query("metric == @metric").sort_values("time")
    return rows.groupby("run_id")["value"].last()


def _runs(tables: Tables) -> Iterator[str]:
    runs = tables["runs"]
    for kind, what in (("network", "network"), ("declared", "declared UFM")):
        own = runs[runs["kind"] == kind]
        if len(own):
            failed = own[own["status"] != "done"]["status"].value_counts()
            rest = "".join(f"; {count} {status}" for status, count in sorted(failed.items()))
            yield f"{counted(own, what)}{rest}."
    reached, of = networks(tables)["zero_error_epoch"].dropna(), len(networks(tables))
    if of:
        when = f", at epoch {interval(reached)}" if len(reached) else ": the claims on networks do not apply"
        yield f"{len(reached)} of {plural(of, 'network')} reached zero training error{when}."


def _collapse(tables: Tables) -> Iterator[str]:
    final = final_values(tables, networks(tables), "nc1_pinv").dropna()
    if len(final):
        yield f"Final nc1_pinv of the last features on the training split: {interval(final)}."


def _frames(tables: Tables) -> Iterator[str]:
    """For every label, which frame its networks are nearer to at the end."""
    nets = networks(tables)
    for what, (of, etf) in FRAMES.items():
        difference = (final_values(tables, nets, of) - final_values(tables, nets, etf)).dropna()
        label_of = nets.set_index("run_id")["label"].reindex(difference.index)
        by_label = {label: difference[label_of == label] for label in labels(nets)}
        nearer = {label: _nearer(values) for label, values in by_label.items() if len(values)}
        parts = [f"{frame} ({', '.join(names)})" for frame, names in _inverted(nearer).items()]
        if parts:
            yield f"The {what} end nearer {'; '.join(parts)}."


def _nearer(difference: pd.Series) -> str:
    if (difference < 0).all():
        return "an orthogonal frame"
    return "a simplex ETF" if (difference > 0).all() else "one or the other, by seed"


def _inverted(by_label: dict[str, str]) -> dict[str, list[str]]:
    inverted: dict[str, list[str]] = {}
    for label, frame in by_label.items():
        inverted.setdefault(frame, []).append(label)
    return inverted


def _claims(claims: pd.DataFrame) -> Iterator[str]:
    if len(claims):
        papers = f" of {claims['paper'].nunique()} papers" if claims["paper"].nunique() > 1 else ""
        verdicts = counted_verdicts(claims["verdict"])
        parts = [f"{count} {verdict}" for verdict, count in verdicts.items() if count]
        without = int((claims["count"] == 0).sum())
        rest = f"; no run of the study speaks of {without}" if without else ""
        yield f"Of {plural(len(claims), 'claim')}{papers} put to the tables: {', '.join(parts)}{rest}."
