"""Breakdowns of a measurement by class and by pair of classes."""

from __future__ import annotations

from torch import linalg, where

from ncpipe.collapse.frames import NAN, cosines
from ncpipe.collapse.layer import Layer
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.pairs import distances


def add_breakdown(row: Measurement, layer: Layer) -> None:
    """Fill ``per_class`` and ``per_pair`` of a row that has its ``condition``."""
    stats, weight, centred, counts = layer.statistics, layer.weight, layer.centred, layer.counts.double()
    variances = stats.scatter / counts
    classes = {"samples": stats.counts, "variance": variances, "mean_norm": centred.norm(dim=1)}
    apart = distances(stats.means)
    pairs = {"cdnv": (variances[:, None] + variances) / (2 * apart.square()), "means_cosine": cosines(centred)}
    pairs["means_distance"] = apart
    if stats.whitened_scatter is not None:
        share = stats.whitened_scatter / counts + 0 * row["condition"]  # NaN where that is
        classes["nc1_pinv"] = where(counts == 1, NAN, share)
    if stats.nearest_mean_hits is not None:
        classes["ncc_accuracy"] = stats.nearest_mean_hits / counts
    if weight is not None:
        classes |= {"weight_norm": weight.norm(dim=1), "unc3": linalg.vecdot(weight, centred)}
        pairs["weights_cosine"] = cosines(weight)
    if stats.agreements is not None and stats.classifier_hits is not None:
        classes["nc4_mismatch"] = 1 - stats.agreements / counts
        classes["accuracy"] = stats.classifier_hits / counts
    pairs["cdnv"].fill_diagonal_(NAN)
    row.per_class = {name: values.numpy() for name, values in classes.items()}
    row.per_pair = {name: values.numpy() for name, values in pairs.items()}
