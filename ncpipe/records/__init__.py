"""The files of runs and the tables made of them: schemas, writing, reading, checks."""
