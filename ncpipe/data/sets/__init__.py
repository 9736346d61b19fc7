"""Data sets, one a file: published size, where the files are, and how they are read."""
