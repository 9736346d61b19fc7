"""Commands without a study: features measured, and models solved."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from ncpipe.cli.app import PEOPLE, app
from ncpipe.system.errors import UserError


@app.command(rich_help_panel=PEOPLE)
def measure(
    file: Annotated[Path, typer.Argument(help="safetensors or npz file with 'features' (N, d) and 'labels' (N,);"
                                              " optional 'weight' (K, d), 'bias' (K,), 'train_means' (K, d) and"
                                              " 'ood_features' (N', d); or the features.safetensors of a run.")],
    of: Annotated[str | None, typer.Option(help="Of a run's kept features: epoch/layer/split; default: the last"
                                                " epoch, 'features', train.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="K, where the largest label does not tell.")] = None,
    ridge: Annotated[float | None, typer.Option(help="Penalty of the weight; adds the split of the squared"
                                                     " error.")] = None,
    bias_decay: Annotated[float | None, typer.Option(help="Penalty of the bias in that split; default: the"
                                                          " ridge; 0: free, inf: fixed.")] = None,
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
    breakdown = {name: [_finite(value) for value in values.tolist()] for name, values in row.per_class.items()}
    if as_json:
        content: dict[str, object] = {name: _finite(value) for name, value in row.items()}
        content |= {"undefined": row.undefined} if row.undefined else {}
        infinite = [name for name, value in row.items() if math.isinf(value)]
        content |= {"infinite": infinite} if infinite else {}
        content |= {"per_class": breakdown} if per_class else {}
        print(json.dumps(content, indent=2))
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


def _finite(value: float) -> float | None:
    """A number that JSON has."""
    return value if math.isfinite(value) else None


@app.command(rich_help_panel=PEOPLE)
def ufm(
    classes: Annotated[int, typer.Option(help="K.")],
    samples: Annotated[str, typer.Option(help="Per class; one number per class as 20,10,5,5; with a pick_all_labels"
                                              " loss per set of so many tags, as 1:30,2:10.")] = "50",
    dim: Annotated[str | None, typer.Option(help="Width of the features, or one per weight layer as 40,20; default:"
                                                 " the larger of 20 and 2 K.")] = None,
    loss: Annotated[str, typer.Option(help="mse, ce, label_smoothing, focal, pick_all_labels or"
                                           " pick_all_labels_normalized.")] = "mse",
    weight_decay: Annotated[list[float] | None, typer.Option(help="Penalty of a weight layer, once per layer from the"
                                                                  " first; default: 0.005, one layer.")] = None,
    feature_decay: Annotated[float | None, typer.Option(help="Penalty of the features; default: 0.001.")] = None,
    bias: Annotated[str, typer.Option(help="none, free, or its penalty.")] = "none",
    activation: Annotated[str, typer.Option(help="linear or relu, between weight layers.")] = "linear",
    smoothing: Annotated[float, typer.Option(help="label_smoothing: alpha.")] = 0.0,
    gamma: Annotated[float, typer.Option(help="focal: the exponent.")] = 0.0,
    rescale: Annotated[tuple[float, float], typer.Option(help="mse: weight k and target M of the true class.")]
    = (1.0, 1.0),
    temperature: Annotated[float | None, typer.Option(help="ce: unit features and weight rows, logits scaled by this;"
                                                           " no penalties.")] = None,
    classifier: Annotated[str, typer.Option(help="free, or etf: frozen at a simplex ETF.")] = "free",
    nonnegative: Annotated[bool, typer.Option("--nonnegative", help="Constrain the features to be >= 0.")] = False,
    solver: Annotated[str, typer.Option(help="lbfgs, gradient_descent, gradient_flow or construction.")] = "lbfgs",
    starts: Annotated[int | None, typer.Option(help="lbfgs: random starts; default: 8.")] = None,
    max_iterations: Annotated[int | None, typer.Option(help="lbfgs; default: 5000.")] = None,
    steps: Annotated[int | None, typer.Option(help="gradient_descent, gradient_flow; default: 100000.")] = None,
    step_size: Annotated[float | None, typer.Option(help="gradient_descent, gradient_flow; default: 0.1.")] = None,
    momentum: Annotated[float | None, typer.Option(help="gradient_descent; default: 0.")] = None,
    init_scale: Annotated[float | None, typer.Option(help="Standard deviation of the start; default: 1.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random starts.")] = 0,
    optimum_only: Annotated[bool, typer.Option("--optimum-only", help="Print the closed form, fit nothing.")] = False,
    save: Annotated[Path | None, typer.Option(help="Also write features, labels and weights to this .safetensors"
                                                   " file, which `ncpipe measure` reads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all metrics of every layer.")] = False,
) -> None:  # fmt: skip
    """Solve one unconstrained-features model: its optimum, what is reached, and how collapsed that is."""
    from ncpipe.cli import ufm as ufm_command

    if save is not None:
        ufm_command.check_target(save, not optimum_only)
    problem = ufm_command.declare(
        {
            "classes": classes,
            "samples": samples,
            "dim": dim,
            "loss": loss,
            "weight_decay": weight_decay,
            "feature_decay": feature_decay,
            "bias": bias,
            "activation": activation,
            "smoothing": smoothing,
            "gamma": gamma,
            "rescale": rescale,
            "temperature": temperature,
            "classifier": classifier,
            "nonnegative": nonnegative,
        }
    )
    options = {
        "starts": starts,
        "max_iterations": max_iterations,
        "steps": steps,
        "step_size": step_size,
        "momentum": momentum,
        "init_scale": init_scale,
    }
    result = None if optimum_only else ufm_command.solve(problem, solver, seed, options)
    content = ufm_command.describe(problem, result)
    print(json.dumps(content, indent=2) if as_json else "\n".join(ufm_command.lines(content)))
    if save is not None and result is not None:
        ufm_command.save(result, save)
