"""Settings of an unconstrained-features model and of its solver."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ncpipe.settings.base import Count, NonNegative, Positive, Seed, Settings

MAX_SAMPLES = 10**9
MULTI_LABEL = ("pick_all_labels", "pick_all_labels_normalized")


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


class CentralPath(Settings):
    """Renormalised gradient flow of the least-squares loss on the central path (mse, free bias, no penalty)."""

    name: Literal["central_path"]
    end_time: Annotated[float, Field(gt=0, le=1e15)] = Field(1e6, description="Time at which the flow ends.")
    points: Annotated[int, Field(ge=2, le=1000)] = Field(
        40, description="Times that are measured: 0, and log-spaced ones from end_time/10^4 on."
    )

    @model_validator(mode="after")
    def _rounded_times_differ(self) -> CentralPath:
        ratio = 10 ** (4 / max(self.points - 2, 1))
        least = 1e4 * max(1, 1 / (ratio - 1)) if self.points > 2 else 1
        if self.end_time < least:
            raise ValueError(
                f"end_time must be at least {math.ceil(least)} with points {self.points}:"
                " times are recorded as whole numbers"
            )
        return self


SolverSpec = Annotated[
    GradientDescent | Lbfgs | GradientFlow | Construction | CentralPath, Field(discriminator="name")
]


CENTRAL_PATH: dict[str, Any] = {
    "loss": "mse",
    "rescale": (1, 1),
    "bias": "free",
    "activation": "linear",
    "classifier": "free",
    "weight_decay": None,
    "feature_decay": None,
    "nonnegative": False,
}
"""Settings of a problem that the solver central_path asks for."""


class UfmSpec(Settings):
    """One UFM problem and how to solve it; fields as in ``ncpipe.ufm.Problem``."""

    classes: Annotated[int, Field(ge=2, le=100_000)]
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
    nonnegative: bool = Field(False, description="Features H_1 are constrained to be >= 0.")
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
        if self.num_samples > MAX_SAMPLES:
            raise ValueError(f"samples makes more than {MAX_SAMPLES:,} in all; lower samples or classes")
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
        if self.temperature is not None and self.nonnegative:
            raise ValueError("nonnegative goes with penalised features, without temperature")
        if self.solver.name == "gradient_flow" and self.nonnegative:
            raise ValueError("nonnegative does not go with solver 'gradient_flow'")
        return self

    @model_validator(mode="after")
    def _activation_stands_between_two_weights(self) -> UfmSpec:
        if self.activation == "relu" and self.depth == 1:
            raise ValueError("activation 'relu' needs two weight_decay values: it stands between two weight layers")
        return self

    @model_validator(mode="after")
    def _central_path_is_of_the_plain_model(self) -> UfmSpec:
        if self.solver.name != "central_path":
            return self
        for name, value in CENTRAL_PATH.items():
            if getattr(self, name) != value:
                needed = {None: "null", False: "false"}.get(value, value)
                raise ValueError(f"solver 'central_path' needs {name} {needed}")
        width = self.dim if isinstance(self.dim, int) else self.dim[0]
        if not isinstance(self.samples, int):
            raise ValueError("solver 'central_path' needs classes of one size: samples is one number")
        if width < self.classes - 1:
            raise ValueError(f"solver 'central_path' needs dim {self.classes - 1} or more, one below classes")
        if self.num_samples < width + self.classes:
            least = -(-width // self.classes) + 1
            raise ValueError(f"solver 'central_path' needs samples {least} or more: dim + classes vectors in all")
        return self

    @property
    def slug(self) -> str:
        kind = {1: "plain", 2: f"extended-{self.activation}"}.get(self.depth, f"deep{self.depth}-{self.activation}")
        kind = "normalised" if self.temperature is not None else kind
        kind += "-etf" if self.classifier == "etf" else ""
        kind += "-nonnegative" if self.nonnegative else ""
        bias = {"none": "nobias", "free": "bias"}.get(str(self.bias), "biaspen")
        short = {"gradient_descent": "gd", "gradient_flow": "flow", "central_path": "path"}
        solver = short.get(self.solver.name, self.solver.name)
        return f"{kind}-{self.loss.replace('_', '-')}-{bias}-{solver}-s{self.seed}"


MatchedKind = Literal["predicted", "predicted_extended", "plain", "extended"]
