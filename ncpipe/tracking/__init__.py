"""The MLflow mirror of a study: a store, runs made of the tables, a sync that repeats safely, and the web UI."""
