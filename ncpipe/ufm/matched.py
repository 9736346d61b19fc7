"""The UFM that matches a trained network: its penalties, and what it predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ncpipe.collapse import Trace
from ncpipe.ufm.closed_form import NoClosedForm
from ncpipe.ufm.fit import SUCCESS, fit
from ncpipe.ufm.objective import Minimiser
from ncpipe.ufm.problem import Loss, Problem

STARTS = {1.0: 12, 0.1: 4}
"""Random starts by their scale, where the optimum has no closed form; in the extended model zero has a basin of
its own, that only starts near it find."""


@dataclass(frozen=True)
class MatchedUfm:
    """The problem that matches a network, and its predictions."""

    problem: Problem
    minimiser: Minimiser
    optimum_value: float
    """Smallest objective: of the closed form, or the best found."""
    basis: str
    """The theorem that the optimum rests on, or 'numerical: ...' and why there is no closed form."""
    starts: int | None = None
    """Random starts, where there is no closed form."""
    success_fraction: float | None = None
    """Fraction of them within 1e-8 relative of the best. Where few are, another seed may find a better one."""

    @property
    def class_features(self) -> Tensor:
        """Class means of the last features, (K, d)."""
        return self.minimiser.class_features()

    @property
    def weight(self) -> Tensor:
        """Classifier, (K, d)."""
        return self.minimiser.weights[-1]

    @property
    def bias(self) -> Tensor | None:
        """(K,)."""
        return self.minimiser.bias

    @property
    def loss(self) -> float:
        """Mean loss without penalties, in the model's scaling ('half' for mse)."""
        return self.minimiser.loss()

    @property
    def feature_norm(self) -> float:
        """|H|_F of the last features over all N samples."""
        counts = torch.tensor(self.problem.counts)
        return math.sqrt(float((counts * self.class_features.square().sum(dim=1)).sum()))

    @property
    def weight_norm(self) -> float:
        """|W|_F of the classifier."""
        return float(self.weight.norm())

    @property
    def means_gram(self) -> Tensor:
        """Uncentred Gram of the class means, (K, K)."""
        return self.class_features @ self.class_features.T

    @property
    def weights_gram(self) -> Tensor:
        """W W^T, (K, K)."""
        return self.weight @ self.weight.T

    def trace(self) -> Trace:
        """The minimiser's layers at time 0; within-class scatter is zero."""
        trace = Trace(self.problem.layer_names)
        self.minimiser.record(trace, 0)
        return trace


def match(
    kind: Literal["plain", "extended"],
    *,
    classes: int,
    counts: Sequence[int],
    dim: int,
    loss: Loss,
    loss_scaling: Literal["half", "mean"],
    weight_decay: float,
    bias_decay: float | None,
    weight_norm_squared: float,
    features_norm_squared: float,
    input_norm_squared: float | None = None,
    seed: int = 0,
) -> MatchedUfm:
    r"""The UFM whose penalties follow from a network's weight decay and measured norms.

    The network minimises its mean loss + wd/2 |W|^2 (+ bias). With :math:`\frac1{2N}|.|^2` or cross entropy,
    :math:`\lambda_W = wd`. ``torch.nn.MSELoss`` divides by K as well, its objective is 2/K times
    :math:`\frac1{2N}|.|^2 + \frac{K\,wd}4 |W|^2`, so :math:`\lambda_W = K\,wd/2`, and the bias likewise.
    Nobody sets the features' penalty. At every stationary point of a UFM
    :math:`\lambda_W |W|^2 = \lambda_H |H|^2`, which infers it: H is the last features (plain), or the features
    one level below, H_1 (extended: ReLU, two weight layers, both with :math:`\lambda_W`).

    Args:
        kind: ``"plain"`` or ``"extended"``.
        classes: K.
        counts: training samples per class, (K,).
        dim: width of the last features.
        loss: ``"mse"`` or ``"ce"``.
        loss_scaling: ``"half"`` (1/(2N), and cross entropy) or ``"mean"`` (``torch.nn.MSELoss``).
        weight_decay: wd of the classifier, positive.
        bias_decay: of the classifier's bias; 0 leaves it free, None means that there is none.
        weight_norm_squared: |W|^2 of the classifier.
        features_norm_squared: sum over samples of |h_i|^2, last features.
        input_norm_squared: the same one level below; ``"extended"`` needs it.
        seed: of the random starts where there is no closed form.

    Raises:
        ValueError: naming the argument, as for a network whose weights or features are zero.
    """
    if kind not in ("plain", "extended"):
        raise ValueError(f"kind: got {kind!r}; needs 'plain' or 'extended'")
    factor = _to_half_scaling(loss, loss_scaling, classes)
    decay = weight_decay * factor
    name, squared = "features_norm_squared", features_norm_squared
    if kind == "extended":
        if input_norm_squared is None:
            raise ValueError("input_norm_squared: got None; kind 'extended' needs it")
        name, squared = "input_norm_squared", input_norm_squared
    _check_norm("weight_norm_squared", weight_norm_squared)
    _check_norm(name, squared)
    problem = Problem(
        classes=classes,
        samples=[int(count) for count in counts],
        dim=dim,
        loss=loss,
        weight_decay=(decay,) if kind == "plain" else (decay, decay),
        feature_decay=decay * weight_norm_squared / squared,
        bias="none" if bias_decay is None else bias_decay * factor,
        activation="linear" if kind == "plain" else "relu",
    )
    try:
        optimum = problem.optimum()
    except NoClosedForm as reason:
        return _numerical(problem, seed, str(reason))
    return MatchedUfm(problem, problem.construct(), optimum.value, optimum.basis)


def _to_half_scaling(loss: str, loss_scaling: str, classes: int) -> float:
    """What a network's penalties are multiplied by."""
    if loss_scaling not in ("half", "mean"):
        raise ValueError(f"loss_scaling: got {loss_scaling!r}; needs 'half' or 'mean'")
    if loss_scaling == "half":
        return 1.0
    if loss != "mse":
        raise ValueError(f"loss_scaling: got 'mean' with loss {loss!r}; it goes with 'mse' only")
    return classes / 2


def _check_norm(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"{name}: got {value}; needs a finite number > 0: "
            "the features' penalty cannot be inferred from a network that collapsed to zero or diverged"
        )


def _numerical(problem: Problem, seed: int, reason: str) -> MatchedUfm:
    """Best of several starts with tied features, in at most 2K dimensions, padded with zeros."""
    narrow = replace(problem, dim=min(problem.dim, 2 * problem.classes))
    results = [
        fit(narrow, "lbfgs", starts=starts, init_scale=scale, tied=True, seed=seed)
        for scale, starts in STARTS.items()
    ]
    result = min(results, key=lambda result: result.value)
    reached = sum(r.success_fraction * r.starts for r in results if r.value <= result.value * (1 + SUCCESS))
    starts = sum(STARTS.values())
    found, extra = result.minimiser, problem.dim - narrow.dim
    pad = torch.nn.functional.pad
    hidden = [pad(weight, (0, extra, 0, extra)) for weight in found.weights[:-1]]
    weights = [*hidden, pad(found.weights[-1], (0, extra))]
    wide = Minimiser(problem, pad(found.columns, (0, extra)), weights, found.bias, tied=True)
    basis = f"numerical: best of {starts} starts, found by {round(reached)} of them ({reason})"
    return MatchedUfm(problem, wide, result.value, basis, starts, reached / starts)
