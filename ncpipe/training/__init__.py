"""Training: the loop, its objective, end phase, ensembles and ranks, resumable at any moment."""
