"""The callbacks with the libraries themselves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ncpipe import Recorder


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.arange(24) % 3
    return torch.randn(3, 4)[labels] + 0.1 * torch.randn(24, 4), labels


def epochs(results: Path) -> list[int]:
    frame = pd.read_parquet(results / "tables/collapse.parquet")
    assert {"nc1_pinv", "loss"} <= set(frame["metric"])
    return sorted(frame["time"].unique())


def test_lightning(tmp_path):
    pl = pytest.importorskip("lightning.pytorch")
    from ncpipe.recording.lightning import RecordEpochs

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.body(x))

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5)

    train = DataLoader(TensorDataset(*data()), batch_size=8)
    callback = RecordEpochs(Recorder(tmp_path / "r", "lit", loss="ce"), {"train": train, "test": train}, every=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    module = Module()
    pl.Trainer(max_epochs=4, callbacks=[callback], enable_model_summary=False, **quiet).fit(module, train)
    assert epochs(tmp_path / "r") == [0, 2, 4]
    assert module.fc.weight.requires_grad
    losses = pd.read_parquet(tmp_path / "r/tables/history.parquet").query("quantity == 'train_loss'")["value"]
    assert losses.is_monotonic_decreasing


def test_transformers(tmp_path):
    hf = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from ncpipe.recording.transformers import RecordEpochs

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = hf.BertForSequenceClassification(hf.BertConfig(vocab_size=12, num_labels=3, **sizes))
    rows = [{"input_ids": torch.tensor([c, 3 + i % 9]), "labels": c} for i in range(4) for c in range(3)]
    loader = DataLoader(rows, batch_size=5, collate_fn=hf.default_data_collator)
    recorder = Recorder(tmp_path / "r", "bert", classifier="classifier", loss="ce", pooling="class_token")
    arguments = hf.TrainingArguments(
        tmp_path / "out", num_train_epochs=2, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    callback = RecordEpochs(recorder, {"train": loader})
    hf.Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    assert epochs(tmp_path / "r") == [0, 1, 2]
