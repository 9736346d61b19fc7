# The MLflow mirror: a store created once, then filled from the tables by one writer. Snakefile starts another process
# that shows networks while they train. Under an executor both stay where Snakemake runs: SQLite must not be written
# from two machines.


TRACKING = digest([STUDY.config.tracking.uri, STUDY.config.tracking.experiment])


rule store:
    output:
        f"{RESULTS}/mlflow/store.json",
    log:
        f"{LOGS}/store.log",
    benchmark:
        f"{BENCHMARKS}/store.tsv"
    priority: 100
    localrule: True
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=30,
    params:
        study=STUDY_FILE,
        tracking=TRACKING,
        version=STAGE_VERSIONS["tracking"],
    shell:
        "ncpipe store {params.study} > {log} 2>&1"


rule sync:
    input:
        store=rules.store.output,
        tables=rules.tables.output,
        figures=drawn_figures,
        report=rules.report.output,
    output:
        f"{RESULTS}/mlflow/sync.json",
    log:
        f"{LOGS}/sync.log",
    benchmark:
        f"{BENCHMARKS}/sync.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=120,
    params:
        study=STUDY_FILE,
        tracking=TRACKING,
        version=STAGE_VERSIONS["tracking"],
    shell:
        "ncpipe sync {params.study} > {log} 2>&1"
