"""Where everything of a study lies under its results folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RUNS_A_PART = 1000
"""Runs of one part of a long table; up to so many runs, such a table is one file."""


@dataclass(frozen=True)
class Layout:
    """Paths by stage; ids come from ``identify`` and are safe as names."""

    results: Path

    def dataset(self, dataset_id: str) -> Path:
        return self.results / "data" / dataset_id

    def run(self, network_id: str) -> Path:
        return self.results / "runs" / network_id

    def ufm(self, batch_id: str) -> Path:
        return self.results / "ufm" / batch_id

    def continual(self, network_id: str) -> Path:
        return self.results / "continual" / network_id

    @property
    def tables(self) -> Path:
        return self.results / "tables"

    @property
    def figures(self) -> Path:
        return self.results / "figures"

    @property
    def report(self) -> Path:
        return self.results / "report.html"

    @property
    def recording(self) -> Path:
        """File of a folder of recorded runs, in the place of a config."""
        return self.results / "recording.json"

    @property
    def estimates(self) -> Path:
        return self.results / "estimates.json"

    @property
    def slurm(self) -> Path:
        """Name of the jobs of the last Snakemake."""
        return self.results / "logs" / "slurm.json"

    @property
    def mlflow(self) -> Path:
        return self.results / "mlflow"


def tables_in(folder: Path) -> Path:
    """The folder of the tables that a user means by it or by the results folder around it."""
    inner = Layout(folder).tables
    return inner if inner.is_dir() else folder
