"""Settings of a network to train: classifier, loss, optimiser, schedule, augmentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ncpipe.data.settings import DatasetSpec
from ncpipe.losses import LOSSES, SampleLoss, loss_mistakes, loss_of
from ncpipe.networks.architectures import ModelSpec
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.settings.base import Count, NonNegative, Positive, Seed, Settings, log_spaced, matches_any
from ncpipe.settings.identity import canonical
from ncpipe.settings.registry import NameIn


class LossSpec(Settings):
    """Training loss, averaged over the samples."""

    name: Annotated[str, NameIn(LOSSES)]
    scaling: Literal["half", "mean"] = Field(
        "half",
        description="mse: 'half' is 1/(2N) sum |z-y|^2 (theory); 'mean' is torch.nn.MSELoss, 1/(NK) sum |z-y|^2.",
    )
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="label_smoothing: alpha, over all K.")
    gamma: NonNegative = Field(0.0, description="focal: the exponent.")
    rescale: tuple[Positive, Positive] = Field(
        (1.0, 1.0), description="mse: (k, M), weight and target of the true class."
    )

    @model_validator(mode="after")
    def _parameters_go_with_their_loss(self) -> LossSpec:
        for mistake in loss_mistakes(self.name, vars(self)):
            raise ValueError(mistake)
        return self

    @property
    def sample_loss(self) -> SampleLoss:
        """The loss of a sample, with its parameters."""
        return loss_of(self.name, self)


class OptimizerSpec(Settings):
    """The optimiser; weight decay adds ``weight_decay * w`` to the gradient (``adamw``: decoupled)."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="sgd only.")
    nesterov: bool = False
    weight_decay: NonNegative = 5e-4
    decay: Literal["all", "effective", "weights", "head"] = Field(
        "all",
        description="Decayed parameters: all; effective: all but those whose scale a BatchNorm after them takes away;"
        " weights: matrices only (no bias, no BatchNorm); head: those of the head only.",
    )
    head_weight_decay: NonNegative | None = Field(
        None, description="Weight decay of the head's parameters among them; null: weight_decay."
    )

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> OptimizerSpec:
        if self.name != "sgd" and (self.nesterov or self.momentum != 0.9):
            raise ValueError("'momentum' and 'nesterov' go with optimizer 'sgd' only")
        if self.nesterov and self.momentum == 0:
            raise ValueError("'nesterov' needs a momentum")
        return self

    @property
    def classifier_decay(self) -> float:
        """Weight decay of the classifier's weight and of the hidden layers of the head."""
        return self.weight_decay if self.head_weight_decay is None else self.head_weight_decay

    @property
    def bias_decay(self) -> float:
        """Weight decay of the classifier's bias."""
        return 0.0 if self.decay == "weights" else self.classifier_decay


class ScheduleSpec(Settings):
    """Learning rate against epochs."""

    name: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (1 / 3, 2 / 3), description="step: fractions of the run after which the rate is divided."
    )
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="step: the rate is multiplied by this.")
    warmup_epochs: Annotated[int, Field(ge=0)] = Field(0, description="Linear warm-up from zero.")


class TerminalSpec(Settings):
    """The end phase after the last epoch: L-BFGS on the objective over all images at once, in float64."""

    iterations: Count = Field(description="At most so many; the times of a run go on after its epochs.")
    tolerance: NonNegative = Field(
        1e-3, description="It ends where the gradient's norm is this share of that of the weight decay's gradient."
    )


class AugmentSpec(Settings):
    """Random changes of training images; off by default, as collapse protocols have it."""

    flip: bool = False
    crop: Annotated[int, Field(ge=0, le=32)] = Field(0, description="Pad by this many pixels, crop at random.")
    cutout: Annotated[int, Field(ge=0)] = Field(0, description="Side of a random square of zeros (pixels).")
    resized_crop: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Streamed sets: smallest share of the area of a random crop, resized to the image's side."
    )


class NetworkSpec(Settings):
    """One network to train: everything that decides its weights."""

    dataset: DatasetSpec
    model: ModelSpec
    head: HeadSpec = HeadSpec()
    loss: LossSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec = ScheduleSpec()
    augment: AugmentSpec = AugmentSpec()
    epochs: Count
    terminal: TerminalSpec | None = Field(None, description="The end phase after the last epoch; null: none.")
    test_every_epoch: bool = Field(
        True, description="Evaluate the test data after every epoch; false: after the declared measured epochs only."
    )
    batch_size: Count = 128
    precision: Literal["auto", "float32", "tf32", "bf16"] = Field(
        "auto",
        description="Of the backbone while training: bf16 where the device computes in it, else float32. Weights, the"
        " head and the loss are float32, and so is what is measured.",
    )
    gpus: Count = Field(1, description="Processes that share every batch, one GPU each (DistributedDataParallel).")
    seed: Seed = 0

    @model_validator(mode="after")
    def _warmup_is_shorter_than_the_run(self) -> NetworkSpec:
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(f"schedule.warmup_epochs must be below epochs ({self.epochs})")
        return self

    @model_validator(mode="after")
    def _terminal_phase_has_one_objective(self) -> NetworkSpec:
        if self.terminal is None:
            return self
        if self.optimizer.name == "adamw":
            raise ValueError("'terminal' minimises a penalised loss, and adamw's decoupled decay is no penalty")
        if self.augment != AugmentSpec():
            raise ValueError("'terminal' goes without augmentation, whose images are never twice the same")
        if self.gpus > 1:
            raise ValueError("'terminal' runs on one GPU: set gpus to 1")
        if self.optimizer.weight_decay == 0 or self.optimizer.classifier_decay == 0:
            raise ValueError("'terminal' needs a weight_decay: without one the loss has no minimum to reach")
        return self

    @model_validator(mode="after")
    def _data_goes_with_loss_and_augmentation(self) -> NetworkSpec:
        if self.dataset.multi_label != LOSSES[self.loss.name].multi_label:
            raise ValueError(
                "data of several labels ('pairs', 'several_labels') goes with a pick_all_labels loss, and only so"
            )
        if self.augment.resized_crop is not None and not self.dataset.stream:
            raise ValueError("augment.resized_crop goes with a streamed data set ('stream: true')")
        if self.gpus > self.batch_size:
            raise ValueError(f"batch_size ({self.batch_size}) must not be below gpus ({self.gpus})")
        return self

    def layers(self) -> list[str]:
        """Names of the layers in order; 'features' is what the classifier reads.

        With hidden layers in the head, their input is 'head_input' and all but the last are 'head1', 'head2', ...
        """
        names = self.model.layers()
        if not self.head.hidden:
            return names
        return [*names[:-1], "head_input", *(f"head{i}" for i in range(1, self.head.hidden)), "features"]

    @property
    def slug(self) -> str:
        bias = "bias" if self.head.bias else "nobias"
        loss = self.loss.name.replace("_", "-")
        return f"{self.dataset.slug}-{self.model.slug}{self.head.slug}-{loss}-{bias}-s{self.seed}"


@dataclass(frozen=True)
class NetworkRun:
    """One planned network with what the study measures in it."""

    id: str
    spec: NetworkSpec
    dataset_id: str
    epochs: tuple[int, ...]
    """Declared epochs, ascending; 0 is the initialisation. The first without training error is measured besides."""
    layers: tuple[str, ...]
    """Measured layers, by depth; the last is 'features'. Of a network whose layers are known once it is built, names
    and globs of them, which ``measured_layers`` resolves."""

    @property
    def most_times(self) -> int:
        """How many times are measured at most."""
        return len(self.epochs) + 1

    def params(self) -> dict[str, Any]:
        """The settings that decide about reruns of the training."""
        return {"network": canonical(self.spec), "epochs": list(self.epochs)}

    def measured(self, measure: Settings) -> dict[str, Any]:
        """The settings that decide about reruns of the forward passes."""
        others = {key: value for key, value in canonical(measure).items() if key not in ("layers", "epochs")}
        return {"layers": list(self.layers), "measure": others}

    @property
    def matched_id(self) -> str:
        """Name of the folder that holds the matched UFMs of this network."""
        return f"matched-{self.id}"


def measured_layers(wanted: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Those of a network's layers that are among the wanted names and globs, by depth."""
    patterns = tuple(wanted)
    return tuple(name for name in names if name in patterns or matches_any(name, patterns))


def measured_times(wanted: int | tuple[int, ...], spec: NetworkSpec) -> tuple[int, ...]:
    """Measured epochs, and after the last as many iterations of the end phase, log-spaced."""
    epochs = measured_epochs(wanted, spec.epochs)
    if spec.terminal is None:
        return epochs
    iterations = log_spaced(max(3, len(epochs)), spec.terminal.iterations)
    return (*epochs, *(spec.epochs + iteration for iteration in iterations if iteration))


def measured_epochs(wanted: int | tuple[int, ...], last: int) -> tuple[int, ...]:
    """Epochs that are measured: log-spaced for a number, 0, 1 and ``last`` always, else the listed up to ``last``."""
    if isinstance(wanted, int):
        return log_spaced(max(3, wanted), last)
    return tuple(sorted({last, *(epoch for epoch in wanted if epoch <= last)}))


class ComputeSpec(Settings):
    """How networks are computed. Nothing here takes part in an id: results agree to rounding."""

    compile: Literal["auto"] | bool = Field(
        "auto", description="torch.compile; auto: on a GPU, where the run is long enough to repay it."
    )
    ensemble: Literal["auto"] | Annotated[int, Field(ge=1, strict=True)] = Field(
        "auto",
        description="Seeds of one network trained as one stack; auto: up to 8 of narrow networks on a GPU.",
    )
    jobs_per_gpu: Count = Field(1, description="Jobs that share one GPU of a workstation.")
    deterministic: bool = Field(False, description="GPU: deterministic algorithms only, slower.")
