"""The section "Data" of docs/own.md: its files as they stand, and its numbers beside those of the built-in data."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from in_one_process import commands, ncpipe

from ncpipe.study.study import Study
from ncpipe.system.files import write_text

PAGE = Path(__file__).resolve().parents[2] / "docs/own.md"


def blocks() -> dict[str, str]:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Data\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", section, re.M | re.S))


def ran(config: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables of a study, without figures and report."""
    study = Study(config | {"figures": [], "tracking": {"enabled": False}, "ufm": {"matched": []}})
    write_text(file := study.layout.results / "study.json", study.config.model_dump_json())
    for command in commands(study, file):
        ncpipe(*command)
    return {name: pd.read_parquet(study.layout.tables / f"{name}.parquet") for name in ("runs", "collapse")}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Those of the page's script, in the working folder."""
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks()["digits.py"], "digits.py", "exec"), {})
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)  # the command `dataset` has one of its own


def test_own_arrays_give_the_numbers_of_the_built_in_set() -> None:
    arrays = np.load("mine.npz")
    scaled = {name: array / 255 if "images" in name else array.astype(str) for name, array in arrays.items()}
    np.savez("scaled.npz", **scaled)
    config = yaml.safe_load(blocks()["arrays.yaml"])
    own = config["datasets"]["base"]
    sets = [{"name": "digits"}, own, own | {"path": "scaled.npz"}]
    tables = ran(config | {"datasets": {"base": {}, "sweep": {"include": sets}}})
    values = tables["collapse"].merge(tables["runs"][["run_id", "dataset"]])
    by_set = values.pivot(columns="dataset", index=["split", "layer", "time", "metric"], values="value")
    assert len(by_set) > 200
    pd.testing.assert_series_equal(by_set["mine"], by_set["digits"], check_names=False, check_exact=True)
    pd.testing.assert_series_equal(by_set["scaled"], by_set["digits"], check_names=False, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "classes", "samples"), [("table", 10, [1438]), ("gaussians", 4, [400, 400])])
def test_vectors_run(name: str, classes: int, samples: list[int]) -> None:
    runs = ran(yaml.safe_load(blocks()[f"{name}.yaml"]))["runs"]
    assert runs["status"].tolist() == ["done"] * len(samples)
    assert (runs["classes"].iloc[0], runs["train_samples"].tolist()) == (classes, samples)
    assert runs["final_train_accuracy"].min() > 0.6
