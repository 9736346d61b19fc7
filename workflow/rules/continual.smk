# Class-incremental learning on the frozen features of the trained networks.


rule continual:
    input:
        kept=dataset_of,
        whole=lambda wildcards: dataset_files(STUDY.continual[wildcards.run].dataset_id),
        spec=rules.train.output.spec,
        model=rules.train.output.model,
    output:
        history=f"{RESULTS}/continual/{{run}}/history.parquet",
        timings=f"{RESULTS}/continual/{{run}}/timings.parquet",
        runs=f"{RESULTS}/continual/{{run}}/runs.json",
    log:
        f"{LOGS}/continual/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/continual/{{run}}.tsv"
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: megabytes(
            ESTIMATES, "continual", wildcards.run, attempt
        ),
        runtime=lambda wildcards: minutes(ESTIMATES, "continual", wildcards.run),
    params:
        study=STUDY_FILE,
        settings=lambda wildcards: STUDY.continual[wildcards.run].params(),
        version=STAGE_VERSIONS["continual"],
    shell:
        "ncpipe continual {params.study} {wildcards.run} --threads {threads} > {log} 2>&1"
