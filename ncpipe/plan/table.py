"""The plan as a table: every unit, or every stage of a large study, its state, and what the rest takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ncpipe.data.registry import DATASETS
from ncpipe.plan.limits import keep_estimates
from ncpipe.plan.units import Unit, clock, size, units
from ncpipe.study.runs import UfmBatch
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.training.settings import NetworkRun

if TYPE_CHECKING:
    from rich.table import Table

    from ncpipe.plan.estimates import Estimate, Estimator

LISTED = 200
"""Units that are listed one by one; more are counted by stage."""


def print_plan(study: Study, estimate: bool = True, every: bool = False) -> None:
    """Print the expansion of a study, unit by unit where they are few or ``every`` is set, else stage by stage; times
    and memory are for one job at a time on this machine.

    Raises ``UserError``, after the table, where a run needs more memory than the machine or its GPU has.
    """
    from rich.console import Console

    planned = list(units(study))
    missing = [unit for unit in planned if not unit.done]
    estimator, estimates = _estimated(study, missing) if estimate else (None, {})
    listed = every or len(planned) <= LISTED
    table = _unit_table(planned, estimates, estimate) if listed else _stage_table(planned, estimates, estimate)
    console = Console(highlight=False)
    console.print(table)
    for name, path in dict.fromkeys((spec.name, spec.path) for spec in study.prepared.values()):
        if path and (left_out := DATASETS[name].left_out(path, study.data_path)):
            console.print(left_out, markup=False)
    if not listed:
        console.print("`ncpipe plan --every` lists every unit")
    console.print(
        f"{len(planned):,} units, {len(planned) - len(missing):,} done, {len(missing):,} to do{_total(estimates)}"
    )
    if estimator is not None:
        keep_estimates(study.layout, estimates, estimator.device.type)
        refuse_what_cannot_fit(estimates, estimator.available, estimator.device.type)


def _estimated(study: Study, missing: list[Unit]) -> tuple[Estimator, dict[Unit, Estimate]]:
    from ncpipe.plan.estimates import Estimator  # loads torch

    estimator = Estimator(study)
    estimator.calibrate(missing)
    return estimator, {unit: estimator.estimate(unit) for unit in missing}


def _unit_table(planned: list[Unit], estimates: dict[Unit, Estimate], estimate: bool) -> Table:
    table = _table("stage", "id", "state", costs=estimate)
    for unit in planned:
        state = "[green]done[/]" if unit.done else "to do"
        table.add_row(unit.stage, unit.id, state, *(_cells(estimates.get(unit)) if estimate else ()))
    return table


def _stage_table(planned: list[Unit], estimates: dict[Unit, Estimate], estimate: bool) -> Table:
    """A row per stage: its units, the time of all that are to do, and the memory of the largest."""
    table = _table("stage", "units", "done", "to do", costs=estimate)
    stages: dict[str, list[Unit]] = {}
    for unit in planned:
        stages.setdefault(unit.stage.split()[0], []).append(unit)
    for stage, of_stage in stages.items():
        problems = sum(len(unit.of.problems) for unit in of_stage if isinstance(unit.of, UfmBatch))
        missing = sum(not unit.done for unit in of_stage)
        costs = [estimates[unit] for unit in of_stage if unit in estimates]
        cells = _cells(_sum(costs)) if estimate else ()
        name = f"{stage}, {problems:,} problems" if problems else stage
        table.add_row(name, f"{len(of_stage):,}", f"{len(of_stage) - missing:,}", f"{missing:,}", *cells)
    return table


def _table(*headings: str, costs: bool) -> Table:
    from rich.table import Table

    table = Table(*headings, box=None)
    for heading in ("time", "memory") if costs else ():
        table.add_column(heading, justify="right")
    return table


def _sum(estimates: list[Estimate]) -> Estimate:
    from ncpipe.plan.estimates import Estimate  # loads torch

    seconds = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
    memory = [estimate.memory for estimate in estimates if estimate.memory is not None]
    return Estimate(sum(seconds) if seconds else None, max(memory, default=None))


def _cells(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None:
        return "", ""
    seconds, memory = estimate
    return "" if seconds is None else clock(seconds), "" if memory is None else size(memory)


def _total(estimates: dict[Unit, Estimate]) -> str:
    if not estimates:
        return ""
    seconds, most = _sum(list(estimates.values()))
    at_most = f", at most {size(most)} of memory a job" if most else ""
    return (
        f": about {clock(seconds or 0)} of computing, one job at a time{at_most}; divide by the jobs that run at once"
    )


def refuse_what_cannot_fit(estimates: dict[Unit, Estimate], available: float, device: str) -> None:
    """``UserError`` with the reason and the remedy if a unit needs more memory than there is."""
    needs = {unit: estimate.memory for unit, estimate in estimates.items() if estimate.memory is not None}
    too_large = {unit: memory for unit, memory in needs.items() if memory > available}
    if not too_large:
        return
    worst = max(too_large, key=too_large.__getitem__)
    assert isinstance(worst.of, NetworkRun)
    where = "this GPU" if device == "cuda" else "this machine"
    remedies = ["lower batch_size" if worst.stage == "train" else "measure fewer layers (measure.layers)"]
    remedies += ["or the model's width"]
    data = worst.of.spec.dataset
    if "stream" in DATASETS[data.name].takes and not data.stream:
        remedies += ["read the data set while training (stream: true)"]
    if device == "cuda" and worst.stage == "train":
        remedies += ["share the batches (gpus)"]
    others = f" (and {len(too_large) - 1} more)" if len(too_large) > 1 else ""
    raise UserError(
        f"{worst.stage} {worst.id}{others} needs about {size(too_large[worst])} of memory, but {where} has"
        f" {size(available)}: {', '.join(remedies)}"
    )
