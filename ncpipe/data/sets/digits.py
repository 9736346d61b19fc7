"""The 1,797 digits of scikit-learn, 8x8 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import DIGIT_NAMES, DataSet, NominalShape, Source, SourceSplit, torch


class Digits(DataSet):
    """A stratified fifth, drawn by scikit-learn with seed 0, is the test split."""

    published = NominalShape((1, 8, 8), 10, 1_437, 360)

    def open(self, spec: DatasetSpec, search_path: Sequence[Path]) -> Source:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        labels = torch.from_numpy(digits.target).long()
        train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
        splits = [SourceSplit.of(images[rows], labels[rows]) for rows in (np.sort(train), np.sort(test))]
        return Source(splits[0], splits[1], DIGIT_NAMES, "scikit-learn load_digits")


DATASET = Digits()
