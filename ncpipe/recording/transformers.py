"""A callback of Hugging Face's Trainer that records a network while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ncpipe.recording.recorder import Recorder


class RecordEpochs(TrainerCallback):
    """Measures the model before training and after every ``every``-th epoch, of several processes in the first.

    Args:
        recorder: where to.
        loaders: 'train' and perhaps 'test', as ``Recorder.measure`` takes them: batches are mappings with 'labels'.
        every: epochs.
    """

    def __init__(self, recorder: Recorder, loaders: Mapping[str, Iterable[Any]], every: int = 1) -> None:
        self.recorder, self.loaders, self.every = recorder, loaders, every

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        self._measure(state, model)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        self._measure(state, model)

    def _measure(self, state: TrainerState, model: nn.Module) -> None:
        epoch = round(state.epoch or 0)
        if state.is_world_process_zero and epoch % self.every == 0:
            self.recorder.measure(model, self.loaders, epoch)
