"""Robustness of decisions to changes of the image. A scalar of ``Trace``, by ``ncpipe.features.robustness``."""

from ncpipe.collapse.metrics import Metric, Quantity

METRIC = Metric(
    {
        "robustness": Quantity(
            "mean over images of |r(x)|₂ / |x|₂, r(x) the smallest change that DeepFool finds to alter the decision",
            r"mean of $|r|\,/\,|x|$, DeepFool",
            range="[0, ∞)",
            source="Moosavi-Dezfooli et al. 2016",
        )
    }
)
