"""Settings of a data set."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ncpipe.data.registry import DATASETS
from ncpipe.settings.base import Count, NonNegative, PathText, Seed, Settings
from ncpipe.settings.registry import NameIn

OWN_SETTINGS = ("path", "image_size", "stream", "label", "test_fraction", "several_labels", "mixture")
"""Settings of some data sets only."""


class MixtureSpec(Settings):
    """A mixture of Gaussians, one a class, of one covariance of mean eigenvalue 1."""

    classes: Annotated[int, Field(ge=2, le=10**6)]
    dimension: Count
    separation: NonNegative = Field(description="Distance of two means; for random ones its root mean square.")
    means: Literal["simplex", "random"] = Field(
        "simplex", description="simplex: all at one distance; random: in independent uniform directions."
    )
    condition: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        1.0, description="Largest eigenvalue of the covariance over the smallest; log-spaced between, axes random."
    )

    @model_validator(mode="after")
    def _simplex_has_room(self) -> MixtureSpec:
        if self.means == "simplex" and self.dimension < self.classes - 1:
            raise ValueError(
                "a simplex of K means needs a dimension of K - 1 at least: raise it, or set means: random"
            )
        return self


class DatasetSpec(Settings):
    """A data set and the balanced subset, pairing or corruption of it that networks are trained on."""

    name: Annotated[str, NameIn(DATASETS)]
    path: PathText | None = Field(
        None, description="imagefolder: a folder or zip holding {train,test}/<class>/*; arrays: a file of arrays."
    )
    image_size: Count | tuple[Count, Count] | None = Field(
        None,
        description="imagefolder: images are cropped to the centre and resized to this side, or height and width"
        " (pixels).",
    )
    stream: bool = Field(
        False, description="imagefolder: read images from disk while training, for sets larger than memory."
    )
    label: str | None = Field(None, description="arrays: column of a table that holds the labels.")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="arrays: share of every class that is the test split, where the file has none."
    )
    several_labels: bool = Field(False, description="arrays: labels are a 0/1 matrix, several classes a sample.")
    mixture: MixtureSpec | None = Field(None, description="gaussians: the mixture to draw from.")
    normalize: bool | None = Field(
        None,
        description="Subtract the training mean and divide by the deviation of every channel, of vectors of every"
        " feature; null: all sets but gaussians.",
    )
    samples_per_class: Count | None = Field(None, description="Balanced training subset; null keeps all.")
    test_samples_per_class: Count | None = Field(None, description="Balanced test subset; null keeps all.")
    classes: Annotated[int, Field(ge=2)] | None = Field(None, description="Keep the first so many classes.")
    pairs: Count | None = Field(
        None,
        description="Several labels: training images of each pair of classes, above left and below right on a canvas"
        " of twice the side; images of one class stand below right.",
    )
    test_pairs: Count | None = Field(None, description="Several labels: test images of each pair of classes.")
    label_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Fraction of training labels replaced by a different class, chosen uniformly."
    )
    random_labels: bool = Field(False, description="Permute all training labels (a control).")
    seed: Seed = Field(
        0, description="Draws the subset, the test fraction, the pairs, the corrupted labels and the mixture."
    )

    @model_validator(mode="after")
    def _settings_are_of_the_set(self) -> DatasetSpec:
        wanted = DATASETS[self.name]
        for key in OWN_SETTINGS:
            given = getattr(self, key) != type(self).model_fields[key].default
            if given and key not in (*wanted.needs, *wanted.takes):
                owners = [name for name, kind in DATASETS.items() if key in (*kind.needs, *kind.takes)]
                raise ValueError(f"{key!r} goes with name {' or '.join(map(repr, owners))}")
        for key in wanted.needs:
            if getattr(self, key) is None:
                raise ValueError(f"{self.name!r} needs {key!r}")
        return self

    @model_validator(mode="after")
    def _pairs_stand_alone(self) -> DatasetSpec:
        if (self.pairs is None) != (self.test_pairs is None):
            raise ValueError("'pairs' and 'test_pairs' go together")
        if self.pairs is not None and (self.stream or self.label_noise or self.random_labels):
            raise ValueError("'pairs' goes without 'stream', 'label_noise' and 'random_labels'")
        return self

    @model_validator(mode="after")
    def _several_labels_are_as_they_are(self) -> DatasetSpec:
        for key in ("samples_per_class", "test_samples_per_class", "classes", "pairs") if self.several_labels else ():
            if getattr(self, key) is not None:
                raise ValueError(f"'several_labels' goes without {key!r}: samples are of no single class")
        if self.several_labels and (self.label_noise or self.random_labels):
            raise ValueError("'several_labels' goes without 'label_noise' and 'random_labels'")
        return self

    @property
    def multi_label(self) -> bool:
        """Whether samples have several labels."""
        return self.pairs is not None or self.several_labels

    @property
    def is_normalized(self) -> bool:
        """Whether the mean is subtracted and the deviation divided by."""
        return bool(DATASETS[self.name].normalized) if self.normalize is None else self.normalize

    @property
    def slug(self) -> str:
        if self.path is None:
            return self.name
        return re.sub(r"[^a-z0-9]+", "-", PurePath(self.path).stem.lower()).strip("-") or "imagefolder"
