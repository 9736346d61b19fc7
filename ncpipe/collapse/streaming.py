"""``ncpipe.CollapseMetrics``: the collapse metrics of batches, as a torchmetrics ``Metric``."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from ncpipe.collapse.arguments import (
    Array,
    as_classifier,
    as_count,
    as_features,
    as_labels,
    as_parameter,
    as_tensor,
    require_finite,
)
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.metrics import collapse_metrics
from ncpipe.collapse.moments import ClassMoments, class_moments
from ncpipe.collapse.statistics import LayerStatistics, SecondPass

SUMS = (
    *("scatter", "whitened_scatter", "nearest_mean_hits", "classifier_hits", "agreements"),
    "train_whitened_scatter",
)
"""What the second pass adds up per class, after the number of samples."""

Head = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Weight, bias and train means."""
Reference = Array | Callable[[], Array] | None
References = tuple[Reference, Reference, Reference]


class CollapseMetrics(Metric):
    """Neural-collapse metrics of features that come in batches; the same numbers as ``ncpipe.measure``.

    One pass gives all metrics of means, weights and total variability, in memory O(K d) and with no d x d matrix.
    What needs the final class means takes a second pass over the same batches: ``nc1_pinv``, ``ncc_accuracy``,
    ``nc4_mismatch`` and ``accuracy``. Until then they are NaN, and ``compute().undefined`` says so.

    Under ``torch.distributed`` the states of all ranks are merged in ``start_second_pass`` and ``compute``, which
    every rank must call. Metrics of a single batch mean little, so that ``forward`` returns None.

    Args:
        num_classes: K.
        weight: classifier W (K, d) that reads the features; kept by reference, also by copies of the metric, and
            read when the second pass starts (after one pass only: by ``compute``), so that it may be trained in
            between. A weight that is computed or replaced in training is given as a function that returns it.
        bias: its bias b (K,).
        train_means: (K, d) class means of the training split when the features are another's, as in ``measure``.
        per_class: also break down by class and by pair of classes.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: by ``update``, what ``measure`` raises; by ``compute``, when nothing has been seen, or the
            second pass has seen other samples than the first.

    Example:
        >>> import torch
        >>> from ncpipe import CollapseMetrics
        >>> metric = CollapseMetrics(num_classes=3)
        >>> batches = [(torch.randn(8, 5), torch.randint(3, (8,))) for _ in range(4)]
        >>> for features, labels in batches:
        ...     metric.update(features, labels)
        >>> metric.start_second_pass()
        >>> for features, labels in batches:
        ...     metric.update(features, labels)
        >>> row = metric.compute()
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    token: Tensor
    moments: Tensor
    """(K, 2 + d) float64: number of samples, scatter and mean of every class; (K, 2) before the first batch."""
    sums: Tensor
    """(K, 7) float64 of the second pass: number of samples and ``SUMS`` of every class."""

    def __init__(
        self,
        num_classes: int,
        weight: Reference = None,
        bias: Reference = None,
        *,
        train_means: Reference = None,
        per_class: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dist_sync_fn": _gather_padded} | kwargs)
        num_classes = as_count(num_classes)
        if bias is not None and weight is None:
            raise ValueError("bias is given without weight: pass the classifier's weight too")
        for name, value in (("weight", weight), ("bias", bias), ("train_means", train_means)):
            _check_reference(name, value, num_classes)
        self.num_classes, self.per_class = num_classes, per_class
        # In a tuple, or torch.nn.Module would take a parameter for one of its own.
        self._references: References = (weight, bias, train_means)
        self._precision = 0.0
        self._second: SecondPass | None = None
        self._head: Head = (None, None, None)
        self.add_state("moments", torch.zeros(num_classes, 2, dtype=torch.float64), dist_reduce_fx=_merge)
        sums = torch.zeros(num_classes, 1 + len(SUMS), dtype=torch.float64)
        self.add_state("sums", sums, dist_reduce_fx="sum")
        # torchmetrics.MetricCollection lets metrics of equal states share one update, but weights may differ.
        self.add_state("token", _token(), dist_reduce_fx="max")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (n, d) and labels (n,)."""
        if isinstance(features, Tensor) and features.ndim == 2 and len(features) == 0:
            return
        h = as_features("features", features)
        if h.device != self.moments.device:
            raise ValueError(
                f"features are on {h.device}, the metric on {self.moments.device}: metric.to({h.device})"
            )
        y = as_labels(labels, h, self.num_classes)
        if self.moments.shape[1] not in (2, 2 + h.shape[1]):
            raise ValueError(f"features must have {self.moments.shape[1] - 2} columns as before, got {h.shape[1]}")
        self._precision = max(self._precision, torch.finfo(h.dtype).eps)
        if self._second is not None:
            seen = self._second(h, y)
            if not torch.isfinite(seen.scatter).all():
                require_finite("features", h)
            self.sums += _packed_sums(seen)
            return
        present, own = y.unique(return_inverse=True)  # of many classes, a batch has few
        batch = class_moments(h, own, len(present))
        if not torch.isfinite(batch.scatter).all():
            require_finite("features", h)
        self.moments, added = _padded([self.moments, _packed(batch)])
        self.moments[present] = _merge(torch.stack([self.moments[present], added]))

    def start_second_pass(self) -> None:
        """Fix the class means of all that has been seen, on all ranks; the updates that follow are about these.

        Raises:
            ValueError: nothing has been seen, or the second pass has begun.
        """
        if self._second is not None:
            raise ValueError("the second pass has begun: reset() starts anew")
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            seen = self._seen()
        self._computed = None
        self._head = weight, bias, train_means = self._read(seen.means)
        self._second = SecondPass(seen.counts, seen.means, weight=weight, bias=bias, train_means=train_means)

    def compute(self) -> Measurement:
        """The metrics of all that has been seen."""
        stats = self.statistics()
        weight, bias, train_means = self._read(stats.means) if self._second is None else self._head
        self._measured = collapse_metrics(stats, weight, bias, train_means=train_means, per_class=self.per_class)
        return self._measured

    def _wrap_compute(self, compute: Callable[[], Measurement]) -> Callable[[], Measurement]:
        """What torchmetrics does around ``compute``, but it copies a dict without its attributes."""
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def measured() -> Measurement:
            wrapped()
            return self._measured

        return measured

    def statistics(self) -> LayerStatistics:
        """What the metrics are computed from, of this rank."""
        seen = self._seen()
        if self._second is None:
            return LayerStatistics(seen.counts, seen.means, seen.scatter)
        self._check_second_pass(seen)
        weight, _, train_means = self._head
        known = dict(zip(SUMS, self.sums[:, 1:].T))
        for name in ("nearest_mean_hits", "classifier_hits", "agreements"):
            known[name] = known[name].round().long()
        absent = {"classifier_hits", "agreements"} if weight is None else set()
        absent |= {"train_whitened_scatter"} if train_means is None else set()
        return LayerStatistics(
            seen.counts,
            seen.means,
            singular_values=self._second.singular_values,
            **{name: value for name, value in known.items() if name not in absent},
        )

    def _check_second_pass(self, first: ClassMoments) -> None:
        counts, scatter = self.sums[:, :2].T
        if not torch.equal(counts, first.counts.double()):
            other = int((counts != first.counts).nonzero()[0])
            raise ValueError(
                f"the second pass has seen {int(counts.sum())} samples, the first {int(first.counts.sum())}: pass the"
                f" same batches twice (class {other}: {int(counts[other])} and {int(first.counts[other])}; is it"
                " unfinished, or does the loader drop or draw samples?)"
            )
        # kernels round the features of other batches otherwise, in float32 at best
        precision = 8 * max(self._precision, torch.finfo(torch.float32).eps)
        rounding = counts * (precision * first.means.nan_to_num().norm(dim=1)).square()
        if ((scatter - first.scatter).abs() > 1e-3 * first.scatter + rounding).any():
            raise ValueError(
                "the second pass has seen other features than the first: pass the same batches twice, with the"
                " network in eval() and without augmentation"
            )

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another metric, or its state, has seen in the same pass.

        Raises:
            ValueError: both are in their second passes, about different class means, or only one is.
        """
        if isinstance(incoming_state, CollapseMetrics) and incoming_state.num_classes != self.num_classes:
            raise ValueError(f"metrics of {self.num_classes} and {incoming_state.num_classes} classes do not merge")
        other = incoming_state._second if isinstance(incoming_state, CollapseMetrics) else self._second
        passes = [second.means.nan_to_num() for second in (self._second, other) if second is not None]
        if len(passes) == 1 or (len(passes) == 2 and not torch.equal(*passes)):
            raise ValueError("second passes about different class means do not merge: merge before they start")
        super().merge_state(incoming_state)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        self.moments, theirs = _padded([self.moments, incoming_state["moments"]])
        super()._reduce_states({**incoming_state, "moments": theirs})

    def forward(self, features: Tensor, labels: Tensor) -> None:
        """``update``; a batch has no value of its own."""
        self.update(features, labels)

    def reset(self) -> None:
        """Forget all that has been seen, and begin with a first pass."""
        super().reset()
        self._second, self._head, self._precision = None, (None, None, None), 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> CollapseMetrics:
        """A copy that reads the same classifier, or the copy of it where its network is copied too."""
        state = self.__getstate__()
        references = tuple(memo.get(id(value), value) for value in state.pop("_references"))
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__setstate__({**copy.deepcopy(state, memo), "_references": references})
        return copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.token = _token().to(self.token.device)
        self._defaults["token"] = self.token.clone()

    def _apply(self, fn: Any, exclude_state: Any = "") -> CollapseMetrics:
        device = fn(torch.empty(0, device=self.moments.device)).device
        super()._apply(lambda tensor: tensor.to(device), exclude_state)  # never to another type
        if self._second is not None:
            self._second.to(device)
        self._references = _moved_all(self._references, device)
        self._head = _moved_all(self._head, device)
        return self

    def _seen(self) -> ClassMoments:
        if self.moments.shape[1] == 2:
            raise ValueError("no features have been seen: call update first")
        return _unpacked(self.moments)

    def _read(self, like: Tensor) -> Head:
        """The classifier and the train means as they are now, for class means like these."""
        weight, bias, train_means = (value() if callable(value) else value for value in self._references)
        weight, bias = as_classifier(weight, bias, self.num_classes, like)
        if train_means is not None:
            train_means = as_parameter("train_means", train_means, tuple(like.shape), like)
        return weight if weight is None else weight.clone(), bias if bias is None else bias.clone(), train_means


def _packed(moments: ClassMoments) -> Tensor:
    return torch.cat([moments.counts[:, None], moments.scatter[:, None], moments.means.nan_to_num()], dim=1)


def _unpacked(packed: Tensor) -> ClassMoments:
    counts = packed[:, 0].round().long()
    return ClassMoments(counts, packed[:, 2:].masked_fill((counts == 0)[:, None], torch.nan), packed[:, 1])


def _merge(stacked: Tensor) -> Tensor:
    """Pooled moments of packed ones, (n, K, 2 + d) -> (K, 2 + d)."""
    return _packed(functools.reduce(ClassMoments.__add__, map(_unpacked, stacked)))


def _packed_sums(seen: LayerStatistics) -> Tensor:
    found = seen.tensors()
    missing = torch.zeros_like(seen.scatter)
    return torch.stack([seen.counts.double(), *(found.get(name, missing).double() for name in SUMS)], dim=1)


def _gather_padded(state: Tensor, group: Any = None) -> list[Tensor]:
    """The state of every rank; of one that has seen no batch, as wide as the others'."""
    return _padded(gather_all_tensors(state, group))


def _padded(states: list[Tensor]) -> list[Tensor]:
    width = max(state.shape[-1] for state in states)
    return [torch.nn.functional.pad(state, (0, width - state.shape[-1])) for state in states]


def _token() -> Tensor:
    """Random numbers that no other metric has."""
    return torch.from_numpy(np.random.default_rng().random(8))


def _check_reference(name: str, value: Reference, num_classes: int) -> None:
    """What can be known before features are: that it is a classifier of K classes, and stays the same object."""
    if value is None or (callable(value) and not isinstance(value, Tensor | torch.nn.Module)):
        return
    if isinstance(value, torch.nn.Module):
        raise ValueError(f"{name} must be an array, got {type(value).__name__}: pass its weight")
    tensor = as_tensor(name, value)
    if tensor.ndim != (1 if name == "bias" else 2) or len(tensor) != num_classes:
        needs = "(K,)" if name == "bias" else "(K, d)"
        raise ValueError(f"{name} must have shape {needs} with K = {num_classes}, got {tuple(tensor.shape)}")
    if isinstance(value, Tensor) and not value.is_leaf:
        raise ValueError(f"{name} is computed: pass a function that returns it, or its detach() if it never changes")


def _moved_all(values: tuple[Any, Any, Any], device: torch.device) -> tuple[Any, Any, Any]:
    weight, bias, train_means = (_moved(value, device) for value in values)
    return weight, bias, train_means


def _moved(value: Any, device: torch.device) -> Any:
    """On the device; a parameter is its model's to move."""
    return value.to(device) if isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter) else value
