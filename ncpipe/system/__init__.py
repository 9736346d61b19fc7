"""The machine, and no science: files, errors, locks, GPUs, SLURM, credentials, provenance."""
