# All papers: the study of each, run by a Snakemake of its own, and one page of all claims.

import json

from ncpipe.study.config import PAPERS

WITH_STUDY = [
    paper for paper in PAPERS if (ROOT / "studies" / f"{paper}.yaml").exists()
]
SCALE = STUDY.config.scale or "small"
DATA_PATH = list(STUDY.config.study.data_path)


rule study_claims:
    input:
        study=f"{ROOT}/studies/{{paper}}.yaml",
    output:
        "results/claims/{paper}-{scale}.parquet",
    log:
        "results/logs/claims/{paper}-{scale}.log",
    benchmark:
        "results/benchmarks/claims/{paper}-{scale}.tsv"
    wildcard_constraints:
        paper="|".join(WITH_STUDY),
        scale="[A-Za-z0-9_-]+",
    retries: 0
    threads: lambda wildcards: workflow.cores
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=1440,
    params:
        snakefile=f"{ROOT}/Snakefile",
        data_path=[f"study={json.dumps({'data_path': DATA_PATH})}"] if DATA_PATH else [],
        versions=STAGE_VERSIONS,
        originals=lambda wildcards, input: originals_of_paper(
            STUDY, Path(input.study), wildcards.scale
        ),
        # Made by the inner Snakemake, and so no output here: declared outputs are deleted before a job.
        claims="results/{paper}-{scale}/tables/claims.parquet",
    shell:
        "snakemake --snakefile {params.snakefile:q} --cores {threads} --configfile {input.study:q}"
        " --config scale={wildcards.scale} {params.data_path:q} > {log:q} 2>&1"
        " && cp {params.claims} {output}"


rule claims:
    input:
        expand("results/claims/{paper}-{scale}.parquet", paper=WITH_STUDY, scale=SCALE),
    output:
        "results/claims.html",
    log:
        "results/logs/claims.log",
    benchmark:
        "results/benchmarks/claims.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=30,
    params:
        results=expand("results/{paper}-{scale}", paper=WITH_STUDY, scale=SCALE),
        version=STAGE_VERSIONS["report"],
    shell:
        "ncpipe claims {params.results} --output {output} > {log} 2>&1"
