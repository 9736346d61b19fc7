"""The animation of collapse: its plane, what it reads of a run, its files, and what is told of a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ncpipe.cli.main import app
from ncpipe.collapse import Trace
from ncpipe.figures.drawing.animation import TRIANGLE, animate, etf_plane, frames
from ncpipe.records.traces import save_traces
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_tensors

CLASSES, DIM, PER_CLASS = 4, 6, 5


def made_up_run(folder, epochs=(0, 1, 10), layers=("features",), width: float = 0.1, classes: int = CLASSES):
    """A run whose class means are an OF times epoch + 1, classifier rows parallel, samples ``width`` about them."""
    generator = torch.Generator().manual_seed(0)
    labels, trace = torch.arange(classes).repeat(PER_CLASS), Trace(("features",))
    kept = {"labels/train": labels}
    for epoch in epochs:
        noise = torch.randn(len(labels), DIM, generator=generator)
        for layer in layers:
            kept[f"{epoch}/{layer}/train"] = (epoch + 1) * (torch.eye(classes, DIM)[labels] + width * noise)
        trace.heads[epoch] = (3 * torch.eye(classes, DIM, dtype=torch.float64), None)
    write_tensors(folder / "features.safetensors", kept if layers and epochs else {})
    save_traces(folder / "statistics.safetensors", {folder.name: trace})
    return folder


def test_the_plane_takes_an_exact_etf_to_the_triangle():
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.normal(size=(7, 7)))[0]
    means = 5 * TRIANGLE @ turn[:2] + generator.normal(size=7)
    plane = etf_plane(means)
    np.testing.assert_allclose(plane.T @ plane, np.eye(2), atol=1e-12)
    np.testing.assert_allclose((means - means.mean(axis=0)) @ plane, 5 * TRIANGLE, atol=1e-12)


def test_collapsed_classes_lie_at_the_corners_whatever_their_size(tmp_path):
    shown = frames(made_up_run(tmp_path / "run", width=0.0), [3, 0, 1])
    assert [frame.epoch for frame in shown] == [0, 1, 10]
    for frame in shown:
        np.testing.assert_allclose(frame.means, TRIANGLE, atol=1e-6)
        np.testing.assert_allclose(frame.rows, TRIANGLE, atol=1e-6)
        for own, corner in zip(frame.samples, TRIANGLE, strict=True):
            np.testing.assert_allclose(own, np.tile(corner, (PER_CLASS, 1)), atol=1e-6)
        assert frame.ratio == pytest.approx(0, abs=1e-9)


def test_spread_is_in_units_of_the_means_and_over_the_whole_space(tmp_path):
    folder = made_up_run(tmp_path / "run", width=0.3)
    frame = frames(folder, [0, 1, 2])[-1]
    from safetensors.torch import load_file

    kept = load_file(folder / "features.safetensors")
    groups = [kept["10/features/train"][kept["labels/train"] == c].double().numpy() for c in range(3)]
    means = np.stack([own.mean(axis=0) for own in groups])
    within = np.mean([((own - mean) ** 2).sum(axis=1).mean() for own, mean in zip(groups, means)])
    between = ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert frame.ratio == pytest.approx(within / between)
    assert (frame.means**2).sum(axis=1).mean() == pytest.approx(1)  # the last epoch lies in its own plane
    in_plane = np.mean([((own - mean) ** 2).sum(axis=1).mean() for own, mean in zip(frame.samples, frame.means)])
    assert 0 < in_plane < frame.ratio


def test_gif_has_a_frame_for_every_epoch_and_equal_bytes(tmp_path):
    folder = made_up_run(tmp_path / "run")
    one, two = (animate(folder, [0, 1, 2], tmp_path / name) for name in ("a.gif", "b.gif"))
    assert one.read_bytes() == two.read_bytes()
    with Image.open(one) as image:
        assert image.n_frames == 3
        assert image.info["duration"] == 200
        assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


def test_command_says_what_it_wrote(tmp_path):
    folder, target = made_up_run(tmp_path / "run"), tmp_path / "x.gif"
    done = CliRunner().invoke(app, ["animate", str(folder), "--classes", "1,2,3", "--output", str(target)])
    assert f"wrote {target}" in done.stdout
    assert target.stat().st_size > 1000


def test_mp4_goes_to_ffmpeg_as_raw_frames(tmp_path, monkeypatch):
    script = tmp_path / "ffmpeg"
    script.write_text('#!/bin/sh\nfor last; do :; done\nwc -c > "$last"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    target = animate(made_up_run(tmp_path / "run"), [0, 1, 2], tmp_path / "x.mp4")
    gif = animate(tmp_path / "run", [0, 1, 2], tmp_path / "x.gif")
    with Image.open(gif) as image:
        pixels = image.width * image.height
    assert int(target.read_text()) == 3 * pixels * (3 + 2500 // 200 - 1)
    script.write_text("#!/bin/sh\necho no such codec >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"no such codec.*name a \.gif"):
        animate(tmp_path / "run", [0, 1, 2], tmp_path / "y.mp4")
    assert not list(tmp_path.glob("*y.mp4*"))


def refused(folder, classes=(0, 1, 2), output="x.gif") -> str:
    with pytest.raises(UserError) as error:
        animate(folder, classes, folder / output)
    assert "\n" not in str(error.value)
    assert not list(folder.glob("*x.*"))
    return str(error.value)


def test_a_run_that_kept_nothing_is_told_the_key_to_set(tmp_path):
    key = "set measure.keep: {layers: [features], epochs: all}"
    assert key in refused(made_up_run(tmp_path / "none", epochs=()))
    assert key in refused(made_up_run(tmp_path / "one", epochs=(3,)))
    assert key in refused(made_up_run(tmp_path / "other", layers=("layer1",)))
    (tmp_path / "empty").mkdir()
    assert "name the folder of a trained network" in refused(tmp_path / "empty")


def test_other_classes_endings_and_broken_features_are_one_line(tmp_path, monkeypatch):
    folder = made_up_run(tmp_path / "run")
    for classes in ((0, 1), (0, 1, 1), (0, 1, 4), (-1, 0, 1)):
        assert "needs three different classes of 0 to 3" in refused(folder, classes)
    assert "three classes, and this network has 2" in refused(made_up_run(tmp_path / "two", classes=2))
    assert ".gif or .mp4" in refused(folder, output="x.avi")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs ffmpeg, which is not installed" in refused(folder, output="x.mp4")
    assert "not finite" in refused(made_up_run(tmp_path / "nan", width=float("nan")))
    (folder / "features.safetensors").write_bytes(b"no tensors")
    assert "cannot read" in refused(folder)
    wrong = CliRunner().invoke(app, ["animate", str(folder), "--classes", "a,b"])
    assert "needs three classes, as 0,1,2" in str(wrong.exception)
