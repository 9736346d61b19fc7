"""Fashion-MNIST."""

from ncpipe.data.idx import IdxSet
from ncpipe.data.source import NominalShape

CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip
DATASET = IdxSet(
    "fashion_mnist",
    NominalShape((1, 28, 28), 10, 60_000, 10_000),
    CLOTHES,
    "FashionMNIST",
    ("fashion_mnist", "fashion-mnist", "FashionMNIST", "FashionMNIST/raw"),
)
