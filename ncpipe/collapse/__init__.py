"""Neural-collapse metrics: exact statistics of features, and the metrics computed from them."""

from ncpipe.collapse.frames import (
    balancedness,
    effective_rank,
    hyperspherical_energy,
    nc3_rows,
    ood_orthogonality,
    stable_rank,
    subspace_alignment,
)
from ncpipe.collapse.least_squares import LeastSquaresSplit, least_squares_split, penalised_loss
from ncpipe.collapse.measure import measure
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.metrics import collapse_metrics
from ncpipe.collapse.moments import ClassMoments, class_means, class_moments
from ncpipe.collapse.multilabel import tag_sets_1nn, tagwise_metrics
from ncpipe.collapse.signal_to_noise import signal_to_noise
from ncpipe.collapse.statistics import LayerStatistics, SecondPass, layer_statistics
from ncpipe.collapse.trace import Moment, Trace

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
    "measure",
    "nc3_rows",
    "ood_orthogonality",
    "penalised_loss",
    "signal_to_noise",
    "stable_rank",
    "subspace_alignment",
    "tag_sets_1nn",
    "tagwise_metrics",
]
