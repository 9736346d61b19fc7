"""The grammar of ``config.yaml``: base of all settings, plugins by name, sweeps, scales, messages, ids."""
