r"""The objective of a batch of UFM problems of one shape, its analytic gradient, and points in its domain.

The parameters of a problem are one vector: features, weights, bias. Features are *columns*: one per sample,
or, tied, one per class that stands for its n_c samples. A column of multiplicity m is stored as g = sqrt(m) h,
so that its penalty is :math:`\frac{\lambda_H}2 |g|^2` in both cases; by homogeneity of the layers (linear or
ReLU) its logits are then those of g over sqrt(m).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ncpipe.collapse import LayerStatistics, Moment, Trace, layer_statistics, least_squares_split

if TYPE_CHECKING:
    from ncpipe.ufm.problem import Problem


class Parameters(NamedTuple):
    """Views of parameter vectors; B problems, M columns."""

    features: Tensor
    """(B, d, M)."""
    weights: list[Tensor]
    """W_1 .. W_L, (B, d, d) or (B, K, d)."""
    bias: Tensor | None
    """(B, K, 1)."""


@dataclass(frozen=True)
class Layout:
    """Shapes that all problems of a batch share."""

    counts: tuple[int, ...]
    dim: int
    depth: int
    loss: str
    loss_parameters: tuple[float, ...]
    activation: str
    has_bias: bool
    tied: bool

    @classmethod
    def of(cls, problem: Problem, tied: bool = False) -> Layout:
        has_bias = problem.bias_decay is not None
        loss = (problem.loss, problem.loss_parameters)
        return cls(problem.counts, problem.dim, problem.depth, *loss, problem.activation, has_bias, tied)

    @property
    def classes(self) -> int:
        return len(self.counts)

    @property
    def labels(self) -> Tensor:
        """Class of each column, (M,)."""
        classes = torch.arange(self.classes)
        return classes if self.tied else classes.repeat_interleave(torch.tensor(self.counts))

    @property
    def multiplicities(self) -> Tensor:
        """Samples that each column stands for, (M,)."""
        counts = torch.tensor(self.counts)
        return counts if self.tied else torch.ones_like(self.labels)

    @property
    def column_scales(self) -> Tensor:
        """sqrt(m) of each column, by which it is stored larger, (M,)."""
        return self.multiplicities.double().sqrt()

    @property
    def sizes(self) -> list[int]:
        """Entries of features, W_1 .. W_L and bias."""
        columns = self.classes if self.tied else sum(self.counts)
        hidden = [self.dim * self.dim] * (self.depth - 1)
        return [self.dim * columns, *hidden, self.classes * self.dim, *([self.classes] * self.has_bias)]

    def views(self, vectors: Tensor) -> Parameters:
        """Views of vectors (B, P) as features, weights and bias."""
        batch, parts = len(vectors), vectors.split(self.sizes, dim=1)
        rows = [self.dim] * (self.depth - 1) + [self.classes]
        return Parameters(
            parts[0].view(batch, self.dim, -1),
            [part.view(batch, row, self.dim) for part, row in zip(parts[1:], rows, strict=False)],
            parts[-1].view(batch, self.classes, 1) if self.has_bias else None,
        )


class SquaredError:
    """1/2 [k (z_y - M)^2 + sum_{j != y} z_j^2]; k = M = 1 is 1/2 |z - e_y|^2."""

    def __init__(self, k: float, target: float) -> None:
        self.k, self.target = k, target

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        off = (logits - self.target * targets).square()
        return off.addcmul_(off, targets, value=self.k - 1).sum(dim=1) / 2

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        torch.sub(logits, targets, alpha=self.target, out=out)
        if self.k != 1:
            out.addcmul_(out, targets, value=self.k - 1)


class CrossEntropy:
    """log sum_j exp(z_j) - z_y, as log(1 + sum_{j != y} exp(z_j - z_y)), which keeps the digits of a small loss."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return softplus(excess(logits, targets))

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        torch.softmax(logits, dim=1, out=out)
        out.sub_(targets)


class LabelSmoothing:
    """Cross entropy of targets (1 - alpha) e_y + alpha/K."""

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        # beside the cross entropy, the mean over j of z_y - z_j
        own = (logits * targets).sum(dim=1)
        return CrossEntropy().loss(logits, targets) + self.smoothing * (own - logits.mean(dim=1))

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        torch.softmax(logits, dim=1, out=out)
        out.sub_(targets, alpha=1 - self.smoothing).sub_(self.smoothing / logits.shape[1])


class Focal:
    """-(1 - p_y)^gamma log p_y = s(u)^gamma softplus(u), u = log sum_{j != y} exp(z_j) - z_y, s the sigmoid."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        u = excess(logits, targets)
        return torch.sigmoid(u) ** self.gamma * softplus(u)

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        u = excess(logits, targets)
        others = torch.sigmoid(u)
        slope = self.gamma * others**self.gamma * torch.sigmoid(-u) * softplus(u) + others ** (self.gamma + 1)
        torch.softmax(logits.masked_fill(targets > 0, -torch.inf), dim=1, out=out)
        out.sub_(targets).mul_(slope[:, None])


def excess(logits: Tensor, targets: Tensor) -> Tensor:
    """u = log sum_{j != y} exp(z_j) - z_y, (B, K, M) -> (B, M): the log odds against the label."""
    others = logits.masked_fill(targets > 0, -torch.inf).logsumexp(dim=1)
    return others - (logits * targets).sum(dim=1)


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(u)), also of small exp(u) to all digits."""
    return torch.logaddexp(values, torch.zeros_like(values))


LOSSES: dict[str, type[SquaredError] | type[CrossEntropy] | type[LabelSmoothing] | type[Focal]] = {
    "mse": SquaredError,
    "ce": CrossEntropy,
    "label_smoothing": LabelSmoothing,
    "focal": Focal,
}
"""Loss of one sample and its derivative in the logits, on logits and one-hot targets (B, K, M)."""


class Objective:
    """Objective and gradient of B problems of one layout at ``parameters`` (B, P), a buffer to write into.

    Nothing is allocated by ``loss_gradient``: buffers and views are made once.
    """

    def __init__(self, layout: Layout, decays: Tensor) -> None:
        """``decays`` (B, F): penalties of features, W_1 .. W_L and, where there is one, the bias."""
        self.layout, self.decays, self._loss = layout, decays, LOSSES[layout.loss](*layout.loss_parameters)
        sizes, batch = torch.tensor(layout.sizes), len(decays)
        self.decay = decays.repeat_interleave(sizes, dim=1)
        self.parameters = torch.zeros_like(self.decay)
        self.gradient = torch.zeros_like(self.decay)
        self._at, self._out = layout.views(self.parameters), layout.views(self.gradient)
        self._transposed = [weight.mT for weight in self._at.weights]

        multiplicity = layout.multiplicities.double()
        self._targets = torch.nn.functional.one_hot(layout.labels, layout.classes).double().T.contiguous()
        self._share = multiplicity / sum(layout.counts)
        self._shrink = 1 / layout.column_scales if layout.tied else None

        columns = len(multiplicity)
        hidden = [self.parameters.new_zeros(batch, layout.dim, columns) for _ in range(layout.depth - 1)]
        self._layers = [self._at.features, *hidden]
        self._layers_transposed = [layer.mT for layer in self._layers]
        self._logits = self.parameters.new_zeros(batch, layout.classes, columns)
        self._residual = torch.zeros_like(self._logits)
        self._hidden_deltas = [torch.zeros_like(layer) for layer in hidden]
        self._active = [torch.zeros_like(layer) for layer in hidden]

    @classmethod
    def of(cls, problems: Sequence[Problem], tied: bool = False) -> Objective:
        """The objective of problems that share a layout."""
        return cls(Layout.of(problems[0], tied), torch.tensor([_decays(p) for p in problems], dtype=torch.float64))

    def subset(self, indices: Tensor) -> Objective:
        """The objective of some of the problems, with buffers of its own."""
        return Objective(self.layout, self.decays[indices])

    def loss_gradient(self) -> None:
        """Write the gradient of the mean loss, penalties left out, to ``gradient``."""
        self._forward()
        self._backward()

    def evaluate(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (B,) and gradient (B, P), a buffer, at vectors (B, P)."""
        self.parameters.copy_(vectors)
        self.loss_gradient()
        self.gradient.addcmul_(self.decay, self.parameters)
        penalty = torch.linalg.vecdot(self.decay * self.parameters, self.parameters) / 2
        return self.last_loss() + penalty, self.gradient

    def last_loss(self) -> Tensor:
        """Mean loss without penalties where the gradient was last taken, (B,)."""
        return (self._loss.loss(self._logits, self._targets) * self._share).sum(dim=1)

    def _forward(self) -> None:
        for level, weight in enumerate(self._at.weights[:-1]):
            torch.bmm(weight, self._layers[level], out=self._layers[level + 1])
            if self.layout.activation == "relu":
                self._layers[level + 1].clamp_min_(0)
        torch.bmm(self._at.weights[-1], self._layers[-1], out=self._logits)
        if self._shrink is not None:
            self._logits.mul_(self._shrink)
        if self._at.bias is not None:
            self._logits.add_(self._at.bias)

    def _backward(self) -> None:
        self._loss.residual(self._logits, self._targets, out=self._residual)
        delta = self._residual.mul_(self._share)
        if self._out.bias is not None:
            torch.sum(delta, dim=2, keepdim=True, out=self._out.bias)
        if self._shrink is not None:
            delta.mul_(self._shrink)
        for level in range(self.layout.depth - 1, 0, -1):
            torch.bmm(delta, self._layers_transposed[level], out=self._out.weights[level])
            delta = torch.bmm(self._transposed[level], delta, out=self._hidden_deltas[level - 1])
            if self.layout.activation == "relu":
                delta.mul_(torch.sign(self._layers[level], out=self._active[level - 1]))
        torch.bmm(delta, self._layers_transposed[0], out=self._out.weights[0])
        torch.bmm(self._transposed[0], delta, out=self._out.features)


def _decays(problem: Problem) -> list[float]:
    bias = [] if problem.bias_decay is None else [problem.bias_decay]
    return [problem.feature_decay, *problem.weight_decays, *bias]


def _rows(names: tuple[str, ...], point: Minimiser) -> dict[str, Tensor]:
    """Features of every measured layer, one column of the model a row, (M, d)."""
    layers = [point.columns]
    for weight in point.weights[:-1]:
        layers.append(layers[-1] @ weight.T)
        if point.problem.activation == "relu":
            layers.append(layers[-1].relu())
    return dict(zip(names, layers, strict=True))


@dataclass(frozen=True)
class Minimiser:
    """A point in the domain of a problem: one that a solver reached, or that a theorem gives."""

    problem: Problem
    columns: Tensor
    """Features H_1: of every sample, sorted by class, (N, d); tied: of every class, (K, d)."""
    weights: list[Tensor]
    """W_1 .. W_L: (d, d) .. (K, d)."""
    bias: Tensor | None
    """(K,)."""
    tied: bool

    @classmethod
    def unpack(cls, problem: Problem, vector: Tensor, tied: bool = False) -> Minimiser:
        """The point whose parameter vector (P,) is given."""
        layout = Layout.of(problem, tied)
        features, weights, bias = layout.views(vector.clone()[None])
        columns = (features[0] / layout.column_scales).T.contiguous()
        return cls(problem, columns, [weight[0] for weight in weights], None if bias is None else bias[0, :, 0], tied)

    def pack(self) -> Tensor:
        """The parameter vector, (P,)."""
        scaled = self.columns.T * Layout.of(self.problem, self.tied).column_scales
        parts = [scaled, *self.weights, *([] if self.bias is None else [self.bias])]
        return torch.cat([part.flatten() for part in parts])

    @property
    def features(self) -> Tensor:
        """H_1, one sample a row sorted by class, (N, d)."""
        return self._per_sample(self.columns)

    @property
    def labels(self) -> Tensor:
        """(N,)."""
        return Layout.of(self.problem).labels

    def layers(self) -> dict[str, Tensor]:
        """Features of every measured layer by name, (N, d); 'features' is what the classifier reads."""
        return {name: self._per_sample(rows) for name, rows in _rows(self.problem.layer_names, self).items()}

    def class_features(self) -> Tensor:
        """Class means of what the classifier reads, (K, d)."""
        return self.statistics()["features"].means

    def value(self) -> float:
        """The objective."""
        return float(self._objective()[0])

    def loss(self) -> float:
        """Mean loss without penalties."""
        return float(self._objective()[1])

    def statistics(self) -> dict[str, LayerStatistics]:
        """What the collapse metrics read, by layer."""
        layout, found = Layout.of(self.problem, self.tied), {}
        for name, rows in _rows(self.problem.layer_names, self).items():
            head = (self.weights[-1], self.bias) if name == "features" else (None, None)
            seen = layer_statistics(rows, layout.labels, layout.classes, weight=head[0], bias=head[1])
            found[name] = _counted(seen, layout.multiplicities) if self.tied else seen
        return found

    def record(self, trace: Trace, time: int) -> None:
        """Add this point to a trace."""
        for name, statistics in self.statistics().items():
            trace.statistics[Moment(time, name)] = statistics
        trace.heads[time] = (self.weights[-1], self.bias)
        trace.scalars[time, "train"] = {"loss": self.loss(), **self.loss_split()}

    def loss_split(self) -> dict[str, float]:
        """Han's split of the squared error, with the classifier's penalties; empty for other losses."""
        if self.problem.loss != "mse" or self.problem.rescale != (1, 1):
            return {}
        layout, rows = Layout.of(self.problem, self.tied), self.layers()["features"]
        labels = torch.arange(layout.classes).repeat_interleave(torch.tensor(layout.counts))
        seen = layer_statistics(rows, labels, layout.classes, products=True)
        ridge, bias_decay = self.problem.weight_decays[-1], self.problem.bias_decay
        return least_squares_split(seen, self.weights[-1], self.bias, ridge=ridge, bias_decay=bias_decay).values()

    def fit_rank(self) -> int:
        """Numerical rank of the class means of the fit, centred where a bias or the loss takes their mean.

        A direction counts where its singular value is over 1e-3 of the largest, and the fit is not zero to 1e-6.
        """
        fit = self.weights[-1] @ self.class_features().T
        if centred_fit(self.problem):
            fit = fit - fit.mean(dim=0)
        sizes = torch.linalg.svdvals(fit)
        return int((sizes > max(1e-3 * float(sizes[0]), 1e-6)).sum())

    def dead_directions(self) -> int:
        """K (K - 1 with a bias or cross entropy) minus the numerical rank of the fit's class means."""
        return self.problem.classes - centred_fit(self.problem) - self.fit_rank()

    def _objective(self) -> tuple[Tensor, Tensor]:
        objective = Objective.of([self.problem], self.tied)
        value, _ = objective.evaluate(self.pack()[None])
        return value, objective.last_loss()

    def _per_sample(self, rows: Tensor) -> Tensor:
        return rows.repeat_interleave(torch.tensor(self.problem.counts), dim=0) if self.tied else rows


def centred_fit(problem: Problem) -> bool:
    """Whether only the fit's differences between classes matter: a bias takes their mean, or softmax drops it."""
    return problem.loss != "mse" or problem.bias_decay is not None


def _counted(seen: LayerStatistics, counts: Tensor) -> LayerStatistics:
    """Statistics of one column per class, each standing for its class's samples."""
    decisions = ("nearest_mean_hits", "classifier_hits", "agreements")
    standing = {name: value * counts for name, value in seen.tensors().items() if name in decisions}
    return dataclasses.replace(seen, counts=counts, **standing)


def balancing_scales(layout: Layout, decays: Tensor) -> tuple[Tensor, Tensor]:
    """Factors s (B, P) and penalties (B, F) of the same problems in balanced variables s * parameters.

    Scaling every factor by sqrt(lambda_j / lambda), lambda the geometric mean of the penalties, leaves the
    product of the factors as it is and gives all of them the penalty lambda.
    """
    factors = decays[:, : layout.depth + 1]
    mean = factors.log().mean(dim=1, keepdim=True).exp()
    balanced = torch.cat([mean.expand_as(factors), decays[:, layout.depth + 1 :]], dim=1)
    scales = torch.ones_like(decays)
    scales[:, : layout.depth + 1] = (factors / mean).sqrt()
    return scales.repeat_interleave(torch.tensor(layout.sizes), dim=1), balanced
