"""STL-10, its labelled images."""

from ncpipe.data.source import NominalShape
from ncpipe.data.torchvision_set import BY_NAME, TorchvisionSet

DATASET = TorchvisionSet(
    "stl10",
    NominalShape((3, 96, 96), 10, 5_000, 8_000),
    "STL10",
    tuple(f"stl10_binary/{split}_{part}.bin" for split in ("train", "test") for part in "Xy"),
    BY_NAME,
)
