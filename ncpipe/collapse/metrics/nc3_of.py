"""NC3 of uncentred class means: the distance of what the classifier reads of them to an orthogonal frame."""

from ncpipe.collapse.metrics import Layer, Metric, Quantity
from ncpipe.collapse.pairs import Products


def _value(layer: Layer) -> float:
    assert layer.weight is not None
    return Products(layer.weight, layer.means).frame_distances()[1]


METRIC = Metric(
    {
        "nc3_of": Quantity(
            "| WM̄ᵀ/|WM̄ᵀ|_F − I/√K |_F, means uncentred",
            r"$W\bar M^\top$ to OF, uncentred means",
            at_etf="D",
            at_of="0",
            range="[0, 2]",
            source="Dang et al. 2023",
        )
    },
    _value,
    needs=("gram", "weight"),
    otherwise="the weight is orthogonal to the means",
)
