"""Ordinary modules read by hooks: which layers are found, how they become vectors, and what is refused."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncpipe.networks.hooked import ReadNetwork, pooled

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Maps, a ReLU in place and used twice, a tuple, and functions between the last child and the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)  # the order of definition is not that of execution
        self.conv1, self.norm = nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7)
        self.relu = nn.ReLU(inplace=True)
        self.split = Split()
        self.conv2 = nn.Conv2d(7, 5, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps, _ = self.split(self.relu(self.norm(self.conv1(images))))
        return self.fc(self.relu(self.conv2(maps)).mean(dim=(2, 3)))


class Split(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return maps, maps


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Linear(8, 5), nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.embed(images[:, 0]).amax(dim=1))


def read(model: nn.Module, *options: Any, images: Tensor = IMAGES, **more: Any) -> tuple[ReadNetwork, Any]:
    network = ReadNetwork(model, *options, **more)
    with network.evaluation():
        return network, network(images)


def test_children_are_read_in_the_order_of_execution_and_as_they_left_their_layer() -> None:
    net = Net()
    network, reading = read(net)
    assert network.classifier == "fc"
    assert [*reading.layers] == [*network.layer_names] == ["conv1", "norm", "conv2", "features"]
    net.eval()
    normed = net.norm(net.conv1(IMAGES))
    torch.testing.assert_close(reading.layers["norm"], normed.mean(dim=(2, 3)))  # not what ReLU made of it in place
    maps = net.conv2(normed.relu())
    torch.testing.assert_close(reading.layers["features"], maps.relu().mean(dim=(2, 3)))
    torch.testing.assert_close(reading.logits, net(IMAGES))
    assert torch.equal(network.weight, net.fc.weight)
    with network.evaluation():
        again = network(IMAGES)
    assert all(torch.equal(again.layers[layer], reading.layers[layer]) for layer in reading.layers)


def test_a_layer_that_the_classifier_reads_is_features_and_its_siblings_are_read_too() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    net = nn.ModuleDict({"features": backbone, "classifier": nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 4))})
    model = nn.Sequential(net["features"], net["classifier"])
    assert [*read(model)[1].layers] == ["0", "features"]
    model = nn.Sequential()
    model.features, model.classifier = backbone, net["classifier"]
    network, reading = read(model)
    assert (network.classifier, [*reading.layers]) == ("classifier.1", ["features.output", "features"])
    assert torch.equal(reading.layers["features"], reading.layers["features.output"].relu())
    assert [*read(model, ["features.0", "features.1"])[1].layers] == ["features.0", "features.1", "features"]


def test_the_model_is_left_as_it_was() -> None:
    net = Net().train()
    net.norm.eval()
    before = copy.deepcopy(net.state_dict())
    network = ReadNetwork(net)
    with suppress(ZeroDivisionError), network.evaluation():
        network(IMAGES)
        assert not net.training
        assert not network(IMAGES).logits.requires_grad
        raise ZeroDivisionError
    assert (net.training, net.norm.training, net.conv1.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_wrappers_of_torch_are_looked_through() -> None:
    assert [*read(torch.compile(nn.Sequential(nn.Flatten(), nn.Linear(192, 4))))[1].layers] == ["features"]


def test_pooling_is_said_and_never_guessed() -> None:
    tokens = torch.randn(2, 3, 4)
    for pooling, expected in [
        ("class_token", tokens[:, 0]),
        ("token_mean", tokens.mean(dim=1)),
        ("position_mean", tokens.mean(dim=2)),
        ("flatten", tokens.reshape(2, 12)),
    ]:
        assert torch.equal(pooled(tokens, pooling), expected)
    maps = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(pooled(maps), maps.mean(dim=(2, 3)))
    assert pooled(maps, "flatten").shape == (2, 60)
    network, reading = read(Tokens(), pooling="token_mean")
    torch.testing.assert_close(reading.layers["embed"], network.model.embed(IMAGES[:, 0]).mean(dim=1))


class Temperature(Net):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 192)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.fc(images.flatten(1)))


class Unused(Net):
    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(images.flatten(1))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Net(), {"layers": ["conv3"]}, r"the model has no layer 'conv3'; did you mean 'conv2'\?"),
        (Net(), {"classifier": "fcc"}, r"the model has no classifier 'fcc'; did you mean 'fc'\?"),
        (Net(), {"pooling": "first"}, "pooling must be one of class_token, token_mean, position_mean, flatten, got"),
        (Net(), {"layers": ["split"]}, "layer 'split' gives no tensor"),
        (Net(), {"layers": ["relu"]}, "layer 'relu' runs 2 times in a forward pass, it must run once"),
        (Net(), {"layers": ["fc"]}, "layer 'fc' ends with or after the classifier 'fc': omit it"),
        (Net(), {"classifier": "conv2"}, r"the classifier 'conv2' is a Conv2d, it must be linear \(nn.Linear\)"),
        (Tokens(), {}, r"layer 'embed' gives the shape \(6, 8, 5\), tokens or positions: say by 'pooling'"),
        (Tokens(), {"classifier": "embed"}, r"'embed' reads the shape \(6, 8, 8\), no vector a sample"),
        (Temperature(), {}, r"the model's output \(6, 4\) is not that of its classifier 'fc', W h \+ b"),
        (Twice(), {}, "the classifier 'fc' runs 2 times"),
        (Unused(), {}, "no nn.Linear runs in the model's forward pass"),
        (Unused(), {"classifier": "fc"}, "the classifier 'fc' never runs in the model's forward pass"),
        (nn.Conv2d(3, 4, 3), {}, r"the model must return logits \(N, K\), it returns \(6, 4, 6, 6\)"),
        (Split(), {}, r"the model must return logits \(N, K\), it returns tuple"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(model: nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read(model, **options)
    assert "\n" not in str(raised.value)
