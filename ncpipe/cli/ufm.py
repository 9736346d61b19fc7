"""The command ``ncpipe ufm``: one problem from the command line, its optimum, fit and collapse metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ncpipe.cli.app import finite
from ncpipe.collapse import collapse_metrics
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_tensors
from ncpipe.system.progress import progress
from ncpipe.ufm import NoClosedForm, Problem, Result, fit, landscape

Content = dict[str, Any]
"""What is printed: numbers, texts, lists and mappings of them."""

LAYER_METRICS = ("nc1_pinv", "nc2_means_of", "nc2_means_uncentred_etf", "nc2_means_etf")
CLASSIFIER_METRICS = ("nc2_weights_of", "nc2_weights_etf", "nc3_of", "nc3_etf", "nc3_duality", "nc4_mismatch")
TAG_METRICS = ("tagwise_angle", "tagwise_scale")
"""The metrics that the text shows; JSON has all."""
OPTIMUM = ("value", "is_zero", "scale", "margins", "rank", "bias", "singular_values", "zero_threshold", "basis",
           "is_global")  # fmt: skip
REACHED = ("status", "value", "gap", "missed", "starts", "success_fraction", "dead_directions", "gradient_norm",
           "iterations", "converged", "bias", "message")  # fmt: skip
POINT = ("value", "live_directions", "index", "least_eigenvalue", "flat", "gauge", "dimension", "kinks", "is_global",
         "starts")  # fmt: skip
"""What is told of a closed form, a fit and a critical point."""
ZERO = "The zero solution: collapse metrics would be those of rounding errors."


def declare(fields: Mapping[str, Any]) -> Problem:
    """The problem of the options by name of field: ``samples``, ``dim`` and ``bias`` as texts, None where not given.

    Raises:
        UserError: in one line, whatever is wrong with the problem.
    """
    given = {name: value for name, value in fields.items() if value is not None and value != []}
    given["samples"] = _samples(given["samples"])
    given["dim"] = _widths(given["dim"]) if "dim" in given else max(20, 2 * given["classes"])
    given["bias"] = _bias(given["bias"])
    try:
        return Problem(**given)
    except ValueError as error:
        raise UserError(str(error)) from None


def solve(problem: Problem, solver: str, seed: int, options: Mapping[str, Any]) -> Result:
    """``fit`` with the options that were given; a mistake is a ``UserError``."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    try:
        return fit(problem, solver=solver, seed=seed, **given)
    except (ValueError, NoClosedForm) as error:
        raise UserError(str(error)) from None


def describe(problem: Problem, result: Result | None) -> Content:
    """The problem, its closed form or why there is none, what was reached, and the metrics of every layer."""
    content: Content = {"problem": _settings(problem)}
    try:
        optimum = problem.optimum()
        content["optimum"] = _contents(optimum, OPTIMUM) | {"norms": optimum.norms()}
    except NoClosedForm as reason:
        content |= {"optimum": None, "no_closed_form": str(reason)}
    if result is not None:
        content |= {"fit": _contents(result, REACHED) | {"norms": _norms(result)}, "layers": _layers(result)}
    return content


def explore(problem: Problem, starts: int, seed: int) -> list[Content]:
    """Critical points from random starts, by value, under a progress bar."""
    with progress("critical points", starts) as report:
        try:
            points = landscape(problem, starts, seed, report=lambda done, of: report(done, ""))
        except ValueError as error:
            raise UserError(str(error)) from None
    return [_contents(point, POINT) for point in points]


def check_target(path: Path, fitted: bool) -> None:
    """Raise ``UserError`` for a file that ``save`` could not write, before anything is fitted."""
    if not fitted:
        raise UserError("--save: nothing is fitted with --optimum-only; --solver construction fits the closed form")
    if path.suffix != ".safetensors":
        raise UserError(f"--save {path}: expected a name that ends in .safetensors")


def save(result: Result, path: Path) -> None:
    """Write last features, labels, weight and bias as ``ncpipe measure`` reads them, and what lies before them.

    With several labels, of the samples of one: those that the metrics are of.
    """
    point = result.minimiser
    single = point.labels < result.problem.classes
    tensors = {"features": point.layers()["features"][single], "labels": point.labels[single]}
    tensors |= {"weight": point.weights[-1]} | ({} if point.bias is None else {"bias": point.bias})
    if result.problem.depth > 1:
        tensors["H1"] = point.features[single]
        tensors |= {f"W{level}": weight for level, weight in enumerate(point.weights[:-1], start=1)}
    write_tensors(path, tensors)


# --- from texts -----------------------------------------------------------------------------------


def _samples(text: str) -> int | list[int] | dict[int, int]:
    """'50', '20,10,5,5' or '1:30,2:10'."""
    try:
        if ":" in text:
            return {int(tags): int(count) for tags, count in (part.split(":") for part in text.split(","))}
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--samples: got {text!r}; needs a number, one per class as 20,10,5,5, or per number of tags as 1:30,2:10"
        ) from None
    return counts[0] if len(counts) == 1 else counts


def _widths(text: str) -> int | list[int]:
    try:
        widths = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--dim: got {text!r}; needs a number, or one per weight layer as 40,20") from None
    return widths[0] if len(widths) == 1 else widths


def _bias(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


# --- to mappings ----------------------------------------------------------------------------------


def _settings(problem: Problem) -> Content:
    """The settings that are in force, by the names of ``Problem``."""
    special = ("smoothing", "gamma", "rescale", "temperature", "nonnegative")
    values = {field: getattr(problem, field.name) for field in dataclasses.fields(problem)}
    settings = {f.name: value for f, value in values.items() if f.name not in special or value != f.default}
    return settings | {"weight_decay": list(problem.weight_decays)}


def _contents(source: object, names: Iterable[str]) -> Content:
    """Attributes by name, in numbers that JSON has."""
    values = {name: getattr(source, name) for name in names}
    return {
        name: value.tolist() if isinstance(value, Tensor) else finite(value) if isinstance(value, float) else value
        for name, value in values.items()
    }


def _norms(result: Result) -> dict[str, float]:
    factors = {"H1": result.features}
    factors |= {f"W{level}": weight for level, weight in enumerate(result.weights, start=1)}
    return {name: float(factor.norm()) for name, factor in factors.items()}


def _layers(result: Result) -> dict[str, dict[str, float | None]]:
    """All collapse metrics by layer, with several labels of the samples of one; none of the zero solution."""
    if result.status == "diverged" or result.minimiser.fit_rank() == 0:
        return {}
    trace = result.trace()
    last = trace.times[-1]
    found: dict[str, dict[str, float | None]] = {}
    for name, statistics in result.minimiser.statistics().items():
        is_last = name == trace.layers[-1]
        head = trace.heads[last] if is_last else ()
        row = collapse_metrics(statistics, *head, next_weight=trace.weights.get((last, name)))
        found[name] = {metric: finite(value) for metric, value in row.items()}
        if is_last:
            found[name] |= {metric: finite(value) for metric, value in trace.scalars[last, "train"].items()}
    return found


# --- to text --------------------------------------------------------------------------------------


def lines(content: Content) -> Iterator[str]:
    """The content for people, most of it: a line each."""
    yield f"{'problem':12s} {_listed(content['problem'])}"
    if content["optimum"] is None:
        yield f"{'optimum':12s} no closed form: {content['no_closed_form']}"
    else:
        yield from _optimum_lines(content["optimum"], content["problem"])
    if "fit" in content:
        yield ""
        yield from _reached_lines(content["fit"])
    if "fit" in content and content["fit"]["status"] == "done":
        yield ""
        yield from _layer_lines(content["layers"]) if content["layers"] else [ZERO]
    if "landscape" in content:
        yield ""
        yield from _point_lines(content["landscape"])


def _optimum_lines(optimum: Content, problem: Content) -> Iterator[str]:
    known = "global optimum" if optimum["is_global"] else "best value known"
    yield f"{'optimum':12s} {optimum['value']:.10g}, the {known}: {optimum['basis']}"
    if not optimum["is_zero"]:
        yield (
            f"{'':12s} {_size(optimum, problem)}, rank {optimum['rank']},"
            f" singular values {_runs(optimum['singular_values'])}"
        )
    if problem["feature_decay"] is not None:
        yield f"{'':12s} {_threshold(optimum)}"
    norms = _listed({name: f"{norm:.6g}" for name, norm in optimum["norms"].items()})
    yield f"{'':12s} norms {norms}" + ("" if optimum["bias"] is None else f"; every bias {optimum['bias']:.6g}")


def _size(optimum: Content, problem: Content) -> str:
    if len(optimum["margins"]) > 1:
        return "margins " + ", ".join(f"{t:.6g} (of {tags})" for tags, t in optimum["margins"].items())
    symbol = "fit x" if problem["loss"] == "mse" else "margin t"
    return f"{symbol} = {optimum['scale']:.6g} of a class"


def _threshold(optimum: Content) -> str:
    threshold = optimum["zero_threshold"]
    if threshold is None:
        return "zero is optimal for no penalties"
    if optimum["is_zero"]:
        return f"the zero solution, down to {threshold:.4g} times these penalties of weights and features"
    return f"zero becomes optimal at {threshold:.4g} times these penalties of weights and features"


def _reached_lines(reached: Content) -> Iterator[str]:
    yield f"{'fit':12s} {reached['message']}"
    if reached["status"] == "diverged":
        return
    gap = "" if reached["gap"] is None else f", gap {reached['gap']:.3g}"
    yield f"{'':12s} objective {reached['value']:.10g}{gap}, gradient norm {reached['gradient_norm']:.2g}"
    norms = _listed({name: f"{norm:.6g}" for name, norm in reached["norms"].items()})
    bias = "" if reached["bias"] is None else f"; bias {' '.join(f'{b:.6g}' for b in reached['bias'])}"
    yield f"{'':12s} norms {norms}{bias}"


def _layer_lines(layers: Mapping[str, Mapping[str, float | None]]) -> Iterator[str]:
    """A table of the means by layer, then the classifier's metrics."""
    yield f"{'layer':12s} " + "  ".join(LAYER_METRICS)
    for name, row in layers.items():
        cells = (f"{_number(row[metric]):{len(metric)}s}" for metric in LAYER_METRICS)
        yield f"{name:12s} " + "  ".join(cells).rstrip()
    last = list(layers.values())[-1]
    shown = [name for name in (*CLASSIFIER_METRICS, *TAG_METRICS, "accuracy", "loss") if name in last]
    yield ""
    for name in shown:
        yield f"{name:24s} {_number(last[name])}"


def _point_lines(points: list[Content]) -> Iterator[str]:
    """A table of critical points."""
    yield f"{'objective':>14s}  live  negative curvatures  least       starts"
    for point in points:
        share = f"{point['index']} of {point['dimension']}"
        numbers = (
            f"{point['value']:14.10f}  {point['live_directions']:4d}  {share:19s}  {point['least_eigenvalue']:<10.4g}"
        )
        words = ["the optimum"] if point["is_global"] else [] if point["index"] else ["no negative curvature"]
        words += [f"{point['kinks']} pre-activations at a kink"] if point["kinks"] else []
        yield f"{numbers}  {point['starts']:6d}  {'; '.join(words)}".rstrip()


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"


def _listed(values: Mapping[str, Any]) -> str:
    """'classes 4, weight_decay 0.005 0.005'."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items() if value not in (None, []))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}:{number}" for key, number in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _runs(values: list[float]) -> str:
    """'3 x 6.8, 1 x 2'."""
    texts = [f"{value:.6g}" for value in values]
    return ", ".join(f"{texts.count(text)} x {text}" for text in dict.fromkeys(texts)) or "none"
