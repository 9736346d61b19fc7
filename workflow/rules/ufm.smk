# Unconstrained-features models: declared problems in batches, and the models matched to each network.


rule fit:
    output:
        fits=f"{RESULTS}/ufm/{{batch}}/fits.parquet",
        history=f"{RESULTS}/ufm/{{batch}}/history.parquet",
        timings=f"{RESULTS}/ufm/{{batch}}/timings.parquet",
        minimisers=f"{RESULTS}/ufm/{{batch}}/minimisers.safetensors",
        statistics=f"{RESULTS}/ufm/{{batch}}/statistics.safetensors",
    log:
        f"{LOGS}/ufm/{{batch}}.log",
    benchmark:
        f"{BENCHMARKS}/ufm/{{batch}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards: minutes_for(
            fitting_time(list(STUDY.ufm_batches[wildcards.batch].problems.values()))
        ),
    params:
        study=STUDY_FILE,
        settings=lambda wildcards: STUDY.ufm_batches[wildcards.batch].params(),
        version=STAGE_VERSIONS["ufm"],
    shell:
        "ncpipe fit {params.study} {wildcards.batch} --threads {threads} > {log} 2>&1"


rule match:
    input:
        spec=rules.train.output.spec,
        statistics=rules.features.output.statistics,
    output:
        fits=f"{RESULTS}/ufm/matched-{{run}}/fits.parquet",
        history=f"{RESULTS}/ufm/matched-{{run}}/history.parquet",
        timings=f"{RESULTS}/ufm/matched-{{run}}/timings.parquet",
        minimisers=f"{RESULTS}/ufm/matched-{{run}}/minimisers.safetensors",
        statistics=f"{RESULTS}/ufm/matched-{{run}}/statistics.safetensors",
        collapse=f"{RESULTS}/ufm/matched-{{run}}/collapse.parquet",
        grams=f"{RESULTS}/ufm/matched-{{run}}/grams.parquet",
    log:
        f"{LOGS}/ufm/matched-{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/ufm/matched-{{run}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=15,
    params:
        study=STUDY_FILE,
        settings=list(STUDY.config.ufm.matched),
        version=[STAGE_VERSIONS["ufm"], STAGE_VERSIONS["collapse"]],
    shell:
        "ncpipe match {params.study} {wildcards.run} --threads {threads} > {log} 2>&1"


rule collapse_ufm:
    input:
        statistics=rules.fit.output.statistics,
    output:
        collapse=f"{RESULTS}/ufm/{{batch}}/collapse.parquet",
        grams=f"{RESULTS}/ufm/{{batch}}/grams.parquet",
    log:
        f"{LOGS}/collapse/ufm-{{batch}}.log",
    benchmark:
        f"{BENCHMARKS}/collapse/ufm-{{batch}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=10,
    params:
        version=STAGE_VERSIONS["collapse"],
    shell:
        "ncpipe collapse {input.statistics} ufm {output.collapse} > {log} 2>&1"
