"""An unconstrained-features model as it is declared: its settings, checked, and what follows without torch."""

from __future__ import annotations

import dataclasses
import math
import operator
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, TypeVar

from ncpipe.losses import LOSSES, SampleLoss, loss_mistakes, loss_of, own_loss_mistakes

WEIGHT_DECAY, FEATURE_DECAY = 5e-3, 1e-3
"""Penalties that are not given: those of Tirer & Bruna's reference run."""
SMALLEST = 1e-100
"""Smallest parameter, and one over the largest: products of two stay within float64."""


def _about(words: str, default: Any = dataclasses.MISSING, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": words, "choices": choices})


@dataclass(frozen=True)
class Model:
    """Features, weights and bias that are all free and penalised; ``ncpipe.ufm.Problem`` has the formula.

    Raises:
        ValueError: naming the field, what it got and what it needs.
    """

    classes: int = _about("K, at least 2.")
    samples: int | Sequence[int] | Mapping[int, int] = _about(
        "Samples per class n, or one number per class where they differ; with a loss of several labels, a mapping"
        " from multiplicity (1 .. K-1, with 1) to the samples of each set of so many tags."
    )
    dim: int | Sequence[int] = _about(
        "Width d of the features and of the hidden layers, or the widths of H_1, W_1 H_1, .. (one per weight layer)"
        " where they differ."
    )
    loss: str | SampleLoss | type[SampleLoss] = _about(  # noqa: RUF009 - a field
        "Name of the loss, one of ``ncpipe.losses``, or a loss of your own: a ``SampleLoss``.", "mse"
    )
    weight_decay: float | Sequence[float] | None = _about(
        "Penalties of W_1 .. W_L, positive, which make the depth L; a number where L = 1. Default 5e-3; none with a"
        " temperature; a frozen classifier has none, and the hidden layers before it by default neither.",
        None,
    )
    feature_decay: float | None = _about(
        "Penalty of the features, positive. Default 1e-3; none with a temperature.", None
    )
    bias: Literal["none", "free"] | float = _about(
        "Bias of the classifier: none, free, or its penalty (0 is the same as free).", "none"
    )
    activation: str = _about(
        "linear, or relu, between weight layers (needs L >= 2).", "linear", choices=("linear", "relu")
    )
    smoothing: float = _about("label_smoothing: alpha, in (0, 1).", 0.0)
    gamma: float = _about("focal: the exponent, positive.", 0.0)
    rescale: tuple[float, float] = _about("mse: (k, M), weight and target of the true class, positive.", (1.0, 1.0))
    temperature: float | None = _about(
        "ce: tau > 0, by which logits are multiplied; features and weight rows are on unit spheres, without penalties"
        " and bias.",
        None,
    )
    classifier: str = _about(
        "free, or etf: frozen at a simplex equiangular tight frame with rows of unit norm.",
        "free",
        choices=("free", "etf"),
    )
    nonnegative: bool = _about("Whether the features H_1 are constrained to be >= 0; not with a temperature.", False)

    def __post_init__(self) -> None:
        for field in ("samples", "dim", "weight_decay"):
            if hasattr(value := getattr(self, field), "tolist"):  # an array
                self._set(field, value.tolist())
        self._set("classes", integer("classes", self.classes, at_least=2))
        self._set("loss", _loss(self.loss, self.classes))
        self._set("samples", _samples(self.samples, self.classes, self.loss_name, self.multi_label))
        for name, declared in Model.__dataclass_fields__.items():
            if choices := declared.metadata["choices"]:
                self._set(name, _choice(name, getattr(self, name), choices))
        self._set("bias", _bias(self.bias))
        self._set("smoothing", penalty("smoothing", self.smoothing, zero=True))
        self._set("gamma", penalty("gamma", self.gamma, zero=True))
        self._set("rescale", _rescale(self.rescale))
        if self.temperature is not None:
            self._set("temperature", penalty("temperature", self.temperature))
        if not isinstance(self.nonnegative, bool):
            raise ValueError(f"nonnegative: got {self.nonnegative!r}; needs True or False")
        for reason in (*loss_mistakes(self.loss_name, vars(self)), *self._sphere_mistakes()):
            raise ValueError(reason)
        if self.temperature is None:
            usual = () if self.classifier == "etf" else WEIGHT_DECAY
            self._set("weight_decay", _weight_decay(usual if self.weight_decay is None else self.weight_decay))
            default = FEATURE_DECAY if self.feature_decay is None else self.feature_decay
            self._set("feature_decay", penalty("feature_decay", default))
        self._check_layers()

    def _sphere_mistakes(self) -> Iterator[str]:
        """What does not go with a temperature."""
        if self.temperature is None:
            return
        for field in ("weight_decay", "feature_decay"):
            if (value := getattr(self, field)) is not None:
                yield f"{field}: got {value} with temperature {self.temperature}; norms are fixed, leave it out"
        if self.loss != "ce":
            yield f"temperature: got {self.temperature} with loss {self.loss_name!r}; it goes with 'ce'"
        if self.bias != "none":
            yield f"bias: got {self.bias!r} with temperature {self.temperature}; needs 'none'"
        if self.nonnegative:
            yield f"nonnegative: got True with temperature {self.temperature}; it goes with penalised features"

    def _check_layers(self) -> None:
        if self.classifier == "free" and self.temperature is None and not self.weight_decays:
            raise ValueError("weight_decay: got no number; needs one per weight layer")
        self._set("dim", _dim(self.dim, self.depth))
        if self.temperature is not None and self.widths[0] < 2:
            raise ValueError(
                "dim: got 1 with a temperature; needs at least 2: in one dimension a sphere is two points"
            )
        if self.activation == "relu" and self.temperature is not None:
            raise ValueError("activation: got 'relu' with a temperature, which goes with one weight layer")
        if self.activation == "relu" and self.depth == 1:
            raise ValueError(
                "activation: got 'relu' with one weight layer; it stands between two: give weight_decay as (W_1, W_2)"
                + (", or (W_1,) with classifier 'etf'" if self.classifier == "etf" else "")
            )
        if self.classifier == "etf" and self.widths[-1] < self.classes - 1:
            raise ValueError(
                f"dim: got {self.widths[-1]} with classifier 'etf'; a simplex of {self.classes} classes needs "
                f"at least {self.classes - 1}"
            )

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def __hash__(self) -> int:
        return hash(repr(self))  # a mapping of samples has no hash of its own

    @property
    def weight_decays(self) -> tuple[float, ...]:
        """Penalties of the trained W_1, W_2, ..; none with a temperature."""
        return () if self.temperature is not None else tuple(self.weight_decay)  # type: ignore[arg-type]

    @property
    def decays(self) -> tuple[float, ...]:
        """Penalties of the free factors: features, W_1, W_2, ..; none with a temperature."""
        return () if self.feature_decay is None else (self.feature_decay, *self.weight_decays)

    @cached_property
    def sample_loss(self) -> SampleLoss:
        """The loss with its parameters."""
        return loss_of(self.loss, self) if isinstance(self.loss, str) else self.loss  # type: ignore[return-value]

    @property
    def loss_name(self) -> str:
        """Name of the loss, also of one that is given as an object."""
        return self.loss if isinstance(self.loss, str) else self.loss.name

    @property
    def depth(self) -> int:
        """Number of weight matrices, L, the classifier included."""
        return 1 if self.temperature is not None else len(self.weight_decays) + (self.classifier == "etf")

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of H_1, W_1 H_1, .., the last of which the classifier reads, (L,)."""
        return (self.dim,) * self.depth if isinstance(self.dim, int) else tuple(self.dim)

    @property
    def bias_decay(self) -> float | None:
        """Penalty of the bias, 0 when it is free, None when there is no bias."""
        if isinstance(self.bias, str):
            return {"none": None, "free": 0.0}[self.bias]
        return self.bias

    @property
    def multi_label(self) -> bool:
        """Whether samples have several labels, tags."""
        return (LOSSES[self.loss] if isinstance(self.loss, str) else self.loss).multi_label

    @cached_property
    def tag_sets(self) -> tuple[tuple[int, ...], ...]:
        """The labels of each kind of sample: ((0,), (1,), ..), with several labels followed by the larger sets."""
        sizes = sorted(self.samples) if isinstance(self.samples, Mapping) else [1]
        return tuple(tags for size in sizes for tags in combinations(range(self.classes), size))

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples per class, n_1 .. n_K; with several labels, per set of tags."""
        if isinstance(self.samples, Mapping):
            return tuple(self.samples[len(tags)] for tags in self.tag_sets)
        return (self.samples,) * self.classes if isinstance(self.samples, int) else tuple(self.samples)

    @property
    def num_samples(self) -> int:
        """N."""
        if isinstance(self.samples, Mapping):
            return sum(math.comb(self.classes, size) * count for size, count in self.samples.items())
        return sum(self.counts)

    @property
    def balanced(self) -> bool:
        """All classes have as many samples; with several labels, all sets of a size."""
        return self.multi_label or len(set(self.counts)) == 1

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the measured layers from the first; ``features`` is what the classifier reads."""
        hidden = [f"H{level}" for level in range(1, self.depth)]
        if self.activation == "relu":
            hidden = [name for level, h in enumerate(hidden, start=1) for name in (h, f"W{level}{h}")]
        return (*hidden, "features")


Declared = TypeVar("Declared", bound=Model)


def documented(model: type[Declared]) -> type[Declared]:
    """The class with the words of its fields in its docstring."""
    words = (f"{field.name}: {field.metadata['help']}" for field in dataclasses.fields(model))
    listed = [textwrap.fill(text, 110, initial_indent=" " * 8, subsequent_indent=" " * 12) for text in words]
    model.__doc__ = (model.__doc__ or "").replace("    Raises:", "\n".join(["    Args:", *listed, "", "    Raises:"]))
    return model


def _rescale(value: Any) -> tuple[float, float]:
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"rescale: got {value!r}; needs two numbers > 0, (k, M)")
    return penalty("rescale", value[0]), penalty("rescale", value[1])


def integer(field: str, value: Any, at_least: int) -> int:
    """The value of an argument that must be a whole number, ``at_least`` so large."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < at_least:
        raise ValueError(f"{field}: got {value!r}; needs an integer, at least {at_least}")
    return operator.index(value)


def _loss(value: Any, classes: int) -> str | SampleLoss:
    loss = value() if isinstance(value, type) and issubclass(value, SampleLoss) else value
    if not isinstance(loss, SampleLoss):
        if callable(value):
            raise ValueError(f"loss: got {value!r}; wrap a function as ncpipe.losses.from_function(function)")
        return _choice("loss", value, tuple(LOSSES))
    try:
        mistakes = list(own_loss_mistakes(loss, classes))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"loss: {loss.name!r} fails for random logits ({reason})") from error
    for mistake in mistakes:
        raise ValueError(f"loss: {loss.name!r} {mistake}")
    return loss


def _samples(value: Any, classes: int, loss: str, multi_label: bool) -> int | tuple[int, ...] | dict[int, int]:
    if isinstance(value, Mapping) != multi_label:
        kind = (
            "a mapping from number of tags to samples per set, as {1: 30, 2: 10}"
            if multi_label
            else "an integer, or one per class"
        )
        raise ValueError(f"samples: got {value!r} with loss {loss!r}; needs {kind}")
    if isinstance(value, Mapping):
        counts = {_multiplicity(m, classes): integer("samples", n, at_least=1) for m, n in value.items()}
        if 1 not in counts:
            raise ValueError("samples: got no multiplicity 1; needs samples of one tag, which define the classes")
        return counts
    if not isinstance(value, Sequence) or isinstance(value, str):
        return integer("samples", value, at_least=1)
    each = tuple(integer("samples", count, at_least=1) for count in value)
    if len(each) != classes:
        raise ValueError(f"samples: got {len(each)} numbers for {classes} classes; needs one per class")
    return each[0] if len(set(each)) == 1 else each


def _multiplicity(value: Any, classes: int) -> int:
    number = integer("samples", value, at_least=1)
    if number >= classes:
        raise ValueError(f"samples: got multiplicity {number}; needs 1 to {classes - 1}: all tags tell nothing")
    return number


def _dim(value: Any, depth: int) -> int | tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return integer("dim", value, at_least=1)
    widths = tuple(integer("dim", width, at_least=1) for width in value)
    if len(widths) != depth:
        raise ValueError(
            f"dim: got {len(widths)} widths for {depth} weight layers; needs one number, or one per weight layer "
            "(the number of penalties in weight_decay makes the depth)"
        )
    return widths[0] if len(set(widths)) == 1 else widths


def penalty(field: str, value: Any, *, zero: bool = False) -> float:
    """The value of an argument that must be a positive number, or, ``zero``, none below it."""
    needs = f"a finite number {'>= 0' if zero else '> 0'}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{field}: got {value!r}; needs {needs}") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{field}: got {number}; needs {needs}")
    if number and not SMALLEST <= number <= 1 / SMALLEST:
        raise ValueError(f"{field}: got {number}; needs {needs}, between {SMALLEST:g} and {1 / SMALLEST:g}")
    return number


def _weight_decay(value: Any) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    return tuple(penalty("weight_decay", number) for number in values)


def _bias(value: Any) -> str | float:
    if isinstance(value, str | bool) and value not in ("none", "free"):
        raise ValueError(f"bias: got {value!r}; needs 'none', 'free' or a penalty >= 0")
    return value if isinstance(value, str) else penalty("bias", value, zero=True) or "free"


def _choice(field: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{field}: got {value!r}; needs one of {', '.join(map(repr, known))}")
    return value
