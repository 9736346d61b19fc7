"""``measure_model``: the numbers of ``measure`` for every layer, in one pass or two, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ncpipe


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)
    return nn.Sequential(*layers)


def batches(seed: int = 1, count: int = 30) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 3
    return [(images[:20], labels[:20]), (images[20:], labels[20:])]


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    assert one.keys() == other.keys()
    return all(one[name] == pytest.approx(other[name], rel=1e-6, abs=1e-9, nan_ok=True) for name in one)


def test_numbers_are_those_of_measure_and_do_not_depend_on_the_memory() -> None:
    model, data = net(), batches()
    found = ncpipe.measure_model(model, data, per_class=True)
    assert [*found] == ["0", "1", "2", "features"]
    images, labels = (torch.cat(parts) for parts in zip(*data))
    model.eval()
    with torch.no_grad():
        features = model[:4](images)
        convolved = model[0](images)
    last = model[4]
    assert same(found["features"], ncpipe.measure(features, labels, last.weight, last.bias))
    assert same(found["0"], ncpipe.measure(convolved.mean(dim=(2, 3)), labels))
    assert found["features"].per_class["samples"].tolist() == [10, 10, 10]
    for memory in (0, 20_000):  # of none, and of all but 'features'
        streamed = ncpipe.measure_model(model, data[::-1], memory=memory)
        assert all(same(streamed[layer], found[layer]) for layer in found)


def test_means_of_training_decide_for_another_split() -> None:
    model, data, other = net(), batches(), batches(2)
    train = ncpipe.measure_model(model, data)
    test = ncpipe.measure_model(model, other, train_means=train.means)
    images, labels = (torch.cat(parts) for parts in zip(*other))
    model.eval()
    with torch.no_grad():
        features = model[:4](images)
    expected = ncpipe.measure(features, labels, model[4].weight, model[4].bias, train_means=train.means["features"])
    assert same(test["features"], expected)
    assert "cdnv_train_means" in test["0"]
    streamed = ncpipe.measure_model(model, other, train_means=train.means, memory=0)
    assert all(same(streamed[layer], test[layer]) for layer in test)


class Named(nn.Module):
    """Arguments by name and logits by attribute, as in the transformers library."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 3)

    def forward(self, pixels: Tensor) -> Any:
        return type("Output", (), {"logits": self.fc(pixels.flatten(1))})()


def test_batches_may_be_mappings() -> None:
    named = [{"pixels": images, "labels": labels} for images, labels in batches()]
    assert ncpipe.measure_model(Named(), named)["features"]["rank"] == 2


@pytest.mark.parametrize(
    ("loader", "options", "message"),
    [
        ([], {}, "the loader gives no batch"),
        ([batches()[0][0]], {}, r"must give batches \(inputs, labels\), it gives Tensor"),
        ([(batches()[0][0], torch.full((20,), 3))], {}, r"labels must lie in \[0, 3\)"),
        ([(batches()[0][0], torch.eye(20)[:, :3])], {}, r"one per row of features, got \(20, 3\): of one-hot labels"),
        (batches(), {"train_means": {}}, "train_means has no layer '0'"),
        (iter(batches()), {"memory": 0}, "the second pass has seen 0 samples, the first 30"),
        ([(batches()[0][0] * torch.nan, batches()[0][1])], {}, "features of layer '0' has 80 non-finite values"),
    ],
    ids=["empty", "no pairs", "out of range", "one-hot", "means", "used up", "not finite"],
)
def test_mistakes_are_told(loader: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ncpipe.measure_model(net(), loader, **options)
