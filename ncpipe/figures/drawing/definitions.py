"""What a metric means, in the few words or symbols that fit over a panel. In full: docs/metrics.md."""

from __future__ import annotations

import math

DEFINITIONS = {
    "nc1_pinv": r"$\mathrm{Tr}(\Sigma_W\Sigma_B^{+})\,/\,K$",
    "nc1_trace_ratio": r"$\mathrm{Tr}\,\Sigma_W\,/\,\mathrm{Tr}\,\Sigma_B$",
    "within_share": r"$\mathrm{Tr}\,\Sigma_W\,/\,\mathrm{Tr}(\Sigma_W+\Sigma_B)$",
    "cdnv": r"mean of $(v_c+v_{c'})/2|\mu_c-\mu_{c'}|^2$",
    "nc1_pinv_train_means": r"$\mathrm{Tr}(\Sigma_W\Sigma_B^{+})/K$, train means",
    "nc1_trace_ratio_train_means": r"$\mathrm{Tr}\,\Sigma_W/\mathrm{Tr}\,\Sigma_B$, train means",
    "within_share_train_means": r"$\mathrm{Tr}\,\Sigma_W/\mathrm{Tr}(\Sigma_W+\Sigma_B)$, train means",
    "cdnv_train_means": r"mean of $(v_c+v_{c'})/2|\mu_c-\mu_{c'}|^2$, train means",
    "nc2_means_equinorm": r"std/mean of $|\mu_c-\mu_G|$",
    "nc2_weights_equinorm": r"std/mean of $|w_c|$",
    "nc2_means_angle_std": "std of the means' cosines",
    "nc2_weights_angle_std": "std of the weights' cosines",
    "nc2_means_equiangle": r"mean $|\cos+1/(K-1)|$, means",
    "nc2_weights_equiangle": r"mean $|\cos+1/(K-1)|$, weights",
    "nc2_means_etf": "centred means to ETF",
    "nc2_means_uncentred_etf": "uncentred means to ETF",
    "nc2_means_of": "uncentred means to OF",
    "nc2_weights_etf": r"$WW^\top$ to ETF",
    "nc2_weights_of": r"$WW^\top$ to OF",
    "gnc2_log": r"mean of $\log 1/|u_c-u_{c'}|$",
    "gnc2_log_var": r"variance of $\log 1/|u_c-u_{c'}|$",
    "gnc2_riesz_1": r"mean of $|u_c-u_{c'}|^{-1}$",
    "gnc2_riesz_2": r"mean of $|u_c-u_{c'}|^{-2}$",
    "means_effective_rank": r"$\exp$ entropy of singular values, means",
    "weights_effective_rank": r"$\exp$ entropy of singular values, weights",
    "means_stable_rank": r"$|M|_F^2/|M|_2^2$",
    "weights_stable_rank": r"$|W|_F^2/|W|_2^2$",
    "nc3_duality": r"$\Vert W/|W|-M/|M|\,\Vert^2$",
    "nc3_etf": r"$WM^\top$ to ETF, centred means",
    "nc3_of": r"$W\bar M^\top$ to OF, uncentred means",
    "unc3": r"variance of $\langle w_c,\mu_c-\mu_G\rangle$",
    "nc3_rows": "weight rows off the means",
    "subspace_alignment": "cosines, weight and means",
    "nc4_mismatch": r"decision $\neq$ nearest mean",
    "nc4_bias": r"$|W\mu_G+b|$",
    "ncc_accuracy": "of the nearest mean",
    "accuracy": "of the classifier",
    "loss_nc1": "least squares, within classes",
    "loss_nc23": "least squares, at the means",
    "loss_perp": "off least squares",
    "loss_penalised": "with penalties",
    "snr_min": r"least, of $\Sigma_W^{-1/2}M^\top$",
    "snr_max": r"largest, of $\Sigma_W^{-1/2}M^\top$",
    "tagwise_angle": "degrees, to sums of tags",
    "tagwise_scale": "over sums of tags",
    "tag_sets_1nn": "nearest training feature",
    "robustness": r"mean of $|r|\,/\,|x|$, DeepFool",
    "classifier_stationarity": r"$|\nabla_W\ell+\lambda W|\,/\,\lambda|W|$",
    "stationarity": r"$|\nabla f|\,/\,|\Lambda\theta|$",
    "objective_gap": r"$f/f^*-1$",
    "loss": "mean, without penalties",
    "gap": "objective − optimum",
    "objective": "loss and penalties",
    "train_loss": "training mode, running",
    "test_loss": "evaluation mode",
    "train_error": "1 − train_accuracy, running",
    "test_error": "1 − test_accuracy",
}
"""By metric or history quantity. 'to ETF', 'to OF': Frobenius distance of the Gram, both of unit norm."""


def frame_gap(classes: float) -> float:
    """Distance between the unit-norm Grams of an orthogonal frame and a simplex ETF of K classes."""
    return math.sqrt(max(0.0, 2 - 2 * math.sqrt((classes - 1) / classes)))
