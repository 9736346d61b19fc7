"""What a job asks a cluster for: minutes and memory by the estimates that ``ncpipe plan`` has left, or by default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ncpipe.plan.units import Unit, clock, units
from ncpipe.study.layout import Layout
from ncpipe.study.study import Study
from ncpipe.system.files import read_json, write_json

if TYPE_CHECKING:
    from ncpipe.plan.estimates import Estimate

Estimates = dict[str, dict[str, float | None]]

SLOWER = 3.0
"""A job may take so many times as long as estimated, perhaps on another machine."""
LARGER = 1.5
"""A job may need so many times the memory that was estimated."""
USUAL = {"train": (1440, 4000), "features": (60, 6000), "continual": (60, 6000)}
"""Minutes of jobs without an estimate, and megabytes at least."""
SHORTEST = 15
"""Minutes that every job gets: starting Python from a slow network folder takes some."""


def keep_estimates(layout: Layout, estimates: Mapping[Unit, Estimate], device: str) -> None:
    """Lay the estimates over those of earlier plans.

    Memory is kept where networks are computed on the CPU: that of a GPU is no memory a job asks for.
    """
    kept = read_estimates(layout)
    for unit, (seconds, memory) in estimates.items():
        if unit.of is not None:
            kept[_key(unit.stage, unit.id)] = {"seconds": seconds, "bytes": memory if device == "cpu" else None}
    write_json(layout.estimates, kept)


def read_estimates(layout: Layout) -> Estimates:
    """Estimates by stage and id; none without a plan."""
    return read_json(layout.estimates) if layout.estimates.exists() else {}


def foreseen(study: Study, cores: int) -> str:
    """The time that the rest of a study takes here, as far as a plan has told; empty where all is computed."""
    estimates, left = read_estimates(study.layout), [unit for unit in units(study) if unit.of and not unit.done]
    known = [estimates.get(_key(unit.stage, unit.id), {}).get("seconds") for unit in left]
    seconds = [value for value in known if value is not None]
    if len(seconds) < len(known):
        return "How long will it take? `ncpipe plan` times a few steps and says."
    return f"By `ncpipe plan`: about {clock(sum(seconds) / cores)} on {cores} cores." if known else ""


def minutes(estimates: Estimates, stage: str, name: str) -> int:
    """Wall-clock limit of a job: a multiple of its estimate, as ``USUAL`` without one.

    It does not grow with the attempt: a training goes on where it stopped, and a job that asks for more than its
    partition allows waits forever.
    """
    seconds = estimates.get(_key(stage, name), {}).get("seconds")
    return USUAL[stage][0] if seconds is None else minutes_for(seconds)


def minutes_for(seconds: float) -> int:
    """Wall-clock limit of a job that should take so long."""
    return max(SHORTEST, math.ceil(SLOWER * seconds / 60))


def megabytes(estimates: Estimates, stage: str, name: str, attempt: int) -> int:
    """Memory of an attempt of a job: a multiple of its estimate where that is more than in ``USUAL``."""
    memory = estimates.get(_key(stage, name), {}).get("bytes") or 0
    return attempt * max(USUAL[stage][1], math.ceil(LARGER * memory / 1e6))


def _key(stage: str, name: str) -> str:
    return f"{stage.split()[0]}/{name}"
