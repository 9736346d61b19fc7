"""``ncpipe plan``: what a study would run, what that takes, and where the time of a run went."""
