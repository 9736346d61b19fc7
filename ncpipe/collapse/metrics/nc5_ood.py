"""NC5: how far samples of no class are from being orthogonal to all classes."""

from ncpipe.collapse.frames import ood_orthogonality
from ncpipe.collapse.metrics import Layer, Metric, Quantity


def _value(layer: Layer) -> float:
    assert layer.ood_mean is not None
    return ood_orthogonality(layer.means, layer.ood_mean)


METRIC = Metric(
    {
        "nc5_ood": Quantity(
            "mean over c of |cos(μ_c, μ_O)|, means uncentred",
            r"mean $|\cos(\mu_c,\mu_O)|$",
            range="[0, 1]",
            source="Ammar et al. 2024",
        )
    },
    _value,
    needs=("means", "ood_mean"),
    otherwise="a class mean or the mean of ood_features is zero",
)
