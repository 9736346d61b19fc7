"""Settings of an unconstrained-features model and of its solver."""

from __future__ import annotations

import dataclasses
import re
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ncpipe.losses import LOSSES
from ncpipe.settings.base import Count, NonNegative, Positive, Seed, Settings
from ncpipe.settings.registry import NameIn, OneOf
from ncpipe.ufm.model import Model
from ncpipe.ufm.solvers import SOLVERS, BaseSolver

MAX_SAMPLES = 10**9

SolverSpec = Annotated[BaseSolver, OneOf(SOLVERS)]


def _as_in_model(name: str) -> Any:
    """A setting with the default and the words of the field of ``Model``."""
    field = Model.__dataclass_fields__[name]
    default = ... if field.default is dataclasses.MISSING else field.default
    return Field(default, description=field.metadata["help"])


class UfmSpec(Settings):
    """One UFM problem and how to solve it; fields as in ``ncpipe.ufm.Problem``."""

    classes: Annotated[int, Field(ge=2, le=100_000)] = _as_in_model("classes")
    samples: Count | Annotated[tuple[Count, ...], Field(min_length=2)] | dict[Count, Count] = _as_in_model("samples")
    dim: Count | Annotated[tuple[Count, ...], Field(min_length=1)] = _as_in_model("dim")
    loss: Annotated[str, NameIn(LOSSES)] = _as_in_model("loss")
    smoothing: Annotated[float, Field(ge=0, lt=1)] = _as_in_model("smoothing")
    gamma: NonNegative = _as_in_model("gamma")
    rescale: tuple[Positive, Positive] = _as_in_model("rescale")
    weight_decay: Positive | tuple[Positive, ...] | None = _as_in_model("weight_decay")
    feature_decay: Positive | None = _as_in_model("feature_decay")
    bias: Literal["none", "free"] | NonNegative = _as_in_model("bias")
    activation: Literal["linear", "relu"] = _as_in_model("activation")
    temperature: Positive | None = _as_in_model("temperature")
    classifier: Literal["free", "etf"] = _as_in_model("classifier")
    nonnegative: bool = _as_in_model("nonnegative")
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

    @model_validator(mode="after")
    def _is_a_model_for_its_solver(self) -> UfmSpec:
        try:
            reasons = self.solver.mistakes(self.model, vars(self))
        except ValueError as mistake:  # in the words of a config
            raise ValueError(re.sub(r"\bTrue\b", "true", str(mistake))) from None
        for reason in reasons:
            raise ValueError(reason)
        if self.model.num_samples > MAX_SAMPLES:
            raise ValueError(f"samples makes more than {MAX_SAMPLES:,} in all; lower samples or classes")
        return self

    @cached_property
    def model(self) -> Model:
        """The model that is declared, checked, with the penalties that are not given."""
        return Model(**self.declared())

    def declared(self) -> dict[str, Any]:
        """The fields of ``Model`` as they are set."""
        return {name: getattr(self, name) for name in Model.__dataclass_fields__}

    @property
    def slug(self) -> str:
        depth = self.model.depth
        kind = {1: "plain", 2: f"extended-{self.activation}"}.get(depth, f"deep{depth}-{self.activation}")
        kind = "normalised" if self.temperature is not None else kind
        kind += "-etf" if self.classifier == "etf" else ""
        kind += "-nonnegative" if self.nonnegative else ""
        bias = {"none": "nobias", "free": "bias"}.get(str(self.bias), "biaspen")
        return f"{kind}-{self.loss.replace('_', '-')}-{bias}-{self.solver.short or self.solver.name}-s{self.seed}"


MatchedKind = Literal["predicted", "predicted_extended", "plain", "extended"]
