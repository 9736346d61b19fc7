"""Losses of a user's own: one made of a plain function, and what is wrong with one before it is fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np

from ncpipe.losses._base import SampleLoss, Tensor, torch

STEP, TOLERANCE = 1e-6, 1e-5
"""Step of a difference quotient in float64, and how far, relative, a derivative may be from it."""
MOST_SAMPLES = 8
"""Samples on which a loss is tried."""


class FunctionLoss(SampleLoss):
    """A loss made by ``from_function``."""

    function: ClassVar[Callable[[Tensor, Tensor], Tensor]]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        batch, _, samples = logits.shape
        labels = targets.argmax(dim=0).expand(batch, samples)
        return self.sample_losses(logits.mT, labels)

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        rows = logits.reshape(-1, logits.shape[-1])
        losses = type(self).function(rows, targets.reshape(-1))
        if losses.shape != rows.shape[:1]:
            given, needed = tuple(losses.shape), tuple(rows.shape[:1])
            raise ValueError(
                f"loss: the function of {self.name!r} gave shape {given} for logits {tuple(rows.shape)};"
                f" needs one loss a sample, {needed}, as with reduction='none'"
            )
        return losses.reshape(targets.shape)


def from_function(function: Callable[[Tensor, Tensor], Tensor], name: str | None = None) -> type[SampleLoss]:
    """A loss class made of a plain function, with the derivative of automatic differentiation.

    For ``Problem(loss=...)``, or as ``Loss`` of a module that an entry point ``ncpipe.losses`` names.

    Args:
        function: takes logits (N, K) and labels (N,) int64, gives the loss of each sample (N,) in the logits' dtype,
            as torch's own losses do with ``reduction="none"``.
        name: of the loss; default: the function's.

    Example:
        >>> from torch.nn.functional import multi_margin_loss
        >>> margin = from_function(lambda z, y: multi_margin_loss(z, y, reduction="none"), name="margin")
        >>> margin().name
        'margin'
    """
    called = str(name or getattr(function, "__name__", "own"))
    return type(called, (FunctionLoss,), {"names": (called,), "function": staticmethod(function)})


def own_loss_mistakes(loss: SampleLoss, classes: int) -> Iterator[str]:
    """What is wrong with a loss that is given as an object, tried on a few random logits in float64."""
    if loss.closed_form:
        yield (
            f"has the closed form {loss.closed_form!r} of a loss of ncpipe: name that loss, or set closed_form = ''"
            " in the class"
        )
        return
    draw, samples = np.random.default_rng(0), min(classes, MOST_SAMPLES)
    logits, way = (torch.from_numpy(draw.standard_normal((2, classes, samples))) for _ in range(2))
    targets = torch.zeros(classes, samples, dtype=torch.float64).fill_diagonal_(1)
    values = loss.loss(logits, targets)
    if values.shape != (2, samples) or values.dtype != torch.float64:
        yield (
            f"gave {str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape)} for logits"
            f" {tuple(logits.shape)} in float64; needs one loss a sample, (2, {samples}), in float64"
        )
    elif not values.isfinite().all():
        yield "is not finite at moderate logits"
    elif not torch.allclose(loss.loss(logits[..., :1], targets[:, :1]), values[:, :1], rtol=TOLERANCE):
        yield "gives a sample another loss when others are beside it; it must be a function of that sample alone"
    else:
        slope = torch.empty_like(logits)
        loss.residual(logits, targets, out=slope)
        both = [loss.loss(logits + sign * STEP * way, targets) for sign in (1, -1)]
        quotient, claimed = (both[0] - both[1]) / (2 * STEP), (slope * way).sum(dim=1)
        if not torch.allclose(claimed, quotient, rtol=TOLERANCE, atol=TOLERANCE):
            worst = float((claimed - quotient).abs().max())
            yield f"has a residual that differs from the derivative of its loss, by {worst:.2g} at random logits"
