"""Images in ImageNet's layout, in a folder or a zip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ncpipe.data.imagefolder import ImageFolder
from ncpipe.data.originals import Originals
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import DataSet, NominalShape, Source, SourceSplit, Tensor, kept_classes, torch


class Images(DataSet):
    """The folder or zip that ``path`` names."""

    published, needs, takes = None, ("path", "image_size"), ("stream",)

    def image(self, spec: DatasetSpec, search_path: Sequence[Path]) -> tuple[int, ...]:
        return 3, *_size(spec)

    def open(self, spec: DatasetSpec, search_path: Sequence[Path]) -> Source:
        assert spec.path is not None  # DatasetSpec sees to it
        folder, size = ImageFolder.find(spec.path, search_path), _size(spec)
        if left_out := folder.left_out():
            print(left_out, flush=True)
        train, test = (_split(folder, name, size) for name in ("train", "test"))
        kind = "zip of images" if folder.packed else "folder of images"
        originals = Originals.of_images(folder)
        return Source(train, test, folder.class_names, kind, folder.checksums(), originals, folder.skipped)

    def originals(self, path: str | None, search_path: Sequence[Path]) -> Originals:
        assert path is not None
        return Originals.of_images(ImageFolder.find(path, search_path))

    def size(self, spec: DatasetSpec, search_path: Sequence[Path]) -> NominalShape:
        assert spec.path is not None
        folder = ImageFolder.find(spec.path, search_path)
        classes = kept_classes(spec, len(folder.class_names))
        train, test = (sum(label < classes for _, label in folder.members(name)) for name in ("train", "test"))
        return NominalShape(self.image(spec, search_path), classes, train, test)

    def left_out(self, path: str, search_path: Sequence[Path]) -> str:
        return ImageFolder.find(path, search_path).left_out()


def _size(spec: DatasetSpec) -> tuple[int, int]:
    """Height and width."""
    assert spec.image_size is not None  # DatasetSpec sees to it
    return (spec.image_size, spec.image_size) if isinstance(spec.image_size, int) else spec.image_size


def _split(folder: ImageFolder, name: str, size: tuple[int, int]) -> SourceSplit:
    names, labels = zip(*folder.members(name), strict=True)

    def of(rows: Tensor) -> list[str]:
        return [names[row] for row in rows.tolist()]

    return SourceSplit(
        torch.tensor(labels),
        lambda rows, bits: folder.read(of(rows), size, bits),
        lambda rows: folder.bits(of(rows)),
    )


DATASET = Images()
