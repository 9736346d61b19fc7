"""NC4: the classifier's decisions, and those that differ from the nearest class mean's."""

from ncpipe.collapse.frames import NAN
from ncpipe.collapse.layer import NO_SECOND_PASS
from ncpipe.collapse.metrics import Layer, Metric, Quantity


def _values(layer: Layer) -> dict[str, float]:
    stats, total = layer.statistics, layer.statistics.num_samples
    agreements, hits = stats.agreements, stats.classifier_hits
    return {
        "nc4_mismatch": NAN if agreements is None else 1 - int(agreements.sum()) / total,
        "accuracy": NAN if hits is None else int(hits.sum()) / total,
    }


def _otherwise(layer: Layer) -> str:
    first_pass = layer.statistics.nearest_mean_hits is None
    return NO_SECOND_PASS if first_pass else "the statistics were taken without the weight"


METRIC = Metric(
    {
        "nc4_mismatch": Quantity(
            "fraction where argmax(Wh + b) is not the nearest **train** class mean",
            r"decision $\neq$ nearest mean",
            at_etf="0",
            range="[0, 1]",
            source="Papyan et al. 2020",
        ),
        "accuracy": Quantity(
            "fraction where argmax(Wh + b) is the label", "of the classifier", at_etf="1", range="[0, 1]"
        ),
    },
    _values,
    needs=("finite", "classifier"),
    otherwise=_otherwise,
)
