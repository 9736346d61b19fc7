"""The rule that chooses among networks which differ in one setting: who competes, and when the rule makes sense."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ncpipe.settings.base import nearest
from ncpipe.settings.sweep import flat
from ncpipe.study.config import MeasureSpec, SelectSpec
from ncpipe.system.errors import UserError
from ncpipe.training.settings import NetworkSpec

Alternatives = dict[float, list[str]]
"""Ids of the networks (one per seed) by the value of the setting that is chosen."""


def alternatives(specs: Mapping[str, NetworkSpec], over: str) -> list[Alternatives]:
    """Networks that agree in all settings but ``over`` (a dotted key) and ``seed``, a mapping for each such group.

    Networks that do not have the setting, as of another architecture, compete with none and are in no group.
    """
    groups: dict[str, Alternatives] = {}
    for run_id, spec in specs.items():
        settings = _settings(spec)
        if over not in settings:
            continue
        value = settings.pop(over)
        del settings["seed"]
        groups.setdefault(json.dumps(settings, sort_keys=True), {}).setdefault(value, []).append(run_id)
    return list(groups.values())


def check_select(rule: SelectSpec, specs: Mapping[str, NetworkSpec], measure: MeasureSpec) -> None:
    """Raises ``UserError`` for a rule that could not choose: an unknown setting, one that is no number or does not
    vary by itself, or a quantity that is not measured."""
    where = f"networks.select.over: {rule.over!r}"
    values = [tree[rule.over] for tree in map(_settings, specs.values()) if rule.over in tree]
    if rule.over == "seed":
        raise UserError(f"{where} is averaged over; name another setting, such as optimizer.lr")
    if not values:
        known = dict.fromkeys(key for tree in map(_settings, specs.values()) for key in tree)
        hint = nearest(rule.over, known, otherwise="name one, such as optimizer.lr")
        raise UserError(f"{where} is no setting of these networks; {hint}")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise UserError(f"{where} is not a number in every network; name a number, such as optimizer.lr")
    if all(len(group) == 1 for group in alternatives(specs, rule.over)):
        raise UserError(
            f"{where} does not vary among networks that agree in the rest; put its values in networks.sweep.grid"
            " or drop 'select'"
        )
    if rule.by.startswith("test") and "test" not in measure.splits:
        raise UserError(f"networks.select.by: {rule.by!r} needs 'test' among measure.splits")


def in_words(rule: SelectSpec) -> str:
    """The rule as a sentence, for the report."""
    split, quantity = rule.by.split("_")
    best = "highest" if quantity == "accuracy" else "lowest"
    what = f"{best} last {'training' if split == 'train' else 'test'} {quantity}"
    return (
        f"Of networks that differ in {rule.over} and seed only, those are shown whose {rule.over} has the {what} in"
        " the mean over seeds; a value with a diverged or missing run is not chosen, and of equals the smaller is."
    )


def _settings(spec: NetworkSpec) -> dict[str, Any]:
    return flat(spec.model_dump(mode="json"))
