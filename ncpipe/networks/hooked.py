"""Reading of an ordinary ``nn.Module`` by hooks: the outputs of its layers, what its classifier reads, its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncpipe.settings.base import nearest

Pooling = Literal["class_token", "token_mean", "position_mean", "flatten"]
LAST = "features"
"""Name of what the classifier reads."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Tolerance of logits against the classifier's product, over the largest: float32 may be computed as TF32."""


@contextmanager
def watching(
    model: nn.Module,
    outputs_of: Iterable[str] = (),
    left: Callable[[str, Any], None] = lambda name, output: None,
    inputs_of: Iterable[str] = (),
    entered: Callable[[str, Any], None] = lambda name, given: None,
) -> Iterator[None]:
    """Hooks that are there only within: ``left`` is told name and output of modules that end, ``entered`` name and
    first argument (None without one) of modules that begin."""
    with ExitStack() as stack:
        for name in outputs_of:
            hook = model.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: left(name, output)
            )
            stack.callback(hook.remove)
        for name in inputs_of:
            hook = model.get_submodule(name).register_forward_pre_hook(
                lambda _module, inputs, name=name: entered(name, inputs[0] if inputs else None)
            )
            stack.callback(hook.remove)
        yield


class Reading(NamedTuple):
    """What one forward pass gives."""

    layers: dict[str, Tensor]
    """Vectors (N, d) by layer in the order of execution; the last is 'features', what the classifier reads."""
    logits: Tensor
    """(N, K)"""


class ReadNetwork:
    """A network whose layers are read by hooks, which are there only while it is called.

    The first call finds the layers and the classifier, and checks these: ``classifier``, ``weight``, ``bias`` and
    ``layer_names`` are known from then on. Call it within ``evaluation()``. A wrapper of torch for several devices or
    compilation is looked through.

    Args:
        model: any module whose output is the logits (N, K), or has them as ``logits``.
        layers: names as in ``model.named_modules()``. Default: the children of the model that give a tensor of one
            row per sample and run once, before the classifier; of a child that holds the classifier, its children.
            A layer whose vectors are what the classifier reads is 'features'; another that has this name is
            'features.output'.
        classifier: name of the linear classifier. Default: the ``nn.Linear`` that runs last.
        pooling: how maps and tokens become vectors, see ``pooled``.

    Raises:
        ValueError: here or by the first call, in one line: a name that is none, a layer that gives no tensor,
            tokens without ``pooling``, a classifier whose product is not the model's output.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        classifier: str | None = None,
        pooling: Pooling | None = None,
    ) -> None:
        if pooling not in (None, *get_args(Pooling)):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        self.model, self.pooling = unwrapped(model), pooling
        self._modules = dict(self.model.named_modules())
        self._wanted = None if layers is None else dict.fromkeys(layers)
        for kind, name in [*(("layer", name) for name in layers or ()), ("classifier", classifier)]:
            if name is not None and name not in self._modules:
                known = [known for known in self._modules if known]
                raise ValueError(f"the model has no {kind} {name!r}; {nearest(name, known, 'its modules')}")
        self.classifier = classifier
        self.layer_names: tuple[str, ...] = ()
        self.read_modules: dict[str, str] = {}
        """Module -> name of the layer, without the last."""
        self.same_as_last: list[str] = []
        """Modules that would have been read, but give what the classifier reads, as they run."""

    @property
    def weight(self) -> Tensor:
        """The classifier's weight W (K, d)."""
        return self._linear.weight.detach()

    @property
    def bias(self) -> Tensor | None:
        """The classifier's bias b (K,)."""
        bias = getattr(self._linear, "bias", None)
        return None if bias is None else bias.detach()

    def reading(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias of the classifier for the layer that it reads, else None."""
        return (self.weight, self.bias) if layer == LAST else (None, None)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        held = next(self.model.parameters(), next(self.model.buffers(), None))
        return torch.device("cpu") if held is None else held.device

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """In evaluation mode and without gradients; then every module is in training mode or not as it was."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def __call__(self, inputs: Any) -> Reading:
        """Vectors and logits of a batch: a tensor, or a mapping of arguments; moved to the model's device."""
        if not self.layer_names:
            return self._find(inputs)
        assert self.classifier is not None
        outputs, (features, logits) = self._forward(inputs, self.read_modules, [self.classifier])
        vectors = {self.read_modules[module]: output for module, output, _ in outputs if isinstance(output, Tensor)}
        if not len(outputs) == len(vectors) == len(self.read_modules):
            raise ValueError("the model runs other layers for this batch than for the first")
        return Reading({**vectors, LAST: features[self.classifier][0]}, logits)

    @property
    def _linear(self) -> Any:
        assert self.classifier is not None, "read a batch first"
        return self._modules[self.classifier]

    # --- the first call ---------------------------------------------------------------------------

    def _find(self, inputs: Any) -> Reading:
        """Read a first batch with hooks on all modules, and settle what is read from then on."""
        linear = [name for name, module in self._modules.items() if isinstance(module, nn.Linear)]
        watched = linear if self.classifier is None else [self.classifier]
        outputs, (read, logits) = self._forward(inputs, self._modules, watched)
        if not read:
            which = "no nn.Linear" if self.classifier is None else f"the classifier {self.classifier!r} never"
            raise ValueError(f"{which} runs in the model's forward pass; name its linear 'classifier'")
        self.classifier = self.classifier or [*read][-1]
        features = self._checked(read[self.classifier], logits)
        order = [name for name, _, _ in outputs]
        before = outputs[: order.index(self.classifier)]
        wanted = self._children(before) if self._wanted is None else [*self._wanted]
        vectors = self._vectors(wanted, before, order, len(logits))
        rounding = 8 * torch.finfo(features.dtype).eps  # of a mean of maps by another kernel
        while vectors and _close(vectors[last := [*vectors][-1]], features, rounding):
            del vectors[last]
            self.same_as_last.insert(0, last)
        names = {name: f"{LAST}.output" if name == LAST else name for name in vectors}
        self.read_modules, self.layer_names = names, (*names.values(), LAST)
        return Reading({**dict(zip(names.values(), vectors.values())), LAST: features}, logits)

    def _children(self, before: list[Output]) -> list[str]:
        """Children, and children of what holds the classifier, of which each runs once and gives rows of numbers."""
        assert self.classifier is not None
        runs = [name for name, _, _ in before]
        found = []
        for name, output, _ in before:
            parent = name.rpartition(".")[0]
            is_child = not parent or f"{self.classifier}.".startswith(f"{parent}.")
            if is_child and runs.count(name) == 1 and not (isinstance(output, str) and output in SKIPPED):
                found.append(name)
        return found

    def _vectors(self, wanted: list[str], before: list[Output], order: list[str], rows: int) -> dict[str, Tensor]:
        """The vectors of layers, in the order of execution."""
        found: dict[str, Tensor] = {}
        ran = [name for name, _, _ in before]
        for name in wanted:
            if name not in ran and name in order:
                raise ValueError(f"layer {name!r} ends with or after the classifier {self.classifier!r}: omit it")
            if ran.count(name) != 1:
                raise ValueError(f"layer {name!r} runs {ran.count(name)} times in a forward pass, it must run once")
        for name, output, shape in before:
            if name in wanted and isinstance(output, str):
                raise ValueError(f"layer {name!r} {output}")
            if name in wanted and not isinstance(output, str):
                if len(output) == rows:
                    found[name] = output
                elif self._wanted is not None:
                    raise ValueError(f"layer {name!r} gives the shape {shape}, no row for each of {rows} samples")
        return found

    def _checked(self, runs: list[Tensor], logits: Tensor) -> Tensor:
        """What the classifier reads, where its product with the weight is the model's output."""
        name, linear = self.classifier, self._linear
        weight = getattr(linear, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise ValueError(f"the classifier {name!r} is a {type(linear).__name__}, it must be linear (nn.Linear)")
        if len(runs) != 1:
            raise ValueError(f"the classifier {name!r} runs {len(runs)} times in a forward pass, it must run once")
        features = runs[0]
        if features.ndim != 2 or features.shape[1] != weight.shape[1] or len(features) != len(logits):
            raise ValueError(
                f"the classifier {name!r} reads the shape {tuple(features.shape)}, no vector a sample; pool before it"
            )
        bias = getattr(linear, "bias", None)
        product = F.linear(features.double(), weight.double(), None if bias is None else bias.double())
        if not _close(logits, product, TOLERANCE.get(logits.dtype, 5e-2)):
            raise ValueError(
                f"the model's output {tuple(logits.shape)} is not that of its classifier {name!r}, W h + b"
                f" {tuple(product.shape)}: name the classifier, and return its logits as they are,"
                " no softmax of them"
            )
        return features

    # --- one forward pass -------------------------------------------------------------------------

    def _forward(
        self, inputs: Any, read: Mapping[str, Any], classifiers: Sequence[str]
    ) -> tuple[list[Output], tuple[dict[str, list[Tensor]], Tensor]]:
        """Outputs of modules in the order in which they end; inputs of classifiers, and the logits."""
        outputs: list[Output] = []
        entered: dict[str, list[Tensor]] = {}

        def left(name: str, output: Any) -> None:
            # at once, since the next layer may change it in place
            shape = tuple(output.shape) if isinstance(output, Tensor) else ()
            outputs.append((name, _pooled_or_why(output, self.pooling), shape))

        def reads(name: str, given: Any) -> None:
            if isinstance(given, Tensor):
                runs = entered.pop(name, [])  # last in the order is what ran last
                entered[name] = [*runs, given.clone()]

        with watching(self.model, read, left, classifiers, reads):
            output = self.model(**inputs) if isinstance(inputs, Mapping) else self.model(inputs)
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
            raise ValueError(f"the model must return logits (N, K), it returns {found}")
        return outputs, (entered, logits)


Output = tuple[str, Tensor | str, tuple[int, ...]]
"""Name of a module, vectors of its output or why it has none, and its shape."""
NO_TENSOR = "gives no tensor"
NO_ROWS = "gives no row of numbers for a sample"
SKIPPED = (NO_TENSOR, NO_ROWS)


def pooled(output: Tensor, pooling: Pooling | None = None) -> Tensor:
    """Vectors (N, d) of a layer's output, which they share no memory with.

    Maps (N, c, h, w) are averaged over their positions, to (N, c), or flattened. Of (N, m, n) nobody can see what it
    is: 'class_token' takes the first of m tokens, 'token_mean' their mean, 'position_mean' the mean over n positions
    of m channels.

    Raises ``ValueError`` for (N, m, n) without ``pooling``.
    """
    if pooling == "flatten" or output.ndim == 2:
        return output.flatten(1).clone()
    if output.ndim > 3:
        return output.flatten(2).mean(dim=2)
    if pooling is None:
        raise ValueError(
            f"gives the shape {tuple(output.shape)}, tokens or positions: say by 'pooling' whether it is class_token,"
            " token_mean, position_mean or flatten"
        )
    return output[:, 0].clone() if pooling == "class_token" else output.mean(dim=1 if pooling == "token_mean" else 2)


def _pooled_or_why(output: Any, pooling: Pooling | None) -> Tensor | str:
    if not isinstance(output, Tensor):
        return NO_TENSOR
    if output.ndim < 2 or not output.is_floating_point():
        return NO_ROWS
    try:
        return pooled(output, pooling)
    except ValueError as error:
        return str(error)


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether all values are as far apart as ``tolerance`` times the largest at most."""
    if one.shape != other.shape:
        return False
    largest = float(other.abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=0, atol=tolerance * largest, equal_nan=True)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module in torch's wrappers for several devices and for compilation."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
