"""The jobs of a workflow on one machine, forked from a process that has imported once."""
