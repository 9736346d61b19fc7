"""Settings of the architectures. ``layers()`` names what is measured; the last, 'features', the classifier reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ncpipe.settings.base import Count, NonNegative, Positive, Settings

DEPTH_FACTOR = "Times the published number of blocks of every stage, rounded, at least one."
STEM = "small: for images of about 32 pixels, without early halving; published: the network's own, for 224."


Factor = Annotated[float, Field(gt=0, le=64)]
Depth = Annotated[int, Field(ge=1, le=1000)]


def _scaled(blocks: tuple[int, ...], factor: float) -> tuple[int, ...]:
    return tuple(max(1, round(count * factor)) for count in blocks)


class Mlp(Settings):
    """Fully connected ReLU network; layers ``layer1`` .. ``features`` are the hidden activations."""

    name: Literal["mlp"]
    depth: Depth = Field(3, description="Number of hidden layers.")
    width: Count = Field(256, description="Width of every hidden layer.")
    batch_norm: bool | Literal["all_but_last"] = Field(
        True, description="all_but_last: the last hidden layer has neither BatchNorm nor bias (an extended UFM)."
    )

    @property
    def slug(self) -> str:
        return f"mlp{self.depth}x{self.width}" + (
            "-lastnobn" if self.batch_norm == "all_but_last" else "" if self.batch_norm else "-nobn"
        )

    def layers(self) -> list[str]:
        return [*(f"layer{i}" for i in range(1, self.depth)), "features"]


class Convnet(Settings):
    """Plain conv3x3-BatchNorm-ReLU blocks; every block but the first halves the side, doubles the channels."""

    name: Literal["convnet"]
    depth: Annotated[int, Field(ge=1, le=8)] = Field(3, description="Number of blocks.")
    width: Count = Field(32, description="Channels of the first block.")
    batch_norm: bool = True

    @property
    def slug(self) -> str:
        return f"convnet{self.depth}w{self.width}" + ("" if self.batch_norm else "-nobn")

    def layers(self) -> list[str]:
        return [*(f"layer{i}" for i in range(1, self.depth)), "features"]


class ConvStack(Settings):
    """Convolutions of one width: two of 2x2 and stride 2, then ``depth`` - 1 blocks of 3x3 and stride 1."""

    name: Literal["conv_stack"]
    depth: Depth = Field(8, description="Number of blocks, the halving one included.")
    width: Count = Field(128, description="Channels of every block.")
    batch_norm: bool = True

    @property
    def slug(self) -> str:
        return f"conv{self.depth}x{self.width}" + ("" if self.batch_norm else "-nobn")

    def layers(self) -> list[str]:
        return [*(f"layer{i}" for i in range(1, self.depth)), "features"]


RESNET_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
VGG_CONVOLUTIONS = {
    "vgg11_bn": (1, 1, 2, 2, 2),
    "vgg13_bn": (2, 2, 2, 2, 2),
    "vgg16_bn": (2, 2, 3, 3, 3),
    "vgg19_bn": (2, 2, 4, 4, 4),
}
DENSENET_BLOCKS = {"densenet40": (6, 6, 6), "densenet121": (6, 12, 24, 16)}
CONVNEXT_BLOCKS = {"convnext_tiny": (3, 3, 9, 3), "convnext_small": (3, 3, 27, 3)}
VIT_BLOCKS = 12


class ResNet(Settings):
    """torchvision's ResNet; every residual block is a layer."""

    name: Literal["resnet18", "resnet34", "resnet50"]
    width: Count = Field(64, description="Channels of the first stage; 64 is the published network.")
    depth_factor: Factor = Field(1.0, description=DEPTH_FACTOR)
    stem: Literal["small", "published"] = Field("small", description=STEM)

    @property
    def blocks(self) -> tuple[int, ...]:
        return _scaled(RESNET_BLOCKS[self.name], self.depth_factor)

    @property
    def slug(self) -> str:
        return f"{self.name}w{self.width}" + _depth_slug(self.depth_factor)

    def layers(self) -> list[str]:
        names = [f"layer{s}.{b}" for s, n in enumerate(self.blocks, start=1) for b in range(n)]
        return ["stem", *names[:-1], "features"]


class Vgg(Settings):
    """torchvision's VGG with BatchNorm and no hidden fully connected layers; a stage ends before its pooling."""

    name: Literal["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
    width: Count = Field(64, description="Channels of the first stage; 64 is the published network.")
    depth_factor: Factor = Field(1.0, description=DEPTH_FACTOR)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Convolutions by stage."""
        return _scaled(VGG_CONVOLUTIONS[self.name], self.depth_factor)

    @property
    def slug(self) -> str:
        return f"{self.name.removesuffix('_bn')}w{self.width}" + _depth_slug(self.depth_factor)

    def layers(self) -> list[str]:
        return ["stage1", "stage2", "stage3", "stage4", "features"]


class DenseNet(Settings):
    """torchvision's DenseNet; a layer ends with each dense block."""

    name: Literal["densenet40", "densenet121"]
    width: Count = Field(64, description="Channels of the stem; the growth rate is half of it.")
    depth_factor: Factor = Field(1.0, description=DEPTH_FACTOR)
    stem: Literal["small", "published"] = Field("small", description=STEM)

    @property
    def blocks(self) -> tuple[int, ...]:
        return _scaled(DENSENET_BLOCKS[self.name], self.depth_factor)

    @property
    def slug(self) -> str:
        return f"{self.name}w{self.width}" + _depth_slug(self.depth_factor)

    def layers(self) -> list[str]:
        return ["stem", *(f"block{i}" for i in range(1, len(self.blocks))), "features"]


class ConvNeXt(Settings):
    """torchvision's ConvNeXt, without stochastic depth; a layer ends with each stage."""

    name: Literal["convnext_tiny", "convnext_small"]
    width: Count = Field(96, description="Channels of the first stage; 96 is the published network.")
    depth_factor: Factor = Field(1.0, description=DEPTH_FACTOR)
    stem: Literal["small", "published"] = Field("small", description="Patches of 2 (small) or 4 pixels (published).")

    @property
    def blocks(self) -> tuple[int, ...]:
        return _scaled(CONVNEXT_BLOCKS[self.name], self.depth_factor)

    @property
    def slug(self) -> str:
        return f"{self.name.replace('_', '-')}-w{self.width}" + _depth_slug(self.depth_factor)

    def layers(self) -> list[str]:
        return ["stem", "stage1", "stage2", "stage3", "features"]


class Vit(Settings):
    """torchvision's vision transformer, without dropout; every encoder block is a layer, whose features are those of
    the class token."""

    name: Literal["vit_b"]
    width: Annotated[int, Field(ge=64, multiple_of=64)] = Field(
        768, description="Width of the tokens; one attention head per 64. 768 is ViT-B, 192 ViT-Ti."
    )
    depth_factor: Factor = Field(1.0, description="Times the 12 blocks of ViT-B, rounded, at least one.")
    patch: Count = Field(4, description="Side of a patch (pixels); 16 is published, for images of 224.")

    @property
    def blocks(self) -> int:
        return _scaled((VIT_BLOCKS,), self.depth_factor)[0]

    @property
    def slug(self) -> str:
        return f"vit{self.blocks}x{self.width}p{self.patch}"

    def layers(self) -> list[str]:
        return ["patches", *(f"block{i}" for i in range(1, self.blocks)), "features"]


class Timm(Settings):
    """Any image model of the timm library, untrained, as one layer; needs the extra ``ncpipe[timm]``."""

    name: Literal["timm"]
    architecture: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$")] = Field(
        description="timm's name of the model, such as 'mixer_s16_224'."
    )

    @property
    def slug(self) -> str:
        return f"timm-{self.architecture}"

    def layers(self) -> list[str]:
        return ["features"]


ModelSpec = Annotated[
    Mlp | Convnet | ConvStack | ResNet | Vgg | DenseNet | ConvNeXt | Vit | Timm, Field(discriminator="name")
]


def _depth_slug(factor: float) -> str:
    return "" if factor == 1 else f"x{factor:g}"


class HeadSpec(Settings):
    """What follows the backbone: perhaps hidden layers, and the classifier that reads the last features."""

    bias: bool = True
    fixed_etf: bool = Field(False, description="Freeze the weight at a simplex ETF with unit-norm rows.")
    feature_dim: Count | Literal["classes"] | None = Field(
        None,
        description="Project the backbone's output to this width (Linear-BatchNorm-ReLU); 'classes' means K.",
    )
    hidden: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Hidden linear layers without bias, each followed by ReLU, before the classifier (a deep UFM)."
    )
    hidden_width: Count | None = Field(None, description="Width of the hidden layers; null: that of their input.")
    feature_decay: NonNegative = Field(
        0.0, description="Adds this/2 times the mean of |h|^2 over the samples, h the input of the head."
    )
    temperature: Positive | None = Field(
        None, description="Features and rows of the weight have unit norm, logits are scaled by this; no bias."
    )

    @model_validator(mode="after")
    def _spheres_have_no_bias(self) -> HeadSpec:
        if self.temperature is not None and self.bias:
            raise ValueError("'temperature' goes without a bias: set bias to false")
        if self.hidden_width is not None and not self.hidden:
            raise ValueError("'hidden_width' goes with 'hidden'")
        return self

    @property
    def slug(self) -> str:
        kind = f"-head{self.hidden}" if self.hidden else ""
        kind += "-etf" if self.fixed_etf else ""
        return kind + ("-normalised" if self.temperature is not None else "")
