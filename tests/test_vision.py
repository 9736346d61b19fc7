"""The torchvision guard, where torchvision's operators load and where they do not."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from ncpipe import vision
from ncpipe.errors import UserError

MISSING = RuntimeError("operator torchvision::nms does not exist")


class Imports:
    """Stands for importlib: every import has the next of the given outcomes."""

    def __init__(self, *outcomes: ModuleType | Exception) -> None:
        self._outcomes: Iterator[ModuleType | Exception] = iter(outcomes)

    def import_module(self, name: str) -> ModuleType:
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_a_healthy_install_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = ModuleType("torchvision")
    monkeypatch.setattr(vision, "importlib", Imports(healthy))
    monkeypatch.setattr(vision, "_declare_schemas", lambda: pytest.fail("schemas were declared"))
    assert vision.import_torchvision() is healthy


def test_schemas_are_declared_where_the_operators_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = []
    mended = ModuleType("torchvision")
    monkeypatch.setattr(vision, "importlib", Imports(MISSING, mended))
    monkeypatch.setattr(vision, "_declare_schemas", lambda: declared.append(True))
    assert vision.import_torchvision() is mended
    assert declared == [True]


@pytest.mark.parametrize("error", [ImportError("No module named 'torchvision'"), RuntimeError("CUDA 12\nand 13")])
def test_other_failures_are_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(vision, "importlib", Imports(error))
    with pytest.raises(UserError, match=r"cannot import torchvision: (No module|CUDA 12;).*matches torch") as caught:
        vision.import_torchvision()
    assert "\n" not in str(caught.value)


def test_this_install() -> None:
    # Whichever way it is: torchvision works, says nothing, and has schemas declared only if it must.
    output = run(
        "from ncpipe import vision\n"
        "assert vision.import_torchvision() is vision.import_torchvision()\n"
        "import torchvision.models, torchvision.datasets\n"
        "assert bool(vision._libraries) != torchvision.extension._has_ops()"
    )
    assert output == ""


def test_other_modules_of_torchvision_work_after_it() -> None:
    vision.import_torchvision()
    ops = importlib.import_module("torchvision.ops")
    assert ops.box_area(torch.tensor([[0.0, 0.0, 2.0, 3.0]])).item() == 6


def test_the_guard_imports_torchvision_late() -> None:
    run("import sys, ncpipe.vision, ncpipe.networks, ncpipe.data.sources; assert 'torchvision' not in sys.modules")
