"""DeepFool's distances: exact for linear decisions, never below the truth, and as one image at a time would be."""

from __future__ import annotations

import copy

import pytest
import torch
from networks_in_training import CPU, planned
from torch import nn

from ncpipe.features.extraction import extract_features
from ncpipe.features.robustness import MOST_STEPS, OVERSHOOT, probe_images, relative_distances
from ncpipe.networks import Network
from ncpipe.records.traces import load_traces
from ncpipe.stages.collapse import collapse_rows
from ncpipe.stages.train import train
from ncpipe.study.config import MeasureSpec
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_tensors, write_tensors
from ncpipe.training.streams import open_batches
from ncpipe.training.trainer import new_network

SIZE = (2, 3, 3)


def images(count, seed=0):
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def affine(classes=4):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(classes, 18, generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    return weight, bias, lambda x: x.flatten(1) @ weight.T + bias


def curved(seed=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(18, 30), nn.Tanh(), nn.Linear(30, 5)).double()


def one_by_one(network, x, label):
    """The algorithm as it is published, on one image: its change r, overshoot included."""
    total = torch.zeros_like(x)
    for _ in range(MOST_STEPS):
        at = (x + (1 + OVERSHOOT) * total).requires_grad_()
        z = network(at[None])[0]
        if int(z.argmax()) != label:
            break
        slopes = [torch.autograd.grad(value, at, retain_graph=True)[0] for value in z]
        z, best = z.detach(), None
        for k in range(len(z)):
            if k == label:
                continue
            f, w = abs(float(z[k] - z[label])), slopes[k] - slopes[label]
            if best is None or f / float(w.norm()) < best[0]:
                best = (f / float(w.norm()), w / w.norm())
        total = total + best[0] * best[1]
    return (1 + OVERSHOOT) * total


@pytest.mark.parametrize("as_vectors", [False, True])
def test_an_affine_decision_has_its_distance(as_vectors):
    weight, bias, network = affine()
    x = images(30).flatten(1) if as_vectors else images(30)
    z = x.flatten(1) @ weight.T + bias
    labels = z.argmax(dim=1)
    others = (z[:, None, :] - z[:, :, None]).gather(1, labels[:, None, None].expand(-1, 1, 4))[:, 0].abs()
    apart = (weight[None] - weight[labels][:, None]).norm(dim=2)
    others[torch.arange(30), labels], apart[torch.arange(30), labels] = torch.inf, 1
    expected = (1 + OVERSHOOT) * (others / apart).amin(dim=1) / x.flatten(1).norm(dim=1)
    torch.testing.assert_close(relative_distances(network, x, labels), expected, rtol=1e-10, atol=0)


def test_images_that_are_wrong_have_no_distance():
    _, _, network = affine()
    x = images(30)
    labels = network(x).argmax(dim=1)
    right = relative_distances(network, x, labels)
    labels[::3] = (labels[::3] + 1) % 4
    found = relative_distances(network, x, labels)
    assert (found[::3] == 0).all()
    assert (right > 0).all()
    kept = torch.arange(30) % 3 > 0
    assert torch.equal(found[kept], right[kept])


def test_all_images_at_once_are_as_one_by_one():
    network = curved()
    x = images(25)
    labels = network(x).argmax(dim=1)
    expected = [float(one_by_one(network, a, int(y)).norm() / a.norm()) for a, y in zip(x, labels)]
    found = relative_distances(network, x, labels)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


def test_the_change_alters_the_decision_and_a_ball_within_it_need_not():
    network = curved()
    x = images(25)
    labels = network(x).argmax(dim=1)
    found = relative_distances(network, x, labels)
    sizes = found * x.flatten(1).norm(dim=1)
    changes = torch.stack([one_by_one(network, a, int(y)).detach() for a, y in zip(x, labels)])
    assert (network(x + changes).argmax(dim=1) != labels).all()
    torch.testing.assert_close(changes.flatten(1).norm(dim=1), sizes)
    for seed in range(20):
        step = nn.functional.normalize(images(25, seed + 10).flatten(1)).view_as(x)
        assert (network(x + 0.3 * sizes[:, None, None, None] * step).argmax(dim=1) == labels).all()


def test_scales_of_the_logits_change_nothing_and_those_of_the_image_only_its_unit():
    network = curved()
    x = images(10)
    labels = network(x).argmax(dim=1)
    found = relative_distances(network, x, labels)
    torch.testing.assert_close(relative_distances(lambda y: 7 * network(y) - 3, x, labels), found)
    torch.testing.assert_close(relative_distances(lambda y: network(y / 4), 4 * x, labels), found)


def test_logits_that_do_not_depend_on_the_image_have_no_distance():
    def logits(x):
        return torch.tensor([[1.0, 0]]).double() + 0 * x.flatten(1)[:, :2]

    assert relative_distances(logits, images(3), torch.tensor([0, 0, 1])).isnan().tolist() == [True, True, False]


def test_probes_are_the_first_images_of_every_class(digits):
    data = open_batches(digits, "test", CPU.device)
    for count, most in ((20, 2), (23, 3), (1000, 10)):
        found, labels = probe_images(data, count, 7)
        assert len(found) == len(labels) == min(count, len(data))
        per_class = labels.bincount(minlength=10)
        assert int(per_class.max()) == most
        assert int(per_class.min()) == min(count, len(data)) // 10
        for label in range(10):
            own = data.finished(data.images[data.labels == label])[: int(per_class[label])]
            torch.testing.assert_close(found[labels == label], own, rtol=0, atol=0)


def test_robustness_of_a_network_is_the_mean_over_the_probes(digits, tmp_path):
    changes = {"model": {"name": "convnet", "depth": 2, "width": 4}, "schedule": {"name": "constant"}}
    run = planned((0, 8), epochs=8, **changes)
    train(run, digits, tmp_path, CPU)
    spec = MeasureSpec.model_validate({"splits": ["train", "test", "train_mode"], "robustness": 20})
    extract_features(run, spec, digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    network = new_network(run.spec, digits)
    network.load_state_dict(read_tensors(tmp_path / "model.safetensors")[0])
    network.eval()
    probes, labels = probe_images(open_batches(digits, "test", CPU.device), 20, 64)
    right = network(probes).logits.argmax(dim=1) == labels
    assert 0.3 < float(right.double().mean()) < 1
    changes = [
        one_by_one(lambda x: network(x).logits, image, int(label)).norm() / image.norm() if ok else 0.0
        for image, label, ok in zip(probes, labels, right)
    ]
    expected = float(torch.tensor(changes).mean())
    assert trace.scalars[8, "test"]["robustness"] == pytest.approx(expected, rel=1e-3)
    assert "robustness" not in trace.scalars[8, "train"]
    assert "robustness" not in trace.scalars[8, "train_mode"]
    rows = [row for row in collapse_rows("net", "run", trace) if row["metric"] == "robustness"]
    assert [(row["split"], row["layer"], row["time"]) for row in rows] == [("test", "features", t) for t in (0, 8)]


def test_without_robustness_no_image_passes_the_network_again(digits, tmp_path, monkeypatch):
    run = planned((1,), epochs=1)
    train(run, digits, tmp_path, CPU)
    monkeypatch.setattr(Network, "forward", None)
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    assert "robustness" not in load_traces(tmp_path / "statistics.safetensors")["run"].scalars[1, "test"]
    with pytest.raises(TypeError):
        extract_features(run, MeasureSpec(robustness=2), digits, tmp_path, CPU)


def test_a_dead_network_has_no_robustness_and_says_why(digits, tmp_path):
    run = planned((0, 1), epochs=1, model__batch_norm=False)
    train(run, digits, tmp_path, CPU)
    for path in (tmp_path / "checkpoints").glob("*.safetensors"):
        weights, metadata = read_tensors(path)
        write_tensors(path, {name: 0 * value for name, value in weights.items()}, metadata)
    extract_features(run, MeasureSpec(robustness=10), digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    rows = [row for row in collapse_rows("net", "run", trace) if row["metric"] == "robustness"]
    assert [row["reason"] for row in rows] == 2 * ["the logits do not depend on the image, or are not finite"]


STUDY = {
    "study": {"name": "s"},
    "datasets": {"base": {"name": "digits"}},
    "networks": {"base": {"model": {"name": "mlp"}, "loss": {"name": "mse"}, "optimizer": {"lr": 0.1}, "epochs": 1}},
    "measure": {"robustness": 5},
}


def test_settings_that_robustness_does_not_go_with_are_named():
    assert Study(STUDY).config.measure.robustness == 5
    changed = copy.deepcopy(STUDY)
    changed["measure"]["splits"] = ["train"]
    with pytest.raises(UserError, match=r"measure.robustness: .*add 'test' to measure.splits or set it to 0"):
        Study(changed)
    changed = copy.deepcopy(STUDY)
    changed["datasets"]["base"] |= {"pairs": 2, "test_pairs": 2}
    changed["networks"]["base"]["loss"] = {"name": "pick_all_labels"}
    with pytest.raises(UserError, match=r"measure.robustness: digits has samples of several labels.*set it to 0"):
        Study(changed)
