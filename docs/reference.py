"""Complete the tables of the docs: a row for each metric, network, solver, loss, figure and setting that has none.

What the code declares (definitions, values, defaults) is written anew, all else stays as it was written by hand.
Usage: python docs/reference.py (``make format`` runs it)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ncpipe.collapse.metrics import METRICS
from ncpipe.continual.settings import ContinualSpec
from ncpipe.data.registry import DATASETS
from ncpipe.data.settings import DatasetSpec, MixtureSpec
from ncpipe.losses import LOSSES
from ncpipe.networks.architectures import ARCHITECTURES
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.settings.registry import names_in_settings
from ncpipe.settings.sweep import Block, Sweep
from ncpipe.study import config
from ncpipe.study.config import FIGURES
from ncpipe.training import settings as training
from ncpipe.ufm.settings import UfmSpec
from ncpipe.ufm.solvers import SOLVERS

DOCS = Path(__file__).resolve().parent
HEADINGS: dict[type[BaseModel], str] = {
    config.Config: "The top level",
    config.StudyInfo: "`study`",
    Block: "`datasets` and `networks`",
    Sweep: "`sweep`",
    DatasetSpec: "Keys of a data set",
    MixtureSpec: "`mixture`",
    training.NetworkSpec: "Keys of a network",
    **{kind: f"`model`: {', '.join(f'`{n}`' for n in names_in_settings(kind))}" for kind in ARCHITECTURES.values()},
    HeadSpec: "`head`",
    training.LossSpec: "`loss`",
    training.OptimizerSpec: "`optimizer`",
    training.ScheduleSpec: "`schedule`",
    training.TerminalSpec: "`terminal`",
    training.AugmentSpec: "`augment`",
    config.NetworksBlock: "`networks`",
    config.SelectSpec: "`networks.select`",
    training.ComputeSpec: "`compute`",
    config.UfmBlock: "`ufm`",
    ContinualSpec: "`continual`",
    UfmSpec: "Keys of a UFM problem",
    **{solver: f"`solver`: `{name}`" for name, solver in SOLVERS.items()},
    config.MeasureSpec: "`measure`",
    config.KeepSpec: "`measure.keep`",
    config.FigureOptions: "`figures`",
    config.TrackingSpec: "`tracking`",
}
"""Where config.md has the table of a group of settings."""
NEXT = {"`model`": "### `head`\n", "`solver`": "### `continual`\n"}
"""What follows the sections of a kind."""
METRIC_HEAD = ("name", "definition", "at ETF", "at OF", "range", "source")
KEY_HEAD = ("key", "type", "default", "meaning")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def row(values: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    return "|" + "|".join(f" {value} " if value else " " for value in values) + "|"


def table(head: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([row(head), "|" + "---|" * len(head), *rows]) + "\n"


def metric_cells(name: str, head: list[str], old: list[str] | None = None) -> list[str]:
    """Cells under these heads; a blank, and 'the same', stay where they are right."""
    quantity = METRICS[name].quantities[name]
    etf, of = quantity.at_etf, quantity.at_of or quantity.at_etf
    values = {"name": f"`{name}`", "definition": quantity.definition, "range": quantity.range}
    values |= {"source": quantity.source, "at ETF": etf, "at collapse": etf, "at OF": of}
    found = [values[column].replace("|", "\\|") for column in head]
    for place, kept in enumerate(old or []):
        if (kept, found[place]) == ("", "–") or (kept == "the same" and head[place] == "at OF" and of == etf):
            found[place] = kept
    return found


def metrics(page: str) -> str:
    """metrics.md: what every metric declares, in its own row or in one among further metrics."""
    lines, head, seen = page.splitlines(), [], set()
    for number, line in enumerate(lines):
        if line.startswith("| name | definition"):
            head = cells(line)
        elif not line.startswith("|"):
            head = []
        elif head and (name := cells(line)[0].strip("`")) in METRICS and name not in seen:
            seen.add(name)
            lines[number] = row(metric_cells(name, head, cells(line)))
    page = "\n".join(lines) + "\n"
    missing = [row(metric_cells(name, [*METRIC_HEAD])) for name in METRICS if name not in seen]
    end = "## When a metric is NaN\n"
    return page.replace(end, f"## Further metrics\n\n{table(METRIC_HEAD, missing)}\n{end}") if missing else page


def default(field: FieldInfo) -> str:
    """As in YAML; a group of settings or an empty collection has none of its own."""
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else field.default_factory()  # type: ignore
    if isinstance(value, BaseModel) or value in ({}, ()):
        return "–"
    if isinstance(value, tuple) and all(isinstance(v, float) for v in value):
        return "`[1/3, 2/3]`" if value == (1 / 3, 2 / 3) else f"`{list(value)}`"
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def type_words(schema: Mapping[str, Any]) -> str:
    """What a key takes, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(type_words(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    words = {"integer": "whole number", "number": "number", "boolean": "yes or no", "string": "text", "array": "list"}
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = (f" {sign} {schema[key]:g}" for key, sign in signs.items() if key in schema)
    return words.get(schema.get("type", ""), "mapping") + ",".join(bounds)


def key_cells(model: type[BaseModel]) -> dict[str, list[str]]:
    """Cells of the table of a group of settings, by key."""
    schemas = model.model_json_schema()["properties"]
    return {
        key: [f"`{key}`", type_words(schemas[key]), default(field), (field.description or "").replace("|", "\\|")]
        for key, field in ((field.alias or name, field) for name, field in model.model_fields.items())
    }


def with_keys(section: str, model: type[BaseModel]) -> str:
    """The section with a row for every key and for no other, each with its default."""
    wanted, lines = key_cells(model), section.splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith("| `")]
    for number in reversed(rows):
        old = cells(lines[number])
        key = old[0].strip("`")
        lines[number : number + 1] = [row([*old[:2], wanted.pop(key)[2], *old[3:]])] if key in wanted else []
    end = next(n for n in range(len(lines), 0, -1) if lines[n - 1].startswith("|"))
    lines[end:end] = map(row, wanted.values())
    return "\n".join(lines) + "\n"


def settings(page: str) -> str:
    """config.md: every group of settings, with its keys and their defaults."""
    for model, heading in HEADINGS.items():
        first = re.search(rf"^#+ {re.escape(heading)}\n", page, re.M)
        if first is None:
            said = model.__doc__ or sys.modules[model.__module__].__doc__ or ""
            text = " ".join(said.partition("\n\n")[0].split()).replace("``", "`")
            rows = [row(values) for values in key_cells(model).values()]
            after = NEXT[heading.partition(":")[0]]
            page = page.replace(after, f"### {heading}\n\n{text}\n\n{table(KEY_HEAD, rows)}\n{after}", 1)
            continue
        rest = page[first.end() :]
        size = section.start() if (section := re.search(r"^#", rest, re.M)) else len(rest)
        page = page[: first.end()] + with_keys(rest[:size], model) + rest[size:]
    return losses(names(page))


def names(page: str) -> str:
    """Every data set stands in the row of its name."""
    line = next(line for line in page.splitlines() if line.startswith("| `name` | `digits`"))
    given = cells(line)
    given[1] = ", ".join(dict.fromkeys([*given[1].split(", "), *(f"`{name}`" for name in DATASETS)]))
    return page.replace(line, row(given))


def losses(page: str) -> str:
    """Every loss has its line."""
    before, start, rest = page.partition("\nThe loss of one sample:\n\n")
    listed, end, after = rest.partition("\n\n")
    for name, loss in LOSSES.items():
        if f"- `{name}`" not in listed:
            listed += f"\n- `{name}`: {(loss.__doc__ or '').strip().partition(chr(10))[0]}"
    return before + start + listed + end + after


def figures(page: str) -> str:
    """figures.md: every figure has its section."""
    for name in FIGURES:
        if f"### `{name}`\n" not in page:
            text = (FIGURES[name].__doc__ or "").partition("\n")[0].removeprefix("Figure: ")
            section = f"### `{name}`\n\n{text[:1].upper()}{text[1:]}\n\n"
            page = page.replace("## The animation\n", f"{section}## The animation\n", 1)
    return page


PAGES = {"metrics": metrics, "config": settings, "figures": figures}


def main() -> None:
    for name, completed in PAGES.items():
        path = DOCS / f"{name}.md"
        path.write_text(completed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
