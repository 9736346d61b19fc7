"""The unconstrained-features problem: its settings, checked, and the names of its layers."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ncpipe.ufm import closed_form

if TYPE_CHECKING:
    from ncpipe.ufm.closed_form import Optimum
    from ncpipe.ufm.objective import Minimiser

Loss = Literal["mse", "ce", "label_smoothing", "focal"]
Activation = Literal["linear", "relu"]


@dataclass(frozen=True)
class Problem:
    r"""An unconstrained-features model (UFM): features, weights and bias are all free and penalised.

    .. math:: f = \frac1N \sum_i \ell(W_L s(\dots s(W_1 h_i)) + b, y_i)
              + \sum_l \frac{\lambda_l}2 |W_l|^2 + \frac{\lambda_H}2 \sum_i |h_i|^2 + \frac{\lambda_b}2 |b|^2

    with K classes, N samples and the loss of logits z of a sample of class y, p = softmax(z):
    ``mse`` :math:`\frac12 [k (z_y - M)^2 + \sum_{j \ne y} z_j^2]` (k = M = 1 unless rescaled), ``ce``
    :math:`-\log p_y`, ``label_smoothing`` :math:`-\sum_j [(1 - \alpha) \delta_{jy} + \alpha / K] \log p_j`,
    ``focal`` :math:`-(1 - p_y)^\gamma \log p_y`.
    L = 1 is the plain UFM, L = 2 the extended one of Tirer & Bruna (ICML 2022), more the deep UFM of Súkeník et al.
    (NeurIPS 2023).

    Args:
        classes: K, at least 2.
        samples: samples per class n, or one number per class when they differ.
        dim: width d of the features and of the hidden layers.
        loss: ``"mse"``, ``"ce"``, ``"label_smoothing"`` or ``"focal"``.
        weight_decay: penalties of W_1 (d x d if L > 1) .. W_L (K x d), which make the depth L; a number when
            L = 1. Positive: with a zero penalty the infimum is not attained.
        feature_decay: penalty of the features, positive.
        bias: of the classifier: ``"none"``, ``"free"``, or its penalty (0 is the same as ``"free"``).
        activation: s, between weight layers: ``"linear"``, or ``"relu"`` (needs L >= 2).
        smoothing: alpha of ``label_smoothing``, in (0, 1).
        gamma: exponent of ``focal``, positive.
        rescale: (k, M) of ``mse``, positive.

    Raises:
        ValueError: naming the field, what it got and what it needs.
    """

    classes: int
    samples: int | Sequence[int]
    dim: int
    loss: Loss = "mse"
    weight_decay: float | Sequence[float] = 5e-3
    feature_decay: float = 1e-3
    bias: Literal["none", "free"] | float = "none"
    activation: Activation = "linear"
    smoothing: float = 0.0
    gamma: float = 0.0
    rescale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        self._set("classes", _integer("classes", self.classes, at_least=2))
        self._set("samples", _samples(self.samples, self.classes))
        self._set("dim", _integer("dim", self.dim, at_least=1))
        self._set("loss", _choice("loss", self.loss, get_args(Loss)))
        self._set("weight_decay", _weight_decay(self.weight_decay))
        self._set("feature_decay", _penalty("feature_decay", self.feature_decay))
        self._set("bias", _bias(self.bias))
        self._set("activation", _choice("activation", self.activation, get_args(Activation)))
        self._set("smoothing", _penalty("smoothing", self.smoothing, zero=True))
        self._set("gamma", _penalty("gamma", self.gamma, zero=True))
        self._set("rescale", _rescale(self.rescale))
        for reason in loss_mistakes(self.loss, self.smoothing, self.gamma, self.rescale):
            raise ValueError(reason)
        if self.activation == "relu" and self.depth == 1:
            raise ValueError(
                "activation: got 'relu' with one weight layer; it stands between two: give weight_decay as (W_1, W_2)"
            )

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    @property
    def weight_decays(self) -> tuple[float, ...]:
        """Penalties of W_1 .. W_L."""
        assert isinstance(self.weight_decay, tuple)  # normalised above
        return self.weight_decay

    @property
    def loss_parameters(self) -> tuple[float, ...]:
        """What the loss has beside its name."""
        return {"mse": self.rescale, "ce": (), "label_smoothing": (self.smoothing,), "focal": (self.gamma,)}[
            self.loss
        ]

    @property
    def depth(self) -> int:
        """Number of weight matrices, L."""
        return len(self.weight_decays)

    @property
    def bias_decay(self) -> float | None:
        """Penalty of the bias, 0 when it is free, None when there is no bias."""
        if isinstance(self.bias, str):
            return {"none": None, "free": 0.0}[self.bias]
        return self.bias

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples per class, n_1 .. n_K."""
        return (self.samples,) * self.classes if isinstance(self.samples, int) else tuple(self.samples)

    @property
    def num_samples(self) -> int:
        """N."""
        return sum(self.counts)

    @property
    def balanced(self) -> bool:
        return len(set(self.counts)) == 1

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the measured layers from the first; ``features`` is what the classifier reads."""
        hidden = [f"H{level}" for level in range(1, self.depth)]
        if self.activation == "relu":
            hidden = [name for level, h in enumerate(hidden, start=1) for name in (h, f"W{level}{h}")]
        return (*hidden, "features")

    def optimum(self) -> Optimum:
        """The smallest objective, in closed form. See ``ncpipe.ufm.closed_form``.

        Raises:
            NoClosedForm: with the reason, where no theorem or derivation gives it.

        Example:
            >>> round(Problem(4, samples=5, dim=6, weight_decay=5e-3, feature_decay=1e-3).optimum().scale, 6)
            0.98
        """
        return closed_form.solve(self).optimum

    def construct(self) -> Minimiser:
        """One explicit minimiser, balanced: every factor pays the same penalty, every class has one feature vector.

        Its objective is ``optimum().value``. Minimisers are not unique: rotations of the feature space are free,
        and so is the live subspace where ``dim`` is below the rank of the targets.

        Raises:
            NoClosedForm: with the reason, where there is no closed form.
        """
        return closed_form.construct(self)


def loss_mistakes(loss: str, smoothing: float, gamma: float, rescale: tuple[float, float]) -> Iterator[str]:
    """What is wrong with the parameters of a loss: those of another, or one that is missing."""
    if (loss == "label_smoothing") != (0 < smoothing < 1):
        yield f"smoothing: got {smoothing} with loss {loss!r}; it is in (0, 1) with 'label_smoothing', else 0"
    if (loss == "focal") != (gamma > 0):
        yield f"gamma: got {gamma} with loss {loss!r}; it is > 0 with 'focal', else 0"
    if loss != "mse" and tuple(rescale) != (1, 1):
        yield f"rescale: got {rescale} with loss {loss!r}; it goes with 'mse'"


def _rescale(value: Any) -> tuple[float, float]:
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"rescale: got {value!r}; needs two numbers > 0, (k, M)")
    return _penalty("rescale", value[0]), _penalty("rescale", value[1])


def _integer(field: str, value: Any, at_least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{field}: got {value!r}; needs an integer, at least {at_least}") from None
    if number < at_least:
        raise ValueError(f"{field}: got {number}; needs an integer, at least {at_least}")
    return number


def _samples(value: Any, classes: int) -> int | tuple[int, ...]:
    if not isinstance(value, Sequence):
        return _integer("samples", value, at_least=1)
    counts = tuple(_integer("samples", count, at_least=1) for count in value)
    if len(counts) != classes:
        raise ValueError(f"samples: got {len(counts)} numbers for {classes} classes; needs one per class")
    return counts[0] if len(set(counts)) == 1 else counts


def _penalty(field: str, value: Any, *, zero: bool = False) -> float:
    needs = f"a finite number {'>= 0' if zero else '> 0'}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{field}: got {value!r}; needs {needs}") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{field}: got {number}; needs {needs}")
    return number


def _weight_decay(value: Any) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if not values:
        raise ValueError("weight_decay: got no number; needs one per weight layer")
    return tuple(_penalty("weight_decay", number) for number in values)


def _bias(value: Any) -> Literal["none", "free"] | float:
    if isinstance(value, str):
        if value not in ("none", "free"):
            raise ValueError(f"bias: got {value!r}; needs 'none', 'free' or a penalty >= 0")
        return "none" if value == "none" else "free"
    return _penalty("bias", value, zero=True) or "free"


def _choice(field: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{field}: got {value!r}; needs one of {', '.join(map(repr, known))}")
    return value
