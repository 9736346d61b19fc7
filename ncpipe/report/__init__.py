"""The report of a study: one HTML file that needs no network."""

from ncpipe.report.page import write_report

__all__ = ["write_report"]
