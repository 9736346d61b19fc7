"""The settings of a study, typed. Every key of ``config.yaml`` is declared here and nowhere else."""

from __future__ import annotations

import difflib
import math
import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for key in values:
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key {key!r}; {hint}")
        return values


# --- data sets ---------------------------------------------------------------------------------


class DatasetSpec(Settings):
    """A data set and the balanced subset or corruption of it that networks are trained on."""

    name: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10", "imagefolder"]
    path: str | None = Field(None, description="imagefolder: a folder or zip holding {train,test}/<class>/*.")
    image_size: Count | None = Field(
        None, description="imagefolder: images are cropped to the central square and resized to this side (pixels)."
    )
    samples_per_class: Count | None = Field(None, description="Balanced training subset; null keeps all.")
    test_samples_per_class: Count | None = Field(None, description="Balanced test subset; null keeps all.")
    label_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Fraction of training labels replaced by a different class, chosen uniformly."
    )
    random_labels: bool = Field(False, description="Permute all training labels (a control).")
    seed: Seed = Field(0, description="Draws the subset and the corrupted labels.")

    @model_validator(mode="after")
    def _folder_has_a_path(self) -> DatasetSpec:
        if (self.name == "imagefolder") != (self.path is not None):
            raise ValueError("'path' goes with name 'imagefolder', and 'imagefolder' needs a 'path'")
        if (self.name == "imagefolder") != (self.image_size is not None):
            raise ValueError("'image_size' goes with name 'imagefolder', and 'imagefolder' needs it")
        return self

    @property
    def slug(self) -> str:
        if self.path is None:
            return self.name
        return re.sub(r"[^a-z0-9]+", "-", PurePath(self.path).stem.lower()).strip("-") or "imagefolder"


# --- networks ----------------------------------------------------------------------------------


class Mlp(Settings):
    """Fully connected ReLU network; layers ``layer1`` .. ``features`` are the hidden activations."""

    name: Literal["mlp"]
    depth: Count = Field(3, description="Number of hidden layers.")
    width: Count = Field(256, description="Width of every hidden layer.")
    batch_norm: bool = True

    @property
    def slug(self) -> str:
        return f"mlp{self.depth}x{self.width}" + ("" if self.batch_norm else "-nobn")

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


RESNET_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
VGG_CONVOLUTIONS = {"vgg11_bn": (1, 1, 2, 2, 2), "vgg13_bn": (2, 2, 2, 2, 2), "vgg16_bn": (2, 2, 3, 3, 3)}
DENSENET_BLOCKS = {"densenet40": (6, 6, 6), "densenet121": (6, 12, 24, 16)}


class ResNet(Settings):
    """torchvision's ResNet with a small-image stem (3x3, stride 1, no pooling)."""

    name: Literal["resnet18", "resnet34", "resnet50"]
    width: Count = Field(64, description="Channels of the first stage; 64 is the published network.")

    @property
    def slug(self) -> str:
        return f"{self.name}w{self.width}"

    def layers(self) -> list[str]:
        blocks = [f"layer{s}.{b}" for s, n in enumerate(RESNET_BLOCKS[self.name], start=1) for b in range(n)]
        return ["stem", *blocks[:-1], "features"]


class Vgg(Settings):
    """torchvision's VGG with BatchNorm and no hidden fully connected layers; a stage ends before its pooling."""

    name: Literal["vgg11_bn", "vgg13_bn", "vgg16_bn"]
    width: Count = Field(64, description="Channels of the first stage; 64 is the published network.")

    @property
    def slug(self) -> str:
        return f"{self.name.removesuffix('_bn')}w{self.width}"

    def layers(self) -> list[str]:
        return ["stage1", "stage2", "stage3", "stage4", "features"]


class DenseNet(Settings):
    """torchvision's DenseNet with a small-image stem."""

    name: Literal["densenet40", "densenet121"]
    width: Count = Field(64, description="Channels of the stem; the growth rate is half of it.")

    @property
    def slug(self) -> str:
        return f"{self.name}w{self.width}"

    def layers(self) -> list[str]:
        blocks = len(DENSENET_BLOCKS[self.name])
        return ["stem", *(f"block{i}" for i in range(1, blocks)), "features"]


ModelSpec = Annotated[Mlp | Convnet | ResNet | Vgg | DenseNet, Field(discriminator="name")]


class HeadSpec(Settings):
    """The classifier that reads the last features."""

    bias: bool = True
    fixed_etf: bool = Field(False, description="Freeze the weight at a simplex ETF with unit-norm rows.")
    feature_dim: Count | Literal["classes"] | None = Field(
        None,
        description="Project the last features to this width (Linear-BatchNorm-ReLU); 'classes' means K.",
    )


class LossSpec(Settings):
    """Training loss, averaged over the samples."""

    name: Literal["mse", "ce"]
    scaling: Literal["half", "mean"] = Field(
        "half",
        description="mse: 'half' is 1/(2N) sum |z-y|^2 (theory); 'mean' is torch.nn.MSELoss, 1/(NK) sum |z-y|^2.",
    )

    @model_validator(mode="after")
    def _scaling_is_of_mse(self) -> LossSpec:
        if self.name != "mse" and self.scaling != "half":
            raise ValueError("'scaling' goes with loss 'mse' only")
        return self


class OptimizerSpec(Settings):
    """The optimiser; weight decay adds ``weight_decay * w`` to the gradient (``adamw``: decoupled)."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="sgd only.")
    nesterov: bool = False
    weight_decay: NonNegative = 5e-4
    decay: Literal["all", "weights", "head"] = Field(
        "all",
        description="Decayed parameters: all; weight matrices only (no bias, no BatchNorm); the head only.",
    )

    @property
    def bias_decay(self) -> float:
        """Weight decay of the classifier's bias."""
        return 0.0 if self.decay == "weights" else self.weight_decay


class ScheduleSpec(Settings):
    """Learning rate against epochs."""

    name: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (1 / 3, 2 / 3), description="step: fractions of the run after which the rate is divided."
    )
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="step: the rate is multiplied by this.")
    warmup_epochs: Annotated[int, Field(ge=0)] = Field(0, description="Linear warm-up from zero.")


class AugmentSpec(Settings):
    """Random changes of training images; off by default, as collapse protocols have it."""

    flip: bool = False
    crop: Annotated[int, Field(ge=0, le=32)] = Field(0, description="Pad by this many pixels, crop at random.")


class NetworkSpec(Settings):
    """One network to train: everything that decides its weights."""

    dataset: DatasetSpec
    model: ModelSpec
    head: HeadSpec = HeadSpec()
    loss: LossSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec = ScheduleSpec()
    augment: AugmentSpec = AugmentSpec()
    epochs: Count
    batch_size: Count = 128
    seed: Seed = 0

    @model_validator(mode="after")
    def _warmup_is_shorter_than_the_run(self) -> NetworkSpec:
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(f"schedule.warmup_epochs must be below epochs ({self.epochs})")
        return self

    @property
    def slug(self) -> str:
        bias = "bias" if self.head.bias else "nobias"
        return f"{self.dataset.slug}-{self.model.slug}-{self.loss.name}-{bias}-s{self.seed}"


# --- unconstrained-features models --------------------------------------------------------------


class GradientDescent(Settings):
    """Plain gradient descent with history at log-spaced steps."""

    name: Literal["gradient_descent"]
    steps: Count = 100_000
    step_size: Positive = 0.1
    init_scale: Positive = Field(1.0, description="Standard deviation of the Gaussian start.")
    points: Annotated[int, Field(ge=2, le=1000)] = Field(40, description="Log-spaced steps that are measured.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Of the heavy ball.")


class GradientFlow(Settings):
    """Exact gradient flow from a start aligned with the targets (mse, no other parameters)."""

    name: Literal["gradient_flow"]
    steps: Count = Field(100_000, description="Of step_size each: the flow ends at time steps * step_size.")
    step_size: Positive = 0.1
    init_scale: Positive = Field(1.0, description="Singular values of every factor at the start.")
    points: Annotated[int, Field(ge=2, le=1000)] = Field(40, description="Log-spaced times that are measured.")


class Construction(Settings):
    """The minimiser that the closed form gives."""

    name: Literal["construction"]


class Lbfgs(Settings):
    """L-BFGS in float64 from several random starts; the best is kept."""

    name: Literal["lbfgs"]
    starts: Count = 8
    max_iterations: Count = 5000
    init_scale: Positive = 1.0
    tied: bool = Field(False, description="One feature vector per class in place of one per sample.")


SolverSpec = Annotated[GradientDescent | Lbfgs | GradientFlow | Construction, Field(discriminator="name")]
MULTI_LABEL = ("pick_all_labels", "pick_all_labels_normalized")


class UfmSpec(Settings):
    """One UFM problem and how to solve it; fields as in ``ncpipe.ufm.Problem``."""

    classes: Annotated[int, Field(ge=2)]
    samples: Count | Annotated[tuple[Count, ...], Field(min_length=2)] | dict[Count, Count] = Field(
        description="Samples per class, n, or one number per class; pick_all_labels: multiplicity -> samples per set."
    )
    dim: Count | Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        description="Feature width, d; one per weight layer where they differ."
    )
    loss: Literal["mse", "ce", "label_smoothing", "focal", "pick_all_labels", "pick_all_labels_normalized"] = "mse"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="label_smoothing: alpha.")
    gamma: NonNegative = Field(0.0, description="focal: the exponent.")
    rescale: tuple[Positive, Positive] = Field((1.0, 1.0), description="mse: (k, M) of the true class.")
    weight_decay: Positive | tuple[Positive, ...] | None = Field(
        None, description="One per trained weight layer; null: 5e-3, and none with temperature or classifier 'etf'."
    )
    feature_decay: Positive | None = Field(None, description="null: 1e-3, and none with a temperature.")
    bias: Literal["none", "free"] | NonNegative = "none"
    activation: Literal["linear", "relu"] = "linear"
    temperature: Positive | None = Field(
        None,
        description="ce: features and weight rows on unit spheres, logits scaled by this; no penalties, no bias.",
    )
    classifier: Literal["free", "etf"] = Field("free", description="etf: frozen at a simplex with unit-norm rows.")
    solver: SolverSpec
    seed: Seed = 0

    @field_validator("bias", mode="before")
    @classmethod
    def _no_penalty_is_free(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("needs none, free or a penalty")
        return "free" if value == 0 else value

    @field_validator("weight_decay")
    @classmethod
    def _one_matrix_is_a_number(cls, value: float | tuple[float, ...] | None) -> float | tuple[float, ...] | None:
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value

    @property
    def num_samples(self) -> int:
        """N."""
        if isinstance(self.samples, dict):
            return sum(math.comb(self.classes, m) * n for m, n in self.samples.items())
        return self.samples * self.classes if isinstance(self.samples, int) else sum(self.samples)

    @property
    def depth(self) -> int:
        """Number of weight matrices, L, the classifier included."""
        frozen = self.classifier == "etf"
        if self.weight_decay is None:
            return 1
        return frozen + (len(self.weight_decay) if isinstance(self.weight_decay, tuple) else 1)

    @model_validator(mode="after")
    def _parameters_go_with_their_loss(self) -> UfmSpec:
        for name, loss in (("smoothing", "label_smoothing"), ("gamma", "focal")):
            if (self.loss == loss) != (getattr(self, name) > 0):
                raise ValueError(f"{name} > 0 goes with loss {loss!r}, and only with it")
        if self.rescale != (1, 1) and self.loss != "mse":
            raise ValueError("rescale goes with loss 'mse'")
        if isinstance(self.samples, dict) != (self.loss in MULTI_LABEL):
            raise ValueError("samples maps multiplicities with pick_all_labels, and only with it")
        return self

    @model_validator(mode="after")
    def _shapes_agree(self) -> UfmSpec:
        if isinstance(self.samples, tuple) and len(self.samples) != self.classes:
            raise ValueError(f"samples has {len(self.samples)} numbers for {self.classes} classes")
        if isinstance(self.samples, dict) and (1 not in self.samples or max(self.samples) >= self.classes):
            raise ValueError(f"samples needs multiplicity 1, and none beyond {self.classes - 1}")
        if isinstance(self.dim, tuple) and len(self.dim) != self.depth:
            raise ValueError(f"dim has {len(self.dim)} widths for {self.depth} weight layers")
        width = self.dim[-1] if isinstance(self.dim, tuple) else self.dim
        if self.classifier == "etf" and width < self.classes - 1:
            raise ValueError(f"classifier 'etf' needs dim {self.classes - 1} or more")
        if self.classifier == "free" and self.weight_decay == ():
            raise ValueError("weight_decay needs one value per weight layer")
        return self

    @model_validator(mode="after")
    def _spheres_have_no_penalties(self) -> UfmSpec:
        penalised = self.weight_decay is not None or self.feature_decay is not None or self.bias != "none"
        if self.temperature is not None and (penalised or self.loss != "ce"):
            raise ValueError("temperature goes with loss 'ce', without weight_decay, feature_decay and bias")
        return self

    @model_validator(mode="after")
    def _activation_stands_between_two_weights(self) -> UfmSpec:
        if self.activation == "relu" and self.depth == 1:
            raise ValueError("activation 'relu' needs two weight_decay values: it stands between two weight layers")
        return self

    @property
    def slug(self) -> str:
        kind = {1: "plain", 2: f"extended-{self.activation}"}.get(self.depth, f"deep{self.depth}-{self.activation}")
        kind = "normalised" if self.temperature is not None else kind
        kind += "-etf" if self.classifier == "etf" else ""
        bias = {"none": "nobias", "free": "bias"}.get(str(self.bias), "biaspen")
        solver = {"gradient_descent": "gd", "gradient_flow": "flow"}.get(self.solver.name, self.solver.name)
        return f"{kind}-{self.loss.replace('_', '-')}-{bias}-{solver}-s{self.seed}"


MatchedKind = Literal["plain", "extended"]


# --- measurement, figures, tracking --------------------------------------------------------------


class KeepSpec(Settings):
    """Raw features kept on disk beside the statistics."""

    layers: tuple[str, ...] = Field((), description="Layer names or globs.")
    epochs: Literal["last", "all"] | tuple[Annotated[int, Field(ge=0)], ...] = "last"


class MeasureSpec(Settings):
    """What is measured in trained networks, and when."""

    layers: Literal["all"] | Count | tuple[str, ...] = Field(
        "all", description="All tapped layers, the last n, or names and globs; the last is always measured."
    )
    pool: Literal["average", "flatten"] = Field(
        "average", description="How a convolutional layer's map becomes a feature vector."
    )
    flatten: tuple[str, ...] = Field((), description="Layer names or globs that are flattened instead.")
    epochs: Count | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        12, description="That many log-spaced epochs (with 0 and the last), or the listed ones."
    )
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    keep: KeepSpec = KeepSpec()

    @field_validator("splits")
    @classmethod
    def _train_is_measured(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "train" not in value:
            raise ValueError("'train' must be among the splits: test decisions use the train class means")
        return value


FigureName = Literal[
    "collapse_curves", "collapse_depth", "frames", "matched_ufm", "training_curves", "ufm_phase", "ufm_trajectories"
]


MetricName = Literal[
    "nc1_pinv",
    "nc1_trace_ratio",
    "within_share",
    "cdnv",
    "nc1_pinv_train_means",
    "nc1_trace_ratio_train_means",
    "within_share_train_means",
    "cdnv_train_means",
    "nc2_means_equinorm",
    "nc2_means_angle_std",
    "nc2_means_equiangle",
    "nc2_means_etf",
    "means_effective_rank",
    "means_stable_rank",
    "gnc2_log",
    "gnc2_log_var",
    "gnc2_riesz_1",
    "gnc2_riesz_2",
    "nc2_means_of",
    "nc2_means_uncentred_etf",
    "nc2_weights_equinorm",
    "nc2_weights_angle_std",
    "nc2_weights_equiangle",
    "nc2_weights_etf",
    "weights_effective_rank",
    "weights_stable_rank",
    "nc2_weights_of",
    "nc3_duality",
    "nc3_etf",
    "unc3",
    "nc3_of",
    "subspace_alignment",
    "nc4_bias",
    "ncc_accuracy",
    "nc4_mismatch",
    "accuracy",
    "loss_nc1",
    "loss_nc23",
    "loss_perp",
    "tagwise_angle",
    "tagwise_scale",
    "classifier_stationarity",
    "loss",
]


class FigureOptions(Settings):
    """A figure to draw and its options."""

    name: FigureName
    file: Name | None = Field(None, description="File name without ending; null: the figure's name.")
    metrics: tuple[MetricName, ...] | None = Field(
        None, description="Metric names of docs/metrics.md; null: the usual."
    )
    split: Literal["train", "test"] = "train"
    width: Positive = Field(6.75, description="Inches; 6.75 is a page of two columns, 3.25 one column.")


class TrackingSpec(Settings):
    """Where MLflow keeps the mirror of the records."""

    enabled: bool = True
    uri: str | None = Field(None, description="MLflow tracking URI; null: SQLite in the results folder.")
    experiment: str | None = Field(None, description="null: the study's name.")


class StudyInfo(Settings):
    """Name and places of a study."""

    name: Name
    title: str = ""
    description: str = ""
    results: str = Field("results", description="Folder of everything produced.")
    data_path: tuple[str, ...] = Field(
        (), description="Folders searched for data-set files before anything is downloaded."
    )


# --- sweeps --------------------------------------------------------------------------------------

Values = Annotated[tuple[Any, ...], Field(min_length=1)]
Columns = dict[str, Values]


class Sweep(Settings):
    """Variations of a base: the product of all grid keys and all zips, without the excluded, plus the included.

    Keys are dotted paths into the settings (``optimizer.lr``); a value replaces what stands there.
    """

    grid: Columns = Field(default_factory=dict, description="Key -> values; every combination is a run.")
    zip: Columns | tuple[Columns, ...] = Field((), description="Keys that vary together, lists of one length.")
    include: tuple[dict[str, Any], ...] = Field((), description="Runs beside the product, each laid over the base.")
    exclude: tuple[dict[str, Any], ...] = Field(
        (), description="Runs to drop: key -> value or list of values; all keys of an entry must match."
    )


class Block(Settings):
    """A base and its sweep."""

    base: dict[str, Any] = Field(default_factory=dict)
    sweep: Sweep = Sweep()


class UfmBlock(Block):
    """The declared UFM problems, and which models are matched to every trained network."""

    matched: tuple[MatchedKind, ...] = ("plain", "extended")


class Config(Settings):
    """A whole study as it stands in ``config.yaml`` or ``studies/*.yaml``."""

    study: StudyInfo
    datasets: Block | None = None
    networks: Block | None = None
    ufm: UfmBlock = UfmBlock()
    measure: MeasureSpec = MeasureSpec()
    figures: tuple[FigureName | FigureOptions, ...] | None = Field(None, description="null: all that apply.")
    tracking: TrackingSpec = TrackingSpec()
