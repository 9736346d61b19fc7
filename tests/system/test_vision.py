"""The import of torchvision, where its operators load and where they do not, whatever is imported first."""

import importlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from ncpipe.system import torchvision_import, vision
from ncpipe.system.errors import UserError

MATCHED = "_meta = 1\n"
MIXED = """
import torch, warnings
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold): ...
warnings.warn("Failed to load image Python extension: ...")
"""
"""Stands for torchvision's own file where the compiled library is missing."""


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    root = Path(vision.__file__).parents[1]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, root]))}
    # Without the finder that this environment may have of `make setup`.
    command = [sys.executable, "-c", f"{vision.UNMENDED}\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)


def works(code: str, *path: Path) -> None:
    done = run(code, *path)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def torchvision_of(folder: Path, content: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision/__init__.py").write_text("from torchvision import extension\n", encoding="utf-8")
    (folder / "torchvision/extension.py").write_text(content, encoding="utf-8")
    return folder


def test_a_healthy_install_is_left_alone(tmp_path: Path) -> None:
    works(
        "import ncpipe, torchvision; assert torchvision.extension._meta\n"
        "assert not ncpipe.system.torchvision_import.libraries",
        torchvision_of(tmp_path, MATCHED),
    )


@pytest.mark.every(4)
@pytest.mark.parametrize(
    "first",
    [
        "",
        "import torch",
        "import ncpipe.system.vision; ncpipe.system.vision.import_torchvision()",
        "import importlib.util as u; assert u.find_spec('torchvision')",
    ],
)
def test_schemas_are_declared_where_the_operators_are_missing(tmp_path: Path, first: str) -> None:
    works(
        f"from ncpipe.system import torchvision_import; {first}\n"
        "from torchvision import extension\nassert torchvision_import.libraries",
        torchvision_of(tmp_path, MIXED),
    )


def test_it_is_mended_after_it_has_failed(tmp_path: Path) -> None:
    works(
        "try:\n    import torchvision\nexcept RuntimeError:\n    pass\nelse:\n    raise AssertionError\n"
        "import ncpipe, torchvision",
        torchvision_of(tmp_path, MIXED),
    )


@pytest.mark.parametrize("error", ["ImportError('No module named cuda')", r"RuntimeError('CUDA 12\nand 13')"])
def test_other_failures_are_named(tmp_path: Path, error: str) -> None:
    foreign = torchvision_of(tmp_path, f"raise {error}\n")
    told = run(
        "import ncpipe.system.vision as v\ntry: v.import_torchvision()\nexcept Exception as e: print(e)", foreign
    )
    assert told.stdout.startswith("cannot import torchvision: ")
    assert told.stdout.endswith(f"install the release that matches torch {torch.__version__}\n")
    assert len(told.stdout.splitlines()) == 1


def test_a_missing_torchvision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match="cannot import torchvision: import of torchvision halted"):
        vision.import_torchvision()


@pytest.mark.parametrize(("content", "mended"), [(MATCHED, False), (MIXED, True), ("raise ImportError\n", False)])
def test_an_environment_is_mended_where_it_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, mended: bool
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    torchvision_of(packages, content)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(packages))
    monkeypatch.setenv("PYTHONPATH", str(packages))
    for _ in range(2):  # also of an environment that has been mended
        vision.mend_environment()
        assert (packages / f"{vision.HOOK}.pth").exists() == mended
        assert (packages / f"{vision.HOOK}.py").exists() == mended
    if mended:  # as at the start of Python, which reads .pth files in site-packages alone
        start = f"import site; site.addsitedir({str(packages)!r})\n"
        works(f"{start}from torchvision import extension\nimport ncpipe", packages)
        works(f"{start}import sys\nassert not {{'torch', 'typing', 'ncpipe'}} & set(sys.modules)", packages)


@pytest.mark.thorough
def test_this_install() -> None:
    # Whichever way it is: torchvision works, says nothing, and has schemas declared only if it must.
    works(
        "import ncpipe, torchmetrics\nfrom torchvision.models import resnet18\n"
        "import torchvision.datasets, torchvision.ops, torchvision.transforms.v2\n"
        "assert bool(ncpipe.system.torchvision_import.libraries) != torchvision.extension._has_ops()"
    )


def test_other_modules_of_torchvision_work_after_it() -> None:
    vision.import_torchvision()
    ops = importlib.import_module("torchvision.ops")
    assert ops.box_area(torch.tensor([[0.0, 0.0, 2.0, 3.0]])).item() == 6


def test_it_is_imported_late() -> None:
    works("import sys, ncpipe; assert 'torch' not in sys.modules")
    works(
        "import sys, ncpipe.system.vision, ncpipe.networks.build, ncpipe.data.preparation\n"
        "assert 'torchvision' not in sys.modules"
    )


def test_one_finder_stands_first() -> None:
    torchvision_import.install()
    assert [getattr(finder, "mends", None) for finder in sys.meta_path].count("torchvision") == 1
