"""A network as users write them, for the tests of `model: {name: python}`."""

from math import prod

import torch
from torch import Tensor, nn


class OwnNetwork(nn.Module):
    """Two convolutions, one of them normalised, functions between the modules, and a view of the maps."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * width, num_classes)
        self.conv1, self.norm = nn.Conv2d(image_shape[0], width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.conv2(torch.relu_(self.norm(self.conv1(images)))))
        return self.fc(maps.view(*maps.shape[:2], -1).mean(dim=2))


class OwnMlp(nn.Module):
    """The built-in mlp, its weights drawn in the same order."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, depth: int, width: int) -> None:
        super().__init__()
        inputs = prod(image_shape)
        for number in range(1, depth + 1):
            linear = nn.Linear(inputs, width, bias=False)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            layers = linear, nn.BatchNorm1d(width), nn.ReLU()
            self.add_module(f"layer{number}", nn.Sequential(*[nn.Flatten()] * (number == 1), *layers))
            inputs = width
        self.depth, self.fc = depth, nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        for number in range(1, self.depth + 1):
            images = self.get_submodule(f"layer{number}")(images)
        return self.fc(images)


class Rows(nn.Module):
    """The rows of an image as tokens."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.embed, self.fc = nn.Linear(image_shape[2], 6), nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.embed(images[:, 0]).amax(dim=1))


class Itemised(OwnNetwork):
    """What ``vmap`` cannot do; and a parameter without a part in the output."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * float(images.sum().item() > -1e9))


class Failing(OwnNetwork):
    def __init__(self, **arguments: object) -> None:
        raise ValueError("no luck\ntoday")


class Leaving(OwnNetwork):
    def __init__(self, **arguments: object) -> None:
        raise SystemExit


class LeavingLater(OwnNetwork):
    def forward(self, images: Tensor) -> Tensor:
        raise SystemExit("enough")


def parallel(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return nn.DataParallel(OwnNetwork(image_shape, num_classes))


class Blind(OwnNetwork):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, :, :0])


class Softmax(OwnNetwork):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(dim=1)


class NoBias(OwnNetwork):
    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.fc = nn.Linear(32, num_classes, bias=False)


def number(num_classes: int) -> int:
    return num_classes
