# ncpipe: neural collapse in trained networks, compared with unconstrained-features models (UFM).
# Declare a study in config.yaml (or --configfile studies/NAME.yaml), then: snakemake --cores all


include: "workflow/Snakefile"


# Snakemake keeps none of an included file.
if workflow.default_target is None:
    workflow.default_target = workflow.modifier.modify_rulename("all")
