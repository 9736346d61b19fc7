"""The misfit: how far predictions of a sweep of networks are off, in units of a constant simplex ETF's error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
GRAMS = ("means_gram", "weights_gram")
SIZES = ("norms", "loss")
QUANTITIES = GRAMS + SIZES


@dataclass(frozen=True, eq=False)
class Signature:
    """What a model predicts of a network, or what was measured in it; nothing of it depends on coordinates."""

    means_gram: Array
    """Uncentred Gram of the class means, (K, K)."""
    weights_gram: Array
    """W W^T, (K, K)."""
    norms: float
    """|W|_F |H|_F, H the last features. The ratio of the two is matched, not predicted."""
    loss: float
    """Mean loss without penalties."""


@dataclass(frozen=True, eq=False)
class Misfit:
    """The misfit of a model, and the distances behind it."""

    model: dict[str, Array]
    """Distance of the model from each network, (networks,), by quantity."""
    guess: dict[str, Array]
    """The same of the guess."""

    @property
    def value(self) -> float:
        """0: every prediction is right; 1: as far off as the guess. NaN where the guess is right in everything."""
        return _ratio(np.concatenate([*self.model.values()]), np.concatenate([*self.guess.values()]))

    @property
    def ratios(self) -> dict[str, float]:
        """The same of every quantity by itself."""
        return {name: _ratio(self.model[name], self.guess[name]) for name in self.model}


def misfit(predicted: Sequence[Signature], measured: Sequence[Signature]) -> Misfit:
    r"""How good a model is of a sweep of networks, as one number free of scale.

    .. math:: \text{misfit}^2 = \frac{\sum_q \sum_i D_q(\text{model}_i, \text{network}_i)^2}
                                     {\sum_q \sum_i D_q(\text{guess}, \text{network}_i)^2}

    over networks i and four quantities q. Of Grams, of class means (uncentred) and of the classifier, D is the
    Frobenius distance, each Gram at unit norm. Of sizes, the product :math:`|W|_F |H|_F` and the loss, it is
    :math:`|p - m|/(p + m)`. Each D is 0 for what is right and 1 for a prediction of zero, so they are added as they
    are. The guess is :func:`constant_etf`.

    The sums are taken before the quotient: a mean of quotients would be decided by a size that hardly varies over
    the sweep, where a constant fitted to the networks has next to no error. One network has its sizes left out, as a
    constant fits them exactly.

    Args:
        predicted: of each network, in the order of ``measured``.
        measured: of networks that differ in what the model depends on, such as their weight decay.

    Raises:
        ValueError: the two differ in length or are empty; Grams are not (K, K) of one K; a number is not finite or
            is negative; a measured size is zero.

    Example:
        >>> import numpy as np
        >>> networks = [Signature(np.eye(4), np.eye(4), norms, 0.1 / norms) for norms in (1.0, 2.0)]
        >>> misfit(networks, networks).value, misfit(constant_etf(networks), networks).value
        (0.0, 1.0)
    """
    if len(predicted) != len(measured):
        raise ValueError(f"predicted: got {len(predicted)} for {len(measured)} networks; needs one of each")
    guess = constant_etf(measured)
    for number, signature in enumerate(predicted):
        _check(f"predicted[{number}]", signature, len(measured[0].means_gram))
    compared = QUANTITIES if len(measured) > 1 else GRAMS
    model, reference = (
        {name: np.array([_distance(name, one, other) for one, other in zip(side, measured)]) for name in compared}
        for side in (predicted, guess)
    )
    return Misfit(model, reference)


def constant_etf(measured: Sequence[Signature]) -> list[Signature]:
    """The guess: both Grams a simplex ETF, both sizes the geometric mean of those measured, which favours it.

    Raises:
        ValueError: as :func:`misfit`.
    """
    if not measured:
        raise ValueError("measured: got no network; needs one at least")
    classes = len(measured[0].means_gram)
    for number, signature in enumerate(measured):
        _check(f"measured[{number}]", signature, classes)
        for name in SIZES:
            if getattr(signature, name) == 0:
                raise ValueError(f"measured[{number}].{name}: got 0; a network that collapsed to zero has no frame")
    etf = np.eye(classes) - 1 / classes
    norms, loss = (float(np.exp(np.mean([math.log(getattr(s, name)) for s in measured]))) for name in SIZES)
    return [Signature(etf, etf, norms, loss)] * len(measured)


def gram_distance(one: Array, other: Array) -> float:
    """Frobenius distance of two Grams (K, K), each at unit norm; a zero stays zero, at distance 1 of the others."""
    return float(np.linalg.norm(_unit(one) - _unit(other)))


def size_distance(one: float, other: float) -> float:
    """|p - m|/(p + m) of two sizes >= 0: 1 where one of them is zero, 0 where both are."""
    return 0.0 if one == other else abs(one - other) / (one + other)


def _distance(name: str, one: Signature, other: Signature) -> float:
    return (gram_distance if name in GRAMS else size_distance)(getattr(one, name), getattr(other, name))


def _unit(gram: Array) -> Array:
    norm = np.linalg.norm(gram)
    return gram / norm if norm > 0 else gram


def _ratio(model: Array, guess: Array) -> float:
    """Of the two root mean squares."""
    size = float(np.linalg.norm(guess))
    return float(np.linalg.norm(model)) / size if size > 0 else math.nan


def _check(name: str, signature: Signature, classes: int) -> None:
    for field in GRAMS:
        shape = np.shape(getattr(signature, field))
        if shape != (classes, classes):
            raise ValueError(f"{name}.{field}: got shape {shape}; needs ({classes}, {classes})")
        if not np.isfinite(getattr(signature, field)).all():
            raise ValueError(f"{name}.{field}: got a value that is not finite")
    for field in SIZES:
        size = getattr(signature, field)
        if not (math.isfinite(size) and size >= 0):
            raise ValueError(f"{name}.{field}: got {size}; needs a finite number >= 0")
