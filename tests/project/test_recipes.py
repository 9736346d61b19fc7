"""The recipes of docs/architecture.md: each file is written into a copy of the package and used by one study."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/architecture.md"
STUDY = {
    "study": {"name": "recipes"},
    "datasets": {"base": {"name": "blobs", "samples_per_class": 20}},
    "networks": {
        "base": {
            "model": {"name": "single"},
            "loss": {"name": "bce"},
            "optimizer": {"lr": 0.05},
            "epochs": 2,
        }
    },
    "ufm": {
        "base": {"classes": 3, "samples": 4, "dim": 6, "loss": "bce", "solver": {"name": "conjugate_gradients"}},
        "matched": [],
    },
    "figures": ["widths", {"name": "collapse_curves", "metrics": ["radius"]}],
    "claims": ["mine2026"],
    "tracking": {"enabled": False},
}


def recipes() -> dict[str, str]:
    blocks = re.findall(r"^```python\n# (ncpipe/\S+\.py)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return dict(blocks)


@pytest.mark.slow
def test_every_recipe_works_in_one_study(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ncpipe", tmp_path / "ncpipe", ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in recipes().items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "recipes.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    code = "from pathlib import Path; from in_one_process import run_study; from ncpipe.study.study import Study;"
    code += "run_study(Study.read(Path('recipes.yaml')))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tables = tmp_path / "results/tables"
    [network] = pd.read_parquet(tables / "runs.parquet").query("kind == 'network'").to_dict("records")
    assert (network["model"], network["loss"], network["dataset"], network["status"]) == (
        "single",
        "bce",
        "blobs",
        "done",
    )
    [fit] = pd.read_parquet(tables / "ufm.parquet").to_dict("records")
    assert (fit["solver"], fit["loss"]) == ("conjugate_gradients", "bce")
    assert pd.isna(fit["optimum"])
    assert fit["gradient_norm"] < 1e-3
    assert pd.read_parquet(tables / "claims.parquet")["claim_id"].tolist() == ["mine2026-1"]
    radius = pd.read_parquet(tables / "collapse.parquet").query("metric == 'radius'")
    assert radius["reason"].isna().all()
    assert set(radius["source"]) == {"net", "ufm"}
    assert (radius["value"] > 0).any()
    assert (tmp_path / "results/figures/collapse_curves.svg").stat().st_size
    report = (tmp_path / "results/report.html").read_text(encoding="utf-8")
    assert "Networks collapse." in report
    assert "Number of parameters of the networks." in report


def test_there_are_seven_recipes() -> None:
    assert len(recipes()) == 7


@pytest.mark.parametrize("name", recipes())
def test_recipes_are_short(name: str) -> None:
    assert len([line for line in recipes()[name].splitlines() if line]) <= 18
