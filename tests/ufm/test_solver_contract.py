"""What every solver promises: a new one is tested by being there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from plugins import install
from test_ufm_solvers import same

from ncpipe.settings.registry import names_in_settings
from ncpipe.ufm import NoClosedForm, Problem, fit
from ncpipe.ufm.settings import UfmSpec
from ncpipe.ufm.solvers import SOLVERS, _base

SMALL = {"starts": 2, "max_iterations": 30, "steps": 200, "points": 5, "momentum": 0.5, "init_scale": 0.5}
"""Options that end soon, as far as a solver has them."""
ASSORTED = [
    Problem(3, 4, 5, weight_decay=0.01),
    Problem(3, 4, 5, weight_decay=0.02),
    Problem(3, 40, 17, weight_decay=(0.01, 0.02)),
    Problem(3, 40, 17, weight_decay=(0.05, 0.02)),
    Problem(3, 4, (5, 4), weight_decay=(0.01, 0.02), activation="relu"),
    Problem(3, 4, 5, classifier="etf", bias="free"),
    Problem(3, 60, 1, weight_decay=0.01),  # products with vectors
    Problem(3, 40, 17, loss="ce", temperature=4.0),
    Problem(4, {1: 3, 2: 2}, 6, "pick_all_labels", weight_decay=0.01),
    Problem(4, {1: 3, 2: 2}, 6, "pick_all_labels", weight_decay=0.02),
    Problem(3, 4, 5, "focal", gamma=2.0, classifier="etf"),
]
each = pytest.mark.parametrize("name", SOLVERS)


def usual(name: str) -> dict[str, Any]:
    return {option: field.default for option, field in SOLVERS[name].model_fields.items() if option != "name"}


@each
def test_it_decreases_the_objective_or_says_what_it_is_not_for(name: str) -> None:
    solver = SOLVERS[name]
    assert names_in_settings(solver) == (name,)
    assert all(solver.model_fields[option].description for option in usual(name))
    problem = Problem(3, 4, 5, weight_decay=0.01)
    if not solver.fits_problems:
        with pytest.raises(ValueError, match=f"^solver '{name}': "):
            fit(problem, name)
        return
    result = fit(problem, name)
    assert problem.optimum().value <= result.value * (1 + 1e-12)
    assert result.value < fit(problem, "gradient_descent", steps=1, points=2).history.value[0]
    assert all(b <= a * (1 + 1e-12) for a, b in zip(result.history.value, result.history.value[1:]))


@each
def test_its_options_are_those_of_its_settings(name: str) -> None:
    solver = SOLVERS[name]
    assert solver.with_options(usual(name)) == solver.model_validate({"name": name})
    for option in usual(name):
        with pytest.raises(ValueError, match=f"^{option}: got 'much'; needs "):
            solver.with_options({option: "much"})
    with pytest.raises(ValueError, match=f"solver '{name}' has no option 'speed'"):
        solver.with_options({"speed": 3})


@pytest.mark.every(2)
@pytest.mark.parametrize("name", [name for name, solver in SOLVERS.items() if solver.fits_problems])
def test_bits_depend_neither_on_the_batch_nor_on_chunks_nor_on_threads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {option: value for option, value in SMALL.items() if option in usual(name)}
    fitted = {}
    for seed, problem in enumerate(ASSORTED):
        with suppress(ValueError, NoClosedForm):
            fitted[seed] = fit(problem, name, seed=seed, **options)
    seeds, alone = [*fitted], [*fitted.values()]
    problems = [ASSORTED[seed] for seed in seeds]
    assert len(problems) >= 4
    twice = [*range(len(problems)), 0, 1]
    before = torch.get_num_threads()
    try:
        for chunk, threads, order in [(_base.CHUNK, 2, twice[::-1]), (2**12, 3, twice), (1, 2, twice[:2])]:
            monkeypatch.setattr(_base, "CHUNK", chunk)
            torch.set_num_threads(threads)
            found = fit([problems[i] for i in order], name, seed=[seeds[i] for i in order], **options)
            assert torch.get_num_threads() == threads
            assert all(same(alone[i], result) for i, result in zip(order, found, strict=True))
    finally:
        torch.set_num_threads(before)


NEW = """
from typing import Literal
from ncpipe.ufm.result import Recorder
from ncpipe.ufm.solvers import BaseSolver

class Solver(BaseSolver):
    '''The closed form, said twice.'''
    name: Literal["again"]
    times: int = 2

    def run(self, problems, seeds, device):
        recorders = [Recorder(problem) for problem in problems]
        for recorder in recorders:
            for time in range(self.times):
                recorder.record(time, recorder.problem.construct(), *recorder.problem.construct().evaluate())
        return [recorder.result("said") for recorder in recorders]
"""


def test_a_solver_of_another_package_works_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(SOLVERS, "again", NEW, tmp_path / "package", monkeypatch, ":Solver")
    problem = Problem(3, 4, 5)
    assert fit([problem, problem], "again", times=3)[1].history.iterations == [0, 1, 2]
    with pytest.raises(ValueError, match="solver 'again' has no option 'steps'; its options: times"):
        fit(problem, "again", steps=3)
    spec = UfmSpec.model_validate({"classes": 3, "samples": 4, "dim": 5, "solver": {"name": "again"}})
    assert spec.slug == "plain-mse-nobias-again-s0"
    assert spec.model_dump(exclude_defaults=True)["solver"] == {"name": "again"}
