"""Files of runs and tables: schemas, writing, reading, checks, parts."""
