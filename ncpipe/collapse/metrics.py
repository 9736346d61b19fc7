"""Neural-collapse metrics as pure functions of the statistics of a layer and the classifier that reads it.

Notation (Papyan, Han & Donoho 2020; Tirer & Bruna 2022): K classes, class means mu_c, mu_G the mean of the
class means, M = [mu_c - mu_G] (K x d), Sigma_W the within-class and Sigma_B the between-class covariance,
P = I - 11^T/K, E = P/sqrt(K-1) the unit-norm Gram of a simplex equiangular tight frame (ETF) and
I/sqrt(K) that of an orthogonal frame (OF). docs/metrics.md has the value of every metric at either frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncpipe.collapse.statistics import LayerStatistics, centred_means, class_mean_basis

NAN = float("nan")


def simplex_etf_gram(num_classes: int) -> Tensor:
    """E = (I - 11^T/K) / sqrt(K-1), (K, K) float64 of unit Frobenius norm."""
    return (torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes) / math.sqrt(num_classes - 1)


def orthogonal_frame_gram(num_classes: int) -> Tensor:
    """I / sqrt(K), (K, K) float64 of unit Frobenius norm."""
    return torch.eye(num_classes, dtype=torch.float64) / math.sqrt(num_classes)


def frame_distance(gram: Tensor, target: Tensor) -> float:
    """|| G/||G||_F - target ||_F for a Gram matrix (K, K); NaN for G = 0 (Kothapalli; Tirer & Bruna)."""
    norm = gram.norm()
    return float((gram / norm - target).norm()) if norm > 0 else NAN


def equinorm(vectors: Tensor) -> float:
    """std/mean over the rows (ddof = 0) of their norms, (K, d) -> scalar (Papyan)."""
    norms = vectors.norm(dim=1)
    return float(norms.std(correction=0) / norms.mean()) if norms.mean() > 0 else NAN


def pair_cosines(vectors: Tensor) -> Tensor:
    """Cosines between different rows, (K, d) -> (K (K-1),); NaN where a row is zero."""
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    count = len(vectors)
    return (unit @ unit.T)[~torch.eye(count, dtype=torch.bool)]


def angle_std(vectors: Tensor) -> float:
    """std over c != c' (ddof = 0) of the cosines, (K, d) -> scalar (Papyan)."""
    return float(pair_cosines(vectors).std(correction=0))


def equiangle(vectors: Tensor) -> float:
    """mean over c != c' of |cos + 1/(K-1)|, (K, d) -> scalar (Papyan)."""
    return float((pair_cosines(vectors) + 1 / (len(vectors) - 1)).abs().mean())


def class_distance_normalized_variance(means: Tensor, variances: Tensor) -> float:
    """mean over c != c' of (v_c + v_c') / (2 |mu_c - mu_c'|^2), v_c = mean_i |h_i - mu_c|^2 (Galanti)."""
    count = len(means)
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    pairs = ~torch.eye(count, dtype=torch.bool)
    return float(((variances[:, None] + variances[None, :])[pairs] / (2 * distances[pairs])).mean())


def variability_metrics(stats: LayerStatistics) -> dict[str, float]:
    """NC1: ``nc1_pinv`` = Tr(Sigma_W Sigma_B^+)/K (Papyan), ``nc1_trace_ratio`` = Tr Sigma_W / Tr Sigma_B,
    ``within_share`` = Tr Sigma_W / (Tr Sigma_W + Tr Sigma_B) (Rangamani), ``cdnv`` (Galanti).

    Undefined, NaN, where all class means agree: Sigma_B = 0 (the zero solution of a UFM).
    """
    between = float(centred_means(stats.means).square().sum()) / len(stats.means)
    if class_mean_basis(stats.means).rank == 0 or between == 0:  # the square may underflow
        return dict.fromkeys(("nc1_pinv", "nc1_trace_ratio", "within_share", "cdnv"), NAN)
    within = float(stats.scatter.sum()) / stats.num_samples
    return {
        # Sigma_B^+ = K U S^-2 U^T: the K cancels the one of the definition.
        "nc1_pinv": float(stats.whitened_scatter.sum()) / stats.num_samples,
        "nc1_trace_ratio": within / between,
        "within_share": within / (within + between),
        "cdnv": class_distance_normalized_variance(stats.means, stats.scatter / stats.counts),
    }


def frame_metrics(name: str, vectors: Tensor, gram_vectors: Tensor) -> dict[str, float]:
    """NC2 of the rows of ``vectors`` (K, d): norms, angles, and the distances of two Grams to their frames.

    The ETF distance is of ``vectors``' Gram, the OF distance of ``gram_vectors``': for class means the first
    is centred and the second is not, since an OF minus its mean is an ETF and only the uncentred Gram
    tells them apart (Tirer & Bruna).
    """
    count = len(vectors)
    return {
        f"nc2_{name}_equinorm": equinorm(vectors),
        f"nc2_{name}_angle_std": angle_std(vectors),
        f"nc2_{name}_equiangle": equiangle(vectors),
        f"nc2_{name}_etf": frame_distance(vectors @ vectors.T, simplex_etf_gram(count)),
        f"nc2_{name}_of": frame_distance(gram_vectors @ gram_vectors.T, orthogonal_frame_gram(count)),
    }


def duality_metrics(means: Tensor, weight: Tensor) -> dict[str, float]:
    """NC3: ``nc3_duality`` = || W/|W|_F - M/|M|_F ||_F^2 (Papyan); ``nc3_etf`` and ``nc3_of``, the distances of
    W M^T to an ETF and of W mubar^T, means uncentred, to an OF (Zhu; Dang)."""
    centred, count = centred_means(means), len(means)
    difference = weight / weight.norm() - centred / centred.norm()
    return {
        "nc3_duality": float(difference.square().sum()),
        "nc3_etf": frame_distance(weight @ centred.T, simplex_etf_gram(count)),
        "nc3_of": frame_distance(weight @ means.T, orthogonal_frame_gram(count)),
    }


def decision_metrics(stats: LayerStatistics) -> dict[str, float]:
    """``ncc_accuracy`` of the nearest-train-class-mean rule (Rangamani) and, where a classifier is known,
    ``nc4_mismatch``, the fraction where argmax(W h + b) differs from it (Papyan), and ``accuracy``."""
    total = stats.num_samples
    values = {"ncc_accuracy": int(stats.nearest_mean_hits.sum()) / total}
    if stats.agreements is not None and stats.classifier_hits is not None:
        values["nc4_mismatch"] = 1 - int(stats.agreements.sum()) / total
        values["accuracy"] = int(stats.classifier_hits.sum()) / total
    return values


def collapse_metrics(
    stats: LayerStatistics, weight: Tensor | None = None, bias: Tensor | None = None
) -> dict[str, float]:
    """All metrics of one layer and split, by the names of docs/metrics.md.

    ``weight`` (K, d) and ``bias`` (K,) are the classifier that reads the layer; without them only the
    metrics of the features are returned. ``nc2_means_uncentred_etf``, the ETF distance of the uncentred Gram of
    class means, is what ``nc2_means_of`` is to be compared with: the frame the means themselves are nearer to.
    A metric is NaN where it is undefined: a class without a sample,
    class means that all agree.
    """
    means = stats.means.cpu()
    stats = LayerStatistics(**{name: value.cpu() for name, value in stats.tensors().items()})
    if not torch.isfinite(means).all():
        means = torch.full_like(means, NAN)
        values = dict.fromkeys(("nc1_pinv", "nc1_trace_ratio", "within_share", "cdnv"), NAN)
        rank, condition = 0, NAN
    else:
        values = variability_metrics(stats)
        basis = class_mean_basis(means)
        rank, condition = basis.rank, basis.condition
    centred = centred_means(means) if rank else torch.full_like(means, NAN)
    values |= frame_metrics("means", centred, means) | decision_metrics(stats)
    values["nc2_means_uncentred_etf"] = frame_distance(means @ means.T, simplex_etf_gram(len(means)))
    if weight is not None:
        weight = weight.detach().cpu().double()
        values |= frame_metrics("weights", weight, weight) | duality_metrics(means, weight)
        offset = 0.0 if bias is None else bias.detach().cpu().double()
        values["nc4_bias"] = float((weight @ means.mean(dim=0) + offset).norm())
    return {**values, "rank": float(rank), "condition": condition}
