"""A study: its config read, checked and expanded into data sets, networks and UFM batches."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ncpipe.continual.settings import ContinualSpec
from ncpipe.data.registry import PUBLISHED
from ncpipe.data.settings import DatasetSpec
from ncpipe.settings.identity import identify
from ncpipe.settings.messages import one_line
from ncpipe.settings.reading import check_plain, read_config
from ncpipe.settings.scale import at_scale
from ncpipe.settings.sweep import Tree, expand
from ncpipe.study.config import Block, Config, FigureName, FigureOptions
from ncpipe.study.layout import RUNS_A_PART, Layout
from ncpipe.study.selection import check_select
from ncpipe.system.errors import UserError
from ncpipe.training.settings import NetworkSpec
from ncpipe.ufm.settings import UfmSpec

Model = TypeVar("Model", bound=BaseModel)
Run = TypeVar("Run")

MAX_BATCH = 1024
"""UFM problems solved by one job at most."""


@dataclass(frozen=True)
class NetworkRun:
    """One planned network with what the study measures in it."""

    id: str
    spec: NetworkSpec
    dataset_id: str
    epochs: tuple[int, ...]
    """Declared epochs, ascending; 0 is the initialisation. The first without training error is measured besides."""
    layers: tuple[str, ...]
    """Measured layers, by depth; the last is 'features'."""

    @property
    def most_times(self) -> int:
        """How many times are measured at most."""
        return len(self.epochs) + 1

    @property
    def matched_id(self) -> str:
        """Name of the folder that holds the matched UFMs of this network."""
        return f"matched-{self.id}"


@dataclass(frozen=True)
class ContinualRun:
    """Class-incremental learning on the features of one network, in all declared ways: one job."""

    network: NetworkRun
    dataset: DatasetSpec
    """The network's data set with all of its classes."""
    dataset_id: str
    ways: dict[str, ContinualSpec]
    """By run id."""


@dataclass(frozen=True)
class UfmBatch:
    """UFM problems of one shape and solver, by id: one job."""

    id: str
    problems: dict[str, UfmSpec]


class Study:
    """A checked study. Raises ``UserError`` in one line for whatever is wrong with ``config``.

    A job of a workflow that has checked it leaves the check out: it then expands no more than it asks for.
    """

    def __init__(self, config: Mapping[str, Any], check: bool = True) -> None:
        check_plain(config)
        settings = at_scale(config)
        try:
            self.config: Config = validated(Config, settings, "config")
            self.layout = Layout(Path(self.config.study.results))
            if check:
                self._check()
        except UserError as error:
            where = f" (at scale {config['scale']})" if config.get("scales") else ""
            raise UserError(f"{error}{where}") from None

    def _check(self) -> None:
        self._check_paths()
        if not len(self.networks) + len(self.ufm_batches):
            raise UserError("config: nothing to run; declare a 'networks' or a 'ufm' block")
        self._check_layer_patterns()
        self._check_kept_epochs()
        self._check_robustness()
        self._check_matched()
        self._check_continual()
        self._check_select()
        self._check_figures()

    @classmethod
    def read(cls, path: Path, scale: str | None = None, check: bool = True) -> Study:
        """Read a YAML (or JSON) config file, at its own scale or at another."""
        config = read_config(path)
        if scale is not None and not config.get("scales"):
            raise UserError(f"{path} has only one size; leave the scale {scale!r} out")
        return cls(config if scale is None else {**config, "scale": scale}, check)

    @property
    def partitioned(self) -> bool:
        """Whether the runs are so many that the long tables are folders of parts."""
        return len(self.networks) + len(self.continual_ids) + len(self.problems) > RUNS_A_PART

    @property
    def data_path(self) -> list[Path]:
        """Folders searched for data-set files."""
        return [Path(entry).expanduser() for entry in self.config.study.data_path]

    @cached_property
    def datasets(self) -> dict[str, DatasetSpec]:
        """Declared data sets by id."""
        block = self.config.datasets
        if block is None:
            return {}
        specs = _specs(DatasetSpec, block, expand(block, "datasets"), "datasets")
        return {identify(spec.slug, spec): spec for spec in specs}

    @cached_property
    def networks(self) -> dict[str, NetworkRun]:
        """Planned networks by id: every declared network on every declared data set."""
        block = self.config.networks
        if block is None:
            return {}
        if not self.datasets:
            raise UserError("config: 'networks' needs a 'datasets' block")
        _check_no_data_set(block)
        sets = tuple(spec.model_dump(mode="json") for spec in self.datasets.values())
        grid = block.sweep.grid
        if grid or block.sweep.zip or not block.sweep.include:  # else there is no product, as everywhere
            grid = {"dataset": sets, **grid}
        include = tuple({"dataset": s, **extra} for extra in block.sweep.include for s in sets)
        crossed = block.model_copy(
            update={"sweep": block.sweep.model_copy(update={"grid": grid, "include": include})}
        )
        specs = _specs(NetworkSpec, block, expand(crossed, "networks"), "networks")
        return _by_id((run.id, run) for run in map(self._network_run, specs))

    def _network_run(self, spec: NetworkSpec) -> NetworkRun:
        epochs = measured_times(self.config.measure.epochs, spec)
        run_id = identify(spec.slug, {"network": spec, "epochs": epochs})
        layers = self._measured_layers(spec.layers())
        return NetworkRun(run_id, spec, identify(spec.dataset.slug, spec.dataset), epochs, layers)

    @cached_property
    def continual(self) -> dict[str, ContinualRun]:
        """Class-incremental learning by network id, on every network whose data set keeps some of the classes."""
        block = self.config.continual
        if block is None:
            return {}
        specs = _specs(ContinualSpec, block, expand(block, "continual"), "continual")
        nets = [run for run in self.networks.values() if run.spec.dataset.classes is not None]
        return {run.id: _continual_run(run, specs) for run in nets}

    @property
    def continual_ids(self) -> list[str]:
        """Ids of the runs of class-incremental learning."""
        return [run_id for run in self.continual.values() for run_id in run.ways]

    @cached_property
    def prepared(self) -> dict[str, DatasetSpec]:
        """Data sets to prepare by id: the declared, and those with all classes for class-incremental learning."""
        return self.datasets | {run.dataset_id: run.dataset for run in self.continual.values()}

    def seeds_of(self, run: NetworkRun, limit: int) -> list[NetworkRun]:
        """Runs that differ from ``run`` in the seed only, itself among them, in groups of at most ``limit``."""
        without = run.spec.model_copy(update={"seed": 0})
        alike = [r for r in self.networks.values() if r.spec.model_copy(update={"seed": 0}) == without]
        place = alike.index(run) // limit * limit
        return alike[place : place + limit]

    def _measured_layers(self, layers: list[str]) -> tuple[str, ...]:
        wanted = self.config.measure.layers
        if wanted == "all":
            return tuple(layers)
        if isinstance(wanted, int):
            return tuple(layers[-wanted:])
        return tuple(layer for layer in layers if layer == layers[-1] or matches_any(layer, wanted))

    @cached_property
    def problems(self) -> dict[str, UfmSpec]:
        """Declared UFM problems by id."""
        block = self.config.ufm
        if not block.base and not block.sweep.include:
            return {}
        specs = _specs(UfmSpec, block, expand(block, "ufm"), "ufm")
        return _by_id((identify(spec.slug, spec), spec) for spec in specs)

    @cached_property
    def ufm_batches(self) -> dict[str, UfmBatch]:
        """Declared UFM problems grouped into jobs: one shape and one solver each, at most ``MAX_BATCH``."""
        groups: dict[Any, dict[str, UfmSpec]] = {}
        for problem_id, spec in self.problems.items():
            bias = spec.bias if isinstance(spec.bias, str) else "penalised"
            shape = (
                spec.classes,
                str(spec.samples),
                spec.dim,
                spec.depth,
                spec.loss,
                bias,
                spec.activation,
                spec.temperature is None,
                spec.classifier,
                spec.solver,
            )
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

    @cached_property
    def figures(self) -> dict[str, FigureOptions]:
        """Figures to draw by file name."""
        wanted = self.config.figures
        if wanted is None:
            networks: tuple[FigureName, ...] = (
                "collapse_curves",
                "collapse_depth",
                "collapse_map",
                "frames",
                "gram_heatmaps",
                "training_curves",
            )
            wanted = networks if self.networks else ()
            wanted += ("matched_ufm",) if self.networks and self.config.ufm.matched else ()
            predicts = {"predicted", "predicted_extended"} & {*(self.config.ufm.matched)}
            wanted += ("predictions",) if self.networks and predicts else ()
            wanted += ("stationarity",) if self.networks and "full_batch" in self.config.measure.splits else ()
            descents = any(spec.solver.name == "gradient_descent" for spec in self.problems.values())
            wanted += ("continual_curves",) if self.continual else ()
            wanted += ("ufm_phase",) if sweeps_a_penalty(self.problems.values()) else ()
            wanted += ("ufm_trajectories",) if descents else ()
            paths = any(spec.solver.name == "central_path" for spec in self.problems.values())
            wanted += ("ufm_success",) if sweeps_the_width(self.problems.values()) else ()
            wanted += ("central_path",) if paths else ()
        options = (FigureOptions(name=f) if isinstance(f, str) else f for f in wanted)
        return {option.file or option.name: option for option in options}

    def _check_paths(self) -> None:
        for folder in self.data_path:
            if not folder.is_dir():
                raise UserError(f"study.data_path: no folder '{folder}'; create it or take it out of the list")
        for spec in self.datasets.values():
            places = [folder / spec.path for folder in (Path(), *self.data_path)] if spec.path else [Path()]
            if not any(place.expanduser().exists() for place in places):
                raise UserError(f"datasets: no file or folder {spec.path!r} ('path' of the imagefolder)")

    def _check_layer_patterns(self) -> None:
        measure = self.config.measure
        patterns = [("layers", p) for p in (measure.layers if isinstance(measure.layers, tuple) else ())]
        patterns += [("flatten", p) for p in measure.flatten] + [("keep.layers", p) for p in measure.keep.layers]
        known = list(dict.fromkeys(layer for run in self.networks.values() for layer in run.spec.layers()))
        for key, pattern in patterns if self.networks else ():
            if not any(fnmatch.fnmatchcase(layer, pattern) for layer in known):
                raise UserError(f"measure.{key}: no network has a layer {pattern!r}; there are {', '.join(known)}")

    def _check_continual(self) -> None:
        if self.config.continual is not None and not self.continual:
            raise UserError("continual: every network's data set has all of its classes; set datasets.base.classes")
        for run in self.continual.values():
            if (reason := _no_new_rows(run)) is not None:
                raise UserError(f"continual: {run.network.id} {reason}")

    def _check_select(self) -> None:
        block = self.config.networks
        if block is not None and block.select is not None:
            specs = {run.id: run.spec for run in self.networks.values()}
            check_select(block.select, specs, self.config.measure)

    def _check_kept_epochs(self) -> None:
        kept = self.config.measure.keep.epochs
        measured = {epoch for run in self.networks.values() for epoch in run.epochs}
        for epoch in kept if isinstance(kept, tuple) and self.networks else ():
            if epoch not in measured:
                raise UserError(f"measure.keep.epochs: {epoch} is not measured; add it to measure.epochs")

    def _check_robustness(self) -> None:
        measure = self.config.measure
        if not measure.robustness:
            return
        if "test" not in measure.splits:
            raise UserError("measure.robustness: it is of test images; add 'test' to measure.splits or set it to 0")
        for spec in self.datasets.values():
            if spec.pairs is not None:
                raise UserError(
                    f"measure.robustness: {spec.slug} has images of several labels ('pairs'), DeepFool needs one;"
                    " set it to 0"
                )

    def _check_figures(self) -> None:
        if len(self.figures) < len(self.config.figures or ()):
            raise UserError("figures: two figures would have one file name; give each a 'file'")

    def _check_matched(self) -> None:
        if "extended" not in self.config.ufm.matched:
            return
        for run in self.networks.values():
            if len(run.layers) < 2:
                raise UserError(
                    f"ufm.matched: 'extended' reads the last two layers, but measure.layers leaves one of {run.id};"
                    " measure another layer or match 'plain' only"
                )


def _by_id(runs: Iterable[tuple[str, Run]]) -> dict[str, Run]:
    """Runs declared twice are one; different runs of one id, which chance may give in a large study, are refused."""
    found: dict[str, Run] = {}
    for run_id, run in runs:
        same = found.setdefault(run_id, run)
        if same is not run and same != run:
            raise UserError(f"config: two different runs have the id {run_id}, by chance; change a setting of one")
    return found


def _continual_run(network: NetworkRun, specs: Iterable[ContinualSpec]) -> ContinualRun:
    whole = network.spec.dataset.model_copy(update={"classes": None})
    ways = {
        identify(f"{spec.slug}-{network.spec.slug}", {"network": network.id, "continual": spec}): spec
        for spec in specs
    }
    return ContinualRun(network, whole, identify(whole.slug, whole), ways)


def _no_new_rows(run: ContinualRun) -> str | None:
    """Why the network's classifier cannot be given rows of new classes, with the remedy; None where it can."""
    head, data = run.network.spec.head, run.network.spec.dataset
    known, kept = PUBLISHED.get(data.name), data.samples_per_class
    needed = max(spec.rehearsal for spec in run.ways.values())
    if head.fixed_etf or head.temperature is not None:
        return "has a frozen or normalised classifier, which takes no new rows; leave it out of this study"
    if data.pairs is not None or data.label_noise or data.random_labels:
        return "learns several or corrupted labels, and classes are added one by one; leave it out of this study"
    if known is not None and data.classes == known.classes:
        return f"has seen all {known.classes} classes; lower dataset.classes"
    if kept is not None and needed > kept:
        return f"has {kept} images of a class; lower continual.rehearsal = {needed}"
    return None


def matches_any(layer: str, patterns: Iterable[str]) -> bool:
    """Whether a layer's name matches one of the names or globs."""
    return any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)


def _check_no_data_set(block: Block) -> None:
    zips = (block.sweep.zip,) if isinstance(block.sweep.zip, dict) else block.sweep.zip
    parts = {"base": [block.base], "sweep.grid": [block.sweep.grid], "sweep.zip": zips}
    for part, mappings in {**parts, "sweep.include": block.sweep.include}.items():
        if any(key.split(".")[0] == "dataset" for mapping in mappings for key in mapping):
            raise UserError(f"networks.{part}: data sets are declared in the 'datasets' block, not under 'dataset'")


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


def log_spaced(points: int, last: int) -> tuple[int, ...]:
    """0, 1 and ``last`` with about ``points`` integers in all, the positive ones evenly spaced in the logarithm."""
    steps = max(1, points - 2)
    return tuple(sorted({0, last, *(round(math.exp(math.log(last) * i / steps)) for i in range(steps))}))


def measured_times(wanted: int | tuple[int, ...], spec: NetworkSpec) -> tuple[int, ...]:
    """Measured epochs, and after the last as many iterations of the end phase, log-spaced."""
    epochs = measured_epochs(wanted, spec.epochs)
    if spec.terminal is None:
        return epochs
    iterations = log_spaced(max(2, len(epochs)), spec.terminal.iterations)
    return (*epochs, *(spec.epochs + iteration for iteration in iterations if iteration))


def measured_epochs(wanted: int | tuple[int, ...], last: int) -> tuple[int, ...]:
    """Epochs that are measured: log-spaced for a number, the listed ones up to ``last`` (and it) otherwise."""
    if isinstance(wanted, int):
        return log_spaced(wanted, last)
    return tuple(sorted({last, *(epoch for epoch in wanted if epoch <= last)}))


def validated(model: type[Model], values: Any, where: str) -> Model:
    """``model`` from raw values; the first mistake as one line that names its place."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(one_line(error, where)) from None


def _specs(model: type[Model], block: Block, runs: list[Tree], where: str) -> list[Model]:
    place = f"{where}.base" if block.sweep == type(block.sweep)() else where
    return [validated(model, run, place) for run in runs]
