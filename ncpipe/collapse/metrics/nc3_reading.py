"""NC3 of any weight: what it reads of uncentred class means, a classifier or the next layer."""

from ncpipe.collapse.frames import aligned_share, nc3_rows, row_space
from ncpipe.collapse.metrics import Layer, Metric, Quantity


def _values(layer: Layer) -> dict[str, float]:
    """``nc3_rows``, how far rows are from the means' directions (Sukenik), and how far they read their span
    (Rangamani)."""
    assert layer.reader is not None
    alignment = aligned_share(layer.reader_space, row_space(layer.means))
    return {"nc3_rows": nc3_rows(layer.reader, layer.means), "subspace_alignment": alignment}


METRIC = Metric(
    {
        "nc3_rows": Quantity(
            "Σ_j |w_j|² (1 − max_c cos²(w_j, μ_c)) / Σ_j |w_j|², means uncentred",
            "weight rows off the means",
            at_etf="0",
            range="[0, 1]",
            source="Súkeník et al. 2023",
        ),
        "subspace_alignment": Quantity(
            "(1/r) Σ of the singular values of V_rᵀU_r",
            "cosines, weight and means",
            at_etf="1",
            range="[0, 1]",
            source="Rangamani et al. 2023",
        ),
    },
    _values,
    needs=("gram", "reader"),
)
