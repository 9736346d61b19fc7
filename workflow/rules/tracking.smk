# The MLflow mirror: a store created once, then filled from the tables by one writer.


rule store:
    input:
        study=ancient(STUDY_FILE),
    output:
        f"{RESULTS}/mlflow/store.json",
    log:
        f"{LOGS}/store.log",
    benchmark:
        f"{BENCHMARKS}/store.tsv"
    priority: 100
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        uri=STUDY.config.tracking.uri,
        version=STAGE_VERSIONS["tracking"],
    shell:
        "ncpipe store {input.study} > {log} 2>&1"


rule sync:
    input:
        study=ancient(STUDY_FILE),
        store=rules.store.output,
        tables=rules.tables.output,
        report=rules.report.output,
    output:
        f"{RESULTS}/mlflow/sync.json",
    log:
        f"{LOGS}/sync.log",
    benchmark:
        f"{BENCHMARKS}/sync.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        tracking=canonical(STUDY.config.tracking),
        version=STAGE_VERSIONS["tracking"],
    shell:
        "ncpipe sync {input.study} > {log} 2>&1"
