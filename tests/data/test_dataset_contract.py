"""What every data set promises, without a network: a new one is tested by being there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
from plugins import install

from ncpipe.data import load, nominal_shape, places, prepare
from ncpipe.data.originals import find_originals
from ncpipe.data.registry import DATASETS
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import image_shape
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision

NEEDED = {
    "path": "nowhere",
    "image_size": 8,
    "samples_per_class": 3,
    "test_samples_per_class": 2,
    "mixture": {"classes": 4, "dimension": 5, "separation": 2.0},
}
"""Settings that some data sets need."""


@pytest.fixture(autouse=True)
def _no_other_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    for name in ("_urlretrieve", "_get_redirect_url"):
        monkeypatch.setattr(import_torchvision().datasets.utils, name, unreachable)


def spec_of(name: str) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": name} | {key: NEEDED[key] for key in DATASETS[name].needs})


def mistake(look: Callable[[], object]) -> str:
    """What a user is told; empty where there is nothing to tell."""
    try:
        look()
    except UserError as told:
        return str(told)
    return ""


each = pytest.mark.parametrize("name", [*DATASETS])


def test_what_is_known_before_reading_needs_no_torch() -> None:
    code = (
        "import sys; from ncpipe.data.source import nominal_shape; from ncpipe.data.registry import DATASETS\n"
        "from ncpipe.data.settings import DatasetSpec\n"
        "[nominal_shape(DatasetSpec(name=name)) for name, kind in DATASETS.items() if kind.published]\n"
        "sys.exit(bool({'torch', 'PIL', 'sklearn'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@each
def test_its_size_is_published_or_that_of_its_files(name: str) -> None:
    dataset, spec = DATASETS[name], spec_of(name)
    if spec.path is not None:
        assert dataset.published is None
        with pytest.raises(UserError, match="'nowhere' not found"):
            nominal_shape(spec)
        return
    shape = nominal_shape(spec)
    image, classes, train, test, _ = shape
    assert shape == (dataset.published or shape)
    assert image_shape(spec) == image
    assert classes >= 2
    assert min(train, test) >= classes
    half = spec.model_copy(update={"classes": classes // 2})
    assert nominal_shape(half)[1:4] == (classes // 2, round(train / 2), round(test / 2))
    few = spec.model_copy(update={"samples_per_class": 3, "test_samples_per_class": 2})
    assert nominal_shape(few)[1:4] == (classes, 3 * classes, 2 * classes)
    with pytest.raises(UserError, match=rf"{name} has {classes} classes: lower dataset\.classes = {classes + 1}"):
        nominal_shape(spec.model_copy(update={"classes": classes + 1}))


@each
def test_it_is_read_or_the_remedy_is_named(name: str, tmp_path: Path) -> None:
    spec, out = spec_of(name), tmp_path / "out"
    if spec.path is None:
        assert find_originals(name, None, [tmp_path]) is None
    if told := mistake(lambda: prepare(spec, out, [tmp_path])):
        for message in (told, mistake(lambda: DATASETS[name].open(spec, [tmp_path]))):
            assert re.fullmatch(r".*study\.data_path.*", message)
        assert not out.exists()
        return
    dataset = load(out)
    images, labels = dataset.train.images, (dataset.train.labels, dataset.test.labels)
    assert (dataset.image_shape, dataset.num_classes, *map(len, labels), images.itemsize) == nominal_shape(spec)


STRIPES = """
import torch
from ncpipe.data.source import DataSet, NominalShape, Source, SourceSplit

class Stripes(DataSet):
    published = NominalShape((1, 4, 4), 2, 6, 4)

    def open(self, spec, search_path):
        def split(count):
            labels = torch.arange(count) % 2
            return SourceSplit.of((labels * 200).byte()[:, None, None, None].expand(-1, 1, 4, 4).contiguous(), labels)
        return Source(split(6), split(4), ("black", "grey"), "made up")

DATASET = Stripes()
"""


def test_one_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(DATASETS, "stripes", STRIPES, tmp_path / "package", monkeypatch, ":DATASET")
    spec = DatasetSpec(name="stripes")
    prepare(spec, tmp_path / "out")
    assert nominal_shape(spec) == ((1, 4, 4), 2, 6, 4, 1)
    dataset = load(tmp_path / "out")
    assert (dataset.class_names, dataset.train.labels.tolist()) == (("black", "grey"), [0, 1, 0, 1, 0, 1])
