"""Distances of a network from a minimum of what it was trained for. Scalars of ``Trace``, by ``ncpipe.features``."""

from ncpipe.collapse.metrics import Metric, Quantity

METRIC = Metric(
    {
        "classifier_stationarity": Quantity(
            "|(1/N) Σ_i (∂ℓ/∂z_i) h_iᵀ + λW|_F / (λ|W|_F)",
            r"$|\nabla_W\ell+\lambda W|\,/\,\lambda|W|$",
            range="[0, ∞)",
            source="ours",
        ),
        "stationarity": Quantity(
            "|∇f| / |Λθ|, over all parameters θ with decays Λ",
            r"$|\nabla f|\,/\,|\Lambda\theta|$",
            range="[0, ∞)",
            source="ours",
        ),
        "objective": Quantity(
            "f = mean loss + penalties, without the decay that a BatchNorm makes void",
            "loss and penalties",
            range="[0, ∞)",
            source="ours",
        ),
        "objective_gap": Quantity(
            "f / f* − 1, f* of the [model with nothing matched](matched.md#nothing-matched)",
            "$f/f^*-1$",
            range="[0, ∞)",
            source="ours",
        ),
    }
)
