"""NC1: how little features vary within their classes."""

from ncpipe.collapse.frames import NAN, mean_cdnv
from ncpipe.collapse.layer import NO_SECOND_PASS
from ncpipe.collapse.metrics import Layer, Metric, Quantity
from ncpipe.collapse.statistics import LayerStatistics
from ncpipe.system.lazy import Tensor


def _values(layer: Layer) -> dict[str, float]:
    stats = layer.statistics
    return variability(stats.counts, stats.means, stats.scatter, stats.whitened_total(), layer.centred)


def variability(
    counts: Tensor, means: Tensor, scatter: Tensor, whitened: Tensor | None, centred: Tensor
) -> dict[str, float]:
    """NC1 of scatters (K,) about means (K, d), with Sigma_B of all ``centred`` means.

    Papyan's pseudo-inverse, the ratio and the share of traces of Tirer, Huang & Niles-Weed and of Rangamani, and
    Galanti's distances of pairs of classes. All are 0 at collapse."""
    total = int(counts.sum())
    within, between = float(scatter.sum()) / total, float(centred.square().sum()) / len(centred)
    return {
        # Sigma_B^+ = K U S^-2 U^T: the K cancels the one of the definition.
        "nc1_pinv": NAN if whitened is None else float(whitened) / total,
        "nc1_trace_ratio": within / between,
        "within_share": within / (within + between),
        "cdnv": mean_cdnv(means, scatter / counts),
    }


def no_variability(stats: LayerStatistics, whitened: Tensor | None) -> str:
    return NO_SECOND_PASS if whitened is None and stats.within_products is None else "two class means agree"


METRIC = Metric(
    {
        "nc1_pinv": Quantity(
            "Tr(Σ_W Σ_B⁺)/K",
            r"$\mathrm{Tr}(\Sigma_W\Sigma_B^{+})\,/\,K$",
            at_etf="0",
            range="[0, ∞)",
            source="Papyan, Han & Donoho 2020",
        ),
        "nc1_trace_ratio": Quantity(
            "Tr Σ_W / Tr Σ_B",
            r"$\mathrm{Tr}\,\Sigma_W\,/\,\mathrm{Tr}\,\Sigma_B$",
            at_etf="0",
            range="[0, ∞)",
            source="Tirer, Huang & Niles-Weed 2023",
        ),
        "within_share": Quantity(
            "Tr Σ_W / (Tr Σ_W + Tr Σ_B)",
            r"$\mathrm{Tr}\,\Sigma_W\,/\,\mathrm{Tr}(\Sigma_W+\Sigma_B)$",
            at_etf="0",
            range="[0, 1]",
            source="Rangamani et al. 2023",
        ),
        "cdnv": Quantity(
            "mean over c ≠ c′ of (v_c + v_c′) / (2 |μ_c − μ_c′|²)",
            r"mean of $(v_c+v_{c'})/2|\mu_c-\mu_{c'}|^2$",
            at_etf="0",
            range="[0, ∞]",
            source="Galanti et al. 2022",
        ),
    },
    _values,
    needs=("scatter",),
    otherwise=lambda layer: no_variability(layer.statistics, layer.statistics.whitened_scatter),
)
