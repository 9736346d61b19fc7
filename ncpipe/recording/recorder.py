"""``ncpipe.Recorder``: any training loop recorded into the tables of a study."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from ncpipe.collapse import LayerStatistics, Moment, Trace
from ncpipe.networks.hooked import LAST, Pooling, Reading, ReadNetwork
from ncpipe.networks.measure_model import read_statistics
from ncpipe.settings.base import Name, Settings
from ncpipe.settings.messages import validated
from ncpipe.study.layout import Layout
from ncpipe.system.errors import UserError
from ncpipe.system.provenance import origin
from ncpipe.training.computation import device_kind
from ncpipe.training.losses import mean_loss
from ncpipe.training.settings import LossSpec

Loss = Callable[[Tensor, Tensor], Tensor]
Measured = dict[str, dict[str, float]]
"""By split the metrics of what the classifier reads."""
NO_DATA_SET = "own data"
"""Name of the data set where the settings have none."""


class _Run(Settings):
    run: Name


class Recorder:
    """What writes the measurements of a network into the tables of a folder while your loop trains it.

    Every call of ``measure`` adds an epoch to the tables ``runs``, ``history``, ``collapse``, ``grams`` and
    ``timings`` in ``results/tables``, each of which is whole at any moment. The same name goes on with the same run,
    and an epoch that it has is replaced. Any number of runs and processes may share a folder. With several processes
    for one network (DDP) only one of them records.

    Args:
        results: the folder; made where it is missing.
        run: name of the run, letters, digits, '-' and '_'.
        label: name in legends, by default that of the run; runs of one label are seeds of it, told apart by
            ``settings['seed']``. Settings that vary among the runs of a label are added to it.
        settings: what was set, in plain values. Those named as a column of the table ``runs`` fill it: ``dataset``,
            ``loss``, ``learning_rate``, ``weight_decay``, ``batch_size``, ``epochs``, ``seed``, ..
        loss: mean loss of logits (n, K) and labels (n,), as ``torch.nn.functional.cross_entropy``, or a name that a
            study has, as 'ce' and 'mse'; without it no loss is measured.
        layers, classifier, pooling: what is read and how, as in ``ncpipe.measure_model``.

    Raises:
        UserError: in one line: the folder is of a study, or the run had other settings; by ``measure``, the network
            cannot be read so, or gives values that are not finite.
    """

    def __init__(
        self,
        results: Path | str,
        run: str,
        *,
        label: str | None = None,
        settings: Mapping[str, Any] | None = None,
        loss: Loss | str | None = None,
        layers: Sequence[str] | None = None,
        classifier: str | None = None,
        pooling: Pooling | None = None,
    ) -> None:
        self.layout, self.run = Layout(Path(results)), validated(_Run, {"run": run}, "Recorder").run
        if self.run.startswith("study-"):
            raise UserError(f"Recorder: a run must not be called {run!r}: in MLflow that is the name of a study")
        named = {"loss": loss} if isinstance(loss, str) else {}
        self.label, self.loss = label or run, mean_of(loss) if isinstance(loss, str) else loss
        self.settings: dict[str, Any] = json.loads(json.dumps({**named, **(settings or {})}, default=str))
        _folder().check(self.layout, self.run, self.settings)
        self.layers, self.classifier, self.pooling = layers, classifier, pooling

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open: what was measured is on disk."""

    def measure(
        self, model: nn.Module, loaders: Mapping[str, Iterable[Any]], epoch: int, **history: float
    ) -> Measured:
        """Measure a network in evaluation mode, and write what was found as that of ``epoch``.

        Args:
            model: any module that returns logits (N, K); left as it was.
            loaders: 'train', and perhaps 'test': batches as ``ncpipe.measure_model`` takes them, not augmented.
            epoch: 0 is before training.
            history: further quantities of this epoch for the table ``history``, as ``learning_rate=0.1``. By default
                it has ``train_loss``, ``train_accuracy``, ``test_loss`` and ``test_accuracy``, as measured; those of
                your loop take their place.

        Returns:
            By split the metrics of the features that the classifier reads, also ``loss`` where there is one.
        """
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise UserError(f"epoch must be a whole number from 0 on, got {epoch!r}")
        for split in loaders:
            if split not in ("train", "test"):
                raise UserError(f"loaders has {split!r}; the tables know 'train' and 'test'")
        if "train" not in loaders:
            raise UserError("loaders has no 'train': what is measured of the test split needs its class means")
        try:
            network = ReadNetwork(model, self.layers, self.classifier, self.pooling)
            trace = self._trace(network, loaders, epoch)
        except ValueError as error:
            raise UserError(f"{self.run}, epoch {epoch}: {error}") from None
        folder = _folder()
        rows = list(folder.collapse_rows("net", self.run, trace))
        measured = {split: {r["metric"]: r["value"] for r in rows if r["split"] == split and r["layer"] == LAST}
                    for split in loaders}  # fmt: skip
        found = {f"{split}_{name}": measured[split][name] for split in ("train", "test") if split in loaders
                 for name in ("loss", "accuracy") if name in measured[split]}  # fmt: skip
        at = {"source": "net", "run_id": self.run, "time": epoch}
        tables = {
            "collapse": rows,
            "grams": folder.gram_rows("net", self.run, trace),
            "history": [{**at, "quantity": name, "value": float(value)} for name, value in (found | history).items()],
            "timings": [{"run_id": self.run, "stage": "train", "time": epoch, "finished_at": datetime.now(UTC)}],
        }
        folder.add_epoch(self.layout, self.run, self._about(network, trace, epoch), tables, epoch)
        return measured

    def _trace(self, network: ReadNetwork, loaders: Mapping[str, Iterable[Any]], epoch: int) -> Trace:
        """Statistics of all layers and splits at one time, the training split first: others need its means."""
        found: dict[str, dict[str, LayerStatistics]] = {}
        losses: dict[str, float] = {}
        for split in sorted(loaders, reverse=True):
            means = {layer: s.means for layer, s in found["train"].items()} if split == "test" else None
            total = [0.0, 0]

            def seen(reading: Reading, labels: Tensor, total: list[float] = total) -> None:
                if self.loss is not None:
                    total[0] += float(self.loss(reading.logits, labels)) * len(labels)
                    total[1] += len(labels)

            found[split] = read_statistics(network, loaders[split], means, seen=seen)
            absent = (found["train"][LAST].counts == 0).nonzero()
            if "test" in loaders and len(absent):
                missing = f"no training sample of class {int(absent[0])} of {len(network.weight)}"
                raise ValueError(f"{missing}: what is measured of 'test' needs its mean; leave that split out")
            losses |= {split: total[0] / total[1]} if self.loss is not None else {}
        trace = Trace(network.layer_names)
        trace.heads[epoch] = network.weight.double(), None if network.bias is None else network.bias.double()
        for split, layers in found.items():
            trace.statistics |= {Moment(epoch, layer, split): s for layer, s in layers.items()}
            trace.scalars[epoch, split] = {"loss": losses[split]} if split in losses else {}
        return trace

    def _about(self, network: ReadNetwork, trace: Trace, epoch: int) -> dict[str, Any]:
        """The record of the run."""
        counts = trace.statistics[Moment(epoch, LAST)].counts
        columns = {
            "dataset": NO_DATA_SET,
            "model": type(network.model).__name__,
            "bias": "no" if network.bias is None else "yes",
            "classes": len(counts),
            "train_samples": int(counts.sum()),
            "parameters": sum(p.numel() for p in network.model.parameters() if p.requires_grad),
            "device": device_kind(network.device),
        }
        about = {"label": self.label, "settings": self.settings, "layers": list(trace.layers), "columns": columns}
        return about | {"provenance": origin(network.device)}


def _folder() -> Any:
    """What writes the folder: it needs more than the library."""
    try:
        from ncpipe.recording import folder
    except ModuleNotFoundError as error:
        raise UserError(f"ncpipe.Recorder needs {error.name}: pip install 'ncpipe[pipeline]'") from None
    return folder


def mean_of(name: str) -> Loss:
    """The mean loss of that name, as studies have it."""
    spec = validated(LossSpec, {"name": name}, "loss")
    if spec.sample_loss.multi_label:
        raise UserError(f"loss: {name!r} is of several labels a sample, a recorded run has one; take 'ce' or 'mse'")
    return lambda logits, labels: mean_loss(spec, logits, labels)
