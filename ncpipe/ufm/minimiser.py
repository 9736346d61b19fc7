"""A point in the domain of a problem, its layers, and what the collapse metrics read of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ncpipe.collapse import (
    LayerStatistics,
    Measurement,
    Moment,
    Trace,
    layer_statistics,
    least_squares_split,
    penalised_loss,
    product_metrics,
    tagwise_metrics,
)
from ncpipe.ufm.layout import Layout
from ncpipe.ufm.model import Model
from ncpipe.ufm.objective import Objective


@dataclass(frozen=True, eq=False, repr=False)
class Minimiser:
    """A point in the domain of a problem: one that a solver reached, or that a theorem gives."""

    problem: Model
    columns: Tensor
    """Features H_1: of every sample, sorted by class, (N, d_1); tied: of every class (set of tags), (C, d_1)."""
    weights: list[Tensor]
    """W_1 .. W_L, a frozen classifier included: (d_2, d_1) .. (K, d_L)."""
    bias: Tensor | None
    """(K,)."""
    tied: bool

    def __repr__(self) -> str:
        shapes = ", ".join(f"W{i} {tuple(weight.shape)}" for i, weight in enumerate(self.weights, start=1))
        ends = " tied" * self.tied, ", bias" * (self.bias is not None)
        return f"Minimiser(H1 {tuple(self.columns.shape)}{ends[0]}, {shapes}{ends[1]})"

    @classmethod
    def unpack(cls, problem: Model, vector: Tensor, tied: bool = False) -> Minimiser:
        """The point whose parameter vector (P,) is given."""
        layout = Layout.of(problem, tied)
        features, weights, bias = layout.views(vector.clone()[None])
        columns = (features[0] / layout.column_scales).T.contiguous()
        return cls(
            problem,
            columns,
            [*(weight[0] for weight in weights), *layout.frame()],
            None if bias is None else bias[0, :, 0],
            tied,
        )

    def pack(self) -> Tensor:
        """The parameter vector, (P,)."""
        layout = Layout.of(self.problem, self.tied)
        trained = self.weights[: len(layout.weight_shapes)]
        parts = [self.columns.T * layout.column_scales, *trained, *([] if self.bias is None else [self.bias])]
        return torch.cat([part.flatten() for part in parts])

    @property
    def features(self) -> Tensor:
        """H_1, one sample a row sorted by class, (N, d_1)."""
        return self._per_sample(self.columns)

    @property
    def labels(self) -> Tensor:
        """Classes, (N,); with several labels, numbers of the sets of tags."""
        return Layout.of(self.problem).kinds

    @property
    def targets(self) -> Tensor:
        """Labels of every sample as zeros and ones, (N, K)."""
        return Layout.of(self.problem).targets.T.long()

    def layers(self) -> dict[str, Tensor]:
        """Features of every measured layer by name, (N, d); 'features' is what the classifier reads."""
        return {name: self._per_sample(rows) for name, rows in self._rows().items()}

    def class_features(self) -> Tensor:
        """Class means of what the classifier reads, (K, d); with several labels, of the single-tag samples."""
        return self.statistics()["features"].means

    def value(self) -> float:
        """The objective."""
        return self.evaluate()[0]

    def evaluate(self) -> tuple[float, float]:
        """The objective and the norm of its gradient."""
        value, gradient = self._objective().evaluate(self.pack()[None])
        return float(value), float(gradient.norm())

    def loss(self) -> float:
        """Mean loss without penalties."""
        objective = self._objective()
        objective.evaluate(self.pack()[None])
        return float(objective.last_loss())

    def statistics(self) -> dict[str, LayerStatistics]:
        """What the collapse metrics read, by layer; with several labels, of the single-tag samples."""
        layout, found = Layout.of(self.problem, self.tied), {}
        single = layout.kinds < layout.classes  # single tags come first
        for name, rows in self._rows().items():
            head = (self.weights[-1], self.bias) if name == "features" else (None, None)
            labels = layout.kinds[single]
            seen = layer_statistics(rows[single], labels, layout.classes, weight=head[0], bias=head[1])
            found[name] = _counted(seen, layout.multiplicities[single]) if self.tied else seen
        return found

    def record(self, trace: Trace, time: int) -> None:
        """Add this point to a trace."""
        for name, statistics in self.statistics().items():
            trace.statistics[Moment(time, name)] = statistics
        trace.heads[time] = (self.weights[-1], self.bias)
        for level, weight in enumerate(self.weights[:-1], start=1):
            trace.weights[time, f"H{level}"] = weight
        loss = self.loss()
        split = self.loss_split(loss)
        trace.scalars[time, "train"] = {"loss": loss, **split, **self._tagwise()}
        trace.reasons[time, "train"] = split.undefined

    def loss_split(self, loss: float) -> Measurement:
        """The squared error with the classifier's penalties, Han's split of it, and what reads its products;
        empty for other losses."""
        if self.problem.loss != "mse" or self.problem.rescale != (1, 1) or self.problem.classifier == "etf":
            return Measurement()
        layout, rows = Layout.of(self.problem, self.tied), self.layers()["features"]
        labels = torch.arange(layout.classes).repeat_interleave(torch.tensor(layout.counts))
        seen = layer_statistics(rows, labels, layout.classes, products=True)
        ridge, bias_decay = self.problem.weight_decays[-1], self.problem.bias_decay
        parts = least_squares_split(seen, self.weights[-1], self.bias, ridge=ridge, bias_decay=bias_decay)
        whole = penalised_loss(loss, self.weights[-1], self.bias, ridge=ridge, bias_decay=bias_decay)
        found = product_metrics(seen, self.weights[-1], self.bias)
        found.update(parts.values() | {"loss_penalised": whole})
        return found

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
        """K (K - 1 with a bias, a frozen classifier or a loss of margins) minus the numerical rank of the fit."""
        return self.problem.classes - centred_fit(self.problem) - self.fit_rank()

    def _rows(self) -> dict[str, Tensor]:
        """Features of every measured layer, one column of the model a row, (M, d)."""
        layers = [self.columns]
        for weight in self.weights[:-1]:
            layers.append(layers[-1] @ weight.T)
            if self.problem.activation == "relu":
                layers.append(layers[-1].relu())
        return dict(zip(self.problem.layer_names, layers, strict=True))

    def _tagwise(self) -> dict[str, float]:
        """Tag-wise averages of the last layer; empty with one label each."""
        if len(self.problem.tag_sets) == self.problem.classes:
            return {}
        layout = Layout.of(self.problem, self.tied)
        row = tagwise_metrics(self._rows()["features"], layout.targets.T)
        names = ("tagwise_angle", "tagwise_scale", "tagwise_ratio")
        return {name: row[name] for name in names if name not in row.undefined}

    def _objective(self) -> Objective:
        return Objective.of([self.problem], self.tied)

    def _per_sample(self, rows: Tensor) -> Tensor:
        return rows.repeat_interleave(torch.tensor(self.problem.counts), dim=0) if self.tied else rows


def centred_fit(problem: Model) -> bool:
    """Whether only the fit's differences between classes matter: a bias takes their mean, or softmax drops it."""
    if problem.bias_decay is not None or problem.classifier == "etf":
        return True
    return problem.sample_loss.reads_differences(problem.classes)


def _counted(seen: LayerStatistics, counts: Tensor) -> LayerStatistics:
    """Statistics of one column per class, each standing for its class's samples."""
    decisions = ("nearest_mean_hits", "classifier_hits", "agreements")
    standing = {name: value * counts for name, value in seen.tensors().items() if name in decisions}
    return dataclasses.replace(seen, counts=counts, **standing)
