# ncpipe: neural collapse in trained networks, compared with unconstrained-features models (UFM).
# Declare a study in config.yaml (or --configfile studies/NAME.yaml), then: snakemake --cores all

from snakemake.utils import min_version

min_version("9.25")


# Read only with --software-deployment-method apptainer; built from workflow/Containerfile.
container: "docker://localhost/ncpipe:0.1.0"


if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/networks.smk"
include: "workflow/rules/continual.smk"
include: "workflow/rules/ufm.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/tracking.smk"
include: "workflow/rules/claims.smk"


from ncpipe.cluster import take_over
from ncpipe.files import check_writable
from ncpipe.plan.profile import workflow_ends, workflow_starts
from ncpipe.study.clock import bring_back


onstart:
    with errors_in_a_line():
        originals_of.cache_clear()  # of a large folder hundreds of megabytes
        hold(STUDY.layout.results)
        check_writable([STUDY.layout.tables, STUDY.layout.figures])
        bring_back(STUDY.layout.results)
        write_study()
        # The name of its jobs, where the executor is SLURM's.
        if job_name := getattr(workflow.scheduler._executor, "run_uuid", None):
            take_over(STUDY.layout, job_name)
        workflow_starts(STUDY.layout, workflow._cores)
        if (
            STUDY.config.tracking.enabled
            and STUDY.config.tracking.live
            and STUDY.networks
        ):
            show_trainings()


onsuccess:
    with errors_in_a_line():
        workflow_ends(STUDY.layout)


onerror:
    with errors_in_a_line():
        workflow_ends(STUDY.layout)


rule all:
    default_target: True
    input:
        # Named here though the report reads them: Snakemake makes nothing anew that is missing and no target.
        rules.tables.output,
        drawn_figures,
        rules.report.output,
        rules.sync.output if STUDY.config.tracking.enabled else [],


rule models:
    input:
        lambda wildcards: expand(
            f"{RESULTS}/runs/{{run}}/model.safetensors", run=STUDY.networks
        ),
        lambda wildcards: expand(
            f"{RESULTS}/ufm/{{folder}}/fits.parquet",
            folder=[*STUDY.ufm_batches, *matched(wildcards)],
        ),
        lambda wildcards: expand(
            f"{RESULTS}/continual/{{run}}/history.parquet", run=STUDY.continual
        ),


rule figures:
    input:
        drawn_figures,
