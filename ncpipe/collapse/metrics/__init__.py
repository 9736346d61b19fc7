"""Metrics of one layer, found by name: a file each, or one for several that are computed together.

Notation (Papyan, Han & Donoho 2020; Tirer & Bruna 2022): K classes, class means mu_c, mu_G the mean of the
class means, M = [mu_c - mu_G] (K x d), Sigma_W the within-class and Sigma_B the between-class covariance.
"""

from collections.abc import Iterator

from ncpipe.collapse.layer import NEEDS, Layer
from ncpipe.collapse.metrics._base import Metric, Quantity
from ncpipe.settings.registry import Registry

__all__ = ["METRICS", "NEEDS", "Layer", "Metric", "Quantity", "families", "label"]

METRICS: Registry[Metric] = Registry(__name__, "METRIC", lambda metric: metric.quantities)
"""By name: what a module here, or an entry point ``ncpipe.collapse.metrics``, has as ``METRIC``. Rows of tables have
the order of the modules."""


def families() -> Iterator[Metric]:
    """All metrics, those that are computed together once."""
    yield from dict.fromkeys(METRICS.values())


def label(name: str) -> str:
    """What stands over a panel of a metric; empty where the name is none's."""
    return METRICS[name].quantities[name].label if name in METRICS else ""
