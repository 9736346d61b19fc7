"""Checks of a whole study, each a ``UserError`` in a line that names the setting and the remedy."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

from ncpipe.data.registry import DATASETS
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import image_shape
from ncpipe.settings.source import is_own, short_name, source_of
from ncpipe.settings.sweep import Block
from ncpipe.study.config import PAPERS, MeasureSpec
from ncpipe.study.runs import ContinualRun
from ncpipe.system.errors import UserError
from ncpipe.training.settings import AugmentSpec, NetworkRun
from ncpipe.ufm.settings import MatchedKind


def check_paths(data_path: Sequence[Path], datasets: Mapping[str, DatasetSpec]) -> None:
    """Folders of data and image folders are there."""
    for folder in data_path:
        if not folder.is_dir():
            raise UserError(f"study.data_path: no folder '{folder}'; create it or take it out of the list")
    for spec in datasets.values():
        places = [folder / spec.path for folder in (Path(), *data_path)] if spec.path else [Path()]
        if not any(place.expanduser().exists() for place in places):
            raise UserError(f"datasets: no file or folder {spec.path!r} ('path' of {spec.name!r})")


def check_inputs(data_path: Sequence[Path], networks: Mapping[str, NetworkRun]) -> None:
    """Networks read what their data sets hold, of which files say no more than the shape here."""
    shapes: dict[str, tuple[int, ...]] = {}
    for run in networks.values():
        data, model = run.spec.dataset, run.spec.model
        if run.dataset_id not in shapes:
            shapes[run.dataset_id] = image_shape(data, data_path)
        if len(shapes[run.dataset_id]) > 1:
            continue
        if not model.reads_vectors:
            raise UserError(f"networks: {model.name!r} reads images, but {data.slug} has vectors; take 'mlp'")
        if run.spec.augment != AugmentSpec():
            raise UserError(f"networks: 'augment' changes images, but {data.slug} has vectors; leave it out")


def check_own_files(figures: Sequence[str], claims: Sequence[str]) -> None:
    """Files of the study's own are there and are Python, and what they hold has a name of its own; none is run."""
    for setting, needed, files in (("figures", "draw", figures), ("claims", None, claims)):
        for file in filter(is_own, files):
            try:
                known = source_of(file, None).names
            except ValueError as error:
                raise UserError(f"{setting}: {error}") from None
            if needed and known is not None and needed not in known:
                raise UserError(f"{setting}: {file} has no function {needed}(tables, options)")
    names = list(map(short_name, claims))
    for file, name in zip(claims, names, strict=True):
        if is_own(file) and (name in PAPERS or names.count(name) > 1):
            raise UserError(f"claims: {file} has the name of other claims, {name!r}; rename the file")


def check_layer_patterns(measure: MeasureSpec, networks: Mapping[str, NetworkRun]) -> None:
    """Every pattern of a layer fits one that is known before the networks are built."""
    patterns = [("layers", p) for p in (measure.layers if isinstance(measure.layers, tuple) else ())]
    patterns += [("flatten", p) for p in measure.flatten] + [("keep.layers", p) for p in measure.keep.layers]
    known = list(dict.fromkeys(layer for run in networks.values() for layer in run.spec.layers()))
    there = f"there are {', '.join(known)}"
    for run in networks.values():
        if "*" in run.spec.layers():
            there = f"those of {run.spec.model.label} are known once model.layers names them"
    for key, pattern in patterns if networks else ():
        if not any(fnmatch.fnmatchcase(layer, pattern) for layer in known if layer != "*"):
            raise UserError(f"measure.{key}: no network has a layer {pattern!r}; {there}")


def check_continual(declared: bool, continual: Mapping[str, ContinualRun]) -> None:
    """Class-incremental learning has networks that can learn classes."""
    if declared and not continual:
        raise UserError("continual: every network's data set has all of its classes; set datasets.base.classes")
    for run in continual.values():
        if (reason := _no_new_rows(run)) is not None:
            raise UserError(f"continual: {run.network.id} {reason}")


def check_kept_epochs(measure: MeasureSpec, networks: Mapping[str, NetworkRun]) -> None:
    """Epochs whose features are kept are measured."""
    kept = measure.keep.epochs
    measured = {epoch for run in networks.values() for epoch in run.epochs}
    for epoch in kept if isinstance(kept, tuple) and networks else ():
        if epoch not in measured:
            raise UserError(f"measure.keep.epochs: {epoch} is not measured; add it to measure.epochs")


def check_robustness(measure: MeasureSpec, datasets: Mapping[str, DatasetSpec]) -> None:
    """Adversarial changes are of test images with one label."""
    if not measure.robustness:
        return
    if "test" not in measure.splits:
        raise UserError("measure.robustness: it is of test images; add 'test' to measure.splits or set it to 0")
    for spec in datasets.values():
        if spec.multi_label:
            raise UserError(
                f"measure.robustness: {spec.slug} has samples of several labels, DeepFool needs one; set it to 0"
            )


def check_matched(kinds: Sequence[MatchedKind], networks: Mapping[str, NetworkRun]) -> None:
    """The layers that a matched model reads are measured."""
    if "extended" not in kinds:
        return
    for run in networks.values():
        if len(run.layers) < 2:
            raise UserError(
                f"ufm.matched: 'extended' reads the last two layers, but measure.layers leaves one of {run.id};"
                " measure another layer or match 'plain' only"
            )


def _no_new_rows(run: ContinualRun) -> str | None:
    """Why the network's classifier cannot be given rows of new classes, with the remedy; None where it can."""
    head, data = run.network.spec.head, run.network.spec.dataset
    known, kept = DATASETS[data.name].published, data.samples_per_class
    needed = max(spec.rehearsal for spec in run.ways.values())
    if head.fixed_etf or head.temperature is not None:
        return "has a frozen or normalised classifier, which takes no new rows; leave it out of this study"
    if data.multi_label or data.label_noise or data.random_labels:
        return "learns several or corrupted labels, and classes are added one by one; leave it out of this study"
    if known is not None and data.classes == known.classes:
        return f"has seen all {known.classes} classes; lower dataset.classes"
    if kept is not None and needed > kept:
        return f"has {kept} images of a class; lower continual.rehearsal = {needed}"
    return None


def check_no_data_set(block: Block) -> None:
    """Data sets are crossed with the networks; none is declared among these."""
    zips = (block.sweep.zip,) if isinstance(block.sweep.zip, dict) else block.sweep.zip
    parts = {"base": [block.base], "sweep.grid": [block.sweep.grid], "sweep.zip": zips}
    for part, mappings in {**parts, "sweep.include": block.sweep.include}.items():
        if any(key.split(".")[0] == "dataset" for mapping in mappings for key in mapping):
            raise UserError(f"networks.{part}: data sets are declared in the 'datasets' block, not under 'dataset'")
