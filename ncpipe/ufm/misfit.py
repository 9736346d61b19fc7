"""The misfit: how far predictions of networks are from what is measured, beside the error of a guess."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Frame = Literal["of", "etf"]
GRAMS = ("means_gram", "hidden_gram", "weights_gram")
SIZES = ("weight_norm", "feature_norm", "objective")
SCATTER = "scatter"
"""Model and guess agree in it, so that it is reported by itself: in the numbers it would dilute their ratio."""
ROUNDING = 1e-12
"""A guess with an error below this is right."""
QUANTITIES = (*GRAMS, *SIZES, SCATTER)


@dataclass(frozen=True, eq=False)
class Signature:
    """What a model predicts of a network, or what was measured in it; nothing of it depends on coordinates.

    None is what is not predicted, or was not measured.
    """

    means_gram: Array
    """Uncentred Gram of the class means of the last features, (K, K)."""
    weights_gram: Array
    """W W^T, (K, K)."""
    hidden_gram: Array | None = None
    """Uncentred Gram of the class means one level below, of H_1, (K, K)."""
    weight_norm: float | None = None
    """|W|_F."""
    feature_norm: float | None = None
    """|H|_F of the last features."""
    objective: float | None = None
    """Mean loss with all penalties; of a model its smallest value."""
    scatter: float | None = None
    """Tr S_W / (Tr S_W + Tr S_B) of the last features, in [0, 1]: the share of the variance within classes."""

    def without_sizes(self) -> Signature:
        """Signature without norms and objective: of one network, the guess fits them exactly."""
        return replace(self, weight_norm=None, feature_norm=None, objective=None)


@dataclass(frozen=True, eq=False)
class Misfit:
    """Distances of a model and of the guess from networks."""

    model: dict[str, Array]
    """Distance of the model from each network, (networks,), by quantity."""
    guess: dict[str, Array]
    """Distance of the guess from each network, (networks,), by quantity."""

    @property
    def error(self) -> float:
        """Root mean square of the model's distances but for the scatter's: 0 is right, and no more than sqrt(2)."""
        return _rms(*_decisive(self.model))

    @property
    def guess_error(self) -> float:
        """Error of the guess."""
        return _rms(*_decisive(self.guess))

    @property
    def value(self) -> float:
        """``error`` over ``guess_error``; 1 where both say the same, NaN where the guess is right."""
        return self.error / self.guess_error if self.guess_error > ROUNDING else math.nan

    @property
    def errors(self) -> dict[str, float]:
        """Root mean square over the networks of every quantity by itself, the scatter included."""
        return {name: _rms(distances) for name, distances in self.model.items()}

    @property
    def guess_errors(self) -> dict[str, float]:
        """Errors of the guess by quantity."""
        return {name: _rms(distances) for name, distances in self.guess.items()}


def misfit(predicted: Sequence[Signature], measured: Sequence[Signature], classifier: Frame = "of") -> Misfit:
    r"""Distances between the predictions of a model and the networks of a sweep, and those of :func:`fair_guess`.

    .. math:: \text{error}^2 = \frac1{QI} \sum_q \sum_i D_q(\text{model}_i, \text{network}_i)^2

    over networks i = 1, .., I and the Q quantities that predictions and measurements all have. Of Grams, D is the
    Frobenius distance, each Gram at unit norm, in [0, sqrt 2]. Of sizes it is :math:`|p - m|/(p + m)`, and of the
    scatter :math:`|p - m|`, both in [0, 1]. Give a model no size that was matched: it is no prediction.

    Args:
        predicted: of each network, in the order of ``measured``.
        measured: of networks that differ in what the model depends on, such as their weight decay.
        classifier: frame of the guess for the classifier, ``"etf"`` with a bias or cross entropy.

    Raises:
        ValueError: the two differ in length or are empty; Grams are not (K, K) of one K; a number is not finite or
            is negative; a measured size is zero.

    Example:
        >>> import numpy as np
        >>> networks = [Signature(np.eye(4), np.eye(4) - 1 / 4)] * 2
        >>> found = misfit([Signature(np.eye(4), np.eye(4))] * 2, networks, classifier="etf")
        >>> round(found.error, 3), found.guess_error, round(found.errors["weights_gram"], 3)
        (0.366, 0.0, 0.518)
    """
    if len(predicted) != len(measured):
        raise ValueError(f"predicted: got {len(predicted)} for {len(measured)} networks; needs one of each")
    guess = fair_guess(measured, classifier)
    for number, signature in enumerate(predicted):
        _check(f"predicted[{number}]", signature, len(measured[0].means_gram))
    compared = [name for name in QUANTITIES if all(getattr(s, name) is not None for s in (*predicted, *measured))]
    model, reference = (
        {name: np.array([_distance(name, one, other) for one, other in zip(side, measured)]) for name in compared}
        for side in (predicted, guess)
    )
    return Misfit(model, reference)


def fair_guess(measured: Sequence[Signature], classifier: Frame = "of") -> list[Signature]:
    """The guess, the best constant that needs no model: class means an orthogonal frame (OF) at every level, the
    classifier an OF or a simplex ETF, no scatter, and sizes the geometric mean of those measured, which favours it.

    Raises:
        ValueError: as :func:`misfit`.
    """
    if not measured:
        raise ValueError("measured: got no network; needs one at least")
    if classifier not in ("of", "etf"):
        raise ValueError(f"classifier: got {classifier!r}; needs 'of' or 'etf'")
    classes = len(measured[0].means_gram)
    for number, signature in enumerate(measured):
        _check(f"measured[{number}]", signature, classes)
        for name in SIZES:
            if getattr(signature, name) == 0:
                raise ValueError(f"measured[{number}].{name}: got 0; a network that collapsed to zero has no frame")
    frame = np.eye(classes)
    sizes = {name: _geometric_mean([getattr(s, name) for s in measured]) for name in SIZES}
    guess = Signature(frame, frame - (classifier == "etf") / classes, hidden_gram=frame, scatter=0.0, **sizes)
    return [guess] * len(measured)


def gram_distance(one: Array, other: Array) -> float:
    """Frobenius distance of two Grams (K, K), each at unit norm; a zero stays zero, at distance 1 of the others."""
    return float(np.linalg.norm(_unit(one) - _unit(other)))


def size_distance(one: float, other: float) -> float:
    """|p - m|/(p + m) of two sizes >= 0: 1 where one of them is zero, 0 where both are."""
    return 0.0 if one == other else abs(one - other) / (one + other)


def frames_apart(classes: float) -> float:
    """``gram_distance`` of an orthogonal frame and a simplex ETF, sqrt(2 - 2 sqrt((K-1)/K)): 0.32 of ten classes."""
    return math.sqrt(2 - 2 * math.sqrt((classes - 1) / classes))


def _distance(name: str, one: Signature, other: Signature) -> float:
    p, m = getattr(one, name), getattr(other, name)
    return abs(p - m) if name == SCATTER else (gram_distance if name in GRAMS else size_distance)(p, m)


def _unit(gram: Array) -> Array:
    norm = np.linalg.norm(gram)
    return gram / norm if norm > 0 else gram


def _decisive(distances: Mapping[str, Array]) -> list[Array]:
    return [values for name, values in distances.items() if name != SCATTER]


def _rms(*distances: Array) -> float:
    return float(np.sqrt(np.mean(np.square(np.concatenate(distances)))))


def _geometric_mean(sizes: Sequence[float | None]) -> float | None:
    known = [math.log(size) for size in sizes if size is not None]
    return math.exp(np.mean(known)) if len(known) == len(sizes) else None


def _check(name: str, signature: Signature, classes: int) -> None:
    for field in GRAMS:
        gram = getattr(signature, field)
        if gram is not None and np.shape(gram) != (classes, classes):
            raise ValueError(f"{name}.{field}: got shape {np.shape(gram)}; needs ({classes}, {classes})")
        if gram is not None and not np.isfinite(gram).all():
            raise ValueError(f"{name}.{field}: got a value that is not finite")
    for field in (*SIZES, SCATTER):
        size = getattr(signature, field)
        if size is not None and not (math.isfinite(size) and size >= 0):
            raise ValueError(f"{name}.{field}: got {size}; needs a finite number >= 0")
