"""The command ``ncpipe record``: checkpoints of the user's own network, without a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ncpipe.cli.app import PEOPLE, Device, Threads, app
from ncpipe.system.errors import UserError
from ncpipe.system.stopwatch import work


@app.command(rich_help_panel=PEOPLE)
def record(
    network: Annotated[str, typer.Argument(help="The class of the network: mynet.py:MyNet of a file, my.package:MyNet"
                                                " of an installed module. Its code is run.")],
    checkpoints: Annotated[list[str], typer.Argument(help="Files, 'ck/*.pt': safetensors or torch.save.")],
    data: Annotated[Path, typer.Option(help="File of arrays: docs/own.md has all kinds.")],
    results: Annotated[Path, typer.Option(help="Folder of recorded runs.")] = Path("results/recorded"),
    run: Annotated[str | None, typer.Option(help="Name of the run; default: that of the class.")] = None,
    label: Annotated[str | None, typer.Option(help="In legends, of all seeds; default: the run.")] = None,
    argument: Annotated[list[str] | None, typer.Option("--arg", help="Of the class, as width=64; repeat it.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="Of training, as learning_rate=0.1; repeat it.")] = None,
    loss: Annotated[str | None, typer.Option(help="Training loss to measure, as ce or mse.")] = None,
    classifier: Annotated[str | None, typer.Option(help="Its module; default: the last linear layer.")] = None,
    layers: Annotated[str | None, typer.Option(help="Modules, with commas; default: the children.")] = None,
    pooling: Annotated[str | None, typer.Option(help="How (N, m, n) becomes vectors: class_token, token_mean,"
                                                     " position_mean or flatten.")] = None,
    mean: Annotated[str | None, typer.Option(help="Of each channel, with commas: the network reads (x - mean) / std,"
                                                  " x in [0, 1] where the data are uint8.")] = None,
    std: Annotated[str | None, typer.Option(help="The same.")] = None,
    epoch_pattern: Annotated[str | None, typer.Option(help="Regex whose group is the epoch in a name.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Of the measurement.")] = 256,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Measure checkpoints of your own network, and record them as a run: the tables of a study without a study."""
    import torch

    from ncpipe.recording.checkpoints import build, find_checkpoints, open_data, record_checkpoints
    from ncpipe.recording.recorder import Recorder
    from ncpipe.training.computation import choose_device

    chosen = choose_device(device)
    torch.set_num_threads(threads)
    given, found = _pairs("--arg", argument), find_checkpoints(checkpoints, epoch_pattern)
    model = build(network, given)
    settings = {"network": network, **({"arguments": given} if given else {}), "dataset": data.stem}
    recorder = Recorder(
        results,
        run or network.rpartition(":")[2],
        label=label,
        settings=settings | _pairs("--setting", setting),
        loss=loss,
        layers=None if layers is None else [name.strip() for name in layers.split(",")],
        classifier=classifier,
        pooling=pooling,  # type: ignore[arg-type]  # checked where it is used
    )
    with work():
        loaders = open_data(data, _normalisation(mean, std), batch_size)
        record_checkpoints(recorder, model, found, loaders, chosen)
    print(f"recorded {len(found)} checkpoints of {recorder.run} in {results}", flush=True)


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, Any]:
    """Values by name of 'name=value', each value read as YAML."""
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name.isidentifier():
            raise UserError(f"{option} {text}: expected name=value, as width=64")
    return found


def _normalisation(mean: str | None, std: str | None) -> Any:
    from ncpipe.recording.checkpoints import Normalisation

    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UserError("--mean and --std go together")
    try:
        values = [tuple(float(part) for part in text.split(",")) for text in (mean, std)]
    except ValueError:
        raise UserError(f"--mean {mean} --std {std}: expected numbers with commas, one a channel") from None
    if len(values[0]) != len(values[1]) or not all(value > 0 for value in values[1]):
        raise UserError(f"--mean {mean} --std {std}: expected as many of each, and each std above 0")
    return Normalisation(*values)
