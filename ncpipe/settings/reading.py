"""Config files: from YAML or JSON to mappings, lists, texts and numbers of bounded size, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ncpipe.system.errors import UserError

MAX_BYTES = {".json": 256 * 2**20}
MAX_YAML_BYTES = 4 * 2**20
"""YAML of this size takes seconds to read; JSON is what ncpipe writes for its jobs."""
MAX_VALUES = 5_000_000
"""Keys and values of a config, every alias counted as what it stands for."""
MAX_DEPTH = 50
MAX_TEXT = 10_000
MAX_KEY = 200
MAX_NUMBER = 2**63
"""Numbers of tables have 64 bits."""
UNSEEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
CONTROL = re.compile(f"[{UNSEEN}\t\n]")
CONTROL_IN_PROSE = re.compile(f"[{UNSEEN}]")
PROSE = ("title", "description")
"""Settings that may have several lines."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config(path: Path) -> dict[str, Any]:
    """The mapping that a YAML (or JSON) file holds.

    Raises:
        UserError: no such file, not YAML or JSON, no mapping, a key that stands twice in one, a YAML tag, or more
            than a config can be.
    """
    is_json = path.suffix == ".json"
    try:
        size, most = path.stat().st_size, MAX_BYTES.get(path.suffix, MAX_YAML_BYTES)
        if not path.is_file():
            raise UserError(f"cannot read {str(path)!r}: it is not a file")
        if size > most:
            raise UserError(f"{path} has {size / 2**20:.0f} MiB, too much for a config: at most {most // 2**20}")
        text = path.read_text(encoding="utf-8-sig")
        config = json.loads(text, object_pairs_hook=_without_repeats) if is_json else _from_yaml(text)
    except OSError as error:
        raise UserError(f"cannot read {_cut(ascii(str(path))[1:-1])}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        kind = "JSON" if is_json else "YAML"
        raise UserError(f"{path} is not valid {kind}: {_one_line(error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} must hold a mapping with the keys study, datasets, networks, ufm, ...")
    return config


def check_plain(config: Any) -> None:
    """Raise ``UserError`` for what no config can hold: other types, control characters, more than it can be."""
    seen = 0
    left: list[tuple[str, Any, int]] = [("", config, 0)]
    while left:
        place, value, depth = left.pop()
        seen += 1
        if seen > MAX_VALUES:
            raise UserError(f"config: more than {MAX_VALUES:,} settings; declare a smaller sweep")
        if depth > MAX_DEPTH:
            raise UserError(f"{_cut(place)}: more than {MAX_DEPTH} levels, one within the other")
        if isinstance(value, Mapping):
            for key, inner in value.items():
                left.append((_below(place, key), inner, depth + 1))
        elif isinstance(value, list | tuple):
            left.extend((place, inner, depth + 1) for inner in value)
        else:
            _check_scalar(place, value)


def _below(place: str, key: Any) -> str:
    """The place of a key; a key is a text that can be shown, or a whole number (samples of pick_all_labels)."""
    where = _cut(place) or "config"
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise UserError(f"{where}: the key {_cut(repr(key))} is no text; write it in quotes")
    name = str(key) if isinstance(key, str) or abs(key) < MAX_NUMBER else "9" * MAX_KEY * 2
    if len(name) > MAX_KEY:
        raise UserError(f"{where}: a key has more than {MAX_KEY} characters")
    if CONTROL.search(name):
        raise UserError(f"{where}: the key {name!a} holds a control character; take it out")
    return f"{place}.{name}" if place else name


def _check_scalar(place: str, value: Any) -> None:
    where = _cut(place) or "config"
    if isinstance(value, str):
        control = CONTROL_IN_PROSE if place.rpartition(".")[2] in PROSE else CONTROL
        if len(value) > MAX_TEXT:
            raise UserError(f"{where}: a text of {len(value):,} characters; at most {MAX_TEXT:,}")
        if (found := control.search(value)) is not None:
            raise UserError(f"{where}: the text holds the control character {found[0]!a}; take it out")
    elif isinstance(value, int) and not -MAX_NUMBER <= value < MAX_NUMBER:
        raise UserError(f"{where}: a whole number beyond 64 bits")
    elif not isinstance(value, bool | int | float | None):
        raise UserError(f"{where}: got a value of type {type(value).__name__}; write it in quotes, or as a number")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_KEY else f"{text[:MAX_KEY]}..."


def _one_line(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is not in UTF-8 ({error.reason} at byte {error.start})"
    if isinstance(error, RecursionError):
        return "too many levels, one within the other"
    words = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
    return _cut("".join(c if c.isprintable() else ascii(c).strip("'") for c in words))


# --- YAML ------------------------------------------------------------------------------------------


class _StrictLoader(_Loader):
    """No key twice in one mapping: PyYAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            earlier = first.setdefault((key.tag, key.value), key)
            if earlier is not key:
                lines = f"lines {earlier.start_mark.line + 1} and {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"the key {key.value[:MAX_KEY]!r} stands twice in one mapping, {lines}")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _from_yaml(text: str) -> Any:
    # The events first: PyYAML builds nested values by recursion, in C without a limit, and merges (<<) at full size.
    _check_events(yaml.parse(text, _Loader))
    loader = _StrictLoader(text)
    try:
        root = loader.get_single_node()
        _check_numbers(root)
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _check_numbers(root: yaml.Node | None) -> None:
    """Raise ``UserError`` for numbers that YAML 1.1 reads to another base than ten, as 1:30 for 90 and 010 for 8."""
    left, seen = [("", root)], set()
    while left:
        place, node = left.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            left += [(_cut(f"{place}.{key.value}".lstrip(".")), value) for key, value in node.value]
            left += [(place, key) for key, _ in node.value]
        elif isinstance(node, yaml.SequenceNode):
            left += [(place, each) for each in node.value]
        elif isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and (base := OTHER_BASE.match(node.value)):
            told = f"YAML reads {_cut(node.value)} to the base {60 if base['minutes'] else 8}"
            line = node.start_mark.line + 1
            raise UserError(f"{place}: {told} (line {line}); write the number in full, or a text in quotes")


NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
OTHER_BASE = re.compile(r"[-+]?(?P<minutes>[0-9][0-9_]*:)|[-+]?0[0-7_]+$")


def _check_events(events: Iterable[Any]) -> None:
    """Raise ``YAMLError`` for nesting and aliases beyond what a config needs."""
    sizes: dict[str, int] = {}  # of what an anchor marks
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the count before it
    count = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in open_nodes):
                raise yaml.YAMLError(f"the alias *{event.anchor} stands within what it means")
            count += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.NodeEvent):
            count += 1
            node: Any = event
            if node.tag is not None:
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the tag {node.tag[:MAX_KEY]!r}; write plain values")
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, count))
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = count - before + 1
        if count > MAX_VALUES:
            raise yaml.YAMLError(f"with its aliases it has more than {MAX_VALUES:,} values")
        if len(open_nodes) > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_DEPTH} levels, one within the other")


# --- JSON ------------------------------------------------------------------------------------------


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:MAX_KEY]!r} stands twice in one mapping")
        found[key] = value
    return found
