"""Own arrays: every kind of file, what is refused in a line, and the data sets prepared from them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from ncpipe.data import Dataset, load, nominal_shape, prepare
from ncpipe.data.arrays import ArrayFile, read_arrays
from ncpipe.data.originals import find_originals, has_changed
from ncpipe.data.settings import DatasetSpec
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.training.streams import open_batches

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(12, 4)) + 3
PIXELS = RANDOM.integers(0, 256, (12, 5, 7, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
TEXT = np.array(["owl", "cat", "owl", "dog"] * 3)


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def spec(path: Path, **settings: Any) -> DatasetSpec:
    return DatasetSpec(name="arrays", path=str(path), **settings)


def prepared(folder: Path, wanted: DatasetSpec) -> Dataset:
    prepare(wanted, folder / "out")
    dataset = load(folder / "out")
    shape = nominal_shape(wanted)
    counts = len(dataset.train.labels), len(dataset.test.labels)
    assert shape[:4] == (dataset.image_shape, dataset.num_classes, *counts)
    assert shape.value_bytes == dataset.train.images.itemsize
    return dataset


# --- files ----------------------------------------------------------------------------------------------


def test_what_is_in_a_file_is_known_without_torch(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    code = "import sys; from pathlib import Path; from ncpipe.data.arrays import ArrayFile; "
    code += f"f = ArrayFile(Path({str(path)!r})); "
    code += "assert (f.image_shape, f.value_bytes, len(f.labels[0])) == ((3, 5, 7), 1, 12)"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_and_classes_of_an_npz(tmp_path: Path) -> None:
    parts = {"x_train": PIXELS, "y_train": LABELS[:, None] - 1, "x_test": PIXELS[:3], "y_test": LABELS[:3] - 1}
    arrays = read_arrays(saved(tmp_path / "a.npz", **parts))
    assert np.array_equal(arrays.train.images, PIXELS.transpose(0, 3, 1, 2))
    assert arrays.train.images.dtype == np.uint8
    assert (arrays.class_names, arrays.train.labels.tolist()) == (("-1", "0", "1"), LABELS.tolist())
    assert arrays.test is not None
    assert arrays.test.labels.tolist() == [0, 1, 2]
    grey = read_arrays(saved(tmp_path / "b.npz", images=PIXELS[..., 0] / 255, labels=TEXT))
    assert (grey.train.images.shape, grey.train.images.dtype, grey.test) == ((12, 1, 5, 7), np.float32, None)
    assert (grey.class_names, grey.train.labels[:4].tolist()) == (("cat", "dog", "owl"), [2, 0, 2, 1])


def test_safetensors_and_torch_name_their_classes(tmp_path: Path) -> None:
    save_file({"vectors": VECTORS, "labels": LABELS}, tmp_path / "a.safetensors", {"class_names": '["a", "b", "c"]'})
    tensors = {"vectors": torch.from_numpy(VECTORS), "labels": torch.from_numpy(LABELS)}
    torch.save(tensors | {"class_names": ["a", "b", "c"]}, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        found = read_arrays(tmp_path / name)
        assert np.array_equal(found.train.images, VECTORS.astype(np.float32))
        assert found.class_names == ("a", "b", "c")


@pytest.mark.parametrize("ending", ["csv", "parquet", "feather"])
def test_tables_are_vectors(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{ending}"
    table = pd.DataFrame({f"x{column}": VECTORS[:, column] for column in range(4)} | {"n": range(12), "kind": TEXT})
    if ending == "csv":
        table.to_csv(path, index=False)
    else:
        write = pq.write_table if ending == "parquet" else feather.write_feather
        write(pa.Table.from_pandas(table), path)
    found = read_arrays(path, label="kind")
    assert np.array_equal(found.train.images, np.column_stack([VECTORS, range(12)]).astype(np.float32))
    assert (found.class_names, ArrayFile(path, "kind").image_shape) == (("cat", "dog", "owl"), (5,))
    for label, message in ((None, "there are x0, x1"), ("x9", "no column 'x9'"), ("n", "'kind' holds no numbers")):
        with pytest.raises(UserError, match=message):
            read_arrays(path, label=label)


def test_a_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    for split, rows in (("train", 12), ("test", 6)):
        lines = ["a,b,y", *(f"{row},{row / 2},{row % 3}" for row in range(rows))]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    dataset = prepared(tmp_path, spec(tmp_path, label="y"))
    assert (dataset.image_shape, dataset.test.labels.tolist()) == ((2,), [0, 1, 2, 0, 1, 2])
    assert [*find_originals("arrays", str(tmp_path), []).files] == ["train.csv", "test.csv"]


def test_a_data_set_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "owl"])}
    content = {"image": [Image.fromarray(picture) for picture in PIXELS], "label": LABELS.tolist()}
    split = datasets.Dataset.from_dict(content, features=datasets.Features(kinds))
    datasets.DatasetDict({"train": split, "validation": split}).save_to_disk(tmp_path / "pictures")
    dataset = prepared(tmp_path, spec(tmp_path / "pictures"))
    assert torch.equal(dataset.test.images, torch.from_numpy(PIXELS.transpose(0, 3, 1, 2)))
    assert dataset.class_names == ("cat", "dog", "owl")
    columns = {"a": [0.5] * 4, "b": [[1.0, 2.0]] * 4, "y": ["u", "v"] * 2}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "columns")
    assert read_arrays(tmp_path / "columns", label="y").train.images[0].tolist() == [0.5, 1, 2]
    with pytest.raises(UserError, match=r"in dataset\.label; there are a, b, y"):
        read_arrays(tmp_path / "columns")


def test_without_its_library_a_data_set_of_hugging_face_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'ncpipe\[huggingface\]'"):
        read_arrays(tmp_path)


# --- mistakes -------------------------------------------------------------------------------------------

HOLED = VECTORS.copy()
HOLED[4, 1] = np.nan
TAGS = np.eye(3, dtype=int)[LABELS]
MISTAKES = {
    "'vectors' has values that are not finite in 1 samples, first in sample 4": {"vectors": HOLED, "labels": LABELS},
    "not finite in 12 samples": {"vectors": VECTORS * 1e40, "labels": LABELS},
    "holds 12 samples but 11 labels": {"vectors": VECTORS, "labels": LABELS[1:]},
    "label 2 is out of range: 'class_names' has 2 names, labels are 0 to 1": {
        "vectors": VECTORS,
        "labels": LABELS,
        "class_names": ["a", "b"],
    },
    "'class_names' has 'a' twice": {"vectors": VECTORS, "labels": LABELS, "class_names": ["a", "b", "a"]},
    "test label '3' is not among the training labels": {
        "train_vectors": VECTORS,
        "train_labels": LABELS,
        "test_vectors": VECTORS,
        "test_labels": LABELS + 1,
    },
    r"samples \(3,\), those of training are \(4,\)": {
        "train_vectors": VECTORS,
        "train_labels": LABELS,
        "test_vectors": VECTORS[:, 1:],
        "test_labels": LABELS,
    },
    "'labels' is float64": {"vectors": VECTORS, "labels": LABELS + 0.5},
    "'labels' holds Python objects": {"vectors": VECTORS, "labels": TEXT.astype(object)},
    "sample 0 has no label": {"vectors": VECTORS, "labels": TAGS * (LABELS > 0)[:, None]},
    r"a matrix \(N, 3\) of 0 and 1": {"vectors": VECTORS, "labels": TAGS * 2},
    "it needs 'images' or 'vectors'": {"labels": LABELS},
    "it needs 'labels'": {"vectors": VECTORS},
    "'images' has the shape": {"images": VECTORS, "labels": LABELS},
    "not of real numbers": {"vectors": VECTORS * 1j, "labels": LABELS},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told_in_a_line(message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as told:
        read_arrays(saved(tmp_path / "a.npz", **MISTAKES[message]))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("ending", ["npz", "safetensors", "pt", "csv", "parquet", "arrow", "txt"])
def test_a_file_of_another_kind_is_told_in_a_line(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{ending}").write_bytes(b"no,arrays\n1")
    with pytest.raises(UserError, match=rf"a\.{ending}") as told:
        read_arrays(tmp_path / f"a.{ending}", label=None if ending in ("npz", "safetensors", "pt") else "no")
    assert "\n" not in str(told.value)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    torch.save({"vectors": torch.nn.Linear(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="objects beside plain data; save plain tensors"):
        read_arrays(tmp_path / "a.pt")


@pytest.mark.parametrize("ending", ["npz", "safetensors", "pt", "feather"])
def test_a_damaged_file_is_read_or_told_in_a_line(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "npz":
        saved(path, vectors=VECTORS, y=LABELS)
    elif ending == "feather":
        feather.write_feather(pa.table({"x": VECTORS[:, 0], "y": LABELS}), path)
    else:
        tensors = {"vectors": torch.from_numpy(VECTORS), "y": torch.from_numpy(LABELS)}
        torch.save(tensors, path) if ending == "pt" else save_tensors(tensors, path)
    whole, told = path.read_bytes(), []
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_arrays(path, label="y" if ending == "feather" else None)
        except UserError as error:
            told.append(str(error))
    assert len(told) > 10
    assert "\n" not in "".join(told)


def test_empty_cells_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,y\n1,,0\n2,3,1\n")
    with pytest.raises(UserError, match="column 'b' has 1 empty cells"):
        read_arrays(tmp_path / "a.csv", label="y")


# --- data sets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [-1, 0.0, 1.0, 2])
def test_a_test_fraction_is_a_share(share: float) -> None:
    with pytest.raises(UserError, match=f"test_fraction: got {share}; needs a share above 0 and below 1"):
        read_arrays("any.npz", test_fraction=share)


def test_the_test_fraction_is_of_every_class(tmp_path: Path) -> None:
    labels = np.repeat([5, 7], [30, 10])
    path = saved(tmp_path / "a.npz", vectors=np.arange(40.0)[:, None], labels=labels)
    one, same, other = (read_arrays(path, test_fraction=0.2, seed=seed) for seed in (0, 0, 1))
    assert one.test is not None
    assert same.test is not None
    assert other.test is not None
    assert np.bincount(one.test.labels).tolist() == [6, 2]
    rows = np.concatenate([one.train.images, one.test.images])
    assert sorted(rows.ravel()) == [*range(40)]
    assert np.array_equal(one.test.images, same.test.images)
    assert not np.array_equal(one.test.images, other.test.images)
    assert (one.train.labels == (one.train.images.ravel() >= 30)).all()


def test_vectors_are_normalised_by_feature_or_left(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", vectors=VECTORS * [1, 10, 100, 0], labels=LABELS)
    for choice in (None, False):
        dataset = prepared(tmp_path, spec(path, test_fraction=0.25, normalize=choice))
        raw = dataset.train.images
        (vectors, _), *_ = open_batches(dataset, "train", torch.device("cpu")).in_order(64)
        if choice is False:
            assert torch.equal(vectors, raw)
        else:
            torch.testing.assert_close(vectors.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
            torch.testing.assert_close(vectors.std(dim=0, correction=0), torch.tensor([1.0, 1, 1, 0]))
        assert torch.equal(dataset.train.images, load(tmp_path / "out").train.images)  # not changed in place


def test_several_labels_are_sets_of_classes(tmp_path: Path) -> None:
    both = np.vstack([TAGS, [[1, 1, 0], [1, 1, 1], [1, 1, 0]]])
    parts = {"train_vectors": RANDOM.normal(size=(15, 2)), "train_labels": both}
    parts |= {"test_vectors": VECTORS[:, :2], "test_labels": TAGS}
    path = saved(tmp_path / "a.npz", **parts)
    dataset = prepared(tmp_path, spec(path, several_labels=True))
    assert dataset.tag_sets is not None
    assert torch.equal(dataset.tag_sets[dataset.train.labels], torch.from_numpy(both).byte())
    assert dataset.train.labels[-3:].tolist() == [3, 4, 3]
    with pytest.raises(UserError, match=r"set dataset\.several_labels: true"):
        prepare(spec(path), tmp_path / "out")
    parts["test_labels"] = both[[*range(3), 12] * 3]
    parts["train_labels"] = both[:1].repeat(15, axis=0)
    with pytest.raises(UserError, match="class '1' has no train samples of this label alone"):
        prepare(spec(saved(path, **parts), several_labels=True), tmp_path / "out")


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path, wanted = tmp_path / "a.npz", spec(tmp_path / "a.npz", test_fraction=0.25)
    saved(path, vectors=VECTORS, labels=LABELS)
    prepared(tmp_path, wanted)
    find = partial(find_originals, "arrays", str(path), [])
    assert not has_changed(tmp_path / "out", find)
    saved(path, vectors=VECTORS + 1, labels=LABELS)
    assert has_changed(tmp_path / "out", find)
    record = json.loads((tmp_path / "out/dataset.json").read_text())
    assert str(tmp_path) not in json.dumps(record)
    assert [*record["source"]["sha256"]] == ["a.npz"]


def test_a_split_or_two_classes_are_needed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", vectors=VECTORS, labels=LABELS)
    with pytest.raises(UserError, match=r"no test split: add one, or set dataset\.test_fraction"):
        nominal_shape(spec(path))
    with pytest.raises(UserError, match="a single class"):
        nominal_shape(spec(saved(path, vectors=VECTORS, labels=LABELS * 0), test_fraction=0.5))


# --- planning -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "convnet"}}, "'convnet' reads images, but a has vectors"),
        ({"augment": {"flip": True}}, "'augment' changes images, but a has vectors"),
    ],
)
def test_networks_and_changes_of_images_refuse_vectors(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", vectors=VECTORS, labels=LABELS)
    network = {"model": {"name": "mlp"}, "loss": {"name": "ce"}, "optimizer": {"lr": 0.1}, "epochs": 1}
    config = {
        "study": {"name": "s"},
        "datasets": {"base": {"name": "arrays", "path": str(path), "test_fraction": 0.25}},
        "networks": {"base": network},
    }
    Study(config)
    with pytest.raises(UserError, match=message):
        Study(config | {"networks": {"base": network | changes}})


def test_images_of_bytes_beside_images_of_floats_are_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 1, 3, 3), np.uint8), np.arange(4) % 2
    mixed = {
        "train_images": images,
        "test_images": images / np.float32(255),
        "train_labels": labels,
        "test_labels": labels,
    }
    np.savez(tmp_path / "a.npz", **mixed)
    with pytest.raises(UserError, match="one split has uint8 images and the other float ones"):
        read_arrays(tmp_path / "a.npz")
