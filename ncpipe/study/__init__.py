"""What a study declares: typed settings, their sweeps, and the runs they expand to. Imports no torch."""
