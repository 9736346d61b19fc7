"""Data files: sources of data sets, prepared data sets, and arrays that ``ncpipe measure`` reads."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from extent import cases
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

import ncpipe
from fuzz.runner import Surface, fuzz
from fuzz.strategies import damaged, mutated
from ncpipe.cli.foreign import read_arrays
from ncpipe.data import load, prepare
from ncpipe.data.idx import IDX_FILES
from ncpipe.data.settings import DatasetSpec
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision

import_torchvision()  # which makes a folder of its own for temporary files


class Command:
    """Bytes that run a command where they are unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch x",)


PICKLE = pickle.dumps(Command())
Files = dict[str, bytes]


def _write(files: Files) -> None:
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# --- idx -------------------------------------------------------------------------------------------


def _idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _digits() -> Files:
    rng, labels = np.random.default_rng(0), np.tile(np.arange(10, dtype=np.uint8), 3)
    contents = {}
    for images_name, labels_name in IDX_FILES.values():
        contents[f"data/mnist/{images_name}.gz"] = gzip.compress(_idx(rng.integers(0, 255, (30, 28, 28), np.uint8)))
        contents[f"data/mnist/{labels_name}.gz"] = gzip.compress(_idx(labels))
    return contents


IDX = _digits()
GZIP_BOMB = gzip.compress(bytes(64 * 2**20), 1) * 60
"""4 GB of zeros in 4 MB."""
HEADERS = ((0, 0, 0), (2**32 - 1,) * 3, (30, 28, 28), (30, 2**31, 28), (3, 3, 3), (30, 0, 28), (2**16, 2**16, 2**16))


@st.composite
def idx_sets(draw: st.DrawFn) -> Files:
    """MNIST's four files, some of them damaged before or after they were packed, missing, or a bomb."""
    files = dict(IDX)
    for name in draw(st.sets(st.sampled_from(sorted(files)), min_size=1, max_size=2)):
        content = gzip.decompress(files[name])
        kind = draw(st.sampled_from(("outer", "inner", "inner", "plain", "missing", "shape", "bomb", "labels")))
        if kind == "outer":
            files[name] = draw(damaged(files[name]))
        elif kind == "inner":
            files[name] = gzip.compress(draw(damaged(content)), 1)
        elif kind == "shape":
            shape = draw(st.sampled_from(HEADERS))
            files[name] = gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", *shape) + content[16:], 1)
        elif kind == "labels":
            files[name] = gzip.compress(_idx(np.full(30, draw(st.integers(0, 255)), np.uint8)))
        elif kind == "bomb":
            files[name] = draw(st.sampled_from((GZIP_BOMB, PICKLE)))
        else:
            del files[name]
            if kind == "plain":
                files[name.removesuffix(".gz")] = draw(damaged(content))
    return files


def prepare_idx(files: Files) -> None:
    _write(files)
    prepare(DatasetSpec(name="mnist"), Path("results/data/mnist"), [Path("data")])
    load(Path("results/data/mnist"))


# --- sets that torchvision reads: pickles, which must not be read where they are not the published ones -------

TORCHVISION = {
    "cifar10": ("cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/batches.meta"),
    "cifar100": ("cifar-100-python/train", "cifar-100-python/meta"),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
    "stl10": ("stl10_binary/train_X.bin", "stl10_binary/train_y.bin"),
}


@st.composite
def torchvision_sets(draw: st.DrawFn) -> tuple[str, Files]:
    name = draw(st.sampled_from(sorted(TORCHVISION)))
    content = st.one_of(
        st.just(PICKLE), st.binary(max_size=100), st.just(pickle.dumps({b"data": [1], b"labels": [0]}))
    )
    return name, {f"data/{file}": draw(content) for file in TORCHVISION[name]}


def prepare_torchvision(case: tuple[str, Files]) -> None:
    name, files = case
    _write(files)
    prepare(DatasetSpec(name=name), Path("results/data/x"), [Path("data")])  # type: ignore[arg-type]


# --- image folders and zips ------------------------------------------------------------------------


def _image(kind: str = "PNG", size: tuple[int, int] = (6, 5), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 100).save(stream, kind)
    return stream.getvalue()


def _giant(width: int, height: int) -> bytes:
    """A PNG that says that it has that size, with a line or so of data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


IMAGES = tuple(_image(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF"))
ODD_IMAGES = (
    b"", b"text", PICKLE, _giant(100_000, 100_000), _giant(9_000, 9_000), _giant(2**31 - 1, 1), _giant(0, 0),
    _image(mode="1"), _image(mode="L"), _image(mode="RGBA"), _image("TIFF", mode="I"), _image("TIFF",
    mode="F"), _image(mode="P"),
    _image(size=(1, 1)), _image(size=(5000, 1)), b"P5 99999 99999 255\n", b"P6 1 1 65535\n" + bytes(6), b"<svg/>",
)  # fmt: skip
NAMES = (
    "train/a/1.png", "train/a/2.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"
)  # fmt: skip
ODD_NAMES = (
    "../escape.png", "train/../../escape/1.png", "/abs/train/1.png", "train/a/../../../x.png", "train/a/b/c/d.png",
    "train/c/1.png", "train/a\nb/1.png", "train/\x1b[31m/1.png", "val/a/1.png", "train/a/.hidden.png",
    "train//1.png",
    "train/a/1.PNG", "__MACOSX/train/a/1.png", "train/\u202e/1.png", "train/" + "x" * 200 + "/1.png",
    "train/a/n\u0000.png",
)  # fmt: skip


@st.composite
def image_sets(draw: st.DrawFn) -> tuple[Files, bool, bytes | None]:
    """Images by name, whether as a zip, and what of the zip is damaged."""
    files = {name: draw(st.sampled_from(IMAGES)) for name in NAMES}
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from((*NAMES, *ODD_NAMES)))
        sound = draw(st.sampled_from(IMAGES))
        files[name] = draw(st.one_of(st.just(sound), damaged(sound), st.sampled_from(ODD_IMAGES)))
    for name in draw(st.sets(st.sampled_from(NAMES), max_size=2)) if draw(st.booleans()) else ():
        files.pop(name, None)
    packed = draw(st.booleans())
    if not packed:
        return {name: content for name, content in files.items() if name in NAMES or _is_plain(name)}, False, None
    archive = _zip(files)
    return (
        files,
        True,
        draw(st.one_of(st.just(archive), st.just(archive), damaged(archive), st.sampled_from(ODD_ZIPS))),
    )


def _is_plain(name: str) -> bool:
    return not name.startswith("/") and ".." not in name and "\x00" not in name


def _zip(files: Files) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 1)
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../x"))
    return stream.getvalue()


ODD_ZIPS = (
    b"", b"PK\x05\x06" + bytes(18), b"PK\x03\x04", _tar(), gzip.compress(b"x"),
    _zip({name: bytes(320 * 2**20) if name == NAMES[0] else IMAGES[0] for name in NAMES}),
)  # fmt: skip


def prepare_images(case: tuple[Files, bool, bytes | None]) -> None:
    files, packed, archive = case
    path = "images.zip" if packed else "images"
    if archive is not None:
        Path(path).write_bytes(archive)
    else:
        _write({f"images/{name}": content for name, content in files.items()})
    spec = DatasetSpec(name="imagefolder", path=path, image_size=4)
    prepare(spec, Path("results/data/images"))
    load(Path("results/data/images"))


# --- prepared data sets ------------------------------------------------------------------------------


@cache
def _prepared(stream: bool) -> Files:
    """The files of a prepared set."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for image in NAMES:
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            (folder / image).write_bytes(IMAGES[0])
        prepare(DatasetSpec(name="imagefolder", path=name, image_size=4, stream=stream), folder / "data")
        return {f"data/{file.name}": file.read_bytes() for file in (folder / "data").iterdir()}


@st.composite
def prepared_sets(draw: st.DrawFn) -> Files:
    """A prepared set of which a file is damaged, or the record changed."""
    files = dict(_prepared(draw(st.booleans())))
    name = draw(st.sampled_from(sorted(files)))
    if name.endswith(".json") and draw(st.booleans()):
        files[name] = json.dumps(draw(mutated([json.loads(files[name])]))).encode()
    else:
        files[name] = draw(damaged(files[name]))
    return files


def load_changed(files: Files) -> None:
    _write(files)
    found = load(Path("data"))
    found.train.images[np.arange(1)]
    assert found.image_shape


# --- arrays to measure -------------------------------------------------------------------------------

LABELS = np.repeat(np.arange(3), 4)
ARRAYS = {"features": np.eye(3, 4)[LABELS] + 0.01 * np.arange(48).reshape(12, 4), "labels": LABELS}
ARRAYS |= {"weight": np.eye(3, 4), "bias": np.zeros(3)}
DTYPES = ("f2", "f4", "f8", ">f8", "i1", "i8", "u8", "?", "c16", "U3", "S2", "M8[s]", "V4", "f16")
SHAPES = ((), (0,), (0, 4), (12,), (12, 4), (12, 1), (1, 1), (3, 4), (4, 3), (12, 4, 1), (2, 2, 2, 2, 2), (100, 30))
VALUES = (0, 1, -1, 5, 1e300, -1e300, 1e-300, np.nan, np.inf, -np.inf)


@st.composite
def array_files(draw: st.DrawFn) -> tuple[str, bytes, dict[str, Any]]:
    """Suffix and bytes of a file, and options of the command."""
    arrays = dict(ARRAYS)
    for name in draw(
        st.sets(st.sampled_from((*ARRAYS, "train_means", "ood_features", "other/../x", "labels.npy")), max_size=3)
    ):
        kind = draw(st.sampled_from(("drop", "shape", "dtype", "values", "objects", "labels")))
        arrays.pop(name, None) if kind == "drop" else arrays.__setitem__(name, _array(draw, kind, arrays.get(name)))
    suffix = draw(st.sampled_from((".npz", ".safetensors")))
    content = _npz(arrays) if suffix == ".npz" else _safetensors(arrays)
    if draw(st.sampled_from((False, False, True))):
        content = draw(st.one_of(damaged(content), st.just(PICKLE), st.sampled_from(ODD_FILES)))
    options = {
        "num_classes": st.one_of(st.none(), st.sampled_from((0, -1, 2, 3, 4, 10**6, 10**12, 2**63))),
        "ridge": st.sampled_from((None, None, 0.0, -1.0, 1e-2, 1e308, np.nan, np.inf)),
        "bias_decay": st.sampled_from((None, None, 0.0, -1.0, np.inf, np.nan)),
        "per_class": st.booleans(),
    }
    return suffix, content, draw(st.fixed_dictionaries(options))


def _array(draw: st.DrawFn, kind: str, old: np.ndarray | None) -> np.ndarray:
    array = np.array(ARRAYS["features"] if old is None else old)
    if kind == "shape":
        return np.resize(array, draw(st.sampled_from(SHAPES)))
    if kind == "objects":
        return np.array([Command(), None], dtype=object)
    if kind == "labels":
        return draw(
            st.lists(st.sampled_from((0, 1, 2, -1, 10**5, 10**9, 2**62)), min_size=12, max_size=12).map(np.array)
        )
    if kind == "dtype":
        try:
            return array.astype(draw(st.sampled_from(DTYPES)))
        except (TypeError, ValueError):
            return array
    array = array.astype(float)
    array.flat[draw(st.integers(0, array.size - 1)) :: draw(st.integers(1, 5))] = draw(st.sampled_from(VALUES))
    return array


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    kept = {
        name: np.ascontiguousarray(a) for name, a in arrays.items() if a.dtype.kind in "fiub" and a.dtype.isnative
    }
    return save({name: a for name, a in kept.items() if a.dtype != np.dtype("f16")})


def _header(header: Any) -> bytes:
    content = json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content


def _npy(shape: str) -> bytes:
    """An npz with an array that says that it is huge."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    return _zip({"features.npy": member, "labels.npy": member})


ODD_FILES = (
    (2**63).to_bytes(8, "little"), (2**40).to_bytes(8, "little") + b"{}", _header([]), _header({"features": 3}),
    _header({"features": {"dtype": "F64", "shape": [2**40, 2**20], "data_offsets": [0, 8]}}),
    _header({"features": {"dtype": "F64", "shape": [-1], "data_offsets": [0, -8]}}),
    _header({"features": {"dtype": "F8_E4M3", "shape": [0], "data_offsets": [0, 0]}}),
    _npy("(100000000000,)"), _npy("(2000000000,)"), _npy("(-1,)"), _npy("()"),
    _npy("__import__('os').system('touch x')"),
    _zip({"features.npy": bytes(320 * 2**20)}), _zip({"features.npy": PICKLE, "labels.npy": PICKLE}),
    _zip({"../x": b"x"}),
)  # fmt: skip


def measure(case: tuple[str, bytes, dict[str, Any]]) -> None:
    """As the command does."""
    suffix, content, options = case
    path = Path(f"arrays{suffix}")
    path.write_bytes(content)
    arrays = read_arrays(path)
    try:
        ncpipe.measure(**arrays, **options)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _inputs(*names: str) -> Any:
    return lambda case: ["results", "data", *names]


SURFACES: Iterable[Surface] = (
    Surface("data: idx files", idx_sets(), prepare_idx, 500, 10, writes=_inputs("../home/c")),
    Surface(
        "data: torchvision's files", torchvision_sets(), prepare_torchvision, 100, 5, writes=_inputs("../home/c")
    ),
    Surface("data: images", image_sets(), prepare_images, 700, 15, writes=_inputs("images", "images.zip")),
    Surface("data: prepared sets", prepared_sets(), load_changed, 500, 15, writes=_inputs()),
    Surface("data: arrays", array_files(), measure, 1500, 20, writes=_inputs("arrays.npz", "arrays.safetensors")),
)


@pytest.mark.parametrize("surface", SURFACES, ids=str)
def test_a_data_file_is_read_or_refused_in_one_line(surface, tmp_path):
    fuzz(surface, tmp_path, cases(surface.sample))
