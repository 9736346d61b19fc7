"""What Snakemake's own process does for a study: the config for its jobs, captions, and params of rules."""

from pathlib import Path

import pytest

from ncpipe.plan.estimates import Estimate
from ncpipe.plan.limits import foreseen, keep_estimates
from ncpipe.plan.units import clock, units
from ncpipe.plan.workflow import drawn_caption, write_study
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError, in_a_line
from ncpipe.system.files import write_json

CONFIG = {
    "datasets": {"base": {"name": "digits", "classes": 5}},
    "networks": {"base": {"model": {"name": "mlp"}, "loss": {"name": "mse"}, "optimizer": {"lr": 0.1}, "epochs": 3}},
    "continual": {"base": {"init": "random", "steps": 20, "rehearsal": 5}},
}


def study(results: Path) -> Study:
    return Study({**CONFIG, "study": {"name": "tiny", "results": str(results)}})


def test_jobs_find_the_study_where_its_results_are(tmp_path: Path) -> None:
    planned, file = study(tmp_path / "results"), tmp_path / "results/study.json"
    write_study(planned, file, str(tmp_path / "results"))
    assert Study.read(file).config == planned.config
    write_study(planned, file, "copies/results")
    read = Study.read(file)
    assert read.layout.results == Path("copies/results")
    assert read.config.tracking.uri == f"sqlite:///{tmp_path}/results/mlflow/mlflow.db"
    assert read.networks == planned.networks


def test_params_are_the_settings_that_a_stage_reads(tmp_path: Path) -> None:
    planned = study(tmp_path)
    (network,) = planned.networks.values()
    assert network.params()["network"]["model"]["name"] == "mlp"
    assert network.params()["epochs"] == list(network.epochs)
    measured = network.measured(planned.config.measure)
    assert measured["layers"] == list(network.layers)
    assert not {"layers", "epochs"} & set(measured["measure"])
    (learning,) = planned.continual.values()
    assert set(learning.params()) == set(learning.ways)


def test_the_time_that_is_left_is_what_a_plan_has_told(tmp_path: Path) -> None:
    planned = study(tmp_path)
    assert "`ncpipe plan`" in foreseen(planned, 2)
    left = [unit for unit in units(planned) if unit.of is not None]
    keep_estimates(planned.layout, {unit: Estimate(60.0) for unit in left[1:]}, "cpu")
    assert "about" not in foreseen(planned, 2)  # one is not known
    keep_estimates(planned.layout, {left[0]: Estimate(60.0)}, "cpu")
    assert f"about {clock(60 * len(left) / 2)} on 2 cores" in foreseen(planned, 2)
    write_json(planned.layout.run(left[0].id) / "spec.json", {})
    assert f"about {clock(60 * (len(left) - 1) / 2)} on 2 cores" in foreseen(planned, 2)


def test_the_caption_of_a_figure_stands_in_its_svg(tmp_path: Path) -> None:
    svg = tmp_path / "figure.svg"
    assert drawn_caption(svg) == ""
    svg.write_text("<svg><dc:description>Loss &amp; accuracy.</dc:description></svg>")
    assert drawn_caption(svg) == "Loss &amp; accuracy."


def test_a_mistake_ends_the_process_in_a_line() -> None:
    with pytest.raises(SystemExit, match="ncpipe: no such thing"), in_a_line():
        raise UserError("no such thing")
