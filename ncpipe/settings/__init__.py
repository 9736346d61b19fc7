"""The grammar of ``config.yaml``: base of all settings, reading, sweeps, scales, messages, ids."""
