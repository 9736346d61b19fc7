"""Balancedness of the weights before and behind a layer: 0 between linear layers of equal weight decay."""

from ncpipe.collapse.frames import balancedness
from ncpipe.collapse.metrics import Layer, Metric, Quantity


def _value(layer: Layer) -> float:
    """How far what reads the layer is from balance with what leads to it."""
    assert layer.reader is not None
    assert layer.previous_weight is not None
    return balancedness(layer.reader, layer.previous_weight)


METRIC = Metric(
    {
        "balancedness": Quantity(
            "|W_{l+1}ᵀW_{l+1} − W_l W_lᵀ|_F / |W_l|_F²",
            "imbalance of the weights around",
            range="[0, ∞)",
            source="Jacot et al. 2024",
        )
    },
    _value,
    needs=("leader",),
)
