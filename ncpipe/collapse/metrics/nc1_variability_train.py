"""NC1 of other samples about the class means of training: 0 where they sit at these, not at means of their own."""

from dataclasses import replace

from ncpipe.collapse.metrics import Layer, Metric
from ncpipe.collapse.metrics.nc1_variability import METRIC as NC1
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


WORDS = {
    "nc1_pinv": ("Tr(S T⁺)/K", r"$\mathrm{Tr}(\Sigma_W\Sigma_B^{+})/K$, train means"),
    "nc1_trace_ratio": ("Tr S / Tr T", r"$\mathrm{Tr}\,\Sigma_W/\mathrm{Tr}\,\Sigma_B$, train means"),
    "within_share": ("Tr S / (Tr S + Tr T)", r"$\mathrm{Tr}\,\Sigma_W/\mathrm{Tr}(\Sigma_W+\Sigma_B)$, train means"),
    "cdnv": (
        "mean over c ≠ c′ of (s_c + s_c′) / (2 |t_c − t_c′|²)",
        r"mean of $(v_c+v_{c'})/2|\mu_c-\mu_{c'}|^2$, train means",
    ),
}
"""Definition and label; the rest is as of NC1 about a sample's own means."""

METRIC = Metric(
    {
        f"{name}_train_means": replace(NC1.quantities[name], definition=definition, label=label, source="here")
        for name, (definition, label) in WORDS.items()
    },
    _values,
    needs=("means", "train_means"),
    otherwise=_otherwise,
)
