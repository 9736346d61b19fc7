"""The summary of a study in words, from its tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.misfits import PREDICTED
from ncpipe.claims.evidence.selectors import TRAINED, final, past_zero_error, run_ids, setting
from ncpipe.claims.evidence.wording import counted as counted_verdicts
from ncpipe.figures.drawing.captions import counted
from ncpipe.figures.drawing.runs import Tables, labels, networks
from ncpipe.figures.frames import PANELS
from ncpipe.figures.stationarity import COLUMNS, paths
from ncpipe.records.reading import fits_of
from ncpipe.system.words import joined, plural

DONE = {
    "network": ("trained", "network"),
    "declared": ("fitted", "declared UFM"),
    "continual": ("ran", "class-incremental learning run"),
}
MOST_NAMES = 6
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def sentences(tables: Tables) -> list[str]:
    """How well models predict networks, how far these collapsed, towards which frame, what was run, and what became
    of the claims: what was found stands first."""
    parts = (_predicted_frames(tables), _predicted_sizes(tables), _collapse(tables), _frames(tables), _runs(tables))
    return [*(sentence for part in parts for sentence in part), *_claims(tables["claims"])]


def _predicted_frames(tables: Tables) -> Iterator[str]:
    """Error of the predicted frames at the end, by where BatchNorm stands: of networks with an end phase, if any."""
    rows = paths(tables, networks(tables)).dropna(subset=["frames", "stationarity"]).sort_values("time")
    if rows.empty:
        return
    ends, parts = rows.groupby("run_id").last(), []
    minimised = setting(tables, "terminal.iterations").reindex(ends.index).notna()
    ends, last = (ends[minimised], "the end phase") if minimised.any() else (ends, "training")
    for norm, name in COLUMNS.items():
        of_norm = ends[ends["norm"] == norm]
        if len(of_norm):
            off, far = (in_words(of_norm[column].median()) for column in ("frames", "stationarity"))
            parts.append(f"{off} in {plural(len(of_norm), 'network')} ({name}; {far} from a stationary point)")
    yield (
        f"At the end of {last} the ReLU extended UFM misses the frames of the networks by {joined(parts)}, in"
        " medians: 0 is right, and a simplex ETF of ten classes is 0.32 from an orthogonal frame."
    )


def _predicted_sizes(tables: Tables) -> Iterator[str]:
    """Norms and objective as they follow from the weight decay, beside those measured."""
    fits = fits_of(tables, kind="matched")
    fits = fits[fits["model"].isin(PREDICTED)].dropna(subset=["measured_objective", "predicted_objective"])
    if fits.empty:
        return
    names = {"weight_norm": "|W|", "feature_norm": "|H|", "objective": "the objective"}
    off = {n: (fits[f"measured_{n}"] / fits[f"predicted_{n}"] - 1).abs().median() * 100 for n in names}
    parts = [f"{name} to {in_words(off[n])} %" for n, name in names.items()]
    yield (
        "From the weight decay alone, with nothing measured or matched, the non-negative UFM predicts"
        f" {joined(parts)} (medians of {plural(len(fits), 'network')})."
    )


def _ended(values: pd.Series) -> str:
    low, high = in_words(values.min()), in_words(values.max())
    return f"ended at {low}" if low == high else f"ended between {low} and {high}"


def in_words(value: float) -> str:
    """Two significant digits as prose has them: '0.012', '1,500', '3.1·10⁻⁹'; small whole numbers as they are."""
    if value == int(value) and abs(value) < 10_000:
        return f"{value:,.0f}"
    if 1e-3 <= abs(value) < 1e6:
        return f"{float(f'{value:.2g}'):,g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}·10{str(int(power)).translate(RAISED)}"


def _runs(tables: Tables) -> Iterator[str]:
    runs = tables["runs"]
    by_kind = {kind: runs[runs["kind"] == kind] for kind in DONE}
    parts = [f"{did} {counted(by_kind[kind], what)}" for kind, (did, what) in DONE.items() if len(by_kind[kind])]
    if parts:
        yield f"The study {joined(parts)}."
    for kind, (_, what) in DONE.items():
        failed = by_kind[kind].query("status != 'done'")["status"].value_counts()
        if len(failed):
            became = [_became(count, str(status)) for status, count in sorted(failed.items())]
            yield f"Of the {what}s, {joined(became)}."
    yield from _zero_error(networks(tables))


def _became(count: int, status: str) -> str:
    return f"{count} diverged" if status == "diverged" else f"{count} {'is' if count == 1 else 'are'} {status}"


def _zero_error(nets: pd.DataFrame) -> Iterator[str]:
    reached, of = nets["zero_error_epoch"].dropna(), len(nets)
    if not of:
        return
    if reached.empty:
        yield "No network reached zero training error: what is claimed of the time after it does not apply."
        return
    whole = {1: "The network", 2: "Both networks"}.get(of, f"All {of} networks")
    who = whole if len(reached) == of else f"{len(reached)} of {plural(of, 'network')}"
    first, last = (in_words(epoch) for epoch in (reached.min(), reached.max()))
    when = f"at epoch {first}" if first == last else f"between epochs {first} and {last}"
    yield f"{who} reached zero training error, {when}."


def _collapse(tables: Tables) -> Iterator[str]:
    """How far within-class variability fell, and by how much of that after zero error."""
    last = final(tables, run_ids(tables, TRAINED), "nc1_pinv").dropna()
    if last.empty:
        return
    since_zero_error = past_zero_error(tables, "nc1_pinv")
    factors = (since_zero_error["first"] / since_zero_error["last"]).replace([np.inf, 0], np.nan).dropna()
    if len(factors):
        middle, low, high = factors.median(), factors.min(), factors.max()
        verb, sign = ("fell", 1) if middle >= 1 else ("rose", -1)
        ends = sorted([low**sign, high**sign])
        spread = f" ({in_words(ends[0])} to {in_words(ends[1])} over the networks)" if len(set(ends)) > 1 else ""
        yield (
            f"After zero error, NC1 of the last training features (nc1_pinv) {verb} by a factor of"
            f" {in_words(middle**sign)}{spread}; it {_ended(last)}."
        )
    else:
        yield f"NC1 of the last training features (nc1_pinv) {_ended(last)}."


def _frames(tables: Tables) -> Iterator[str]:
    """For every label, which frame its networks are nearer to at the end."""
    nets = networks(tables)
    for what, (of, etf) in PANELS.items():
        of_frame, of_etf = (final(tables, pd.Index(nets["run_id"]), metric) for metric in (of, etf))
        difference = (of_frame - of_etf).dropna()
        label_of = nets.set_index("run_id")["label"].reindex(difference.index)
        by_label = {label: difference[label_of == label] for label in labels(nets)}
        nearer = {label: _nearer(values) for label, values in by_label.items() if len(values)}
        frames = {frame: [n for n in nearer if nearer[n] == frame] for frame in dict.fromkeys(nearer.values())}
        if len(frames) == 1 and len(nearer) > 1:
            yield f"The {what} of all labels end nearer to {next(iter(frames))}."
        elif frames:
            parts = [f"{frame} ({_named(names, nearer)})" for frame, names in frames.items()]
            yield f"The {what} end nearer to {joined(parts)}."


def _named(names: list[str], among: Collection[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} of {len(among)} labels"


def _nearer(difference: pd.Series) -> str:
    if (difference < 0).all():
        return "an orthogonal frame"
    return "a simplex ETF" if (difference > 0).all() else "one or the other, by seed"


def _claims(claims: pd.DataFrame) -> Iterator[str]:
    if len(claims):
        papers = f" of {claims['paper'].nunique()} papers" if claims["paper"].nunique() > 1 else ""
        tested = claims[claims["count"] > 0]
        verdicts = counted_verdicts(tested["verdict"])
        without = len(claims) - len(tested)
        rest = [f"no run of the study speaks of {without}"] if without else []
        parts = [f"{count} {'is' if count == 1 else 'are'} {verdict}" for verdict, count in verdicts.items() if count]
        yield f"Of {plural(len(claims), 'claim')}{papers} put to the tables, {joined([*parts, *rest])}."
