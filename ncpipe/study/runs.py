"""What a study plans to run: class-incremental learning on networks, and UFM problems in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

from ncpipe.continual.settings import ContinualSpec
from ncpipe.data.settings import DatasetSpec
from ncpipe.settings.identity import canonical, identify
from ncpipe.system.errors import UserError
from ncpipe.training.settings import NetworkRun
from ncpipe.ufm.settings import UfmSpec

MAX_BATCH = 1024
"""UFM problems solved by one job at most."""
SHAPE = attrgetter("classes", "dim", "model.depth", "loss", "activation", "classifier", "solver")
"""Settings that the problems of a job have in common."""


@dataclass(frozen=True)
class ContinualRun:
    """Class-incremental learning on the features of one network, in all declared ways: one job."""

    network: NetworkRun
    dataset: DatasetSpec
    """The network's data set with all of its classes."""
    dataset_id: str
    ways: dict[str, ContinualSpec]
    """By run id."""

    def params(self) -> dict[str, Any]:
        """The settings that decide about reruns."""
        return {run_id: canonical(spec) for run_id, spec in self.ways.items()}


@dataclass(frozen=True)
class UfmBatch:
    """UFM problems of one shape and solver, by id: one job."""

    id: str
    problems: dict[str, UfmSpec]

    def params(self) -> dict[str, Any]:
        """The settings that decide about reruns."""
        return {problem_id: canonical(spec) for problem_id, spec in self.problems.items()}


def by_id(runs: Iterable[tuple[str, Run]]) -> dict[str, Run]:
    """Runs declared twice are one; different runs of one id, which chance may give in a large study, are refused."""
    found: dict[str, Run] = {}
    for run_id, run in runs:
        same = found.setdefault(run_id, run)
        if same is not run and same != run:
            raise UserError(f"config: two different runs have the id {run_id}, by chance; change a setting of one")
    return found


def continual_run(network: NetworkRun, specs: Iterable[ContinualSpec]) -> ContinualRun:
    """All declared ways of learning on a network whose data set keeps some of the classes."""
    whole = network.spec.dataset.model_copy(update={"classes": None})
    ways = {
        identify(f"{spec.slug}-{network.spec.slug}", {"network": network.id, "continual": spec}): spec
        for spec in specs
    }
    return ContinualRun(network, whole, identify(whole.slug, whole), ways)


Run = TypeVar("Run")


def in_batches(problems: Mapping[str, UfmSpec]) -> dict[str, UfmBatch]:
    """Problems grouped into jobs: one shape and one solver each, at most ``MAX_BATCH``."""
    groups: dict[Any, dict[str, UfmSpec]] = {}
    for problem_id, spec in problems.items():
        bias = spec.bias if isinstance(spec.bias, str) else "penalised"
        shape = (*SHAPE(spec), str(spec.samples), bias, spec.temperature is None)
        groups.setdefault(shape, {})[problem_id] = spec
    batches = {}
    for members in groups.values():
        ids = list(members)
        for start in range(0, len(ids), MAX_BATCH):
            chunk = ids[start : start + MAX_BATCH]
            slug = members[chunk[0]].slug.rsplit("-s", 1)[0]
            batch = UfmBatch(identify(slug, chunk), {i: members[i] for i in chunk})
            batches[batch.id] = batch
    return batches
