"""Han's split of the squared error at the least-squares classifier."""

from ncpipe.collapse.least_squares import least_squares_split
from ncpipe.collapse.metrics import Layer, Metric, Quantity


def _values(layer: Layer) -> dict[str, float]:
    assert layer.weight is not None
    assert layer.penalties is not None
    ridge, bias_decay = layer.penalties
    split = least_squares_split(layer.statistics, layer.weight, layer.bias, ridge=ridge, bias_decay=bias_decay)
    return split.values()


METRIC = Metric(
    {
        "loss_nc1": Quantity(
            "½ Tr W̃_LS (Σ̃_W + Λ) W̃_LSᵀ",
            "least squares, within classes",
            at_etf="0",
            range="[0, ∞)",
            source="Han et al. 2022",
        ),
        "loss_nc23": Quantity(
            "½ Σ_c (n_c/N) |W̃_LS μ̃_c − e_c|²",
            "least squares, at the means",
            at_etf="0, without a bias 1/(2K)",
            at_of="0",
            range="[0, ∞)",
            source="Han et al. 2022",
        ),
        "loss_perp": Quantity(
            "½ Tr (W̃ − W̃_LS) A (W̃ − W̃_LS)ᵀ",
            "off least squares",
            at_etf="scale of W",
            range="[0, ∞)",
            source="Han et al. 2022",
        ),
    },
    _values,
    needs=("means", "products", "penalties"),
)
