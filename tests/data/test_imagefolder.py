"""Image folders and zips as they are met in the field: names, links, classes, kinds of images."""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ncpipe.data import Dataset, load, prepare
from ncpipe.data.imagefolder import ImageFolder, in_order
from ncpipe.data.settings import DatasetSpec
from ncpipe.plan.table import print_plan
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json

E_ACUTE, E_AND_ACUTE = "caf\u00e9", "cafe\u0301"
"""One name, composed and decomposed."""


def image(colour: int = 100, kind: str = "PNG", size: int = 4) -> bytes:
    return encoded(Image.fromarray(np.full((size, size, 3), colour, np.uint8)), kind)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


TREE = {f"{split}/{cls}/{i}.png": image(10 * i) for split in ("train", "val") for cls in "ab" for i in (1, 2)}


def write(path: Path, tree: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")  # names that stand twice
            for name, content in tree.items():
                archive.writestr(member(name), content)
        return path
    for name, content in tree.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).mkdir() if name.endswith("/") else (path / name).write_bytes(content)
    return path


def member(name: str) -> zipfile.ZipInfo:
    """With a name that ``zipfile`` does not mend."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


def prepared(path: Path, side: int = 4, **settings: Any) -> Dataset:
    out = path.parent / f"{path.name}-made"
    prepare(DatasetSpec(name="imagefolder", path=str(path), image_size=side, **settings), out)
    return load(out)


def colours(path: Path, split: str = "train") -> list[list[int]]:
    """Of the images by class."""
    folder = ImageFolder.find(str(path))
    found: list[list[int]] = [[] for _ in folder.class_names]
    names, labels = zip(*folder.members(split))
    for picture, label in zip(folder.read(names, (4, 4)), labels):
        found[label].append(int(picture.float().mean()))
    return found


# --- names in zips ----------------------------------------------------------------------------------

RENAMED = {
    "dot": lambda name: f"./{name}",
    "dots within": lambda name: name.replace("/", "/./"),
    "two slashes": lambda name: name.replace("/", "//"),
    "absolute": lambda name: f"/{name}",
    "backslashes": lambda name: name.replace("/", "\\"),
    "drive": lambda name: "C:\\photos\\" + name.replace("/", "\\"),
    "wrapped": lambda name: f"photos/{name}",
    "wrapped twice": lambda name: f"./home/photos/{name}",
    "deep": lambda name: name.replace("a/", "a/deep/er/"),
    "capitals": lambda name: name.replace(".png", ".PNG"),
}


@pytest.mark.parametrize("how", RENAMED)
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"train/a/x.png/": b"", "train/a/": b"", "train/": b""},
        {"__MACOSX/train/a/._1.png": b"?", "train/a/.DS_Store": b"?", "train/@eaDir/1.png": b"?"},
        {"README.md": b"?"},
    ],
)
def test_members_of_any_spelling_are_read(tmp_path, how, extra):
    rename = RENAMED[how]
    path = write(tmp_path / "x.zip", {rename(name): content for name, content in {**TREE, **extra}.items()})
    assert ImageFolder.find(str(path)).class_names == ("a", "b")
    assert colours(path) == colours(path, "test") == [[10, 20], [10, 20]]
    assert prepared(path).train.labels.tolist() == [0, 0, 1, 1]


def test_of_a_member_that_is_written_twice_the_last_counts(tmp_path):
    path = write(tmp_path / "x.zip", TREE | {"./train/a/1.png": image(77), "train//a/2.png": image(88)})
    assert colours(path)[0] == [77, 88]
    assert ImageFolder.find(str(path)).skipped == {"written twice": 2}
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("train/b/1.png", image(99))
    assert colours(path)[1] == [99, 20]


@pytest.mark.parametrize("name", ["../1.png", "train/a/../b/3.png", "..\\1.png", "train/../../x/1.png"])
def test_members_that_lead_elsewhere_are_refused(tmp_path, name):
    path = write(tmp_path / "x.zip", TREE | {name: image()})
    with pytest.raises(UserError, match=r"has '\.\.' in its name; pack the zip anew"):
        ImageFolder.find(str(path))


def test_links_in_a_zip_are_refused(tmp_path):
    path = write(tmp_path / "x.zip", TREE)
    link = member("train/c")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, b"a")
    with pytest.raises(UserError, match="'train/c' is a link; pack what it leads to"):
        ImageFolder.find(str(path))


def test_names_of_a_zip_in_utf_8_that_do_not_say_so(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in TREE.items():
            archive.writestr(name.replace("a/", f"{E_ACUTE}/"), content)
    flagless = path.read_bytes()
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = flagless.split(mark)
        parts[1:] = [p[: place - 4] + struct.pack("<H", 0) + p[place - 2 :] for p in parts[1:]]
        flagless = mark.join(parts)
    path.write_bytes(flagless)
    assert ImageFolder.find(str(path)).class_names == ("b", E_ACUTE)
    assert colours(path) == [[10, 20], [10, 20]]


# --- names and links in folders ---------------------------------------------------------------------


def test_names_that_are_no_utf_8(tmp_path):
    root = write(tmp_path / "photos", TREE)
    (root / "train/a/1.png").rename(root / os.fsdecode(b"train/a/caf\xe9.png"))
    for split in ("train", "val"):
        (root / split / "b").rename(root / split / os.fsdecode(b"b\xe9"))
    dataset = prepared(root)
    assert dataset.class_names == ("a", "b\\xe9")
    assert colours(root) == [[20, 10], [10, 20]]
    (root / os.fsdecode(b"train/a/caf\xe9.png")).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read train/a/caf\\udce9\.png") as caught:
        prepared(root)
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["photos", "photos.zip"])
def test_names_that_differ_in_their_unicode_form_are_one_class(tmp_path, name):
    between = {
        place.replace("a/", f"{E_ACUTE if 'train' in place else E_AND_ACUTE}/"): c for place, c in TREE.items()
    }
    path = write(tmp_path / name, between | {f"train/{E_AND_ACUTE}/3.png": image(30)})
    assert ImageFolder.find(str(path)).class_names == ("b", E_ACUTE)
    assert sorted(colours(path)[1]) == [10, 20, 30]


def test_links_are_followed_and_those_to_nowhere_named(tmp_path):
    root = write(tmp_path / "photos", TREE)
    (root / "train/c").symlink_to(root / "val/b")
    (root / "val/c").symlink_to("b")
    assert ImageFolder.find(str(root)).class_names == ("a", "b", "c")
    for place in ("train/d", "val/a/9.png", "train/a/deep"):
        (root / place).symlink_to("nowhere")
        with pytest.raises(UserError, match=rf"{place}: No such file.*where its link leads; replace or remove it"):
            ImageFolder.find(str(root))
        (root / place).unlink()


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    root = write(tmp_path / "photos", TREE)
    os.mkfifo(root / "train/a/9.png")
    with pytest.raises(UserError, match=r"9\.png is neither a file nor a folder; remove it"):
        ImageFolder.find(str(root))


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root, scan = write(tmp_path / "photos", TREE), os.scandir

    def forbidden(path: str) -> Any:
        if path.endswith("train/b"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UserError, match=r"train/b: Permission denied; replace or remove it"):
        ImageFolder.find(str(root))


# --- classes and splits -----------------------------------------------------------------------------

LOST = {
    "another kind": (["train/c/1.gif", "val/c/1.gif"], r"class 'c' has no images in 'train' \(only 1 \.gif\)"),
    "kinds": (["train/c/1.gif", "train/c/x.psd", "val/c/1.png"], r"'train' \(only 1 \.gif, 1 \.psd\)"),
    "no ending": (["train/c/1.png", "val/c/1"], r"'c' has no images in 'val' \(only 1 without ending\)"),
    "empty": (["train/c/", "val/c/"], r"class 'c' has no images in 'train' \(an empty folder\)"),
    "empty below": (["train/c/d/", "val/c/"], r"class 'c' has no images in 'train' \(an empty folder\)"),
    "hidden": (["train/c/.1.png", "val/c/.1.png"], r"class 'c' has no images in 'train' \(an empty folder\)"),
    "one split": (["train/c/1.png"], r"class 'c' has no images in 'val' \(no such folder\)"),
    "empty in one split": (["train/c/1.png", "val/c/"], r"class 'c' has no images in 'val' \(an empty folder\)"),
}


@pytest.mark.parametrize("name", ["photos", "photos.zip"])
@pytest.mark.parametrize("how", LOST)
def test_a_class_that_would_vanish_is_an_error(tmp_path, name, how):
    places, message = LOST[how]
    path = write(tmp_path / name, TREE | dict.fromkeys(places, image()))
    with pytest.raises(UserError, match=message):
        ImageFolder.find(str(path))


def test_files_that_are_left_out_are_counted_and_said(tmp_path, capsys):
    others = ["train/a/1.gif", "train/a/2.GIF", "val/b/notes.txt", "train/b/deep/README", "train/labels.csv"]
    unlabelled = [f"test/{i}.png" for i in range(3)]
    root = write(tmp_path / "photos", TREE | dict.fromkeys([*others, *unlabelled], image()))
    write(root, {"train/a/.DS_Store": b"?", os.fsdecode(b"train/a/x.caf\xe9"): b"", "train/a/x.\x1b[31m": b""})
    prepared(root)
    line = f"{root}: 10 files are not read: 4 outside the classes, 2 .gif, 1 .txt, 1 without ending, 2 other\n"
    assert capsys.readouterr().out == line
    skipped = {"outside the classes": 4, ".gif": 2, "without ending": 1, ".txt": 1, "other": 2}
    assert read_json(tmp_path / "photos-made/dataset.json")["source"]["skipped"] == skipped
    network = {"model": {"name": "mlp", "depth": 1, "width": 8}, "loss": {"name": "mse"}, "optimizer": {"lr": 0.05}}
    study = Study({
        "study": {"name": "i", "results": str(tmp_path / "results")},
        "datasets": {"base": {"name": "imagefolder", "path": str(root), "image_size": 8}},
        "networks": {"base": network | {"epochs": 1}},
        "ufm": {"matched": []},
    })  # fmt: skip
    print_plan(study, estimate=False)
    assert "10 files are not read" in " ".join(capsys.readouterr().out.split())


def test_a_test_split_without_labels_leaves_its_place_to_val(tmp_path):
    for number, places in enumerate((["test/1.png"], ["test/unknown/1.png"], ["test/a/"], ["test/"])):
        path = write(tmp_path / f"{number}", TREE | dict.fromkeys(places, image(1)))
        assert colours(path, "test") == [[10, 20], [10, 20]]
    labelled = {name.replace("val", "test"): image(5) for name in TREE if "val" in name}
    path = write(tmp_path / "labelled", TREE | labelled)
    assert colours(path, "test") == [[5, 5], [5, 5]]
    assert ImageFolder.find(str(path)).skipped == {"in 'val'": 4}


def test_whole_numbers_are_classes_in_their_order(tmp_path):
    numbers = {name.replace("a/", "10/").replace("b/", "2/"): content for name, content in TREE.items()}
    assert ImageFolder.find(str(write(tmp_path / "photos", numbers))).class_names == ("2", "10")
    assert in_order(["10", "9", "010", "0", "00"]) == ["0", "00", "9", "010", "10"]
    assert in_order(["10", "9", "b"]) == ["10", "9", "b"]
    assert in_order(["n10", "n2"]) == ["n10", "n2"]


# --- pictures ---------------------------------------------------------------------------------------


def decoded(content: bytes, tmp_path: Path, suffix: str = "png", side: int = 4) -> np.ndarray:
    """The image as the data set has it, (3, H, W)."""
    root = write(tmp_path / "photos", {f"{split}/a/0.{suffix}": content for split in ("train", "test")})
    return prepared(root, side).train.images[0].numpy()


def test_pictures_stand_upright(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = 200  # light above
    for orientation, turned in ((1, pixels), (3, pixels[::-1]), (6, pixels[::-1].transpose(1, 0, 2))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(pixels), "PNG", exif=exif)
        assert np.array_equal(decoded(content, tmp_path / str(orientation)), turned.transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_matter(tmp_path):
    content = encoded(
        Image.fromarray(np.full((4, 4, 3), 9, np.uint8)), exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 9
    )
    assert (decoded(content, tmp_path) == 9).all()


def test_what_is_transparent_is_white(tmp_path):
    alpha = np.array([[0, 255], [255, 128]], np.uint8).repeat(2, 0).repeat(2, 1)
    black, grey = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    expected = 255 - alpha
    palette = Image.fromarray(grey, "P")
    palette.putpalette([0, 0, 0, 50, 50, 50])
    palette.putpixel((0, 0), 1)
    for name, content, shown in (
        ("RGBA", encoded(Image.fromarray(np.dstack([black, alpha]))), expected),
        ("LA", encoded(Image.fromarray(np.dstack([grey, alpha]))), expected),
        ("webp", encoded(Image.fromarray(np.dstack([black, alpha])), "WEBP", lossless=True), expected),
        ("palette", encoded(palette, transparency=1), np.where(np.arange(16).reshape(4, 4) == 0, 255, 0)),
        ("alphas", encoded(palette, transparency=b"\xff\x80"), np.where(np.arange(16).reshape(4, 4), 0, 152)),
        ("one colour", encoded(Image.fromarray(black), transparency=(0, 0, 0)), np.full((4, 4), 255)),
    ):  # fmt: skip
        found = decoded(content, tmp_path / name, "webp" if name == "webp" else "png")
        assert np.abs(found[0].astype(int) - shown).max() <= 1, name


RAMP = np.tile(np.arange(0, 65536, 4096, dtype=np.uint16), (16, 1))


def pgm(values: np.ndarray, largest: int) -> bytes:
    return f"P5\n16 16\n{largest}\n".encode() + values.astype(">u2").tobytes()


DEEP = {
    "png": (encoded(Image.fromarray(RAMP)), "png", 16),
    "png, 12 bits": (encoded(Image.fromarray(RAMP >> 4)), "png", 12),
    "png, 10 bits": (encoded(Image.fromarray(RAMP >> 6)), "png", 10),
    "tiff, 14 bits": (encoded(Image.fromarray(RAMP >> 2), "TIFF"), "tif", 14),
    "tiff, big-endian": (encoded(Image.fromarray((RAMP >> 4).astype(">u2")), "TIFF"), "tif", 12),
    "pgm": (pgm(RAMP, 65535), "pgm", 16),
    "pgm, 12 bits": (pgm(RAMP >> 4, 4095), "pgm", 16),
    "pgm, 12 bits in 16": (pgm(RAMP >> 4, 65535), "pgm", 12),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_images_are_scaled_from_the_bits_they_use(tmp_path, name):
    content, suffix, bits = DEEP[name]
    found = decoded(content, tmp_path, suffix, 16)
    assert np.abs(found[0, 0].astype(int) - np.arange(0, 256, 16)).max() <= 1
    assert read_json(tmp_path / "photos-made/dataset.json")["source"]["bits"] == bits


def test_one_scale_holds_for_a_whole_data_set(tmp_path):
    deep = {f"{split}/{c}/0.png": encoded(Image.fromarray(RAMP >> 4)) for split in ("train", "val") for c in "ab"}
    root = write(tmp_path / "photos", deep | {"val/b/0.png": encoded(Image.fromarray(RAMP >> 2))})
    for settings in ({}, {"stream": True}):
        dataset = prepared(root, 16, **settings)
        train, test = (split.images[np.arange(2)] for split in (dataset.train, dataset.test))
        assert (int(train.max()), int(test.max())) == (60, 240)
    write(root, {"train/a/1.jpg": image(250, "JPEG")})  # whose 8 bits are what they are
    assert int(prepared(root, 16).train.images.max()) >= 249
    alone = prepared(write(tmp_path / "alone", deep), 16)
    assert int(alone.train.images.max()) == 240


def deep_colours(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a colour, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = values.astype(">u2")[..., None].repeat(3, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, content) for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    )


def test_deep_colours_are_read_or_refused_but_do_not_turn_black(tmp_path):
    found = decoded(deep_colours(RAMP), tmp_path / "16", "png", 16)
    assert found[:, 0].tolist() == [list(range(0, 256, 16))] * 3
    ppm = b"P6\n16 16\n%d\n" + (RAMP >> 4).astype(">u2")[..., None].repeat(3, -1).tobytes()
    assert decoded(ppm % 4095, tmp_path / "ppm", "ppm", 16).max() >= 239
    for name, content, suffix in (("12", deep_colours(RAMP >> 4), "png"), ("p", ppm % 65535, "ppm")):
        with pytest.raises(UserError, match=r"colours use the lower 12 of 16 bits.*save it with 8"):
            decoded(content, tmp_path / name, suffix, 16)


def test_an_opaque_picture_is_what_it_was(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4), np.uint8)
    pixels[..., 3] = 255
    assert np.array_equal(decoded(encoded(Image.fromarray(pixels)), tmp_path), pixels[..., :3].transpose(2, 0, 1))
