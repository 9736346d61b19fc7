"""The sections "A training loop" and "Checkpoints" of docs/own.md, as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from ncpipe.cli.main import app

PAGE = Path(__file__).resolve().parents[2] / "docs/own.md"


def blocks(section: str, language: str) -> list[str]:
    _, _, after = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")
    return re.findall(rf"^```{language}\n(.*?)^```$", after.partition("\n## ")[0], re.M | re.S)


def call(command: str) -> str:
    program, *words = shlex.split(command)
    assert program == "ncpipe"
    done = CliRunner().invoke(app, words)
    assert done.exception is None, done.output
    return done.output


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_training_loop(place):
    [loop] = blocks("A training loop", "python")
    exec(loop, {})
    [console] = blocks("A training loop", "console")
    query, figure, _, compare, *_ = console.splitlines()  # tests/recording has the others
    assert "my-net" in call(query)
    call(figure)
    assert Path("collapse.svg").exists()
    assert "nc1_pinv" in call(compare)
    runs = pd.read_parquet("results/mine/tables/runs.parquet")
    assert (runs["label"].tolist(), runs["seed"].tolist()) == (["my-net", "my-net"], [0, 1])


def test_checkpoints(place):
    network, checkpoints = blocks("Checkpoints", "python")
    Path("mynet.py").write_text(network)
    exec(checkpoints, {})
    [console] = blocks("Checkpoints", "console")
    record, report = console.splitlines()
    assert "weights are those under 'state_dict'" in call(record)
    assert report == "ncpipe report results/mine"
    collapse = pd.read_parquet("results/mine/tables/collapse.parquet")
    assert sorted(collapse["time"].unique()) == [1, 10, 100]
    assert set(collapse["layer"]) == {"body", "features"}
