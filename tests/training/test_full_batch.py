"""The objective over all images: against autograd of the whole batch, streamed against whole, its minimum."""

import pytest
import torch
from networks_in_training import CPU, planned
from torch import Tensor

from ncpipe.training.full_batch import FullBatch
from ncpipe.training.losses import feature_penalty
from ncpipe.training.optimization import before_normalisation, parameter_decays
from ncpipe.training.streams import open_batches
from ncpipe.training.trainer import new_network

NETS = {
    "mlp": {"model": {"name": "mlp", "depth": 2, "width": 12}},
    "mlp without BatchNorm": {"model": {"name": "mlp", "depth": 2, "width": 12, "batch_norm": False}},
    "convnet": {"model": {"name": "convnet", "depth": 2, "width": 4}},
    "resnet18": {"model": {"name": "resnet18", "width": 2, "depth_factor": 0.5}},
    "deep head": {"head": {"hidden": 1, "bias": False, "feature_decay": 0.3}},
}


def objective(name: str, digits, chunk: int | None = None, **changes) -> FullBatch:
    spec = planned(**NETS[name] | changes).spec
    data = open_batches(digits, "train", CPU.device)
    return FullBatch(new_network(spec, digits), spec, data, CPU.device, chunk)


def by_autograd(full: FullBatch, mode: str) -> tuple[Tensor, Tensor]:
    """Loss of one batch of all images in training (evaluation) mode, and penalties, as they are written."""
    network = full.network.train(mode == "full_batch")
    images, labels = next(full.data.in_order(len(full.data)))
    logits, head_input = network(images.double())
    value = full.spec.loss.sample_loss.sample_losses(logits, labels).mean() + feature_penalty(
        full.spec.head, head_input
    )
    decays = parameter_decays(full.spec.optimizer, network, effective=True)
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    value = value + sum(decays[name] / 2 * p.square().sum() for name, p in named)
    gradient = torch.autograd.grad(value, [p for _, p in named])
    network.eval()
    return value.detach(), torch.cat([part.flatten() for part in gradient])


@pytest.mark.parametrize("mode", ["full_batch", "evaluation"])
@pytest.mark.parametrize("chunk", [None, 64])
@pytest.mark.parametrize("name", NETS)
def test_value_and_gradient_are_those_of_one_batch_of_all_images(name, chunk, mode, digits) -> None:
    full = objective(name, digits, chunk)
    assert (not full._held) == (chunk is not None)
    found = full.evaluate(mode)
    value, gradient = by_autograd(full, mode)
    assert found.value == pytest.approx(float(value), rel=1e-12)
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-9, atol=1e-12)
    assert 0 <= found.accuracy <= 1
    assert found.loss < found.value


@pytest.mark.parametrize("chunk", [None, 64])
@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet18"])
def test_its_statistics_make_evaluation_mode_the_objective(name, chunk, digits) -> None:
    full = objective(name, digits, chunk)
    before, whole = full.evaluate("evaluation").value, full.evaluate()
    assert abs(before / whole.value - 1) > 1e-3
    full.set_statistics(whole.statistics)
    assert full.evaluate("evaluation").value == pytest.approx(whole.value, rel=1e-12)


def test_what_a_batch_norm_follows_has_no_decay(digits) -> None:
    full = objective("mlp", digits, optimizer__decay="all")
    free = before_normalisation(full.network)
    assert {name for name in free if "weight" in name} == {"stages.layer1.1.0.weight", "stages.features.0.weight"}
    decays = parameter_decays(full.spec.optimizer, full.network, effective=True)
    assert {name for name, decay in decays.items() if decay == 0} == free
    scaled = full.evaluate().value
    with torch.no_grad():
        full.network.stages["features"][0].weight.mul_(3)
    assert full.evaluate().value == pytest.approx(scaled, rel=1e-4)  # BatchNorm's eps
