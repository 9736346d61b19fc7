"""The example of docs/own.md for a network of one's own, run from its file and config as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from in_one_process import run_study

from ncpipe.records.writing import read_table
from ncpipe.settings.reading import read_config
from ncpipe.study.study import Study

PAGE = Path(__file__).resolve().parents[2] / "docs/own.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## A network\n")[1].split("\n## ")[0]
    [code] = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
    [config] = re.findall(r"^```yaml\n(.*?)^```$", section, re.M | re.S)
    (tmp_path / "mynet.py").write_text(code)
    (tmp_path / "config.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    assert len(Study.read(Path("config.yaml")).networks) == 2
    # the smaller one alone, and its tables: the workflow's other stages know nothing of what a network is
    whole = read_config(Path("config.yaml"))
    whole["networks"].pop("sweep")
    study = Study({**whole, "ufm": {"matched": []}, "figures": [], "tracking": {"enabled": False}})
    run_study(study)
    collapse = read_table(study.layout.tables / "collapse.parquet").to_pandas()
    assert [*collapse["layer"].unique()] == ["conv1", "norm1", "conv2", "features"]
    [run] = study.networks
    assert (study.layout.run(run) / "checkpoints/mynet.py").read_text() == code
