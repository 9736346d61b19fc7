"""All that a GPU has to show, in the order of its worth, in at most eight minutes.

    python -m benchmarks.gpu OUT [--minutes 8] [--steps checks,metrics] [--cifar10 FILE.npz] [--toy]

Every step writes OUT/gpu.json as it ends, so that a run that is cut keeps what it has; a step that fails leaves its
error there, and the rest goes on. ``--table`` prints the table of docs/gpu.md from OUT. ``--toy``: any device, sizes
that show only that everything runs. Needs the light library, torchvision, pyarrow and pandas.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import collapse as metrics_benchmark

import ncpipe
from ncpipe.collapse import SecondPass, class_means, moments
from ncpipe.data.dataset import Dataset, Split
from ncpipe.networks import build_network
from ncpipe.records.writing import read_table
from ncpipe.system.files import read_json, write_json
from ncpipe.training.computation import Computation, computes_bf16, training_flops
from ncpipe.training.preemption import StopRequest
from ncpipe.training.settings import NetworkRun, NetworkSpec, measured_times
from ncpipe.training.trainer import Trainer
from ncpipe.ufm import Problem, fit

PEAKS = {"A100": 312, "H100 PCIe": 756, "H100 NVL": 835, "H200 NVL": 835, "H100": 989, "H200": 989}
"""Tflop/s of dense products in bf16 by GPU, from NVIDIA's data sheets."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Where and how large."""

    device: torch.device
    toy: bool
    cifar10: Path | None
    seconds: float
    """That training of real images may take."""

    def size(self, full: int, toy: int) -> int:
        return toy if self.toy else full


# --- what is trained -------------------------------------------------------------------------------


def random_images(count: int, shape: Sequence[int], classes: int = 10) -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % classes
        return Split(torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator), labels)

    channels = torch.ones(shape[0])
    return Dataset(
        "random", tuple(map(str, range(classes))), split(count), split(count // 10), channels / 2, channels / 4
    )


def run_of(name: str = "run", **settings: Any) -> NetworkRun:
    base = {"dataset": {"name": "cifar10"}, "loss": {"name": "ce"}, "schedule": {"name": "constant"}, "epochs": 200}
    base |= {"optimizer": {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}}
    spec = NetworkSpec.model_validate(base | settings)
    return NetworkRun(name, spec, "images", measured_times((spec.epochs,), spec), tuple(spec.layers()))


def train(run: NetworkRun, data: Dataset, folder: Path, computation: Computation) -> None:
    """A whole run, as the stage of the pipeline trains it, which needs more of it."""
    computation.configure()
    trainer = Trainer([run], [folder], data, computation)
    trainer.fit(StopRequest())
    trainer.publish(StopRequest())


def history(folder: Path, quantity: str) -> dict[int, float]:
    """A quantity of a trained network by time."""
    rows = read_table(folder / "history.parquet").to_pylist()
    return {row["time"]: row["value"] for row in rows if row["quantity"] == quantity}


def epochs(trainer: Trainer, count: int) -> float:
    """Images/s, the median of some epochs after one to warm up."""
    for _ in range(count + 1):
        trainer.computation.configure()
        trainer.epoch(StopRequest())
    return statistics.median(timing["images_per_second"] for timing in trainer.progress[0].timings[1:])


def scripts_rate(dataset: Dataset, run: NetworkRun, device: torch.device, count: int) -> float:
    """Images/s of the field's loop on the device, its images there beforehand: float32 as torch comes, eager, NCHW,
    ``loss.item()`` and the count of right decisions at every step."""
    network = build_network(run.spec.model, run.spec.head, dataset.image_shape, len(dataset.class_names), 0).to(
        device
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = (dataset.train.images.to(device).float() / 255 - 0.5) / 0.25
    labels, rates = dataset.train.labels.to(device), []
    for _ in range(count + 1):
        start = time.perf_counter()
        for rows in torch.randperm(len(labels), device=device).split(run.spec.batch_size):
            loss = nn.functional.cross_entropy(logits := network(images[rows]).logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item(), (logits.argmax(dim=1) == labels[rows]).sum().item()
        rates.append(len(labels) / (time.perf_counter() - start))
    return statistics.median(rates[1:])


# --- the steps -------------------------------------------------------------------------------------


def checks(setting: Setting) -> Result:
    """What must be right before anything is fast: each a name and the largest difference, or whether it holds."""
    device, cpu, found = setting.device, torch.device("cpu"), {}
    for classes in (10, 40):  # of which the products are in a kernel, and in cuBLAS
        case = metrics_benchmark.Case.random(5000, 64, classes)
        arrays = (case.features, case.labels, case.weight, case.bias)
        here, there = (ncpipe.measure(*(array.to(d) for array in arrays)) for d in (device, cpu))
        found[f"metrics of {classes} classes against the CPU, relative"] = max(
            abs(here[name] - value) / max(abs(value), 1e-12) for name, value in there.items() if math.isfinite(value)
        )
    problem = Problem(4, 20, 16, weight_decay=(2e-3, 2e-3), feature_decay=2e-3, activation="relu")
    values = [fit(problem, starts=4, device=d).value for d in (device, cpu)]
    found["UFM fit against the CPU, relative"] = abs(values[0] / values[1] - 1)
    data = random_images(200, (1, 8, 8))
    run = run_of(model={"name": "convnet", "depth": 2, "width": 4}, epochs=4, batch_size=40, precision="float32")
    with tempfile.TemporaryDirectory() as place:
        weights = {}
        for name, computation in {
            "eager": Computation(device, deterministic=True),
            "again": Computation(device, deterministic=True),
            "compiled": Computation(device, compiled=not setting.toy),
            "cpu": Computation(cpu),
        }.items():
            train(run, data, Path(place) / name, computation)
            weights[name] = (Path(place) / name / "model.safetensors").read_bytes()
        losses = {name: _losses(Path(place) / name) for name in weights}
        found["repeated bit for bit"] = weights["eager"] == weights["again"]
        found["compiled against eager, loss"] = float(np.abs(losses["compiled"] - losses["eager"]).max())
        found["GPU against CPU, loss"] = float(np.abs(losses["cpu"] - losses["eager"]).max())
        cut = Trainer([run], [Path(place) / "cut"], data, Computation(device, deterministic=True))
        cut.computation.configure()
        cut.epoch(StopRequest())
        cut.save()
        train(run, data, Path(place) / "cut", Computation(device, deterministic=True))
        found["resumed bit for bit"] = weights["eager"] == (Path(place) / "cut/model.safetensors").read_bytes()
    return found


def _losses(folder: Path) -> np.ndarray:
    """Training losses by epoch."""
    return np.array(list(history(folder, "train_loss").values()))


def training(setting: Setting) -> Result:
    """Images/s of one ResNet18, in float32 and bf16, eager and compiled, beside the field's loop."""
    data = random_images(setting.size(50_000, 64), (3, 32, 32))
    run = run_of(model={"name": "resnet18", "width": setting.size(64, 4)}, batch_size=setting.size(512, 32))
    flops = training_flops(build_network(run.spec.model, run.spec.head, (3, 32, 32), 10, 0), (3, 32, 32))
    name = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else ""
    peak = next((1e12 * rate for part, rate in PEAKS.items() if part in name), None)
    rates = {"the field's loop, float32": scripts_rate(data, run, setting.device, setting.size(2, 1))}
    ways = [("float32", False), ("bf16", False)] + [("bf16", True)] * (not setting.toy)
    for precision, compiled in ways if computes_bf16(setting.device) else ways[:1]:
        with tempfile.TemporaryDirectory() as place:
            computation = Computation(setting.device, precision, compiled)
            rate = epochs(Trainer([run], [Path(place)], data, computation), setting.size(3, 1))
        rates[f"ncpipe, {precision}{', compiled' * compiled}"] = rate
    return {
        "images_per_second": rates,
        "mfu": {way: None if peak is None else rate * flops / peak for way, rate in rates.items()},
    }


def ensembles(setting: Setting) -> Result:
    """Images/s of eight narrow ResNet18 as one stack, against one after the other."""
    data, rates = random_images(setting.size(10_000, 64), (3, 32, 32)), {}
    settings = {"model": {"name": "resnet18", "width": setting.size(8, 4)}, "batch_size": setting.size(128, 32)}
    for members in (1, setting.size(8, 2)):
        runs = [run_of(f"run{seed}", **settings, seed=seed) for seed in range(members)]
        with tempfile.TemporaryDirectory() as place:
            computation = Computation(setting.device, "bf16" if computes_bf16(setting.device) else "float32")
            trainer = Trainer(runs, [Path(place) / run.id for run in runs], data, computation)
            rates[members] = epochs(trainer, setting.size(2, 1))
    return {"images_per_second": rates, "ratio": rates[max(rates)] / rates[1]}


def metrics(setting: Setting) -> Result:
    """Seconds of ``ncpipe.measure`` and of its two passes over the features, by the fused kernels where they run and
    by plain torch; and how many reads of the features that is, at the bandwidth measured here."""
    found = {}
    for size in [(500, 16, 3)] if setting.toy else [(50_000, 512, 10), (200_000, 2048, 1000)]:
        case = metrics_benchmark.Case.random(*size, str(setting.device))
        seconds = {}
        if moments.kernels_for(case.features) is not None:
            seconds = {f"{name}, fused": taken for name, taken in _seconds_of_metrics(case, setting).items()}
        with patch.object(moments, "_kernels", lambda device: None):
            seconds |= {f"{name}, plain": taken for name, taken in _seconds_of_metrics(case, setting).items()}
        read = metrics_benchmark.seconds_of_two_reads(case) / 2
        reads = {name: taken / read for name, taken in seconds.items()}
        found["N, d, K = " + ", ".join(f"{n:,}" for n in size)] = {"seconds": seconds, "reads": reads}
        del case
    return found


def _seconds_of_metrics(case: metrics_benchmark.Case, setting: Setting) -> dict[str, float]:
    """Medians after one call to warm up, which also compiles."""
    features, labels, classes = case.features, case.labels, len(case.weight)
    second = SecondPass(*class_means(features, labels, classes), weight=case.weight, bias=case.bias)

    def timed(work: Callable[[], Any]) -> float:
        method = metrics_benchmark.Method("", lambda _: work(), 0.0)
        for _ in range(setting.size(6, 2)):
            method.run(case)
        return statistics.median(method.seconds[1:])

    return {
        "measure": timed(lambda: metrics_benchmark.measure(case)),
        "first pass": timed(lambda: class_means(features, labels, classes)),
        "second pass": timed(lambda: second(features, labels)),
    }


def ufm(setting: Setting) -> Result:
    """Fits a second of 1,024 ReLU-extended problems with four starts, and steps a second of gradient descent."""
    grid = np.geomspace(4e-3, 1e-4, setting.size(1024, 4)).tolist()
    problems = [Problem(4, 20, 16, weight_decay=(p, p), feature_decay=p, activation="relu") for p in grid]
    fit(problems[:2], starts=1, device=setting.device)
    start = time.perf_counter()
    results = fit(problems, starts=4, seed=range(len(problems)), device=setting.device)
    seconds = time.perf_counter() - start
    steps = setting.size(5000, 50)
    start = time.perf_counter()
    fit(problems[:16], "gradient_descent", steps=steps, points=2, device=setting.device)
    return {
        "fits_per_second": 4 * len(problems) / seconds,
        "missed": sum(result.missed for result in results),
        "steps_per_second": steps / (time.perf_counter() - start),
    }


def cifar10(setting: Setting) -> Result:
    """Accuracy of a ResNet18 on CIFAR-10 after as many epochs as fit into the time, with crop and flip."""
    data = _cifar10(setting.cifar10) if setting.cifar10 else random_images(64, (3, 32, 32))
    augment = {"flip": True, "crop": 4}
    model = {"name": "resnet18", "width": setting.size(64, 4)}
    one = run_of(model=model, batch_size=setting.size(512, 32), augment=augment)
    bf16 = "bf16" if computes_bf16(setting.device) else "float32"
    with tempfile.TemporaryDirectory() as place:
        rate = epochs(Trainer([one], [Path(place)], data, Computation(setting.device, bf16)), 1)
    count = max(1, min(60, int(setting.seconds * rate / len(data.train.labels) * 0.8)))
    schedule = {"name": "cosine", "warmup_epochs": min(2, count - 1)}
    optimizer = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    run = run_of(
        model=model,
        batch_size=one.spec.batch_size,
        augment=augment,
        epochs=count,
        schedule=schedule,
        optimizer=optimizer,
    )
    with tempfile.TemporaryDirectory() as place:
        train(run, data, Path(place), Computation(setting.device, bf16))
        history = read_table(Path(place) / "history.parquet").to_pandas()
    last = history[history["time"] == count].set_index("quantity")["value"]
    names = ("train_accuracy", "test_accuracy", "test_loss")
    return {"images": "CIFAR-10" if setting.cifar10 else "random", "epochs": count} | {
        n: float(last[n]) for n in names
    }


def _cifar10(file: Path) -> Dataset:
    """train_images, train_labels, test_images, test_labels of an npz, images (N, 3, 32, 32) uint8."""
    with np.load(file, allow_pickle=False) as arrays:
        splits = [
            Split(torch.from_numpy(arrays[f"{part}_images"]), torch.from_numpy(arrays[f"{part}_labels"]).long())
            for part in ("train", "test")
        ]
    pixels = splits[0].images[:10_000].double() / 255
    names = tuple(map(str, range(10)))
    return Dataset("cifar10", names, *splits, pixels.mean((0, 2, 3)).float(), pixels.std((0, 2, 3)).float())


def terminal(setting: Setting) -> Result:
    """The end phase of a ResNet18 by MSE without bias: seconds an iteration, and how far it comes."""
    data = random_images(setting.size(5000, 40), (1, 28, 28) if not setting.toy else (1, 8, 8))
    run = run_of(
        model={"name": "resnet18", "width": setting.size(64, 4)}, loss={"name": "mse"}, head={"bias": False},
        epochs=setting.size(20, 1), batch_size=setting.size(128, 20), precision="float32",
        terminal={"iterations": setting.size(50, 2), "tolerance": 1e-9},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        train(run, data, Path(place), Computation(setting.device))
        seconds = time.perf_counter() - start
        record, history = (
            read_json(Path(place) / "spec.json"),
            read_table(Path(place) / "history.parquet").to_pandas(),
        )
    norms = history[history["quantity"] == "gradient_norm"].sort_values("time")["value"]
    return {"seconds": seconds, "final_time": record["final_epoch"], "gradient_norm": float(norms.iloc[-1])}


STEPS: dict[str, Callable[[Setting], Result]] = {
    step.__name__: step for step in (checks, training, ensembles, metrics, ufm, cifar10, terminal)
}


# --- the run ---------------------------------------------------------------------------------------


def run_steps(out: Path, names: Sequence[str], setting: Setting, minutes: float) -> Result:
    """Run the steps in order, while there is time, and write what is known after each."""
    began, target = time.perf_counter(), out / "gpu.json"
    record: Result = {"machine": metrics_benchmark.machine(str(setting.device)), "toy": setting.toy, "steps": {}}
    for name in names:
        left = 60 * minutes - (time.perf_counter() - began)
        if left <= 0:
            record["steps"][name] = {"left out": f"{minutes:g} minutes were over"}
            write_json(target, record)
            continue
        start = time.perf_counter()
        try:
            found = STEPS[name](replace(setting, seconds=min(setting.seconds, left / 2)))
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        record["steps"][name] = found | {"took": time.perf_counter() - start}
        write_json(target, record)
        print(name, json.dumps(record["steps"][name]), flush=True)
    return record


def table(record: Result) -> str:
    """The figures as a Markdown table, a row a number."""
    rows = [f"{record['machine']}", "", "| step | quantity | value |", "|---|---|---:|"]
    for name in [name for name in STEPS if name in record["steps"]]:
        rows += [f"| {name} | {quantity} | {value} |" for quantity, value in _flat(record["steps"][name])]
    return "\n".join(rows)


def _flat(found: Result, before: str = "") -> list[tuple[str, str]]:
    parts = []
    for name, value in found.items():
        label = f"{before}{name}".replace("_", " ")
        if isinstance(value, dict):
            parts += _flat(value, f"{label}: ")
        else:
            parts.append((label, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return parts


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--steps", default=",".join(STEPS), help="comma-separated, in this order")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cifar10", type=Path, help="npz of uint8 images; without it the images are random")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the table of what OUT holds, and run nothing")
    chosen = parser.parse_args(words)
    if chosen.table:
        print(table(read_json(chosen.out / "gpu.json")))
        return
    unknown = set(names := chosen.steps.split(",")) - STEPS.keys()
    if unknown:
        parser.error(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --toy --device cpu runs every step at sizes that measure nothing")
    chosen.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(torch.device(chosen.device), chosen.toy, chosen.cifar10, seconds=120.0)
    print(table(run_steps(chosen.out, names, setting, chosen.minutes)))


if __name__ == "__main__":
    main()
