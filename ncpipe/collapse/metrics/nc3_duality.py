"""NC3 of centred class means: how far the classifier is from them."""

from ncpipe.collapse.metrics import Layer, Metric, Quantity
from ncpipe.collapse.pairs import Products
from ncpipe.system.lazy import torch


def _values(layer: Layer) -> dict[str, float]:
    """``nc3_duality`` of Papyan, ``nc3_etf`` of Zhu, ``unc3`` of Wu & Papyan."""
    weight, centred = layer.weight, layer.centred
    assert weight is not None
    difference = weight / weight.norm() - centred / centred.norm()
    return {
        "nc3_duality": float(difference.square().sum()),
        "nc3_etf": Products(weight, centred).frame_distances()[0],
        "unc3": float(torch.linalg.vecdot(weight, centred).var(correction=0)),
    }


METRIC = Metric(
    {
        "nc3_duality": Quantity(
            "| W/|W|_F − M/|M|_F |_F²",
            r"$\Vert W/|W|-M/|M|\,\Vert^2$",
            at_etf="0",
            at_of="2 − 2√((K−1)/K)",
            range="[0, 4]",
            source="Papyan et al. 2020",
        ),
        "nc3_etf": Quantity(
            "| WMᵀ/|WMᵀ|_F − E |_F",
            r"$WM^\top$ to ETF, centred means",
            at_etf="0",
            range="[0, 2]",
            source="Zhu et al. 2021",
        ),
        "unc3": Quantity(
            "variance over c of ⟨w_c, μ_c − μ_G⟩",
            r"variance of $\langle w_c,\mu_c-\mu_G\rangle$",
            at_etf="0",
            range="[0, ∞)",
            source="Wu & Papyan 2024",
        ),
    },
    _values,
    needs=("frame", "weight"),
    otherwise="W M^T is zero",
)
