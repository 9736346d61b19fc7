"""Networks: their layers, shapes, widths and initial weights."""

import pytest
import torch
from torch import nn

from ncpipe.errors import UserError
from ncpipe.networks import Network, as_vectors, build_network
from ncpipe.networks.head import simplex_etf
from ncpipe.study.spec import Convnet, DenseNet, HeadSpec, Mlp, ModelSpec, ResNet, Vgg

MODELS: list[ModelSpec] = [
    Mlp(name="mlp", depth=3, width=16),
    Mlp(name="mlp", depth=1, width=16, batch_norm=False),
    Convnet(name="convnet", depth=3, width=4),
    Convnet(name="convnet", depth=5, width=2, batch_norm=False),
    ResNet(name="resnet18", width=4),
    ResNet(name="resnet34", width=2),
    ResNet(name="resnet50", width=2),
    Vgg(name="vgg11_bn", width=4),
    Vgg(name="vgg16_bn", width=2),
    DenseNet(name="densenet40", width=4),
    DenseNet(name="densenet121", width=4),
]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]


def images_of(shape: tuple[int, int, int], count: int = 2) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def build(model: ModelSpec, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 5, **head: object) -> Network:
    return build_network(model, HeadSpec.model_validate(head), shape, classes, seed=0)


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.slug)
def test_features_are_those_the_head_reads(model: ModelSpec, shape: tuple[int, int, int]) -> None:
    network = build(model, shape).eval()
    images = images_of(shape)
    with torch.no_grad():
        features, logits = network.features(images)
        assert network.layer_names == tuple(features) == tuple(model.layers())
        assert features["features"].shape == (2, network.head.in_features)
        assert features["features"].min() >= 0
        torch.testing.assert_close(network.head(features["features"]), logits, rtol=0, atol=0)
        torch.testing.assert_close(network(images), logits, rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.slug)
def test_no_stage_changes_the_features_before_it(model: ModelSpec) -> None:
    network = build(model).eval()
    output = images_of((3, 32, 32))
    with torch.no_grad():
        features, _ = network.features(output)
        for stage, feature in zip(network.stages.values(), features.values(), strict=True):
            output = stage(output).clone()
            torch.testing.assert_close(feature, output, rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.slug)
def test_every_weight_gets_a_gradient(model: ModelSpec) -> None:
    network = build(model, (1, 8, 8), feature_dim=4)
    network(images_of((1, 8, 8), count=4)).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_maps_are_unpooled() -> None:
    def shapes(model: ModelSpec) -> dict[str, tuple[int, ...]]:
        features, _ = build(model).features(images_of((3, 32, 32)))
        return {name: tuple(feature.shape[1:]) for name, feature in features.items()}

    residual = shapes(ResNet(name="resnet18", width=4))
    assert residual["stem"] == residual["layer1.1"] == (4, 32, 32)
    assert residual["layer2.1"] == (8, 16, 16)
    assert residual["layer4.0"] == (32, 4, 4)
    plain = shapes(Vgg(name="vgg13_bn", width=4))
    assert list(plain.values()) == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4), (32,)]
    dense = shapes(DenseNet(name="densenet40", width=4))
    assert list(dense.values()) == [(4, 32, 32), (16, 32, 32), (20, 16, 16), (22,)]


def test_published_parameter_counts() -> None:
    counts = {
        ResNet(name="resnet18"): 11_173_962,  # the usual CIFAR-10 ResNet-18
        ResNet(name="resnet50"): 23_520_842,  # the usual CIFAR-10 ResNet-50
        Vgg(name="vgg16_bn"): 14_728_266,  # the usual CIFAR-10 VGG-16 with BatchNorm and one linear layer
        # torchvision's 7,978,856 with a 3x3 instead of a 7x7 stem and 10 instead of 1,000 classes
        DenseNet(name="densenet121"): 7_978_856 - 64 * 3 * (49 - 9) - 1025 * 990,
        Mlp(name="mlp", depth=2, width=8): 3072 * 8 + 16 + 8 * 8 + 16 + 8 * 10 + 10,
        Convnet(name="convnet", depth=2, width=8, batch_norm=False): 27 * 8 + 8 + 72 * 16 + 16 + 16 * 10 + 10,
    }
    for model, count in counts.items():
        assert parameter_count(build(model, classes=10)) == count, model.slug


def test_the_seed_alone_decides_the_weights() -> None:
    model = ResNet(name="resnet18", width=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_network(model, HeadSpec(), (3, 32, 32), 10, seed=7).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = build_network(model, HeadSpec(), (3, 32, 32), 10, seed=7).state_dict()
    other = build_network(model, HeadSpec(), (3, 32, 32), 10, seed=8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert not torch.equal(first["stages.stem.0.weight"], other["stages.stem.0.weight"])


def test_he_initialisation() -> None:
    network = build(ResNet(name="resnet18", width=32))
    weight = network.get_submodule("stages.layer3_1.conv1").weight
    assert weight.std().item() == pytest.approx((2 / (9 * weight.shape[0])) ** 0.5, rel=0.02)


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (4, 3), (4, 4), (10, 64), (100, 128)])
def test_simplex_etf(classes: int, dim: int) -> None:
    etf = simplex_etf(classes, dim)
    gram = (classes * torch.eye(classes) - 1).double() / (classes - 1)
    torch.testing.assert_close(etf @ etf.T, gram, rtol=0, atol=1e-13)


@pytest.mark.parametrize("bias", [True, False])
def test_fixed_etf_head_is_frozen(bias: bool) -> None:
    network = build(MODELS[0], classes=10, fixed_etf=True, bias=bias)
    weight = network.head.weight
    assert not weight.requires_grad
    assert (network.head.bias is not None) == bias
    torch.testing.assert_close(weight @ weight.T, (10 * torch.eye(10) - 1) / 9, rtol=0, atol=1e-6)


def test_an_etf_needs_room() -> None:
    model = Mlp(name="mlp", depth=1, width=3)
    build(model, classes=4, fixed_etf=True)
    with pytest.raises(UserError, match=r"4 features or more, got 3 features: widen the model"):
        build(model, classes=5, fixed_etf=True)
    build(model, classes=5, fixed_etf=True, feature_dim="classes")


@pytest.mark.parametrize(("feature_dim", "width"), [(7, 7), ("classes", 5)])
def test_projection_ends_the_last_stage(feature_dim: int | str, width: int) -> None:
    model = ResNet(name="resnet18", width=2)
    network = build(model, feature_dim=feature_dim)
    features, logits = network.features(images_of((3, 32, 32)))
    assert tuple(features) == tuple(model.layers())
    assert features["features"].shape == (2, width)
    assert features["features"].min() >= 0
    assert torch.equal(network.head(features["features"]), logits)
    assert parameter_count(network) == parameter_count(build(model)) + (16 + 2 + 5) * width - 16 * 5


def test_as_vectors() -> None:
    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(as_vectors(maps, "average"), torch.tensor([[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]))
    assert as_vectors(maps, "flatten").shape == (2, 12)
    vectors = torch.ones(2, 3)
    assert as_vectors(vectors, "average") is vectors
    with pytest.raises(ValueError, match="'average' or 'flatten', got 'max'"):
        as_vectors(maps, "max")  # type: ignore[arg-type]


def test_images_too_small_are_named() -> None:
    with pytest.raises(UserError, match="densenet121 needs images of at least 8x8"):
        build(DenseNet(name="densenet121", width=4), (1, 4, 4))
