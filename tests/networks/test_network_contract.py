"""What every architecture promises: a new one is tested by being there."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_in import NAME, stand_in
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from ncpipe.networks import Network, build_network
from ncpipe.networks.architecture import Architecture, Shape
from ncpipe.networks.architectures import ARCHITECTURES
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.settings.registry import names_in_settings
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision

OWN = {"path": str(Path(__file__).with_name("own_network.py")), "class": "OwnNetwork", "layers": ()}
SMALL: dict[str, Any] = {"width": 4, "depth": 3, "depth_factor": 0.34, "architecture": "test_resnet", **OWN}
FULL_HEAD = {"bias": False, "feature_dim": 6, "hidden": 2, "hidden_width": 7, "temperature": 3.0}
RGB, GREY = (3, 32, 32), (1, 8, 8)


def small(name: str, **settings: Any) -> Architecture:
    """A small network of this name: ``SMALL`` as far as it has such settings and allows the values."""
    chosen = {key: max(SMALL[key], field.get("minimum", SMALL[key])) for key, field in keys(name) if key in SMALL}
    return ARCHITECTURES[name].model_validate({"name": name, **chosen, **settings})


def keys(name: str) -> list[tuple[str, dict[str, Any]]]:
    return [*ARCHITECTURES[name].model_json_schema()["properties"].items()]


def choices(field: dict[str, Any]) -> list[Any]:
    """The values of a setting that has few."""
    if "anyOf" in field:
        return [choice for part in field["anyOf"] for choice in choices(part)]
    one = [field["const"]] if "const" in field else [True, False] if field.get("type") == "boolean" else []
    return field.get("enum", one)


def variants() -> list[Architecture]:
    """Every name, and of every family also each choice of a setting that has some."""
    found = [small(name) for name in ARCHITECTURES]
    for kind in dict.fromkeys(ARCHITECTURES.values()):
        name = names_in_settings(kind)[0]
        others = [(key, value) for key, field in keys(name) if key != "name" for value in choices(field)]
        found += [small(name, **{key: value}) for key, value in others if value != kind.model_fields[key].default]
    return found


VARIANTS = variants()
FAMILIES = [small(names_in_settings(kind)[0]) for kind in dict.fromkeys(ARCHITECTURES.values())]
each_variant = pytest.mark.parametrize("model", VARIANTS, ids=repr)
each_family = pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model.name)


def images_of(shape: Shape, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def build(model: Architecture, shape: Shape = RGB, seed: int = 0, **head: object) -> Network:
    if model.name == "timm":
        import_torchvision()  # which timm imports, in vain where its operators do not load
        pytest.importorskip("timm")
    return build_network(model, HeadSpec.model_validate(head), shape, 5, seed)


def test_settings_need_no_torch() -> None:
    code = (
        "import sys; from ncpipe.networks.architectures import ARCHITECTURES as all;"
        " [kind.model_json_schema() for kind in all.values()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@each_variant
def test_names(model: Architecture) -> None:
    layers = model.layers()
    assert layers[-1] == "features"
    assert len({*layers}) == len(layers)
    assert all(re.fullmatch(r"[A-Za-z0-9_.]+", name) for name in layers)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", model.slug)
    assert type(model).__doc__


@each_variant
def test_layers_are_those_that_are_named_and_the_head_reads_the_last(model: Architecture) -> None:
    network = build(model).eval()
    images = output = images_of(RGB)
    with torch.no_grad():
        features, logits = network.features(images)
        assert tuple(features) == network.layer_names == tuple(model.layers())
        for stage, feature in zip(network.stages.values(), features.values(), strict=True):
            output = stage(output).clone()
            torch.testing.assert_close(feature, output, rtol=0, atol=0)  # no stage has changed its input since
        last = features["features"]
        assert last.shape == (2, network.head.in_features)
        assert last.isfinite().all()
        if model.last_norm in ("units", "positions"):
            assert last.min() >= 0
        torch.testing.assert_close(network.head(last), logits, rtol=0, atol=0)
        for expected, value in zip((logits, last), network(images), strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=0)


@each_variant
@pytest.mark.parametrize("head", [{"feature_dim": 4}, FULL_HEAD], ids=["projection", "all"])
def test_a_step_changes_every_weight_and_stays_finite(model: Architecture, head: dict[str, object]) -> None:
    network = build(model, (1, 32, 32), **head)
    before = copy.deepcopy(network.state_dict())
    F.cross_entropy(network(images_of((1, 32, 32), 4)).logits, torch.arange(4)).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
    torch.optim.SGD(network.parameters(), 0.1).step()
    after = network.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *((model.name, {}) for model in FAMILIES),
        ("mlp", {"hidden": 1}),
        ("mlp", {"temperature": 10.0, "bias": False}),
    ],
    ids=str,
)
def test_a_few_random_images_are_learnt(name: str, head: dict[str, object]) -> None:
    width = {key: max(16, field["minimum"]) for key, field in keys(name) if key == "width"}
    network = build(small(name, **width), (1, 16, 16), **head)
    images, labels = images_of((1, 16, 16), 12), torch.arange(12) % 4
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(200):
        logits = network(images).logits
        if torch.equal(logits.argmax(dim=1), labels):
            return
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    pytest.fail("not learnt in 200 steps")


@each_variant
def test_images_that_are_too_small_are_named(model: Architecture) -> None:
    with suppress(UserError):
        assert build(model, GREY)(images_of(GREY)).logits.shape == (2, 5)
        return
    with pytest.raises(UserError, match=r"^[^\n]*(needs .*images of at least .*, got 8x8|does not read)[^\n]*$"):
        build(model, GREY)


@each_family
def test_the_seed_alone_decides_the_weights(model: Architecture) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(model, seed=7).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second, other = build(model, seed=7).state_dict(), build(model, seed=8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    weights = [name for name in first if name.startswith("stages") and not torch.equal(first[name], other[name])]
    assert weights


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@each_family
def test_a_stack_of_networks_computes_what_each_computes(model: Architecture, train: bool) -> None:
    shape = (1, 32, 32)
    networks = [build(model, shape, seed, **FULL_HEAD).train(train) for seed in (0, 1)]
    parameters, buffers = stack_module_state(networks)  # type: ignore[arg-type]
    skeleton = copy.deepcopy(networks[0]).to("meta")

    def outputs(parameters: object, buffers: object, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(functional_call(skeleton, (parameters, buffers), (images,)))  # type: ignore[arg-type]

    images = torch.stack([images_of(shape, 6), -images_of(shape, 6)])
    with warnings.catch_warnings():
        if model.vmap:
            warnings.filterwarnings("ignore", message="There is a performance drop")
        else:
            warnings.filterwarnings("error", message="There is a performance drop")
        stacked = torch.vmap(outputs)(parameters, buffers, images)
    for member, network in enumerate(networks):
        for value, expected in zip(stacked, network(images[member]), strict=True):
            torch.testing.assert_close(value[member], expected, rtol=1e-3, atol=1e-4)
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(buffers[name][member], buffer, rtol=1e-3, atol=1e-5)


@each_family
def test_a_step_on_a_device_is_that_of_the_cpu_and_never_waits(model: Architecture) -> None:
    with stand_in() as waits:
        losses = []
        for device in (torch.device("cpu"), torch.device(NAME, 0)):
            network = build(model).to(device)
            images, labels = images_of(RGB, 4).to(device), torch.arange(4).to(device)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
            waits.count = 0
            for _ in range(2):
                loss = F.cross_entropy(network(images).logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            assert waits.count == 0
            losses.append(float(loss))
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
