"""Ids of runs, and the code versions of the stages that made them."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel

STAGE_VERSIONS = {
    "dataset": 1,
    "imagefolder": 2,
    "train": 3,
    "features": 5,
    "ufm": 5,
    "continual": 2,
    "collapse": 4,
    "tables": 8,
    "figures": 6,
    "report": 8,
    "tracking": 3,
}
"""Raise a stage's number when its results change: Snakemake does not see edits in imported modules.

A data set whose name stands here has this number in place of that of all, which need not be made anew with it."""


def canonical(value: Any) -> Any:
    """Plain data of settings with resolved types, defaults left out."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return value


ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=canonical)


def digest(value: Any) -> str:
    """8 hex digits of the SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(ENCODER.encode(canonical(value)).encode()).hexdigest()[:8]


def identify(slug: str, value: Any) -> str:
    """A readable, path-safe slug and the digest of the settings."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', slug)[:80]}-{digest(value)}"
