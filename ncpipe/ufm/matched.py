r"""The UFM that matches a trained network: its penalties, and what it predicts.

A network minimises its mean loss + wd/2 |W|^2 (+ bias). With :math:`\frac1{2N}|.|^2` or cross entropy,
:math:`\lambda_W = wd`. ``torch.nn.MSELoss`` divides by K as well, its objective is 2/K times
:math:`\frac1{2N}|.|^2 + \frac{K\,wd}4 |W|^2`, so :math:`\lambda_W = K\,wd/2`, and the bias likewise.
Nobody sets the features' penalty. What holds at every stationary point of a UFM infers it:

- plain: :math:`\lambda_W |W|^2 = \lambda_H |H|^2`, H the last features;
- extended (ReLU, two weight layers, both with :math:`\lambda_W`): either the same with H_1, the features one
  level below, or :math:`\lambda_W |W|^2 = \sqrt{\lambda_W \lambda_H} |H_2|_*` with the nuclear norm of the
  last features. The second asks nothing of the layer between, which BatchNorm may leave without a scale.

docs/matched.md derives both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ncpipe.collapse import LayerStatistics, Measurement, Trace, collapse_metrics
from ncpipe.collapse.frames import NAN, frame_distance
from ncpipe.ufm.fit import fit
from ncpipe.ufm.minimiser import Minimiser
from ncpipe.ufm.optimum import NoClosedForm
from ncpipe.ufm.problem import Problem
from ncpipe.ufm.result import SUCCESS

Kind = Literal["plain", "extended"]
Scaling = Literal["half", "mean"]
STARTS = {1.0: 12, 0.1: 4}
"""Random starts by their scale, where the optimum has no closed form; in the extended model zero has a basin of
its own, that only starts near it find."""
ITERATIONS = 500, 5000
"""Most iterations, and where the best start has not converged in these: the starts that find the optimum mostly take
100 to 400, and some others crawl along a kink."""


@dataclass(frozen=True)
class Goodness:
    """How far a prediction is from a network, free of scale: 0 is perfect, None was not given."""

    means_gram: float
    """Frobenius distance of the uncentred Grams of class means, each scaled to unit norm; NaN where one is zero."""
    weights_gram: float | None
    """Frobenius distance of the Grams W W^T, each scaled to unit norm."""
    feature_norm: float | None
    """abs(log(predicted / measured)) of |H|_F; inf where one of the two is zero."""
    weight_norm: float | None
    """abs(log(predicted / measured)) of |W|_F."""
    loss: float | None
    """abs(log(predicted / measured)) of the loss without penalties."""
    stationarity: float | None
    """The network's ``classifier_stationarity``, no error of the prediction but of its premise."""


@dataclass(frozen=True, eq=False)
class MatchedUfm:
    """The problem that matches a network, and its predictions."""

    problem: Problem
    minimiser: Minimiser
    optimum_value: float
    """Smallest objective: of the closed form, or the best found."""
    basis: str
    """The theorem that the optimum rests on, or 'numerical: ...' and why there is no closed form."""
    starts: int | None = None
    """Random starts, where there is no closed form."""
    success_fraction: float | None = None
    """Fraction of them within 1e-8 relative of the best. Where few are, another seed may find a better one."""
    loss_factor: float = 1.0
    """The network's loss times this is in the model's scaling."""

    @property
    def class_features(self) -> Tensor:
        """Class means of the last features, (K, d)."""
        return self.minimiser.class_features()

    @property
    def weight(self) -> Tensor:
        """Classifier, (K, d)."""
        return self.minimiser.weights[-1]

    @property
    def bias(self) -> Tensor | None:
        """(K,)."""
        return self.minimiser.bias

    @property
    def loss(self) -> float:
        """Mean loss without penalties, in the model's scaling ('half' for mse)."""
        return self.minimiser.loss()

    @property
    def feature_norm(self) -> float:
        """|H|_F of the last features over all N samples."""
        counts = torch.tensor(self.problem.counts)
        return math.sqrt(float((counts * self.class_features.square().sum(dim=1)).sum()))

    @property
    def weight_norm(self) -> float:
        """|W|_F of the classifier."""
        return float(self.weight.norm())

    @property
    def means_gram(self) -> Tensor:
        """Uncentred Gram of the class means, (K, K)."""
        return self.class_features @ self.class_features.T

    @property
    def weights_gram(self) -> Tensor:
        """W W^T, (K, K)."""
        return self.weight @ self.weight.T

    def metrics(self) -> Measurement:
        """Collapse metrics of the last features, as ``ncpipe.measure`` gives them; NC1 is 0."""
        return collapse_metrics(self.minimiser.statistics()["features"], self.weight, self.bias)

    def goodness(
        self,
        means: Tensor,
        weight: Tensor | None = None,
        *,
        feature_norm: float | None = None,
        loss: float | None = None,
        stationarity: float | None = None,
    ) -> Goodness:
        """Errors of the prediction, of the training split or of another: a test split has the same frame predicted.

        Args:
            means: measured class means of the last features, (K, any width): Grams alone are compared.
            weight: classifier, (K, any width).
            feature_norm: |H|_F of the last features over the training samples.
            loss: mean loss without penalties, in the network's own scaling.
            stationarity: ``classifier_stationarity`` of the network, handed through.

        Raises:
            ValueError: the rows of ``means`` or ``weight`` are not the classes.
        """
        measured = {"means": means, "weight": weight}
        for name, rows in measured.items():
            if rows is not None and (rows.ndim != 2 or len(rows) != self.problem.classes):
                raise ValueError(f"{name}: got shape {tuple(rows.shape)}; needs {self.problem.classes} rows")
        return Goodness(
            means_gram=gram_distance(self.means_gram, means @ means.T),
            weights_gram=None if weight is None else gram_distance(self.weights_gram, weight @ weight.T),
            feature_norm=_log_error(self.feature_norm, feature_norm),
            weight_norm=None if weight is None else _log_error(self.weight_norm, float(weight.norm())),
            loss=None if loss is None else _log_error(self.loss, loss * self.loss_factor),
            stationarity=stationarity,
        )

    def trace(self) -> Trace:
        """The minimiser's layers at time 0; within-class scatter is zero."""
        trace = Trace(self.problem.layer_names)
        self.minimiser.record(trace, 0)
        return trace


def gram_distance(predicted: Tensor, measured: Tensor) -> float:
    """Frobenius distance of two Grams (K, K), each scaled to unit norm; NaN where one is zero."""
    norm = measured.norm()
    return frame_distance(predicted, measured / norm) if norm > 0 else NAN


def class_nuclear_norm(features: LayerStatistics) -> float:
    """Nuclear norm of [sqrt(n_c) mu_c], (K, d): that of all N features H where they are collapsed, else less."""
    return float(torch.linalg.svdvals(features.counts.double().sqrt()[:, None] * features.means).sum())


def match_statistics(
    kind: Kind,
    features: LayerStatistics,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    loss: Literal["mse", "ce"],
    loss_scaling: Scaling = "half",
    weight_decay: float,
    bias_decay: float | None = None,
    below: LayerStatistics | None = None,
    seed: int = 0,
) -> MatchedUfm:
    """The UFM that matches a trained network, from the statistics of its last features on the training split.

    Args:
        features: of what the classifier reads, see ``ncpipe.collapse.layer_statistics``.
        weight, bias: of the classifier, (K, d) and (K,).
        loss: the network's, ``"mse"`` or ``"ce"``.
        loss_scaling: ``"half"`` (1/(2N), and cross entropy) or ``"mean"`` (``torch.nn.MSELoss``).
        weight_decay: wd of the classifier, positive.
        bias_decay: of its bias, 0 if it is not decayed; default: as the weights.
        below: of the layer below, where that is decayed and not normalised. Its norm then infers the penalty of the
            extended model's features, in place of the nuclear norm of ``features``.
        seed: of the random starts where there is no closed form.

    Raises:
        ValueError: as ``match``; or the shape of ``weight`` is not (K, d).

    Example:
        >>> from ncpipe.collapse import layer_statistics
        >>> labels = torch.arange(4).repeat_interleave(5)
        >>> seen = layer_statistics(3 * torch.eye(4)[labels], labels, 4)
        >>> model = match_statistics("plain", seen, torch.eye(4) / 3, loss="mse", weight_decay=1e-3)
        >>> f"{model.problem.feature_decay:.3e}", f"{model.loss:.3e}", model.metrics()["nc2_means_of"] < 1e-12
        ('2.469e-06', '9.877e-08', True)
    """
    _check_network(features, weight, loss)
    if kind == "plain":
        norms = {"features_norm_squared": features.squared_norm}
    elif below is not None:
        norms = {"input_norm_squared": below.squared_norm}
    else:
        norms = {"nuclear_norm": class_nuclear_norm(features)}
    decay = weight_decay if bias_decay is None else bias_decay
    return match(
        kind, classes=len(features.counts), counts=features.counts.tolist(), dim=features.means.shape[1], loss=loss,
        loss_scaling=loss_scaling, weight_decay=weight_decay, bias_decay=None if bias is None else decay,
        weight_norm_squared=float(weight.detach().double().square().sum()), seed=seed, **norms,
    )  # fmt: skip


def _check_network(features: LayerStatistics, weight: Tensor, loss: str) -> None:
    if not isinstance(features, LayerStatistics):
        raise ValueError(f"features: got {type(features).__name__}; needs ncpipe.collapse.layer_statistics(...)")
    if loss not in ("mse", "ce"):
        raise ValueError(f"loss: got {loss!r}; needs 'mse' or 'ce'")
    if weight.shape != features.means.shape:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}; needs {tuple(features.means.shape)} as the means")


def match(
    kind: Kind,
    *,
    classes: int,
    counts: Sequence[int],
    dim: int,
    loss: Literal["mse", "ce"],
    loss_scaling: Scaling,
    weight_decay: float,
    bias_decay: float | None,
    weight_norm_squared: float,
    features_norm_squared: float | None = None,
    input_norm_squared: float | None = None,
    nuclear_norm: float | None = None,
    seed: int = 0,
) -> MatchedUfm:
    r"""The UFM whose penalties follow from a network's weight decay and measured norms: see the module.

    ``match_statistics`` takes a network's statistics in place of norms.

    Args:
        kind: ``"plain"`` or ``"extended"``.
        classes, counts: K, and training samples per class (K,).
        dim: width of the last features.
        loss, loss_scaling, weight_decay, seed: as in ``match_statistics``.
        bias_decay: of the classifier's bias; 0 leaves it free, None means that there is none.
        weight_norm_squared: |W|^2 of the classifier.
        features_norm_squared: sum over samples of |h_i|^2, last features; ``"plain"``.
        input_norm_squared: the same one level below; ``"extended"``, or else
        nuclear_norm: |H_2|_* of the last features; at collapse that of sqrt(n_c) mu_c.

    Raises:
        ValueError: naming the argument, as for a network whose weights or features are zero.
    """
    factor = loss_factor(loss, loss_scaling, classes)
    decay = weight_decay * factor
    norms = {"features_norm_squared": features_norm_squared, "input_norm_squared": input_norm_squared,
             "nuclear_norm": nuclear_norm}  # fmt: skip
    name, size = _only_norm(kind, {name: norm for name, norm in norms.items() if norm is not None})
    _check_norm("weight_norm_squared", weight_norm_squared)
    _check_norm(name, size)
    squared = size**2 / weight_norm_squared if name == "nuclear_norm" else size
    problem = Problem(
        classes, [int(count) for count in counts], dim, loss=loss,
        weight_decay=(decay,) if kind == "plain" else (decay, decay),
        feature_decay=decay * weight_norm_squared / squared,
        bias="none" if bias_decay is None else bias_decay * factor,
        activation="linear" if kind == "plain" else "relu",
    )  # fmt: skip
    return replace(_solved(problem, seed), loss_factor=factor)


def predicted_model(problem: Problem, loss_scaling: Scaling = "half", seed: int = 0) -> MatchedUfm:
    """What a problem that follows from a network's settings alone predicts of it.

    Args:
        problem: its penalties in the model's scaling.
        loss_scaling: the network's, as in ``match``.
        seed: of the random starts where there is no closed form.
    """
    factor = loss_factor(problem.loss_name, loss_scaling, problem.classes)
    return replace(_solved(problem, seed), loss_factor=factor)


def loss_factor(loss: str, loss_scaling: str, classes: int) -> float:
    """What a network's loss and penalties are multiplied by to be those of a UFM: K/2 for ``torch.nn.MSELoss``."""
    if loss_scaling not in ("half", "mean"):
        raise ValueError(f"loss_scaling: got {loss_scaling!r}; needs 'half' or 'mean'")
    if loss_scaling == "half":
        return 1.0
    if loss != "mse":
        raise ValueError(f"loss_scaling: got 'mean' with loss {loss!r}; it goes with 'mse' only")
    return classes / 2


def _only_norm(kind: str, given: dict[str, float]) -> tuple[str, float]:
    """The one norm that infers the features' penalty."""
    wanted = {"plain": ["features_norm_squared"], "extended": ["input_norm_squared", "nuclear_norm"]}
    if kind not in wanted:
        raise ValueError(f"kind: got {kind!r}; needs 'plain' or 'extended'")
    if len(given) != 1 or not given.keys() <= set(wanted[kind]):
        needs = "exactly one of " * (kind == "extended") + " and ".join(wanted[kind])
        raise ValueError(f"norms: got {' and '.join(given) or 'none'}; kind {kind!r} needs {needs}")
    return next(iter(given.items()))


def _check_norm(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"{name}: got {value}; needs a finite number > 0: "
            "the features' penalty cannot be inferred from a network that collapsed to zero or diverged"
        )


def _log_error(predicted: float, measured: float | None) -> float | None:
    """abs(log(predicted / measured)), 0 where both are zero."""
    if measured is None or predicted == measured:
        return None if measured is None else 0.0
    if math.isnan(measured):
        return NAN
    return abs(math.log(predicted / measured)) if predicted > 0 and measured > 0 else math.inf


def _solved(problem: Problem, seed: int) -> MatchedUfm:
    """The problem with its minimiser, of the closed form where there is one."""
    try:
        optimum = problem.optimum()
    except NoClosedForm as reason:
        return _numerical(problem, seed, str(reason))
    return MatchedUfm(problem, problem.construct(), optimum.value, optimum.basis)


def _numerical(problem: Problem, seed: int, reason: str) -> MatchedUfm:
    """Best of several starts with tied features, in at most 2K dimensions, padded with zeros."""
    width = problem.widths[0]
    narrow = replace(problem, dim=min(width, 2 * problem.classes))
    for iterations in ITERATIONS:
        results = [
            fit(narrow, starts=starts, init_scale=scale, tied=True, seed=seed, max_iterations=iterations)
            for scale, starts in STARTS.items()
        ]
        result = min(results, key=lambda result: result.value)
        if result.converged:
            break
    reached = sum(r.success_fraction * r.starts for r in results if r.value <= result.value * (1 + SUCCESS))
    starts = sum(STARTS.values())
    found, extra = result.minimiser, width - narrow.widths[0]
    pad = torch.nn.functional.pad
    hidden = [pad(weight, (0, extra, 0, extra)) for weight in found.weights[:-1]]
    weights = [*hidden, pad(found.weights[-1], (0, extra))]
    wide = Minimiser(problem, pad(found.columns, (0, extra)), weights, found.bias, tied=True)
    basis = f"numerical: best of {starts} starts, found by {round(reached)} of them ({reason})"
    return MatchedUfm(problem, wide, result.value, basis, starts, reached / starts)
