"""The examples of docs/own.md, "One pass over the features"."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import ncpipe

PAGE = Path(__file__).resolve().parents[2] / "docs/own.md"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the first example leaves, and the second as text."""
    section = re.search(r"^## One pass over the features$(.*?)^## ", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert section is not None
    loop, module = re.findall(r"^```python\n(.*?)^```$", section[1], re.M | re.S)
    torch.manual_seed(0)
    found: dict[str, Any] = {"module": module}
    exec(loop, found)
    return found


def test_a_loop_of_ones_own_measures_every_epoch(names: dict[str, Any]) -> None:
    with torch.no_grad():
        features = names["body"](names["images"])
    expected = ncpipe.measure(features, names["labels"])["nc1_pinv"]
    assert names["history"][-1] == pytest.approx(expected, rel=1e-6)  # batches are multiplied otherwise, in float32
    assert names["history"][0] > names["history"][-1]


def test_lightning_logs_one_pass(names: dict[str, Any], tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    exec(names["module"], names)
    net, off = names["Net"](), {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **off)
    trainer.fit(net, names["loader"], names["loader"])
    logged = trainer.callback_metrics
    with torch.no_grad():
        features = net.body(names["images"])
    expected = ncpipe.measure(features, names["labels"], net.head.weight, net.head.bias)
    for name in ("nc1_pinv", "nc3_duality"):
        assert float(logged[f"collapse/{name}"]) == pytest.approx(expected[name], rel=1e-5)
    assert math.isnan(logged["collapse/accuracy"])
