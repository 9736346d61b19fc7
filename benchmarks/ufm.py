"""Speed of the UFM solvers: batches in ncpipe against one problem after the other with standard optimisers.

    python benchmarks/ufm.py [--steps 4000]

Gradient descent is compared with autograd and torch.optim.SGD, L-BFGS with scipy.optimize's L-BFGS-B on a
hand-written NumPy gradient: same starts, float64, one thread, and for L-BFGS the same stopping rule. What the
two reach is compared before anything is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from collapse import machine
from scipy.optimize import OptimizeResult, minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from ncpipe.ufm import Problem, fit
from ncpipe.ufm.fit import GRADIENT_TOLERANCE
from ncpipe.ufm.solvers import MEMORY

STEP_SIZE, INIT_SCALE = 0.1, 0.3
BATCH = 16


def start(problem: Problem, seed: int, scale: float) -> list[np.ndarray]:
    """The random start of ``ncpipe.ufm.fit``: features (d, N), then W_1 .. W_L."""
    d, hidden = problem.dim, [(problem.dim, problem.dim)] * (problem.depth - 1)
    shapes = [(d, problem.num_samples), *hidden, (problem.classes, d)]
    sizes = [rows * columns for rows, columns in shapes]
    draw = scale * np.random.default_rng([seed, 0]).standard_normal(sum(sizes))
    return [part.reshape(shape) for part, shape in zip(np.split(draw, np.cumsum(sizes)[:-1]), shapes)]


def targets(problem: Problem) -> np.ndarray:
    return np.repeat(np.eye(problem.classes), problem.counts, axis=1)


# --- gradient descent ------------------------------------------------------------------------------


def sgd(problem: Problem, seed: int, steps: int) -> float:
    """The objective that torch.optim.SGD reaches with autograd; the penalties are its weight decay."""
    factors = [torch.tensor(part, requires_grad=True) for part in start(problem, seed, INIT_SCALE)]
    decays = [problem.feature_decay, *problem.weight_decays]
    wanted = torch.tensor(targets(problem))
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


def gradient_descent_rows(steps: int) -> None:
    print(f"\nGradient descent, {BATCH} problems, K = 4, d = 20, n = 50; steps of one problem per second")
    print(f"(timed over {steps} steps of all {BATCH} in ncpipe, of one problem with SGD; start and end are measured)")
    print(f"{'':28}{'ncpipe':>10}{'autograd+SGD':>14}{'ratio':>8}{'difference':>12}")
    for name, weight_decay, activation in (
        ("plain", 5e-3, "linear"),
        ("extended, linear", (5e-3, 5e-3), "linear"),
        ("extended, ReLU", (5e-3, 5e-3), "relu"),
    ):
        problem = Problem(4, 50, 20, weight_decay=weight_decay, feature_decay=1e-3, activation=activation)
        options = {"steps": steps, "step_size": STEP_SIZE, "init_scale": INIT_SCALE, "points": 2}
        ours, results = timed(
            lambda p=problem, o=options: fit([p] * BATCH, "gradient_descent", seed=range(BATCH), **o)
        )
        sgd(problem, 0, 100)  # loads autograd
        theirs, value = timed(lambda p=problem: sgd(p, 0, steps))
        difference = abs(results[0].value - value) / value
        if difference > 1e-9:
            raise SystemExit(f"{name}: objectives differ by {difference:.1e}, relative")
        rates = BATCH * steps / ours, steps / theirs
        print(f"{name:28}{rates[0]:10.0f}{rates[1]:14.0f}{rates[0] / rates[1]:8.1f}{difference:12.0e}")


# --- L-BFGS ----------------------------------------------------------------------------------------


class PlainObjective:
    """Objective and gradient of the plain bias-free problem in NumPy, and the gradient's norm where last taken."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.wanted, self.norm = problem, targets(problem), np.inf
        self.split = problem.dim * problem.num_samples

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        p = self.problem
        features, weight = x[: self.split].reshape(p.dim, -1), x[self.split :].reshape(-1, p.dim)
        residual = (weight @ features - self.wanted) / p.num_samples
        value = p.num_samples / 2 * np.vdot(residual, residual)
        value += p.feature_decay / 2 * np.vdot(features, features) + p.weight_decays[0] / 2 * np.vdot(weight, weight)
        parts = weight.T @ residual + p.feature_decay * features, residual @ features.T + p.weight_decays[0] * weight
        gradient = np.concatenate([part.ravel() for part in parts])
        self.norm = float(np.linalg.norm(gradient))
        return float(value), gradient


def scipy_fit(problem: Problem, seed: int) -> OptimizeResult:
    """L-BFGS-B until the gradient's norm is what ``ncpipe.ufm.fit`` asks for."""
    objective = PlainObjective(problem)

    def stop_within_tolerance(intermediate_result: OptimizeResult) -> None:
        if objective.norm <= GRADIENT_TOLERANCE * np.sqrt(problem.feature_decay * intermediate_result.fun):
            raise StopIteration

    options = {"maxcor": MEMORY, "maxiter": 5000, "maxfun": 50_000, "ftol": 0.0, "gtol": 0.0}
    x = np.concatenate([part.ravel() for part in start(problem, seed, 1.0)])
    return minimize(objective, x, jac=True, method="L-BFGS-B", callback=stop_within_tolerance, options=options)


def lbfgs_rows() -> None:
    print("\nL-BFGS, plain bias-free MSE, one start for each of 6 penalties x seeds; seconds for all")
    print(f"{'':28}{'ncpipe':>10}{'tied':>8}{'SciPy loop':>12}{'ratio':>8}{'tied':>8}{'worst gap':>12}")
    for classes, dim, samples, seeds in ((4, 20, 50, 4), (10, 64, 100, 1)):
        # Equal penalties: ncpipe's balanced variables are then the problem's own, and the starts agree.
        grid = list(product(np.geomspace(1e-4, 2e-3, 6) / np.sqrt(samples / 5), range(seeds)))
        problems = [Problem(classes, samples, dim, weight_decay=v, feature_decay=v) for v, _ in grid]
        numbers = [seed for _, seed in grid]
        ours, results = timed(lambda p=problems, n=numbers: fit(p, "lbfgs", starts=1, seed=n))
        tied, shared = timed(lambda p=problems, n=numbers: fit(p, "lbfgs", starts=1, seed=n, tied=True))
        theirs, found = timed(lambda p=problems, n=numbers: [scipy_fit(*pair) for pair in zip(p, n)])
        optima = [problem.optimum().value for problem in problems]
        values = [[r.value for r in results], [r.value for r in shared], [r.fun for r in found]]
        worst = max(abs(v - f) / f for row in values for v, f in zip(row, optima))
        if worst > 1e-8:
            raise SystemExit(f"a solver missed an optimum by {worst:.1e}, relative")
        name = f"{len(grid)} x (K, d, n = {classes}, {dim}, {samples})"
        print(f"{name:28}{ours:10.2f}{tied:8.2f}{theirs:12.2f}{theirs / ours:8.2f}{theirs / tied:8.1f}{worst:12.0e}")


def timed(work: Callable[[], object]) -> tuple[float, object]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="of gradient descent; rates are per second")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        print(machine())
        fit(Problem(2, 2, 2), starts=1)  # loads what is loaded at first use
        gradient_descent_rows(arguments.steps)
        lbfgs_rows()


if __name__ == "__main__":
    main()
