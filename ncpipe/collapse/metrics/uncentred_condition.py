"""Condition of the uncentred class means: how far they are from losing a direction."""

from ncpipe.collapse.metrics import Layer, Metric, Quantity
from ncpipe.system.lazy import torch


def _value(layer: Layer) -> float:
    """s_K / s_1 of the uncentred means (K, d): 0 where d < K."""
    sizes = torch.linalg.svdvals(layer.means)
    return float(sizes[-1] / sizes[0]) if len(sizes) == len(layer.means) else 0.0


METRIC = Metric(
    {
        "means_uncentred_condition": Quantity(
            "s_K/s_1, s the singular values of the uncentred means M̄",
            "$s_K/s_1$, uncentred means",
            at_etf="0",
            at_of="1",
            range="[0, 1]",
            source="Súkeník et al. 2024",
        )
    },
    _value,
    needs=("gram",),
)
