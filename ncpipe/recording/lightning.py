"""A callback of Lightning that records a network while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl

from ncpipe.recording.recorder import Recorder


class RecordEpochs(pl.Callback):
    """Measures the module before training and after every ``every``-th epoch, of several processes in the first.

    Args:
        recorder: where to.
        loaders: 'train' and perhaps 'test', as ``Recorder.measure`` takes them; not those of the trainer, which
            shuffle and augment.
        every: epochs.
    """

    def __init__(self, recorder: Recorder, loaders: Mapping[str, Iterable[Any]], every: int = 1) -> None:
        self.recorder, self.loaders, self.every = recorder, loaders, every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure(trainer, pl_module, trainer.current_epoch + 1)

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule, epoch: int) -> None:
        if trainer.is_global_zero and epoch % self.every == 0:
            self.recorder.measure(module, self.loaders, epoch)
