"""CIFAR-10."""

from ncpipe.data.source import NominalShape
from ncpipe.data.torchvision_set import BY_FLAG, TorchvisionSet

FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
DATASET = TorchvisionSet(
    "cifar10",
    NominalShape((3, 32, 32), 10, 50_000, 10_000),
    "CIFAR10",
    tuple(f"cifar-10-batches-py/{file}" for file in FILES),
    BY_FLAG,
)
