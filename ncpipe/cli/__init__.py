"""The command ``ncpipe``."""
