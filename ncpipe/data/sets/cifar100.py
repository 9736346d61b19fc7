"""CIFAR-100."""

from ncpipe.data.source import NominalShape
from ncpipe.data.torchvision_set import BY_FLAG, TorchvisionSet

DATASET = TorchvisionSet(
    "cifar100",
    NominalShape((3, 32, 32), 100, 50_000, 10_000),
    "CIFAR100",
    tuple(f"cifar-100-python/{file}" for file in ("train", "test", "meta")),
    BY_FLAG,
)
