"""NC4: what the classifier says at the centre of the class means."""

from ncpipe.collapse.metrics import Layer, Metric, Quantity


def _value(layer: Layer) -> float:
    """|W mu_G + b|_2 (Zhu)."""
    assert layer.weight is not None
    constant = layer.weight @ layer.means.mean(dim=0)
    return float((constant if layer.bias is None else constant + layer.bias).norm())


METRIC = Metric(
    {
        "nc4_bias": Quantity(
            "|Wμ_G + b|₂", r"$|W\mu_G+b|$", at_etf="0", at_of="> 0", range="[0, ∞)", source="Zhu et al. 2021"
        )
    },
    _value,
    needs=("means", "classifier"),
    otherwise="the weight is not finite",
)
