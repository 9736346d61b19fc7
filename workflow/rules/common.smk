# The study, checked before anything is planned, and helpers that name what a rule reads of it.

import gc
import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from snakemake.io import _IOFile
from snakemake.settings.types import DeploymentMethod
from snakemake.shell import shell

# The clone, from whichever workflow its rules are used. Of rules fetched from a server the package is installed.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
if (ROOT / "ncpipe").is_dir():
    sys.path.insert(0, str(ROOT))
try:
    from ncpipe.system.errors import (UserError)
except ModuleNotFoundError:
    sys.exit(
        f"ncpipe: its package is not installed beside Snakemake ({sys.executable}): config/README.md"
    )

from ncpipe.system.slurm import take_over
from ncpipe.data.originals import find_originals, version
from ncpipe.system.files import (check_writable, content_digest, write_text)
from ncpipe.plan.fitting_time import fitting_time
from ncpipe.plan.limits import megabytes, minutes, minutes_for, read_estimates
from ncpipe.plan.profile import workflow_ends, workflow_starts
from ncpipe.system.dates import (bring_back)
from ncpipe.settings.identity import (STAGE_VERSIONS, canonical, digest)
from ncpipe.study.layout import Layout
from ncpipe.system.lock import (hold)
from ncpipe.settings.reading import (read_config)
from ncpipe.study.study import (Study)


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


def know_contents(results):
    """Let Snakemake know large results and folders by their content, as it knows files up to 1 MB.

    Of others it (9.27) knows but the date, and where a copy has lost the dates, all that follows from them is due.
    """
    is_known, checksum = _IOFile.is_checksum_eligible, _IOFile.checksum

    async def is_ours(file, threshold):
        # The content of ancient ones does not matter.
        ours = str(file).startswith(f"{results}/") and not file.is_storage
        if not ours or file.is_ancient or await is_known(file, threshold):
            return False
        return await file.exists_local()

    async def is_checksum_eligible(self, threshold):
        return await is_known(self, threshold) or await is_ours(self, threshold)

    async def checksum_of_ours(self, threshold=None, *args, **options):
        if threshold is not None and await is_ours(self, threshold):
            return f"sha256:{content_digest(Path(self))}"
        return await checksum(self, threshold, *args, **options)

    _IOFile.is_checksum_eligible, _IOFile.checksum = (
        is_checksum_eligible,
        checksum_of_ours,
    )


with errors_in_a_line():
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
if DeploymentMethod.APPTAINER not in workflow.deployment_settings.deployment_method:
    shell.prefix(f"set -euo pipefail; export PATH={BIN}:$PATH; ")

# Where a job finds and leaves files: in the results folder, or in Snakemake's copies of what is in an object store.
PREFIX = workflow.storage_settings.default_storage_prefix
FOLDER = str(storage(f"{PREFIX}/{PLACE}")) if PREFIX else PLACE
if workflow.storage_settings.default_storage_provider == "s3":
    forget_missing_folders()
# The resolved config, written when the workflow starts: jobs read their settings from it, and a failed one can be
# run again by hand. It is no input of theirs: what a job reads of it stands in its params, which decide about reruns.
STUDY_FILE = f"{PLACE}/study.json"
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


def originals_of_study(wildcards):
    """Versions of the source files of all of its data sets, which the Snakemake of the study alone would look at."""
    study = Study.read(
        Path("studies") / f"{wildcards.paper}.yaml", wildcards.scale, check=False
    )
    folders = tuple(STUDY.data_path or study.data_path)
    found = {dataset: made_of(study, dataset, folders) for dataset in study.prepared}
    return {dataset: changed for dataset, changed in found.items() if changed}


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
    """The record, which holds the SHA-256 of the others and so decides alone whether they are new."""
    folder = f"{RESULTS}/data/{dataset}"
    images = [ancient(f"{folder}/{split}.safetensors") for split in ("train", "test")]
    return [f"{folder}/dataset.json", *images]


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
        here = f"sqlite:///{Path(PLACE).resolve()}/mlflow/mlflow.db"
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
    counts = (
        workflow.is_main_process
        or workflow.modifier.modify_rulename("tables") in sys.argv
    )
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
    log = Path(PLACE) / "logs" / "live.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # A session of its own: Ctrl-C is for the jobs, and this one sees that Snakemake has ended.
    subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def starts():
    with errors_in_a_line():
        originals_of.cache_clear()  # of a large folder hundreds of megabytes
        hold(STUDY.layout.results)
        check_writable([STUDY.layout.tables, STUDY.layout.figures])
        bring_back(STUDY.layout.results)
        write_study()
        # The name of its jobs, where the executor is SLURM's.
        if job_name := getattr(workflow.scheduler._executor, "run_uuid", None):
            take_over(STUDY.layout.slurm, job_name)
        workflow_starts(STUDY.layout, workflow._cores)
        if (
            STUDY.config.tracking.enabled
            and STUDY.config.tracking.live
            and STUDY.networks
        ):
            show_trainings()


def ends():
    with errors_in_a_line():
        workflow_ends(STUDY.layout)


def attach(starts, ends):
    """Run them where the workflow starts and ends, beside what other Snakefiles do there.

    Of `onstart:` and its like Snakemake leaves out those of modules, and keeps the last of several.
    """
    attached = vars(workflow).setdefault("ncpipe_attached", set())
    if PLACE in attached:  # `use rule ... with` reads all files of a module again
        return
    attached.add(PLACE)
    know_contents(PLACE)
    for name, own in (("onstart", starts), ("onsuccess", ends), ("onerror", ends)):
        setattr(workflow, f"_{name}", before(own, getattr(workflow, f"_{name}")))
        setattr(workflow, name, declaring(own, getattr(workflow, name)))


def before(own, theirs):
    return lambda log: (own(), theirs(log))


def declaring(own, declare):
    """What a later `onstart:` calls, with ours before it."""
    return lambda theirs: declare(before(own, theirs))


# A job on a node that shares no folder with this one finds no study there.
if workflow.remote_exec and not Path(STUDY_FILE).exists():
    write_study()
