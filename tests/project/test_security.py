"""The promises of docs/security.md: what a file, a name or a config of another person cannot do, and where no secret
stands."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from synthetic_tables import CLAIM, MadeUp
from typer.testing import CliRunner

from ncpipe.cli.foreign import read_arrays
from ncpipe.cli.main import app
from ncpipe.compare import compare
from ncpipe.data import imagefolder, prepare
from ncpipe.data.settings import DatasetSpec
from ncpipe.records.schemas import CLAIMS
from ncpipe.records.writing import write_rows
from ncpipe.report import write_report
from ncpipe.report.compare_page import write_compare_page
from ncpipe.study.config import Config, StudyInfo
from ncpipe.study.study import Study
from ncpipe.system.credentials import has_password, redacted
from ncpipe.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "<script>alert(1)</script>"
UFM = {"classes": 3, "samples": 4, "dim": 5, "weight_decay": 5e-3, "feature_decay": 1e-3, "solver": {"name": "lbfgs"}}


class Bomb:
    """An object whose pickle makes a folder where it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.target,)


# --- files of others -------------------------------------------------------------------------------


def test_the_package_calls_nothing_that_runs_what_it_reads() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "joblib"}
    calls = {"eval", "exec", "os.system", "os.popen", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"}
    for path in (ROOT / "ncpipe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not forbidden & {*names, getattr(node, "module", None)}, path
            if isinstance(node, ast.Call):
                called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                safe = called == "yaml.load" and ast.unparse(node.args[1]) == "_StrictLoader"  # of the safe loader
                safe |= called == "exec" and path == ROOT / "ncpipe/settings/source.py"  # a user's own network
                safe |= called == "torch.load" and given.get("weights_only") == "True"
                assert safe or called not in calls, f"{path}: {called}"
                assert given.get("shell", "False") == "False", path
                assert called != "np.load" or given.get("allow_pickle") == "False", path


def test_a_pickle_in_the_place_of_cifar_is_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "data/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(UserError, match="cifar10"):
        prepare(DatasetSpec(name="cifar10"), tmp_path / "out", [tmp_path / "data"])
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_in_an_npz_is_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.array([Bomb(tmp_path / "exploded")], dtype=object), labels=np.zeros(1))
    with pytest.raises(UserError, match=r"a\.npz"):
        read_arrays(tmp_path / "a.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "text",
    [
        "study: !!python/object/apply:os.mkdir [TARGET]",
        # Snakemake would run it: its templates are Python
        "__use_yte__: true\n?__import__('os').mkdir('TARGET'):\n  study: {name: x}",
    ],
)
def test_a_config_runs_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text.replace("TARGET", str(tmp_path / "exploded")))
    with pytest.raises(UserError):
        Study.read(tmp_path / "study.yaml")
    assert not (tmp_path / "exploded").exists()


def zip_of(path: Path, names: list[str], content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagefolder, "LARGEST_IMAGE", 2**20)
    names = [f"{split}/{label}/a.png" for split in ("train", "test") for label in "ab"]
    path = zip_of(tmp_path / "images.zip", names, bytes(2**20 + 1))
    assert path.stat().st_size < 2**14
    with pytest.raises(UserError, match="unpacks to more than 1 MiB"):
        prepare(DatasetSpec(name="imagefolder", path=str(path), image_size=8), tmp_path / "out")


def test_a_zip_writes_nothing_outside(tmp_path: Path) -> None:
    names = [f"{split}/{label}/a.png" for split in ("train", "test") for label in ("..", "x")]
    path = zip_of(tmp_path / "images.zip", [*names, "../../escaped.png"], b"no image")
    with pytest.raises(UserError):
        prepare(DatasetSpec(name="imagefolder", path=str(path), image_size=8), tmp_path / "deep/down/out")
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {"images.zip"}


# --- names and paths -------------------------------------------------------------------------------


def ufm_study(results: str = "results", **parts: Any) -> dict[str, Any]:
    return {"study": {"name": "small", "results": results}, "ufm": {"base": UFM}, **parts}


@pytest.mark.parametrize(
    "results",
    ["", "my results", "a;touch b", "$(touch b)", "`touch b`", "a|b", "a>b", "a&b", "-rf", "~/a", "{run}", "a'b",
     'a"b', "a\nb", "a\\b", "a*", "a\x00b"],
)  # fmt: skip
def test_a_results_folder_that_a_shell_would_read_is_refused(results: str) -> None:
    with pytest.raises(UserError, match=r"study\.results: "):
        Study(ufm_study(results))


@pytest.mark.parametrize(
    "results", ["results", "/scratch/me/run-1", "../x/a_b.c", "results/größe", "s3:/b/a@1,2=3%+"]
)
def test_ordinary_results_folders_are_taken(results: str) -> None:
    assert str(Study(ufm_study(results)).layout.results) == results


def test_shell_commands_hold_only_what_needs_no_quotes() -> None:
    """Paths below the checked results folder, constrained wildcards, numbers; all else is quoted."""
    plain = r"params\.(study|claims|results)|wildcards\.(dataset|run|batch|figure|scale)|log|threads|output(\.\w+)?"
    plain += r"|input\.statistics"
    found = 0
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        for command in re.findall(r"shell:\n((?:        \".*\"\n)+)", text):
            for name in re.findall(r"(?<!\{)\{([^{}]+)\}", command):
                found += 1
                assert name.endswith(":q") or re.fullmatch(plain, name), f"{path.name}: {name}"
    assert found > 30


@pytest.mark.parametrize(
    "changes",
    [
        {"study": {"name": "../x"}},
        {"study": {"name": "a b"}},
        {"scale": "../x"},
        {"figures": [{"name": "ufm_phase", "file": "../x"}]},
        {"figures": ["../x"]},
        {"datasets": {"base": {"name": "../mnist"}}, "networks": {"base": {"model": {"name": "mlp"}}}},
        {"datasets": {"base": {"name": "digits"}},
         "networks": {"base": {"model": {"name": "timm", "architecture": "hf-hub:someone/model"}, "epochs": 1,
                               "loss": {"name": "ce"}}}},
    ],
)  # fmt: skip
def test_names_that_are_paths_are_refused(changes: dict[str, Any]) -> None:
    study = Study(ufm_study())
    assert study.problems
    with pytest.raises(UserError):
        Study(ufm_study(**changes))


@pytest.mark.parametrize("command", ["dataset", "train", "features", "fit", "match", "continual"])
def test_ids_on_the_command_line_are_looked_up(tmp_path: Path, command: str) -> None:
    (tmp_path / "study.json").write_text(json.dumps(ufm_study(str(tmp_path / "results"))))
    done = CliRunner().invoke(app, [command, str(tmp_path / "study.json"), "../../escaped"])
    assert isinstance(done.exception, UserError)
    assert "has no" in str(done.exception)
    assert [file.name for file in tmp_path.rglob("*")] == ["study.json"]


def test_artifacts_stay_in_the_results_folder(tmp_path: Path, empty_store: Path) -> None:
    from mlflow import MlflowClient

    from ncpipe.study.layout import Layout
    from ncpipe.tracking.experiment import open_experiment

    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    uri, layout = f"sqlite:///{tmp_path / 'mlflow.db'}", Layout(tmp_path / "results")
    for name in ("../../../escaped", "/escaped", "a study"):
        config = Config.model_validate(ufm_study(str(tmp_path / "results"), tracking={"experiment": name}))
        place = MlflowClient(uri).get_experiment(open_experiment(uri, config, layout)).artifact_location
        assert Path(place.removeprefix("file://")).resolve().is_relative_to(layout.mlflow.resolve() / "artifacts")


# --- pages -------------------------------------------------------------------------------------------


def test_pages_show_markup_as_text(tmp_path: Path) -> None:
    labels = (f"{SCRIPT} MSE no bias", "mlp CE bias")
    for name in "ab":
        tables = MadeUp(labels=labels).write(tmp_path / name / "tables")
        metadata = {"study": SCRIPT, "scale": "", "git_commit": SCRIPT}
        write_rows(tables / "claims.parquet", CLAIMS, [CLAIM | {"statement": SCRIPT, "data": SCRIPT}], metadata)
    info = StudyInfo(name="small", title=SCRIPT, description=SCRIPT)
    write_report(info, tmp_path / "a/tables", {}, tmp_path / "report.html", mlflow_view=f'"{SCRIPT}')
    write_compare_page(compare(str(tmp_path / "a"), str(tmp_path / "b")), tmp_path / "compare.html")
    for page in ("report.html", "compare.html"):
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert SCRIPT not in text
    assert "&lt;script&gt;alert(1)" in (tmp_path / "report.html").read_text(encoding="utf-8")


# --- secrets ---------------------------------------------------------------------------------------

SECRET = "hunter2-planted"
USED = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": SECRET, "PGPASSWORD": f"{SECRET}-pg"}


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://me:{SECRET}@host/db",
        f"postgresql+psycopg2://me:{SECRET}@host/db",
        f"postgresql://host/db?user=me&password={SECRET}",
        f"https://me:{SECRET}@host:5000",
        f"https://host?access_token={SECRET}",
        f"mysql://:{SECRET}@host/db",
    ],
)
def test_a_config_with_a_password_is_refused_without_showing_it(uri: str) -> None:
    with pytest.raises(UserError, match="holds a password") as caught:
        Study(ufm_study(tracking={"uri": uri}))
    assert "MLFLOW_TRACKING_PASSWORD" in str(caught.value)
    assert SECRET not in str(caught.value)
    with pytest.raises(UserError) as caught:
        Study(ufm_study(tracking=uri))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["postgresql://me@host/db", "http://127.0.0.1:5000", "sqlite:///a.db", "databricks://profile", "http://[::1"],
)
def test_addresses_without_a_password(uri: str) -> None:
    assert not has_password(uri)


def test_secrets_of_the_environment_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in USED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    text = redacted(f"401 for Basic bWU6aHVudGVyMi1wbGFudGVk, Bearer t0ken, {SECRET}, {SECRET}-pg")
    assert not re.search(f"bWU6|t0ken|{SECRET}", text)


@contextmanager
def echoing_server() -> Iterator[str]:
    """A tracking server that refuses everything, and repeats the credentials that it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            heard.append(self.headers.get("Authorization") or "")
            body = json.dumps({"error_code": "PERMISSION_DENIED", "message": heard[-1]}).encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    heard: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
        assert any(text.startswith("Basic ") for text in heard), "the credentials were used"
    finally:
        server.shutdown()


@pytest.mark.audit
def test_no_secret_stands_in_anything_that_a_run_leaves(tmp_path: Path) -> None:
    with echoing_server() as address:
        config = ufm_study(figures=[], tracking={"uri": address, "live": False})
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", str(tmp_path)]
        command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(tmp_path / "study.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | USED)
    assert "the results themselves are on disk" in done.stdout + done.stderr, done.stdout + done.stderr
    assert (tmp_path / "results/report.html").exists()
    left = {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert any("/.snakemake/" in name for name in left)
    for name, content in {**left, "printed": (done.stdout + done.stderr).encode()}.items():
        assert SECRET.encode() not in content, name
        assert b"bWU6aHVudGVyMi1wbGFudGVk" not in content, name


# --- servers, packages -------------------------------------------------------------------------------


def test_the_web_interface_listens_on_loopback_alone() -> None:
    from ncpipe.tracking.ui import ui_command

    assert "--host 127.0.0.1" in " ".join(ui_command(5000))
    assert "--host" not in CliRunner().invoke(app, ["ui", "--help"]).output


def audit() -> Any:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import audit
    finally:
        sys.path.pop(0)
    return audit


def test_licences_of_all_locked_packages_are_listed() -> None:
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\S+) \| (\S+) \| \S.* \|$", page, flags=re.MULTILINE)
    assert [pair for pair in listed if pair[0] not in ("package", "---")] == audit().locked(), "run make audit"


def test_copyleft_is_not_on_the_list() -> None:
    is_allowed = audit().is_allowed
    assert all(map(is_allowed, ("MIT", "Apache-2.0 AND MIT", "GPL-3.0 OR MIT", "Apache-2.0 WITH LLVM-exception")))
    assert not any(map(is_allowed, ("GPL-3.0", "MIT AND AGPL-3.0", "unknown", "", "GPL-2.0 OR LGPL-2.1")))
