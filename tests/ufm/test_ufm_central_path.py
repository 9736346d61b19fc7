"""The central path: the law against its equation and an integrator, the flow against the features' own gradient."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import ncpipe
from ncpipe.ufm.central_path import renormalized_flow, snr, snr_law


def clusters(classes: int, per_class: int, dim: int, *, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gaussian classes with a within-class covariance that is far from the identity, and shuffled labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes * per_class)[torch.randperm(classes * per_class, generator=generator)] % classes
    means, noise, shape = (
        torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (classes, len(labels), dim)
    )
    return means[labels] + spread * noise @ shape + 3, labels


# --- the law -------------------------------------------------------------------------------------


def test_law_has_the_known_value():
    law = snr_law(1.0, [0, 1000], classes=4, samples=48)
    assert law.shape == (2,)
    assert law.dtype == torch.float64
    assert float(law[0]) == pytest.approx(1, rel=1e-14)
    assert float(law[1]) == pytest.approx(3.22814866, abs=5e-9)


def by_bisection(start: float, time: float, classes: int, samples: int) -> float:
    """Root of N K log w + N w^2 + N/(4K) w^4 = a + t in u = log w, in extended precision."""
    wide = np.longdouble
    u0, t, K, N = np.log(wide(start)), wide(time), wide(classes), wide(samples)

    def height(u):
        return N * K * u + N * np.exp(2 * u) + N / (4 * K) * np.exp(4 * u)

    low, high, target = u0 - 1, u0 + 60, height(u0) + t
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if height(middle) > target else (middle, high)
    return float(np.exp((low + high) / 2))


@pytest.mark.parametrize("seed", range(20))
def test_law_solves_its_equation_over_the_whole_range(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 100))
    samples = classes * int(rng.integers(1, 1000))
    starts = 10 ** rng.uniform(-6, 3, 4)
    times = [0.0, 1e12, *10 ** rng.uniform(-6, 12, 6)]
    law = snr_law(starts, times, classes=classes, samples=samples)
    exact = [[by_bisection(start, time, classes, samples) for start in starts] for time in times]
    torch.testing.assert_close(law, torch.tensor(exact, dtype=torch.float64), rtol=1e-13, atol=0)
    alone = snr_law(starts[2], times, classes=classes, samples=samples)
    torch.testing.assert_close(law[:, 2], alone, rtol=1e-14, atol=0)


@pytest.mark.parametrize("seed", range(8))
def test_law_is_the_solution_of_the_differential_equation(seed):
    rng = np.random.default_rng(seed)
    classes, per_class, start = int(rng.integers(2, 20)), int(rng.integers(1, 50)), float(10 ** rng.uniform(-3, 1))
    samples, times = classes * per_class, np.sort(10 ** rng.uniform(-1, 6, 5))
    numerical = solve_ivp(
        lambda _, w: classes * w / (samples * (classes + w**2) ** 2),
        (0, times[-1]), [start], "DOP853", t_eval=times, rtol=1e-12, atol=1e-14,
    ).y[0]  # fmt: skip
    law = snr_law(start, times, classes=classes, samples=samples)
    np.testing.assert_allclose(law.numpy(), numerical, rtol=1e-9)


def test_law_rises_evens_out_and_ends_in_the_fourth_root():
    times = np.geomspace(1e-3, 1e12, 200)
    law = snr_law([1e-6, 0.1, 1.0, 50.0], times, classes=5, samples=50)
    assert bool((law.diff(dim=0) >= 0).all())
    assert bool((law.diff(dim=1) > -1e-13 * law[:, 1:]).all())
    ratio = law[:, -1] / law[:, 0]
    assert bool((ratio.diff() <= 1e-12 * ratio[1:]).all())
    assert float(ratio[-1]) - 1 < 1e-3
    torch.testing.assert_close(
        law[-1] ** 4, torch.full((4,), 4 * 5 * 1e12 / 50, dtype=torch.float64), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"start": 0.0}, "start"),
        ({"start": [1.0, -1.0]}, "start"),
        ({"start": float("nan")}, "start"),
        ({"start": [[1.0]]}, "start"),
        ({"times": [-1.0]}, "times"),
        ({"times": [float("inf")]}, "times"),
        ({"times": 1.0}, "times"),
        ({"samples": 50}, "samples"),
        ({"samples": 0}, "samples"),
        ({"classes": 1}, "samples"),
    ],
)
def test_mistakes_in_the_law_are_named(changes, name):
    arguments = {"start": 1.0, "times": [1.0], "classes": 4, "samples": 48, **changes}
    with pytest.raises(ValueError, match=f"^{name}: "):
        snr_law(arguments.pop("start"), arguments.pop("times"), **arguments)


# --- the signal-to-noise matrix ------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "per_class", "dim"), [(2, 20, 1), (4, 12, 6), (5, 9, 3), (3, 30, 20)])
def test_snr_is_that_of_the_definition(classes, per_class, dim):
    features, labels = clusters(classes, per_class, dim)
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(classes)])
    deviations = features - means[labels]
    values, axes = torch.linalg.eigh(deviations.T @ deviations / len(features))
    inverse_root = axes @ torch.diag(values**-0.5) @ axes.T
    expected = torch.linalg.svdvals((means - means.mean(dim=0)) @ inverse_root)[: classes - 1]
    torch.testing.assert_close(snr(features, labels), expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(snr(features.numpy(), labels.numpy()), snr(features, labels))
    twisted = features @ torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(snr(twisted, labels), expected, rtol=1e-7, atol=1e-9)


def test_snr_gives_nc1_and_the_least_squares_loss():
    features, labels = clusters(4, 12, 6)
    w = snr(features, labels)
    white = renormalized_flow(features, labels, time=1e-9, points=2).features
    assert ncpipe.measure(white, labels)["nc1_pinv"] == pytest.approx(float(w.pow(-2).sum()), rel=1e-8)
    targets = torch.eye(4, dtype=torch.float64)[labels]
    assert float(0.5 * (1 / (4 + w**2)).sum()) == pytest.approx(
        float(least_squares_loss(features, targets)), rel=1e-10
    )


# --- the flow against brute force ----------------------------------------------------------------


def least_squares_loss(features: Tensor, targets: Tensor) -> Tensor:
    """1/(2N) sum_i |W_LS h_i + b_LS - y_i|^2 by a least-squares fit on the extended features."""
    extended = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    fitted = extended @ torch.linalg.solve(extended.T @ extended, extended.T @ targets)
    return (fitted - targets).square().sum() / (2 * len(features))


def class_parts(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(int(labels.max()) + 1)])
    return means[labels], features - means[labels]


def tangent(gradient: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Projection on the features V with sum_i v_i delta_i^T + delta_i v_i^T = 0, by its constraints' span."""
    _, deviations = class_parts(features, labels)
    dim = features.shape[1]
    normals = []
    for i in range(dim):
        for j in range(i, dim):
            symmetric = torch.zeros(dim, dim, dtype=torch.float64)
            symmetric[i, j] = symmetric[j, i] = 1
            normals.append((deviations @ symmetric).flatten())
    basis = torch.linalg.qr(torch.stack(normals, dim=1)).Q
    return gradient - (basis @ (basis.T @ gradient.flatten())).view_as(gradient)


def brute_force_velocity(features: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    h = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(least_squares_loss(h, targets), h)
    return -tangent(gradient, features, labels)


def whitened(features: Tensor, labels: Tensor) -> Tensor:
    _, deviations = class_parts(features, labels)
    values, axes = torch.linalg.eigh(deviations.T @ deviations / len(features))
    return features @ axes @ torch.diag(values**-0.5) @ axes.T


@pytest.mark.parametrize("seed", range(4))
def test_within_class_part_of_the_gradient_is_normal(seed):
    features, labels = clusters(4, 8, 5, seed=seed)
    white, targets = whitened(features, labels), torch.eye(4, dtype=torch.float64)[labels]
    h = white.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(least_squares_loss(h, targets), h)
    _, within_gradient = class_parts(gradient, labels)
    _, within_velocity = class_parts(brute_force_velocity(white, labels, targets), labels)
    assert float(within_gradient.norm()) > 0.1 * float(gradient.norm())
    assert float(within_velocity.norm()) < 1e-12 * float(gradient.norm())


@pytest.mark.parametrize(("classes", "per_class", "dim", "seed"), [(3, 6, 3, 0), (4, 8, 3, 1), (2, 10, 4, 2)])
def test_flow_is_that_of_every_sample_with_renormalisation(classes, per_class, dim, seed):
    """Runge-Kutta steps of all N d numbers, by autograd of the loss, an explicit projection and whitening."""
    features, labels = clusters(classes, per_class, dim, seed=seed)
    targets, time, steps = torch.eye(classes, dtype=torch.float64)[labels], 300.0, 100
    h, step = whitened(features, labels), time / steps
    for _ in range(steps):
        k1 = brute_force_velocity(h, labels, targets)
        k2 = brute_force_velocity(h + step / 2 * k1, labels, targets)
        k3 = brute_force_velocity(h + step / 2 * k2, labels, targets)
        k4 = brute_force_velocity(h + step * k3, labels, targets)
        h = whitened(h + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4), labels)
    path = renormalized_flow(features, labels, time=time, points=3)
    assert float(path.singular_values[-1, 0]) > 1.01 * float(path.singular_values[0, 0])
    torch.testing.assert_close(path.features, h, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(path.singular_values[-1], snr(h, labels), rtol=1e-7, atol=0)
    assert float(path.loss[-1]) == pytest.approx(float(least_squares_loss(h, targets)), rel=1e-7)


@pytest.mark.parametrize(
    ("classes", "per_class", "dim", "spread", "time"),
    [(4, 12, 6, 1.0, 1e4), (2, 20, 1, 3.0, 1e5), (5, 8, 4, 0.05, 1e3), (10, 50, 30, 1.0, 1e6), (3, 10, 5, 10.0, 1e9)],
)
def test_flow_obeys_the_law(classes, per_class, dim, spread, time):
    features, labels = clusters(classes, per_class, dim, spread=spread)
    path = renormalized_flow(features, labels, time=time, points=12)
    law = snr_law(path.singular_values[0], path.times, classes=classes, samples=len(labels))
    torch.testing.assert_close(path.singular_values, law, rtol=1e-9, atol=0)
    torch.testing.assert_close(path.singular_values[0], snr(features, labels), rtol=1e-9, atol=0)
    torch.testing.assert_close(path.loss, (1 / (classes + law**2)).sum(dim=1) / 2, rtol=1e-9, atol=0)
    assert path.times.shape == (12,)
    assert path.times[[0, -1]].tolist() == [0.0, time]
    assert bool((path.loss.diff() < 0).all())
    assert bool((path.nc1_pinv.diff() < 0).all())
    assert ncpipe.measure(path.features, labels)["nc1_pinv"] == pytest.approx(float(path.nc1_pinv[-1]), rel=1e-8)
    _, deviations = class_parts(path.features, labels)
    covariance = deviations.T @ deviations / len(labels)
    torch.testing.assert_close(covariance, torch.eye(dim, dtype=torch.float64), rtol=0, atol=1e-11)


def test_numpy_and_single_precision_are_taken():
    features, labels = clusters(3, 10, 4)
    path = renormalized_flow(features.numpy().astype(np.float32), labels.numpy(), time=10, points=2)
    assert path.features.dtype == torch.float64
    torch.testing.assert_close(path.singular_values[0], snr(features, labels), rtol=1e-4, atol=0)


def test_mistakes_are_named_with_a_remedy():
    features, labels = clusters(4, 12, 6)
    collinear = torch.eye(4, 6, dtype=torch.float64)
    collinear[3] = (collinear[0] + collinear[1]) / 2
    _, deviations = class_parts(features, labels)
    for arguments, message in [
        ((features[:-1], labels[:-1]), "^labels: classes have 11 to 12 samples.*take the same number"),
        ((features[:, :2], labels), "^features: d = 2 is below K - 1 = 3"),
        (
            (features[:, [0, 1, 2, 3, 4, 4]], labels),
            "^features: the within-class covariance is singular, of rank 5 in d = 6",
        ),
        (clusters(4, 2, 6), "singular, of rank 4 in d = 6 dimensions; give more samples"),
        ((deviations + collinear[labels], labels), "^features: the centred class means have rank below K - 1 = 3"),
        ((features, labels * 0), "^labels: one class only"),
        ((features, labels * 2), "^labels: no sample of class 1"),
        ((features / 0, labels), "^features has .* non-finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            renormalized_flow(*arguments, time=10.0)
    for changes, name in [
        ({"time": 0.0}, "time"),
        ({"time": math.inf}, "time"),
        ({"time": 1.0, "points": 1}, "points"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            renormalized_flow(features, labels, **changes)
