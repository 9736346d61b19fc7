"""A network as users write them, for the tests of `model: {name: python}`."""

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
        maps = torch.relu(self.conv2(torch.relu(self.norm(self.conv1(images)))))
        return self.fc(maps.view(*maps.shape[:2], -1).mean(dim=2))


class Failing(OwnNetwork):
    def __init__(self, **arguments: object) -> None:
        raise ValueError("no luck\ntoday")


class Blind(OwnNetwork):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[:, :, :0])


def number(num_classes: int) -> int:
    return num_classes
