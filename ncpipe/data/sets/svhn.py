"""Street View House Numbers, cropped."""

from ncpipe.data.source import NominalShape
from ncpipe.data.torchvision_set import BY_NAME, TorchvisionSet

DATASET = TorchvisionSet(
    "svhn", NominalShape((3, 32, 32), 10, 73_257, 26_032), "SVHN", ("train_32x32.mat", "test_32x32.mat"), BY_NAME
)
