"""The squared error of a batch of tied problems as a sum of squares: residuals, their Jacobian, and its Gram matrix.

With the columns g = sqrt(m) h of ``ncpipe.ufm.layout`` the loss is |r|^2 / 2,
r = (W_L a_L + (b - Y) sqrt(m)^T) / sqrt(N)
with a_1 = g, a_{l+1} = s(W_l a_l). Residuals are few, classes times columns, and parameters many: systems with
J^T J + C are solved by way of J C^-1 J^T.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ncpipe.ufm.layout import Layout
from ncpipe.ufm.objective import GRADIENT_TOLERANCE, Differentiable, Objective
from ncpipe.ufm.products import batched_product


class SumOfSquares:
    """Residuals of B problems at one point each, with the ReLU (z + sqrt(z^2 + e^2)) / 2, exact where e = 0."""

    def __init__(self, layout: Layout, decay: Tensor, vectors: Tensor, smoothing: Tensor) -> None:
        """``decay`` (B, P): penalties, in balanced variables; ``vectors`` (B, P); ``smoothing`` (B,): e."""
        self.layout, self.decay, self.vectors, self.smoothing = layout, decay, vectors, smoothing
        features, self.weights, self.bias = layout.views(vectors)
        frame = layout.frame(vectors.device)
        self.chain = [*self.weights, *(matrix.expand(len(vectors), -1, -1) for matrix in frame)]
        self.scales, self.root = layout.column_scales.to(vectors.device), sum(layout.counts) ** 0.5
        self.layers, self.slopes = [features], list[Tensor]()
        for weight in self.chain[:-1]:
            before = batched_product(weight, self.layers[-1])
            if layout.activation == "relu":
                edge = smoothing[:, None, None]
                size = (before.square() + edge.square()).sqrt()
                self.slopes.append((1 + before / size.clamp_min(torch.finfo(size.dtype).tiny)) / 2)
                before = (before + size) / 2
            self.layers.append(before)
        fit = batched_product(self.chain[-1], self.layers[-1])
        if self.bias is not None:
            fit = fit + self.bias * self.scales
        self.residuals = (fit - layout.targets.to(vectors.device) * self.scales) / self.root
        penalties = torch.linalg.vecdot(self.decay * vectors, vectors)
        self.value = (self.residuals.square().flatten(1).sum(dim=1) + penalties) / 2

    @cached_property
    def gradient(self) -> Tensor:
        """Gradients of the objective, (B, P)."""
        return self.back(self.residuals) + self.decay * self.vectors

    def back(self, residuals: Tensor) -> Tensor:
        """J^T u, (B, P), of u (B, K, M)."""
        delta = residuals / self.root
        parts = [] if self.bias is None else [(delta * self.scales).sum(dim=2)]
        for level in range(len(self.chain) - 1, -1, -1):
            if level < len(self.weights):
                parts.insert(0, batched_product(delta, self.layers[level].mT).flatten(1))
            delta = batched_product(self.chain[level].mT, delta)
            if level and self.slopes:
                delta = delta * self.slopes[level - 1]
        return torch.cat([delta.flatten(1), *parts], dim=1)

    def along(self, steps: Tensor) -> Tensor:
        """J v, (B, K, M), of v (B, P)."""
        change, weights, bias = self.layout.views(steps)
        for level, weight in enumerate(self.chain):
            change = batched_product(weight, change)
            if level < len(weights):
                change = change + batched_product(weights[level], self.layers[level])
            if level < len(self.chain) - 1 and self.slopes:
                change = change * self.slopes[level]
        return (change if bias is None else change + bias * self.scales) / self.root

    def at(self, vectors: Tensor) -> SumOfSquares:
        """The same at other points (B, P)."""
        return SumOfSquares(self.layout, self.decay, vectors, self.smoothing)

    def subset(self, indices: Tensor) -> SumOfSquares:
        """Some of the problems."""
        return SumOfSquares(self.layout, self.decay[indices], self.vectors[indices], self.smoothing[indices])

    def gram(self, shift: Tensor, bias_shift: Tensor) -> Tensor:
        """J C^-1 J^T, (B, M K, M K), C the first (B, 1) for features and weights, the second for the bias.

        Rows of a column of features stand together.
        """
        layout, batch = self.layout, len(self.vectors)
        columns, classes = layout.num_columns, layout.classes
        blocks = (batch, columns, classes, columns, classes)
        found = self.vectors.new_zeros(blocks)
        if not layout.frozen:
            same = batched_product(self.layers[-1].mT, self.layers[-1])
            found.diagonal(dim1=2, dim2=4).add_(same[..., None])
        back = self.chain[-1][:, None].expand(-1, columns, -1, -1)  # how logits of a column read a layer of it
        for level in range(len(self.chain) - 2, -1, -1):
            if self.slopes:
                back = back * self.slopes[level].mT[:, :, None]
            rows = back.reshape(batch, columns * classes, -1)
            same = batched_product(self.layers[level].mT, self.layers[level])
            found += batched_product(rows, rows.mT).view(blocks) * same[:, :, None, :, None]
            back = batched_product(rows, self.chain[level]).view(batch, columns, classes, -1)
        alike = batched_product(back.flatten(0, 1), back.flatten(0, 1).mT).view(batch, columns, classes, classes)
        found.diagonal(dim1=1, dim2=3).add_(alike.permute(0, 2, 3, 1))
        found /= shift[:, :, None, None, None]
        if self.bias is not None:
            both = torch.outer(self.scales, self.scales) / bias_shift[:, :, None]
            found.diagonal(dim1=2, dim2=4).add_(both[..., None])
        return found.view(batch, columns * classes, -1) / self.root**2

    def damped_step(self, damping: Tensor) -> Tensor:
        """-(J^T J + C)^-1 gradient, (B, P); C is the penalties with ``damping`` (B,) added."""
        shift = self.decay + damping[:, None]
        dual = self.gram(shift[:, :1], shift[:, -1:])
        dual.diagonal(dim1=1, dim2=2).add_(1)
        scaled = self.gradient / shift
        factor, _ = torch.linalg.cholesky_ex(dual)
        right = self.along(scaled).mT.flatten(1)[:, :, None]
        solved = torch.cholesky_solve(right, factor).view(len(shift), -1, self.layout.classes).mT
        return self.back(solved) / shift - scaled

    def predicted(self, step: Tensor) -> Tensor:
        """Decrease of the objective, (B,), that the Jacobian predicts of a step (B, P)."""
        curved = self.along(step).square().flatten(1).sum(dim=1) + torch.linalg.vecdot(self.decay * step, step)
        return -torch.linalg.vecdot(self.gradient, step) - curved / 2


class Preconditioned(Differentiable):
    """The objective of B problems in the variables u of x = x_0 + L u, L = (J^T J + lambda)^-1/2, J taken at x_0: its
    Hessian at 0 is the identity but for what the residuals' curvature adds."""

    def __init__(self, objective: Objective, squares: SumOfSquares, matrix: Tensor | None = None) -> None:
        """``squares`` at x_0; ``matrix`` (B, M K, M K): T of L = (1 - J^T T J) / sqrt(lambda)."""
        self.objective, self.squares = objective, squares
        self.penalty = objective.decays[:, :1]
        self.matrix = self._matrix() if matrix is None else matrix

    def _matrix(self) -> Tensor:
        gram = self.squares.gram(self.penalty, self.penalty) * self.penalty[:, :, None]
        values, axes = torch.linalg.eigh(gram.nan_to_num())
        values = values.clamp_min(torch.finfo(values.dtype).tiny)
        inner = -torch.expm1(-torch.log1p(values / self.penalty) / 2) / values
        return batched_product(axes * inner[:, None], axes.mT)

    def transformed(self, vectors: Tensor) -> Tensor:
        """L v of vectors v (B, P)."""
        dual = self.squares.along(vectors).mT.flatten(1)[:, :, None]
        shape = (len(vectors), -1, self.squares.layout.classes)
        inner = batched_product(self.matrix, dual).view(shape).mT.contiguous()
        return (vectors - self.squares.back(inner)) / self.penalty.sqrt()

    def point(self, vectors: Tensor) -> Tensor:
        """x (B, P) of u (B, P)."""
        return self.squares.vectors + self.transformed(vectors)

    def evaluate(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (B,) and gradient (B, P) in u."""
        value, gradient = self.objective.evaluate(self.point(vectors))
        return value, self.transformed(gradient)

    def subset(self, indices: Tensor) -> Preconditioned:
        """Some of the problems."""
        return Preconditioned(self.objective.subset(indices), self.squares.subset(indices), self.matrix[indices])

    def tolerance(self, value: Tensor) -> Tensor:
        """Gradient norm of a stationary point (B,), given its objective (B,)."""
        return GRADIENT_TOLERANCE * value.sqrt()
