"""What an installation gives, from wherever it is used."""

import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import ncpipe

ROOT = Path(__file__).resolve().parents[2]
MADE = ".git .venv* results .snakemake __pycache__ *.egg-info .*_cache .hypothesis build dist _site jupyter_execute"
NOT_SOURCE = shutil.ignore_patterns(*MADE.split())


def built(folder: Path, what: str, output: Path) -> Path:
    """A distribution of a folder, by the backend that pip calls."""
    build = f"from setuptools import build_meta as b; b.build_{what}({str(output)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    (made,) = output.glob("*.whl" if what == "wheel" else "*.tar.gz")
    return made


def test_an_editable_install_is_found_in_the_folder_above_the_clone(tmp_path):
    clone, packages = tmp_path / "ncpipe", tmp_path / "packages"
    packages.mkdir()
    shutil.copytree(ROOT / "ncpipe", clone / "ncpipe", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
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


def test_the_source_distribution_is_whole_and_makes_the_wheel(tmp_path):
    clone, unpacked = tmp_path / "clone", tmp_path / "unpacked"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=NOT_SOURCE)
    source = {str(path.relative_to(clone)) for path in clone.rglob("*") if path.is_file() and not path.is_symlink()}
    with tarfile.open(built(clone, "sdist", tmp_path)) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    assert source - {str(path.relative_to(folder)) for path in folder.rglob("*")} == set()
    with zipfile.ZipFile(built(folder, "wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (wheel.read(name).decode() for name in names if name.endswith("METADATA"))
    code = {name for name in source if name.startswith("ncpipe/") and name.endswith(".py")}
    assert code | {"ncpipe/py.typed", "ncpipe/workflow/rules/networks.smk", "ncpipe/__init__.pyi"} <= names
    assert not {name for name in names if name.startswith(("tests", "docs", "benchmarks"))}
    assert "## What a study is" in metadata


def test_the_page_of_an_index_has_no_relative_links():
    page = runpy.run_path(str(ROOT / "setup.py"))["index_page"]
    text = "![a picture](docs/a.png) [words](docs/b.md#c) [on the page](#top) [away](https://example.org)"
    assert page(text, None) == " words [on the page](#top) [away](https://example.org)"
    at_home = page(text, "https://example.org/ncpipe")
    assert "![a picture](https://example.org/ncpipe/raw/HEAD/docs/a.png)" in at_home
    assert "[words](https://example.org/ncpipe/blob/HEAD/docs/b.md#c)" in at_home
    assert not re.search(r"\]\((?!https?:|#)", page((ROOT / "README.md").read_text(encoding="utf-8"), None))


def test_the_version_stands_in_one_place_and_is_the_same_where_it_must_be_repeated():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {ncpipe.__version__}\n" in citation
    for name in ("workflow/Snakefile", "workflow/Containerfile", "workflow/profiles/kubernetes/config.yaml"):
        (tag,) = re.findall(r"/ncpipe:(\S+)", (ROOT / name).read_text(encoding="utf-8").replace('"', " "))[:1]
        assert tag == ncpipe.__version__, name


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)


def test_a_study_installs_no_tools_of_development():
    run, develop = pins("requirements.lock"), pins("requirements-dev.lock")
    assert run.items() <= develop.items()
    assert {"pytest", "mypy", "ruff", "playwright", "moto", "kubernetes", "boto3"} <= develop.keys() - run.keys()
    assert {"torch", "snakemake", "mlflow", "uv"} <= run.keys()


def packages():
    spec = importlib.util.spec_from_file_location("packages", ROOT / ".ci" / "packages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_uv_takes_packages_from_where_pip_is_configured_to():
    listed = """:env:.find-links='/wheels /more'
global.extra-index-url='https://a.example https://b.example'
global.find-links='/others'
global.index-url='https://index.example'
install.index-url='https://of-install.example'
"""
    assert packages().settings_of_pip(listed) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INDEX": "https://a.example https://b.example",
        "UV_DEFAULT_INDEX": "https://of-install.example",
    }


@pytest.mark.parametrize(("fails", "by"), [([], "uv"), (["uv==", " uv "], "pip")])
def test_where_uv_does_not_install_pip_does(monkeypatch, capsys, fails, by):
    module, called = packages(), []

    def run(command, **options):
        called.append(" ".join(map(str, command)))
        code = int(any(part in called[-1] for part in fails))
        return subprocess.CompletedProcess(command, code, stdout="", stderr="")

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert module.main("install", "--requirement", "some.lock") == 0
    assert ("-m uv pip install" in called[-1]) == (by == "uv")
    assert called[-1].endswith("--requirement some.lock")
    assert ("pip does" in capsys.readouterr().out) == (by == "pip")
