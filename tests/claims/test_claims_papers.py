"""Claims on canonical networks, four losses, layers, spheres and tags, from tables in which the answer is known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ncpipe.claims.evidence.selectors import ends, final
from ncpipe.claims.rangamani2023 import gamma
from ncpipe.claims.yaras2022 import floor, temperatures
from ncpipe.claims.zhou2022 import spreads
from ncpipe.records.schemas import TABLES
from ncpipe.study.config import PAPERS

ZERO_ERROR = 10

Row = dict[str, Any]


def network(run_id: str, seed: int = 0, **columns: Any) -> Row:
    """A row of ``runs`` with the settings that its columns mean."""
    row: Row = {
        "source": "net", "run_id": run_id, "kind": "network", "status": "done", "label": "net", "dataset": "digits",
        "classes": 10, "train_samples": 300, "loss": "ce", "bias": "yes", "head": "linear", "fixed_etf": False,
        "width": 64, "epochs": 30, "seed": seed, "zero_error_epoch": ZERO_ERROR, "temperature": None,
    }  # fmt: skip
    row |= columns
    settings = {
        "dataset": {"name": row["dataset"]},
        "model": {"name": "mlp", "width": row["width"]},
        "head": {"temperature": row.pop("temperature")},
        "loss": {"name": row["loss"]},
        "epochs": row["epochs"],
        "seed": seed,
    }
    return row | {"settings": json.dumps(settings)}


def value(
    run: str, time: int, metric: str, number: float, split: str = "train", layer: str = "features", depth: int = 9
) -> Row:
    return {"source": "net", "run_id": run, "time": time, "metric": metric, "value": number, "split": split,
            "layer": layer, "depth": depth}  # fmt: skip


def curve(run: str, metric: str, values: dict[int, float], **where: Any) -> list[Row]:
    return [value(run, time, metric, number, **where) for time, number in values.items()]


def frames(runs: list[Row], *collapse: Row, ufm: list[Row] | None = None, history: list[Row] | None = None) -> dict:
    rows = {"runs": runs, "collapse": list(collapse), "ufm": ufm or [], "history": history or []}
    return {name: pd.DataFrame(rows.get(name, []), columns=schema.names) for name, schema in TABLES.items()}


def decide(claim_id: str, tables: dict) -> Row:
    claims = {claim.id: claim for claim in PAPERS[claim_id.split("-")[0]].CLAIMS}
    return claims[claim_id].row(tables)


def test_a_value_that_is_lost_at_the_end_is_not_an_earlier_one():
    tables = frames([network("net")], *curve("net", "nc1_pinv", {10: 1.0, 30: math.nan}))
    assert final(tables, pd.Index(["net"]), "nc1_pinv").isna().all()
    assert ends(tables["collapse"])["last"].isna().all()


# --- papyan2020 ----------------------------------------------------------------------------------


def test_papyan_compares_the_last_epoch_with_the_first_of_zero_error():
    tables = frames(
        [network("a"), network("b", seed=1), network("late", zero_error_epoch=25)],
        *curve("a", "nc1_pinv", {0: 1e-9, 9: 5.0, 12: 1.0, 30: 0.01}),
        *curve("b", "nc1_pinv", {10: 1.0, 30: 0.1}),
        *curve("late", "nc1_pinv", {0: 10.0, 30: 0.1}),
    )
    row = decide("papyan2020-1", tables)
    assert (row["low"], row["high"], row["count"]) == (pytest.approx(-2), pytest.approx(-1), 2)
    assert (row["holds"], row["verdict"]) == (2, "undecided")  # two seeds so far apart tell nothing of a mean


def test_papyan_accuracy_and_mismatch():
    rows = [
        *curve("a", "accuracy", {10: 0.90, 30: 0.92}, split="test"),
        *curve("a", "accuracy", {10: 1.0, 30: 0.5}),
        *curve("a", "nc4_mismatch", {10: 0.0, 30: 0.0}),
        *curve("b", "nc4_mismatch", {10: 0.0, 30: 0.001}),
        *curve("a", "robustness", {10: 0.2, 30: 0.1}, split="test"),
    ]
    tables = frames([network("a"), network("b")], *rows)
    assert decide("papyan2020-5", tables)["effect"] == pytest.approx(0.02)
    assert decide("papyan2020-5", tables)["verdict"] == "supported"
    assert decide("papyan2020-4", tables)["holds"] == 1  # no rise of a counts, the rise of b does not
    assert decide("papyan2020-6", tables)["effect"] == pytest.approx(math.log10(0.5))
    assert decide("papyan2020-6", tables)["verdict"] == "contradicted"


# --- zhou2022 ------------------------------------------------------------------------------------

LOSSES = ("ce", "label_smoothing", "focal", "mse")


def four_losses(width: int, epochs: int, spread: float, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Networks whose test accuracies are ``spread`` apart."""
    name = f"w{width}e{epochs}s{seed}"
    runs = [network(f"{loss}-{name}", seed, loss=loss, width=width, epochs=epochs) for loss in LOSSES]
    numbers = (0.9, 0.9 + spread, 0.9 + spread / 2, 0.9)
    rows = [value(run["run_id"], epochs, "accuracy", number, split="test") for run, number in zip(runs, numbers)]
    return runs, rows


def grid(*cells: tuple) -> dict:
    made = [four_losses(*cell) for cell in cells]
    return frames([run for runs, _ in made for run in runs], *(row for _, rows in made for row in rows))


def test_zhou_spread_of_the_test_accuracies():
    tables = grid((16, 10, 0.08), (16, 40, 0.05), (64, 10, 0.06), (64, 40, 0.01))
    found = spreads(tables)
    # of 0, s, s/2 and 0 points, whose mean is 3s/8, the sum of squares is 11 s^2/16, and the variance a third
    variance = {"ce-w16e10s0": 64, "ce-w16e40s0": 25, "ce-w64e10s0": 36, "ce-w64e40s0": 1}
    assert found["spread"].to_dict() == pytest.approx({run: 11 / 48 * square for run, square in variance.items()})
    both, width, epochs = (decide(f"zhou2022-{number}", tables) for number in ("4", "5a", "5b"))
    assert (both["effect"], both["count"]) == (pytest.approx(-63 * 11 / 48), 1)
    assert (width["low"], width["high"]) == (pytest.approx(-28 * 11 / 48), pytest.approx(-24 * 11 / 48))
    assert (epochs["low"], epochs["high"]) == (pytest.approx(-39 * 11 / 48), pytest.approx(-35 * 11 / 48))
    assert width["count"] == epochs["count"] == 2
    assert both["verdict"] == width["verdict"] == epochs["verdict"] == "supported"
    wider = grid((16, 10, 0.01), (64, 40, 0.08))
    assert decide("zhou2022-4", wider)["verdict"] == "contradicted"
    assert decide("zhou2022-5a", wider)["count"] == 0


def test_zhou_spread_is_free_of_chance():
    """Two seeds: over them the losses vary by 0, d^2/2, d^2/8 and 0, d the difference of their spreads."""
    found = spreads(grid((64, 40, 0.01), (64, 40, 0.03, 1), (16, 40, 0.02)))["spread"]
    noise = (4 / 2 + 4 / 8) / 4
    assert found["ce-w64e40s0"] == pytest.approx(11 / 48 * 1 - noise)
    assert found["ce-w64e40s1"] == pytest.approx(11 / 48 * 9 - noise)
    assert found["ce-w16e40s0"] == pytest.approx(11 / 48 * 4)  # one seed
    chance = np.random.default_rng(0).normal(0.9, 0.01, (200, len(LOSSES)))
    runs = [network(f"{loss}-{seed}", seed, loss=loss) for seed in range(200) for loss in LOSSES]
    rows = [value(run["run_id"], 30, "accuracy", a, split="test") for run, a in zip(runs, chance.ravel())]
    assert abs(spreads(frames(runs, *rows))["spread"].mean()) < 0.05  # of a variance of 1


def test_zhou_spread_needs_all_four_losses():
    tables = grid((16, 10, 0.08), (64, 40, 0.01))
    tables["runs"] = tables["runs"].query("run_id != 'focal-w64e40s0'")
    assert list(spreads(tables).index) == ["ce-w16e10s0"]
    assert decide("zhou2022-4", tables)["count"] == 0


def test_zhou_collapse_is_decided_for_every_loss():
    runs = [network(loss, loss=loss) for loss in LOSSES] + [network("frozen", fixed_etf=True)]
    ends_at = {"ce": 0.01, "label_smoothing": 0.9, "focal": 2.0, "mse": 0.01, "frozen": 5.0}
    rows = [row for run, end in ends_at.items() for row in curve(run, "nc1_pinv", {10: 1.0, 30: end})]
    rows += [row for run in LOSSES for row in curve(run, "nc3_duality", {10: 1.0, 30: 0.5})]
    tables = frames(runs, *rows)
    verdicts = [decide(f"zhou2022-1{letter}", tables)["verdict"] for letter in "abcd"]
    assert verdicts == ["supported", "supported", "contradicted", "supported"]
    assert decide("zhou2022-1a", tables)["count"] == 1
    assert decide("zhou2022-3", tables) | {"count": 4, "verdict": "supported"} == decide("zhou2022-3", tables)


# --- rangamani2023 -------------------------------------------------------------------------------


def layers(run: str, metric: str, time: int, numbers: list[float]) -> list[Row]:
    names = [*(f"layer{i}" for i in range(1, len(numbers))), "features"]
    return [value(run, time, metric, n, layer=name, depth=i) for i, (name, n) in enumerate(zip(names, numbers), 1)]


def test_rangamani_order_of_the_layers():
    def of(*numbers: float) -> float:
        return gamma(pd.DataFrame({"depth": range(len(numbers)), "value": numbers}))

    assert of(0.2, 0.5, 1, 1, 1, 1) == 1
    assert of(3, 2, 1) == -1
    assert of(1, 3, 2) == pytest.approx(1 / 3)
    assert math.isnan(of(1, 1, 1))


def test_rangamani_layers_at_the_end():
    tables = frames(
        [network("a")],
        *layers("a", "within_share", 0, [0.5, 0.6, 0.7, 0.8, 0.9, 0.8]),
        *layers("a", "within_share", 30, [0.6, 0.5, 0.4, 0.3, 0.09, 0.2]),
        *layers("a", "subspace_alignment", 0, [0.5, 0.4, 0.3, 0.3, 0.3, 0.4]),
        *layers("a", "subspace_alignment", 30, [0.3, 0.4, 0.5, 0.6, 0.8, 1.0]),
        *layers("a", "ncc_accuracy", 30, [0.3, 0.8, 0.9, 1.0, 1.0, 0.995]),
        value("a", 30, "accuracy", 1.0),
    )
    assert decide("rangamani2023-1a", tables)["effect"] == pytest.approx(-13 / 15)
    assert decide("rangamani2023-1b", tables)["effect"] == pytest.approx(math.log10(0.25))
    assert decide("rangamani2023-2a", tables)["effect"] == pytest.approx(0.9 - 0.35)
    assert decide("rangamani2023-2b", tables)["effect"] == pytest.approx(0.9 - 0.35)
    assert decide("rangamani2023-3a", tables)["effect"] == pytest.approx(10 / 14)
    assert decide("rangamani2023-3b", tables)["effect"] == pytest.approx(-0.005)
    for claim in PAPERS["rangamani2023"].CLAIMS:
        assert claim.row(tables)["verdict"] == "supported", claim.id


def test_rangamani_needs_three_layers_that_have_the_metric():
    rows = layers("a", "subspace_alignment", 30, [math.nan, 0.1, 0.2, 0.9])
    assert decide("rangamani2023-2a", frames([network("a")], *rows))["effect"] == pytest.approx(0.8)
    rows = layers("a", "subspace_alignment", 30, [math.nan, math.nan, 0.2, 0.9])
    assert decide("rangamani2023-2a", frames([network("a")], *rows))["count"] == 0


# --- yaras2022 -----------------------------------------------------------------------------------


def sphere(temperature: float, seed: int = 0) -> Row:
    """It may never reach zero training error."""
    head = f"temperature {temperature:g}"
    return network(f"tau{temperature:g}-{seed}", seed, temperature=temperature, head=head, zero_error_epoch=None)


FLOOR = math.log1p(9 * math.exp(-50 / 9))


def test_yaras_floor_is_the_known_value():
    assert floor(pd.Series([10.0]), pd.Series([5.0]))[0] == pytest.approx(0.034201678513, abs=1e-12)
    assert floor(pd.Series([10.0]), pd.Series([60.0])).isna().all()


def test_yaras_places_of_the_temperatures():
    tables = frames([*(sphere(tau) for tau in (1, 5, 10, 40)), sphere(1, 1), sphere(40, 1), network("plain")])
    places = temperatures(tables)["place"].to_dict()
    assert places == {
        "tau1-0": "smallest", "tau5-0": "middle", "tau10-0": "middle", "tau40-0": "largest",
        "tau1-1": "middle", "tau40-1": "middle",
    }  # fmt: skip


def test_yaras_normalised_against_unnormalised():
    tables = frames(
        [*(sphere(tau) for tau in (1, 5, 40)), network("plain"), network("other", seed=1)],
        *curve("plain", "nc1_pinv", {0: 9.0, 10: 1.0, 30: 0.1}),
        *curve("other", "nc1_pinv", {0: 9.0, 30: 1e-6}),
        *curve("tau5-0", "nc1_pinv", {0: 9.0, 3: 0.09, 10: 0.02, 30: 0.01}),
        *curve("tau1-0", "nc1_pinv", {0: 9.0, 3: 5.0, 30: 1.0}),
        *curve("tau40-0", "nc1_pinv", {0: 9.0, 30: 0.001}),
    )
    time, end = decide("yaras2022-1a", tables), decide("yaras2022-1b", tables)
    assert (time["effect"], time["count"], time["verdict"]) == (pytest.approx(-1), 1, "supported")
    assert (end["effect"], end["verdict"]) == (pytest.approx(-1), "supported")
    assert decide("yaras2022-4a", tables)["effect"] == pytest.approx(2)
    assert decide("yaras2022-4b", tables)["effect"] == pytest.approx(-1)
    assert decide("yaras2022-4b", tables)["verdict"] == "contradicted"


def test_yaras_a_network_that_never_gets_there_is_no_faster():
    tables = frames(
        [sphere(5), network("plain")],
        *curve("plain", "nc1_pinv", {0: 9.0, 30: 0.1}),
        *curve("tau5-0", "nc1_pinv", {0: 9.0, 30: 0.2}),
    )
    row = decide("yaras2022-1a", tables)
    assert (row["effect"], row["holds"], row["verdict"]) == (0, 0, "undecided")  # a tie


def test_yaras_loss_and_its_floor():
    tables = frames(
        [sphere(5), sphere(60), network("plain")],
        *curve("tau5-0", "loss", {0: 2.3, 10: FLOOR * 1.5, 30: FLOOR * 1.05}),
        *curve("tau60-0", "loss", {30: 0.0}),  # its floor is lost in rounding
        *curve("plain", "loss", {30: 0.0}),
    )
    least, end = decide("yaras2022-2", tables), decide("yaras2022-3", tables)
    assert (least["effect"], least["count"], least["verdict"]) == (pytest.approx(0.05), 1, "supported")
    # the margin of f* is 50/9, and near it a factor of the loss takes its logarithm off
    assert (end["effect"], end["verdict"]) == (pytest.approx(math.log(1.05) / (50 / 9), rel=0.05), "supported")
    below = frames([sphere(5)], *curve("tau5-0", "loss", {10: FLOOR * 0.99, 30: FLOOR * 1.8}))
    assert decide("yaras2022-2", below)["verdict"] == decide("yaras2022-3", below)["verdict"] == "contradicted"


def ufm(run_id: str, gap: float, **columns: Any) -> Row:
    return {"run_id": run_id, "kind": "declared", "solver": "lbfgs", "status": "done", "optimum": 0.5, "gap": gap,
            **columns}  # fmt: skip


def test_ufm_theorems_read_converged_fits_of_their_loss():
    fits = [
        ufm("ball", -1e-10, loss="ce", temperature=5.0),
        ufm("tags", 1e-6, loss="pick_all_labels", temperature=None),
        ufm("ce", 1.0, loss="ce", temperature=None),
        ufm("gd", 1.0, loss="ce", temperature=5.0) | {"solver": "gradient_descent"},
        ufm("open", math.nan, loss="pick_all_labels") | {"optimum": None},
    ]
    runs = [{"run_id": fit["run_id"], "kind": "declared", "status": "done", "seed": 0} for fit in fits]
    rows = [*curve("ball", "nc2_means_etf", {7: 1e-6}), *curve("tags", "tagwise_angle", {7: 0.01})]
    tables = frames(runs, *rows, ufm=fits)
    assert decide("yaras2022-5a", tables)["effect"] == pytest.approx(2e-10)
    assert decide("yaras2022-5b", tables)["effect"] == pytest.approx(1e-6)
    tags = decide("li2024-5a", tables)
    assert (tags["effect"], tags["count"], tags["verdict"]) == (pytest.approx(2e-6), 1, "contradicted")
    assert decide("li2024-5c", tables)["effect"] == pytest.approx(0.01)


# --- li2024 --------------------------------------------------------------------------------------


def tagged(run_id: str, seed: int = 0, **columns: Any) -> Row:
    return network(run_id, seed, loss="pick_all_labels", **columns)


def accuracies(**last: float) -> list[Row]:
    rows = [(run, *point) for run, end in last.items() for point in ((1, 0.0), (30, end))]
    return [{"run_id": run, "quantity": "test_accuracy", "time": time, "value": value} for run, time, value in rows]


def test_li_tags_at_the_end():
    tables = frames(
        [tagged("free"), tagged("frozen", fixed_etf=True), network("single")],
        *curve("free", "nc2_means_etf", {0: 0.5, 30: 0.05}),
        *curve("frozen", "nc2_means_etf", {30: 0.9}),
        *curve("single", "nc2_means_etf", {30: 0.9}),
        *curve("free", "tagwise_ratio", {0: 0.2, 30: 0.08}),
        *curve("free", "tag_sets_1nn", {30: 0.8}, split="test"),
        history=accuracies(free=0.9),
    )
    frame = decide("li2024-1b", tables)
    assert (frame["effect"], frame["count"], frame["verdict"]) == (0.05, 1, "supported")
    assert decide("li2024-2a", tables)["effect"] == 0.08
    assert decide("li2024-2b", tables)["effect"] == pytest.approx(math.log10(0.4))
    nearest = decide("li2024-4", tables)
    assert (nearest["effect"], nearest["verdict"]) == (pytest.approx(-0.1), "contradicted")


def test_li_frozen_classifier_against_the_trained_one_of_its_seed():
    tables = frames(
        [
            tagged("free0", parameters=1000),
            tagged("free1", 1, parameters=1000),
            tagged("frozen0", fixed_etf=True, parameters=900),
            tagged("frozen2", 2, fixed_etf=True, parameters=900),
        ],
        history=[
            *accuracies(free0=0.90, free1=0.99, frozen0=0.89, frozen2=0.5),
            {"run_id": "free0", "quantity": "test_accuracy", "time": 40, "value": 0.2},  # of an end phase
        ],
    )
    accuracy, parameters = decide("li2024-3a", tables), decide("li2024-3b", tables)
    assert (accuracy["effect"], accuracy["count"], accuracy["verdict"]) == (pytest.approx(-0.01), 1, "supported")
    assert (parameters["effect"], parameters["count"]) == (pytest.approx(math.log10(0.9)), 1)
