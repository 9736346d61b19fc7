"""NC1 of other samples about the class means of training: 0 where they sit at these, not at means of their own."""

from ncpipe.collapse.metrics import Layer, Metric, Quantity
from ncpipe.collapse.metrics.nc1_variability import no_variability, variability
from ncpipe.collapse.statistics import centred_means


def _values(layer: Layer) -> dict[str, float]:
    stats, own, train = layer.statistics, layer.own_train_means, layer.train_means
    assert own is not None
    assert train is not None
    scatter = stats.scatter + stats.counts * (stats.means - own).square().sum(dim=1)
    values = variability(stats.counts, own, scatter, stats.train_whitened_total(train, own), centred_means(train))
    return {f"{name}_train_means": value for name, value in values.items()}


def _otherwise(layer: Layer) -> str:
    return no_variability(layer.statistics, layer.statistics.train_whitened_scatter)


METRIC = Metric(
    {
        "nc1_pinv_train_means": Quantity(
            "Tr(S T⁺)/K",
            r"$\mathrm{Tr}(\Sigma_W\Sigma_B^{+})/K$, train means",
            at_etf="0",
            range="[0, ∞)",
            source="here",
        ),
        "nc1_trace_ratio_train_means": Quantity(
            "Tr S / Tr T",
            r"$\mathrm{Tr}\,\Sigma_W/\mathrm{Tr}\,\Sigma_B$, train means",
            at_etf="0",
            range="[0, ∞)",
            source="here",
        ),
        "within_share_train_means": Quantity(
            "Tr S / (Tr S + Tr T)",
            r"$\mathrm{Tr}\,\Sigma_W/\mathrm{Tr}(\Sigma_W+\Sigma_B)$, train means",
            at_etf="0",
            range="[0, 1]",
            source="here",
        ),
        "cdnv_train_means": Quantity(
            "mean over c ≠ c′ of (s_c + s_c′) / (2 |t_c − t_c′|²)",
            r"mean of $(v_c+v_{c'})/2|\mu_c-\mu_{c'}|^2$, train means",
            at_etf="0",
            range="[0, ∞]",
            source="here",
        ),
    },
    _values,
    needs=("means", "train_means"),
    otherwise=_otherwise,
)
