"""Hugging Face data sets on disk, as ``save_to_disk`` writes them, in the form of a file of arrays."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ncpipe.data.containers import CLASS_NAMES, Member
from ncpipe.system.errors import UserError


def is_saved(path: Path) -> bool:
    """Whether a folder is what ``save_to_disk`` wrote."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved_members(path: Path, label: str | None) -> dict[str, Member]:
    """Images, or numeric columns as vectors, and labels of every split, 'validation' where there is no 'test'.

    Labels are the column ``label``, or the only one of ``ClassLabel``. Raises ``UserError`` for other columns.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{path} is read by 'datasets': pip install 'ncpipe[huggingface]'") from None
    try:
        found: Any = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}; save it anew") from None
    splits = dict(found) if isinstance(found, datasets.DatasetDict) else {"": found}
    held_out = "test" if "test" in splits else "validation"
    members: dict[str, Member] = {}
    for name, split in (("train", "train"), ("test", held_out), ("", "")):
        if split in splits:
            of_split = _of_split(path, splits[split], label)
            members |= {f"{name}_{key}" if name and key != CLASS_NAMES else key: of_split[key] for key in of_split}
    return members


def _of_split(path: Path, split: Any, label: str | None) -> dict[str, Member]:
    kinds = {name: type(kind).__name__ for name, kind in split.features.items()}
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"] if label is None else [label]
    if len(labels) != 1 or labels[0] not in kinds:
        raise UserError(f"{path}: name the column of the labels in dataset.label; there are {', '.join(kinds)}")
    of = split.with_format("numpy")
    members = {"labels": Member((len(split),), lambda: np.asarray(of[:][labels[0]]))}
    if kinds[labels[0]] == "ClassLabel":
        names = split.features[labels[0]].names
        members[CLASS_NAMES] = Member((len(names),), partial(np.asarray, names))
    pictures = [name for name, kind in kinds.items() if kind == "Image"]
    if len(pictures) == 1:
        first = _picture(split[0][pictures[0]])
        shape = (len(split), *first.shape)
        return members | {"images": Member(shape, partial(_pictures, path, split, pictures[0]), True)}
    columns = [name for name in kinds if name != labels[0]]
    row = of[0]
    for name in columns:
        if np.asarray(row[name]).dtype.kind not in "biuf":
            raise UserError(f"{path}: column {name!r} holds no numbers: remove it (remove_columns) or encode it")
    width = sum(int(np.size(row[name])) for name in columns)
    return members | {"vectors": Member((len(split), width), partial(_vectors, of, columns))}


def _vectors(split: Any, columns: list[str]) -> np.ndarray:
    found = split[:]
    return np.column_stack([np.asarray(found[name]).reshape(len(split), -1) for name in columns])


def _picture(image: Any) -> np.ndarray:
    """(C, H, W)"""
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _pictures(path: Path, split: Any, name: str) -> np.ndarray:
    pictures = [_picture(row[name]) for row in split.select_columns(name)]
    if len({(picture.shape, picture.dtype) for picture in pictures}) > 1:
        raise UserError(f"{path}: images of {name!r} differ in size or kind: resize and convert them first")
    return np.stack(pictures)
