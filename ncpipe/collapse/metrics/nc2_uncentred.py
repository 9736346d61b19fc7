"""NC2 of the uncentred class means: centred, an orthogonal frame is an ETF, so that these alone tell them apart."""

from ncpipe.collapse.metrics import Layer, Metric, Quantity
from ncpipe.collapse.pairs import Products


def _values(layer: Layer) -> dict[str, float]:
    to_etf, to_of = Products(layer.means).frame_distances()
    return {"nc2_means_of": to_of, "nc2_means_uncentred_etf": to_etf}


METRIC = Metric(
    {
        "nc2_means_of": Quantity(
            "| M̄M̄ᵀ/|M̄M̄ᵀ|_F − I/√K |_F, means uncentred",
            "uncentred means to OF",
            at_etf="D",
            at_of="0",
            range="[0, √2]",
            source="Tirer & Bruna 2022",
        ),
        "nc2_means_uncentred_etf": Quantity(
            "| M̄M̄ᵀ/|M̄M̄ᵀ|_F − E |_F, means uncentred",
            "uncentred means to ETF",
            at_etf="0",
            at_of="D",
            range="[0, √2]",
            source="here",
        ),
    },
    _values,
    needs=("gram",),
)
