"""Source files that change after a data set was made of them: what is noticed, and what means nothing."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from test_data import idx_bytes, write_idx
from workplace import Workplace

from ncpipe.data import places as places_module
from ncpipe.data import prepare
from ncpipe.data.originals import RECORD, find_originals, has_changed, version
from ncpipe.data.settings import DatasetSpec
from ncpipe.plan.units import units
from ncpipe.study.study import Study
from ncpipe.system.files import read_json


@pytest.fixture(autouse=True)
def _no_other_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places_module, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def bmp(colour: int) -> bytes:
    """An image whose size does not depend on its content."""
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), colour, np.uint8)).save(stream, "BMP")
    return stream.getvalue()


NAMES = [f"{split}/{cls}/{i}.bmp" for split in ("train", "val") for cls in "ab" for i in range(3)]


def photos(path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for place, name in enumerate(NAMES):
                archive.writestr(name, bmp(place))
        return path
    for place, name in enumerate(NAMES):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(bmp(place))
    return path


class Made:
    """A data set and where it was made."""

    def __init__(self, folder: Path, search_path: tuple[Path, ...] = (), **settings: Any) -> None:
        self.spec, self.folder, self.search_path = DatasetSpec(**settings), folder, search_path
        self.make()

    def make(self) -> None:
        prepare(self.spec, self.folder, self.search_path)

    def find(self) -> Any:
        return find_originals(self.spec.name, self.spec.path, self.search_path)

    def version(self) -> str:
        return version(self.folder, self.find)

    def has_changed(self) -> bool:
        return has_changed(self.folder, self.find)


def later(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def add(path: Path) -> None:
    shutil.copy(path / "train/a/0.bmp", path / "train/a/new.bmp")


def replace_by_one_of_the_same_size(path: Path) -> None:
    (path / "train/a/0.bmp").write_bytes(bmp(200))
    later(path / "train/a/0.bmp")


def replace_under_an_old_date(path: Path) -> None:
    (path / "train/a/0.bmp").write_bytes(bmp(200) + b" ")
    os.utime(path / "train/a/0.bmp", ns=(0, 0))


CHANGES = [
    add,
    replace_by_one_of_the_same_size,
    replace_under_an_old_date,
    lambda path: (path / "val/b/2.bmp").unlink(),
    lambda path: (path / "train/a/0.bmp").rename(path / "train/b/9.bmp"),
    lambda path: (path / "train/a").rename(path / "train/c"),
    lambda path: shutil.copytree(path / "val", path / "test"),
    lambda path: shutil.rmtree(path / "train/a"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_are_noticed_once(tmp_path, change):
    made = Made(tmp_path / "out", name="imagefolder", path=str(photos(tmp_path / "photos")), image_size=4)
    assert (made.version(), made.has_changed()) == ("", False)
    change(tmp_path / "photos")
    changed = made.version()
    assert made.has_changed()
    assert changed == made.version() != ""
    shutil.rmtree(tmp_path / "photos")
    photos(tmp_path / "photos")
    assert made.version() == ""  # back to what it was made of
    add(tmp_path / "photos")
    added = made.version()
    made.make()
    assert (made.version(), made.has_changed()) == (added, False)
    (tmp_path / "photos/train/a/new.bmp").unlink()
    assert made.version() not in ("", added)


def test_dates_alone_mean_nothing_and_are_looked_into_once(tmp_path, capsys):
    path = photos(tmp_path / "photos")
    made = Made(tmp_path / "out", name="imagefolder", path=str(path), image_size=4)
    for name in NAMES:
        later(path / name)
    assert made.version() == ""
    assert f"source files of other dates {len(NAMES)}/{len(NAMES)}" in capsys.readouterr().err
    assert made.version() == ""
    assert capsys.readouterr().err == ""
    path.rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", path)
    assert made.version() == ""
    (path / "train/a/notes.txt").write_text("no image")
    assert made.version() == ""


def test_images_that_a_subset_leaves_out_may_change(tmp_path):
    path = photos(tmp_path / "photos")
    made = Made(tmp_path / "out", name="imagefolder", path=str(path), image_size=4, samples_per_class=1)
    used = set()
    for name in NAMES:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content + b" ")
        used |= {name} if made.version() else set()
        (path / name).write_bytes(content)
    assert len(used) == 2 + 6
    add(path)  # which may be drawn instead
    assert made.has_changed()


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_known_by_what_is_in_it(tmp_path, packing):
    path = photos(tmp_path / "photos.zip")
    made = Made(tmp_path / "out", name="imagefolder", path=str(path), image_size=4)

    def pack(names: list[str], colours: dict[str, int]) -> None:
        with zipfile.ZipFile(path, "w", packing) as archive:
            for name in names:
                archive.writestr(name, bmp(colours.get(name, NAMES.index(name))))

    pack(NAMES[::-1], {})  # packed again
    assert made.version() == ""
    pack(NAMES, {NAMES[0]: 200})
    assert made.has_changed()
    pack(NAMES[1:], {})
    assert made.has_changed()


def test_idx_files_and_the_search_path(tmp_path):
    for seed, place in enumerate(("first", "second")):
        write_idx(tmp_path / place / "mnist", seed=seed)
    made = Made(tmp_path / "out", (tmp_path / "first",), name="mnist")
    assert made.version() == ""
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    made.search_path = (tmp_path / "copy",)
    assert made.version() == ""
    made.search_path = (tmp_path / "second", tmp_path / "first")
    assert made.has_changed()
    made.search_path = (tmp_path / "nowhere",)
    assert made.version() == ""  # nothing to make it of
    made.search_path = (tmp_path / "first",)
    (labels,) = (tmp_path / "first/mnist").glob("train-labels*")
    labels.with_suffix("").write_bytes(idx_bytes(np.repeat(np.arange(10, dtype=np.uint8), 3)))
    assert made.version() == ""  # the packed one is read
    labels.unlink()
    assert made.has_changed()


def test_a_source_that_breaks_is_noticed_and_the_job_says_why(tmp_path):
    write_idx(tmp_path / "mnist")
    made = Made(tmp_path / "out", (tmp_path,), name="mnist")
    (tmp_path / "mnist/t10k-images-idx3-ubyte.gz").unlink()
    assert made.has_changed()


def test_a_data_set_without_a_record_or_with_a_damaged_one_counts_as_unchanged(tmp_path):
    path = photos(tmp_path / "photos")
    made = Made(tmp_path / "out", name="imagefolder", path=str(path), image_size=4)
    add(path)
    (tmp_path / "out" / RECORD).write_bytes(b"PAR1")
    assert made.version() == ""
    (tmp_path / "out" / RECORD).unlink()
    assert made.version() == ""
    assert Made(tmp_path / "digits", name="digits", samples_per_class=2).version() == ""
    assert not (tmp_path / "digits" / RECORD).exists()


def test_names_that_are_no_utf_8_are_recorded(tmp_path):
    path = photos(tmp_path / "photos")
    odd = os.fsencode(path / "train/a") + b"/caf\xe9.bmp"
    Path(os.fsdecode(odd)).write_bytes(bmp(9))
    made = Made(tmp_path / "out", name="imagefolder", path=str(path), image_size=4)
    assert made.version() == ""
    Path(os.fsdecode(odd)).unlink()
    assert made.has_changed()


def test_a_look_needs_no_torch():
    code = "import sys, ncpipe.data.originals, ncpipe.study.study; assert not {'torch', 'PIL'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def config(folder: Path) -> dict[str, Any]:
    network = {"model": {"name": "mlp", "depth": 1, "width": 8}, "loss": {"name": "mse"}, "optimizer": {"lr": 0.05}}
    return {
        "study": {"name": "i", "results": str(folder / "results")},
        "datasets": {"base": {"name": "imagefolder", "path": str(folder / "photos"), "image_size": 8}},
        "networks": {"base": network | {"epochs": 1}},
        "tracking": {"enabled": False},
        "ufm": {"matched": []},
        "figures": [],
    }


def test_the_plan_has_all_behind_a_changed_data_set_to_do(tmp_path):
    photos(tmp_path / "photos")
    study = Study(config(tmp_path))
    ((dataset, spec),) = study.datasets.items()
    prepare(spec, study.layout.dataset(dataset))
    (run,) = study.networks.values()
    for file in ("spec.json", "collapse.parquet"):
        study.layout.run(run.id).mkdir(parents=True, exist_ok=True)
        (study.layout.run(run.id) / file).write_text("")
    assert all(unit.done for unit in units(study))
    add(tmp_path / "photos")
    assert not any(unit.done for unit in units(study))


@pytest.mark.thorough
def test_a_workflow_makes_anew_what_changed_and_all_behind_it(tmp_path):
    photos(tmp_path / "photos")
    place = Workplace(tmp_path / "study")
    (place.folder / "study.yaml").write_text(yaml.safe_dump(config(tmp_path)))
    place.run()
    for name in NAMES:
        later(tmp_path / "photos" / name)
    assert place.planned() == {}
    add(tmp_path / "photos")
    behind = {"dataset": 1, "train": 1, "features": 1, "collapse_network": 1, "tables": 1, "report": 1}
    assert place.planned() == behind
    assert place.planned() == behind  # to look is not to make
    place.run()
    (about,) = (tmp_path / "results/data").glob("*/dataset.json")
    assert read_json(about)["counts"]["train"] == [4, 3]
    assert place.planned() == {}
