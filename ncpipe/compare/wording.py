"""Comparisons in words: what terminal and page say of them, and the JSON of the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from ncpipe.claims.evidence.wording import number
from ncpipe.compare.pairs import Pair
from ncpipe.compare.runs import MAIN, RunComparison
from ncpipe.compare.studies import ClaimPair, LabelledPair, StudyComparison
from ncpipe.compare.values import Agreement, Deviation


def headline(comparison: RunComparison | StudyComparison) -> str:
    """The answer in one line: 'Equal in all 4,032 values of 12 common runs.'"""
    if isinstance(comparison, StudyComparison):
        return reproduced(comparison.agreement) if comparison.common else "No run is in both."
    if comparison.agreement is not None:
        return reproduced(comparison.agreement)
    a, b = comparison.a, comparison.b
    if (a.study, a.run_id) == (b.study, b.run_id):
        return "This is one run twice."
    if (a.kind == "network") != (b.kind == "network"):
        return "A network and a UFM: their settings are not compared."
    if not comparison.equal_settings and not comparison.settings:
        return "The settings of these runs are not in the tables."
    names = [setting.name for setting in comparison.settings]
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    equal = f"{counted(comparison.equal_settings, 'setting')} equal"
    return f"Settings that differ: {listed}; {equal}." if names else f"No setting differs, {equal}."


def reproduced(agreement: Agreement) -> str:
    """Whether all values of the common runs are equal, or how far they differ at most."""
    runs = counted(agreement.runs, "common run")
    if not agreement.differing:
        return f"Equal in all {agreement.values:,} values of {runs}."
    where = runs if agreement.runs == 1 else f"{agreement.differing_runs} of {runs}"
    parts = [f"Differs in {agreement.differing:,} of {agreement.values:,} values, in {where}"]
    bounded = [d for d in agreement.deviations if d.relative is not None]
    if bounded:
        parts.append(f"by {number(bounded[0].relative)} relative at most ({bounded[0].quantity})")
    if one_sided := sum(d.one_sided for d in agreement.deviations):
        parts.append(f"{counted(one_sided, 'value')} on one side only")
    parts += sorted({f"another {word.column}" for word in agreement.words})
    return "; ".join(parts) + "."


def not_compared(agreement: Agreement) -> Iterator[str]:
    """Quantities that one side's tables do not have."""
    for side, names in (("A", agreement.only_a), ("B", agreement.only_b)):
        if names:
            yield f"Not compared, since only in the tables of {side}: {', '.join(names)}."


def sentences(comparison: StudyComparison) -> Iterator[str]:
    """What there is to say beside the headline: which runs are in one study only, and what became of the claims."""
    only = [(comparison.only_a, "A"), (comparison.only_b, "B")]
    parts = [f"{counted(len(ids), 'run')} only in {side}" for ids, side in only if ids]
    if parts:
        yield f"{', '.join(parts)}."
    if comparison.without_results:
        count = counted(len(comparison.without_results), "common run")
        yield f"{count} without results on either side."
    if comparison.claims:
        both = [claim for claim in comparison.claims if claim.verdict_a and claim.verdict_b]
        parts = [f"{sum(claim.changed for claim in both)} of {counted(len(both), 'verdict')} changed"]
        for side, other in (("A", "verdict_b"), ("B", "verdict_a")):
            if alone := sum(getattr(claim, other) is None for claim in comparison.claims):
                parts.append(f"{counted(alone, 'claim')} only in {side}")
        yield f"{', '.join(parts)}."
    if comparison.labels:
        told = [pair for pair in comparison.labels if pair.apart is not None]
        apart = sum(bool(pair.apart) for pair in told)
        labels = counted(len({pair.label for pair in comparison.labels}), "label")
        yield f"{labels} with other runs: {apart} of {counted(len(told), 'quantity')} beyond the range over seeds."


def counted(count: int, noun: str) -> str:
    """'1 run', '12,000 runs'."""
    plural = f"{noun[:-1]}ies" if noun.endswith("ty") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def value(given: Any) -> str:
    """A setting or a fact: a number as it was written, text as it is, a dash for none."""
    if given is None or given == "":
        return "–"
    return given if isinstance(given, str) else json.dumps(given)


def cells(pair: Pair) -> tuple[str, str, str, str]:
    """A, B, their difference, and the ratio B / A: as a power of ten where it is large or small."""
    return number_or_inf(pair.a), number_or_inf(pair.b), difference(pair), ratio(pair)


def number_or_inf(given: float | None) -> str:
    """Whole numbers in full, others with three digits."""
    if given is not None and math.isfinite(given) and given == int(given) and abs(given) < 1e9:
        return f"{given:.0f}"
    return f"{given}" if given is not None and math.isinf(given) else number(given)


def difference(pair: Pair) -> str:
    """'+0.01'; '=' where A and B are equal."""
    if pair.difference is None:
        return "=" if pair.equal and pair.a is not None else "–"
    return "=" if pair.equal else f"{'+' if pair.difference > 0 else ''}{number_or_inf(pair.difference)}"


def ratio(pair: Pair) -> str:
    """'1.25'; '10^-3.2' from a factor of ten on."""
    if pair.log10_ratio is not None and abs(pair.log10_ratio) >= 1:
        return f"10^{pair.log10_ratio:.1f}"
    return number(pair.ratio)


def shown_first(pairs: tuple[Pair, ...]) -> list[Pair]:
    """The main metrics."""
    return [pair for pair in pairs if pair.quantity in MAIN]


def where(deviation: Deviation) -> str:
    """'train, layer1, at 10': the place of a value within its run; empty for a value that has none."""
    parts = [deviation.split, deviation.layer]
    parts += [f"at {deviation.time}"] if deviation.time >= 0 else []
    return ", ".join(part for part in parts if part)


def seed_range(pair: LabelledPair) -> str:
    """Whether the difference is beyond the range over seeds."""
    return "one seed" if pair.apart is None else "beyond" if pair.apart else "within"


def verdicts(claim: ClaimPair) -> tuple[str, str]:
    """Both verdicts; a dash where the claim was not put to the tables."""
    return claim.verdict_a or "–", claim.verdict_b or "–"


def changed_first(claims: Iterable[ClaimPair]) -> list[ClaimPair]:
    """Claims whose verdict changed, then the others, in their order."""
    return sorted(claims, key=lambda claim: not claim.changed)


def needed(claim: ClaimPair) -> str:
    """The threshold, or both where they differ."""
    return " | ".join(dict.fromkeys(text for text in (claim.needs_a, claim.needs_b) if text))


def as_json(comparison: RunComparison | StudyComparison) -> str:
    """The whole comparison; an infinite number is the text 'inf' or '-inf', since JSON has none."""
    kind = "studies" if isinstance(comparison, StudyComparison) else "runs"
    content = {"kind": kind, "headline": headline(comparison)} | asdict(comparison)
    return json.dumps(_plain(content), indent=2, allow_nan=False)


def _plain(given: Any) -> Any:
    if isinstance(given, dict):
        return {key: _plain(item) for key, item in given.items()}
    if isinstance(given, list | tuple):
        return [_plain(item) for item in given]
    if isinstance(given, float) and not math.isfinite(given):
        return None if math.isnan(given) else f"{given}"
    return given
