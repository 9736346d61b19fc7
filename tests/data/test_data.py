"""Data sets: finding and reading the sources, subsets and corruption, files and their checks."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from ncpipe.data import Dataset, Split, load, nominal_shape, prepare
from ncpipe.data import places as places_module
from ncpipe.data import preparation as preparation_module
from ncpipe.data.imagefolder import ImageFolder
from ncpipe.data.pairs import tag_sets, with_pairs
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.statistics import ChannelStatistics
from ncpipe.data.storage import StoredImages, split_bytes, write_split
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, read_tensors
from ncpipe.system.vision import import_torchvision

# A folder with mnist/, fashion-mnist/ and cifar10-jpeg.zip.
REAL_DATA = Path(os.environ.get("NCPIPE_TEST_DATA", "/nonexistent"))
needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason="NCPIPE_TEST_DATA names no folder")


@pytest.fixture(autouse=True)
def _no_other_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the machine's data sets nor the network nor the user's cache take part in a test."""
    monkeypatch.setattr(places_module, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(import_torchvision().datasets.utils, "_urlretrieve", unreachable)
    monkeypatch.setattr(import_torchvision().datasets.utils, "_get_redirect_url", unreachable)


def prepared(spec: DatasetSpec, folder: Path, *search_path: Path) -> Dataset:
    prepare(spec, folder, search_path)
    return load(folder)


def digits(**settings: Any) -> DatasetSpec:
    return DatasetSpec(name="digits", **settings)


def record_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / "dataset.json")


# --- fixtures of the sources ------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, per_class: int = 3, seed: int = 0, suffix: str = ".gz") -> np.ndarray:
    """Write random images of ten classes; return those for testing, one per class."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for prefix, count in (("train", per_class), ("t10k", 1)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), count)
        images = random.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            path = folder / f"{prefix}-{name}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)
    return images


def png(colour: int, side: int = 4, grey: bool = False) -> bytes:
    stream = io.BytesIO()
    shape = (side, side) if grey else (side, side, 3)
    Image.fromarray(np.full(shape, colour, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


IMAGE_TREE = {
    "train/cat/b.png": png(20),
    "train/cat/a.png": png(10),
    "train/dog/a.PNG": png(30, grey=True),
    "train/dog/deep/b.png": png(40, side=8),
    "train/dog/notes.txt": b"not an image",
    "train/cat/._a.png": b"left by an operating system",
    "val/cat/a.png": png(50),
    "val/dog/a.png": png(60),
}


def write_tree(path: Path, tree: dict[str, bytes], prefix: str = "") -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in tree.items():
                archive.writestr(prefix + name, content)
        return path
    for name, content in tree.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


# --- digits: subsets, corruption, files ---------------------------------------------------------------


def test_digits(tmp_path: Path) -> None:
    dataset = prepared(digits(), tmp_path)
    assert dataset.train.images.shape == (1437, 1, 8, 8)
    assert dataset.test.images.shape == (360, 1, 8, 8)
    assert dataset.train.images.dtype == torch.uint8
    assert dataset.train.labels.dtype == torch.int64
    assert (dataset.name, dataset.num_classes, dataset.image_shape) == ("digits", 10, (1, 8, 8))
    assert dataset.class_names == tuple("0123456789")
    assert set(dataset.train.images.unique().tolist()) == {round(x * 255 / 16) for x in range(17)}
    assert dataset.split("train") is dataset.train
    assert dataset.split("test") is dataset.test
    # Every class keeps four fifths for training.
    share = dataset.train.labels.bincount() / (dataset.train.labels.bincount() + dataset.test.labels.bincount())
    assert share == pytest.approx(0.8, abs=0.004)


def test_statistics_of_channels(tmp_path: Path) -> None:
    dataset = prepared(digits(), tmp_path)
    scaled = dataset.train.images.double() / 255
    assert dataset.mean.item() == pytest.approx(scaled.mean().item(), rel=1e-6)
    assert dataset.std.item() == pytest.approx(scaled.std(correction=0).item(), rel=1e-6)


def test_statistics_of_a_constant_channel() -> None:
    images = torch.zeros(2, 2, 4, 4, dtype=torch.uint8)
    images[0, 1] = 255
    for kind, scale in ((torch.uint8, 1), (torch.float32, 255)):
        statistics = ChannelStatistics(2, kind)
        for piece in images.to(kind).split(1):
            statistics.add(piece)
        assert statistics.mean_and_deviation() == ([0.0, 0.5 * scale], [1.0, 0.5 * scale])


def test_statistics_of_floats_are_merged() -> None:
    vectors = 1e3 + torch.randn(50, 3)
    statistics = ChannelStatistics(3, torch.float32)
    for piece in vectors.split(7):
        statistics.add(piece)
    mean, deviation = statistics.mean_and_deviation()
    assert mean == pytest.approx(vectors.double().mean(dim=0).tolist(), rel=1e-14)
    assert deviation == pytest.approx(vectors.double().std(dim=0, correction=0).tolist(), rel=1e-9)


def test_record(tmp_path: Path) -> None:
    prepare(digits(samples_per_class=5, test_samples_per_class=2, seed=3), tmp_path)
    record = record_of(tmp_path)
    assert record["counts"] == {"train": [5] * 10, "test": [2] * 10}
    assert record["image_shape"] == [1, 8, 8]
    assert record["source"]["kind"] == "scikit-learn load_digits"
    assert record["settings"]["samples_per_class"] == 5
    assert record["settings"]["seed"] == 3
    assert record["changed_labels"] == 0
    assert record["sha256"]["test"] == hashlib.sha256((tmp_path / "test.safetensors").read_bytes()).hexdigest()


def test_equal_settings_give_equal_files(tmp_path: Path) -> None:
    spec = digits(samples_per_class=20, label_noise=0.3, random_labels=True, seed=1)
    for folder in ("first", "second"):
        prepare(spec, tmp_path / folder)
    for name in ("train.safetensors", "test.safetensors", "dataset.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_subsets_are_nested_and_depend_on_the_seed(tmp_path: Path) -> None:
    small = prepared(digits(samples_per_class=10), tmp_path / "small")
    large = prepared(digits(samples_per_class=30), tmp_path / "large")
    other = prepared(digits(samples_per_class=10, seed=1), tmp_path / "other")
    assert rows(small.train.images) < rows(large.train.images)
    assert rows(small.train.images) != rows(other.train.images)
    assert torch.equal(small.test.images, large.test.images)


def test_first_classes_are_those_of_the_whole_set(tmp_path: Path) -> None:
    subset = {"samples_per_class": 10, "test_samples_per_class": 4, "seed": 2}
    some = prepared(digits(classes=4, **subset), tmp_path / "some")
    whole = prepared(digits(**subset), tmp_path / "all")
    assert some.class_names == whole.class_names[:4]
    for part, full in ((some.train, whole.train), (some.test, whole.test)):
        first = full.labels < 4
        assert torch.equal(part.images, full.images[first])
        assert torch.equal(part.labels, full.labels[first])
    assert record_of(tmp_path / "some")["counts"]["train"] == [10] * 4


def test_more_classes_than_there_are(tmp_path: Path) -> None:
    for refuses in (lambda spec: prepare(spec, tmp_path / "out"), nominal_shape):
        with pytest.raises(UserError, match=r"digits has 10 classes: lower dataset\.classes = 11"):
            refuses(digits(classes=11))
    assert not (tmp_path / "out").exists()


def test_nominal_shape_of_some_classes(tmp_path: Path) -> None:
    assert nominal_shape(digits(classes=3, samples_per_class=7, test_samples_per_class=2))[1:4] == (3, 21, 6)
    tree = {f"{split}/{name}/{i}.png": png(7) for split in ("train", "test") for name in "abc" for i in range(2)}
    folder = folder_spec(write_tree(tmp_path / "images", tree), classes=2)
    assert nominal_shape(folder)[1:4] == (2, 4, 4)
    assert prepared(folder, tmp_path / "out").class_names == ("a", "b")


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_label_noise_is_exact_per_class(tmp_path: Path, fraction: float) -> None:
    clean = prepared(digits(samples_per_class=20), tmp_path / "clean")
    noisy = prepared(digits(samples_per_class=20, label_noise=fraction), tmp_path / "noisy")
    assert torch.equal(clean.train.images, noisy.train.images)
    assert torch.equal(clean.test.labels, noisy.test.labels)
    changed = clean.train.labels[clean.train.labels != noisy.train.labels]
    assert changed.bincount(minlength=10).tolist() == [20 * fraction] * 10
    assert record_of(tmp_path / "noisy")["changed_labels"] == 200 * fraction


def test_random_labels_are_a_permutation(tmp_path: Path) -> None:
    clean = prepared(digits(), tmp_path / "clean")
    random = prepared(digits(random_labels=True), tmp_path / "random")
    assert torch.equal(clean.train.labels.bincount(), random.train.labels.bincount())
    assert 0.05 < (clean.train.labels == random.train.labels).float().mean() < 0.15
    assert torch.equal(clean.test.labels, random.test.labels)


@pytest.mark.parametrize(("key", "count"), [("samples_per_class", 200), ("test_samples_per_class", 100)])
def test_too_few_samples(tmp_path: Path, key: str, count: int) -> None:
    with pytest.raises(UserError, match=rf"class '0' has \d+ \w+ samples: lower dataset\.{key} = {count}"):
        prepare(digits(**{key: count}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_altered_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prepared data set"):
        load(tmp_path)
    prepare(digits(samples_per_class=2), tmp_path)
    path = tmp_path / "train.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"train\.safetensors is missing or was altered"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"train\.safetensors is missing or was altered"):
        load(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="lacks 'name'"):
        load(tmp_path)


# --- idx files --------------------------------------------------------------------------------------

MNIST = DatasetSpec(name="mnist")
FASHION = DatasetSpec(name="fashion_mnist")


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("place", ["mnist", "MNIST/raw", "."])
def test_mnist_is_found(tmp_path: Path, place: str, suffix: str) -> None:
    parent = tmp_path / "mnist" if place == "." else tmp_path / "data"
    images = write_idx(parent / place, suffix=suffix)
    dataset = prepared(MNIST, tmp_path / "out", tmp_path / "absent", parent)
    assert dataset.train.images.shape == (30, 1, 28, 28)
    assert dataset.train.labels.tolist() == sorted(list(range(10)) * 3)
    assert np.array_equal(dataset.test.images.squeeze(1).numpy(), images)
    record = record_of(tmp_path / "out")
    assert record["source"]["kind"] == "idx files"
    assert sorted(record["source"]["sha256"])[0] == f"t10k-images-idx3-ubyte{suffix}"
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "spelling", ["{0}", "{0}.gz", "{1}", "{1}.gz", "{0}/{0}", "{1}/{1}"], ids=lambda name: name.format("-idx", ".idx")
)
def test_mnist_in_its_other_spellings(tmp_path: Path, spelling: str, packed: bool) -> None:
    images = write_idx(tmp_path / "published", suffix="")
    for path in (tmp_path / "published").iterdir():
        target = tmp_path / "mnist" / spelling.format(path.name, path.name.replace("-idx", ".idx"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(path.read_bytes()) if packed else path.read_bytes())
    dataset = prepared(MNIST, tmp_path / "out", tmp_path)
    assert np.array_equal(dataset.test.images.squeeze(1).numpy(), images)


def test_names_of_folders_tell_the_data_sets_apart(tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist", seed=0)
    write_idx(tmp_path / "fashion-mnist", seed=1)
    digits_set = prepared(MNIST, tmp_path / "out", tmp_path)
    clothes = prepared(FASHION, tmp_path / "out", tmp_path)
    assert not torch.equal(digits_set.train.images, clothes.train.images)
    assert clothes.class_names[0] == "T-shirt/top"
    for spec, wrong in ((MNIST, "fashion-mnist"), (FASHION, "mnist")):
        with pytest.raises(UserError, match="is in no searched folder"):
            prepare(spec, tmp_path / "out", [tmp_path / wrong])


def test_earlier_folders_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, folder in enumerate(("first", "second", "system")):
        write_idx(tmp_path / folder / "mnist", per_class=2 + seed)
    monkeypatch.setattr(places_module, "SYSTEM_FOLDERS", (tmp_path / "system",))
    assert len(prepared(MNIST, tmp_path / "a", tmp_path / "first", tmp_path / "second").train.labels) == 20
    assert len(prepared(MNIST, tmp_path / "b", tmp_path / "second").train.labels) == 30
    assert len(prepared(MNIST, tmp_path / "c").train.labels) == 40


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated gzip":
        path.write_bytes(content[: len(content) // 2])
    elif how == "not gzip":
        path.write_bytes(b"<html>404</html>")
    elif how == "flipped bits":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 255]) + content[-8:])
    elif how == "wrong magic":
        path.write_bytes(gzip.compress(b"\x00\x00\x0d" + gzip.decompress(content)[3:]))
    elif how == "truncated array":
        path.write_bytes(gzip.compress(gzip.decompress(content)[:-5]))
    elif how == "header only":
        path.write_bytes(gzip.compress(gzip.decompress(content)[:6]))


HOWS = ["truncated gzip", "not gzip", "flipped bits", "wrong magic", "truncated array", "header only"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_damaged_idx_files_are_named(tmp_path: Path, name: str, how: str) -> None:
    write_idx(tmp_path / "mnist")
    damage(tmp_path / "mnist" / name, how)
    with pytest.raises(UserError, match=name) as caught:
        prepare(MNIST, tmp_path / "out", [tmp_path])
    assert "replace the file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_incomplete_idx_sets_are_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"mnist lacks t10k-images-idx3-ubyte \(plain or \.gz\)"):
        prepare(MNIST, tmp_path / "out", [tmp_path])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(29, np.uint8), "holds 30 images but train-labels-idx1-ubyte.gz 29 labels"),
        (np.full(30, 10, np.uint8), "train labels reach 10, but there are 10 classes"),
        (np.zeros(30, np.uint8), "class '1' has no train samples"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    write_idx(tmp_path / "mnist")
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    with pytest.raises(UserError, match=message):
        prepare(MNIST, tmp_path / "out", [tmp_path])


# --- data sets read by torchvision --------------------------------------------------------------------


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of CIFAR-10's layout, known to torchvision by their checksums."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    cifar10 = import_torchvision().datasets.CIFAR10
    for name, per_class in (("data_batch_1", 2), ("test_batch", 1)):
        labels = list(range(10)) * per_class
        data = np.tile(np.arange(3072) // 1024 * 100, (len(labels), 1)).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(cifar10, "train_list", [["data_batch_1", md5(folder / "data_batch_1")]])
    monkeypatch.setattr(cifar10, "test_list", [["test_batch", md5(folder / "test_batch")]])
    monkeypatch.setattr(cifar10, "meta", cifar10.meta | {"md5": md5(folder / "batches.meta")})
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_cifar10_is_found(tmp_path: Path, tiny_cifar10: Path, nested: bool) -> None:
    if nested:
        (tmp_path / "cifar10").mkdir()
        tiny_cifar10.rename(tmp_path / "cifar10" / tiny_cifar10.name)
    dataset = prepared(DatasetSpec(name="cifar10"), tmp_path / "out", tmp_path if nested else tmp_path / "data")
    assert dataset.train.images.shape == (20, 3, 32, 32)
    assert dataset.train.images[0, :, 5, 5].tolist() == [0, 100, 200]
    assert dataset.train.labels.tolist() == list(range(10)) * 2
    assert dataset.class_names == tuple("abcdefghij")
    assert set(record_of(tmp_path / "out")["source"]["sha256"]) == {"data_batch_1", "test_batch", "batches.meta"}


def test_damaged_cifar10_is_named(tmp_path: Path, tiny_cifar10: Path) -> None:
    (tiny_cifar10 / "test_batch").write_bytes(b"")
    with pytest.raises(UserError, match=r"cifar10 in .*data is incomplete, damaged or unreadable"):
        prepare(DatasetSpec(name="cifar10"), tmp_path / "out", [tmp_path / "data"])


def test_the_cache_serves_without_network(tmp_path: Path, tiny_cifar10: Path) -> None:
    cache = places_module.cache_folder("cifar10")
    assert cache == tmp_path / "cache" / "ncpipe" / "cifar10"
    cache.mkdir(parents=True)
    tiny_cifar10.rename(cache / tiny_cifar10.name)
    assert len(prepared(DatasetSpec(name="cifar10"), tmp_path / "out").train.labels) == 20


def test_svhn_and_stl10_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    datasets = import_torchvision().datasets
    for split in ("train", "test"):
        pixels = np.arange(10, dtype=np.uint8) * np.ones((32, 32, 3, 1), np.uint8)
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": pixels, "y": np.arange(1, 11)[:, None]})
        monkeypatch.setitem(datasets.SVHN.split_list, split, ["", path.name, md5(path)])
    dataset = prepared(DatasetSpec(name="svhn"), tmp_path / "out", tmp_path)
    assert dataset.train.images.shape == (10, 3, 32, 32)
    assert dataset.train.images[:, 0, 0, 0].tolist() == list(range(10))
    assert dataset.train.labels.tolist() == [*range(1, 10), 0]

    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(bytes(10 * 3 * 96 * 96))
        (folder / f"{split}_y.bin").write_bytes(bytes(range(1, 11)))
        files = [[f"{split}_{part}.bin", md5(folder / f"{split}_{part}.bin")] for part in "Xy"]
        monkeypatch.setattr(datasets.STL10, f"{split}_list", files)
    dataset = prepared(DatasetSpec(name="stl10"), tmp_path / "out", tmp_path)
    assert dataset.train.images.shape == (10, 3, 96, 96)
    assert dataset.train.labels.tolist() == list(range(10))


# --- image folders -------------------------------------------------------------------------------------


def folder_spec(path: Path | str, **settings: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "imagefolder", "path": str(path), "image_size": 4, **settings})


@pytest.mark.parametrize(("name", "prefix"), [("images", ""), ("images.zip", ""), ("images.zip", "pets/")])
def test_image_folder(tmp_path: Path, name: str, prefix: str) -> None:
    path = write_tree(tmp_path / name, IMAGE_TREE, prefix)
    dataset = prepared(folder_spec(path), tmp_path / "out")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_shape == (3, 4, 4)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert dataset.train.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40]
    assert dataset.test.images.float().mean(dim=(1, 2, 3)).tolist() == [50, 60]
    assert str(tmp_path) not in json.dumps(record_of(tmp_path / "out"))
    assert nominal_shape(folder_spec(path)) == ((3, 4, 4), 2, 4, 2, 1)


def test_image_folder_of_the_search_path(tmp_path: Path) -> None:
    write_tree(tmp_path / "data" / "images", IMAGE_TREE)
    spec = folder_spec("images", samples_per_class=1)
    assert len(prepared(spec, tmp_path / "out", tmp_path / "data").train.labels) == 2
    assert nominal_shape(spec, [tmp_path / "data"]) == ((3, 4, 4), 2, 2, 2, 1)


def test_images_are_cropped_to_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 2:14] = 200
    stream = io.BytesIO()
    Image.fromarray(wide).save(stream, "PNG")
    path = write_tree(tmp_path / "images", IMAGE_TREE | {"train/cat/a.png": stream.getvalue()})
    assert prepared(folder_spec(path), tmp_path / "out").train.images[0].unique().tolist() == [200]
    flat = prepared(folder_spec(path, image_size=[4, 8]), tmp_path / "flat")
    assert (flat.image_shape, nominal_shape(folder_spec(path, image_size=[4, 8])).image) == ((3, 4, 8), (3, 4, 8))
    assert flat.train.images[0, 0, :, 2:6].unique().tolist() == [200]
    assert flat.train.images[0, 0, :, [0, 7]].max() < 100


def test_a_subset_reads_its_own_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = IMAGE_TREE | {f"train/{cls}/{i}.png": png(i) for cls in ("cat", "dog") for i in range(30)}
    decode, decoded = ImageFolder.read, []

    def counting(self: Any, names: list[str], *how: int) -> torch.Tensor:
        decoded.extend(names)
        return decode(self, names, *how)

    monkeypatch.setattr(ImageFolder, "read", counting)
    prepare(folder_spec(write_tree(tmp_path / "images", tree), samples_per_class=3), tmp_path / "out")
    assert sum(name.startswith("train") for name in decoded) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train/cat/a.png": b"no image"}, "cannot read train/cat/a.png in .*replace or remove it"),
        ({"train/cat/a.png": png(1)[:-30]}, "cannot read train/cat/a.png"),
        ({"train/emu/a.png": png(1)}, r"class 'emu' has no images in 'val' \(no such folder\)"),
        ({"test/cat/a.png": png(1)}, r"class 'dog' has no images in 'test' \(no such folder\)"),
    ],
)
@pytest.mark.parametrize("name", ["images", "images.zip"])
def test_damaged_image_folders(tmp_path: Path, name: str, changes: dict[str, bytes], message: str) -> None:
    path = write_tree(tmp_path / name, IMAGE_TREE | changes)
    with pytest.raises(UserError, match=message):
        prepare(folder_spec(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'absent' not found: correct dataset\.path"):
        prepare(folder_spec("absent"), tmp_path / "out")
    path = write_tree(tmp_path / "flat", {"cat/a.png": png(1)})
    with pytest.raises(UserError, match="needs folders 'train' and 'test'"):
        nominal_shape(folder_spec(path))
    half = tmp_path / "half.zip"
    half.write_bytes(write_tree(tmp_path / "whole.zip", IMAGE_TREE).read_bytes()[:200])
    with pytest.raises(UserError, match=r"cannot read .*half\.zip.*is it a whole zip file"):
        prepare(folder_spec(half), tmp_path / "out")


# --- streamed image folders -----------------------------------------------------------------------------


def stored_rows(split: Split) -> torch.Tensor:
    return split.images[np.arange(len(split.labels))] if isinstance(split.images, StoredImages) else split.images


@pytest.mark.parametrize("piece", [1, 3 * 48, 10**9])
@pytest.mark.parametrize("settings", [{}, {"samples_per_class": 1, "label_noise": 1.0}])
def test_a_streamed_folder_holds_what_one_in_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(preparation_module, "PIECE", piece)
    path = write_tree(tmp_path / "images", IMAGE_TREE)
    memory = prepared(folder_spec(path, **settings), tmp_path / "memory")
    streamed = prepared(folder_spec(path, stream=True, **settings), tmp_path / "streamed")
    for name in ("train.safetensors", "test.safetensors"):
        assert (tmp_path / "memory" / name).read_bytes() == (tmp_path / "streamed" / name).read_bytes()
    records = [record_of(tmp_path / folder) for folder in ("memory", "streamed")]
    assert [record.pop("settings")["stream"] for record in records] == [False, True]
    assert records[0] == records[1]
    assert streamed.image_shape == memory.image_shape
    for name in ("train", "test"):
        assert isinstance(streamed.split(name).images, StoredImages)
        assert torch.equal(stored_rows(streamed.split(name)), stored_rows(memory.split(name)))
        assert torch.equal(streamed.split(name).labels, memory.split(name).labels)


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 2, 2)), (7, (3, 5, 4)), (100, (1, 1, 1))])
def test_a_split_is_a_safetensors_file(tmp_path: Path, count: int, shape: tuple[int, ...]) -> None:
    images, labels = torch.randint(256, (count, *shape), dtype=torch.uint8), torch.arange(count)
    checksum, statistics = write_split(tmp_path / "written", (count, *shape), images.split(3), labels)
    read, _ = read_tensors(tmp_path / "written")
    assert torch.equal(read["images"], images)
    assert torch.equal(read["labels"], labels)
    assert len(read["checksums"]) == count
    assert checksum == hashlib.sha256((tmp_path / "written").read_bytes()).hexdigest()
    assert split_bytes((count, *shape)) == (tmp_path / "written").stat().st_size
    values = torch.arange(256)
    assert torch.equal(statistics.counts, (images.movedim(1, 0).flatten(1)[..., None] == values).sum(1))
    stored = StoredImages(tmp_path / "written")
    assert (len(stored), stored.shape) == (count, (count, *shape))
    rows = np.array([count - 1, 0])
    assert torch.equal(stored[rows], images[rows])
    assert torch.equal(pickle.loads(pickle.dumps(stored))[rows], images[rows])
    assert len(pickle.dumps(stored)) < 500


def test_a_streamed_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    prepare(folder_spec(write_tree(tmp_path / "images", IMAGE_TREE), stream=True), folder)
    content = (folder / "test.safetensors").read_bytes()
    for damaged in (content[:-1], content[:100], b"", b"\xff" * 300):
        (folder / "test.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"test\.safetensors is missing or was altered"):
            load(folder)


def test_a_damaged_image_of_a_streamed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation_module, "PIECE", 48)
    tree = IMAGE_TREE | {"train/dog/a.PNG": b"no image"}
    spec = folder_spec(write_tree(tmp_path / "images", tree), stream=True)
    with pytest.raises(UserError, match=r"cannot read train/dog/a\.PNG in .*replace or remove it"):
        prepare(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = folder_spec(write_tree(tmp_path / "images", IMAGE_TREE), stream=True)
    needed = split_bytes((4, 3, 4, 4)) + split_bytes((2, 3, 4, 4))
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=needed - 1))
    with pytest.raises(UserError, match=r"images take 0\.0 GiB in .*out, but 0\.0 GiB are free: make room"):
        prepare(spec, tmp_path / "some" / "out")
    assert not (tmp_path / "some").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=needed))
    prepare(spec, tmp_path / "out")


def test_images_beyond_memory_are_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tree(tmp_path / "images", IMAGE_TREE)
    limit = 6 * 3 * 4 * 4 / places_module.MEMORY_SHARE
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=limit - 1))
    with pytest.raises(UserError, match=r"images of images take .*set dataset\.stream: true"):
        prepare(folder_spec(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare(folder_spec(path, stream=True), tmp_path / "out")
    with pytest.raises(UserError, match=r"lower dataset\.pairs"):
        prepare(folder_spec(path, pairs=1, test_pairs=1), tmp_path / "pairs")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=limit + 1))
    prepare(folder_spec(path), tmp_path / "out")


# --- several labels ---------------------------------------------------------------------------------------


def stands(canvas: torch.Tensor, image: torch.Tensor, is_below: bool) -> list[tuple[int, int]]:
    """Shifts of less than a quarter of the side by which an image (C, H, W) is in a canvas (C, 2H, 2W), whose other
    pixels may be anything."""
    height, width = image.shape[1:]
    blank = torch.nn.functional.pad(image, (0, width, 0, height))
    moved = {
        (down, right): torch.roll(blank, (is_below * height + down, is_below * width + right), (1, 2))
        for down in range(max(1, height // 4))
        for right in range(max(1, width // 4))
    }
    return [shift for shift, placed in moved.items() if torch.equal(canvas[placed > 0], placed[placed > 0])]


def test_pairs_stand_in_opposite_corners() -> None:
    values = torch.arange(1, 13, dtype=torch.uint8)  # every image is of one value
    images, labels = values[:, None, None, None].repeat(1, 2, 8, 9), torch.arange(3).repeat_interleave(4)
    canvases, found = with_pairs(images, labels, 3, 6, (0, 4))
    assert canvases.shape == (12 + 18, 2, 16, 18)
    assert found.tolist() == [*labels.tolist(), *([3] * 6), *([4] * 6), *([5] * 6)]
    assert tag_sets(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    shifts = [stands(canvas, image, True) for canvas, image in zip(canvases, images)]
    assert {len(found) for found in shifts} == {1}
    assert len({shift for (shift,) in shifts}) > 1
    assert all(canvas.count_nonzero() == 2 * 8 * 9 for canvas in canvases[:12])
    sides = Counter()
    for label, pair in ((3, (0, 1)), (4, (0, 2)), (5, (1, 2))):
        drawn = [sorted(set(canvas.unique().tolist()) - {0}) for canvas in canvases[found == label]]
        for canvas, (first, second) in zip(canvases[found == label], drawn):
            assert ((first - 1) // 4, (second - 1) // 4) == pair
            above = canvas[0, 2, 2].item()  # which every shift leaves to what stands above
            below = {first, second}.difference({above}).pop()
            assert canvas[0, 10, 11] == below
            sides[above == first] += 1
        for place in (0, 1):  # four of a class: all, then the first two again
            assert sorted(Counter(values[place] for values in drawn).values()) == [1, 1, 2, 2]
    assert set(sides) == {True, False}


def test_a_pixel_of_two_images_is_the_larger() -> None:
    images = torch.tensor([1, 2], dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 8, 8)
    canvases, _ = with_pairs(images, torch.arange(2), 2, 40, (0,))
    areas = {(int((canvas == 1).sum()), int((canvas == 2).sum())) for canvas in canvases[2:]}
    assert (64, 64) in areas
    assert any(ones < 64 for ones, _ in areas)
    assert {twos for _, twos in areas} == {64}


def test_more_pairs_hold_the_fewer() -> None:
    images, labels = torch.randint(1, 256, (20, 1, 2, 2), dtype=torch.uint8), torch.arange(4).repeat(5)
    few, many = (with_pairs(images, labels, 4, count, (3, 4)) for count in (2, 6))
    assert rows(few[0]) < rows(many[0])
    for label in range(4, 10):
        assert torch.equal(few[0][few[1] == label], many[0][many[1] == label][:2])
    assert rows(few[0]) != rows(with_pairs(images, labels, 4, 2, (3, 5))[0])


def test_data_of_several_labels(tmp_path: Path) -> None:
    spec = digits(samples_per_class=5, test_samples_per_class=3, pairs=2, test_pairs=1)
    dataset = prepared(spec, tmp_path)
    assert (dataset.num_classes, dataset.image_shape) == (10, (1, 16, 16))
    assert dataset.train.labels.bincount().tolist() == [5] * 10 + [2] * 45
    assert dataset.test.labels.bincount().tolist() == [3] * 10 + [1] * 45
    assert dataset.tag_sets is not None
    assert dataset.tag_sets.dtype == torch.uint8
    assert torch.equal(dataset.tag_sets[:10], torch.eye(10, dtype=torch.uint8))
    assert dataset.tag_sets[10:].nonzero()[:, 1].view(45, 2).tolist() == [
        [a, b] for a in range(10) for b in range(a + 1, 10)
    ]
    record = record_of(tmp_path)
    assert record["tag_sets"][9:12] == [[9], [0, 1], [0, 2]]
    assert record["counts"]["train"] == [5] * 10 + [2] * 45
    assert nominal_shape(spec) == ((1, 16, 16), 10, 50 + 90, 30 + 45, 1)
    assert nominal_shape(digits(pairs=2, test_pairs=1)).train_samples == 1437 + 90
    # The images are those of the same subset without pairs.
    plain = prepared(digits(samples_per_class=5, test_samples_per_class=3), tmp_path / "plain")
    assert plain.tag_sets is None
    for name in ("train", "test"):
        split, single = dataset.split(name), plain.split(name)
        assert all(stands(canvas, image, True) for canvas, image in zip(split.images, single.images))


# --- costs and real data --------------------------------------------------------------------------------


@needs_real_data
def test_real_mnist(tmp_path: Path) -> None:
    dataset = prepared(MNIST, tmp_path, REAL_DATA)
    assert dataset.train.images.shape == (60_000, 1, 28, 28)
    assert (dataset.mean.item(), dataset.std.item()) == pytest.approx((0.1307, 0.3081), abs=5e-5)


@needs_real_data
def test_real_fashion_mnist(tmp_path: Path) -> None:
    spec = DatasetSpec(name="fashion_mnist", samples_per_class=100, test_samples_per_class=10)
    dataset = prepared(spec, tmp_path, REAL_DATA)
    assert dataset.train.labels.bincount().tolist() == [100] * 10


@needs_real_data
def test_real_images_in_a_zip(tmp_path: Path) -> None:
    spec = DatasetSpec(
        name="imagefolder",
        path="cifar10-jpeg.zip",
        image_size=32,
        samples_per_class=20,
        test_samples_per_class=5,
    )
    dataset = prepared(spec, tmp_path, REAL_DATA)
    assert (dataset.name, len(dataset.train.labels), len(dataset.test.labels)) == ("cifar10-jpeg", 200, 50)
    assert dataset.class_names[0] == "airplane"


def test_sixteen_bits_are_scaled_and_other_modes_refused(tmp_path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / split / "a" / "0.png")
    folder = ImageFolder.find(str(tmp_path))
    images = folder.read([name for name, _ in folder.members("train")], (16, 16))
    assert torch.equal(images[0, 0].flatten(), torch.arange(256, dtype=torch.uint8))
    Image.fromarray(np.zeros((16, 16), np.float32)).save(tmp_path / "train" / "a" / "1.tif")
    folder = ImageFolder.find(str(tmp_path))
    with pytest.raises(UserError, match=r"1.tif .*mode 'F', not of 8 or 16 bits"):
        folder.read([name for name, _ in folder.members("train")], (16, 16))


def test_links_in_circles_and_to_nowhere_are_named(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / split / "a" / "0.png")
    (tmp_path / "train" / "a" / "b.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"b\.png: No such file"):
        ImageFolder.find(str(tmp_path))
    (tmp_path / "train" / "a" / "b.png").unlink()
    (tmp_path / "train" / "a" / "loop").symlink_to(tmp_path / "train")
    with pytest.raises(UserError, match="loop links to a folder that it is in"):
        ImageFolder.find(str(tmp_path))
