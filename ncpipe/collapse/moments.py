"""First pass: counts, means and scatter of classes, which merge exactly over batches, halves and ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, reduce
from importlib import import_module
from types import ModuleType
from warnings import warn

from ncpipe.collapse.strands import Chunks, in_strands
from ncpipe.system.lazy import Tensor, torch


def squared_norms(rows: Tensor) -> Tensor:
    """|h|^2 of every row, (n, d) -> (n,); the norm needs no temporary of the rows' size, unlike the dot product."""
    return torch.linalg.vector_norm(rows, dim=1).square()


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Samples per class, (K,) int64; on an accelerator bincount would wait for the largest label."""
    if labels.device.type == "cpu":
        return torch.bincount(labels, minlength=num_classes)
    return labels.new_zeros(num_classes).index_add_(0, labels, torch.ones_like(labels))


def kernels_for(features: Tensor) -> ModuleType | None:
    """``ncpipe.collapse.fused`` where its kernels run, on NVIDIA's GPUs since Ampere with a Triton that works."""
    floats = torch.float16, torch.bfloat16, torch.float32, torch.float64
    return _kernels(features.device) if features.is_cuda and features.dtype in floats else None


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        fused = import_module("ncpipe.collapse.fused")
        one = torch.zeros(1, 1, device=device)
        fused.class_sums(one, one[0].long(), 1, one[0].double())
    except ImportError:
        return None
    except Exception as error:  # no C compiler, a driver that Triton does not know
        warn(f"metrics take several reads of the features, since Triton fails: {error}", stacklevel=2)
        return None
    return fused


@dataclass(frozen=True)
class ClassMoments:
    """Number, mean and scatter of every class in some of the samples. K classes, d features."""

    counts: Tensor
    """Samples per class, (K,) int64."""
    means: Tensor
    """Class means mu_c, (K, d) float64; NaN for a class without a sample."""
    scatter: Tensor
    """sum_i |h_i - mu_c|^2 per class, (K,) float64."""

    def __add__(self, other: ClassMoments) -> ClassMoments:
        """Moments of both sets of samples together (Chan, Golub & LeVeque 1983), exact up to rounding.

        With delta = mu' - mu and n, n' samples: mean mu + delta n'/(n + n'), and the scatters' sum grows by
        |delta|^2 n n'/(n + n'). No large numbers cancel; what is lost of a scatter is eps |mu| over the spread.
        """
        if self.means.shape != other.means.shape:
            mine, its = tuple(self.means.shape), tuple(other.means.shape)
            raise ValueError(f"moments of other classes or features do not add: means of shape {mine} and {its}")
        counts = self.counts + other.counts
        share = other.counts.double() / counts.clamp(min=1)  # integers alone would divide to float32
        first, second = self.means, other.means
        delta = torch.where((self.counts * other.counts > 0)[:, None], second - first, 0.0)
        merged = torch.where((self.counts > 0)[:, None], first + delta * share[:, None], second)
        between = delta.square().sum(dim=1) * self.counts * share
        return ClassMoments(counts, merged, self.scatter + other.scatter + between)


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Counts (K,) and class means (K, d) in float64 of features (N, d); the mean of an empty class is NaN.

    Sums are taken from the first sample: means of equal samples are then equal bit for bit, and an offset that all
    features share is rounded once, not at every addition.
    """
    origin = features[:1].double().sum(dim=0)
    if (fused := kernels_for(features)) is not None:
        counts, sums = fused.class_sums(features, labels, num_classes, origin)
        return counts, origin + sums / counts[:, None]
    counts = class_counts(labels, num_classes)
    shape = num_classes, features.shape[1]

    def summed(chunks: Chunks) -> Tensor:
        sums = torch.zeros(shape, dtype=torch.float64, device=features.device)
        for rows, h in chunks:
            sums.index_add_(0, labels[rows], h.sub_(origin))
        return sums

    sums = reduce(torch.Tensor.add_, in_strands(features, shape[0] * shape[1], summed))
    return counts, origin + sums / counts[:, None]


def class_moments(features: Tensor, labels: Tensor, num_classes: int) -> ClassMoments:
    """Moments of features (N, d) with labels (N,); the scatter is about the means, in a second read."""
    counts, means = class_means(features, labels, num_classes)
    if (fused := kernels_for(features)) is not None:
        return ClassMoments(counts, means, fused.class_scatter(features, labels, means))

    def scattered(chunks: Chunks) -> Tensor:
        scatter = torch.zeros(num_classes, dtype=torch.float64, device=features.device)
        for rows, h in chunks:
            own = labels[rows]
            scatter.index_add_(0, own, squared_norms(h.sub_(means[own])))
        return scatter

    return ClassMoments(counts, means, reduce(torch.Tensor.add_, in_strands(features, num_classes, scattered)))
