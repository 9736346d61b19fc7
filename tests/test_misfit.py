"""The misfit on networks for which the answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ncpipe.ufm import Signature, constant_etf, misfit
from ncpipe.ufm.misfit import gram_distance, size_distance

CLASSES, WIDTH = 5, 12


def signature(means: np.ndarray, weight: np.ndarray, loss: float, samples: int = 7) -> Signature:
    norms = float(np.linalg.norm(weight) * np.linalg.norm(means) * samples**0.5)
    return Signature(means @ means.T, weight @ weight.T, norms, loss)


def factors(count: int = 3, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Non-negative class means, a classifier and a loss of every network."""
    rng = np.random.default_rng(seed)
    shape = (CLASSES, WIDTH)
    return [(np.abs(rng.normal(size=shape)), rng.normal(size=shape), 10.0 ** -(i + 1)) for i in range(count)]


NETWORKS = [signature(*parts) for parts in factors()]
OTHERS = [signature(*parts) for parts in factors(seed=1)]


def test_perfect_is_zero_and_the_guess_is_one_exactly():
    assert misfit(NETWORKS, NETWORKS).value == 0
    guess = misfit(constant_etf(NETWORKS), NETWORKS)
    assert guess.value == 1
    assert guess.ratios == dict.fromkeys(("means_gram", "weights_gram", "norms", "loss"), 1)


def test_against_the_formula():
    unit = lambda gram: gram / np.linalg.norm(gram)  # noqa: E731
    etf = unit(np.eye(CLASSES) - 1 / CLASSES)
    upper = lower = 0.0
    for p, m in zip(OTHERS, NETWORKS, strict=True):
        for gram in ("means_gram", "weights_gram"):
            upper += np.square(unit(getattr(p, gram)) - unit(getattr(m, gram))).sum()
            lower += np.square(etf - unit(getattr(m, gram))).sum()
        for size in ("norms", "loss"):
            middle = np.prod([getattr(n, size) for n in NETWORKS]) ** (1 / len(NETWORKS))
            upper += ((getattr(p, size) - getattr(m, size)) / (getattr(p, size) + getattr(m, size))) ** 2
            lower += ((middle - getattr(m, size)) / (middle + getattr(m, size))) ** 2
    assert misfit(OTHERS, NETWORKS).value == pytest.approx(math.sqrt(upper / lower), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 40.0])
def test_free_of_the_scale_of_weights_features_and_loss(scale):
    scaled = [[signature(a * scale, w * scale**2, loss * scale) for a, w, loss in factors(seed=s)] for s in (1, 0)]
    assert misfit(*scaled).value == pytest.approx(misfit(OTHERS, NETWORKS).value, rel=1e-12)


def test_free_of_rotations_and_of_the_order_of_classes():
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(WIDTH, WIDTH)))[0]
    turned = [signature(a @ rotation, w @ rotation, loss) for a, w, loss in factors(seed=1)]
    assert misfit(turned, NETWORKS).value == pytest.approx(misfit(OTHERS, NETWORKS).value, rel=1e-12)
    order = np.array([3, 0, 4, 1, 2])
    again = [[signature(a[order], w[order], loss) for a, w, loss in factors(seed=s)] for s in (1, 0)]
    assert misfit(*again).value == pytest.approx(misfit(OTHERS, NETWORKS).value, rel=1e-12)


def test_a_prediction_of_zero_costs_one_in_every_quantity():
    nothing = np.zeros((CLASSES, CLASSES))
    result = misfit([Signature(nothing, nothing, 0.0, 0.0)] * 3, NETWORKS)
    np.testing.assert_allclose([*result.model.values()], 1, rtol=1e-15)
    assert result.value == pytest.approx(math.sqrt(12 / sum(np.square(d).sum() for d in result.guess.values())))


def test_worse_than_the_guess_is_above_one():
    etf = np.eye(CLASSES) - 1 / CLASSES
    networks = [Signature(etf, etf, norms, 0.1) for norms in (1.0, 1.1)]
    worse = [Signature(np.eye(CLASSES), np.eye(CLASSES), n.norms, n.loss) for n in networks]
    assert misfit(worse, networks).value > 1


def test_a_size_that_hardly_varies_does_not_decide():
    """A constant fits it almost exactly: by itself the model is far worse there, together it counts as it errs."""
    networks = [replace(n, norms=1 + 1e-6 * i, loss=1e-2) for i, n in enumerate(NETWORKS)]
    result = misfit([replace(n, norms=1.02 * n.norms) for n in networks], networks)
    assert result.ratios["norms"] > 1e3
    assert result.value < 0.05


def test_one_network_is_compared_in_its_grams_only():
    result = misfit(OTHERS[:1], NETWORKS[:1])
    assert set(result.ratios) == {"means_gram", "weights_gram"}
    assert misfit([replace(OTHERS[0], norms=1e9, loss=1e9)], NETWORKS[:1]).value == result.value


def test_undefined_where_the_guess_is_right():
    etf = np.eye(CLASSES) - 1 / CLASSES
    assert math.isnan(misfit(OTHERS[:1], [Signature(etf, etf, 1.0, 1.0)]).value)


def test_distances():
    assert gram_distance(np.eye(4), 3 * np.eye(4)) == 0
    assert gram_distance(np.eye(4), np.eye(4) - 1 / 4) == pytest.approx(0.51763809)
    assert (size_distance(0, 0), size_distance(0, 2), size_distance(1, 3)) == (0, 1, 0.5)


@pytest.mark.parametrize(
    ("predicted", "measured", "text"),
    [
        (OTHERS[:2], NETWORKS, "predicted: got 2 for 3 networks"),
        ([], [], "measured: got no network"),
        ([replace(OTHERS[0], loss=math.inf)], NETWORKS[:1], r"predicted\[0\].loss: got inf"),
        ([replace(OTHERS[0], means_gram=np.eye(3))], NETWORKS[:1], r"predicted\[0\].means_gram: got shape \(3, 3\)"),
        (OTHERS[:1], [replace(NETWORKS[0], norms=0.0)], r"measured\[0\].norms: got 0"),
        ([replace(OTHERS[0], norms=-1.0)], NETWORKS[:1], r"predicted\[0\].norms: got -1"),
    ],
)
def test_mistakes_are_named(predicted, measured, text):
    with pytest.raises(ValueError, match=text):
        misfit(predicted, measured)
