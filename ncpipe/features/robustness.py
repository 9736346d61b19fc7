"""Distance of images to the decision boundary: the smallest change that DeepFool finds (Moosavi-Dezfooli 2016)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ncpipe.training.batches import Batches

OVERSHOOT = 0.02
"""The change is this much longer than the way to the boundary of the linearised network, to cross it."""
MOST_STEPS = 50

Logits = Callable[[Tensor], Tensor]


def relative_distances(logits: Logits, images: Tensor, labels: Tensor) -> Tensor:
    r"""|r|_2 / |x|_2 of every image x, r the smallest change that DeepFool finds to alter the decision, (n,) float64.

    Step by step x moves to the nearest boundary of the network linearised at :math:`x + (1 + \eta) \sum r`, with own
    class y and :math:`f_k = z_k - z_y`:

    .. math:: r = |f_k| \nabla f_k / |\nabla f_k|^2, \quad k = \arg\min_{k \ne y} |f_k| / |\nabla f_k|,

    until argmax z is not y, at most 50 times; overshoot eta = 0.02, and r includes it. It is an upper bound of the
    distance for the images whose decision changed. 0 for images that are wrong from the start, NaN where the logits
    do not depend on the image or are not finite.

    Args:
        logits: the network in evaluation mode, images (n, C, H, W) -> (n, K); images must not influence each other.
        images: x, normalised as the network reads them.
        labels: y, (n,).
    """
    way = torch.zeros_like(images)
    moving = torch.arange(len(images), device=images.device)
    for _ in range(MOST_STEPS):
        with torch.no_grad():
            at = images[moving] + (1 + OVERSHOOT) * way[moving]
            own = labels[moving]
            held = logits(at).argmax(dim=1) == own
        if not held.any():
            break
        moving = moving[held]
        way[moving] += _to_boundary(logits, at[held], own[held])
    lengths = [rows.double().flatten(1).norm(dim=1) for rows in ((1 + OVERSHOOT) * way, images)]
    return lengths[0] / lengths[1]


@torch.enable_grad()
def _to_boundary(logits: Logits, images: Tensor, labels: Tensor) -> Tensor:
    """The shortest way to the boundary of the network linearised at every image, (n, C, H, W)."""
    at = images.detach().requires_grad_()
    z = logits(at)
    slopes = torch.stack([torch.autograd.grad(column.sum(), at, retain_graph=True)[0] for column in z.unbind(dim=1)])
    rows = torch.arange(len(z), device=z.device)
    f = z.detach() - z.detach()[rows, labels, None]
    slopes = slopes - slopes[labels, rows]
    sizes = slopes.flatten(2).norm(dim=2).T
    distances = torch.where(sizes > 0, f.abs() / sizes, torch.inf)
    distances[rows, labels] = torch.inf
    distance, nearest = distances.min(dim=1)
    # without a slope inf * 0: the way is NaN
    scale = distance / sizes[rows, nearest]
    return scale.view(-1, *[1] * (images.ndim - 1)) * slopes[nearest, rows]


def probe_images(data: Batches, count: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` images (all, where there are fewer), evenly over the classes, and their labels.

    Every class gives its first images in the order of the split; where they do not divide, the first classes give one
    more.
    """
    rows = _evenly(data.labels, count)
    found, start = [], 0
    for images, labels in data.in_order(batch_size):
        own = rows[(rows >= start) & (rows < start + len(labels))] - start
        found.append(images[own])
        start += len(labels)
        if start > int(rows[-1]):
            break
    return torch.cat(found), data.labels[rows]


def _evenly(labels: Tensor, count: int) -> Tensor:
    """Rows of the first samples of every class, evenly over classes, ascending, (min(count, N),)."""
    counts = labels.bincount()
    order = labels.argsort(stable=True)
    starts = counts.cumsum(dim=0) - counts
    place = torch.empty_like(labels)
    place[order] = torch.arange(len(labels), device=labels.device) - starts[labels[order]]
    return (place * len(counts) + labels).argsort()[:count].sort().values
