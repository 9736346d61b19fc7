"""Claims on the rank of deep UFMs: the construction's objective at its own point, and tables of a known answer."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from test_claims_deep import DEEP, frames, measured, row

from ncpipe.claims.sukenik2024 import CLAIMS, graph_value
from ncpipe.ufm import Minimiser, Problem


def low_rank_point(problem: Problem, vertices: int, fit: float) -> Minimiser:
    """The construction of a complete graph, with gains by which all factors pay alike."""
    K, L, d = problem.classes, problem.depth, problem.widths[0]
    edges = torch.zeros(vertices, K, dtype=torch.float64)
    for number, ends in enumerate(itertools.combinations(range(vertices), 2)):
        edges[list(ends), number] = 1
    blocks = [edges.T, *[torch.eye(vertices).double()] * (L - 2), 2 * edges.T - 1, torch.eye(K).double()]
    penalties = [problem.counts[0] * problem.decays[0], *problem.decays[1:]]
    prices = [penalty * float(block.square().sum()) for penalty, block in zip(penalties, blocks, strict=True)]
    paid = (math.prod(prices) * (fit / 2) ** 2) ** (1 / (L + 1))
    factors = []
    for block, price in zip(blocks, prices, strict=True):
        factor = torch.zeros(K if len(factors) in (0, L) else d, d, dtype=torch.float64)
        factor[: block.shape[0], : block.shape[1]] = (paid / price) ** 0.5 * block
        factors.append(factor)
    return Minimiser(problem, factors[0], factors[1:], None, tied=True)


@pytest.mark.parametrize(("vertices", "depth"), [(4, 3), (4, 4), (5, 4), (4, 5)])
def test_the_construction_has_the_value_that_is_said_of_it(vertices, depth):
    K, decays = vertices * (vertices - 1) // 2, (4e-3, 3e-3, 2e-3, 4e-3, 4e-3)[:depth]
    problem = Problem(K, 3, K, weight_decay=decays, feature_decay=8e-3, activation="relu")
    value = graph_value(K, 3, decays, 8e-3)
    fits = torch.linspace(0.5, 1, 501).tolist()
    best = min(low_rank_point(problem, vertices, fit).evaluate()[0] for fit in fits)
    assert best == pytest.approx(value, rel=1e-5)
    assert best >= value * (1 - 1e-12)
    assert (value < problem.optimum().value) == (depth >= 4)


@pytest.mark.parametrize("classes", [3, 7])
def test_no_graph_has_so_many_edges(classes):
    assert math.isnan(graph_value(classes, 3, (1e-3,) * 4, 1e-3))


DECAYS = {"weight_decay": (4e-3,) * 4, "feature_decay": 1e-2, "samples": 4.0, "dim": 12}
SIX = DEEP | {"classes": 6, "depth": 4}


def fit_row(run: str, gap: float, starts: int = 32, **more: Any) -> dict[str, Any]:
    found = {"run_id": run, "optimum": 0.1, "value": 0.1 + gap, "gap": gap, "starts": starts, "classes": 6}
    return found | DECAYS | more


def test_what_lies_below_collapse_is_asked_for_its_rank():
    layers = {"W1H1": 0.0, "H2": 0.5, "W2H2": 1e-6, "W3H3": 0.9, "features": 0.4}
    rows = [
        entry
        for run in ("low", "collapsed")
        for layer, value in layers.items()
        for entry in measured(run, "means_uncentred_condition", value, layer=layer)
    ]
    runs = [SIX | {"run_id": run, "seed": seed} for seed, run in enumerate(("low", "collapsed"))]
    tables = frames(runs, rows, [fit_row("low", -0.01), fit_row("collapsed", 1e-12)])
    below, rank, last = (row(CLAIMS, number, tables) for number in ("1a", "3", "4"))
    assert (below["count"], below["holds"], below["verdict"]) == (2, 1, "undecided")
    assert (rank["count"], rank["effect"], rank["verdict"]) == (1, 1e-6, "supported")
    assert (last["effect"], last["verdict"]) == (0.4, "supported")


@pytest.mark.parametrize(("wide", "verdict"), [(1e-12, "supported"), (-0.01, "contradicted")])
def test_starts_that_end_collapsed_are_counted_by_width(wide, verdict):
    ends = [(dim, seed, wide if dim == 48 else -0.02) for dim in (12, 48) for seed in range(4)]
    runs = [SIX | {"run_id": f"{dim}-{seed}", "seed": seed} for dim, seed, _ in ends]
    fits = [fit_row(f"{dim}-{seed}", gap, starts=1, dim=dim) for dim, seed, gap in ends]
    found = row(CLAIMS, "7", frames(runs, [], fits))
    assert (found["count"], found["verdict"]) == (1, verdict)
