"""Draw docs/images/pseudo_inverse_trap: NC1 while two of ten classes approach each other, by several recipes.

All recipes read the same float32 features: 64 dimensions, standard deviation 1e-4 in every coordinate, two
classes at a given distance, the others about 7 apart. Run: python docs/figures/pseudo_inverse_trap.py
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

import ncpipe
from ncpipe.collapse import class_moments
from ncpipe.figures.drawing.style import OKABE_ITO, new_figure, style

K, DIM, PER_CLASS, NOISE = 10, 64, 200, 1e-4
DISTANCES = np.geomspace(1, 1e-7, 29)
IMAGES = Path(__file__).resolve().parent.parent / "images"
BLUE, RED, GREEN, PURPLE, ORANGE = (OKABE_ITO[c] for c in ("blue", "vermillion", "green", "purple", "orange"))


def sample(distance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, d) float32 and labels; samples in pairs about their mean, so that the distance is exact."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(K, DIM, generator=generator, dtype=torch.float64).abs()
    direction = torch.randn(DIM, generator=generator, dtype=torch.float64)
    means[1] = means[0] + distance * direction / direction.norm()
    noise = NOISE * torch.randn(K, PER_CLASS // 2, DIM, generator=generator, dtype=torch.float64)
    features = means[:, None] + torch.cat([noise, -noise], dim=1)
    return features.flatten(0, 1).float(), torch.arange(K).repeat_interleave(PER_CLASS)


def covariances(features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(K)])
    deviation, centred = features - means[labels], means - means.mean(dim=0)
    return deviation.T @ deviation / len(features), centred.T @ centred / K


def float32_pinv(features: torch.Tensor, labels: torch.Tensor) -> float:
    within, between = covariances(features, labels)
    return float((within @ torch.linalg.pinv(between)).trace()) / K


def numpy_pinv(features: torch.Tensor, labels: torch.Tensor) -> float:
    within, between = (matrix.numpy() for matrix in covariances(features, labels))
    return float(np.trace(within @ np.linalg.pinv(between))) / K


def numpy_pinv_float64(features: torch.Tensor, labels: torch.Tensor) -> float:
    return numpy_pinv(features.double(), labels)


def one_pass(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Second moment minus product of means in float32; the pseudo-inverse is float64 and of the right rank."""
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(K)])
    within = features.T @ features / len(features) - means.T @ means / K
    exact = class_moments(features, labels, K).means
    root = torch.linalg.pinv(exact - exact.mean(dim=0), rtol=1e-12)  # (d, K); Sigma_B^+ = K root root^T
    return float((within.double() @ root @ root.T).trace())


def measured(features: torch.Tensor, labels: torch.Tensor) -> float:
    return ncpipe.measure(features, labels)["nc1_pinv"]


def reference(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Extended precision: |(M^T)^+ (h_i - mu_c)|^2 by modified Gram-Schmidt on K - 1 of the centred means."""
    h = features.numpy().astype(np.longdouble).reshape(K, PER_CLASS, DIM)
    means = h.mean(axis=1)
    deviation, basis = (h - means[:, None]).reshape(-1, DIM), (means - means.mean(axis=0))[:-1]
    q, r = basis.copy(), np.eye(K - 1, dtype=np.longdouble)
    for i in range(K - 1):
        for j in list(range(i)) * 2:
            step = q[j] @ q[i]
            r[j, i] += step
            q[i] -= step * q[j]
        r[i, i] = np.sqrt(q[i] @ q[i])
        q[i] /= r[i, i]
    x = q @ deviation.T
    for i in reversed(range(K - 1)):
        x[i] = (x[i] - r[i, i + 1 :] @ x[i + 1 :]) / r[i, i]
    x = np.vstack([x, 0 * x[:1]])
    return float(((x - x.mean(axis=0)) ** 2).sum() / len(deviation))


def draw(axes: Axes, values: np.ndarray, colour: str, marker: str) -> None:
    """Sizes of the values; a hollow marker is a negative value."""
    axes.plot(DISTANCES, np.abs(values), color=colour, linewidth=0.7, alpha=0.55, zorder=2)
    for chosen, face in ((values > 0, colour), (values < 0, "white")):
        style = {"markerfacecolor": face, "markeredgecolor": colour, "markeredgewidth": 0.7}
        axes.plot(DISTANCES[chosen], np.abs(values[chosen]), marker, markersize=3, zorder=3, **style)


def main() -> None:
    recipes = (reference, measured, float32_pinv, numpy_pinv, numpy_pinv_float64, one_pass)
    samples = [sample(distance) for distance in DISTANCES]
    value = {recipe: np.array([recipe(*pair) for pair in samples]) for recipe in recipes}
    with style():
        figure = new_figure(7.0, 2.75)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        draw(left, value[numpy_pinv], ORANGE, "^")
        draw(left, value[float32_pinv], RED, "s")
        draw(left, value[numpy_pinv_float64], BLUE, "D")
        draw(right, value[one_pass], PURPLE, "v")
        for axes in (left, right):
            draw(axes, value[measured], GREEN, "o")
            axes.plot(DISTANCES, value[reference], color="black", linewidth=0.6, zorder=4)
            axes.set_xlabel("Distance of the two closest classes, |μ₁ − μ₂|")
        texts = (
            (left, 3e-6, 2e6, "ncpipe.measure, on the\n80-bit reference (black)", GREEN, "right"),
            (left, 0.8, 1e3, "np.linalg.pinv, float32 $\\Sigma_B$", ORANGE, "left"),
            (left, 1.5e-3, 2e-10, "torch.linalg.pinv, float32", RED, "left"),
            (left, 7.5e-7, 1.5e-6, "np.linalg.pinv,\nfloat64 $\\Sigma_B$", BLUE, "right"),
            (right, 8e-5, 3e-4, "ncpipe.measure, on the\n80-bit reference (black)", GREEN, "left"),
            (right, 0.2, 1e2, "one-pass $\\Sigma_W$, float32;\nexact $\\Sigma_B^+$", PURPLE, "left"),
        )
        for axes, x, y, text, colour, align in texts:
            axes.text(x, y, text, color=colour, ha=align, va="center")
        right.text(0.98, 0.04, "hollow: negative value", color="#666666", ha="right", transform=right.transAxes)
        left.annotate("", (1e-4, 6e-9), (1e-4, 1.2), arrowprops={"arrowstyle": "<->", "linewidth": 0.5})
        left.text(1.3e-4, 3e-5, "2.0 against\n4·10⁻⁹", ha="right", va="center")
        left.set(xscale="log", yscale="log", xlim=(2, 5e-8), ylim=(3e-11, 2e8))
        left.set_ylabel("NC1, |nc1_pinv| = |Tr($\\Sigma_W\\Sigma_B^+$)| / K")
        left.yaxis.set_major_locator(LogLocator(numticks=8))
        left.yaxis.set_minor_formatter(NullFormatter())
        for axes, letter in ((left, "a"), (right, "b")):
            axes.set_title(letter, loc="left", fontweight="bold")
        for ending in ("png", "svg"):
            metadata = {"Date": None} if ending == "svg" else None
            figure.savefig(IMAGES / f"pseudo_inverse_trap.{ending}", metadata=metadata)


if __name__ == "__main__":
    main()
