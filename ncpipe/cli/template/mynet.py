"""My network: an ordinary module that returns logits."""

from torch import nn


class MyNet(nn.Module):
    def __init__(self, num_classes, width=64):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.fc(self.second(self.first(images)))
