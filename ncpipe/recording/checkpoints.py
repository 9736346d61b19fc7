"""The command ``ncpipe record``: checkpoints of the user's own network measured and recorded as a run."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ncpipe.data.arrays import ArraySplit, read_arrays
from ncpipe.data.containers import read_torch
from ncpipe.networks.hooked import unwrapped
from ncpipe.recording.recorder import Recorder
from ncpipe.settings.source import source_of
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_tensors
from ncpipe.system.progress import progress
from ncpipe.system.words import listed

NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
"""Names under which training loops keep the weights among other things."""
REMEDY = r", as --epoch-pattern 'epoch=(\d+)'"
SHOWN = 3
"""Names of a message."""
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std of every channel, of x in [0, 1] where the values are uint8, as torchvision's transforms."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        shape = (-1, *(1,) * (images.ndim - 2))
        mean, std = (torch.tensor(values).reshape(shape) for values in (self.mean, self.std))
        return ((images / 255 if images.dtype == torch.uint8 else images) - mean) / std


def record_checkpoints(
    recorder: Recorder,
    network: nn.Module,
    checkpoints: Mapping[int, Path],
    loaders: Mapping[str, DataLoader[Any]],
    device: torch.device,
) -> None:
    """Load checkpoint after checkpoint into the network, measure and record it, if all of them fit it.

    Raises:
        UserError: a file is damaged or of another network, or what ``Recorder.measure`` raises.
    """
    told: set[str] = set()
    for path in checkpoints.values():
        weights, notes = fitting(read_weights(path), network)
        for note in notes:
            if note not in told:
                print(f"{path}: {note}", file=sys.stderr, flush=True)
            told.add(note)
        _check_fits(path, weights, network)
    network.to(device)
    with progress(f"record {recorder.run}", len(checkpoints)) as report:
        for done, (epoch, path) in enumerate(sorted(checkpoints.items()), start=1):
            network.load_state_dict(fitting(read_weights(path), network)[0])
            recorder.measure(network, loaders, epoch)
            report(done, f"epoch {epoch}")


def open_data(path: Path, normalisation: Normalisation | None, batch_size: int) -> dict[str, DataLoader[Any]]:
    """Loaders of the splits in a file of arrays, in order.

    Raises:
        UserError: what ``read_arrays`` raises, or uint8 without a normalisation.
    """
    if not path.exists():
        raise UserError(f"--data {path}: there is no such file")
    arrays = read_arrays(path)
    splits = {"train": arrays.train} | ({} if arrays.test is None else {"test": arrays.test})
    return {name: DataLoader(_tensors(path, split, normalisation), batch_size) for name, split in splits.items()}


def _tensors(path: Path, split: ArraySplit, normalisation: Normalisation | None) -> TensorDataset:
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    if labels.ndim != 1:
        raise UserError(f"{path}: samples have several labels, a recorded run has one a sample")
    if normalisation is None and images.dtype == torch.uint8:
        raise UserError(f"{path}: images are uint8: give --mean and --std of values in [0, 1], 0 and 1 for x / 255")
    if normalisation is not None:
        if len(normalisation.mean) not in (1, images.shape[1]):
            raise UserError(f"--mean has {len(normalisation.mean)} values, images have {images.shape[1]} channels")
        images = normalisation(images)
    return TensorDataset(images, labels)


def build(target: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that a class, or a function, makes of the arguments, out of torch's wrappers. Runs the user's code.

    Args:
        target: ``mynet.py:MyNet`` of a file, ``my.package:MyNet`` of an installed module.
        arguments: by keyword.

    Raises:
        UserError: there is no such thing, it fails, or what it makes is no ``nn.Module``.
    """
    place, _, name = target.rpartition(":")
    if not place:
        raise UserError(f"{target}: name a file and a class, as mynet.py:MyNet, or a module, as my.package:MyNet")
    try:
        source = source_of(*((place, None) if place.endswith(".py") else (None, place)))
        source.require(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    network = source.call(name, lambda made: made(**arguments))
    if not isinstance(network, nn.Module):
        raise UserError(f"{target} makes a {type(network).__name__}, no torch.nn.Module")
    return unwrapped(network)


# --- names ---------------------------------------------------------------------------------------


def find_checkpoints(patterns: Iterable[str], epoch_pattern: str | None = None) -> dict[int, Path]:
    """Files by epoch: the number in the stem of their names, of several the one that differs between the files, else
    the last; or what ``epoch_pattern`` finds in the whole path, a regular expression with one group.

    Raises:
        UserError: a pattern has no match; a name has no epoch or several; two files have one.
    """
    paths: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - the pattern may be absolute
        if not matches:
            raise UserError(f"no file matches {pattern!r}")
        paths += map(Path, matches)
    paths = list(dict.fromkeys(paths))
    numbers = [_numbers(path, epoch_pattern) for path in paths]
    place = -1 if epoch_pattern else _place(paths, numbers)
    found: dict[int, Path] = {}
    for path, own in zip(paths, numbers):
        if own[place] in found:
            both = f"{found[own[place]]} and {path} are both of epoch {own[place]}"
            raise UserError(f"{both}: name one of them, or say where the epoch stands{REMEDY}")
        found[own[place]] = path
    return found


def _numbers(path: Path, epoch_pattern: str | None) -> list[int]:
    try:
        texts = re.findall(epoch_pattern or r"\d+", str(path) if epoch_pattern else path.stem)
        numbers = [int(text) for text in texts]
    except (re.error, TypeError, ValueError) as error:
        raise UserError(f"--epoch-pattern {epoch_pattern!r}: {error}; it needs one group of digits") from None
    if not numbers:
        raise UserError(f"{path}: no epoch in the name; say where it stands{REMEDY}")
    return numbers


def _place(paths: Sequence[Path], numbers: Sequence[list[int]]) -> int:
    """Which of the numbers in each name is the epoch."""
    varying = [place for place, values in enumerate(zip(*numbers)) if len(set(values)) > 1]
    if len(varying) > 1 or len({len(own) for own in numbers}) > 1:
        raise UserError(f"{paths[0]} and {paths[-1]} differ in several numbers: say which is the epoch{REMEDY}")
    return varying[0] if varying else -1


# --- weights -------------------------------------------------------------------------------------


def read_weights(path: Path) -> tuple[Weights, list[str]]:
    """Tensors of a checkpoint by name, and what has to be said of it: safetensors, or what ``torch.save`` wrote, of
    which nothing but plain data is read.

    Raises:
        UserError: it is damaged, holds objects that would run code, or no weights.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[0], []
    content = read_torch(path)
    notes: list[str] = []
    while isinstance(content, Mapping) and not _are_weights(content):
        key = next((name for name in NESTED if isinstance(content.get(name), Mapping)), None)
        if key is None:
            break
        notes.append(f"weights are those under {key!r}")
        content = content[key]
    if not isinstance(content, Mapping) or not _are_weights(content):
        raise UserError(f"{path} holds no state_dict, neither by itself nor under {', '.join(NESTED)}")
    return dict(content), notes


def _are_weights(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def fitting(read: tuple[Weights, list[str]], network: nn.Module) -> tuple[Weights, list[str]]:
    """The weights without the first part of their names that all have and the network has not, as 'module.'."""
    weights, notes = read
    known = network.state_dict().keys()
    while not known & weights.keys():
        first = {name.partition(".")[0] for name in weights}
        if len(first) != 1 or not all("." in name for name in weights):
            break
        [prefix] = first
        weights = {name.removeprefix(f"{prefix}."): value for name, value in weights.items()}
        notes = [*notes, f"names are read without '{prefix}.'"]
    return weights, notes


def _check_fits(path: Path, weights: Weights, network: nn.Module) -> None:
    known = network.state_dict()
    missing, strange = sorted(known.keys() - weights.keys()), sorted(weights.keys() - known.keys())
    shapes = [n for n in known if n in weights and known[n].shape != weights[n].shape]
    reasons = [f"it lacks {listed(missing, SHOWN)}"] if missing else []
    reasons += [f"it has {listed(strange, SHOWN)} beside"] if strange else []
    reasons += [f"{n} is {tuple(weights[n].shape)}, not {tuple(known[n].shape)}" for n in shapes[:1]]
    if reasons:
        raise UserError(f"{path} is of another network than {type(network).__name__}: {'; '.join(reasons)}")
