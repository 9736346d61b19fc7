"""Two runs or two studies side by side: what is equal, what differs and where, and how it is told."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_tables import CLAIM, MadeUp
from typer.testing import CliRunner

from ncpipe.cli.main import app
from ncpipe.compare import Comparison, compare
from ncpipe.compare.comparison import pair
from ncpipe.compare.wording import (
    as_json,
    cells,
    headline,
    needed,
    not_compared,
    number_or_inf,
    sentences,
    value,
    where,
)
from ncpipe.records.writing import write_rows
from ncpipe.report.compare_page import write_compare_page
from ncpipe.system.errors import UserError

Rows = list[dict[str, Any]]
NET = "mlp MSE no bias-0"
SETTINGS = {"optimizer": {"lr": 0.1, "name": "sgd"}, "epochs": 10, "seed": 0}


def study(folder: Path, case: MadeUp = MadeUp(seeds=3)) -> Path:  # noqa: B008
    case.write(folder / "tables")
    return folder


def edit(results: Path, table: str, change: Callable[[Rows], Rows | None], **metadata: str) -> None:
    """Rewrite a table with its rows changed in place, or with those that ``change`` returns."""
    path = results / f"tables/{table}.parquet"
    read = pq.read_table(path)
    rows = read.to_pylist()
    rows = change(rows) or rows
    known = {key.decode(): text.decode() for key, text in read.schema.metadata.items()} | metadata
    kept = {key: text for key, text in known.items() if key != "ncpipe_checksum"}
    write_rows(path, read.schema, rows, kept)


def first(rows: Rows, **conditions: Any) -> dict[str, Any]:
    return next(row for row in rows if all(row[key] == wanted for key, wanted in conditions.items()))


def renamed(results: Path) -> Path:
    """Give every run another id."""

    def rename(rows: Rows) -> None:
        for row in rows:
            row["run_id"] += "-new"

    for table in ("runs", "history", "collapse", "ufm"):
        edit(results, table, rename)
    return results


def studies(a: Path, b: Path) -> Comparison:
    found = compare(str(a), str(b))
    assert found.kind == "studies"
    return found


def runs(a: Path | str, b: Path | str) -> Comparison:
    found = compare(str(a), str(b))
    assert found.kind == "runs"
    return found


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return study(tmp_path / "a")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return study(tmp_path / "b")


# --- studies ----------------------------------------------------------------------------------------


def test_a_rerun_is_equal_in_all_values(a, b):
    edit(b, "timings", lambda _: [{"run_id": NET, "stage": "train", "time": 1, "seconds": 9.0}])
    found = studies(a, b)
    fields = pq.read_schema(a / "tables/ufm.parquet")
    numbers = sum(not pa.types.is_list(field.type) and not pa.types.is_string(field.type) for field in fields)
    history, collapse, ufm = (pq.read_table(a / f"tables/{name}.parquet") for name in ("history", "collapse", "ufm"))
    places = len({(r["run_id"], r["split"], r["layer"], r["time"]) for r in collapse.to_pylist()})
    lists = sum(len(row[f.name] or []) for row in ufm.to_pylist() for f in fields if pa.types.is_list(f.type))
    tables = len(history) + len(collapse) + 2 * places + numbers * len(ufm) + lists
    count = len(found.runs["common"])
    # matched fits of these tables have no row in runs
    outside = sum(row["kind"] == "matched" for row in ufm.to_pylist())
    matched = outside * numbers + sum(len(r[f.name] or []) for r in ufm.to_pylist() for f in fields
                                      if pa.types.is_list(f.type) and r["kind"] == "matched")  # fmt: skip
    assert found.agreement.values == tables - matched + (7 + 3) * count
    assert headline(found) == f"Equal in all {found.agreement.values:,} values of {count} common runs."
    assert found.agreement.deviations == []
    assert (found.of("labels"), found.runs["only_a"], found.runs["only_b"]) == ([], [], [])
    assert list(sentences(found)) == ["0 of 1 verdict changed."]


def test_one_changed_value_is_found_with_its_run_and_place(a, b):
    place = {"run_id": NET, "metric": "nc3_duality", "split": "test", "layer": "layer1", "time": 3}

    def change(rows: Rows) -> None:
        first(rows, **place)["value"] *= 1 + 1e-12
        first(rows, **place | {"time": 1})["value"] *= 1 + 1e-14

    edit(b, "collapse", change)
    found = studies(a, b)
    assert (found.agreement.differing, found.agreement.differing_runs) == (2, 1)
    (deviation,) = found.agreement.deviations
    assert (deviation["run_id"], where(deviation)) == (NET, "test, layer1, at 3")
    assert deviation["relative"] == pytest.approx(1e-12, rel=1e-3)
    assert deviation["a"] == math.exp(-3)
    assert headline(found) == (
        f"Differs in 2 of {found.agreement.values:,} values, in 1 of {len(found.runs['common'])} common runs;"
        " by 1e-12 relative at most (nc3_duality)."
    )


def test_undefined_values_are_equal_to_each_other_only(a, b):
    place = {"run_id": NET, "metric": "nc1_pinv", "split": "train", "layer": "features"}

    def undefine(*times: int) -> Callable[[Rows], None]:
        def change(rows: Rows) -> None:
            for time in times:
                first(rows, **place, time=time)["value"] = math.nan

        return change

    edit(a, "collapse", undefine(0))
    edit(b, "collapse", undefine(0, 10))
    (deviation,) = studies(a, b).agreement.deviations
    assert (deviation["differing"], deviation["one_sided"], deviation["relative"]) == (1, 1, None)
    assert (deviation["time"], deviation["b"]) == (10, None)
    assert "1 value on one side only" in headline(studies(a, b))


def test_a_shorter_history_and_another_machine_are_told(a, b):
    edit(b, "history", lambda rows: [row for row in rows if (row["run_id"], row["time"]) != (NET, 10)])
    edit(b, "runs", lambda rows: first(rows, run_id=NET).update(status="diverged", device="cuda"))
    agreement = studies(a, b).agreement
    assert {d["quantity"] for d in agreement.deviations} == {
        "train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate",
    }  # fmt: skip
    assert all(d["one_sided"] == d["differing"] == 1 for d in agreement.deviations)
    assert [tuple(word.values()) for word in agreement.words] == [
        ("status", "done", "diverged", [NET]),
        ("device", None, "cuda", [NET]),
    ]
    assert agreement.differing == 7
    assert agreement.differing_runs == 1


def test_metrics_of_another_version_are_not_compared(a, b):
    edit(b, "collapse", lambda rows: [row for row in rows if row["metric"] != "nc3_etf"])
    found = studies(a, b)
    assert headline(found).startswith("Equal in all")
    assert list(not_compared(found.agreement)) == ["Not compared, since only in the tables of A: nc3_etf."]


def test_grams_are_compared_by_position(tmp_path):
    case = MadeUp(labels=("mlp MSE no bias",), seeds=1, ufm=False)
    a, b = study(tmp_path / "a", case), study(tmp_path / "b", case)
    name = f"matched-plain-{NET}"
    for results in (a, b):
        edit(results, "runs", lambda rows: [*rows, rows[0] | {"run_id": name, "kind": "matched"}])

    def change(rows: Rows) -> None:
        first(rows, run_id=name)["predicted_means_gram"][6] += 1.0

    edit(b, "ufm", change)
    (deviation,) = studies(a, b).agreement.deviations
    assert (deviation["table"], deviation["quantity"], deviation["time"]) == ("ufm", "predicted_means_gram", 6)
    assert deviation["values"] == 16


def test_runs_of_one_study_only_and_without_results(a, tmp_path):
    b = study(tmp_path / "b", MadeUp(labels=("mlp MSE no bias", "vit CE bias"), seeds=3))
    for results in (a, b):
        edit(results, "runs", lambda rows: first(rows, run_id=NET).update(status="missing"))
    found = studies(a, b)
    assert found.runs["only_a"] == [f"mlp CE bias-{seed}" for seed in range(3)]
    assert found.runs["only_b"] == [f"vit CE bias-{seed}" for seed in range(3)]
    assert found.runs["without_results"] == [NET]
    assert list(sentences(found))[:2] == [
        "3 runs only in A, 3 runs only in B.",
        "1 common run without results on either side.",
    ]


def test_labels_are_compared_by_medians_against_the_range_over_seeds(a, b):
    def change(rows: Rows) -> None:
        for row in rows:
            # over seeds the values are 1, 2, 3 times a decay
            row["value"] *= {"nc1_pinv": 1.5, "nc3_duality": 10.0}.get(row["metric"], 1.0)

    edit(b, "collapse", change)
    found = studies(a, renamed(b))
    assert headline(found) == "No run is in both."
    own = {row["quantity"]: row for row in found.of("labels") if row["label"] == "mlp MSE no bias"}
    assert own["nc1_pinv"]["a"] == pytest.approx(2 * math.exp(-20))
    assert (own["nc1_pinv"]["low_a"], own["nc1_pinv"]["high_a"]) == (math.exp(-20), 3 * math.exp(-20))
    assert own["nc1_pinv"]["ratio"] == pytest.approx(1.5)
    assert [own[name]["apart"] for name in ("nc1_pinv", "nc3_duality", "nc4_mismatch")] == [False, True, False]
    assert own["final_test_accuracy"]["difference"] == 0
    alone = {row["apart"] for row in found.of("labels") if "UFM" not in row["label"] and row["seeds_a"] == 1}
    assert alone == {None}  # declared UFMs have one seed: no range
    assert "2 of" in list(sentences(found))[-1]


def test_a_label_with_an_added_seed_is_compared_too(a, tmp_path):
    found = studies(a, study(tmp_path / "more", MadeUp(seeds=4)))
    assert {(row["seeds_a"], row["seeds_b"]) for row in found.of("labels")} == {(3, 4)}
    assert headline(found).startswith("Equal in all")


def test_claims_that_changed_and_that_one_study_has(a, b):
    own = [CLAIM, CLAIM | {"claim_id": "tirer2022-2a"}, CLAIM | {"claim_id": "tirer2022-3", "effect": None}]
    edit(a, "claims", lambda _: own[:2])
    changed = own[1] | {"verdict": "contradicted", "effect": 1e-3, "threshold": 1e-4}
    edit(b, "claims", lambda _: [CLAIM, changed, own[2]])
    found = studies(a, b)
    assert [(row["quantity"], row["changed"], row["verdict_a"]) for row in found.of("claims")] == [
        ("tirer2022-1", False, "supported"),
        ("tirer2022-2a", True, "supported"),
        ("tirer2022-3", False, None),
    ]
    assert found.of("claims")[1]["log10_ratio"] == pytest.approx(6)
    assert needed(found.of("claims")[1]) == "< 0.01 | < 0.0001"
    assert "1 of 2 verdicts changed, 1 claim only in B." in list(sentences(found))


def test_provenance_that_differs(a, b):
    edit(b, "runs", lambda _: None, git_commit="def456", scale="small")
    found = studies(a, b)
    rows = found.of("provenance")
    assert [(row["quantity"], row["a"], row["b"]) for row in rows if not row["equal"]] == [
        ("git_commit", "abc123", "def456"),
        ("scale", None, "small"),
    ]
    assert {"ncpipe_version", "study", "study_hash"} <= {row["quantity"] for row in rows if row["equal"]}


# --- runs -------------------------------------------------------------------------------------------


def with_settings(results: Path, run_id: str, settings: dict[str, Any]) -> None:
    edit(results, "runs", lambda rows: first(rows, run_id=run_id).update(settings=json.dumps(settings)))


def test_settings_and_finals_of_two_runs(a):
    other = "mlp CE bias-1"
    with_settings(a, NET, SETTINGS)
    with_settings(a, other, SETTINGS | {"optimizer": {"lr": 0.1, "name": "adamw", "eps": 1e-8}, "seed": 1})
    edit(a, "timings", lambda _: [
        {"run_id": NET, "stage": "train", "time": t, "seconds": 2.0, "images_per_second": 50.0} for t in range(3)
    ])  # fmt: skip
    found = runs(a / NET, a / other)
    settings = found.of("settings")
    assert [(row["quantity"], row["a"], row["b"]) for row in settings if not row["equal"]] == [
        ("optimizer.name", "sgd", "adamw"), ("seed", 0, 1), ("optimizer.eps", None, 1e-8),
    ]  # fmt: skip
    assert sum(row["equal"] for row in settings) == 2
    assert headline(found) == "Settings that differ: optimizer.name, seed, optimizer.eps; 2 settings equal."
    finals = {(row["quantity"], row["split"]): row for row in found.of("last")}
    nc1 = finals["nc1_pinv", "train"]
    assert (nc1["a"], nc1["b"]) == (math.exp(-20), 2 * math.exp(-20))  # last features at the last epoch
    assert (nc1["ratio"], nc1["log10_ratio"]) == (2.0, pytest.approx(math.log10(2)))
    assert found.of("last")[0] == nc1  # the main metrics come first
    course = {row["quantity"]: row for row in found.of("course")}
    assert (course["seconds"]["a"], course["seconds"]["b"], course["images_per_second"]["a"]) == (6.0, None, 50.0)
    assert course["zero_error_epoch"]["a"] == 3
    assert {row["quantity"]: row["a"] for row in found.of("history")}["learning_rate"] == 0.01
    curve = next(curve for curve in found.curves if curve["quantity"] == "nc1_pinv")
    assert curve["a"] == [(float(t), math.exp(-2 * t)) for t in (0, 1, 3, 10)]


def test_one_run_of_two_studies_says_whether_it_reproduces(a, b):
    assert headline(runs(a / NET, b / NET)).startswith("Equal in all")
    edit(b, "history", lambda rows: first(rows, run_id=NET, quantity="train_loss").update(value=1.5))
    found = runs(a / NET, b / NET)
    assert found.agreement is not None
    assert headline(found) == (
        f"Differs in 1 of {found.agreement.values} values, in 1 common run; by 0.333 relative at most (train_loss)."
    )
    assert headline(runs(a / NET, a / NET)) == "This is one run twice."


def test_a_network_beside_a_ufm(a):
    with_settings(a, NET, SETTINGS)
    found = runs(a / NET, a / "plain linear MSE no bias-gradient_descent")
    assert found.of("settings") == []
    assert headline(found) == "A network and a UFM: their settings are not compared."
    assert {row["quantity"] for row in found.of("ufm")} == {"gap"}


def test_undefined_values_of_runs(tmp_path):
    a = study(tmp_path / "a", MadeUp(value=math.nan))
    found = runs(a / NET, a / "mlp CE bias-0")
    assert found.of("last") == []
    json.loads(as_json(found), parse_constant=pytest.fail)
    write_compare_page(found, tmp_path / "page.html")
    missing = study(tmp_path / "missing", MadeUp(status="missing", matched=False, ufm=False))
    found = runs(missing / NET, a / NET)
    assert (found.a["status"], found.of("last")) == ("missing", [])
    write_compare_page(found, tmp_path / "page.html")


# --- names ------------------------------------------------------------------------------------------


def test_runs_are_named_by_path_id_and_prefix(a, monkeypatch):
    for name in (a / NET, a / "runs" / NET, a / "mlp MSE no bias-0"):
        assert runs(name, a / "mlp CE bias-1").a["run_id"] == NET
    (a / "ufm" / "extended relu MSE no bias-lbfgs").mkdir(parents=True)  # as it lies on disk
    found = runs(a / "ufm" / "extended relu MSE no bias-lbfgs", a / "extended relu MSE no bias-g")
    assert (found.a["run_id"], found.b["run_id"]) == tuple(
        f"extended relu MSE no bias-{solver}" for solver in ("lbfgs", "gradient_descent")
    )
    (a.parent / "results").mkdir()
    a.rename(a.parent / "results/one")
    monkeypatch.chdir(a.parent)
    assert runs(NET, "mlp CE bias-2").a["study"] == "results/one"


def test_an_id_in_several_studies_is_ambiguous(a, b, monkeypatch):
    (a.parent / "results").mkdir()
    for folder in (a, b):
        folder.rename(a.parent / "results" / folder.name)
    monkeypatch.chdir(a.parent)
    with pytest.raises(UserError, match=f"several runs: results/a/{NET}, results/b/{NET}; give more"):
        compare(NET, NET)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", f"a/{NET}"), "a is a study and .* a run; name two results folders or two runs"),
        (("a", "nowhere"), "nowhere: no tables in results"),
        (("a", "nowhere/run"), "nowhere/run: no folder nowhere; name a results folder"),
        (("a/mlp", "a"), "'mlp' is the beginning of several runs: a/mlp MSE no bias-0, "),
        (("a/mlp MSE no bais-0", "a"), "no run 'mlp MSE no bais-0' .*; did you mean 'mlp MSE no bias-0'"),
        (("a/qqq", "a"), "no run 'qqq' in the tables of a; the table runs"),
        (("a", "empty"), "no table empty/tables/runs.parquet; run `snakemake tables`"),
        (("a", "empty/run"), "no table empty/tables/runs.parquet; run `snakemake tables`"),
        (("a", "half"), "no table half/tables/claims.parquet; run `snakemake tables`"),
        (("a", "old"), "history.parquet has no column 'quantity'; write it again"),
        (("a", "broken"), "cannot read broken/tables/runs.parquet"),
        (("a", "a/runs/../../../etc/passwd"), r"no folder|no run"),
    ],
)
def test_mistakes_are_one_line(a, tmp_path, monkeypatch, names, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    study(tmp_path / "half")
    (tmp_path / "half/tables/claims.parquet").unlink()
    study(tmp_path / "old")
    history = tmp_path / "old/tables/history.parquet"
    pq.write_table(pq.read_table(history).drop_columns(["quantity"]).replace_schema_metadata(), history)
    study(tmp_path / "broken")
    (tmp_path / "broken/tables/runs.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=message) as caught:
        compare(*names)
    assert "\n" not in str(caught.value)


# --- words, terminal, JSON and page -----------------------------------------------------------------


def test_numbers_in_words():
    assert cells(pair(1e-3, 1e-8)) == ("0.001", "1e-08", "-0.001", "10^-5.0")
    assert cells(pair(2, 3)) == ("2", "3", "+1", "1.5")
    assert cells(pair(0.0, 0.5)) == ("0", "0.5", "+0.5", "–")
    assert cells(pair(None, math.nan)) == ("–", "–", "–", "–")
    assert cells(pair(math.inf, math.inf)) == ("inf", "inf", "=", "–")
    assert pair(1e-200, 1e200)["log10_ratio"] == pytest.approx(400)
    assert (value(None), value(0.1), value([1, 2]), value(True)) == ("–", "0.1", "[1, 2]", "true")
    assert number_or_inf(20010.0) == "20010"


@pytest.fixture
def pairs(a, b) -> dict[str, tuple[Path, Path]]:
    edit(b, "collapse", lambda rows: [row | {"value": 2 * row["value"]} for row in rows])
    other = renamed(study(b.parent / "other [bold]"))
    bold = CLAIM | {"statement": "<b>Bold</b> & brave."}
    edit(a, "claims", lambda _: [bold])
    edit(other, "claims", lambda _: [bold | {"verdict": "undecided"}])
    with_settings(a, NET, SETTINGS | {"<b>": "[red]x[/]"})
    return {
        "studies": (a, b),
        "labels": (a, other),
        "runs": (a / NET, a / "mlp CE bias-0"),
        "rerun": (a / NET, b / NET),
    }


@pytest.mark.parametrize("name", ["studies", "labels", "runs", "rerun"])
def test_the_command_prints_at_80_columns(pairs, name):
    found = compare(*map(str, pairs[name]))
    done = CliRunner().invoke(app, ["compare", *map(str, pairs[name])], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert " ".join(done.output.split()).startswith(headline(found))
    ids = re.compile(r"^(A  |B  |\[\d+\] |   \w+ ')")  # ids and folders are not broken
    assert all(len(line.rstrip()) <= 80 for line in lines if not ids.match(line))
    expected = {"studies": "14 of 14", "labels": "seed range", "runs": "[red]x[/]", "rerun": "last features, test"}
    assert expected[name] in done.output


@pytest.mark.parametrize("name", ["studies", "labels", "runs", "rerun"])
def test_json_has_the_same_content(pairs, name):
    done = CliRunner().invoke(app, ["compare", *map(str, pairs[name]), "--json"])
    content = json.loads(done.output, parse_constant=pytest.fail)
    found = compare(*map(str, pairs[name]))
    assert content["headline"] == headline(found)
    assert content["kind"] == found.kind
    assert set(vars(found)) < set(content)


class Parsed(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


@pytest.mark.every(2)
@pytest.mark.parametrize("name", ["studies", "labels", "runs", "rerun"])
def test_the_page_holds_it_and_loads_nothing(pairs, name, tmp_path):
    page = tmp_path / "pages/page.html"
    done = CliRunner().invoke(app, ["compare", *map(str, pairs[name]), "--output", str(page)])
    assert done.exit_code == 0, done.output
    html = page.read_text(encoding="utf-8")
    parsed = Parsed(html)
    found = compare(*map(str, pairs[name]))
    assert headline(found) in parsed.text
    for _, attributes in parsed.tags:
        for attribute in ("src", "srcset", "data", "poster"):
            assert (attributes.get(attribute) or "data:").startswith("data:")
    assert not any(tag in ("link", "iframe", "object", "script") for tag, _ in parsed.tags)
    assert not re.search(r"@import|url\(|https?://|fetch\(", html)
    assert "<b>Bold" not in html
    assert '<td class="keep"><b></td>' not in html
    assert [tag for tag, _ in parsed.tags].count("img") == (name in ("runs", "rerun"))
    write_compare_page(found, page)
    assert page.read_text(encoding="utf-8") == html
    parts = {
        "studies": ("Differs in", "collapse nc1_pinv"),
        "labels": ("labels with other runs", "within", "? undecided", "<b>Bold</b> & brave."),
        "runs": ("optimizer.lr", "[red]x[/]", "last features, test"),
        "rerun": ("Differs in", "test, features, at 0"),
    }[name]
    for part in parts:
        assert part in parsed.text


def test_the_command_loads_neither_torch_nor_mlflow_nor_matplotlib(a, b):
    code = """
import sys
from ncpipe.cli.main import app
app(standalone_mode=False)
assert not {"torch", "mlflow", "matplotlib"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", str(a), str(b)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Equal in all")
