"""Plugins found by name, in a folder and by entry points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ncpipe.settings.base import Settings
from ncpipe.settings.registry import OneOf, Registry, names_in_settings

NET = """
from typing import Literal
from ncpipe.settings.base import Settings
class Net(Settings):
    name: Literal[{names}]
    depth: int = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[type[Settings]]:
    package = tmp_path / "nets_of_this_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mlp.py").write_text(NET.format(names="'mlp'"))
    (package / "resnet.py").write_text(NET.format(names="'resnet18', 'resnet34'"))
    (package / "_blocks.py").write_text("raise AssertionError")
    installed = tmp_path / "other-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[nets_of_this_test]\nowl = owls:Net\n")
    (tmp_path / "owls.py").write_text(NET.format(names="'owl'"))
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry("nets_of_this_test", "Net", names_in_settings)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("nets_of_this_test", "owls")]:
        del sys.modules[name]


def test_modules_and_entry_points_are_found(nets: Registry[Any]) -> None:
    assert [*nets] == ["mlp", "resnet18", "resnet34", "owl"]
    assert nets["resnet18"] is nets["resnet34"]
    assert nets["owl"].__module__ == "owls"
    assert "unet" not in nets


def test_names_of_modules_need_no_import(nets: Registry[Any]) -> None:
    assert [*Registry("nets_of_this_test")] == ["mlp", "resnet", "owl"]
    assert "nets_of_this_test.mlp" not in sys.modules


def test_a_field_holds_the_settings_of_its_name(nets: Registry[Any]) -> None:
    field = TypeAdapter(Annotated[Settings, OneOf(nets)])
    net = field.validate_python({"name": "resnet34", "depth": 5})
    assert (type(net), net.depth) == (nets["resnet34"], 5)
    assert field.dump_python(net, exclude_defaults=True) == {"name": "resnet34", "depth": 5}
    assert [kind["title"] for kind in field.json_schema()["oneOf"]] == ["Net"] * 3


@pytest.mark.parametrize(
    ("value", "place", "message"),
    [
        ({"name": "mpl"}, (), "unknown value 'mpl'; did you mean 'mlp'?"),
        ({"name": "vgg"}, (), "unknown value 'vgg'; known: mlp, resnet18, resnet34, owl"),
        ({"name": ["mlp"]}, (), "unknown value ['mlp']; did you mean 'mlp'?"),
        ({"depth": 3}, (), "needs a 'name'"),
        ({"name": "owl", "depth": "deep"}, ("depth",), "valid integer"),
        ("mlp", (), "needs a mapping"),
    ],
)
def test_mistakes_are_told_at_their_place(nets: Registry[Any], value: Any, place: tuple[str], message: str) -> None:
    with pytest.raises(ValidationError) as told:
        TypeAdapter(Annotated[Settings, OneOf(nets)]).validate_python(value)
    [error] = told.value.errors()
    assert error["loc"] == place
    assert message in error["msg"]
