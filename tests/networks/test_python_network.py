"""Networks of a user's own in a study: the numbers of a built-in one, every option of training, and mistakes."""

from __future__ import annotations

import sys
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import own_network
import pandas as pd
import pytest
import torch
from in_one_process import run_study

from ncpipe.data import Dataset
from ncpipe.networks import as_vectors, build_network
from ncpipe.networks.architectures import ARCHITECTURES
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.networks.hooked import ReadNetwork
from ncpipe.records.writing import read_table
from ncpipe.settings.source import source_of
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.training.members import Stack

FILE = Path(__file__).with_name("own_network.py")
OWN: dict[str, Any] = {"name": "python", "path": str(FILE), "class": "OwnNetwork"}


def study(folder: Path, *models: dict[str, Any], **more: Any) -> Study:
    network = {"loss": {"name": "mse"}, "optimizer": {"lr": 0.05}, "epochs": 2, "batch_size": 20}
    return Study(
        {
            "study": {"name": "own", "results": str(folder / "results")},
            "datasets": {"base": {"name": "digits", "samples_per_class": 5, "test_samples_per_class": 2}},
            "networks": {
                "base": network | more.pop("network", {}),
                "sweep": {"grid": {"model": list(models or [OWN])}},
            },
            "ufm": {"matched": more.pop("matched", [])},
            "tracking": {"enabled": False},
            "figures": [],
            **more,
        }
    )


def tables(study: Study, *names: str) -> list[pd.DataFrame]:
    return [read_table(study.layout.tables / f"{name}.parquet").to_pandas() for name in names]


def test_a_built_in_network_given_as_python_has_its_numbers(tmp_path: Path) -> None:
    own = {**OWN, "class": "OwnMlp", "arguments": {"depth": 3, "width": 16}}
    both = study(tmp_path, {"name": "mlp", "depth": 3, "width": 16}, own)
    run_study(both)
    ours, users = both.networks
    assert users.startswith("digits-OwnMlp-mse-bias-s0-")
    for name, keys in (("collapse", ["layer", "metric", "split"]), ("history", ["quantity"])):
        [table] = tables(both, name)
        keys = ["time", *keys]
        first, second = (table[table["run_id"] == run].set_index(keys)["value"].sort_index() for run in (ours, users))
        assert len(first) >= 10
        pd.testing.assert_series_equal(first, second, rtol=1e-5)
    assert {*tables(both, "collapse")[0].query("metric == 'nc3_rows'")["layer"]} == {"layer1", "layer2", "features"}
    [copy] = (both.layout.run(users) / "checkpoints").glob("*.py")
    assert copy.read_bytes() == FILE.read_bytes()
    assert not [*(both.layout.run(ours) / "checkpoints").glob("*.py")]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ({}, ["conv1", "norm", "conv2", "features"]),
        ({"class": "Rows", "pooling": "token_mean"}, ["embed", "features"]),
    ],
)
def test_layers_are_what_hooks_read_of_the_users_module(model: dict[str, Any], names: list[str]) -> None:
    settings = ARCHITECTURES["python"].model_validate({**OWN, **model})
    network = build_network(settings, HeadSpec(), (1, 8, 8), 3, 0).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = getattr(own_network, settings.slug)((1, 8, 8), 3)
    read, images = ReadNetwork(module, pooling=settings.pooling), torch.randn(5, 1, 8, 8)
    with read.evaluation():
        expected, (layers, logits) = read(images), network.features(images)
        assert [*layers] == [*expected.layers] == names
        for name, vectors in expected.layers.items():
            torch.testing.assert_close(as_vectors(layers[name], "average"), vectors)
        torch.testing.assert_close(logits, expected.logits)


def test_a_wrapper_for_several_devices_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    # not on the stand-in accelerator of other tests
    monkeypatch.setattr(sys.modules["torch.nn.parallel.data_parallel"], "_get_available_device_type", lambda: None)
    both = [ARCHITECTURES["python"].model_validate({**OWN, "class": name}) for name in ("OwnNetwork", "parallel")]
    plain, wrapped = (build_network(settings, HeadSpec(), (1, 8, 8), 3, 0).eval() for settings in both)
    assert wrapped.layer_names == plain.layer_names
    images = torch.randn(5, 1, 8, 8)
    assert torch.equal(wrapped(images).logits, plain(images).logits)


def test_whatever_training_and_measuring_can_do(tmp_path: Path) -> None:
    everything = study(
        tmp_path,
        {**OWN, "arguments": {"width": 4}, "layers": ["conv1", "norm", "conv2"]},
        network={"precision": "bf16", "terminal": {"iterations": 3}, "head": {"hidden": 1, "feature_dim": 6}},
        measure={
            "splits": ["train", "test", "full_batch", "train_mode"],
            "robustness": 3,
            "flatten": ["conv1"],
            "keep": {"layers": ["conv*"]},
            "epochs": 2,
        },
    )
    run_study(everything)
    runs, collapse = tables(everything, "runs", "collapse")
    assert {*runs["status"]} == {"done"}
    of_network = collapse[collapse["source"] == "net"]
    assert [*of_network["layer"].unique()] == ["conv1", "norm", "conv2", "head_input", "features"]
    assert {"robustness", "stationarity"} <= {*of_network["metric"]}


def test_only_some_layers_are_measured(tmp_path: Path) -> None:
    def layers(measured: Any, **model: Any) -> tuple[str, ...]:
        [run] = study(tmp_path, {**OWN, **model}, measure={"layers": measured}).networks.values()
        return run.layers

    assert layers("all") == ("*", "features")  # known once it is built
    assert layers(["conv*"], layers=["conv1", "norm", "conv2"]) == ("conv1", "conv2", "features")
    assert layers(1) == ("features",)
    assert layers(2, layers=["conv1", "conv2"]) == ("conv2", "features")
    with pytest.raises(UserError, match=r"the last 2 of OwnNetwork are not known before it is built; list them in"):
        layers(2)
    with pytest.raises(
        UserError, match=r"no network has a layer 'conv\*'; those of OwnNetwork are known once model.la"
    ):
        layers(["conv*"])


def test_seeds_that_cannot_be_stacked_are_refused_in_a_line(digits: Dataset) -> None:
    def stack(kind: str) -> Stack:
        model = ARCHITECTURES["python"].model_validate({**OWN, "class": kind})
        return Stack([build_network(model, HeadSpec(), digits.image_shape, digits.num_classes, s) for s in (0, 1)])

    images = torch.randn(2, 4, *digits.image_shape)
    assert stack("OwnNetwork")(images).logits.shape == (2, 4, digits.num_classes)
    with pytest.raises(UserError, match=r"^compute.ensemble: this network cannot be stacked \(.*\); set it to 1$"):
        stack("Itemised")(images)


def test_the_code_is_part_of_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_bytes(FILE.read_bytes())
    [before] = study(tmp_path, {**OWN, "path": "mine.py"}).networks.values()
    [same] = study(tmp_path, {**OWN, "path": "mine.py", "content": before.spec.model.content}).networks
    file.write_bytes(file.read_bytes() + b"# changed\n")
    [after] = study(tmp_path, {**OWN, "path": "mine.py"}).networks
    assert before.id == same != after
    with pytest.raises(UserError, match=r"mine.py has the content \w{16}, not \w{16}: it has changed"):
        _ = study(tmp_path, {**OWN, "path": "mine.py", "content": before.spec.model.content}).networks
    assert before.spec.model.code[1] == FILE.read_bytes()  # what was read is what runs and is kept


def test_a_module_that_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").write_text("raise ImportError('it is not run to find what is in it')")
    (tmp_path / "pack/nets.py").write_bytes(FILE.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    model = ARCHITECTURES["python"].model_validate({"name": "python", "module": "pack.nets", "class": "OwnNetwork"})
    with pytest.raises(UserError, match=r"pack.nets: ImportError: it is not run"):
        build_network(model, HeadSpec(), (1, 8, 8), 3, 0)
    (tmp_path / "pack/__init__.py").write_text("")
    assert build_network(model, HeadSpec(), (1, 8, 8), 3, 0).layer_names == ("conv1", "norm", "conv2", "features")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"path": "gone.py"}, "no file 'gone.py' in "),
        ({"path": None}, "give 'path' or 'module', one of them"),
        ({"module": "os"}, "give 'path' or 'module', one of them"),
        ({"path": None, "module": "not.there"}, "no module 'not.there' is installed"),
        ({"class": "OwnNetwrok"}, r"has no class or function 'OwnNetwrok'; did you mean 'OwnNetwork'\?"),
        ({"class": "a.b"}, "may hold letters, digits, and '_'"),
        ({"clas": "OwnNetwork"}, r"unknown key 'clas'; did you mean 'class'\?"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, model: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^networks(\.base)?\.model.*{message}") as raised:
        _ = study(tmp_path, {**OWN, **model}).networks
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("class OwnNetwork:\n    def\n")
    with pytest.raises(UserError, match=r"bad.py, line 2: SyntaxError: invalid syntax$"):
        _ = study(tmp_path, {**OWN, "path": str(tmp_path / "bad.py")}).networks


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"class": "Failing"}, r"own_network.py, line \d+: ValueError: no luck today; NCPIPE_TRACEBACK=1"),
        ({"class": "Leaving"}, r"own_network.py, line \d+: SystemExit; NCPIPE_TRACEBACK=1"),
        (
            {"class": "LeavingLater"},
            r"does not read images .*own_network.py, line \d+: SystemExit: enough",
        ),
        ({"class": "number"}, "number gives int, no nn.Module"),
        ({"arguments": {"depth": 3}}, r"TypeError: .*unexpected keyword argument 'depth'"),
        (
            {"arguments": {"num_classes": 7}},
            "OwnNetwork gives 7 logits, the data have 3 classes: let its constructor",
        ),
        ({"class": "Blind"}, r"Blind does not read images of 1x8x8 \(.*own_network.py, line \d+: "),
        ({"class": "Softmax"}, r"Softmax: the model's output \(8, 3\) is not that of its classifier 'fc'"),
        ({"class": "NoBias"}, "the classifier of NoBias has no bias: set head.bias to false"),
        ({"classifier": "head"}, "OwnNetwork: the model has no classifier 'head'; its modules: fc, conv1"),
        ({"layers": ["conv3"]}, "OwnNetwork: the model has no layer 'conv3'; did you mean 'conv2'?"),
        ({"layers": ["conv2", "conv1"]}, "OwnNetwork: the layers run in the order conv1, conv2: list them so"),
        ({"class": "OwnMlp", "arguments": {"depth": 2, "width": 5}, "layers": ["layer2"]}, "'layer2' is what the cl"),
    ],
)
def test_what_shows_when_it_is_built_is_told_in_a_line(model: dict[str, Any], message: str) -> None:
    settings = ARCHITECTURES["python"].model_validate({**OWN, **model})
    with pytest.raises(UserError, match=message) as raised:
        build_network(settings, HeadSpec(), (1, 8, 8), 3, 0)
    assert "\n" not in str(raised.value)


def test_a_module_of_another_finder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Editable installs have finders of their own, which ``sys.path`` does not tell of."""

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            here = Path(__file__).with_name("own_network.py")
            return spec_from_file_location(name, here) if name == "only_by_finder" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert source_of(None, "only_by_finder").file.name == "own_network.py"
