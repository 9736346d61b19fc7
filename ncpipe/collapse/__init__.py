"""Neural-collapse metrics: exact statistics of features, and the metrics computed from them."""

from ncpipe.collapse.frames import (
    balancedness,
    effective_rank,
    hyperspherical_energy,
    ood_orthogonality,
    stable_rank,
    subspace_alignment,
)
from ncpipe.collapse.least_squares import LeastSquaresSplit, least_squares_split
from ncpipe.collapse.measure import measure
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.metrics import collapse_metrics
from ncpipe.collapse.moments import ClassMoments, class_means, class_moments
from ncpipe.collapse.multilabel import tagwise_metrics
from ncpipe.collapse.statistics import LayerStatistics, SecondPass, layer_statistics
from ncpipe.collapse.trace import Moment, Trace, load_traces, save_traces

__all__ = [
    "ClassMoments",
    "LayerStatistics",
    "LeastSquaresSplit",
    "Measurement",
    "Moment",
    "SecondPass",
    "Trace",
    "balancedness",
    "class_means",
    "class_moments",
    "collapse_metrics",
    "effective_rank",
    "hyperspherical_energy",
    "layer_statistics",
    "least_squares_split",
    "load_traces",
    "measure",
    "ood_orthogonality",
    "save_traces",
    "stable_rank",
    "subspace_alignment",
    "tagwise_metrics",
]
