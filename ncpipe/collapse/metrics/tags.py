"""Features of several tags. Scalars of ``Trace``, by ``ncpipe.collapse.multilabel``."""

from ncpipe.collapse.metrics import Metric, Quantity

METRIC = Metric(
    {
        "tagwise_angle": Quantity(
            "mean over sets S of two or more tags of the angle between μ_S and σ_S, in degrees",
            "degrees, to sums of tags",
            at_etf="0",
            range="[0, 180]",
            source="Li et al. 2024",
        ),
        "tagwise_scale": Quantity(
            "C that fits μ_S = C σ_S in least squares over these sets",
            "over sums of tags",
            at_etf="> 0",
            range="(−∞, ∞)",
            source="Li et al. 2024",
        ),
        "tagwise_ratio": Quantity(
            "that angle, of uncentred means, over the mean angle of μ_S and σ_S′ for all pairs of these sets",
            "angle over unrelated",
            at_etf="0",
            range="≥ 0",
            source="Li et al. 2024",
        ),
        "tag_sets_1nn": Quantity(
            "fraction of test samples whose set of tags is that of the training sample at the smallest angle",
            "nearest training feature",
            at_etf="1",
            range="[0, 1]",
            source="ours",
        ),
    }
)
