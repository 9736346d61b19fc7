"""Features of several tags: tag-wise averages of their class means, and sets of tags read off the nearest sample."""

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
        squares, :math:`C = \sum_S \langle\mu_S, \sigma_S\rangle / \sum_S \|\sigma_S\|^2`. ``tagwise_ratio``: the
        angle over the mean of the angles of mu_S and sigma_S' for all pairs of these sets, the paper's NC_m. All
        again for every multiplicity m, as ``tagwise_angle_m`` and so on. NaN, with the reason in ``undefined``,
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


CHUNK = 1024
"""Features whose angles to all training features are held at once."""


def tag_sets_1nn(features: Array, targets: Array, train_features: Array, train_targets: Array) -> float:
    """Fraction of the samples whose set of tags is that of the training sample at the smallest angle.

    One-nearest-neighbour decoding of sets of tags by the cosine of uncentred features, our protocol; a zero feature
    has the angle 90 degrees with all.

    Args:
        features: (N, d), one sample a row; NumPy or Torch, floating point.
        targets: (N, K) of zeros and ones: the tags of every sample, at least one.
        train_features: (N', d).
        train_targets: (N', K).

    Raises:
        ValueError: an argument has the wrong shape, type or values.

    Example:
        >>> import torch
        >>> tags = torch.tensor([[1, 0], [0, 1], [1, 1]])
        >>> tag_sets_1nn(torch.tensor([[2.0, 1.9], [3.0, 0.1]]), tags[[2, 1]], tags.double(), tags)
        0.5
    """
    h, known = as_features("features", features), as_features("train_features", train_features)
    known = on_device_of(h, "train_features", known, train_features)
    tags, known_tags = _as_tags(targets, h), _as_tags(train_targets, known)
    if h.shape[1] != known.shape[1] or tags.shape[1] != known_tags.shape[1]:
        raise ValueError(
            "features (N, d) and targets (N, K) must be as wide as those of training, got "
            f"{h.shape[1]} and {tags.shape[1]}, of training {known.shape[1]} and {known_tags.shape[1]}"
        )
    require_finite("features", h)
    require_finite("train_features", known)
    _, sets = torch.unique(torch.cat([tags, known_tags]), dim=0, return_inverse=True)
    directions = torch.nn.functional.normalize(known.double(), dim=1).T
    # the length of a feature does not change which angle is smallest
    nearest = torch.cat([(rows.double() @ directions).argmax(dim=1) for rows in h.split(CHUNK)])
    return float((sets[: len(h)] == sets[len(h) :][nearest]).double().mean())


def _fit(row: Measurement, ending: str, sets: Tensor, means: Tensor, alone: Tensor) -> None:
    """Angle, scale and ratio over some sets of tags (n, K) with their means (n, d)."""
    lonely = alone.isnan().any(dim=1)
    missing = (sets.bool().any(dim=0) & lonely).nonzero().flatten().tolist()
    reason = None if len(sets) else "no sample has two tags"
    if missing:
        reason = f"no sample has the one tag {missing[0]}, so that it has no mean of its own"
    angle = scale = ratio = math.nan
    if reason is None:
        sums = sets.double() @ alone.nan_to_num()
        unit, target = (torch.nn.functional.normalize(rows, dim=1, eps=0) for rows in (means, sums))
        # half-angle form: the arc cosine loses digits near 0
        angles = 2 * torch.atan2((unit - target).norm(dim=1), (unit + target).norm(dim=1))
        angle, scale = math.degrees(float(angles.mean())), float((means * sums).sum() / sums.square().sum())
        ratio = float(angles.mean() / (unit @ target.T).clamp(-1, 1).acos().mean())
    values = {f"tagwise_angle{ending}": angle, f"tagwise_scale{ending}": scale, f"tagwise_ratio{ending}": ratio}
    row.fill(values, reason or "the mean of a set, or the sum of its tags' means, is zero")


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
