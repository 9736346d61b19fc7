"""What claims rest on: rows of tables, intervals, verdicts and their words."""
