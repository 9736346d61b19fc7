"""The Parquet tables of a study, collected from the records of its runs."""
