"""Plugins found by name, in a folder and by entry points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError, create_model

from ncpipe.settings.base import Settings
from ncpipe.settings.messages import validated
from ncpipe.settings.registry import ModuleRegistry, NameIn, OneOf, Registry, names_in_settings
from ncpipe.system.errors import UserError

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


def test_a_field_holds_the_name_of_a_plugin(nets: Registry[Any]) -> None:
    field = TypeAdapter(Annotated[str, NameIn(nets)])
    assert field.validate_python("owl") == "owl"
    assert field.json_schema() == {"enum": [*nets], "type": "string"}
    for wrong in ("olw", {"name": "owl"}, ["owl"], None):
        with pytest.raises(ValidationError, match="should be 'mlp', 'resnet18', 'resnet34', 'owl'"):
            field.validate_python(wrong)


def test_a_field_holds_the_settings_of_its_name(nets: Registry[Any]) -> None:
    field = TypeAdapter(Annotated[Settings, OneOf(nets)])
    net = field.validate_python({"name": "resnet34", "depth": 5})
    assert (type(net), net.depth) == (nets["resnet34"], 5)
    assert field.dump_python(net, exclude_defaults=True) == {"name": "resnet34", "depth": 5}
    assert [kind["title"] for kind in field.json_schema()["oneOf"]] == ["Net"] * 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "mpl"}, "net: unknown value 'mpl'; did you mean 'mlp'?"),
        ({"name": "vgg"}, "net: unknown value 'vgg'; known: mlp, resnet18, resnet34, owl"),
        ({"name": ["mlp"]}, "net: unknown value \"['mlp']\"; did you mean 'mlp'?"),
        ({"depth": 3}, "net: needs a 'name'"),
        ({"name": "owl", "depth": "deep"}, "net.depth: must be a whole number, got 'deep'"),
        ("mlp", "net: must be a mapping of keys and values, got 'mlp'"),
    ],
)
def test_mistakes_are_told_at_their_place(nets: Registry[Any], value: Any, message: str) -> None:
    model = create_model("Model", net=Annotated[Settings, OneOf(nets)])
    with pytest.raises(UserError) as told:
        validated(model, {"net": value}, "config")
    assert str(told.value) == message


def test_a_package_that_does_not_load_is_named(nets: Registry[Any], tmp_path: Path) -> None:
    (tmp_path / "owls.py").write_text("import a_module_that_is_not_there")
    with pytest.raises(UserError, match=r"cannot load 'owl' of the package other: No module .*; update or uninstall"):
        list(nets)


def test_a_module_is_known_by_its_only_class_of_a_kind(nets: Registry[Any]) -> None:
    by_kind = Registry("nets_of_this_test", Settings, names_in_settings)
    assert {**by_kind} == {**nets}


def test_a_question_loads_no_module_that_it_needs_nothing_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "asked_in_this_test"
    package.mkdir()
    (package / "alone.py").write_text("raise AssertionError\ndef above(x: Any) -> bool:\n    return x > 1")
    (package / "with_more.py").write_text("LEAST = 3\ndef above(x):\n    return x > LEAST")
    (package / "silent.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(tmp_path)
    assert ModuleRegistry(package.name).answers("above", 2) == {"alone": True, "with_more": False}
