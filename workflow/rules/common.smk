# The study, checked before anything is planned, and what rules read of it.

import gc
import os
import shlex
import sys
from pathlib import Path

from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod
from snakemake.shell import shell

# The clone, from whichever workflow its rules are used. Of rules fetched from a server the package is installed.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
if (ROOT / "ncpipe").is_dir():
    sys.path.insert(0, str(ROOT))
try:
    from ncpipe.system.errors import in_a_line
except ModuleNotFoundError:
    sys.exit(
        f"ncpipe: its package is not installed beside Snakemake ({sys.executable}): config/README.md"
    )

from ncpipe.plan.fitting_time import fitting_time
from ncpipe.plan.limits import megabytes, minutes, minutes_for, read_estimates
from ncpipe.plan.workflow import (
    dataset_params,
    drawn_caption,
    originals_of_paper,
    start,
    workflow_ends,
    write_study,
)
from ncpipe.settings.identity import STAGE_VERSIONS, canonical, digest
from ncpipe.settings.reading import read_config
from ncpipe.study.layout import Layout
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import content_digest
from ncpipe.settings.source import is_own

with in_a_line():
    # Snakemake has read them, but keeps the last of two equal keys and says nothing. Those of a workflow that hands on
    # a part of its config are its own affair.
    whole = config is workflow.modifier_stack[0].globals["config"]
    for file in workflow.configfiles if whole and workflow.is_main_process else ():
        if os.path.isfile(file):
            read_config(Path(file))
    # A job under an executor reads this file again. What it does not need of a large study is not expanded then, and
    # so all that depends on the whole study is a function.
    gc.disable()
    STUDY = Study(config, check=workflow.is_main_process)
    RESULTS = str(STUDY.layout.results)
    # Where rules of a module with a prefix find what they call RESULTS.
    PLACE = os.path.dirname(
        workflow.modifier.path_modifier.replace_prefix(f"{RESULTS}/study.json")
    )
    STUDY.layout = Layout(Path(PLACE))
    ESTIMATES = read_estimates(STUDY.layout)
    # They live to the end: Python's collector need not visit their many objects again and again.
    gc.freeze()
    gc.enable()

# Jobs find the ncpipe of the interpreter that runs Snakemake, in an activated environment or not.
# A container brings its own.
BIN = shlex.quote(str(Path(sys.executable).parent))
CONTAINED = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
if not CONTAINED:
    shell.prefix(f"set -euo pipefail; export PATH={BIN}:$PATH; ")

# Where a job finds and leaves files: in the results folder, or in Snakemake's copies of what is in an object store.
PREFIX = workflow.storage_settings.default_storage_prefix
FOLDER = str(storage(f"{PREFIX}/{PLACE}")) if PREFIX else PLACE
# The resolved config, written when the workflow starts: jobs read their settings from it, and a failed one can be
# run again by hand. It is no input of theirs: what a job reads of it stands in its params, which decide about reruns.
STUDY_FILE = f"{PLACE}/study.json"
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
# The report links to the runs in MLflow, whose address is known once the store is there.
STORE = [f"{RESULTS}/mlflow/store.json"] if STUDY.config.tracking.enabled else []


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    run="[A-Za-z0-9_-]+",
    batch="(?!matched-)[A-Za-z0-9_-]+",
    source="net|ufm",
    figure="[A-Za-z0-9_-]+",


def dataset_files(dataset):
    """The record, which holds the SHA-256 of the others and so decides alone whether they are new."""
    folder = f"{RESULTS}/data/{dataset}"
    images = [ancient(f"{folder}/{split}.safetensors") for split in ("train", "test")]
    return [f"{folder}/dataset.json", *images]


def dataset_of(wildcards):
    return dataset_files(STUDY.networks[wildcards.run].dataset_id)


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


def own(names):
    """Files of the study's own among names of figures or claims: no prefix moves them, and pods have none of them, so
    that such a job stays where Snakemake runs."""
    return [local(os.path.expanduser(name)) for name in names if is_own(name)]


def long_table(name):
    """A table of many rows a run: a file, or of many runs a folder of parts."""
    path = f"{RESULTS}/tables/{name}.parquet"
    # Jobs of other rules under an executor need not count the runs: `--allowed-rules` names theirs. Snakemake has its
    # dag_settings only later.
    own = workflow.modifier.modify_rulename("tables")
    counts = workflow.is_main_process or own in sys.argv
    return directory(path) if counts and STUDY.partitioned else path


def starts():
    with in_a_line():
        cores = workflow.resource_settings.cores
        start(
            STUDY,
            Path(STUDY_FILE),
            FOLDER,
            cores,
            job_name(),
            here=workflow.local_exec and not CONTAINED,
        )


def ends():
    with in_a_line():
        workflow_ends(STUDY.layout)


def succeeds():
    from ncpipe.report.closing import closing  # loads pandas

    ends()
    try:
        logger.info(closing(STUDY))
    except UserError as error:  # tables that another process writes now
        logger.warning(f"ncpipe: {error}")


# A job on a node that shares no folder with this one finds no study there.
if workflow.remote_exec and not Path(STUDY_FILE).exists():
    write_study(STUDY, Path(STUDY_FILE), FOLDER)
