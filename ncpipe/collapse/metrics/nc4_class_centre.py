"""NCC: decisions for the nearest class centre, the mean of training."""

from ncpipe.collapse.frames import NAN
from ncpipe.collapse.layer import NO_SECOND_PASS
from ncpipe.collapse.metrics import Layer, Metric, Quantity


def _value(layer: Layer) -> float:
    hits = layer.statistics.nearest_mean_hits
    return NAN if hits is None else int(hits.sum()) / layer.statistics.num_samples


METRIC = Metric(
    {
        "ncc_accuracy": Quantity(
            "fraction of samples whose nearest **train** class mean is their own",
            "of the nearest mean",
            at_etf="1",
            range="[0, 1]",
            source="Rangamani et al. 2023",
        )
    },
    _value,
    needs=("finite",),
    otherwise=NO_SECOND_PASS,
)
