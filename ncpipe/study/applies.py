"""Which figures a study can fill, where it does not name its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ncpipe.ufm.settings import UfmSpec


def sweeps_a_penalty(specs: Iterable[UfmSpec]) -> bool:
    """Whether a penalty has three values or more within one model that is solved by L-BFGS."""
    penalties = ("feature_decay", "weight_decay", "bias")
    found: dict[Any, set[Any]] = {}
    for spec in specs:
        if spec.solver.name == "lbfgs":
            fixed = spec.model_dump_json(exclude={"seed", *penalties})
            model = fixed, spec.depth, isinstance(spec.bias, str) and spec.bias
            for name in penalties:
                values = found.setdefault((model, name), set())
                values.add(getattr(spec, name))
                if len(values) >= 3:
                    return True
    return False


def sweeps_the_width(specs: Iterable[UfmSpec]) -> bool:
    """Whether two widths of one problem with two weight layers or more are solved by L-BFGS."""
    widths: dict[str, set[Any]] = {}
    for spec in specs:
        if spec.solver.name == "lbfgs" and spec.depth > 1:
            widths.setdefault(spec.model_dump_json(exclude={"seed", "dim"}), set()).add(spec.dim)
    return any(len(found) > 1 for found in widths.values())
