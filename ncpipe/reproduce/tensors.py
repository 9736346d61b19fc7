"""Weights, statistics and features of two makings of one run, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ncpipe.compare.comparison import Row
from ncpipe.system.errors import UserError


class TensorAgreement(NamedTuple):
    """All tensors of the files that the record has."""

    tensors: int
    deviations: list[Row]
    """Those that differ: quantity ('FILE: NAME'), values, differing; relative, the largest |a - b| / max(|a|, |b|)
    over finite values, or None for another shape or type, or a missing tensor. Largest first."""
    unrecorded: list[str]
    """Files of the rerun that the record does not have, as those of which only the tables were kept."""


def compare_tensors(recorded: Path, again: Path, run_id: str) -> TensorAgreement:
    """Compare every tensor of a run in the safetensors files of two folders; of a batch only the run's own."""
    old, new = _files(recorded), _files(again)
    compared = [
        deviation(f"{name}: {key}", a, b) for name in old for key, a, b in _pairs(old[name], new.get(name), run_id)
    ]
    deviations = sorted(
        filter(None, compared), key=lambda row: -row["relative"] if row["relative"] is not None else -inf
    )
    return TensorAgreement(len(compared), deviations, [name for name in new if name not in old])


def _files(folder: Path) -> dict[str, Path]:
    paths = sorted(folder.rglob("*.safetensors"))
    names = {path.relative_to(folder): path for path in paths}
    return {str(name): path for name, path in names.items() if not any(part.startswith(".") for part in name.parts)}


def _pairs(old: Path, new: Path | None, run_id: str) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
    """Tensors of one name, loaded one at a time; None where a file lacks it."""
    try:
        with safe_open(old, framework="pt") as a, safe_open(new or old, framework="pt") as b:
            keys_a, keys_b = _own(a, run_id), _own(b, run_id) if new else set()
            for key in sorted(keys_a | keys_b):
                yield (
                    key,
                    a.get_tensor(key) if key in keys_a else None,
                    b.get_tensor(key) if key in keys_b else None,
                )
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {old}: {error}; delete it, and the tables alone are compared") from None


def _own(file: Any, run_id: str) -> set[str]:
    """Names of the tensors of this run: in files of a batch they begin with its id, or with its number."""
    keys = set(file.keys())
    index = json.loads((file.metadata() or {}).get("index", "{}"))
    prefixes = [f"{run_id}/"] + ([f"{index[run_id]['number']}/"] if run_id in index else [])
    own = {key for key in keys if key.startswith(tuple(prefixes))}
    return own or (set() if index else keys)


def deviation(name: str, a: Tensor | None, b: Tensor | None) -> Row | None:
    """How far two tensors differ; None where all values are equal, or NaN on both sides."""
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        size = max(t.numel() for t in (a, b) if t is not None)
        return {"quantity": name, "values": size, "differing": size, "relative": None}
    same = (a == b) | ((a != a) & (b != b))
    if bool(same.all()):
        return None
    x, y = a.double(), b.double()
    finite = ~same & x.isfinite() & y.isfinite()
    relative = ((x - y).abs() / torch.maximum(x.abs(), y.abs()))[finite]
    largest = float(relative.max()) if len(relative) else None
    return {"quantity": name, "values": a.numel(), "differing": int((~same).sum()), "relative": largest}
