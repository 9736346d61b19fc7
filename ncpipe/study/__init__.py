"""A study: its whole config, checked and expanded into runs; where they lie. Imports no torch."""
