"""``ncpipe.CollapseMetrics``: the collapse metrics of batches, as a torchmetrics ``Metric``."""

import copy
import functools
from abc import ABC
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.wrappers import ClasswiseWrapper

from ncpipe.collapse.arguments import (
    DIVERGED,
    NO_VALUES,
    Array,
    as_classifier,
    as_count,
    as_features,
    as_labels,
    as_parameter,
    as_tensor,
    number_classes,
    require_finite,
)
from ncpipe.collapse.computing import collapse_metrics
from ncpipe.collapse.measurement import TensorMeasurement
from ncpipe.collapse.moments import ClassMoments, class_moments
from ncpipe.collapse.products import ProductMoments
from ncpipe.collapse.statistics import LayerStatistics, SecondPass
from ncpipe.collapse.strands import by_one_thread

SUMS = (
    *("scatter", "whitened_scatter", "nearest_mean_hits", "classifier_hits", "agreements"),
    "train_whitened_scatter",
)
"""What the second pass adds up per class, after the number of samples."""

EMPTY = (0, 2)
"""Columns of states before anything is seen."""
NOTHING_SEEN = "no features have been seen: call update first"
OTHER_MEANS = (
    "second passes about different class means do not merge: merge before they start, or start them from copies of"
    " one metric"
)

Head = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Weight, bias and train means."""
Reference = Array | Callable[[], Array] | None
References = tuple[Reference, Reference, Reference]


class CollapseMetrics(Metric):
    """Neural-collapse metrics of features that come in batches; the same numbers as ``ncpipe.measure``, as 0-dim
    float64 tensors on the metric's device.

    One pass gives all metrics of means, weights and total variability, in memory O(K d) and with no d x d matrix.
    What needs the final class means takes a second pass over the same batches: ``nc1_pinv``, ``ncc_accuracy``,
    ``nc4_mismatch`` and ``accuracy``. Until then they are NaN, and ``compute().undefined`` says so. With ``one_pass``
    the first gives ``nc1_pinv`` too, from the scatter within the classes in memory O(d^2 + K d).

    Under ``torch.distributed`` the states of all ranks are merged in ``start_second_pass`` and ``compute``, which
    every rank must call. A call of the metric adds a batch and returns the metrics of that batch alone, after one
    pass; ``update`` is cheaper. ``metric["cdnv"]`` is a torchmetrics ``Metric`` of that one value.

    Args:
        num_classes: K.
        weight: classifier W (K, d) that reads the features; kept by reference, also by copies of the metric, and
            read when the second pass starts (after one pass only: by ``compute``), so that it may be trained in
            between. A weight that is computed or replaced in training is given as a function that returns it.
        bias: its bias b (K,).
        train_means: (K, d) class means of the training split when the features are another's, as in ``measure``.
        per_class: also break down by class and by pair of classes.
        present_only: leave classes without a sample out, as in ``measure``.
        one_pass: sum the products of deviations, d x d, in the first pass, for ``nc1_pinv``.
        kwargs: of ``torchmetrics.Metric``.

    On an accelerator ``update`` leaves the values of a batch unread, so as not to wait for the device: what is wrong
    with labels or features is told by the next ``compute`` or ``start_second_pass``.

    Raises:
        ValueError: by ``update``, what ``measure`` raises; by ``compute``, when nothing has been seen, or the
            second pass has seen other samples than the first; by ``merge_state``, when other classes or widths
            were measured, or only one is in its second pass, or both are about different class means.

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

    # Whatever a measurement rests on is a state: torchmetrics copies, merges, saves and restores these alone.
    about: Tensor
    """(K, 3 + 3d) float64 of the second pass: moments of the first, then weight, bias and train means as they were
    read, NaN without; (K, 0) before."""
    moments: Tensor
    """(K, 2 + d) float64: number of samples, scatter and mean of every class; (K, 2) before the first batch.
    With ``one_pass`` those of ``ProductMoments``, (2K + d, 2 + d)."""
    sums: Tensor
    """(K, 7) float64 of the second pass: number of samples and ``SUMS`` of every class."""
    precision: Tensor
    """(1,): the machine epsilon of the coarsest features."""
    fault: Tensor
    """(3,) float64 of the first batch on an accelerator that was wrong: number of its update, least and largest
    label; 0 before."""
    token: Tensor

    def __init__(
        self,
        num_classes: int,
        weight: Reference = None,
        bias: Reference = None,
        *,
        train_means: Reference = None,
        per_class: bool = False,
        present_only: bool = False,
        one_pass: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dist_sync_fn": _gather_padded} | kwargs)
        num_classes = as_count(num_classes)
        if bias is not None and weight is None:
            raise ValueError("bias is given without weight: pass the classifier's weight too")
        for name, value in (("weight", weight), ("bias", bias), ("train_means", train_means)):
            _check_reference(name, value, num_classes)
        self.num_classes, self.per_class, self.present_only = num_classes, per_class, present_only
        self.one_pass = one_pass
        # In a tuple, or torch.nn.Module would take a parameter for one of its own.
        self._references: References = (weight, bias, train_means)
        self._second: tuple[Tensor, SecondPass] | None = None
        self._rests_on: tuple[tuple[Tensor, ...], tuple[bool, bool], Head] | None = None
        columns = {"about": 0, "moments": 2, "sums": 1 + len(SUMS)}
        zeros = {name: torch.zeros(num_classes, width, dtype=torch.float64) for name, width in columns.items()}
        self.add_state("about", zeros["about"], dist_reduce_fx=_agreed)  # first: it may refuse to be merged
        nothing = zeros["moments"].repeat(2, 1) if one_pass else zeros["moments"]
        self.add_state("moments", nothing, dist_reduce_fx=_merge_products if one_pass else _merge)
        self.add_state("sums", zeros["sums"], dist_reduce_fx="sum")
        self.add_state("precision", torch.zeros(1, dtype=torch.float64), dist_reduce_fx="max")
        self.add_state("fault", torch.zeros(3, dtype=torch.float64), dist_reduce_fx=_first_fault)
        # torchmetrics.MetricCollection lets metrics of equal states share one update, but weights may differ.
        self.add_state("token", _token().to(self.moments.device), dist_reduce_fx="max")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (n, d) and labels (n,)."""
        if isinstance(features, Tensor) and features.ndim == 2 and len(features) == 0:
            self._check_width(features)
            self.moments = self._moments_of_width(features.shape[1])
            return
        h = as_features("features", features)
        if h.device != self.moments.device:
            raise ValueError(f"features are on {h.device}, the metric on {self.moments.device}: {self._remedy(h)}")
        y = as_labels(labels, h, self.num_classes, batch=True)
        self._check_width(h)
        by_one_thread(h, lambda: self._add(h, y))
        self.precision = self.precision.clamp(min=torch.finfo(h.dtype).eps)

    def _add(self, h: Tensor, y: Tensor) -> None:
        """Add a batch that has been checked, on an accelerator but for its values."""
        known = y if h.device.type == "cpu" else y.clamp(0, self.num_classes - 1)
        if self._in_second_pass:
            state, sums = "sums", self.sums + _packed_sums(self._second_pass()(h, known))
        else:
            state, sums = "moments", self._moments_of_width(h.shape[1])
            (_add_with_products if self.one_pass else _add)(sums, h, known)
        finite = torch.isfinite(sums[:, 1]).all()  # scatter
        if h.device.type != "cpu":
            self._note(y, finite)
        elif not finite:
            require_finite("features", h)
        setattr(self, state, sums)

    def _note(self, labels: Tensor, finite: Tensor) -> None:
        """Keep what is wrong with a batch on the device, unless one before it was."""
        low, high = labels.aminmax()
        wrong = (low < 0) | (high >= self.num_classes) | ~finite
        found = torch.stack([torch.full_like(low, self._update_count), low, high]).double()
        self.fault = torch.where(self.fault[0] > 0, self.fault, wrong * found)

    def _check_noted(self) -> None:
        """``ValueError`` if a batch was wrong."""
        number, low, high = map(int, self.fault.tolist())
        wrong = f"features of update {number} have non-finite values: {DIVERGED}"
        if low < 0 or high >= self.num_classes:
            remedy = f"{number_classes(self.fault)}, of all samples before they are batched"
            remedy = "drop the samples that are ignored, labels >= 0 keeps the others" if low < 0 else remedy
            wrong = f"labels must lie in [0, {self.num_classes}), got {low} to {high} in update {number}: {remedy}"
        if number:
            raise ValueError(f"{wrong}; reset() starts anew")

    def start_second_pass(self) -> None:
        """Fix the class means of all that has been seen, on all ranks; the updates that follow are about these.

        After a whole second pass another one begins, about the same means and with the classifier as it is now.

        Raises:
            ValueError: nothing has been seen, or the second pass has begun and is unfinished.
        """
        with self._over_ranks():
            first = self._seen()
            if self._in_second_pass and not torch.equal(self.sums[:, 0], first.counts.double()):
                raise ValueError("the second pass has begun: reset() starts anew")
        if not first.counts.any():
            raise ValueError(NOTHING_SEEN)
        self.about = torch.cat([_packed(first), *_packed_head(self._read(first.means), first.means)], dim=1)
        self.sums = torch.zeros_like(self.sums)

    def compute(self) -> TensorMeasurement:
        """The metrics of all that has been seen."""
        stats, head = self.statistics(), self._head()
        weight, bias, train_means = head
        self._rests_on = (self._states(), self._options(), _cloned(head))
        per_class, present_only = self._options()
        row = collapse_metrics(
            stats, weight, bias, train_means=train_means, per_class=per_class, present_only=present_only
        )
        return TensorMeasurement(row, self.moments.device)

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """What torchmetrics does around ``compute``, which would return a value that the classifier has left behind,
        and a dict without its attributes."""

        @functools.wraps(compute)
        def computed(*args: Any, **kwargs: Any) -> Any:
            if self._computed is None or not self._holds():
                with self._over_ranks():
                    value = compute(*args, **kwargs)
                self._computed = value if self.compute_with_cache else None
                return value
            return self._computed

        return computed

    def _states(self) -> tuple[Tensor, ...]:
        return self.about, self.moments, self.sums

    def _options(self) -> tuple[bool, bool]:
        return self.per_class, self.present_only

    def _holds(self) -> bool:
        """Whether what ``compute`` has read is what it would read now; never where ranks are merged."""
        if self._rests_on is None:
            return False
        states, options, head = self._rests_on
        if options != self._options() or any(one is not other for one, other in zip(states, self._states())):
            return False
        return self._in_second_pass or all(map(_same, head, self._head()))

    @contextmanager
    def _over_ranks(self) -> Iterator[None]:
        """With the states of all ranks merged; without them again also where that ends in an error."""
        about, merged = self.about, self._is_synced
        try:
            with self.sync_context(self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync):
                yield
        finally:
            self.unsync(self._is_synced and self._should_unsync and not merged)
            self.about = about  # not a copy, for which the second pass would be set up again

    @torch.jit.unused
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``update``, and the metrics of the batch alone, after one pass; a batch that is refused is not added."""
        before = dict(vars(self))  # states are replaced, never written to
        try:
            value = super().forward(*args, **kwargs)
        except BaseException:
            vars(self).update(before)
            raise
        self.about = before["about"]  # as in _over_ranks
        return value

    def _forward_reduce_state_update(self, *args: Any, **kwargs: Any) -> Any:
        """In the second pass, what a batch alone gives is no part of the state."""
        if self._in_second_pass:
            return self._forward_full_state_update(*args, **kwargs)
        return super()._forward_reduce_state_update(*args, **kwargs)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw what ``compute`` returns, or ``val``: one or a list of what it has returned."""
        return self._plot(val, ax)

    def statistics(self) -> LayerStatistics:
        """What the metrics are computed from, of this rank."""
        seen = self._seen()
        if not self._in_second_pass:
            products = ProductMoments(self.moments).products if self.one_pass else None
            return LayerStatistics(seen.counts, seen.means, seen.scatter, within_products=products)
        self._check_second_pass(seen)
        weight, _, train_means = self._head()
        known = dict(zip(SUMS, self.sums[:, 1:].T))
        for name in ("nearest_mean_hits", "classifier_hits", "agreements"):
            known[name] = known[name].round().long()
        absent = {"classifier_hits", "agreements"} if weight is None else set()
        absent |= {"train_whitened_scatter"} if train_means is None else set()
        second = self._second if self._second is not None and self._second[0] is self.about else None
        return LayerStatistics(
            seen.counts,
            seen.means,
            singular_values=None if second is None else second[1].singular_values,
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
        precision = 8 * self.precision.clamp(min=torch.finfo(torch.float32).eps)
        rounding = counts * (precision * first.means.nan_to_num().norm(dim=1)).square()
        if ((scatter - first.scatter).abs() > 1e-3 * first.scatter + rounding).any():
            raise ValueError(
                "the second pass has seen other features than the first: pass the same batches twice, with the"
                " network in eval() and without augmentation"
            )

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Add what another metric has seen: in the same pass, the second about the same means."""
        if missing := self._defaults.keys() - incoming_state.keys():
            raise ValueError(
                f"the state to merge lacks {', '.join(sorted(missing))}: it is of another metric or version"
            )
        theirs = dict(incoming_state)
        if len(theirs["sums"]) != self.num_classes:
            raise ValueError(f"metrics of {self.num_classes} and {len(theirs['sums'])} classes do not merge")
        if len(theirs["moments"]) != self._rows(theirs["moments"]):
            raise ValueError("metrics with and without one_pass do not merge")
        begun = [about.shape[1] > 0 for about in (self.about, theirs["about"])]
        first = theirs["moments"] if begun[0] else self.moments
        if begun[0] != begun[1] and first.any():
            raise ValueError(OTHER_MEANS)
        if all(begun):  # about what both have seen in the first
            theirs["moments"] = torch.zeros_like(self.moments)
        for name in ("about", "moments"):
            mine, theirs[name] = _padded([getattr(self, name), theirs[name]])
            setattr(self, name, mine)
        super()._reduce_states(theirs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """States are copied, those that were not saved begin anew, and the metric stays unlike any other."""
        saved = {name: state_dict[prefix + name] for name in self._defaults if prefix + name in state_dict}
        for name, value in saved.items():
            if name == "moments" and len(value) != self._rows(value):
                raise ValueError(
                    f"{prefix}{name} was saved by a metric with{'out' if self.one_pass else ''} one_pass"
                )
            if name != "moments" and len(value) != len(self._defaults[name]):
                raise ValueError(
                    f"{prefix}{name} was saved by a metric of {len(value)} classes, not {self.num_classes}"
                )
            state_dict[prefix + name] = value.to(self.moments, copy=True)
        if saved:
            super().reset()
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.token = _token().to(self.moments.device)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_second": None, "_computed": None, "_rests_on": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
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

    def _apply(self, fn: Any, exclude_state: Any = "", recurse: bool = True) -> Self:  # type: ignore[override]
        device = fn(torch.empty(0, device=self.moments.device)).device
        empty = self.moments.is_meta and device.type != "meta"

        def moved(tensor: Tensor) -> Tensor:
            """To the device, never to another type; a state that had no values has seen nothing."""
            return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

        self._computed = None
        super()._apply(moved, exclude_state)
        if empty:
            self.token = self._defaults["token"] = _token().to(device)
        self._references = _moved_all(self._references, device)
        return self

    @property
    def _in_second_pass(self) -> bool:
        return self.about.shape[1] > 0

    def _second_pass(self) -> SecondPass:
        """What ``about`` says, set up once."""
        if self._second is None or self._second[0] is not self.about:
            first, (weight, bias, train_means) = self._seen(), self._head()
            second = SecondPass(first.counts, first.means, weight=weight, bias=bias, train_means=train_means)
            self._second = self.about, second
        return self._second[1]

    def _seen(self) -> ClassMoments:
        """What the first pass has seen; in the second, of all ranks."""
        self._check_noted()
        if self._in_second_pass:
            return _unpacked(self.about[:, : 2 + self._width])
        if self.moments.shape[1] == 2:
            raise ValueError(NOTHING_SEEN)
        return ProductMoments(self.moments).moments() if self.one_pass else _unpacked(self.moments)

    def _moments_of_width(self, width: int) -> Tensor:
        """A copy of the state, for features of d = ``width``."""
        if self.one_pass:
            return ProductMoments(self.moments).of_width(width).packed
        return torch.nn.functional.pad(self.moments, (0, 2 + width - self.moments.shape[1]))

    def _rows(self, moments: Tensor) -> int:
        """How many a state of that width has in this metric."""
        return 2 * self.num_classes + moments.shape[1] - 2 if self.one_pass else self.num_classes

    @property
    def _width(self) -> int:
        """d, of the second pass."""
        return self.about.shape[1] // 3 - 1

    def _head(self) -> Head:
        """The classifier and the train means as they are now, or were when the second pass started."""
        if not self._in_second_pass:
            return self._read(self._seen().means)
        width = self._width
        weight, bias, train_means = self.about[:, 2 + width :].split([width, 1, width], dim=1)
        parts = weight, bias.flatten(), train_means
        weight, bias, train_means = (None if part.isnan().all() else part for part in parts)
        return weight, bias, train_means

    def _read(self, like: Tensor) -> Head:
        """The classifier and the train means as they are now, for class means like these."""
        weight, bias, train_means = (value() if callable(value) else value for value in self._references)
        weight, bias = as_classifier(weight, bias, self.num_classes, like)
        if train_means is not None:
            train_means = as_parameter("train_means", train_means, tuple(like.shape), like)
        return weight, bias, train_means

    def _remedy(self, features: Tensor) -> str:
        """For features on another device."""
        if self.moments.is_meta:
            return f"metric.to_empty(device={str(features.device)!r})"
        return f"metric.to({features.device})" + (f" would not help, {NO_VALUES}" if features.is_meta else "")

    def _check_width(self, features: Tensor) -> None:
        width = self._width if self._in_second_pass else self.moments.shape[1] - 2
        if width not in (0, features.shape[1]):
            raise ValueError(f"features must have {width} columns as before, got {features.shape[1]}")


def _packed(moments: ClassMoments) -> Tensor:
    return torch.cat([moments.counts[:, None], moments.scatter[:, None], moments.means.nan_to_num()], dim=1)


def _unpacked(packed: Tensor) -> ClassMoments:
    counts = packed[:, 0].round().long()
    return ClassMoments(counts, packed[:, 2:].masked_fill((counts == 0)[:, None], torch.nan), packed[:, 1])


def _add(packed: Tensor, features: Tensor, labels: Tensor) -> None:
    present, own = slice(None), labels
    if len(packed) > len(labels):  # of many classes, a batch has few
        present, own = labels.unique(return_inverse=True)
    packed[present] = _packed(_unpacked(packed[present]) + class_moments(features, own, len(packed[present])))


def _add_with_products(packed: Tensor, features: Tensor, labels: Tensor) -> None:
    ProductMoments(packed).add_(features, labels)


def _merge(stacked: Tensor) -> Tensor:
    """Pooled moments of packed ones, (n, K, 2 + d) -> (K, 2 + d)."""
    return _packed(functools.reduce(ClassMoments.__add__, map(_unpacked, stacked)))


def _merge_products(stacked: Tensor) -> Tensor:
    """Pooled moments with products, (n, 2K + d, 2 + d) -> (2K + d, 2 + d)."""
    return functools.reduce(ProductMoments.__add__, map(ProductMoments, stacked)).packed


def _agreed(stacked: Tensor) -> Tensor:
    """What all second passes are about, (n, K, 3 + 3d) -> (K, 3 + 3d), up to rounding; zeros are not in theirs."""
    begun = [about for about in stacked if about.any()]
    for about in begun[1:]:
        scale = float(about.nan_to_num().abs().max())
        if not torch.allclose(about, begun[0], rtol=1e-6, atol=1e-6 * scale, equal_nan=True):
            raise ValueError(OTHER_MEANS)
    return begun[0] if begun else stacked[0]


def _first_fault(stacked: Tensor) -> Tensor:
    """One fault of all ranks, (n, 3) -> (3,)."""
    return stacked[(stacked[:, 0] > 0).int().argmax()]


def _packed_head(head: Head, like: Tensor) -> Iterator[Tensor]:
    """Weight, bias and train means as columns, NaN for one that is not there."""
    for part, absent in zip(head, (like, like[:, :1], like)):
        yield torch.full_like(absent, torch.nan) if part is None else part.to(like).view_as(absent)


def _cloned(head: Head) -> Head:
    weight, bias, train_means = (None if part is None else part.clone() for part in head)
    return weight, bias, train_means


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)


def _packed_sums(seen: LayerStatistics) -> Tensor:
    found = seen.tensors()
    missing = torch.zeros_like(seen.scatter)
    return torch.stack([seen.counts.double(), *(found.get(name, missing).double() for name in SUMS)], dim=1)


def _gather_padded(state: Tensor, group: Any = None) -> list[Tensor]:
    """The state of every rank; of one that has seen no batch, as wide as the others'."""
    return _padded(gather_all_tensors(state, group))


def _padded(states: list[Tensor]) -> list[Tensor]:
    """As wide as the widest; a narrower state is one that has seen nothing."""
    width = max(state.shape[-1] for state in states)
    if narrower := {state.shape[-1] for state in states} - {width, *EMPTY}:
        raise ValueError(f"features of {min(narrower) - 2} and {width - 2} columns do not merge")
    rows = max(map(len, states))  # with products a wider state has more
    missing = [(0, width - state.shape[-1], 0, rows - len(state))[: 2 * state.ndim] for state in states]
    return [torch.nn.functional.pad(state, grown) for state, grown in zip(states, missing)]


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
    """On the device; a parameter is its model's to move, and what has no values stays to be named."""
    moves = isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter) and not value.is_meta
    return value.to(device) if moves else value


class _OfNamedValues(ABC):  # noqa: B024
    """``CollapseMetrics`` and what leaves its ``compute`` as it is."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return getattr(other, "compute", None) is CollapseMetrics.compute


# torchmetrics' name for a metric of several named values: MetricTracker then takes the best of each.
ClasswiseWrapper.register(_OfNamedValues)
