"""GNC2: how evenly the directions of centred class means are spread, also for K > d + 1."""

from __future__ import annotations

from ncpipe.collapse.frames import directional_distances
from ncpipe.collapse.layer import Layer
from ncpipe.collapse.metrics._base import Metric, Quantity


def _values(layer: Layer) -> dict[str, float]:
    """Mean and variance of Riesz kernels over pairs of directions (Liu et al. 2023; Wu & Papyan 2024)."""
    separation = directional_distances(layer.centred)
    kernel = -separation.log()
    return {
        "gnc2_log": float(kernel.mean()),
        "gnc2_log_var": float(kernel.var(correction=0)),
        "gnc2_riesz_1": float(separation.reciprocal().mean()),
        "gnc2_riesz_2": float(separation.square().reciprocal().mean()),
    }


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
