"""Cost of the UFM solvers: batches in ncpipe against a loop over the problems with standard optimisers.

    python benchmarks/ufm.py [--full] [--threads 2] [--device cpu] [--plot docs/images/ufm_cost]

The solvers ``lbfgs`` and ``newton`` are compared with L-BFGS-B of scipy.optimize on a NumPy gradient by hand (same
stopping rule; for ``lbfgs`` same starts and number of pairs), gradient descent with autograd and torch.optim.SGD, all
in float64. What both reach is compared before anything is printed, and the fraction of starts that reach the optimum
stands beside the time. The loops run on one thread, as matrices this small are fastest, and on samples of the work,
from which they are extrapolated; ours and theirs in turns. On a GPU there are no loops, but the share of the measured
rate of float64 matrix products.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy
import torch
from collapse import load, machine
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from ncpipe.figures.drawing.style import GREY, OKABE_ITO, new_figure, style
from ncpipe.ufm import Problem, Result, fit
from ncpipe.ufm.objective import GRADIENT_TOLERANCE, Objective
from ncpipe.ufm.solvers.gradient_descent import gradient_descent
from ncpipe.ufm.solvers.lbfgs import MEMORY, lbfgs

GAP = 1e-8
"""Relative, at which a fit counts as done."""
STEP_SIZE, INIT_SCALE, BATCH = 0.1, 0.3, 16
GRID, STARTS = 1024, 4
OURS: dict[str, dict[str, Any]] = {
    "ncpipe": {"solver": "lbfgs"},
    "ncpipe, tied": {"solver": "lbfgs", "tied": True},
    "ncpipe, newton": {"solver": "newton"},
}
TIED_PART = 16
"""One problem in so many is fitted tied as well."""
PIECES = 4
FULL_STEPS = 100_000
LARGE_SIZE = (100, 500, 512)
"""K, n and d of the large problem."""
SHAPES = ((4, 20, 16), (4, 50, 20), (4, 80, 32), (10, 50, 40), (10, 100, 64), (10, 200, 100), (20, 200, 128))
"""K, n and d of the plot."""


# --- the problems ----------------------------------------------------------------------------------


def grid(count: int) -> list[Problem]:
    """ReLU-extended problems with penalties on a grid, equal for weights and features.

    ncpipe's balanced variables are then the problem's own, and its starts SciPy's.
    """
    penalties = np.geomspace(4e-3, 1e-4, count).tolist()
    return [Problem(4, 20, 16, weight_decay=(p, p), feature_decay=p, activation="relu") for p in penalties]


def start(problem: Problem, seed: int, number: int, scale: float) -> list[np.ndarray]:
    """Random start ``number`` of ``ncpipe.ufm.fit``: features (d, N), then W_1 .. W_L."""
    width = problem.widths[0]
    shapes = [(width, problem.num_samples), *[(width, width)] * (problem.depth - 1), (problem.classes, width)]
    sizes = [rows * columns for rows, columns in shapes]
    draw = scale * np.random.default_rng([seed, number]).standard_normal(sum(sizes))
    return [part.reshape(shape) for part, shape in zip(np.split(draw, np.cumsum(sizes)[:-1]), shapes)]


def targets(problem: Problem) -> np.ndarray:
    return np.repeat(np.eye(problem.classes), problem.counts, axis=1)


def operations(problem: Problem) -> int:
    """Of the matrix products of one gradient: one forward and two backward per layer."""
    sizes = [*problem.widths, problem.classes]
    return sum(6 * rows * columns * problem.num_samples for rows, columns in zip(sizes[1:], sizes[:-1]))


# --- the loops -------------------------------------------------------------------------------------


class ReluObjective:
    """Objective and gradient of the bias-free ReLU-extended problem, and the gradient's norm where last taken."""

    def __init__(self, problem: Problem) -> None:
        self.wanted, self.width, self.norm = targets(problem), problem.widths[0], np.inf
        self.decay = problem.decays[0]
        self.ends = np.cumsum([self.width * problem.num_samples, self.width**2])

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = self.decay * x
        (features, hidden, weight), grads = self._parts(x), self._parts(gradient)
        layer = np.maximum(hidden @ features, 0)
        residual = (weight @ layer - self.wanted) / self.wanted.shape[1]
        value = self.wanted.shape[1] / 2 * np.vdot(residual, residual) + self.decay / 2 * np.vdot(x, x)
        delta = weight.T @ residual
        delta[layer == 0] = 0
        for grad, part in zip(grads, (hidden.T @ delta, delta @ features.T, residual @ layer.T)):
            grad += part
        self.norm = float(np.linalg.norm(gradient))
        return float(value), gradient

    def _parts(self, x: np.ndarray) -> list[np.ndarray]:
        return [
            part.reshape(-1, n) for part, n in zip(np.split(x, self.ends), (self.wanted.shape[1], *[self.width] * 2))
        ]


def scipy_fit(problem: Problem, seed: int, number: int) -> OptimizeResult:
    """L-BFGS-B until the gradient's norm is what ``ncpipe.ufm.fit`` asks for."""
    objective = ReluObjective(problem)

    def stop_within_tolerance(intermediate_result: OptimizeResult) -> None:
        if objective.norm <= GRADIENT_TOLERANCE * np.sqrt(objective.decay * intermediate_result.fun):
            raise StopIteration

    options = {"maxcor": MEMORY, "maxiter": 5000, "maxfun": 50_000, "ftol": 0.0, "gtol": 0.0}
    x = np.concatenate([part.ravel() for part in start(problem, seed, number, 1.0)])
    return minimize(objective, x, jac=True, method="L-BFGS-B", callback=stop_within_tolerance, options=options)


def sgd(problem: Problem, seed: int, steps: int) -> float:
    """The objective that torch.optim.SGD reaches with autograd; the penalties are its weight decay."""
    factors = [torch.tensor(part, requires_grad=True) for part in start(problem, seed, 0, INIT_SCALE)]
    decays, wanted = problem.decays, torch.tensor(targets(problem))
    groups = [{"params": [factor], "weight_decay": decay} for factor, decay in zip(factors, decays)]
    optimizer = torch.optim.SGD(groups, lr=STEP_SIZE)
    for _ in range(steps):
        optimizer.zero_grad()
        half_squared_error(factors, wanted, problem.activation).backward()
        optimizer.step()
    with torch.no_grad():
        penalty = sum(decay / 2 * float(factor.square().sum()) for factor, decay in zip(factors, decays))
        return float(half_squared_error(factors, wanted, problem.activation)) + penalty


def half_squared_error(factors: list[Tensor], wanted: Tensor, activation: str) -> Tensor:
    layer = factors[0]
    for weight in factors[1:-1]:
        layer = weight @ layer
        layer = layer.relu() if activation == "relu" else layer
    return (factors[-1] @ layer - wanted).square().sum() / (2 * wanted.shape[1])


# --- the tables ------------------------------------------------------------------------------------


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def lbfgs_table(count: int, sampled: int, pieces: int, device: str) -> None:
    """Fits of a grid of penalties in ncpipe by L-BFGS, untied and tied, and by Newton, and a loop over some of them.

    The problems, each with a seed of its own, are dealt into pieces, on which all take turns: a busy machine hits all
    alike.
    """
    problems = list(enumerate(grid(count)))
    successes: dict[str, list[float]] = {name: [] for name in (*OURS, "SciPy loop")}
    rates: dict[str, list[float]] = {name: [] for name in successes}  # ms a fit, by piece
    costs: dict[str, list[float]] = {name: [] for name in successes}  # and of all processors
    draw = np.random.default_rng(0)

    def measure(name: str, fits: int, work: Callable[[], object]) -> None:
        before = time.process_time()
        rates[name].append(1e3 * timed(work) / fits)
        costs[name].append(1e3 * (time.process_time() - before) / fits)

    def batch(members: list[tuple[int, Problem]], name: str) -> None:
        seeds, listed = zip(*members)
        for result in fit(listed, seed=seeds, starts=STARTS, device=device, **OURS[name]):
            if result.missed:
                raise SystemExit(f"{name}: {result.message}")
            successes[name] += [result.success_fraction] * STARTS

    def loop(members: list[tuple[int, Problem]]) -> None:
        numbers = draw.choice(len(members) * STARTS, sampled // pieces, replace=False).tolist()
        for (seed, problem), number in [(members[i // STARTS], i % STARTS) for i in numbers]:
            gap = scipy_fit(problem, seed, number).fun / problem.optimum().value - 1
            if gap < -GAP:
                raise SystemExit(f"SciPy is below the optimum by {-gap:.1e}, relative")
            successes["SciPy loop"].append(gap <= GAP)

    for first in range(pieces):
        members = problems[first::pieces]
        for name in OURS:
            some = members[::TIED_PART] if "tied" in name else members
            measure(name, len(some) * STARTS, lambda m=some, n=name: batch(m, n))
        if device == "cpu":
            measure("SciPy loop", sampled // pieces, lambda m=members: loop(m))
    print(
        f"\nOptima: {count:,} ReLU-extended problems, K, n, d = 4, 20, 16, grid of penalties; {STARTS} starts{load()}"
    )
    print(f"to a gradient at which the gap is below {GAP:g}, relative, wherever a start gets to the optimum")
    print(f"{'':16}{'fits':>8}{'ms a fit':>10}{'CPU ms':>9}{'s for all':>11}{'at optimum':>12}{'x SciPy':>9}")
    for name in [name for name in successes if rates[name]]:
        rate, fits, share = statistics.median(rates[name]), len(successes[name]), np.mean(successes[name])
        ratio = f"{statistics.median(rates['SciPy loop']) / rate:9.1f}" if rates["SciPy loop"] else ""
        cost = statistics.median(costs[name])
        print(f"{name:16}{fits:8,}{rate:10.1f}{cost:9.1f}{rate * count * STARTS / 1e3:11.1f}{share:12.1%}{ratio}")
    print(f"medians of {pieces} pieces; rows with fewer fits are a sample, extrapolated; bar: 20 x")
    print("every problem has its own seed; ncpipe tries zero besides; at optimum: fraction of the starts")
    print("tied and newton: starts of one feature vector per class, same optimum, but a less smooth objective")


def gradient_descent_table(steps: int, repeats: int, device: str, rate: float | None) -> None:
    """Steps of a batch in ncpipe, and of its problems one after the other with SGD."""
    print(f"\nGradient descent, {BATCH} problems, K, n, d = 4, 50, 20{load()}; median of {repeats}")
    print(f"seconds of {FULL_STEPS:,} steps of all; timed: {steps:,} steps, of all in ncpipe, of one in the loop")
    last = "" if rate is None else f"{'of products':>14}"
    print(f"{'':20}{'ncpipe':>9}{'autograd+SGD':>14}{'ratio':>8}{'difference':>12}{last}")
    for name, weight_decay, activation in (
        ("plain", 5e-3, "linear"),
        ("extended, linear", (5e-3, 5e-3), "linear"),
        ("extended, ReLU", (5e-3, 5e-3), "relu"),
    ):
        problem = Problem(4, 50, 20, weight_decay=weight_decay, feature_decay=1e-3, activation=activation)
        options = {"step_size": STEP_SIZE, "init_scale": INIT_SCALE, "points": 2, "device": device}
        descend([problem] * BATCH, 10, options)
        sgd(problem, 0, 10)  # loads autograd
        ours, theirs = [], []
        for _ in range(repeats):
            begin = time.perf_counter()
            results = descend([problem] * BATCH, steps, options)
            ours.append((time.perf_counter() - begin) / steps)
            if device == "cpu":
                begin = time.perf_counter()
                value = sgd(problem, 0, steps)
                theirs.append(BATCH * (time.perf_counter() - begin) / steps)
        step = statistics.median(ours)
        if rate is not None:
            share = operations(problem) * BATCH / step / rate
            print(f"{name:20}{step * FULL_STEPS:9.1f}{'-':>14}{'-':>8}{'-':>12}{share:14.1%}")
            continue
        difference = abs(results[0].value - value) / value
        if difference > 1e-9:
            raise SystemExit(f"{name}: objectives differ by {difference:.1e}, relative")
        loop = statistics.median(theirs)
        print(f"{name:20}{step * FULL_STEPS:9.1f}{loop * FULL_STEPS:14.1f}{loop / step:8.1f}{difference:12.0e}")
    print("bar: 10 x")


def descend(problems: list[Problem], steps: int, options: dict[str, object]) -> list[Result]:
    results = fit(problems, "gradient_descent", seed=range(len(problems)), steps=steps, **options)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return results


LARGE_FIT = """
import resource, sys, time, torch
from ncpipe.ufm import Problem, fit
classes, samples, dim, threads, device = *map(int, sys.argv[1:5]), sys.argv[5]
torch.set_num_threads(threads)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.perf_counter()
problem = Problem(classes, samples, dim, weight_decay=1e-3, feature_decay=1e-5)
result = fit(problem, starts=1, device=device)
seconds = time.perf_counter() - begin
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 2**20
rate = 6 * classes**2 * samples * dim * result.iterations / seconds / 1e12
gpu = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU, {rate:.2f} Tflop/s in matrix products"
gpu = "" if device == "cpu" else gpu
assert not result.missed, result.message
print(f"{seconds:.1f} s, {result.iterations} iterations, peak {peak:.2f} GiB (Python and torch alone"
      f" {before / 2**20:.2f}){gpu}, gap {result.gap / result.optimum.value:.0e} relative")
"""


def large_fit(size: Sequence[int], threads: int, device: str) -> None:
    """One large problem, in a process of its own, whose peak memory is the fit's."""
    classes, samples, dim = size
    print(
        f"\nOne start, K, n, d = {classes}, {samples}, {dim}: H is {dim} x {classes * samples:,}{load()}; bar: 8 GiB"
    )
    command = [sys.executable, "-c", LARGE_FIT, *map(str, size), str(threads), device]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    print(ended.stdout.strip())


def product_rate(device: str, size: int) -> float:
    """Operations a second of a float64 matrix product, the best of five."""
    left, right = (torch.randn(size, size, dtype=torch.float64, device=device) for _ in range(2))
    torch.mm(left, right)
    return 2 * size**3 / min(timed(lambda: torch.mm(left, right)) for _ in range(5))


# --- the plot --------------------------------------------------------------------------------------


def cost_plot(
    path: Path, counts: Sequence[int], shapes: Sequence[tuple[int, int, int]], budget: int, device: str
) -> None:
    """Seconds an iteration against the number of problems, and against N d K of one problem; SVG and PNG."""
    by_count = {name: [iteration(name, grid(count), budget, device) for count in counts] for name in SOLVERS}
    sizes = [classes**2 * samples * dim for classes, samples, dim in shapes]
    listed = [[Problem(*shape, weight_decay=1e-3, feature_decay=1e-3)] * BATCH for shape in shapes]
    by_size = {name: [iteration(name, problems, budget, device) / BATCH for problems in listed] for name in SOLVERS}
    with style():
        figure = new_figure(5.5, 2.1)
        left, right = figure.subplots(1, 2)
        draw(left, counts, by_count, "problems in the batch", "seconds an iteration, all problems")
        draw(right, sizes, by_size, r"$N\,d\,K$", "seconds an iteration, one problem")
        right.legend(loc="lower right", handlelength=1.6)
        for suffix in (".svg", ".png"):
            metadata = {"Date": None} if suffix == ".svg" else {}
            figure.savefig(path.with_suffix(suffix), metadata=metadata)
    for name in SOLVERS:
        exponents = slope(counts, by_count[name]), slope(sizes, by_size[name])
        print(f"{name}: cost grows as problems^{exponents[0]:.2f}, (N d K)^{exponents[1]:.2f} in the upper half")


SOLVERS = {"L-BFGS": ("lbfgs", "blue", "o"), "gradient descent": ("gradient_descent", "vermillion", "s")}


def iteration(name: str, problems: list[Problem], budget: int, device: str) -> float:
    """Seconds of one iteration of all problems in one batch on one thread: the least of three runs of the solver."""
    objective = Objective.of(problems, device=device)
    draws = np.stack([np.concatenate([p.ravel() for p in start(q, n, 0, 1.0)]) for n, q in enumerate(problems)])
    begin = torch.from_numpy(draws).to(device) * INIT_SCALE
    descends = SOLVERS[name][0] == "gradient_descent"
    work = len(problems) * operations(problems[0]) * (1 if descends else 10)
    steps = max(20, min(400 if descends else 60, budget // work))  # few enough for L-BFGS not to end before

    def run() -> object:
        if descends:
            return gradient_descent(objective, begin, STEP_SIZE, 0.0, [steps], lambda *_: None)
        return lbfgs(objective, begin, steps)

    return min(timed(run) for _ in range(3)) / steps


def draw(axes: mpl.axes.Axes, x: Sequence[int], seconds: dict[str, list[float]], label: str, title: str) -> None:
    for name, values in seconds.items():
        _, colour, marker = SOLVERS[name]
        axes.loglog(x, values, marker + "-", color=OKABE_ITO[colour], label=name)
        line = [values[-1] * count / x[-1] for count in x]
        axes.loglog(x, line, ":", color=GREY, linewidth=0.8, zorder=0)
    axes.loglog([], [], ":", color=GREY, linewidth=0.8, label="linear")
    axes.set_xlabel(label)
    axes.set_title(title, loc="left")


def slope(x: Sequence[int], y: Sequence[float]) -> float:
    """Exponent between the last half of the points."""
    half = len(x) // 2
    return float(np.polyfit(np.log(x[half:]), np.log(y[half:]), 1)[0])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="time all fits and steps: no sample, no extrapolation")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of ncpipe")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--plot", type=Path, help="only the plot of cost: where to, without suffix")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    tiny, device = chosen.tiny, chosen.device
    with threadpool_limits(1):  # NumPy's and SciPy's; torch keeps its own
        torch.set_num_threads(chosen.threads)
        print(f"{machine(device)}, SciPy {scipy.__version__}")
        fit(Problem(2, 2, 2), starts=1, device=device)  # loads what is loaded at first use
        if chosen.plot is not None:
            counts = (1, 2, 4) if tiny else tuple(2**power for power in range(0, 11))
            cost_plot(chosen.plot, counts, SHAPES[:3] if tiny else SHAPES, 1 if tiny else 10**9, device)
            return
        rate = None
        if device != "cpu":
            rate = product_rate(device, 64 if tiny else 8192)
            print(f"float64 matrix products: {rate / 1e12:.2f} Tflop/s")
        count, sampled = (1, 1) if tiny else (GRID, GRID * STARTS if chosen.full else 96)
        lbfgs_table(count, sampled, 1 if tiny else PIECES, device)
        gradient_descent_table(20 if tiny else FULL_STEPS if chosen.full else 2000, chosen.repeats, device, rate)
    large_fit((3, 4, 5) if tiny else LARGE_SIZE, chosen.threads, device)


if __name__ == "__main__":
    main()
