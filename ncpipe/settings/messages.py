"""What pydantic found wrong with a setting, as one line in plain words that names the place and the remedy."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ncpipe.settings.base import AS_YAML_READS, nearest
from ncpipe.system.credentials import redacted
from ncpipe.system.errors import UserError

MUST_BE = {
    "dict_type": "a mapping of keys and values",
    "model_type": "a mapping of keys and values",
    "model_attributes_type": "a mapping of keys and values",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
}
"""By pydantic's type of error."""
POWER_OF_TEN = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d{1,2}", re.IGNORECASE)


def one_line(error: ValidationError, values: Any, where: str) -> str:
    """The first mistake in ``values``: place, what is wrong, what stands there, and how many more there are."""
    errors = error.errors()
    # Of the branches of a union the one that fitted furthest is the one that was meant.
    same = [entry for entry in errors if entry["loc"][:1] == errors[0]["loc"][:1]]
    first = max(same, key=lambda entry: (len(entry["loc"]), not _is_mapping_for_a_name(entry)))
    keys = _keys(first, values)
    place = ".".join(keys if where == "config" and keys else [where, *keys])
    others = len({entry["loc"][:1] for entry in errors}) - 1
    plain = _wrong(first) + _as_yaml_reads(first["input"], first.get("ctx", {}).get("tag"))
    return f"{place}: {plain}" + (f" (and {others} more)" if others else "")


def _keys(error: Any, values: Any) -> list[str]:
    """Keys and places in lists on the way to the mistake; pydantic's also has the branches of unions."""
    keys = []
    for number, part in enumerate(error["loc"], start=1):
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            if error["type"] != "missing" or number < len(error["loc"]):
                continue
        keys.append(str(part))
    return keys


def _is_mapping_for_a_name(error: Any) -> bool:
    """Whether it says of a mapping that it is none of the known names: the mapping was meant."""
    return error["type"] == "literal_error" and isinstance(error["input"], dict)


def _as_yaml_reads(got: Any, tag: str | None) -> str:
    """What to write where YAML has read something else than was meant."""
    if isinstance(got, bool) or tag in ("True", "False"):
        return AS_YAML_READS
    if isinstance(got, str) and POWER_OF_TEN.fullmatch(got):
        return f"; YAML reads it as text: write {float(got):.15g}"
    return ""


def _wrong(error: Any) -> str:
    kind, got, context = error["type"], error["input"], error.get("ctx", {})
    if kind in MUST_BE:
        return f"must be {MUST_BE[kind]}, got {_short(got)}"
    if kind == "missing":
        return "is missing"
    if kind == "too_short":
        return "is empty; give at least one value"
    if kind == "union_tag_not_found":
        return "needs a 'name'"
    if kind == "union_tag_invalid":
        return _unknown(context["tag"], re.findall(r"'([^']+)'", context["expected_tags"]))
    if kind == "literal_error":
        return _unknown(got, re.findall(r"'([^']+)'", context["expected"]))
    if kind == "string_pattern_mismatch":
        dash = "'-' and " if "-]" in context["pattern"] else "and "
        return f"may hold letters, digits, {dash}'_', 64 at most, got {_short(got)}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return message if kind == "value_error" and isinstance(got, dict) else f"{message}, got {_short(got)}"


def _unknown(got: Any, known: list[str]) -> str:
    return f"unknown value {_short(got)}; {nearest(got, known)}"


def _short(value: Any) -> str:
    text = redacted(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: Any, where: str) -> Model:
    """``model`` from raw values; the first mistake as one line that names its place."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(one_line(error, values, where)) from None
