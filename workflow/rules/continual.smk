# Class-incremental learning on the frozen features of the trained networks.


rule continual:
    input:
        unpack(continual_data),
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
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=120,
    params:
        study=STUDY_FILE,
        settings=continual_settings,
        version=STAGE_VERSIONS["continual"],
    shell:
        "ncpipe continual {params.study} {wildcards.run} --threads {threads} > {log} 2>&1"
