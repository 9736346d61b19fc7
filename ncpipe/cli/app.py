"""The ``ncpipe`` command: its options and what its commands share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ncpipe import __version__
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError

Item = TypeVar("Item")

app = typer.Typer(
    name="ncpipe",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

STAGES = "Stages (what the workflow runs)"
PEOPLE = "Studies and files"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ncpipe {__version__}")
        raise typer.Exit


def _help_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        assert isinstance(context.command, typer.core.TyperGroup)
        for command in context.command.commands.values():
            command.hidden = False
        print(context.get_help())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    help_all: Annotated[
        bool, typer.Option("--help-all", callback=_help_all, is_eager=True, help="Also list the workflow's commands.")
    ] = False,
) -> None:
    """Neural collapse in trained networks, compared with unconstrained-features models."""


StudyFile = Annotated[Path, typer.Argument(help="The study's config, YAML or JSON, or its results folder.")]
Scale = Annotated[str | None, typer.Option(help="Size of the study: a name under its scales; default: its own.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; part of what makes results repeat bit for bit.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def named(items: Mapping[str, Item], name: str, kind: str) -> Item:
    """What the study has under a name that a user gave."""
    try:
        return items[name]
    except KeyError:
        raise UserError(f"the study has no {kind} {name!r}; `ncpipe plan` lists them") from None


def finite(value: float) -> float | None:
    """A number that JSON has."""
    return value if math.isfinite(value) else None


def job_of(study: Path, threads: int, device: str | None = None) -> Study:
    """The study of a job, which the workflow has checked; its number of CPU threads is set.

    A mistake in the device is told before the study is read.
    """
    import torch

    if device is not None:
        from ncpipe.training.computation import choose_device

        choose_device(device)
    torch.set_num_threads(threads)
    return Study.read(study, check=False)
