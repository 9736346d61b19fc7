"""Signal to noise: the class means measured by the scatter within the classes (Han, Papyan & Donoho 2022)."""

from ncpipe.collapse.frames import NAN
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.metrics import Layer, Metric, Quantity
from ncpipe.collapse.statistics import LayerStatistics
from ncpipe.system.lazy import torch

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
    if statistics.within_products is None:
        raise ValueError("signal to noise needs within_products: take statistics with products=True")
    row = Measurement()
    METRIC.fill(row, Layer(statistics))
    return row


def _extremes(layer: Layer) -> dict[str, float]:
    """NaN where M leaves the range of Sigma_W (d, d)."""
    (classes, width), (sizes, noisy), centred = layer.means.shape, layer.noise, layer.centred
    inside = centred @ noisy
    if not len(sizes) or (centred - inside @ noisy.T).norm() > OUTSIDE * centred.norm():
        return dict.fromkeys(METRIC.quantities, NAN)
    ratios = torch.linalg.svdvals(inside / sizes.sqrt())
    count = min(classes - 1, width)
    return {"snr_min": float(ratios[count - 1]) if len(ratios) >= count else 0.0, "snr_max": float(ratios[0])}


METRIC = Metric(
    {
        "snr_min": Quantity(
            "the (K−1)-th, the smallest that is not 0 by the centring; the d-th for d < K−1",
            r"least, of $\Sigma_W^{-1/2}M^\top$",
            range="[0, ∞)",
            source="Han et al. 2022",
        ),
        "snr_max": Quantity(
            "largest singular value of Σ_W^{−1/2} Mᵀ",
            r"largest, of $\Sigma_W^{-1/2}M^\top$",
            range="[0, ∞)",
            source="Han et al. 2022",
        ),
    },
    _extremes,
    needs=("gram", "products"),
    otherwise="no scatter within the classes in a direction of the class means",
)
