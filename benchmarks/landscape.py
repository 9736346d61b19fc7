"""Critical points of random UFMs above the optimum, and how many of them are no strict saddles.

python benchmarks/landscape.py [--problems 50] [--starts 64]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from ncpipe.ufm import Problem, landscape

MODELS = {
    "mse": {},
    "mse, free bias": {"bias": "free"},
    "ce": {"loss": "ce"},
    "label smoothing": {"loss": "label_smoothing", "smoothing": 0.1},
    "focal": {"loss": "focal", "gamma": 2.0},
    "ce on spheres": {"loss": "ce", "temperature": 1.0},
    "mse, two weight layers": {"depth": 2},
}


def draw(rng: np.random.Generator, depth: int = 1, **model: object) -> Problem:
    """A problem of 3 to 5 classes, at least as wide, with penalties below those at which zero is optimal."""
    classes = int(rng.integers(3, 6))
    penalties = {
        "weight_decay": (10 ** rng.uniform(-3, -2, depth)).tolist(),
        "feature_decay": 10 ** rng.uniform(-4, -3),
    }
    if "temperature" in model:
        model, penalties = model | {"temperature": float(rng.uniform(0.5, 4))}, {}
    return Problem(
        classes, samples=int(rng.integers(2, 8)), dim=classes + int(rng.integers(0, 3)), **penalties, **model
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--starts", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | critical points | above the optimum | no strict saddle | optimum reached | seconds |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, model in MODELS.items():
        rng, began = np.random.default_rng(0), time.perf_counter()
        found = [landscape(draw(rng, **model), options.starts, seed) for seed in range(options.problems)]
        above = [point for points in found for point in points if not point.is_global]
        spurious = sum(not point.is_strict_saddle for point in above)
        reached = sum(any(point.is_global for point in points) for points in found)
        seconds = time.perf_counter() - began
        counts = f"{sum(map(len, found))} | {len(above)} | {spurious} | {reached} of {len(found)}"
        print(f"| {name} | {counts} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
