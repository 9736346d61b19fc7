"""Labels of runs: short names for legends, with the settings that tell runs of one name apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from typing import Any

from ncpipe.settings.sweep import flat

Row = dict[str, Any]
Names = Mapping[tuple[str, str], Mapping[str, str]]
"""By kind and label: the settings that vary, by dotted key, with the name that labels have for them."""

SHORT = {"weight_decay": "wd", "temperature": "tau", "batch_norm": "BatchNorm"}
"""Names of settings as legends have them."""
NOT_IN_LABELS = {"seed", "dataset.path", "dataset.image_size", "model.content"}


def labelled(rows: list[Row]) -> list[Row]:
    """Add to each label the settings that tell runs of one label apart, other than the seed."""
    names = label_settings(rows)
    return [with_label(row, names) for row in rows]


def label_settings(rows: Iterable[Row]) -> Names:
    """The settings that vary among the runs of one kind and label. Matched UFMs have none of their own."""
    first: dict[tuple[str, str], dict[str, str]] = {}
    varying: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["kind"] != "matched":
            group, tree = (row["kind"], row["label"]), {key: str(value) for key, value in _settings(row).items()}
            before = first.setdefault(group, tree)
            known = before.keys() | tree.keys()
            differing = {key for key in known if before.get(key, "None") != tree.get(key, "None")}
            varying.setdefault(group, set()).update(differing)
    return {group: _names(keys) for group, keys in varying.items()}


def _names(varying: Set[str]) -> dict[str, str]:
    """Short names by key: the last word of it, where that is of no other."""
    keys = sorted(varying - NOT_IN_LABELS)
    leaves = [key.rsplit(".", 1)[-1] for key in keys]
    names = {key: leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(keys, leaves)}
    return {key: SHORT.get(name, name) for key, name in names.items()}


def with_label(row: Row, names: Names) -> Row:
    """The row with the settings of ``names`` in its label."""
    varying = names.get((row["kind"], row["label"]))
    if not varying:
        return row
    tree = _settings(row)
    parts = (_label_part(key, name, tree.get(key), row) for key, name in varying.items())
    return row | {"label": row["label"] + "".join(parts)}


def _settings(row: Row) -> dict[str, Any]:
    return flat(json.loads(row["settings"]))


def _label_part(key: str, name: str, value: Any, row: Row) -> str:
    if key == "dataset.name":
        return f" {row['dataset']}"
    if value is None:
        return ""
    if isinstance(value, bool):
        return f" {name}" if value else f" no {name}"
    return f" {name}={value:g}" if isinstance(value, float) else f" {name}={value}"
