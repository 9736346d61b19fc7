"""Neural-collapse metrics of one layer, from its statistics and the classifier that reads it.

Notation (Papyan, Han & Donoho 2020; Tirer & Bruna 2022): K classes, class means mu_c, mu_G the mean of the
class means, M = [mu_c - mu_G] (K x d), Sigma_W the within-class and Sigma_B the between-class covariance.
docs/metrics.md has the value of every metric at a simplex ETF and at an orthogonal frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ncpipe.collapse.arguments import of_shape
from ncpipe.collapse.frames import (
    NAN,
    RowSpace,
    aligned_share,
    angle_std,
    cosines,
    directional_distances,
    distances,
    equiangle,
    equinorm,
    frame_distance,
    nc3_rows,
    of_pairs,
    orthogonal_frame_gram,
    require_same_width,
    row_space,
    simplex_etf_gram,
    spectral_ranks,
)
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.statistics import LayerStatistics, centred_means, class_mean_basis

VARIABILITY = ("nc1_pinv", "nc1_trace_ratio", "within_share", "cdnv")
FRAME = ("equinorm", "angle_std", "equiangle", "etf")
RANKS = ("effective_rank", "stable_rank")
CENTRED = (
    *(f"nc2_means_{name}" for name in FRAME),
    *(f"means_{name}" for name in RANKS),
    *("gnc2_log", "gnc2_log_var", "gnc2_riesz_1", "gnc2_riesz_2"),
)
UNCENTRED = ("nc2_means_of", "nc2_means_uncentred_etf")
WEIGHTS = (*(f"nc2_weights_{name}" for name in FRAME), "nc2_weights_of", *(f"weights_{name}" for name in RANKS))
DUALITY = ("nc3_duality", "nc3_etf", "unc3")
READING = ("nc3_rows", "subspace_alignment")
UNCENTRED_DUALITY = ("nc3_of", *READING)
NO_SECOND_PASS = "needs a second pass over the features"  # noqa: S105


def variability_metrics(stats: LayerStatistics) -> dict[str, float]:
    """NC1: ``nc1_pinv`` = Tr(Sigma_W Sigma_B^+)/K (Papyan), ``nc1_trace_ratio`` = Tr Sigma_W / Tr Sigma_B
    (Tirer, Huang & Niles-Weed), ``within_share`` = Tr Sigma_W / (Tr Sigma_W + Tr Sigma_B) (Rangamani), ``cdnv`` =
    mean over c != c' of (v_c + v_c') / (2 |mu_c - mu_c'|^2) (Galanti). All are 0 at collapse."""
    return _variability(stats.counts, stats.means, stats.scatter, stats.whitened_total(), stats.means)


def train_variability_metrics(
    stats: LayerStatistics, train_means: Tensor, own_means: Tensor | None = None
) -> dict[str, float]:
    """NC1 of other samples about the *train* class means (K, d), Sigma_B of the train means: names as above with
    ``_train_means``. 0 where the samples sit at the train means, not merely at means of their own. ``own_means``:
    those of the classes that the statistics are of, where they are not of all."""
    own_means = train_means if own_means is None else own_means
    moved = stats.counts * (stats.means - own_means).square().sum(dim=1)
    scatter, whitened = stats.scatter + moved, stats.train_whitened_total(train_means, own_means)
    values = _variability(stats.counts, own_means, scatter, whitened, train_means)
    return {f"{name}_train_means": value for name, value in values.items()}


def _variability(
    counts: Tensor, means: Tensor, scatter: Tensor, whitened: Tensor | None, all_means: Tensor
) -> dict[str, float]:
    total = int(counts.sum())
    within, between = float(scatter.sum()) / total, float(centred_means(all_means).square().sum()) / len(all_means)
    return {
        # Sigma_B^+ = K U S^-2 U^T: the K cancels the one of the definition.
        "nc1_pinv": NAN if whitened is None else float(whitened) / total,
        "nc1_trace_ratio": within / between,
        "within_share": within / (within + between),
        "cdnv": float(of_pairs(pair_cdnv(means, scatter / counts)).mean()),
    }


def pair_cdnv(means: Tensor, variances: Tensor) -> Tensor:
    """(v_c + v_c') / (2 |mu_c - mu_c'|^2), v_c = mean_i |h_i - mu_c|^2, (K, K) without a diagonal (Galanti)."""
    return (variances[:, None] + variances[None, :]) / (2 * distances(means).square())


def frame_metrics(name: str, vectors: Tensor, singular_values: Tensor) -> dict[str, float]:
    """NC2 of the rows of ``vectors`` (K, d): their norms, angles, the distance of their Gram to the simplex ETF, and,
    from their ``singular_values`` (r,), their effective and stable rank."""
    effective, stable = spectral_ranks(singular_values)
    return {
        f"nc2_{name}_equinorm": equinorm(vectors),
        f"nc2_{name}_angle_std": angle_std(vectors),
        f"nc2_{name}_equiangle": equiangle(vectors),
        f"nc2_{name}_etf": frame_distance(vectors @ vectors.T, simplex_etf_gram(len(vectors))),
        f"{name}_effective_rank": effective,
        f"{name}_stable_rank": stable,
    }


def orthogonal_frame_distance(vectors: Tensor) -> float:
    """|| G/||G||_F - I/sqrt(K) ||_F, G the Gram of the rows (K, d); 0 at an OF (Tirer & Bruna)."""
    return frame_distance(vectors @ vectors.T, orthogonal_frame_gram(len(vectors)))


def centred_metrics(means: Tensor, singular_values: Tensor) -> dict[str, float]:
    """NC2 of the centred class means, means (K, d), and generalised NC2, which stays meaningful for K > d + 1 (Liu et
    al. 2023; Wu & Papyan 2024): with u_c = m_c/|m_c| the centred directions, ``gnc2_log`` and ``gnc2_log_var`` are
    mean and variance over pairs of log 1/|u_c - u_c'|, ``gnc2_riesz_s`` the mean of |u_c - u_c'|^-s.
    ``gnc2_log_var`` is 0 at an ETF."""
    centred = centred_means(means)
    separation = directional_distances(centred)
    kernel = -separation.log()
    return frame_metrics("means", centred, singular_values) | {
        "gnc2_log": float(kernel.mean()),
        "gnc2_log_var": float(kernel.var(correction=0)),
        "gnc2_riesz_1": float(separation.reciprocal().mean()),
        "gnc2_riesz_2": float(separation.square().reciprocal().mean()),
    }


def uncentred_metrics(means: Tensor) -> dict[str, float]:
    """Distances of the *uncentred* Gram of class means, means (K, d), to the OF and to the ETF: an OF minus its mean
    is an ETF, so that only these two tell the frames apart (Tirer & Bruna)."""
    return {
        "nc2_means_of": orthogonal_frame_distance(means),
        "nc2_means_uncentred_etf": frame_distance(means @ means.T, simplex_etf_gram(len(means))),
    }


def duality_metrics(means: Tensor, weight: Tensor) -> dict[str, float]:
    """NC3 of centred means: ``nc3_duality`` = || W/|W|_F - M/|M|_F ||_F^2 (Papyan); ``nc3_etf``, the distance of
    W M^T to an ETF (Zhu); ``unc3``, the variance over c of <w_c, mu_c - mu_G> (Wu & Papyan)."""
    centred = centred_means(means)
    difference = weight / weight.norm() - centred / centred.norm()
    return {
        "nc3_duality": float(difference.square().sum()),
        "nc3_etf": frame_distance(weight @ centred.T, simplex_etf_gram(len(means))),
        "unc3": float(torch.linalg.vecdot(weight, centred).var(correction=0)),
    }


def uncentred_duality_metrics(means: Tensor, weight: Tensor, space: RowSpace) -> dict[str, float]:
    """NC3 of uncentred means: ``nc3_of``, the distance of W mubar^T to an OF (Dang), and ``reading_metrics``."""
    target = orthogonal_frame_gram(len(means))
    return {"nc3_of": frame_distance(weight @ means.T, target)} | reading_metrics(means, weight, space)


def reading_metrics(means: Tensor, weight: Tensor, space: RowSpace) -> dict[str, float]:
    """What any weight (m, d) reads of uncentred means (K, d): ``nc3_rows``, how far its rows are from their
    directions (Sukenik), and ``subspace_alignment``, how far W, with its row ``space``, reads their span (Rangamani).
    """
    return {"nc3_rows": nc3_rows(weight, means), "subspace_alignment": aligned_share(space, row_space(means))}


def bias_at_centre(means: Tensor, weight: Tensor, bias: Tensor | None) -> float:
    """``nc4_bias`` = |W mu_G + b|_2 (Zhu)."""
    constant = weight @ means.mean(dim=0)
    return float((constant if bias is None else constant + bias).norm())


def collapse_metrics(
    stats: LayerStatistics,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    next_weight: Tensor | None = None,
    train_means: Tensor | None = None,
    per_class: bool = False,
    present_only: bool = False,
) -> Measurement:
    """All metrics of one layer and split, by the names of docs/metrics.md.

    Args:
        stats: what ``layer_statistics`` or ``CollapseMetrics`` found; of ``ClassMoments`` alone, the metrics that
            need a second pass are NaN.
        weight: the classifier (K, d) that reads the layer; adds NC2 of the weights, NC3 and NC4.
        bias: its bias (K,).
        next_weight: the weight (m, d) that reads the layer where no classifier does; adds ``nc3_rows`` and
            ``subspace_alignment``.
        train_means: class means (K, d) of the training split where the statistics are of another; adds NC1
            about them.
        per_class: also break down by class and by pair of classes.
        present_only: leave classes without a sample out, as in ``measure``.

    Raises:
        ValueError: both weights are given, ``next_weight`` does not read the layer, or an array is not one of K
            classes.
    """
    if weight is not None and next_weight is not None:
        raise ValueError("weight and next_weight are given: a layer is read by one of them")
    whole = stats = stats.cpu()
    weight = _as_given("weight", weight, stats.means.shape)
    bias = _as_given("bias", bias, stats.counts.shape)
    train_means = _as_given("train_means", train_means, stats.means.shape)
    if present_only:
        stats, weight, bias = classes_present(stats, weight, bias)
    row = Measurement()
    no_means = missing_means(stats.counts, stats.means)
    sizes = torch.empty(0) if no_means else _singular_values(stats)
    rank = len(sizes)
    no_gram = no_means or _no_gram(stats.means)
    no_frame = no_gram or _no_frame(stats.means, rank)
    no_scatter = no_frame or _no_scatter(stats.counts)

    row.fill(
        VARIABILITY, no_scatter, lambda: variability_metrics(stats), _no_variability(stats, stats.whitened_scatter)
    )
    if train_means is not None:
        own_means = classes_present(whole, train_means)[1] if present_only else train_means
        _add_train_variability(row, stats, train_means, own_means, no_means)
    row.fill(CENTRED, no_frame, lambda: centred_metrics(stats.means, sizes), _no_directions(stats.means))
    row.fill(UNCENTRED, no_gram, lambda: uncentred_metrics(stats.means), "")
    if weight is not None:
        _add_weight(row, stats.means, weight, bias, (no_means, no_gram, no_frame))
    if next_weight is not None:
        _add_next_weight(row, stats.means, next_weight.detach().cpu().double(), no_gram)
    _add_decisions(row, stats, weight is not None)
    row["rank"] = float(rank)
    row.fill(("condition",), no_frame, lambda: {"condition": float(sizes[-1] / sizes[0])}, "")
    row.singular_values = sizes.numpy()
    if per_class:
        _add_breakdown(row, stats, weight)
    if per_class and present_only:
        row.spread(whole.counts.numpy() > 0)
    return row


def classes_present(
    stats: LayerStatistics, weight: Tensor | None = None, bias: Tensor | None = None
) -> tuple[LayerStatistics, Tensor | None, Tensor | None]:
    """All three without the classes that have no sample."""
    there = stats.counts > 0
    if there.all() or not there.any():
        return stats, weight, bias
    weight, bias = (None if part is None else part[there] for part in (weight, bias))
    return stats.of_classes(there), weight, bias


def _as_given(name: str, value: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    return None if value is None else of_shape(name, value, tuple(shape)).cpu().double()


def _singular_values(stats: LayerStatistics) -> Tensor:
    known = stats.singular_values
    return class_mean_basis(stats.means).singular_values if known is None else known


def _add_train_variability(
    row: Measurement, stats: LayerStatistics, train_means: Tensor, own_means: Tensor | None, reason: str | None
) -> None:
    if reason is None and not torch.isfinite(train_means).all():
        reason = "a train class mean is missing"
    if reason is None:
        why = _no_gram(train_means) or _no_frame(train_means, class_mean_basis(train_means).rank)
        reason = why and f"train means: {why}"
    names = [f"{name}_train_means" for name in VARIABILITY]
    otherwise = _no_variability(stats, stats.train_whitened_scatter)
    row.fill(names, reason, lambda: train_variability_metrics(stats, train_means, own_means), otherwise)


def _add_weight(
    row: Measurement, means: Tensor, weight: Tensor, bias: Tensor | None, reasons: tuple[str | None, ...]
) -> None:
    no_means, no_gram, no_frame = reasons
    no_weight = _no_weight(weight)
    space = row_space(torch.zeros_like(weight) if no_weight else weight)
    row.fill(
        WEIGHTS,
        no_weight,
        lambda: frame_metrics("weights", weight, space.sizes) | {"nc2_weights_of": orthogonal_frame_distance(weight)},
        "a row of the weight is zero",
    )
    row.fill(DUALITY, no_frame or no_weight, lambda: duality_metrics(means, weight), "W M^T is zero")
    row.fill(
        UNCENTRED_DUALITY,
        no_gram or no_weight,
        lambda: uncentred_duality_metrics(means, weight, space),
        "the weight is orthogonal to the means",
    )
    row.fill(
        ("nc4_bias",), no_means, lambda: {"nc4_bias": bias_at_centre(means, weight, bias)}, "the weight is not finite"
    )


def _add_next_weight(row: Measurement, means: Tensor, weight: Tensor, no_gram: str | None) -> None:
    require_same_width(weight, means)
    reason = no_gram or _no_matrix(weight)
    row.fill(READING, reason, lambda: reading_metrics(means, weight, row_space(weight)), "")


def _add_decisions(row: Measurement, stats: LayerStatistics, has_head: bool) -> None:
    """``ncc_accuracy`` of the nearest-train-class-mean rule (Rangamani); of a classifier ``nc4_mismatch``, the
    fraction where argmax(W h + b) differs from that rule (Papyan), and ``accuracy``."""
    total = stats.num_samples
    found = {"ncc_accuracy": (stats.nearest_mean_hits, 0)}
    if has_head:
        found |= {"nc4_mismatch": (stats.agreements, 1), "accuracy": (stats.classifier_hits, 0)}
    values = {
        name: NAN if hits is None else abs(start - int(hits.sum()) / total) for name, (hits, start) in found.items()
    }
    finite = torch.isfinite(stats.means[stats.counts > 0]).all()
    otherwise = NO_SECOND_PASS if stats.nearest_mean_hits is None else "the statistics were taken without the weight"
    row.fill(tuple(found), None if finite else "the features are not finite", lambda: values, otherwise)


def _add_breakdown(row: Measurement, stats: LayerStatistics, weight: Tensor | None) -> None:
    centred, counts = centred_means(stats.means), stats.counts.double()
    variances = stats.scatter / counts
    classes = {"samples": stats.counts, "variance": variances, "mean_norm": centred.norm(dim=1)}
    pairs = {"cdnv": pair_cdnv(stats.means, variances), "means_cosine": cosines(centred)}
    pairs["means_distance"] = distances(stats.means)
    if stats.whitened_scatter is not None:
        share = stats.whitened_scatter / counts + 0 * row["condition"]  # NaN where that is
        classes["nc1_pinv"] = torch.where(counts == 1, NAN, share)
    if stats.nearest_mean_hits is not None:
        classes["ncc_accuracy"] = stats.nearest_mean_hits / counts
    if weight is not None:
        classes |= {"weight_norm": weight.norm(dim=1), "unc3": torch.linalg.vecdot(weight, centred)}
        pairs["weights_cosine"] = cosines(weight)
    if stats.agreements is not None and stats.classifier_hits is not None:
        classes["nc4_mismatch"] = 1 - stats.agreements / counts
        classes["accuracy"] = stats.classifier_hits / counts
    pairs["cdnv"].fill_diagonal_(NAN)
    row.per_class = {name: values.numpy() for name, values in classes.items()}
    row.per_pair = {name: values.numpy() for name, values in pairs.items()}


def _no_variability(stats: LayerStatistics, whitened: Tensor | None) -> str:
    return NO_SECOND_PASS if whitened is None and stats.within_products is None else "two class means agree"


def _no_directions(means: Tensor) -> str:
    at_centre = (centred_means(means).norm(dim=1) == 0).any()
    return "a class mean is the mean of the class means" if at_centre else "two centred means have one direction"


def missing_means(counts: Tensor, means: Tensor) -> str | None:
    """Why there are no class means to measure, if so."""
    known = means[counts > 0]
    if not torch.isfinite(known).all():
        return "the features are not finite"
    if not torch.isfinite(known.square().sum()) or (known.any() and not known.square().sum() > 0):
        return "squares of the features leave the range of float64: scale them"
    empty = (counts == 0).nonzero().flatten().tolist()
    return f"no sample of class {_listed(empty)}" if empty else None


def _no_gram(means: Tensor) -> str | None:
    if len(means) == 1:
        return "there is one class only"
    return None if means.any() else "all class means are zero"


def _no_frame(means: Tensor, rank: int) -> str | None:
    # the square may underflow
    return None if rank and centred_means(means).square().sum() > 0 else "all class means agree"


def _no_scatter(counts: Tensor) -> str | None:
    single = (counts == 1).nonzero().flatten().tolist()
    return f"one sample only of class {_listed(single)}: it has no variability" if single else None


def _no_weight(weight: Tensor) -> str | None:
    return "there is one class only" if len(weight) == 1 else _no_matrix(weight)


def _no_matrix(weight: Tensor) -> str | None:
    if not torch.isfinite(weight).all():
        return "the weight is not finite"
    if not weight.any():
        return "the weight is zero"
    in_range = 0 < float(weight.square().sum()) < math.inf
    return None if in_range else "squares of the weight leave the range of float64: scale it"


def _listed(classes: list[int]) -> str:
    return ", ".join(map(str, classes[:5])) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
