"""Balancedness of the weights before and behind a layer: 0 between linear layers of equal weight decay."""

from ncpipe.collapse.metrics import Metric, Quantity

METRIC = Metric(
    {
        "balancedness": Quantity(
            "|W_{l+1}ᵀW_{l+1} − W_l W_lᵀ|_F / |W_l|_F²",
            "imbalance of the weights around",
            range="[0, ∞)",
            source="Jacot et al. 2024",
        )
    }
)
