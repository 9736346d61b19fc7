"""A small study with every kind of run, one of them diverged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from in_one_process import commands, ncpipe

from ncpipe.study.study import Study
from ncpipe.system.files import write_text

STUDY: dict[str, Any] = {
    "study": {"name": "tiny"},
    "datasets": {"base": {"name": "digits", "samples_per_class": 20, "test_samples_per_class": 10, "classes": 6}},
    "networks": {
        "base": {
            "model": {"name": "mlp", "depth": 2, "width": 16},
            "loss": {"name": "mse"},
            "optimizer": {"lr": 0.05, "weight_decay": 1e-2},
            "epochs": 4,
            "batch_size": 20,
        },
        "sweep": {"grid": {"seed": [0, 1]}, "include": [{"optimizer.lr": 1e12}]},
    },
    "ufm": {
        "base": {"classes": 3, "samples": 4, "dim": 5, "weight_decay": 5e-3, "feature_decay": 1e-3,
                 "solver": {"name": "lbfgs"}},
        "sweep": {"grid": {"seed": [0, 1]}},
    },
    "continual": {
        "base": {"steps": 100, "rehearsal": 5, "points": 5},
        "sweep": {"grid": {"init": ["random", "class_mean", "least_squares"]}},
    },
    "measure": {"epochs": [0, 2, 4]},
    "claims": ["harun2025"],
    "tracking": {"enabled": False},
}  # fmt: skip


def finish(results: Path) -> None:
    """Compute it up to its tables, by the commands of the rules."""
    study = Study(STUDY | {"study": {"name": "tiny", "results": str(results)}})
    write_text(file := results / "study.json", study.config.model_dump_json())
    for command in commands(study, file):
        ncpipe(*command)
