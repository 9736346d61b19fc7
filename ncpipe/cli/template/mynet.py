"""My network: an ordinary module that returns logits. Its last linear layer reads the features that are measured."""

from math import prod

from torch import nn


class MyNet(nn.Module):
    def __init__(self, num_classes, image_shape, width=64):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(prod(image_shape), width), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.fc(self.second(self.first(images)))
