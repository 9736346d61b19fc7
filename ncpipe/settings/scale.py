"""The size of a study: settings of the chosen scale laid over those that all scales share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ncpipe.system.errors import UserError

Tree = dict[str, Any]


def at_scale(config: Mapping[str, Any]) -> Tree:
    """The config at its ``scale``: ``scales.<scale>`` laid over it, mapping by mapping; other values replace.

    Results of a scale lie in ``results/<name>-<scale>`` where the study names no place. A config without ``scales``
    is returned as it is.
    """
    scales, scale = config.get("scales"), config.get("scale")
    if not scales:
        return dict(config)
    if not isinstance(scales, Mapping):
        raise UserError("config: 'scales' must map names to settings")
    if not isinstance(scale, str) or scale not in scales:
        what = "no 'scale'" if scale is None else f"no scale {scale!r}"
        raise UserError(f"config: {what}; set scale to one of {', '.join(map(str, scales))}")
    if not isinstance(scales[scale], Mapping):
        raise UserError(f"config: scales.{scale} must be a mapping of settings")
    if shared := {"scale", "scales"} & scales[scale].keys():
        raise UserError(f"config: scales.{scale} cannot hold {shared.pop()!r}")
    merged = merge({key: value for key, value in config.items() if key != "scales"}, scales[scale])
    study = merged.get("study")
    if isinstance(study, dict) and "results" not in study and isinstance(study.get("name"), str):
        study["results"] = f"results/{study['name']}-{scale}"
    return merged


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """A copy of ``base`` with ``changes`` laid over it: mappings key by key, anything else replaced."""
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, Mapping)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged
