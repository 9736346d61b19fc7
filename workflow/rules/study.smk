# The resolved config: jobs read their settings from it, so that a failed one can be run again by hand.
# Rules take it as ancient: what a job reads of it stands in the job's params, which decide about reruns.
rule study:
    output:
        STUDY_FILE,
    log:
        f"{LOGS}/study.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        config=STUDY.config.model_dump(mode="json"),
    script:
        "../scripts/write_study.py"
