"""Networks: their layers, shapes, widths, heads and initial weights."""

import sys
from collections.abc import Callable

import pytest
import torch
from test_network_contract import FULL_HEAD, images_of
from torch import nn
from torch.nn import functional as F

from ncpipe.networks import Network, as_vectors, build_network
from ncpipe.networks.architecture import Architecture
from ncpipe.networks.architectures import ARCHITECTURES
from ncpipe.networks.architectures.conv_stack import ConvStack
from ncpipe.networks.architectures.convnet import Convnet
from ncpipe.networks.architectures.convnext import ConvNeXt
from ncpipe.networks.architectures.densenet import DenseNet
from ncpipe.networks.architectures.mlp import Mlp
from ncpipe.networks.architectures.residual_mlp import ResidualMlp
from ncpipe.networks.architectures.resnet import ResNet
from ncpipe.networks.architectures.timm import Timm
from ncpipe.networks.architectures.vgg import Vgg
from ncpipe.networks.architectures.vit import Vit
from ncpipe.networks.head import simplex_etf
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision
from ncpipe.training.settings import NetworkSpec

MLP = Mlp(name="mlp", depth=3, width=16)


def build(
    model: Architecture, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 5, **head: object
) -> Network:
    return build_network(model, HeadSpec.model_validate(head), shape, classes, seed=0)


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_maps_are_unpooled() -> None:
    def shapes(model: Architecture) -> dict[str, tuple[int, ...]]:
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
    plain = shapes(ConvStack(name="conv_stack", depth=3, width=4))
    assert list(plain.values()) == [(4, 8, 8), (4, 8, 8), (4,)]
    modern = shapes(ConvNeXt(name="convnext_tiny", width=4, depth_factor=0.1))
    assert list(modern.values()) == [(4, 16, 16), (4, 16, 16), (8, 8, 8), (16, 4, 4), (32,)]
    tokens = shapes(Vit(name="vit_b", width=64, depth_factor=0.2, patch=8))
    assert list(tokens.values()) == [(17, 64), (17, 64), (64,)]


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (ResNet(name="resnet18", width=4, stem="published"), [(4, 8, 8)] * 3 + [(8, 4, 4)] * 2),
        (DenseNet(name="densenet40", width=4, stem="published"), [(4, 8, 8), (16, 8, 8), (20, 4, 4)]),
        (ConvNeXt(name="convnext_tiny", width=4, stem="published"), [(4, 8, 8), (4, 8, 8), (8, 4, 4)]),
    ],
    ids=lambda value: getattr(value, "slug", ""),
)
def test_the_published_stem_quarters_the_side(model: Architecture, sizes: list[tuple[int, ...]]) -> None:
    features, _ = build(model).features(images_of((3, 32, 32)))
    assert [tuple(feature.shape[1:]) for feature in features.values()][: len(sizes)] == sizes


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


PUBLISHED: list[tuple[Architecture, int]] = [
    *((ResNet(name=name, stem="published"), 0) for name in ("resnet18", "resnet34", "resnet50")),
    # without the hidden linear layers of the published VGG, of 512 * 7 * 7 to 4096 to 4096
    *((Vgg(name=f"vgg{n}_bn"), 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 3584 * 10) for n in (11, 13, 16, 19)),
    (DenseNet(name="densenet121", stem="published"), 0),
    (ConvNeXt(name="convnext_tiny", stem="published"), 0),
    (ConvNeXt(name="convnext_small", stem="published"), 0),
    (Vit(name="vit_b", patch=16), 0),
]


@pytest.mark.parametrize(("model", "absent"), PUBLISHED, ids=lambda value: getattr(value, "slug", ""))
def test_published_networks_have_the_parameters_of_torchvision(model: Architecture, absent: int) -> None:
    with torch.device("meta"):
        published = getattr(import_torchvision().models, {"vit_b": "vit_b_16"}.get(model.name, model.name))
        count = parameter_count(build(model, (3, 224, 224), classes=10))
        assert count == parameter_count(published(num_classes=10)) - absent


def reference(model: Architecture) -> nn.Module:
    """torchvision's own network of the same sizes, for images of 3x64x64."""
    models = import_torchvision().models
    if isinstance(model, Vit):
        return models.VisionTransformer(64, model.patch, model.blocks, 1, 64, 256, num_classes=5)
    if isinstance(model, ConvNeXt):
        widths = [model.width * 2**i for i in range(4)]
        stages = zip(widths, [*widths[1:], None], model.blocks)
        return models.ConvNeXt([models.convnext.CNBlockConfig(*sizes) for sizes in stages], num_classes=5)
    if isinstance(model, DenseNet):
        return models.DenseNet(model.width // 2, model.blocks, model.width, num_classes=5)
    return models.ResNet(models.resnet.Bottleneck, list(model.blocks), num_classes=5)


@pytest.mark.parametrize(
    "model",
    [
        Vit(name="vit_b", width=64, depth_factor=0.2, patch=16),
        ConvNeXt(name="convnext_tiny", width=4, depth_factor=0.4, stem="published"),
        DenseNet(name="densenet40", width=4, depth_factor=0.34, stem="published"),
        ResNet(name="resnet50", depth_factor=0.5, stem="published"),
    ],
    ids=lambda model: model.slug,
)
def test_networks_compute_what_torchvision_computes(model: Architecture) -> None:
    network, published = build(model, (3, 64, 64)).eval(), reference(model).eval()
    generator = torch.Generator().manual_seed(0)
    rest = list(published.state_dict().values())
    for name, value in network.state_dict().items():  # tensors of one shape stand in one order in both
        if value.is_floating_point() and not name.endswith("running_var"):
            value += 0.1 * torch.randn(value.shape, generator=generator)
        rest.pop(next(i for i, other in enumerate(rest) if other.shape == value.shape)).copy_(value)
    assert rest == []
    images = images_of((3, 64, 64))
    with torch.no_grad():
        expected = published(images)
        assert (expected[0] - expected[1]).norm() > 0.01 * expected.norm()
        torch.testing.assert_close(network(images).logits, expected, rtol=1e-5, atol=1e-6)


def test_he_initialisation() -> None:
    network = build(ResNet(name="resnet18", width=32))
    weight = network.get_submodule("stages.layer3_1.conv1").weight
    assert weight.std().item() == pytest.approx((2 / (9 * weight.shape[0])) ** 0.5, rel=0.02)


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (4, 3), (4, 4), (10, 64), (100, 128)])
def test_simplex_etf(classes: int, dim: int) -> None:
    etf = simplex_etf(classes, dim)
    gram = (classes * torch.eye(classes) - 1).double() / (classes - 1)
    torch.testing.assert_close(etf @ etf.T, gram, rtol=0, atol=1e-13)
    if dim >= classes:  # so that one active feature, of no negative value, decides for each class
        assert torch.equal(etf.argmax(dim=0)[:classes], torch.arange(classes))
        assert (etf[:, classes:] == 0).all()


@pytest.mark.parametrize("bias", [True, False])
def test_fixed_etf_head_is_frozen(bias: bool) -> None:
    network = build(MLP, classes=10, fixed_etf=True, bias=bias)
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


@pytest.mark.parametrize(("hidden", "hidden_width"), [(0, None), (1, None), (1, 7), (3, None), (3, 7)])
def test_hidden_layers_stand_between_the_backbone_and_the_classifier(hidden: int, hidden_width: int | None) -> None:
    head = {"hidden": hidden, "hidden_width": hidden_width, "feature_dim": 6}
    network = build(MLP, **head).eval()
    spec = NetworkSpec.model_validate(
        {"dataset": {"name": "digits"}, "model": MLP, "head": head, "loss": {"name": "ce"}, "epochs": 1}
        | {"optimizer": {"lr": 0.1}}
    )
    images = images_of((3, 32, 32))
    features, logits = network.features(images)
    assert list(features) == list(network.layer_names) == spec.layers()
    outputs = list(features.values())[-1 - hidden :]
    assert torch.equal(network(images).head_input, outputs[0])
    assert outputs[0].shape == (2, 6)
    for layer, inputs, output in zip(network.hidden.values(), outputs[:-1], outputs[1:], strict=True):
        (weight,) = layer.parameters()
        assert weight.shape == (hidden_width or 6, inputs.shape[1])
        torch.testing.assert_close(output, (inputs @ weight.T).relu())
    assert torch.equal(network(images).logits, logits)


def test_hidden_layers_have_he_initialisation() -> None:
    network = build(Mlp(name="mlp", depth=1, width=50), hidden=1, hidden_width=400)
    weight = network.get_submodule("hidden.features.0").weight
    assert weight.std().item() == pytest.approx((2 / 50) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"bias": False},
        {"fixed_etf": True},
        {"hidden": 1},
        {"temperature": 3.0, "bias": False},
        {"temperature": 3.0, "bias": False, "fixed_etf": True},
        FULL_HEAD,
    ],
    ids=str,
)
def test_effective_weights_give_the_logits_of_the_features(head: dict[str, object]) -> None:
    network = build(MLP, **head).eval()
    features, logits = network.features(images_of((3, 32, 32)))
    weight, bias = network.head.effective()
    assert (bias is not None) == head.get("bias", True)
    torch.testing.assert_close(F.linear(features["features"], weight, bias), logits)
    if "temperature" in head:
        torch.testing.assert_close(weight.norm(dim=1), torch.full((5,), 3.0))
        torch.testing.assert_close(features["features"].norm(dim=1), torch.ones(2))


def test_normalisation_leaves_the_input_of_the_head() -> None:
    plain, normalised = build(MLP, bias=False).eval(), build(MLP, bias=False, temperature=2.0).eval()
    normalised.load_state_dict(plain.state_dict())
    images = images_of((3, 32, 32))
    assert torch.equal(plain(images).head_input, normalised(images).head_input)
    expected = 2 * F.cosine_similarity(plain(images).head_input[:, None], plain.head.weight, dim=-1)
    torch.testing.assert_close(normalised(images).logits, expected)


@pytest.mark.parametrize("head", [{}, FULL_HEAD], ids=["plain", "all"])
def test_the_head_computes_in_float32_under_autocast(head: dict[str, object]) -> None:
    network = build(MLP, **head).eval()
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = network.features(images_of((3, 32, 32)))
        output = network(images_of((3, 32, 32)))
    types = {name: feature.dtype for name, feature in features.items()}
    assert types.pop("layer1") == types.pop("layer2") == torch.bfloat16
    assert set(types.values()) == {logits.dtype, output.logits.dtype, output.head_input.dtype} == {torch.float32}
    features["features"].requires_grad_()
    torch.testing.assert_close(F.linear(features["features"], *network.head.effective()), logits, rtol=0, atol=0)


@pytest.mark.parametrize("model", [MLP, Vit(name="vit_b", width=64, depth_factor=0.2)], ids=lambda model: model.slug)
def test_networks_compile_as_one_graph(model: Architecture) -> None:
    network = build(model, (1, 8, 8), **FULL_HEAD).eval()
    images = images_of((1, 8, 8))
    compile: Callable = torch.compile(backend="eager", fullgraph=True)
    for function in (network, network.features):
        torch.testing.assert_close(compile(function)(images), function(images))


def test_as_vectors() -> None:
    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(as_vectors(maps, "average"), torch.tensor([[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]))
    assert as_vectors(maps, "flatten").shape == (2, 12)
    tokens = torch.arange(12.0).reshape(2, 3, 2)
    for how in ("average", "flatten"):
        assert torch.equal(as_vectors(tokens, how), torch.tensor([[0.0, 1.0], [6.0, 7.0]]))
    vectors = torch.ones(2, 3)
    assert as_vectors(vectors, "average") is vectors
    with pytest.raises(ValueError, match="'average' or 'flatten', got 'max'"):
        as_vectors(maps, "max")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ({"name": "conv_stack"}, 4),
        ({"name": "densenet40"}, 4),
        ({"name": "densenet121"}, 8),
        ({"name": "densenet40", "stem": "published"}, 13),
        ({"name": "densenet121", "stem": "published"}, 29),
        ({"name": "convnext_tiny"}, 16),
        ({"name": "convnext_small", "stem": "published"}, 32),
        ({"name": "vit_b", "patch": 7}, 7),
    ],
    ids=str,
)
def test_images_too_small_are_named(model: dict[str, object], least: int) -> None:
    width = 64 if model["name"] == "vit_b" else 4
    tiny = ARCHITECTURES[str(model["name"])].model_validate({"width": width, **model})
    with torch.no_grad():
        build(tiny, (1, least, least)).eval()(images_of((1, least, least)))
    less = least - 1
    with pytest.raises(UserError, match=f"{tiny.name} .*needs .*at least {least}x{least}.*, got {less}x{less}"):
        build(tiny, (1, less, less))


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet18", "resnet50", "vgg11_bn", "vgg19_bn"])
def test_other_models_read_images_of_any_size(name: str) -> None:
    model = ARCHITECTURES[name].model_validate({"name": name, "width": 4})
    assert build(model, (1, 1, 1)).eval()(images_of((1, 1, 1))).logits.shape == (2, 5)


def test_patches_must_fill_the_image() -> None:
    with pytest.raises(UserError, match=r"vit_b needs square .* of 4 pixels fill, got 30x30: set model\.patch"):
        build(Vit(name="vit_b", width=64), (3, 30, 30))


def import_timm_or_skip() -> None:
    import_torchvision()  # timm imports it, in vain where its operators do not load
    pytest.importorskip("timm")


@pytest.mark.parametrize(("name", "width"), [("test_resnet", 96), ("test_vit", 64), ("test_efficientnet", 256)])
def test_timm_models(name: str, width: int) -> None:
    import_timm_or_skip()
    network = build(Timm(name="timm", architecture=name), (1, 32, 32)).eval()
    features, logits = network.features(images_of((1, 32, 32)))
    assert {layer: tuple(value.shape) for layer, value in features.items()} == {"features": (2, width)}
    assert torch.equal(network(images_of((1, 32, 32))).logits, logits)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_vlt", "timm has no model 'test_vlt'; did you mean 'test_vit"),
        ("test_vit", "timm's 'test_vit' does not read images of 3x30x30 .*: take another model or image size"),
    ],
)
def test_mistakes_with_timm_models_are_named(name: str, reason: str) -> None:
    import_timm_or_skip()
    with pytest.raises(UserError, match=reason):
        build(Timm(name="timm", architecture=name), (3, 30, 30))


def test_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r'pip install "ncpipe\[timm\]"'):
        build(Timm(name="timm", architecture="test_vit"))


def test_residual_blocks_add_to_an_embedding_that_keeps_lengths() -> None:
    network = build(ResidualMlp(name="residual_mlp", depth=3, width=32, layer_norm=False), (1, 4, 4))
    for parameter in network.parameters():
        parameter.data.zero_()
    images = images_of((1, 4, 4))
    features, _ = network.features(images)
    torch.testing.assert_close(features["features"], features["block1"])
    torch.testing.assert_close(features["block1"].norm(dim=1), images.flatten(1).norm(dim=1))
    normed = build(ResidualMlp(name="residual_mlp", depth=3, width=32), (1, 4, 4)).features(images)[0]["block2"]
    torch.testing.assert_close(normed.std(dim=1, correction=0), torch.ones(2), atol=1e-3, rtol=0)


def test_residual_blocks_start_with_one_penalty_at_any_depth() -> None:
    def penalty(depth: int) -> float:
        network = build(ResidualMlp(name="residual_mlp", depth=depth, width=64))
        return sum(float(p.detach().square().sum()) for name, p in network.named_parameters() if "branch" in name)

    assert penalty(16) == pytest.approx(penalty(1), rel=0.1)
