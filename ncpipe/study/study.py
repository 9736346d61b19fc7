"""A study: its config read, checked and expanded into data sets, networks and UFM batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ncpipe.continual.settings import ContinualSpec
from ncpipe.data.settings import DatasetSpec
from ncpipe.settings.base import matches_any
from ncpipe.settings.identity import identify
from ncpipe.settings.messages import Model, validated
from ncpipe.settings.reading import check_plain, read_config
from ncpipe.settings.scale import at_scale
from ncpipe.settings.source import is_own
from ncpipe.settings.sweep import Block, expand
from ncpipe.study import checks
from ncpipe.study.config import FIGURES, Config, FigureOptions
from ncpipe.study.layout import RUNS_A_PART, Layout
from ncpipe.study.runs import ContinualRun, UfmBatch, by_id, continual_run, in_batches
from ncpipe.study.selection import check_select
from ncpipe.system.errors import UserError
from ncpipe.training.settings import NetworkRun, NetworkSpec, measured_times
from ncpipe.ufm.settings import UfmSpec


class Study:
    """A checked study. Raises ``UserError`` in one line for whatever is wrong with ``config``.

    A job of a workflow that has checked it leaves the check out: it then expands no more than it asks for.
    """

    recorded = False
    """Whether there is no plan: the results are of runs that ``ncpipe.Recorder`` has recorded."""

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
        config, measure = self.config, self.config.measure
        checks.check_paths(self.data_path, self.datasets)
        if not len(self.networks) + len(self.ufm_batches):
            raise UserError("config: nothing to run; declare a 'networks' or a 'ufm' block")
        checks.check_layer_patterns(measure, self.networks)
        checks.check_inputs(self.data_path, self.networks)
        checks.check_kept_epochs(measure, self.networks)
        checks.check_robustness(measure, self.datasets)
        checks.check_matched(config.ufm.matched, self.networks)
        checks.check_continual(config.continual is not None, self.continual)
        if config.networks is not None and config.networks.select is not None:
            check_select(config.networks.select, {run.id: run.spec for run in self.networks.values()}, measure)
        checks.check_own_files([figure.name for figure in self.figures.values()], config.claims)
        if config.figures is not None and len(self.figures) < len(config.figures):
            raise UserError("figures: two figures would have one file name; give each a 'file'")

    @classmethod
    def read(cls, path: Path, scale: str | None = None, check: bool = True) -> Study:
        """Read a YAML (or JSON) config file, at its own scale or at another, or that of a results folder."""
        if path.is_dir():
            return cls._of_results(path, scale)
        return cls(_read_at(path, scale), check)

    @classmethod
    def _of_results(cls, folder: Path, scale: str | None) -> Study:
        """The study whose results a folder holds, or the empty one of recorded runs."""
        layout = Layout(folder)
        recorded = layout.recording.exists()
        file = layout.recording if recorded else folder / "study.json"
        if not file.exists():
            raise UserError(
                f"{folder} holds no results: no study.json, as a study has it, and no {layout.recording.name}"
            )
        config = _read_at(file, scale)
        if recorded:  # in a folder of any name, which no shell command of a rule has to hold
            study = cls(config, check=False)
            study.layout, study.recorded = layout, True
            return study
        return cls({**config, "study": {**config.get("study", {}), "results": str(folder)}})

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
        return {identify(spec.slug, spec): spec for spec in _specs(DatasetSpec, self.config.datasets, "datasets")}

    @cached_property
    def networks(self) -> dict[str, NetworkRun]:
        """Planned networks by id: every declared network on every declared data set."""
        block = self.config.networks
        if block is None:
            return {}
        if not self.datasets:
            raise UserError("config: 'networks' needs a 'datasets' block")
        checks.check_no_data_set(block)
        sets = tuple(spec.model_dump(mode="json") for spec in self.datasets.values())
        grid = block.sweep.grid
        if grid or block.sweep.zip or not block.sweep.include:  # else there is no product, as everywhere
            grid = {"dataset": sets, **grid}
        include = tuple({"dataset": s, **extra} for extra in block.sweep.include for s in sets)
        crossed = block.model_copy(
            update={"sweep": block.sweep.model_copy(update={"grid": grid, "include": include})}
        )
        specs = _specs(NetworkSpec, block, "networks", crossed)
        return by_id((run.id, run) for run in map(self._network_run, specs))

    def _network_run(self, spec: NetworkSpec) -> NetworkRun:
        epochs = measured_times(self.config.measure.epochs, spec)
        run_id = identify(spec.slug, {"network": spec, "epochs": epochs})
        layers = self._measured_layers(spec)
        return NetworkRun(run_id, spec, identify(spec.dataset.slug, spec.dataset), epochs, layers)

    @cached_property
    def continual(self) -> dict[str, ContinualRun]:
        """Class-incremental learning by network id, on every network whose data set keeps some of the classes."""
        specs = _specs(ContinualSpec, self.config.continual, "continual")
        if not specs:
            return {}
        nets = [run for run in self.networks.values() if run.spec.dataset.classes is not None]
        return {run.id: continual_run(run, specs) for run in nets}

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

    def _measured_layers(self, spec: NetworkSpec) -> tuple[str, ...]:
        wanted, layers = self.config.measure.layers, spec.layers()
        if wanted == "all":
            return tuple(layers)
        if isinstance(wanted, int):
            if "*" in layers[-wanted:]:
                raise UserError(
                    f"measure.layers: the last {wanted} of {spec.model.label} are not known before it is built; list"
                    " them in model.layers, or take 1 or all"
                )
            return tuple(layers[-wanted:])
        if "*" in layers:
            return (*wanted, layers[-1])
        return tuple(layer for layer in layers if layer == layers[-1] or matches_any(layer, wanted))

    @cached_property
    def problems(self) -> dict[str, UfmSpec]:
        """Declared UFM problems by id."""
        block = self.config.ufm
        if not block.base and not block.sweep.include:
            return {}
        return by_id((identify(spec.slug, spec), spec) for spec in _specs(UfmSpec, block, "ufm"))

    @cached_property
    def ufm_batches(self) -> dict[str, UfmBatch]:
        """Declared UFM problems grouped into jobs: one shape and one solver each, at most ``MAX_BATCH``."""
        return in_batches(self.problems)

    @cached_property
    def figures(self) -> dict[str, FigureOptions]:
        """Figures to draw by file name."""
        wanted: Iterable[str | FigureOptions] | None = self.config.figures
        if wanted is None:
            wanted = [name for name, applies in FIGURES.answers("applies", self).items() if applies]
        options = (FigureOptions(name=f) if isinstance(f, str) else f for f in wanted)
        return {option.stem: option for option in options}

    @property
    def own_files(self) -> list[str]:
        """Files of the study's own, of Python, that its figures and claims are made by."""
        names = [*(figure.name for figure in self.figures.values()), *self.config.claims]
        return [name for name in names if is_own(name)]


def _read_at(file: Path, scale: str | None) -> dict[str, Any]:
    config = read_config(file)
    if scale is None:
        return config
    if not config.get("scales"):
        raise UserError(f"{file} has only one size; leave the scale {scale!r} out")
    return {**config, "scale": scale}


def _specs(model: type[Model], block: Block | None, where: str, crossed: Block | None = None) -> list[Model]:
    """The settings of every run of a block as it was declared, or as it is crossed with others."""
    if block is None:
        return []
    place = f"{where}.base" if block.sweep == type(block.sweep)() else where
    return [validated(model, run, place) for run in expand(crossed or block, where)]
