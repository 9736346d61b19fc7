"""Runs of the user's own training recorded into the tables of a study, without a study."""
