# The study, checked before anything is planned, and helpers that name what a rule reads of it.

import gc
import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from snakemake.settings.types import DeploymentMethod
from snakemake.shell import shell

sys.path.insert(0, str(workflow.basedir))

from ncpipe.data.originals import find_originals, version
from ncpipe.errors import UserError
from ncpipe.files import write_text
from ncpipe.plan.fitting_time import fitting_time
from ncpipe.plan.limits import megabytes, minutes, minutes_for, read_estimates
from ncpipe.study.identity import STAGE_VERSIONS, canonical, digest
from ncpipe.study.lock import hold
from ncpipe.study.reading import read_config
from ncpipe.study.study import Study


@contextmanager
def errors_in_a_line():
    try:
        yield
    except UserError as error:
        sys.exit(f"ncpipe: {error}")


def forget_missing_folders():
    """Let the S3 plugin see folders that pods make: 0.3.6 remembers for good that one was not there."""
    from snakemake_storage_plugin_s3 import StorageObject

    StorageObject.is_dir = lambda self: any(self.get_subkeys())


with errors_in_a_line():
    # Snakemake has read them, but keeps the last of two equal keys and says nothing.
    for file in filter(
        os.path.isfile, workflow.configfiles if workflow.is_main_process else ()
    ):
        read_config(Path(file))
    # A job under an executor reads this file again. What it does not need of a large study is not expanded then, and
    # so all that depends on the whole study is a function.
    gc.disable()
    STUDY = Study(config, check=workflow.is_main_process)
    ESTIMATES = read_estimates(STUDY.layout)
    # They live to the end: Python's collector need not visit their many objects again and again.
    gc.freeze()
    gc.enable()

# Jobs find the ncpipe of the interpreter that runs Snakemake, in an activated environment or not.
# A container brings its own.
BIN = shlex.quote(str(Path(sys.executable).parent))
if DeploymentMethod.APPTAINER not in workflow.deployment_settings.deployment_method:
    shell.prefix(f"set -euo pipefail; export PATH={BIN}:$PATH; ")

RESULTS = str(STUDY.layout.results)
# Where a job finds and leaves files: in the results folder, or in Snakemake's copies of what is in an object store.
PREFIX = workflow.storage_settings.default_storage_prefix
FOLDER = str(storage(f"{PREFIX}/{RESULTS}")) if PREFIX else RESULTS
if workflow.storage_settings.default_storage_provider == "s3":
    forget_missing_folders()
# The resolved config, written when the workflow starts: jobs read their settings from it, and a failed one can be
# run again by hand. It is no input of theirs: what a job reads of it stands in its params, which decide about reruns.
STUDY_FILE = f"{RESULTS}/study.json"
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
# The report links to the runs in MLflow, whose address is known once the store is there.
STORE = [f"{RESULTS}/mlflow/store.json"] if STUDY.config.tracking.enabled else []
# Minutes, and megabytes at least, of jobs that `ncpipe plan` has not estimated.
USUAL = {
    "train": (1440, 4000),
    "features": (60, 6000),
    "continual": (60, 6000),
}


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    run="[A-Za-z0-9_-]+",
    batch="(?!matched-)[A-Za-z0-9_-]+",
    source="net|ufm",
    figure="[A-Za-z0-9_-]+",


def train_settings(wildcards):
    run = STUDY.networks[wildcards.run]
    return {"network": canonical(run.spec), "epochs": list(run.epochs)}


def measure_settings(wildcards):
    run, measure = STUDY.networks[wildcards.run], canonical(STUDY.config.measure)
    return {
        "layers": list(run.layers),
        "measure": {k: v for k, v in measure.items() if k not in ("layers", "epochs")},
    }


originals_of = cache(find_originals)  # of all data sets of one source


def made_of(study, dataset, folders):
    """Of which version of its source files a data set is made; empty while they have not changed."""
    spec = study.prepared[dataset]
    return version(
        study.layout.dataset(dataset),
        lambda: originals_of(spec.name, spec.path, folders),
    )


def dataset_settings(wildcards):
    originals = made_of(STUDY, wildcards.dataset, tuple(STUDY.data_path))
    settings = canonical(STUDY.prepared[wildcards.dataset])
    return settings | ({"originals": originals} if originals else {})


def dataset_version(wildcards):
    name = STUDY.prepared[wildcards.dataset].name
    return STAGE_VERSIONS.get(name, STAGE_VERSIONS["dataset"])


def dataset_of(wildcards):
    return dataset_files(STUDY.networks[wildcards.run].dataset_id)


def dataset_files(dataset):
    files = ["dataset.json", "train.safetensors", "test.safetensors"]
    return [f"{RESULTS}/data/{dataset}/{name}" for name in files]


def continual_data(wildcards):
    run = STUDY.continual[wildcards.run]
    return {
        "kept": dataset_files(run.network.dataset_id),
        "whole": dataset_files(run.dataset_id),
    }


def continual_settings(wildcards):
    return {
        i: canonical(spec) for i, spec in STUDY.continual[wildcards.run].ways.items()
    }


def batch_settings(wildcards):
    return {
        i: canonical(spec)
        for i, spec in STUDY.ufm_batches[wildcards.batch].problems.items()
    }


def limits(stage, wildcards, attempt):
    """Minutes and megabytes that a job asks a cluster for; on one machine they limit nothing."""
    usual_minutes, megabytes_at_least = USUAL[stage]
    return (
        minutes(ESTIMATES, stage, wildcards.run, usual_minutes),
        megabytes(ESTIMATES, stage, wildcards.run, attempt, megabytes_at_least),
    )


def fit_minutes(wildcards):
    problems = STUDY.ufm_batches[wildcards.batch].problems
    return minutes_for(fitting_time(list(problems.values())))


def write_study():
    study = STUDY.config.study.model_copy(update={"results": FOLDER})
    tracking = STUDY.config.tracking
    if PREFIX and tracking.uri is None:
        # MLflow's database is no file for an object store.
        here = f"sqlite:///{Path(RESULTS).resolve()}/mlflow/mlflow.db"
        tracking = tracking.model_copy(update={"uri": here})
    config = STUDY.config.model_copy(update={"study": study, "tracking": tracking})
    write_text(Path(STUDY_FILE), config.model_dump_json(indent=2))


def matched(wildcards):
    return (
        [f"matched-{run}" for run in STUDY.networks] if STUDY.config.ufm.matched else []
    )


def drawn_figures(wildcards):
    return expand(
        f"{RESULTS}/figures/{{figure}}.{{suffix}}",
        figure=STUDY.figures,
        suffix=["svg", "png", "pdf"],
    )


def drawn_caption(path):
    """What stands under a drawn figure, for `snakemake --report`; it is near the start of its SVG, as XML."""
    if not Path(path).exists():
        return ""
    with Path(path).open(encoding="utf-8") as svg:
        return svg.read(10_000).partition("<dc:description>")[2].partition("</dc:")[0]


def long_table(name):
    """A table of many rows a run: a file, or of many runs a folder of parts."""
    path = f"{RESULTS}/tables/{name}.parquet"
    # Jobs of other rules under an executor need not count the runs: `--allowed-rules` names theirs.
    counts = workflow.is_main_process or "tables" in sys.argv
    return directory(path) if counts and STUDY.partitioned else path


def show_trainings():
    """Start the process that shows networks in MLflow while they train; it ends with this one."""
    command = [
        sys.executable,
        "-m",
        "ncpipe",
        "live",
        STUDY_FILE,
        "--parent",
        str(os.getpid()),
    ]
    log = Path(LOGS) / "live.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # A session of its own: Ctrl-C is for the jobs, and this one sees that Snakemake has ended.
    subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


# A job on a node that shares no folder with this one finds no study there.
if workflow.remote_exec and not Path(STUDY_FILE).exists():
    write_study()
