"""Settings of a data set."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated

from pydantic import Field, model_validator

from ncpipe.data.registry import DATASETS
from ncpipe.settings.base import Count, PathText, Seed, Settings
from ncpipe.settings.registry import NameIn


class DatasetSpec(Settings):
    """A data set and the balanced subset, pairing or corruption of it that networks are trained on."""

    name: Annotated[str, NameIn(DATASETS)]
    path: PathText | None = Field(None, description="imagefolder: a folder or zip holding {train,test}/<class>/*.")
    image_size: Count | None = Field(
        None, description="imagefolder: images are cropped to the central square and resized to this side (pixels)."
    )
    stream: bool = Field(
        False, description="imagefolder: read images from disk while training, for sets larger than memory."
    )
    samples_per_class: Count | None = Field(None, description="Balanced training subset; null keeps all.")
    test_samples_per_class: Count | None = Field(None, description="Balanced test subset; null keeps all.")
    classes: Annotated[int, Field(ge=2)] | None = Field(None, description="Keep the first so many classes.")
    pairs: Count | None = Field(
        None,
        description="Several labels: training images of each pair of classes, which stand in opposite corners of a"
        " canvas of twice the side; images of one class stand in a corner.",
    )
    test_pairs: Count | None = Field(None, description="Several labels: test images of each pair of classes.")
    label_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Fraction of training labels replaced by a different class, chosen uniformly."
    )
    random_labels: bool = Field(False, description="Permute all training labels (a control).")
    seed: Seed = Field(0, description="Draws the subset, the pairs and the corrupted labels.")

    @model_validator(mode="after")
    def _folder_has_a_path(self) -> DatasetSpec:
        from_path = DATASETS[self.name].from_path
        if from_path != (self.path is not None):
            raise ValueError("'path' goes with name 'imagefolder', and 'imagefolder' needs a 'path'")
        if from_path != (self.image_size is not None):
            raise ValueError("'image_size' goes with name 'imagefolder', and 'imagefolder' needs it")
        if self.stream and not from_path:
            raise ValueError("'stream' goes with name 'imagefolder'; the other sets fit in memory")
        return self

    @model_validator(mode="after")
    def _pairs_stand_alone(self) -> DatasetSpec:
        if (self.pairs is None) != (self.test_pairs is None):
            raise ValueError("'pairs' and 'test_pairs' go together")
        if self.pairs is not None and (self.stream or self.label_noise or self.random_labels):
            raise ValueError("'pairs' goes without 'stream', 'label_noise' and 'random_labels'")
        return self

    @property
    def slug(self) -> str:
        if self.path is None:
            return self.name
        return re.sub(r"[^a-z0-9]+", "-", PurePath(self.path).stem.lower()).strip("-") or "imagefolder"
