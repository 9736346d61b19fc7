"""NC2 of the classifier's rows: their norms, angles, Gram, and ranks."""

from ncpipe.collapse.frames import frame_metrics
from ncpipe.collapse.metrics import Layer, Metric, Quantity


def _values(layer: Layer) -> dict[str, float]:
    assert layer.weight is not None
    return frame_metrics("weights", layer.weight, layer.reader_space.sizes)


METRIC = Metric(
    {
        "nc2_weights_equinorm": Quantity(
            "std/mean over c of |w_c|",
            "std/mean of $|w_c|$",
            at_etf="0",
            range="[0, √(K−1)]",
            source="Papyan et al. 2020",
        ),
        "nc2_weights_angle_std": Quantity(
            "std over c ≠ c′ of cos(w_c, w_c′)",
            "std of the weights' cosines",
            at_etf="0",
            range="[0, 1]",
            source="Papyan et al. 2020",
        ),
        "nc2_weights_equiangle": Quantity(
            "mean over c ≠ c′ of |cos(w_c, w_c′) + 1/(K−1)|",
            r"weights' $|\cos+1/(K-1)|$",
            at_etf="0",
            at_of="1/(K−1)",
            range="[0, 2]",
            source="Papyan et al. 2020",
        ),
        "nc2_weights_etf": Quantity(
            "| WWᵀ/|WWᵀ|_F − E |_F, weights not centred",
            r"$WW^\top$ to ETF",
            at_etf="0",
            at_of="D",
            range="[0, √2]",
            source="Zhu et al. 2021",
        ),
        "nc2_weights_of": Quantity(
            "| WWᵀ/|WWᵀ|_F − I/√K |_F",
            r"$WW^\top$ to OF",
            at_etf="D",
            at_of="0",
            range="[0, √2]",
            source="Dang et al. 2023",
        ),
        "weights_effective_rank": Quantity(
            "as above, of W",
            r"$\exp$ entropy of singular values, weights",
            at_etf="K−1",
            at_of="K",
            range="[1, min(K, d)]",
            source="Roy & Vetterli 2007",
        ),
        "weights_stable_rank": Quantity(
            "as above, of W",
            "$|W|_F^2/|W|_2^2$",
            at_etf="K−1",
            at_of="K",
            range="[1, min(K, d)]",
            source="Rudelson & Vershynin 2007",
        ),
    },
    _values,
    needs=("weight",),
    otherwise="a row of the weight is zero",
)
