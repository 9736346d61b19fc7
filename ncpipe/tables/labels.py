"""Labels of runs: short names for legends, with the settings that tell runs of one name apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass
class _Group:
    """The runs of one kind and label so far."""

    first: dict[str, str] = field(default_factory=dict)
    varying: set[str] = field(default_factory=set)
    count: int = 0

    def add(self, tree: Mapping[str, Any]) -> None:
        for key in self.first.keys() | tree.keys():
            text = str(tree.get(key))
            before = self.first.setdefault(key, str(None) if self.count else text)
            if text != before:
                self.varying.add(key)
        self.count += 1

    def names(self) -> dict[str, str]:
        keys = sorted(self.varying - NOT_IN_LABELS)
        leaves = [key.rsplit(".", 1)[-1] for key in keys]
        names = {key: leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(keys, leaves)}
        return {key: SHORT.get(name, name) for key, name in names.items()}


def label_settings(rows: Iterable[Row]) -> Names:
    """The settings that vary among the runs of one kind and label. Matched UFMs have none of their own."""
    groups: dict[tuple[str, str], _Group] = {}
    for row in rows:
        if row["kind"] != "matched":
            groups.setdefault((row["kind"], row["label"]), _Group()).add(_settings(row))
    return {key: group.names() for key, group in groups.items()}


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
