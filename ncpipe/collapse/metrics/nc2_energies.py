"""GNC2: how evenly the directions of centred class means are spread, also for K > d + 1."""

from ncpipe.collapse.metrics import Layer, Metric, Quantity
from ncpipe.collapse.pairs import Block, moments, over_distances, pooled
from ncpipe.system.lazy import Tensor, torch


def _values(layer: Layer) -> dict[str, float]:
    """Mean and variance of Riesz kernels over pairs of directions (Liu et al. 2023; Wu & Papyan 2024)."""

    def kernels(block: Block, squared: Tensor) -> Tensor:
        apart = block.off_diagonal(squared)
        riesz = apart.log() / -2, apart.rsqrt(), apart.reciprocal()
        return torch.stack([moments(block, kernel) for kernel in riesz])

    directions = layer.centred / layer.centred.norm(dim=1, keepdim=True)
    logarithmic, *riesz = over_distances(directions, kernels).unbind(dim=1)
    names = "gnc2_log", "gnc2_log_var", "gnc2_riesz_1", "gnc2_riesz_2"
    return dict(zip(names, (*pooled(logarithmic), *(pooled(kernel)[0] for kernel in riesz))))


METRIC = Metric(
    {
        "gnc2_log": Quantity(
            "mean over c ≠ c′ of log 1/|m̂_c − m̂_c′|",
            r"mean of $\log 1/|u_c-u_{c'}|$",
            at_etf="−½ log(2K/(K−1))",
            range="[value at ETF, ∞]",
            source="Liu et al. 2023",
        ),
        "gnc2_log_var": Quantity(
            "variance over c ≠ c′ of log 1/|m̂_c − m̂_c′|",
            r"variance of $\log 1/|u_c-u_{c'}|$",
            at_etf="0",
            range="[0, ∞)",
            source="Wu & Papyan 2024",
        ),
        "gnc2_riesz_1": Quantity(
            "mean over c ≠ c′ of 1/|m̂_c − m̂_c′|",
            "mean of $|u_c-u_{c'}|^{-1}$",
            at_etf="√((K−1)/(2K))",
            range="[value at ETF, ∞]",
            source="Liu et al. 2023",
        ),
        "gnc2_riesz_2": Quantity(
            "mean over c ≠ c′ of 1/|m̂_c − m̂_c′|²",
            "mean of $|u_c-u_{c'}|^{-2}$",
            at_etf="(K−1)/(2K)",
            range="[value at ETF, ∞]",
            source="Liu et al. 2023",
        ),
    },
    _values,
    needs=("frame",),
    otherwise=lambda layer: layer.no_direction,
)
