"""A project of a user's own by the commands of docs/own.md, run from the wheel without a clone."""

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
from typer.testing import CliRunner
from workplace import ROOT, planned_jobs

from ncpipe.cli.main import app
from ncpipe.settings.reading import read_config
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError

FILES = {".gitignore", "README.md", "Snakefile", "claims.py", "config.yaml", "mynet.py"}


def shown() -> list[str]:
    """The commands of the page."""
    text = (ROOT / "docs/own.md").read_text(encoding="utf-8").partition("\n## A project of your own\n")[2]
    return re.findall(r"^\$ (.*)$", text.partition("\n## ")[0], re.M)


def init(folder: Path) -> str:
    done = CliRunner().invoke(app, ["init", str(folder)])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_a_new_project_has_a_study_and_replaces_nothing(tmp_path, monkeypatch):
    assert init(tmp_path / "deep/mine").endswith(f"next: cd {tmp_path}/deep/mine && snakemake --cores all\n")
    folder = tmp_path / "deep/mine"
    assert {path.name for path in folder.iterdir()} == FILES | {"profiles"}
    monkeypatch.chdir(folder)
    study = Study(read_config(Path("config.yaml")))
    assert (len(study.networks), study.own_files) == (2, ["claims.py"])
    assert "workflow/profiles" not in Path("profiles/slurm/config.yaml").read_text()
    assert set((ROOT / "docs/own.md").read_text().split("`")) >= FILES
    for name in FILES - {"claims.py"}:
        Path(name).unlink()
    Path("claims.py").write_text("mine")
    with pytest.raises(UserError, match=r"mine has claims\.py, profiles/.* already; name another"):
        init(folder)
    assert Path("claims.py").read_text() == "mine"
    assert not Path("Snakefile").exists()
    with pytest.raises(UserError, match=r"claims\.py is a file; name a folder"):
        init(folder / "claims.py")


def installed(folder: Path) -> Path:
    """The wheel of this clone, unpacked."""
    for name in ("ncpipe", "snakemake_logger_plugin_ncpipe", "workflow"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "clone" / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "clone")
    build = f"from setuptools import build_meta as b; b.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=folder / "clone", check=True, capture_output=True)
    shutil.unpack_archive(next(folder.glob("*.whl")), folder / "installed", "zip")
    shutil.rmtree(folder / "clone")
    return folder / "installed"


@pytest.mark.thorough
def test_the_wheel_alone_runs_a_project(tmp_path):
    packages = installed(tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(packages), "PATH": path}

    def run(command: str, folder: Path) -> str:
        done = subprocess.run(
            command.split(), cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    install, make, enter, start = shown()
    assert install == 'pip install "ncpipe[pipeline]"'
    run(make, tmp_path)
    mine = tmp_path / enter.removeprefix("cd ")
    config = yaml.safe_load((mine / "config.yaml").read_text())
    config["networks"] |= {"sweep": {}, "base": config["networks"]["base"] | {"epochs": 3}}
    smaller = {"measure": {"epochs": 2}, "ufm": {"matched": []}, "tracking": {"enabled": False}, "figures": []}
    (mine / "config.yaml").write_text(yaml.safe_dump(config | smaller))
    said = run(f"{start} --show-failed-logs", mine)
    assert "Using workflow specific profile profiles/default" in said
    claims = pd.read_parquet(mine / "results/tables/claims.parquet")
    assert claims["claim_id"].tolist() == ["claims-collapse", "claims-learnt"]
    assert "My claims" in (mine / "results/report.html").read_text(encoding="utf-8")
    text = (mine / "claims.py").read_text()
    (mine / "claims.py").write_text(text.replace("below=0.1", "below=0.2"))
    assert planned_jobs(run(f"{start} --dry-run", mine)) == {"tables": 1, "report": 1}
