"""The unconstrained-features problem: a model with what theory says of it."""

from __future__ import annotations

from ncpipe.ufm import closed_form
from ncpipe.ufm.minimiser import Minimiser
from ncpipe.ufm.model import Model, documented
from ncpipe.ufm.optimum import Optimum


@documented
class Problem(Model):
    r"""An unconstrained-features model (UFM): features, weights and bias are all free and penalised.

    .. math:: f = \frac1N \sum_i \ell(W_L s(\dots s(W_1 h_i)) + b, y_i)
              + \sum_l \frac{\lambda_l}2 |W_l|^2 + \frac{\lambda_H}2 \sum_i |h_i|^2 + \frac{\lambda_b}2 |b|^2

    with K classes, N samples and the loss of logits z of a sample of class y, p = softmax(z):
    ``mse`` :math:`\frac12 [k (z_y - M)^2 + \sum_{j \ne y} z_j^2]` (k = M = 1 unless rescaled), ``ce``
    :math:`-\log p_y`, ``label_smoothing`` :math:`-\sum_j [(1 - \alpha) \delta_{jy} + \alpha / K] \log p_j`,
    ``focal`` :math:`-(1 - p_y)^\gamma \log p_y`. A sample with the tags S has ``pick_all_labels``
    :math:`-\sum_{k \in S} \log p_k`, which ``pick_all_labels_normalized`` divides by \|S\|.
    L = 1 is the plain UFM, L = 2 the extended one of Tirer & Bruna (ICML 2022), more the deep UFM of Súkeník et al.
    (NeurIPS 2023). With a temperature, features and rows of the classifier have unit norm instead of penalties and
    z = tau W h (Yaras et al., NeurIPS 2022). With non-negative features, H_1 >= 0, the plain UFM is the training of a
    network whose head reads BatchNorm and ReLU, ``feature_decay`` its weight decay over N (docs/ufm.md).

    Raises:
        ValueError: naming the field, what it got and what it needs.
    """

    def optimum(self) -> Optimum:
        """The smallest objective, in closed form. See ``ncpipe.ufm.closed_form``.

        Raises:
            NoClosedForm: with the reason, where no theorem or derivation gives it.

        Example:
            >>> round(Problem(4, samples=5, dim=6, weight_decay=5e-3, feature_decay=1e-3).optimum().scale, 6)
            0.98
        """
        return closed_form.solve(self)

    def construct(self) -> Minimiser:
        """One explicit minimiser, balanced: every factor pays the same penalty, every class has one feature vector.

        Its objective is ``optimum().value``. Minimisers are not unique: rotations of the feature space are free,
        and so is the live subspace where ``dim`` is below the rank of the targets.

        Raises:
            NoClosedForm: with the reason, where there is no closed form.
        """
        return closed_form.solve(self).construct()
