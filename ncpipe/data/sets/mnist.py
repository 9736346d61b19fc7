"""MNIST."""

from ncpipe.data.idx import IdxSet
from ncpipe.data.source import DIGIT_NAMES, NominalShape

DATASET = IdxSet(
    "mnist", NominalShape((1, 28, 28), 10, 60_000, 10_000), DIGIT_NAMES, "MNIST", ("mnist", "MNIST", "MNIST/raw")
)
