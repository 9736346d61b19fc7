"""Commands without a study: features measured, and models solved."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from ncpipe.cli.app import PEOPLE, app, finite
from ncpipe.losses import LOSSES
from ncpipe.system.errors import UserError
from ncpipe.ufm.model import Model
from ncpipe.ufm.solvers import SOLVERS

Command = TypeVar("Command", bound=Callable[..., None])


@app.command(rich_help_panel=PEOPLE)
def measure(
    file: Annotated[Path, typer.Argument(help="safetensors, npz or Parquet file, or folder of npy files, with"
                                              " 'features' (N, d) and 'labels' (N,);"
                                              " optional 'weight' (K, d), 'bias' (K,), 'train_means' (K, d) and"
                                              " 'ood_features' (N', d); or the features.safetensors of a run.")],
    of: Annotated[str | None, typer.Option(help="Of a run's kept features: epoch/layer/split; default: the last"
                                                " epoch, 'features', train.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="K, where the largest label does not tell.")] = None,
    ridge: Annotated[float | None, typer.Option(help="Penalty of the weight; adds the split of the squared"
                                                     " error.")] = None,
    bias_decay: Annotated[float | None, typer.Option(help="Penalty of the bias in that split; default: the"
                                                          " ridge; 0: free, inf: fixed.")] = None,
    products: Annotated[bool, typer.Option("--products", help="Form the within-class covariance (d, d); adds signal"
                                                              " to noise and vci.")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also break down by class.")] = False,
    present_only: Annotated[bool, typer.Option("--present-only", help="Leave classes without a sample out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:  # fmt: skip
    """Print the collapse metrics of features stored in a file; docs/metrics.md defines them."""
    from ncpipe.cli.foreign import read_arrays
    from ncpipe.collapse import measure as measure_arrays

    arrays = read_arrays(file, of)
    try:
        row = measure_arrays(
            **arrays,
            num_classes=num_classes,
            products=products,
            ridge=ridge,
            bias_decay=bias_decay,
            per_class=per_class,
            present_only=present_only,
        )
    except ValueError as error:
        raise UserError(f"{file}: {as_options(str(error))}") from None
    row.undefined = {name: as_options(why) for name, why in row.undefined.items()}
    if absent := next((why for why in row.undefined.values() if why.startswith("no sample of class")), None):
        print(f"{file}: {absent}; --present-only measures the other classes", file=sys.stderr)
    breakdown = {name: [finite(value) for value in values.tolist()] for name, values in row.per_class.items()}
    if as_json:
        infinite = [name for name, value in row.items() if math.isinf(value)]
        lists = {"undefined": row.undefined, "infinite": infinite}
        content = {name: finite(value) for name, value in row.items()} | {k: v for k, v in lists.items() if v}
        print(json.dumps(content | ({"per_class": breakdown} if per_class else {}), indent=2))
        return
    for name, value in row.items():
        print(f"{name:28s} {value:.6g}" + (f"  ({row.undefined[name]})" if name in row.undefined else ""))
    for name, values in breakdown.items():
        print(f"per class {name:18s} " + " ".join("-" if value is None else f"{value:.4g}" for value in values))


def as_options(message: str) -> str:
    """A message of ``ncpipe.measure`` in the words of the command line."""
    for name, option in {"present_only=True": "--present-only", "num_classes": "--num-classes"}.items():
        message = message.replace(name, option)
    return message


AS_TEXT: dict[str, tuple[Any, Any, str]] = {
    "loss": (str, "mse", ""),
    "samples": (str, "50", "As 50, as 20,10,5,5 or as 1:30,2:10."),
    "dim": (str | None, None, "As 40, or as 40,20; default: the larger of 20 and 2 K."),
    "bias": (str, "none", ""),
    "weight_decay": (list[float] | None, None, "Give it once per layer, from the first."),
}
"""Fields of a model whose options have a type and a default of their own, and how they are written."""


def _model_options() -> Iterator[inspect.Parameter]:
    """An option for each field of a model, with its words."""
    hints = get_type_hints(Model)
    for field in dataclasses.fields(Model):
        kind, default, written = AS_TEXT.get(field.name, (hints[field.name], field.default, ""))
        words = f"One of {', '.join(LOSSES)}." if field.name == "loss" else field.metadata["help"]
        yield _option(field.name, kind, default, f"{words} {written}".strip())


def _solver_options() -> Iterator[inspect.Parameter]:
    """An option for each setting of a solver, with its words and its default by solver."""
    found: dict[str, tuple[Any, dict[str, list[str]]]] = {}
    for name, solver in SOLVERS.items():
        for option, field in solver.model_fields.items():
            if solver.fits_problems and option != "name":
                words = f"{field.description} Default: {field.default}."
                found.setdefault(option, (field.annotation, {}))[1].setdefault(words, []).append(name)
    for option, (kind, by_words) in found.items():
        words = " ".join(f"{', '.join(names)}: {words}" for words, names in by_words.items())
        yield _option(option, kind if kind is bool else kind | None, False if kind is bool else None, words)


def _option(name: str, kind: Any, default: Any, words: str) -> inspect.Parameter:
    flags = [f"--{name.replace('_', '-')}"]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
        annotation=Annotated[kind, typer.Option(*flags, help=words)],
    )


def _with_options_of_problems(command: Command) -> Command:
    """The command with options of all that a model and its solver may have, in place of its ``**given``."""
    declared = inspect.signature(command, eval_str=True).parameters
    kept = {name: p for name, p in declared.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    options = [*_model_options(), kept.pop("solver"), *_solver_options(), *kept.values()]
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


@app.command(rich_help_panel=PEOPLE)
@_with_options_of_problems
def ufm(
    *,
    solver: Annotated[str, typer.Option(help=f"One of {', '.join(n for n in SOLVERS if SOLVERS[n].fits_problems)}.")]
    = "lbfgs",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random starts.")] = 0,
    optimum_only: Annotated[bool, typer.Option("--optimum-only", help="Print the closed form, fit nothing.")] = False,
    critical_points: Annotated[int, typer.Option("--landscape", min=0, metavar="STARTS", help="Also list critical"
                                                 " points, from so many starts, with their curvature.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Also write features, labels and weights to this .safetensors"
                                                   " file, which `ncpipe measure` reads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all metrics of every layer.")] = False,
    **given: Any,
) -> None:  # fmt: skip
    """Solve one unconstrained-features model: its optimum, what is reached, and how collapsed that is."""
    from ncpipe.cli import ufm as ufm_command

    if save is not None:
        ufm_command.check_target(save, not optimum_only)
    fields = {field.name: given.pop(field.name) for field in dataclasses.fields(Model)}
    problem = ufm_command.declare(fields)
    result = None if optimum_only else ufm_command.solve(problem, solver, seed, given)
    content = ufm_command.describe(problem, result)
    if critical_points:
        content["landscape"] = ufm_command.explore(problem, critical_points, seed)
    print(json.dumps(content, indent=2) if as_json else "\n".join(ufm_command.lines(content)))
    if save is not None and result is not None:
        ufm_command.save(result, save)
