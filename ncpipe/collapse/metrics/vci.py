"""VCI, the variability collapse index: the share of the classes' directions that is scatter (Xu & Liu 2023)."""

from ncpipe.collapse.metrics import Layer, Metric, Quantity
from ncpipe.collapse.metrics.signal_to_noise import OUTSIDE
from ncpipe.collapse.statistics import class_mean_basis
from ncpipe.system.lazy import torch


def _value(layer: Layer) -> float:
    """1 - Tr(Sigma_T^+ Sigma_B)/r = (1/r) sum_i 1/(1 + s_i^2/K), r the rank of M: without the difference, which
    cancels near collapse, and without Sigma_T.

    s_i are the r singular values of Sigma_W^{-1/2} M, infinite in the directions of M that leave the range of
    Sigma_W: of the limit of Sigma_W + eps I for eps -> 0, under which the trace is continuous."""
    (sizes, noisy), basis = layer.noise, class_mean_basis(layer.means)
    spread = basis.directions * basis.sizes[:, None]  # (r, d), a rotation of M
    inside = spread @ noisy
    turn, off, _ = torch.linalg.svd(spread - inside @ noisy.T, full_matrices=False)
    turned = turn.T @ inside
    in_range = off <= torch.minimum(OUTSIDE * spread.norm(), turned.norm(dim=1))
    ratios = torch.linalg.svdvals(turned[in_range] / sizes.sqrt())
    shares = 1 / (1 + ratios.square() / len(layer.means))
    silent = int(in_range.sum()) - len(ratios)  # more directions than noise has: no signal in these
    return (float(shares.sum()) + silent) / basis.rank


METRIC = Metric(
    {
        "vci": Quantity(
            "1 − Tr(Σ_T⁺ Σ_B) / rank Σ_B, Σ_T = Σ_W + Σ_B",
            r"$1-\mathrm{Tr}(\Sigma_T^{+}\Sigma_B)/\mathrm{rank}\,\Sigma_B$",
            at_etf="0",
            range="[0, 1]",
            source="Xu & Liu 2023",
        )
    },
    _value,
    needs=("frame", "products"),
)
