# The product: tables of all runs, figures drawn from the tables alone, and the report.


rule tables:
    input:
        datasets=lambda wildcards: expand(
            f"{RESULTS}/data/{{dataset}}/dataset.json", dataset=STUDY.prepared
        ),
        networks=lambda wildcards: expand(
            f"{RESULTS}/runs/{{run}}/{{file}}",
            run=STUDY.networks,
            file=[
                "spec.json",
                "history.parquet",
                "timings.parquet",
                "collapse.parquet",
                "grams.parquet",
            ],
        ),
        problems=lambda wildcards: expand(
            f"{RESULTS}/ufm/{{folder}}/{{file}}.parquet",
            folder=[*STUDY.ufm_batches, *matched(wildcards)],
            file=["fits", "history", "timings", "collapse", "grams"],
        ),
        continual=lambda wildcards: expand(
            f"{RESULTS}/continual/{{run}}/{{file}}",
            run=STUDY.continual,
            file=["history.parquet", "timings.parquet", "runs.json"],
        ),
        own=own(STUDY.config.claims),
    output:
        expand(
            f"{RESULTS}/tables/{{table}}.parquet",
            table=["runs", "ufm", "claims"],
        ),
        [long_table(name) for name in ("history", "collapse", "grams", "timings")],
    log:
        f"{LOGS}/tables.log",
    benchmark:
        f"{BENCHMARKS}/tables.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=60,
    params:
        study=STUDY_FILE,
        name=STUDY.config.study.name,
        runs=lambda wildcards: digest(
            [*STUDY.networks, *STUDY.continual_ids, *STUDY.problems]
        ),
        claims=list(STUDY.config.claims),
        scale=STUDY.config.scale,
        select=(
            canonical(STUDY.config.networks.select) if STUDY.config.networks else None
        ),
        version=STAGE_VERSIONS["tables"],
    shell:
        "ncpipe tables {params.study} > {log} 2>&1"


rule figure:
    input:
        tables=rules.tables.output,
        own=lambda wildcards: own([STUDY.figures[wildcards.figure].name]),
    output:
        svg=report(
            f"{RESULTS}/figures/{{figure}}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        png=f"{RESULTS}/figures/{{figure}}.png",
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
    log:
        f"{LOGS}/figures/{{figure}}.log",
    benchmark:
        f"{BENCHMARKS}/figures/{{figure}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=10,
    params:
        study=STUDY_FILE,
        options=lambda wildcards: canonical(STUDY.figures[wildcards.figure]),
        caption=lambda wildcards, output: drawn_caption(Path(output.svg)),
        version=STAGE_VERSIONS["figures"],
    shell:
        "ncpipe figure {wildcards.figure} --study {params.study} > {log} 2>&1"


rule report:
    input:
        tables=rules.tables.output,
        figures=drawn_figures,
        store=STORE,
        own=lambda wildcards: own(STUDY.own_files),
    output:
        report(
            f"{RESULTS}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "the whole study"},
        ),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{BENCHMARKS}/report.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=30,
    params:
        study=STUDY_FILE,
        settings=canonical(STUDY.config.study),
        figures=lambda wildcards: list(STUDY.figures),
        version=STAGE_VERSIONS["report"],
    shell:
        "ncpipe report {params.study} > {log} 2>&1"
