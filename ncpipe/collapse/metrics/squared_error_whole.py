"""Penalised squared error, sample by sample: what Han's split is of. A scalar of ``Trace``."""

from ncpipe.collapse.metrics import Metric, Quantity

METRIC = Metric(
    {
        "loss_penalised": Quantity(
            "L as it is written above, from the outputs",
            "with penalties",
            at_etf="scale of W",
            range="[0, ∞)",
            source="Han et al. 2022",
        )
    }
)
