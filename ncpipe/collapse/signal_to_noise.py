"""Signal to noise: the class means measured by the scatter within the classes (Han, Papyan & Donoho 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from ncpipe.collapse.frames import NAN
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.metrics import missing_means
from ncpipe.collapse.statistics import LayerStatistics, centred_means

SNR = ("snr_min", "snr_max")
OUTSIDE = 1e-6
"""Share of M outside the range of Sigma_W that is taken for rounding of float32 features."""


def signal_to_noise(statistics: LayerStatistics) -> Measurement:
    r"""Smallest and largest of the K - 1 singular values (d, where d < K - 1) of
    :math:`\Sigma_W^{-1/2} M`, M (d x K) the centred class means.

    They do not change under invertible linear maps of the features. Where Sigma_W is singular, its pseudo-inverse
    stands for the inverse as long as M lies in its range: a unit that is always zero adds neither signal nor noise.
    Where M does not, as it generally does not for d > N - K, the ratio is infinite in a direction, and both values
    are NaN. Eigenvalues of Sigma_W count as zero up to d eps times the largest, and up to (d eps max_c |mu_c|)^2,
    the rounding of the features. Takes one eigendecomposition of a d x d matrix.

    Args:
        statistics: of the features, with ``within_products``.

    Returns:
        ``snr_min``, 0 where the class means are affinely dependent, and ``snr_max``. NaN, with the reason in
        ``undefined``, also for one class and for a class without a sample.

    Raises:
        ValueError: the statistics lack ``within_products``.
    """
    products = statistics.within_products
    if products is None:
        raise ValueError("signal to noise needs within_products: take statistics with products=True")
    means, row = statistics.means, Measurement()
    reason = missing_means(statistics.counts, means)
    if reason is None and len(means) == 1:
        reason = "there is one class only"
    if reason is None and not means.any():
        reason = "all class means are zero"
    row.fill(
        SNR,
        reason,
        lambda: _extremes(means, products / statistics.num_samples),
        "no scatter within the classes in a direction of the class means",
    )
    return row


def _extremes(means: Tensor, within: Tensor) -> dict[str, float]:
    """NaN where M leaves the range of Sigma_W (d, d)."""
    (classes, width), eps = means.shape, torch.finfo(means.dtype).eps
    sizes, vectors = torch.linalg.eigh(within)
    rounding = (width * eps * means.norm(dim=1).max()).square()
    keep = sizes > torch.maximum(width * eps * sizes[-1], rounding)
    centred, noisy = centred_means(means), vectors[:, keep]
    inside = centred @ noisy
    if not keep.any() or (centred - inside @ noisy.T).norm() > OUTSIDE * centred.norm():
        return dict.fromkeys(SNR, NAN)
    ratios = torch.linalg.svdvals(inside / sizes[keep].sqrt())
    count = min(classes - 1, width)
    return {"snr_min": float(ratios[count - 1]) if len(ratios) >= count else 0.0, "snr_max": float(ratios[0])}
