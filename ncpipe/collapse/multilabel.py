"""Tag-wise averages: whether the mean of a set of tags is the scaled sum of the means of its tags."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncpipe.collapse.arguments import Array, as_features, as_tensor, on_device_of, require_finite
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.moments import class_means


def tagwise_metrics(features: Array, targets: Array) -> Measurement:
    r"""Tag-wise average property of multi-label features (Li et al. 2024).

    With mu_S the mean of the samples whose tags are exactly S, mu_k that of the samples with the one tag k, and
    :math:`\sigma_S = \sum_{k \in S} \mu_k`, collapse has :math:`\mu_S = C_m \sigma_S` with one scale per
    multiplicity m = \|S\|. Means are uncentred, as in the paper's model, whose features have mean zero; subtract
    the mean of the mu_k from the features first where they have not. The single-tag samples themselves collapse
    as in ``measure(features[single], tags[single])``.

    Args:
        features: (N, d), one sample a row; NumPy or Torch, floating point.
        targets: (N, K) of zeros and ones: the tags of every sample, at least one.

    Returns:
        ``tagwise_angle``: mean over the sets S of two or more tags of the angle between mu_S and sigma_S, in
        degrees; 0 at collapse. ``tagwise_scale``: the C that fits mu_S = C sigma_S over these sets in least
        squares, :math:`C = \sum_S \langle\mu_S, \sigma_S\rangle / \sum_S \|\sigma_S\|^2`. Both again for every
        multiplicity m, as ``tagwise_angle_m`` and ``tagwise_scale_m``. NaN, with the reason in ``undefined``,
        where no sample has two tags or a tag never stands alone.

    Raises:
        ValueError: an argument has the wrong shape, type or values.

    Example:
        >>> import torch
        >>> from ncpipe.collapse import tagwise_metrics
        >>> tags = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
        >>> row = tagwise_metrics(tags.double() * torch.tensor([1, 1, 1, 0.5, 0.5])[:, None], tags)
        >>> round(row["tagwise_angle"], 6), row["tagwise_scale_2"]
        (0.0, 0.5)
    """
    h = as_features("features", features)
    tags = _as_tags(targets, h)
    require_finite("features", h)
    sets, member = torch.unique(tags, dim=0, return_inverse=True)
    _, means = class_means(h, member, len(sets))
    sizes = sets.sum(dim=1)
    alone = torch.full((tags.shape[1], h.shape[1]), torch.nan, dtype=torch.float64, device=h.device)
    alone[sets[sizes == 1].argmax(dim=1)] = means[sizes == 1]

    row = Measurement()
    _fit(row, "", sets[sizes > 1], means[sizes > 1], alone)
    for size in sizes[sizes > 1].unique().tolist():
        _fit(row, f"_{size}", sets[sizes == size], means[sizes == size], alone)
    return row


def _fit(row: Measurement, ending: str, sets: Tensor, means: Tensor, alone: Tensor) -> None:
    """Angle and scale over some sets of tags (n, K) with their means (n, d)."""
    names = (f"tagwise_angle{ending}", f"tagwise_scale{ending}")
    lonely = alone.isnan().any(dim=1)
    missing = (sets.bool().any(dim=0) & lonely).nonzero().flatten().tolist()
    reason = None if len(sets) else "no sample has two tags"
    if missing:
        reason = f"no sample has the one tag {missing[0]}, so that it has no mean of its own"

    def compute() -> dict[str, float]:
        sums = sets.double() @ alone.nan_to_num()
        unit, target = (torch.nn.functional.normalize(rows, dim=1, eps=0) for rows in (means, sums))
        # half-angle form: the arc cosine loses digits near 0
        angles = 2 * torch.atan2((unit - target).norm(dim=1), (unit + target).norm(dim=1))
        scale = (means * sums).sum() / sums.square().sum()
        return dict(zip(names, (math.degrees(float(angles.mean())), float(scale))))

    row.fill(names, reason, compute, "the mean of a set, or the sum of its tags' means, is zero")


def _as_tags(targets: Array, features: Tensor) -> Tensor:
    tags = as_tensor("targets", targets, "zeros and ones")
    if tags.ndim != 2 or len(tags) != len(features) or tags.shape[1] == 0:
        raise ValueError(f"targets must have shape ({len(features)}, K), got {tuple(tags.shape)}")
    tags = on_device_of(features, "targets", tags, targets)
    if not ((tags == 0) | (tags == 1)).all():
        raise ValueError("targets must hold zeros and ones only: the tags of every sample")
    tags = tags.long()
    if bare := (tags.sum(dim=1) == 0).nonzero().flatten().tolist():
        raise ValueError(f"targets: {len(bare)} samples have no tag, the first is {bare[0]}: leave them out")
    return tags
