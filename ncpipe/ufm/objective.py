"""The objective of a batch of UFM problems of one layout and its analytic gradient, float64."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ncpipe.ufm.layout import Layout
from ncpipe.ufm.model import Model
from ncpipe.ufm.products import batched_product

GRADIENT_TOLERANCE = 1e-7
"""Gradient norm over sqrt(penalty * objective), in balanced variables, at which a point counts as stationary.

Where the curvature is at least the penalty, the objective is then within 5e-15, relative, of its minimum."""


class Differentiable(ABC):
    """What L-BFGS minimises: functions of B vectors, without bounds unless a class has some."""

    @abstractmethod
    def evaluate(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (B,) and gradient (B, P), perhaps a buffer, at vectors (B, P)."""

    def inside(self, vectors: Tensor) -> Tensor:
        """The nearest vectors (B, P) of a domain with bounds."""
        return vectors

    def along_bounds(self, point: Tensor, gradient: Tensor, direction: Tensor) -> Tensor:
        """The direction (B, P) without what would leave a bound that the gradient of ``evaluate`` holds on to."""
        return direction


class Objective(Differentiable):
    """Objective and gradient of B problems of one layout at ``parameters`` (B, P), a buffer to write into.

    Nothing is allocated by ``loss_gradient``: buffers and views are made once, on the device of ``decays``.
    """

    step_scale = 1.0
    """Steps of gradient descent are multiplied by this."""

    def __init__(self, layout: Layout, decays: Tensor) -> None:
        """``decays`` (B, F): penalties of features, trained weights and, where there is one, the bias."""
        device, batch = decays.device, len(decays)
        self.layout, self.decays, self._loss = layout, decays, layout.loss
        self.decay = decays.repeat_interleave(torch.tensor(layout.sizes, device=device), dim=1)
        self.parameters = torch.zeros_like(self.decay)
        self.gradient = torch.zeros_like(self.decay)
        self._at, self._out = layout.views(self.parameters), layout.views(self.gradient)
        self._weights = [*self._at.weights, *(frame.expand(batch, -1, -1) for frame in layout.frame(device))]
        self._feature_gradient, *self._weight_gradients = map(_contiguous, (self._out.features, *self._out.weights))
        self._transposed = [weight.mT for weight in self._weights]

        multiplicity = layout.multiplicities.to(device).double()
        self._targets = layout.targets.to(device)
        self._share = multiplicity / sum(layout.counts)
        shrink = 1 / multiplicity.sqrt() if layout.tied else torch.ones((), dtype=torch.float64, device=device)
        self._logit_scale = shrink if layout.temperature is None else shrink * layout.temperature
        self._scales_logits = layout.tied or layout.temperature is not None

        columns = len(multiplicity)
        hidden = [self.parameters.new_zeros(batch, width, columns) for width in layout.widths[1:]]
        self._layers = [self._at.features, *hidden]
        self._layers_transposed = [layer.mT for layer in self._layers]
        self._logits = self.parameters.new_zeros(batch, layout.classes, columns)
        self._residual = torch.zeros_like(self._logits)
        self._hidden_deltas = [torch.zeros_like(layer) for layer in hidden]
        self._active = [torch.zeros_like(layer) for layer in hidden]

    @staticmethod
    def of(problems: Sequence[Model], tied: bool = False, device: torch.device | str = "cpu") -> Objective:
        """The objective of problems that share a layout."""
        layout = Layout.of(problems[0], tied)
        kind = Objective if layout.temperature is None else UnitSpheres
        kind = NonNegative if layout.nonnegative else kind
        return kind(layout, torch.tensor([penalties(p) for p in problems], dtype=torch.float64, device=device))

    def subset(self, indices: Tensor) -> Objective:
        """The objective of some of the problems, with buffers of its own."""
        return type(self)(self.layout, self.decays[indices])

    def start(self, draws: Tensor) -> Tensor:
        """Parameters (B, P) in the domain from any (B, P)."""
        return draws

    def points(self, vectors: Tensor) -> Tensor:
        """Features, weights and bias that parameters (B, P) stand for, as one vector each."""
        return vectors

    def retract(self) -> None:
        """Bring ``parameters`` back to the domain after a step."""

    def tolerance(self, value: Tensor) -> Tensor:
        """Gradient norm of a stationary point (B,), given its objective (B,); in balanced variables."""
        return GRADIENT_TOLERANCE * (self.decays[:, 0] * value).sqrt()

    def loss_gradient(self) -> None:
        """Write the gradient of the mean loss, penalties left out, to ``gradient``."""
        self._forward()
        self._backward()

    def evaluate(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        self.parameters.copy_(vectors)
        self.loss_gradient()
        self.gradient.addcmul_(self.decay, self.parameters)
        penalty = torch.linalg.vecdot(self.decay * self.parameters, self.parameters) / 2
        return self.last_loss() + penalty, self.gradient

    def last_loss(self) -> Tensor:
        """Mean loss without penalties where the gradient was last taken, (B,)."""
        return (self._loss.loss(self._logits, self._targets) * self._share).sum(dim=1)

    def _forward(self) -> None:
        for level, weight in enumerate(self._weights[:-1]):
            batched_product(weight, self._layers[level], out=self._layers[level + 1])
            if self.layout.activation == "relu":
                self._layers[level + 1].clamp_min_(0)
        batched_product(self._weights[-1], self._layers[-1], out=self._logits)
        if self._scales_logits:
            self._logits.mul_(self._logit_scale)
        if self._at.bias is not None:
            self._logits.add_(self._at.bias)

    def _backward(self) -> None:
        self._loss.residual(self._logits, self._targets, out=self._residual)
        delta = self._residual.mul_(self._share)
        if self._out.bias is not None:
            torch.sum(delta, dim=2, keepdim=True, out=self._out.bias)
        if self._scales_logits:
            delta.mul_(self._logit_scale)
        for level in range(len(self._weights) - 1, 0, -1):
            self._weight_gradient(level, delta)
            delta = batched_product(self._transposed[level], delta, out=self._hidden_deltas[level - 1])
            if self.layout.activation == "relu":
                delta.mul_(torch.sign(self._layers[level], out=self._active[level - 1]))
        self._weight_gradient(0, delta)
        batched_product(self._transposed[0], delta, out=self._feature_gradient)
        if self._feature_gradient is not self._out.features:
            self._out.features.copy_(self._feature_gradient)
            for view, written in zip(self._out.weights, self._weight_gradients, strict=True):
                view.copy_(written)

    def _weight_gradient(self, level: int, delta: Tensor) -> None:
        if level < len(self._weight_gradients):  # the last may be frozen
            batched_product(delta, self._layers_transposed[level], out=self._weight_gradients[level])


class UnitSpheres(Objective):
    r"""Features and rows of the classifier on unit spheres, as the objective of any vectors v through v/|v|.

    It does not change along v, and its gradient (I - u u^T) grad / |v|, u = v/|v|, is the Riemannian one at |v| = 1:
    unconstrained solvers may walk in it. ``start`` and ``retract`` give features norm sqrt(K m/N) (m samples a
    column) and weight rows norm 1, at which loss curves alike in both; with ``step_scale`` K, a step of gradient
    descent is h <- (h - eta N grad_h) / |.|, w <- (w - eta K grad_w) / |.|.
    """

    def __init__(self, layout: Layout, decays: Tensor) -> None:
        super().__init__(layout, decays)
        self.step_scale = float(layout.classes)
        self._unit = self.parameters  # what the layers read
        self.parameters = torch.zeros_like(self._unit)
        self._norms = [layout.column_scales.to(decays.device), torch.ones((), device=decays.device).double()]
        self._radii = [(layout.classes * self._share).sqrt(), self._norms[1]]

    def start(self, draws: Tensor) -> Tensor:
        return self._with_norms(draws, self._radii)

    def points(self, vectors: Tensor) -> Tensor:
        return self._with_norms(vectors, self._norms)

    def retract(self) -> None:
        self.parameters.copy_(self.start(self.parameters))

    def tolerance(self, value: Tensor) -> Tensor:
        assert self.layout.temperature is not None
        return GRADIENT_TOLERANCE * min(1.0, self.layout.temperature) * value

    def loss_gradient(self) -> None:
        self._unit.copy_(self.points(self.parameters))
        super().loss_gradient()
        blocks = zip(self._blocks(self.parameters), self._blocks(self.gradient), self._norms, strict=False)
        for (raw, axis), (gradient, _), norm in blocks:
            length = raw.norm(dim=axis, keepdim=True)
            unit = raw / length
            gradient.sub_(unit * (unit * gradient).sum(dim=axis, keepdim=True)).mul_(norm / length)

    def _blocks(self, vectors: Tensor) -> list[tuple[Tensor, int]]:
        """Features and classifier, each with the axis along which its vectors lie."""
        views = self.layout.views(vectors)
        return [(views.features, 1), *((weight, 2) for weight in views.weights)]

    def _with_norms(self, vectors: Tensor, norms: list[Tensor]) -> Tensor:
        scaled = vectors.clone()
        for (block, axis), norm in zip(self._blocks(scaled), norms, strict=False):
            block.mul_(norm / block.norm(dim=axis, keepdim=True))
        return scaled


class NonNegative(Objective):
    """Features on the non-negative orthant, for solvers that project every step onto it.

    ``evaluate`` gives the projected gradient: at a feature of zero, its negative part alone. It vanishes where the
    conditions of Karush, Kuhn and Tucker hold, and nowhere else: no unit is dead, as behind a ReLU.
    """

    def start(self, draws: Tensor) -> Tensor:
        found = draws.clone()
        self.layout.views(found).features.abs_()
        return found

    def retract(self) -> None:
        self._at.features.clamp_min_(0)

    def inside(self, vectors: Tensor) -> Tensor:
        self.layout.views(vectors).features.clamp_min_(0)
        return vectors

    def evaluate(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = super().evaluate(vectors)
        slope = self._out.features
        slope.copy_(torch.where(self._at.features > 0, slope, slope.clamp_max(0)))
        return value, gradient

    def along_bounds(self, point: Tensor, gradient: Tensor, direction: Tensor) -> Tensor:
        held = (self.layout.views(point).features <= 0) & (self.layout.views(gradient).features == 0)
        self.layout.views(direction).features.masked_fill_(held, 0)
        return direction


def _contiguous(view: Tensor) -> Tensor:
    """The view, or a buffer of its shape: into strided ones matrices are multiplied one by one."""
    return view if view.is_contiguous() else torch.empty(view.shape, dtype=view.dtype, device=view.device)


def penalties(problem: Model) -> list[float]:
    """Penalties of features, trained weights and, where there is one, the bias; 0 with a temperature."""
    trained = problem.decays or (0.0,) * (2 - (problem.classifier == "etf"))
    return [*trained, *([] if problem.bias_decay is None else [problem.bias_decay])]
