"""The stages of a run, one module a rule of the workflow."""
