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
        gpu=1,
        mem_mb=lambda wildcards, attempt: limits("continual", wildcards, attempt)[1],
        runtime=lambda wildcards, attempt: limits("continual", wildcards, attempt)[0],
    params:
        study=STUDY_FILE,
        settings=continual_settings,
        version=STAGE_VERSIONS["continual"],
    shell:
        "ncpipe continual {params.study} {wildcards.run} --threads {threads} > {log} 2>&1"
