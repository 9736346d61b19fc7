"""Neural-collapse metrics: exact statistics of features, and the metrics computed from them."""

from ncpipe.collapse.measure import measure
from ncpipe.collapse.metrics import collapse_metrics
from ncpipe.collapse.statistics import LayerStatistics, layer_statistics
from ncpipe.collapse.trace import Moment, Trace, load_traces, save_traces

__all__ = [
    "LayerStatistics",
    "Moment",
    "Trace",
    "collapse_metrics",
    "layer_statistics",
    "load_traces",
    "measure",
    "save_traces",
]
