"""The UFM that training a network is, with nothing to match: its penalties follow from the weight decay alone."""

from __future__ import annotations

from collections.abc import Sequence

from ncpipe.training.settings import NetworkSpec
from ncpipe.ufm import NoClosedForm, Problem
from ncpipe.ufm.matched import loss_factor


def predicted_problem(spec: NetworkSpec, counts: Sequence[int]) -> Problem:
    r"""The non-negative UFM of a head that reads relu(gamma z + beta), z normalised by BatchNorm over N samples.

    Per unit :math:`\sum_i (\gamma z_i + \beta)^2 = N (\gamma^2 + \beta^2)`, so that the decay wd of gamma and beta is
    the penalty :math:`\frac{wd}{2N} |U|_F^2` of the pre-activations U, and features :math:`H = U \ge 0` cost no more.
    What is below is scale-invariant and free. The classifier has its own decay: :math:`\lambda_H = wd / N`,
    :math:`\lambda_W` = wd of the head; with a hidden layer without BatchNorm between them it is the extended ReLU
    model of that H_1. Squared errors of ``torch.nn.MSELoss`` are K/2 of the half ones, and so are the penalties.
    Cf. Pan & Cao 2023 (arXiv 2309.04644) and Dang et al. (ICML 2024); derived in docs/matched.md.

    Args:
        spec: the network.
        counts: training samples by class, (K,).

    Raises:
        ValueError: why the derivation does not hold for the network.
    """
    for reason in _reasons(spec):
        raise ValueError(reason)
    classes, samples = len(counts), sum(counts)
    factor = loss_factor(spec.loss.name, spec.loss.scaling, classes)
    weight = spec.optimizer.classifier_decay * factor
    hidden = spec.head.hidden or _ends_without_norm(spec)
    below = weight if spec.head.hidden else spec.optimizer.weight_decay * factor
    width = _width(spec, classes)
    return Problem(
        classes,
        [int(count) for count in counts],
        (width, spec.head.hidden_width or width) if hidden else width,
        spec.loss.name,
        weight_decay=(below, weight) if hidden else weight,
        feature_decay=spec.optimizer.weight_decay * factor / samples,
        bias=spec.optimizer.bias_decay * factor if spec.head.bias else "none",
        activation="relu" if hidden else "linear",
        smoothing=spec.loss.smoothing,
        nonnegative=True,
    )


def predicted_optimum(spec: NetworkSpec, counts: Sequence[int]) -> float | None:
    """The smallest penalised objective in the network's own scaling; None where no closed form gives it."""
    try:
        problem = predicted_problem(spec, counts)
        return problem.optimum().value / loss_factor(problem.loss_name, spec.loss.scaling, problem.classes)
    except (ValueError, NoClosedForm):
        return None


def _reasons(spec: NetworkSpec) -> list[str]:
    """What the derivation needs and the network has not."""
    head, optimizer, loss = spec.head, spec.optimizer, spec.loss
    units, norms = spec.model.last_norm == "units", getattr(spec.model, "batch_norm", True)
    projected = head.feature_dim is not None
    losses = loss.name in ("mse", "ce", "label_smoothing") and loss.rescale == (1, 1)
    penalised = min(optimizer.weight_decay, optimizer.classifier_decay) > 0 and optimizer.name != "adamw"
    ending = (
        "nothing tells whether BatchNorm ends this model; an mlp or a projection (head.feature_dim) has it"
        if spec.model.last_norm is None
        else "the last features are a mean over positions of a map, of which wd/N is a bound only; an mlp or a"
        " projection (head.feature_dim) has none"
    )
    needs = {
        ending: units or projected,
        "no BatchNorm stands below the head": not units or bool(norms) or projected,
        f"decay {optimizer.decay!r} leaves BatchNorm's scales and shifts without a penalty": optimizer.decay
        in ("all", "effective"),
        "it has no weight decay that is a penalty of the loss": penalised,
        "a frozen or a normalised classifier is not penalised": not head.fixed_etf and head.temperature is None,
        "head.feature_decay adds to the penalty": head.feature_decay == 0,
        f"loss {loss.name!r} or its rescaling has no such model": losses and not spec.dataset.multi_label,
        "hidden layers of the head are linear": not head.linear,
        "the head has more than one layer without BatchNorm": head.hidden + _ends_without_norm(spec) < 2,
    }
    return [reason for reason, holds in needs.items() if not holds]


def _ends_without_norm(spec: NetworkSpec) -> bool:
    """Whether the backbone's last hidden layer has no BatchNorm while those below have."""
    return getattr(spec.model, "batch_norm", None) == "all_but_last" and spec.head.feature_dim is None


def _width(spec: NetworkSpec, classes: int) -> int:
    if spec.head.feature_dim is not None:
        return classes if spec.head.feature_dim == "classes" else spec.head.feature_dim
    width: int = spec.model.width  # type: ignore[attr-defined]  # of what ends in units
    return width
