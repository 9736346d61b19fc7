"""The misfit on networks for which the answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ncpipe.ufm import Signature, fair_guess, misfit
from ncpipe.ufm.misfit import SIZES, frames_apart, gram_distance, size_distance

CLASSES, WIDTH, SAMPLES = 5, 12, 7
OF, ETF = np.eye(CLASSES), np.eye(CLASSES) - 1 / CLASSES


def signature(means: np.ndarray, weight: np.ndarray, objective: float) -> Signature:
    norms = {
        "weight_norm": float(np.linalg.norm(weight)),
        "feature_norm": float(np.linalg.norm(means) * SAMPLES**0.5),
    }
    return Signature(means @ means.T, weight @ weight.T, **norms, objective=objective, scatter=objective / 10)


def factors(count: int = 3, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Non-negative class means, a classifier and an objective of every network."""
    rng = np.random.default_rng(seed)
    shape = (CLASSES, WIDTH)
    return [(np.abs(rng.normal(size=shape)), rng.normal(size=shape), 10.0 ** -(i + 1)) for i in range(count)]


NETWORKS = [signature(*parts) for parts in factors()]
OTHERS = [signature(*parts) for parts in factors(seed=1)]


def ridge_stationary(scale: float, decay: float) -> Signature:
    """Collapsed features, an orthogonal frame of norm ``scale`` per sample, and the classifier that is stationary
    under its decay: W = a M, a = 1 / (scale^2 + K decay)."""
    factor = scale / (scale**2 + CLASSES * decay)
    means, weight = scale * OF, factor * OF
    fit = 1 - factor * scale
    return replace(signature(means, weight, fit**2 / 2 + decay / 2 * CLASSES * factor**2), scatter=0.0)


@pytest.mark.parametrize("classifier", ["of", "etf"])
def test_perfect_is_zero_and_the_guess_is_one_exactly(classifier):
    perfect = misfit(NETWORKS, NETWORKS, classifier)
    assert (perfect.error, perfect.value) == (0, 0)
    assert set(perfect.errors.values()) == {0}
    guess = misfit(fair_guess(NETWORKS, classifier), NETWORKS, classifier)
    assert guess.value == 1
    assert guess.error == guess.guess_error > 0


def test_against_the_formula():
    unit = lambda gram: gram / np.linalg.norm(gram)  # noqa: E731
    upper, lower = [], []
    for p, m in zip(OTHERS, NETWORKS, strict=True):
        for gram, frame in (("means_gram", OF), ("weights_gram", ETF)):
            upper.append(np.square(unit(getattr(p, gram)) - unit(getattr(m, gram))).sum())
            lower.append(np.square(unit(frame) - unit(getattr(m, gram))).sum())
        for size in SIZES:
            middle = np.prod([getattr(n, size) for n in NETWORKS]) ** (1 / len(NETWORKS))
            upper.append(((getattr(p, size) - getattr(m, size)) / (getattr(p, size) + getattr(m, size))) ** 2)
            lower.append(((middle - getattr(m, size)) / (middle + getattr(m, size))) ** 2)
    found = misfit(OTHERS, NETWORKS, "etf")
    assert found.error == pytest.approx(math.sqrt(np.mean(upper)), rel=1e-12)
    assert found.guess_error == pytest.approx(math.sqrt(np.mean(lower)), rel=1e-12)
    assert found.value == pytest.approx(math.sqrt(sum(upper) / sum(lower)), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 40.0])
def test_free_of_the_scale_of_weights_features_and_objective(scale):
    scaled = [[signature(a * scale, w * scale**2, f * scale) for a, w, f in factors(seed=s)] for s in (1, 0)]
    assert misfit(*scaled).value == pytest.approx(misfit(OTHERS, NETWORKS).value, rel=1e-12)


def test_free_of_rotations_and_of_the_order_of_classes():
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(WIDTH, WIDTH)))[0]
    turned = [signature(a @ rotation, w @ rotation, f) for a, w, f in factors(seed=1)]
    assert misfit(turned, NETWORKS).error == pytest.approx(misfit(OTHERS, NETWORKS).error, rel=1e-12)
    order = np.array([3, 0, 4, 1, 2])
    again = [[signature(a[order], w[order], f) for a, w, f in factors(seed=s)] for s in (1, 0)]
    assert misfit(*again).error == pytest.approx(misfit(OTHERS, NETWORKS).error, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_a_made_up_frame_of_any_scale_is_no_success_of_sizes(scale):
    """Its classifier follows from stationarity alone, and a matched model takes the scale from it."""
    decays = (1e-3, 1e-2)
    networks = [ridge_stationary(scale, decay) for decay in decays]
    matched = misfit([network.without_sizes() for network in networks], networks)
    assert set(matched.errors) == {"means_gram", "weights_gram", "scatter"}
    assert max(matched.error, matched.guess_error) < 1e-15  # an orthogonal frame is the guess: nothing is won by it
    assert math.isnan(matched.value)
    predicted = misfit([ridge_stationary(2.0, decay) for decay in decays], networks)
    assert all(predicted.errors[name] > 0.3 for name in ("weight_norm", "feature_norm"))
    assert predicted.error > 0.2
    assert predicted.value > 1


def test_scatter_is_told_and_not_counted():
    networks = [Signature(OF + 0.1, ETF, scatter=share) for share in (0.3, 0.4)]
    frames = [Signature(OF + 0.1, ETF, scatter=0.0)] * 2
    found = misfit(frames, networks, "etf")
    assert found.error == 0
    assert found.errors["scatter"] == found.guess_errors["scatter"] == pytest.approx(math.sqrt((0.09 + 0.16) / 2))


def test_the_guess_is_what_a_colleague_would_name():
    for frame, classifier in ((OF, "of"), (ETF, "etf")):
        networks = [Signature(OF * size, frame / size, hidden_gram=OF) for size in (1.0, 3.0)]
        found = misfit([Signature(ETF, OF, hidden_gram=ETF)] * 2, networks, classifier)
        assert found.guess_error < 1e-15
        assert math.isnan(found.value)
        assert found.errors["means_gram"] == found.errors["hidden_gram"] == pytest.approx(frames_apart(CLASSES))
    sizes = [Signature(OF, OF, weight_norm=size) for size in (1.0, 4.0)]
    assert fair_guess(sizes)[0].weight_norm == pytest.approx(2)
    assert fair_guess(sizes)[0].objective is None


def test_only_what_both_have_is_compared():
    hidden = [replace(n, hidden_gram=OF) for n in NETWORKS]
    assert "hidden_gram" not in misfit(OTHERS, hidden).errors
    assert "hidden_gram" in misfit(hidden, hidden).errors
    assert misfit(OTHERS, [hidden[0], *NETWORKS[1:]]).errors == misfit(OTHERS, NETWORKS).errors


def test_a_prediction_of_zero_costs_one_in_every_quantity():
    nothing = np.zeros((CLASSES, CLASSES))
    result = misfit([Signature(nothing, nothing, None, 0.0, 0.0, 0.0)] * 3, NETWORKS)
    np.testing.assert_allclose([*result.model.values()], 1, rtol=1e-15)
    assert result.error == pytest.approx(1)


def test_distances():
    assert gram_distance(np.eye(4), 3 * np.eye(4)) == 0
    assert gram_distance(np.eye(4), np.eye(4) - 1 / 4) == pytest.approx(0.51763809)
    assert frames_apart(4) == pytest.approx(0.51763809)
    assert (size_distance(0, 0), size_distance(0, 2), size_distance(1, 3)) == (0, 1, 0.5)


@pytest.mark.parametrize(
    ("predicted", "measured", "text"),
    [
        (OTHERS[:2], NETWORKS, "predicted: got 2 for 3 networks"),
        ([], [], "measured: got no network"),
        ([replace(OTHERS[0], objective=math.inf)], NETWORKS[:1], r"predicted\[0\].objective: got inf"),
        ([replace(OTHERS[0], means_gram=np.eye(3))], NETWORKS[:1], r"predicted\[0\].means_gram: got shape \(3, 3\)"),
        (OTHERS[:1], [replace(NETWORKS[0], weight_norm=0.0)], r"measured\[0\].weight_norm: got 0"),
        ([replace(OTHERS[0], scatter=-1.0)], NETWORKS[:1], r"predicted\[0\].scatter: got -1"),
    ],
)
def test_mistakes_are_named(predicted, measured, text):
    with pytest.raises(ValueError, match=text):
        misfit(predicted, measured)


def test_an_unknown_frame_is_named():
    with pytest.raises(ValueError, match="classifier: got 'simplex'"):
        misfit(OTHERS, NETWORKS, "simplex")  # type: ignore[arg-type]
