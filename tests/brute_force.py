"""Every definition of the engine as it is written, in NumPy, and data to try it on: the reference of the tests.

Sums and differences are in extended precision, so that collapsed features and large offsets keep their digits here.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np

Array = np.ndarray
wide = np.longdouble


@dataclass(frozen=True)
class Sample:
    """Features (N, d), labels (N,), weight (K, d) and bias (K,), all float64 or int64."""

    features: Array
    labels: Array
    weight: Array
    bias: Array

    @property
    def arguments(self) -> tuple[Array, Array, Array, Array]:
        return astuple(self)

    @property
    def num_classes(self) -> int:
        return len(self.weight)


def sample(counts: list[int], dim: int, spread: float = 0.5, *, seed: int = 0, offset: float = 0.0) -> Sample:
    """Shuffled Gaussian classes of given sizes around Gaussian means, and a Gaussian classifier."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((len(counts), dim)) + offset
    return around(means, counts, spread, rng)


def around(means: Array, counts: list[int], spread: float, rng: np.random.Generator) -> Sample:
    """Shuffled Gaussian classes of given sizes around given means, and a Gaussian classifier."""
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    features = means[labels] + spread * rng.standard_normal((len(labels), means.shape[1]))
    return Sample(features, labels, rng.standard_normal(means.shape), rng.standard_normal(len(counts)))


def orthonormal(rows: int, dim: int, seed: int = 0) -> Array:
    """Rows that are orthonormal, (rows, dim)."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, rows)))[0].T


def simplex_etf(classes: int, dim: int, seed: int = 0) -> Array:
    """Unit rows of a simplex equiangular tight frame, (classes, dim), dim >= classes."""
    frame = orthonormal(classes, dim, seed)
    return (frame - frame.mean(axis=0)) * math.sqrt(classes / (classes - 1))


def etf_gram(classes: int) -> Array:
    return (np.eye(classes) - 1 / classes) / math.sqrt(classes - 1)


def of_gram(classes: int) -> Array:
    return np.eye(classes) / math.sqrt(classes)


def norm(array: Array, axis: int | None = None) -> Array:
    """Euclidean or Frobenius norm, for any precision."""
    return np.sqrt(np.square(array).sum(axis=axis))


def off_diagonal(matrix: Array) -> Array:
    return np.array([matrix[a, b] for a in range(len(matrix)) for b in range(len(matrix)) if a != b])


def pairwise(vectors: Array, function) -> Array:
    """function(v_a, v_b) for all a != b."""
    count = len(vectors)
    return np.array([function(vectors[a], vectors[b]) for a in range(count) for b in range(count) if a != b])


def cosine(a: Array, b: Array) -> Array:
    return a @ b / norm(a) / norm(b)


def gram_distance(gram: Array, target: Array) -> Array:
    return norm(gram / norm(gram) - target)


def means_of(features: Array, labels: Array, classes: int) -> Array:
    h = features.astype(wide)
    return np.stack([h[labels == c].mean(axis=0) for c in range(classes)])


def inverse(matrix: Array) -> Array:
    """The inverse in extended precision: that in float64, and Newton's iteration from there."""
    eye = np.eye(len(matrix), dtype=wide)
    found = np.linalg.inv(matrix.astype(float)).astype(wide)
    for _ in range(4):
        found = found + found @ (eye - matrix @ found)
    return found


def within_over_between(deviation: Array, centred: Array) -> Array:
    """Tr(Sigma_W Sigma_B^+)/K = mean_i d_i^T (M^T M)^+ d_i, for M of the rank that generic means have.

    Rows of a Helmert matrix, orthonormal and orthogonal to the ones, leave M^T M as it is and make M of full rank.
    """
    classes, dim = centred.shape
    helmert = np.linalg.qr(np.eye(classes)[:, :-1] - 1 / classes)[0].T.astype(wide)
    factor = helmert @ centred
    if dim < classes:
        return np.einsum("ij,jk,ik->i", deviation, inverse(factor.T @ factor), deviation).mean()
    return np.square(deviation @ factor.T @ inverse(factor @ factor.T)).sum(axis=1).mean()


def variability(features: Array, labels: Array, means: Array) -> dict[str, float]:
    """NC1 of samples about given class means."""
    classes = len(means)
    deviation = features.astype(wide) - means[labels]
    centred = means - means.mean(axis=0)
    within = np.square(deviation).sum() / len(labels)
    between = np.square(centred).sum() / classes
    variance = np.array([np.square(deviation[labels == c]).sum(axis=1).mean() for c in range(classes)])
    pairs = [(a, b) for a in range(classes) for b in range(classes) if a != b]
    return {
        "nc1_pinv": within_over_between(deviation, centred),
        "nc1_trace_ratio": within / between,
        "within_share": within / (within + between),
        "cdnv": np.mean([(variance[a] + variance[b]) / 2 / norm(means[a] - means[b]) ** 2 for a, b in pairs]),
    }


def spectrum_metrics(name: str, vectors: Array) -> dict[str, float]:
    sizes = np.linalg.svd(vectors.astype(float), compute_uv=False)
    share = sizes[sizes > 0] / sizes.sum()
    return {
        f"{name}_effective_rank": math.exp(-(share * np.log(share)).sum()),
        f"{name}_stable_rank": (sizes**2).sum() / sizes[0] ** 2,
    }


def frame_metrics(name: str, vectors: Array) -> dict[str, float]:
    classes, norms, cosines = len(vectors), norm(vectors, axis=1), pairwise(vectors, cosine)
    return {
        f"nc2_{name}_equinorm": norms.std() / norms.mean(),
        f"nc2_{name}_angle_std": cosines.std(),
        f"nc2_{name}_equiangle": np.abs(cosines + 1 / wide(classes - 1)).mean(),
        f"nc2_{name}_etf": gram_distance(vectors @ vectors.T, etf_gram(classes)),
    } | spectrum_metrics(name, vectors)


def energies(centred: Array) -> dict[str, float]:
    unit = centred / norm(centred, axis=1)[:, None]
    apart = pairwise(unit, lambda a, b: norm(a - b))
    return {
        "gnc2_log": np.log(1 / apart).mean(),
        "gnc2_log_var": np.log(1 / apart).var(),
        "gnc2_riesz_1": (1 / apart).mean(),
        "gnc2_riesz_2": (1 / apart**2).mean(),
    }


def alignment(weight: Array, means: Array) -> float:
    """Mean cosine of the principal angles of the row spaces, both of full rank."""
    read = np.linalg.svd(weight.astype(float), full_matrices=False)[2]
    spanned = np.linalg.svd(means.astype(float), full_matrices=False)[2]
    return np.linalg.svd(read @ spanned.T, compute_uv=False).sum() / min(weight.shape)


def off_means(weight: Array, means: Array) -> Array:
    """Share of the rows' squares that is off the direction of the class mean nearest in angle, of either sign."""
    shares = [1 - max(cosine(row, mean) ** 2 for mean in means) for row in weight]
    return np.square(weight).sum(axis=1) @ np.array(shares) / np.square(weight).sum()


def classifier_metrics(means: Array, weight: Array, bias: Array) -> dict[str, float]:
    classes, centred = len(means), means - means.mean(axis=0)
    return frame_metrics("weights", weight) | {
        "nc2_weights_of": gram_distance(weight @ weight.T, of_gram(classes)),
        "nc3_duality": norm(weight / norm(weight) - centred / norm(centred)) ** 2,
        "nc3_etf": gram_distance(weight @ centred.T, etf_gram(classes)),
        "nc3_of": gram_distance(weight @ means.T, of_gram(classes)),
        "unc3": np.array([w @ m for w, m in zip(weight, centred)]).var(),
        "nc3_rows": off_means(weight, means),
        "subspace_alignment": alignment(weight, means),
        "nc4_bias": norm(weight @ means.mean(axis=0) + bias),
    }


def decisions(features: Array, means: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    """Nearest class mean, and argmax(W h + b), of every sample."""
    h = features.astype(wide)
    nearest = np.stack([np.square(h - mean).sum(axis=1) for mean in means]).argmin(axis=0)
    return nearest, (h @ weight.astype(wide).T + bias).argmax(axis=1)


def definitions(data: Sample, train_means: Array | None = None) -> dict[str, float]:
    """All metrics of one layer and its classifier, by name."""
    features, labels, weight, bias = data.arguments
    means = means_of(features, labels, data.num_classes)
    centred = means - means.mean(axis=0)
    sizes = np.linalg.svd(centred.astype(float), compute_uv=False)[: data.num_classes - 1]
    reference = means if train_means is None else train_means.astype(wide)
    nearest, decided = decisions(features, reference, weight, bias)
    found = variability(features, labels, means) | frame_metrics("means", centred) | energies(centred)
    found |= classifier_metrics(means, weight.astype(wide), bias.astype(wide)) | {
        "nc2_means_of": gram_distance(means @ means.T, of_gram(len(means))),
        "nc2_means_uncentred_etf": gram_distance(means @ means.T, etf_gram(len(means))),
        "means_uncentred_condition": 1 / np.linalg.cond(means.astype(float)) if means.shape[1] >= len(means) else 0,
        "nc4_mismatch": np.mean(decided != nearest),
        "ncc_accuracy": np.mean(nearest == labels),
        "accuracy": np.mean(decided == labels),
        "rank": len(sizes),
        "condition": sizes[-1] / sizes[0],
    }
    if train_means is not None:
        about = variability(features, labels, reference)
        found |= {f"{name}_train_means": value for name, value in about.items()}
    return {name: float(value) for name, value in found.items()}


def variability_collapse(data: Sample) -> float:
    """1 - Tr(Sigma_T^+ Sigma_B) / rank Sigma_B, by the pseudo-inverse of the sum of both covariances in float64."""
    means = means_of(data.features, data.labels, data.num_classes)
    deviation, centred = data.features - means[data.labels], means - means.mean(axis=0)
    within = (deviation.T @ deviation / len(deviation)).astype(float)
    between = (centred.T @ centred / len(centred)).astype(float)
    rank = np.linalg.matrix_rank(centred.astype(float), tol=1e-9 * float(norm(means)))
    return 1 - np.trace(np.linalg.pinv(within + between, rcond=1e-11, hermitian=True) @ between) / rank


def penalised_loss(data: Sample, weight: Array, bias: Array, ridge: float, bias_decay: float) -> float:
    """1/(2N) sum_i |W h_i + b - y_i|^2 + ridge/2 |W|^2 + bias_decay/2 |b|^2."""
    rest = data.features @ weight.T + bias - np.eye(data.num_classes)[data.labels]
    return (rest**2).sum() / len(rest) / 2 + ridge / 2 * (weight**2).sum() + bias_decay / 2 * (bias**2).sum()


def tagwise(features: Array, targets: Array, size: int | None = None) -> tuple[float, float, float]:
    """Angle in degrees, scale and ratio of the means of sets of ``size`` tags, or of all of two or more."""
    members: dict[tuple[int, ...], list[Array]] = {}
    for h, row in zip(features.astype(wide), targets):
        members.setdefault(tuple(np.flatnonzero(row)), []).append(h)
    means = {tags: np.mean(rows, axis=0) for tags, rows in members.items()}
    chosen = [tags for tags in means if len(tags) == (size or len(tags)) and len(tags) > 1]
    sums = [sum(means[(tag,)] for tag in tags) for tags in chosen]
    angles = [np.degrees(np.arccos(cosine(means[tags], total))) for tags, total in zip(chosen, sums)]
    fit = sum(means[tags] @ total for tags, total in zip(chosen, sums)) / sum(total @ total for total in sums)
    every = [np.degrees(np.arccos(cosine(means[tags], total))) for tags in chosen for total in sums]
    return float(np.mean(angles)), float(fit), float(np.mean(angles) / np.mean(every))
