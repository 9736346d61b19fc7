# Trained networks: data set, training, forward passes over the checkpoints, collapse metrics.


rule dataset:
    output:
        train=f"{RESULTS}/data/{{dataset}}/train.safetensors",
        test=f"{RESULTS}/data/{{dataset}}/test.safetensors",
        about=f"{RESULTS}/data/{{dataset}}/dataset.json",
    log:
        f"{LOGS}/dataset/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/dataset/{{dataset}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=60,
    params:
        study=STUDY_FILE,
        settings=lambda wildcards: dataset_params(STUDY, wildcards.dataset),
        version=lambda wildcards: STAGE_VERSIONS.get(
            STUDY.prepared[wildcards.dataset].name, STAGE_VERSIONS["dataset"]
        ),
    shell:
        "ncpipe dataset {params.study} {wildcards.dataset} > {log} 2>&1"


rule train:
    input:
        dataset=dataset_of,
    output:
        spec=f"{RESULTS}/runs/{{run}}/spec.json",
        history=f"{RESULTS}/runs/{{run}}/history.parquet",
        timings=f"{RESULTS}/runs/{{run}}/timings.parquet",
        model=f"{RESULTS}/runs/{{run}}/model.safetensors",
        checkpoints=directory(f"{RESULTS}/runs/{{run}}/checkpoints"),
    log:
        f"{LOGS}/train/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{run}}.tsv"
    threads: 1
    resources:
        gpu=lambda wildcards: STUDY.networks[wildcards.run].spec.gpus,
        mem_mb=lambda wildcards, attempt: megabytes(
            ESTIMATES, "train", wildcards.run, attempt
        ),
        runtime=lambda wildcards: minutes(ESTIMATES, "train", wildcards.run),
    params:
        study=STUDY_FILE,
        settings=lambda wildcards: STUDY.networks[wildcards.run].params(),
        version=STAGE_VERSIONS["train"],
    shell:
        "ncpipe train {params.study} {wildcards.run} --threads {threads} > {log} 2>&1"


rule features:
    input:
        dataset=dataset_of,
        spec=rules.train.output.spec,
        checkpoints=rules.train.output.checkpoints,
    output:
        statistics=f"{RESULTS}/runs/{{run}}/statistics.safetensors",
        features=f"{RESULTS}/runs/{{run}}/features.safetensors",
    log:
        f"{LOGS}/features/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/features/{{run}}.tsv"
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: megabytes(
            ESTIMATES, "features", wildcards.run, attempt
        ),
        runtime=lambda wildcards: minutes(ESTIMATES, "features", wildcards.run),
    params:
        study=STUDY_FILE,
        settings=lambda wildcards: STUDY.networks[wildcards.run].measured(
            STUDY.config.measure
        ),
        version=STAGE_VERSIONS["features"],
    shell:
        "ncpipe features {params.study} {wildcards.run} --threads {threads} > {log} 2>&1"


rule collapse_network:
    input:
        statistics=rules.features.output.statistics,
    output:
        collapse=f"{RESULTS}/runs/{{run}}/collapse.parquet",
        grams=f"{RESULTS}/runs/{{run}}/grams.parquet",
    log:
        f"{LOGS}/collapse/{{run}}.log",
    benchmark:
        f"{BENCHMARKS}/collapse/{{run}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=10,
    params:
        version=STAGE_VERSIONS["collapse"],
    shell:
        "ncpipe collapse {input.statistics} net {output.collapse} > {log} 2>&1"
