"""Collapse of a regression: features and weight against the span and the covariance of the targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncpipe.collapse.arguments import Array, as_features, as_parameter, of_shape, on_device_of, require_finite
from ncpipe.collapse.frames import NAN
from ncpipe.collapse.measurement import Measurement


def regression_collapse(
    features: Array, targets: Array, weight: Array | None = None, *, gamma: float | None = None
) -> Measurement:
    r"""Neural regression collapse, NRC1 to NRC3 (Andriopoulos et al. 2024), in float64 whatever the arrays' type.

    With n targets y_i, their covariance Sigma, :math:`\tilde h_i = h_i / |h_i|` and P_C the projection on C,

    .. math:: \mathrm{NRC1} = \frac1N \sum_i |\tilde h_i - P_{\mathrm{PCA}_n} \tilde h_i|^2, \quad
              \mathrm{NRC2} = \frac1N \sum_i |\tilde h_i - P_{\mathrm{rows}(W)} \tilde h_i|^2, \quad
              \mathrm{NRC3} = \left| \frac{WW^T}{|WW^T|} -
              \frac{\Sigma^{1/2} - \sqrt\gamma I}{|\Sigma^{1/2} - \sqrt\gamma I|} \right|^2 .

    The n leading principal components are those of the centred features; what is projected is not centred. A zero
    feature counts 0. gamma is the minimiser over [0, least eigenvalue of Sigma], exactly.

    Args:
        features: (N, d), one sample a row; NumPy or Torch, floating point.
        targets: (N, n), floating point.
        weight: W (n, d) of the last layer; adds NRC2 and NRC3.
        gamma: one to take for NRC3 in place of the minimiser: that of the last weight, or of a known model.

    Returns:
        ``nrc1``, and with a weight ``nrc2``, ``nrc3`` and its ``nrc3_gamma``; NaN where undefined, with the reason
        in ``.undefined``.

    Raises:
        ValueError: an argument has the wrong shape or type, is not finite, or lies on another device.

    Example:
        >>> y = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> row = regression_collapse(torch.nn.functional.pad(y, (0, 3)), y, torch.eye(2, 5))
        >>> row["nrc1"], row["nrc2"], round(row["nrc3"], 4), row["nrc3_gamma"]
        (0.0, 0.0, 0.1026, 0.0)
    """
    if gamma is not None and not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be a number of at least 0, got {gamma}")
    h, y = as_features("features", features), as_features("targets", targets)
    y = on_device_of(h, "targets", of_shape("targets", targets, (len(h), y.shape[1])), targets)
    require_finite("features", h)
    require_finite("targets", y, "drop these samples")
    h, y = h.double(), y.double()
    unit = torch.nn.functional.normalize(h / _largest(h, dim=1), dim=1)  # squares stay in range; zero stays zero
    row = Measurement()
    _add_distance(row, "nrc1", unit, _centred(h), "all features agree", y.shape[1])
    if weight is not None:
        w = as_parameter("weight", weight, (y.shape[1], h.shape[1]), h).double()
        w = w / _largest(w)
        _add_distance(row, "nrc2", unit, w, "the weight is zero")
        _add_gram(row, w @ w.T, _centred(y), gamma)
    return row


def _centred(rows: Tensor) -> Tensor:
    """Rows minus their mean; a column that differs from its mean by rounding alone is zero."""
    rest = rows - rows.mean(dim=0)
    return rest * (rest.abs().amax(dim=0) > 64 * torch.finfo(rows.dtype).eps * rows.abs().amax(dim=0))


def _largest(matrix: Tensor, dim: int | None = None) -> Tensor:
    """Largest size of an entry, of all or of each row, but not zero."""
    sizes = matrix.abs()
    largest = sizes.amax() if dim is None else sizes.amax(dim=dim, keepdim=True)
    return largest.clamp(min=torch.finfo(matrix.dtype).tiny)


def _add_distance(row: Measurement, name: str, unit: Tensor, spanning: Tensor, why_nan: str, most: int = -1) -> None:
    """Mean squared distance of unit features (N, d) from the span of the ``most`` leading directions of rows."""
    _, sizes, directions = torch.linalg.svd(spanning / _largest(spanning), full_matrices=False)
    rank = int((sizes > max(spanning.shape) * torch.finfo(sizes.dtype).eps * sizes[0]).sum())
    basis = directions[: rank if most < 0 else min(rank, most)]
    distance = (unit - (unit @ basis.T) @ basis).square().sum() / len(unit)
    lacks = "all features are zero" if not unit.any() else why_nan if rank == 0 else ""
    row.fill({name: NAN if lacks else float(distance)}, lacks)


def _add_gram(row: Measurement, gram: Tensor, centred: Tensor, gamma: float | None) -> None:
    """NRC3 of W W^T (n, n) and centred targets (N, n)."""
    _, sizes, axes = torch.linalg.svd(centred / math.sqrt(len(centred)), full_matrices=False)
    root = axes.T @ (sizes[:, None] * axes)
    least = float(sizes[-1]) if len(sizes) == len(root) else 0.0
    shift, tells = _best_shift(gram, root, least) if gamma is None else (math.sqrt(gamma), True)
    target = root - shift * torch.eye(len(root), dtype=root.dtype, device=root.device)
    apart = float((gram / gram.norm() - target / target.norm()).square().sum())
    lacks = "the targets are constant, or gamma takes all of their covariance"
    if len(root) == 1:
        apart, lacks = NAN, "one target: NRC3 is 0 for any weight"
    elif not gram.any():
        lacks = "the weight is zero"
    undefined = math.isnan(apart)
    row.fill({"nrc3": apart}, lacks)
    lacks = lacks if undefined else "targets of one variance: any gamma is as good"
    row.fill({"nrc3_gamma": shift**2 if tells and not undefined else NAN}, lacks)


def _best_shift(gram: Tensor, root: Tensor, least: float) -> tuple[float, bool]:
    """The sqrt(gamma) in [0, ``least``] at the smallest NRC3 of a Gram (n, n), and whether it tells from others.

    With traceless parts S' of Sigma^(1/2) = s I + S' and G' of the Gram g I + G', the target is v I + S',
    v = s - sqrt(gamma). Its cosine with the Gram is that of two vectors in the plane of I and S': it has one maximum
    over v, at g |S'|^2 / <G', S'>, and rises with v where that product is not positive.
    """
    mean, n = float(root.trace()) / len(root), len(root)
    shape = root - mean * torch.eye(n, dtype=root.dtype, device=root.device)
    spread, product = float(shape.square().sum()), float((gram * shape).sum())
    if math.sqrt(spread) <= 1e-12 * mean:  # rounding: every gamma leaves a multiple of I
        return 0.0, False
    if product <= 0:
        return 0.0, True
    return min(max(mean - float(gram.trace()) / n * spread / product, 0.0), least), True
