"""The Parquet tables: their schemas, and how they are collected from the records of the runs."""
