"""Animation of collapse: samples, class means and classifier rows of three classes on the plane of a simplex ETF."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ncpipe.figures.drawing.style import GREY, OKABE_ITO, SMALL, style
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_tensors, replacing
from ncpipe.system.progress import progress
from ncpipe.system.words import listed

Array = NDArray[np.float64]

ANGLES = np.deg2rad([90, 210, 330])
TRIANGLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
"""Simplex ETF of three classes in its plane, (3, 2), vectors of norm 1."""
COLOURS = tuple(OKABE_ITO[name] for name in ("blue", "vermillion", "green"))
MOST_SAMPLES = 150
"""Samples of a class that are drawn."""
LEAST_REACH, MOST_REACH, CENTRE = 1.6, 3.0, 0.25
"""Half the side of the picture, and its middle, that of the triangle's height."""
SIZE, DPI = (3.4, 3.9), 110
INTERVAL, LAST = 200, 2500
"""Milliseconds that a frame and the last one stay."""
ABOUT = (
    "Plane of the last epoch's class means; unit: root mean square length of\n"
    "the epoch's centred class means, and of its centred classifier rows."
)
KEEP = "set measure.keep: {layers: [features], epochs: all} in the study and run it again"


@dataclass(frozen=True)
class Frame:
    """One epoch, in coordinates of the plane."""

    epoch: int
    samples: tuple[Array, ...]
    """(n, 2) by class."""
    means: Array
    """(3, 2)."""
    rows: Array
    """Classifier rows, (3, 2)."""
    ratio: float
    """Tr Sigma_W / Tr Sigma_B of the three classes in the whole feature space."""


def animate(folder: Path, classes: Sequence[int], output: Path) -> Path:
    """Write the animation of a trained network, a frame for every epoch of which it kept features.

    Args:
        folder: of the run, as ``results/runs/ID``.
        classes: three of its classes.
        output: a .gif, or with ffmpeg an .mp4.

    Raises:
        UserError: no kept features, other classes, another ending, no ffmpeg.
    """
    _check_output(output)
    shown = frames(folder, classes)
    reach = _reach(shown)
    images = []
    with progress("animate", len(shown)) as update:
        for done, frame in enumerate(shown, start=1):
            images.append(_image(_draw(frame, classes, reach, folder.name)))
            update(done, f"epoch {frame.epoch}")
    with replacing(output) as temporary:
        (_write_gif if output.suffix == ".gif" else _write_mp4)(images, temporary)
    return output


def frames(folder: Path, classes: Sequence[int]) -> list[Frame]:
    """The frames of a run by epoch, all on the plane of the last one."""
    kept, labels, heads = _read(folder)
    _check_classes(classes, len(next(iter(heads.values()))))
    members = [np.flatnonzero(labels == number) for number in classes]
    features = {epoch: [values[index].astype(float) for index in members] for epoch, values in kept.items()}
    last = max(features)
    if not all(np.isfinite(samples).all() and len(samples) for groups in features.values() for samples in groups):
        raise UserError(f"{folder}: classes {listed(classes)} have no samples, or features that are not finite")
    plane = etf_plane(np.stack([samples.mean(axis=0) for samples in features[last]]))
    return [_frame(epoch, features[epoch], heads[epoch][list(classes)], plane) for epoch in sorted(features)]


def etf_plane(means: Array) -> Array:
    """Orthonormal basis (d, 2) of the plane of three centred means (3, d), turned so that they lie as near as can be
    to the corners of ``TRIANGLE`` (orthogonal Procrustes)."""
    centred = means - means.mean(axis=0)
    basis = np.linalg.svd(centred, full_matrices=False)[2][:2].T
    left, _, right = np.linalg.svd((centred @ basis).T @ TRIANGLE)
    return np.asarray(basis @ (left @ right))


def _frame(epoch: int, groups: Sequence[Array], rows: Array, plane: Array) -> Frame:
    means = np.stack([samples.mean(axis=0) for samples in groups])
    centre = means.mean(axis=0)
    between = float(((means - centre) ** 2).sum(axis=1).mean())
    within = float(np.mean([((samples - mean) ** 2).sum(axis=1).mean() for samples, mean in zip(groups, means)]))
    unit = between**0.5 or 1.0
    centred_rows = rows - rows.mean(axis=0)
    length = float((centred_rows**2).sum(axis=1).mean()) ** 0.5 or 1.0
    return Frame(
        epoch,
        tuple((samples[:MOST_SAMPLES] - centre) @ plane / unit for samples in groups),
        (means - centre) @ plane / unit,
        centred_rows @ plane / length,
        within / between if between else float("nan"),
    )


# --- what the run kept ----------------------------------------------------------------------------


def _read(folder: Path) -> tuple[dict[int, Array], Array, dict[int, Array]]:
    """Last features (N, d) of the training split by epoch, labels (N,), and classifier weights (K, d) by epoch."""
    from ncpipe.records.traces import load_traces

    path = folder / "features.safetensors"
    if not path.is_file():
        raise UserError(f"no {path.name} in {folder}: name the folder of a trained network, as results/runs/ID")
    read, _ = read_tensors(path, lambda name: name.split("/")[1:] in (["features", "train"], ["train"]))
    epochs = sorted(int(name.split("/")[0]) for name in read if name != "labels/train")
    if len(epochs) < 2:
        raise UserError(f"{folder} kept last features of {len(epochs)} epochs, and two are needed: {KEEP}")
    kept, labels = {epoch: read[f"{epoch}/features/train"].numpy() for epoch in epochs}, read["labels/train"].numpy()
    (trace,) = load_traces(folder / "statistics.safetensors").values()
    return kept, labels, {epoch: trace.heads[epoch][0].numpy() for epoch in epochs}


def _check_classes(classes: Sequence[int], count: int) -> None:
    if count < 3:
        raise UserError(f"an animation needs three classes, and this network has {count}")
    if len(set(classes)) != 3 or not all(0 <= number < count for number in classes):
        given = ",".join(map(str, classes))
        raise UserError(f"--classes {given}: needs three different classes of 0 to {count - 1}, as 0,1,2")


def _check_output(output: Path) -> None:
    if output.suffix not in (".gif", ".mp4"):
        raise UserError(f"--output {output}: expected a name that ends in .gif or .mp4")
    if output.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise UserError(f"--output {output} needs ffmpeg, which is not installed: install it, or name a .gif")


# --- drawing --------------------------------------------------------------------------------------


def _reach(shown: Sequence[Frame]) -> float:
    """Half the side of the picture, the same for all frames: most samples of all epochs are within."""
    sizes = np.concatenate([np.abs(samples).max(axis=1) for frame in shown for samples in frame.samples])
    return float(np.clip(np.quantile(sizes, 0.98) * 1.05, LEAST_REACH, MOST_REACH))


def _draw(frame: Frame, classes: Sequence[int], reach: float, name: str) -> Figure:
    with style():
        figure = Figure(figsize=SIZE, dpi=DPI)
        axes = figure.add_axes((0.03, 0.17, 0.94, 0.94 * SIZE[0] / SIZE[1]))
        axes.set(xlim=(-reach, reach), ylim=(CENTRE - reach, CENTRE + reach), xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set(visible=True, linewidth=0.4, color=GREY)
        axes.plot(*np.vstack([TRIANGLE, TRIANGLE[:1]]).T, color=GREY, linewidth=0.5, linestyle=(0, (4, 3)), zorder=1)
        for place, number in enumerate(classes):
            _draw_class(axes, frame, place, number)
        axes.plot([], [], "o", color=GREY, ms=1.8, mew=0, label="sample")
        axes.plot([], [], "o", color=GREY, ms=6, mec="black", mew=0.8, label="class mean")
        axes.plot([], [], color=GREY, linewidth=1.6, label="classifier row")
        axes.plot([], [], "+", color="black", ms=7, mew=0.9, label="simplex ETF")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, handletextpad=0.4, columnspacing=1.1)
        title: dict[str, Any] = {"ha": "left", "va": "top", "transform": axes.transAxes}
        axes.text(0.02, 0.98, f"epoch {frame.epoch}", size=10, weight="bold", **title)
        ratio = r"$\mathrm{Tr}\,\Sigma_W\,/\,\mathrm{Tr}\,\Sigma_B$" + f" = {frame.ratio:.2g}"
        axes.text(0.98, 0.98, ratio, size=8, **(title | {"ha": "right"}))
        figure.text(0.03, 0.012, f"{name}\n{ABOUT}", size=SMALL - 0.8, color=GREY, va="bottom", linespacing=1.25)
    return figure


def _draw_class(axes: Axes, frame: Frame, place: int, number: int) -> None:
    colour, corner = COLOURS[place], TRIANGLE[place]
    axes.plot(*frame.samples[place].T, "o", color=colour, ms=1.8, mew=0, alpha=0.55, zorder=2)
    axes.plot(*np.stack([0 * corner, frame.rows[place]]).T, color=colour, linewidth=1.6, zorder=3)
    axes.plot(*frame.means[place], "o", color=colour, ms=6, mec="black", mew=0.8, zorder=4)
    axes.plot(*corner, "+", color="black", ms=7, mew=0.9, zorder=5)
    axes.text(
        corner[0],
        corner[1] + np.copysign(0.42, corner[1]),
        f"class {number}",
        color=colour,
        size=8,
        ha="center",
        va="center",
        zorder=5,
    )


def _image(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _write_gif(images: Sequence[Image.Image], path: Path) -> None:
    """One palette for all frames: of the first and the last one, which have all colours."""
    both = Image.new("RGB", (images[0].width, 2 * images[0].height))
    for place, image in enumerate((images[0], images[-1])):
        both.paste(image, (0, place * image.height))
    palette = both.quantize(64, dither=Image.Dither.NONE)
    shades = palette.getpalette() or []
    palette.putpalette([255 if shade >= 245 else shade for shade in shades])  # the paper stays white
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [INTERVAL] * len(rest) + [LAST]
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)


def _write_mp4(images: Sequence[Image.Image], path: Path) -> None:
    """By ffmpeg, from raw frames; the last one is repeated for as long as it stays."""
    width, height = images[0].size
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", f"{1000 / INTERVAL:g}", "-i", "-", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white"]
    command += ["-pix_fmt", "yuv420p", "-r", "25", "-f", "mp4", str(path)]
    raw = b"".join(image.tobytes() for image in _held(images))
    done = subprocess.run(command, input=raw, capture_output=True, check=False)
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise UserError(f"ffmpeg cannot write the animation ({reason}): name a .gif")


def _held(images: Sequence[Image.Image]) -> Iterator[Image.Image]:
    yield from images
    yield from [images[-1]] * (LAST // INTERVAL - 1)
