"""NC2 of the centred class means: their norms, angles, Gram, and ranks."""

from ncpipe.collapse.frames import frame_metrics
from ncpipe.collapse.metrics import Layer, Metric, Quantity


def _values(layer: Layer) -> dict[str, float]:
    found = frame_metrics("means", layer.centred, layer.singular_values)
    del found["nc2_means_of"]  # which is that of the uncentred means
    return found


METRIC = Metric(
    {
        "nc2_means_equinorm": Quantity(
            "std/mean over c of |μ_c − μ_G|",
            r"std/mean of $|\mu_c-\mu_G|$",
            at_etf="0",
            range="[0, √(K/2−1)]",
            source="Papyan et al. 2020",
        ),
        "nc2_means_angle_std": Quantity(
            "std over c ≠ c′ of cos(μ_c − μ_G, μ_c′ − μ_G)",
            "std of the means' cosines",
            at_etf="0",
            range="[0, 1]",
            source="Papyan et al. 2020",
        ),
        "nc2_means_equiangle": Quantity(
            "mean over c ≠ c′ of |cos + 1/(K−1)|, the same cosines",
            r"means' $|\cos+1/(K-1)|$",
            at_etf="0",
            range="[0, 2]",
            source="Papyan et al. 2020",
        ),
        "nc2_means_etf": Quantity(
            "| MMᵀ/|MMᵀ|_F − E |_F",
            "centred means to ETF",
            at_etf="0",
            range="[0, √2]",
            source="Kothapalli 2023; Tirer & Bruna 2022",
        ),
        "means_effective_rank": Quantity(
            "exp of the entropy of s/Σs, s the singular values of M",
            r"$\exp$ entropy of singular values, means",
            at_etf="K−1",
            range="[1, min(K−1, d)]",
            source="Roy & Vetterli 2007",
        ),
        "means_stable_rank": Quantity(
            "|M|_F² / |M|₂²",
            "$|M|_F^2/|M|_2^2$",
            at_etf="K−1",
            range="[1, min(K−1, d)]",
            source="Rudelson & Vershynin 2007",
        ),
    },
    _values,
    needs=("frame",),
    otherwise=lambda layer: layer.no_direction,
)
