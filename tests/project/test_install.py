"""What an installation gives, from wherever it is used."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_an_editable_install_is_found_in_the_folder_above_the_clone(tmp_path):
    clone, packages = tmp_path / "ncpipe", tmp_path / "packages"
    packages.mkdir()
    shutil.copytree(ROOT / "ncpipe", clone / "ncpipe", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    build = f"from setuptools import build_meta as b; b.build_editable({str(packages)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    shutil.unpack_archive(next(packages.glob("*.whl")), packages, "zip")
    # -I without -S: neither PYTHONPATH nor the folder of the tests, which hold another ncpipe
    look = (
        f"import site, sys; sys.path.insert(0, ''); site.addsitedir({str(packages)!r}); import ncpipe; ncpipe.measure"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", look], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_puts_the_target_before_the_config_file():
    command = ["make", "--dry-run", "run", "STUDY=studies/x.yaml", "TARGET=figures", "CORES=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "snakemake --cores 2 figures --configfile studies/x.yaml\n" in done.stdout
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "a target stands before --configfile" in told
