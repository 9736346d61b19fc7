"""Expansion of a base and a sweep into the settings of every run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from ncpipe.settings.base import Settings
from ncpipe.system.errors import UserError

Tree = dict[str, Any]

MAX_RUNS = 250_000
"""Runs of a block: more than Snakemake or one folder of results can hold."""


def expand(block: Block, where: str) -> list[Tree]:
    """The settings of every run of a block, in the order of declaration; ``where`` names the block in errors."""
    sweep, base = block.sweep, block.base
    axes = _axes(sweep, where)
    _check_number([*map(len, axes)], len(sweep.include), where)
    combinations = itertools.product(*axes) if axes or not sweep.include else ()
    runs = [laid_over(base, {key: value for part in parts for key, value in part.items()}) for parts in combinations]
    for pattern in sweep.exclude:
        kept = [run for run in runs if not _matches(run, pattern)]
        if len(kept) == len(runs):
            raise UserError(f"{where}.sweep.exclude: {pattern} matches no run; check its keys and values")
        runs = kept
    runs += [laid_over(base, extra) for extra in sweep.include]
    if not runs:
        raise UserError(f"{where}.sweep: every run is excluded; relax 'exclude' or drop the block")
    return runs


def _check_number(lengths: list[int], included: int, where: str) -> None:
    if (runs := math.prod(lengths) + included) > MAX_RUNS:
        product = " x ".join(map(str, lengths[:8])) + (" x .." if len(lengths) > 8 else "")
        number = f"{runs:,}" if runs < 10**15 else f"over 10^{int(math.log10(runs))}"
        raise UserError(f"{where}.sweep: {product} is {number} runs, at most {MAX_RUNS:,}; shorten a list")


def laid_over(base: Tree, changes: Mapping[str, Any]) -> Tree:
    """``base`` with the value of every dotted key replaced.

    What stays the same is shared with ``base``, not copied: a study may have 100,000 runs.
    """
    tree = dict(base)
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            child = node.get(parent)
            node[parent] = node = dict(child) if isinstance(child, dict) else {}
        node[leaf] = value
    return tree


def _axes(sweep: Sweep, where: str) -> list[list[Tree]]:
    """What varies independently: the values of every key of the grid, the rows of every zip."""
    zips = (sweep.zip,) if isinstance(sweep.zip, dict) else sweep.zip
    axes = [[{key: value} for value in values] for key, values in sweep.grid.items()]
    return axes + [_zipped(columns, where) for columns in zips]


def _zipped(columns: Columns, where: str) -> list[Tree]:
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{where}.sweep.zip: lists must have one length, got {lengths}")
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _matches(run: Tree, pattern: Mapping[str, Any]) -> bool:
    for key, wanted in pattern.items():
        node: Any = run
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if _number(node) not in map(_number, wanted if isinstance(wanted, list | tuple) else [wanted]):
            return False
    return True


def _number(value: Any) -> Any:
    """The number that settings take a text for: YAML reads 1e-3 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


Values = Annotated[tuple[Any, ...], Field(min_length=1)]
Columns = dict[str, Values]


class Sweep(Settings):
    """Variations of a base: the product of all grid keys and all zips, without the excluded, plus the included.

    Keys are dotted paths into the settings (``optimizer.lr``); a value replaces what stands there.
    """

    grid: Columns = Field(default_factory=dict, description="Key -> values; every combination is a run.")
    zip: Columns | tuple[Columns, ...] = Field((), description="Keys that vary together, lists of one length.")
    include: tuple[dict[str, Any], ...] = Field((), description="Runs beside the product, each laid over the base.")
    exclude: tuple[dict[str, Any], ...] = Field(
        (), description="Runs to drop: key -> value or list of values; all keys of an entry must match."
    )


class Block(Settings):
    """A base and its sweep."""

    base: dict[str, Any] = Field(default_factory=dict)
    sweep: Sweep = Sweep()


class BaseOf:
    """A block's JSON schema for editors: ``base`` has the keys of these settings, but for some.

    None of them is required, for a sweep may set it. What is read stays as it stands: the runs are checked.
    """

    def __init__(self, settings: type[BaseModel], *without: str) -> None:
        self.settings, self.without = settings, without

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Tree:
        block = handler.resolve_ref_schema(handler(schema))
        base = handler(self.settings.__pydantic_core_schema__)
        _make_optional(base, handler)
        keys = handler.resolve_ref_schema(base)["properties"]
        for key in self.without:
            keys.pop(key, None)
        return {**block, "properties": {**block["properties"], "base": base}}


def _make_optional(schema: Any, handler: GetJsonSchemaHandler) -> None:
    """Let every key of a JSON schema be left out, within it too; then several kinds of one key may fit."""
    if isinstance(schema, list):
        for part in schema:
            _make_optional(part, handler)
    elif isinstance(schema, dict):
        schema.pop("required", None)
        schema.pop("discriminator", None)
        if "oneOf" in schema:
            schema["anyOf"] = schema.pop("oneOf")
        for key, part in schema.items():
            if key != "default":
                _make_optional(part, handler)
        if "$ref" in schema:
            _make_optional(handler.resolve_ref_schema(schema), handler)
