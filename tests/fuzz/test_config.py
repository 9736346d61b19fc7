"""Configs: valid ones with changes, ones made from the JSON schemas, and files that are no config at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401 - it makes folders, which a plan would do in its sandbox
import pytest
import yaml
from extent import cases
from hypothesis import strategies as st

from fuzz.runner import ACCEPTED, FAILED, Outcome, Surface, fuzz, refusal
from fuzz.strategies import damaged, keys, mutated, nasty, numbers, texts
from ncpipe.continual.settings import ContinualSpec
from ncpipe.data.settings import DatasetSpec
from ncpipe.plan.table import print_plan
from ncpipe.settings.identity import canonical
from ncpipe.study.config import Config
from ncpipe.study.study import Study
from ncpipe.training.settings import NetworkSpec
from ncpipe.ufm.settings import UfmSpec

ROOT = Path(__file__).resolve().parents[2]
FILES = (ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml")))
CONTENTS = tuple(path.read_bytes() for path in FILES)
SAFE = re.compile(r"[A-Za-z0-9_-]+")
"""What rules take as a wildcard."""
PRINTED = 100
"""Units of a plan that is also printed, which takes a millisecond each."""


def _tree(content: bytes) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(content)
    return {**tree, "scale": "test"} if "test" in tree.get("scales", {}) else tree


TREES = tuple(map(_tree, CONTENTS))


def plan(config: Path) -> None:
    """All that happens before the first job: read, check, expand, identify, print, write and read again."""
    study = Study.read(config)
    ids = [
        *study.networks,
        *study.problems,
        *study.ufm_batches,
        *study.prepared,
        *study.continual_ids,
        *study.figures,
    ]
    assert all(SAFE.fullmatch(name) for name in ids), ids
    specs = [run.spec for run in study.networks.values()] + list(study.problems.values())
    json.dumps([canonical(spec) for spec in specs])
    if len(ids) < PRINTED:
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
            print_plan(study, estimate=False)
    resolved = Path("study.json")
    resolved.write_text(study.config.model_dump_json(indent=2), encoding="utf-8")
    again = Study.read(resolved)
    assert [*again.networks, *again.problems, *again.ufm_batches, *again.prepared] == [
        *study.networks, *study.problems, *study.ufm_batches, *study.prepared
    ], "study.json means other runs"  # fmt: skip


def of_tree(tree: Any) -> None:
    """``plan`` of a tree written as YAML."""
    path = Path("config.yaml")
    try:
        text = yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False)
    except UnicodeEncodeError:  # half of a surrogate pair, which Python's own writer escapes
        text = yaml.safe_dump(tree, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    plan(path)


def of_bytes(content: bytes) -> None:
    path = Path("config.yaml")
    path.write_bytes(content)
    plan(path)


# --- from the schemas --------------------------------------------------------------------------------

RIGHT = ("a", "digits", "layer1", "features", "*", "work", "mlp")
"""Texts that are right somewhere."""


class Maker:
    """Values that a schema allows, as far as it goes; a few are anything. Chances are even,
    not hypothesis's own."""

    def __init__(self, draw: st.DrawFn, wrong: float) -> None:
        self.draw, self.wrong = draw, wrong
        self.random = draw(st.randoms(use_true_random=True))

    def value(self, schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int = 0) -> Any:
        if self.random.random() < self.wrong or depth > 8:
            return self.draw(nasty)
        if "$ref" in schema:
            return self.value(defs[schema["$ref"].rpartition("/")[2]], defs, depth + 1)
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self.value(self.random.choice(schema[union]), defs, depth + 1)
        if "enum" in schema or "const" in schema:
            return self.random.choice(schema.get("enum", [schema.get("const")]))
        if "prefixItems" in schema:
            return [self.value(part, defs, depth + 1) for part in schema["prefixItems"]]
        kind = schema.get("type")
        if kind == "object":
            return self._mapping(schema, defs, depth)
        if kind == "array":
            return [self.value(schema.get("items", {}), defs, depth + 1) for _ in range(self.random.randint(0, 3))]
        return self._scalar(kind, schema)

    def _mapping(self, schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int) -> dict[Any, Any]:
        known, needed = schema.get("properties", {}), schema.get("required", ())
        if not known:
            inner = schema.get("additionalProperties", {})
            inner = inner if isinstance(inner, dict) else {}
            return {self.draw(keys): self.value(inner, defs, depth + 1) for _ in range(self.random.randint(0, 2))}
        chosen = [name for name in known if name in needed or self.random.random() < 0.1]
        return {name: self.value(known[name], defs, depth + 1) for name in chosen}

    def _scalar(self, kind: Any, schema: Mapping[str, Any]) -> Any:
        odd = self.random.random() < self.wrong * 3
        if kind == "string":
            return self.draw(texts) if odd else self.random.choice(RIGHT)
        if kind == "integer":
            least = schema.get("minimum", 0)
            return self.draw(numbers) if odd else least + self.random.choice((0, 1, 2, 5))
        if kind == "number":
            return self.draw(numbers) if odd else self.random.random()
        return {"boolean": self.random.random() < 0.5, "null": None}.get(kind, 1)


def _schema(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = model.model_json_schema()
    return {key: value for key, value in schema.items() if key != "$defs"}, schema.get("$defs", {})


CONFIG = _schema(Config)
BLOCKS = {
    "networks": _schema(NetworkSpec), "datasets": _schema(DatasetSpec),
    "ufm": _schema(UfmSpec), "continual": _schema(ContinualSpec),
}  # fmt: skip
CHOICES = (("ufm",), ("networks", "datasets"), ("networks", "datasets", "ufm"), tuple(BLOCKS))
SWEEPS = (
    *({},) * 6, {"grid": {"seed": list(range(5))}}, {"grid": {key: list(range(2000)) for key in ("seed",
    "epochs", "width")}},
    {"grid": {f"k{i}": list(range(100)) for i in range(40)}}, {"zip": {"seed": [0, 1], "epochs": [3]}},
    {"grid": {f"k{i}": list(range(10)) for i in range(500)}}, {"grid": {"seed": []}}, {"include": [{"seed": 3}]},
    {"grid": {"seed": [0, 1]}, "exclude": [{"seed": [0, 1]}]}, {"grid": {"seed": [0, 1]}, "exclude": [{"seed": 0}]},
)  # fmt: skip
"""Sweeps, among them some of more runs than can be."""


@st.composite
def from_schema(draw: st.DrawFn) -> Any:
    """A config made from the schema of all settings, its blocks from those of their specs."""
    maker = Maker(draw, wrong=draw(st.sampled_from((0.0, 0.003, 0.01, 0.03))))
    config = maker.value(*CONFIG)
    if not isinstance(config, dict):
        return config
    names = maker.random.choice(CHOICES)
    for name in ("scales", "scale", "claims", "measure", "figures", *BLOCKS):
        if name in BLOCKS or maker.random.random() < 0.8:
            config.pop(name, None)
    if maker.random.random() > maker.wrong * 3:
        config["study"] = {"name": "a"}
    for name in names:
        base = maker.value(*BLOCKS[name])
        if isinstance(base, dict):
            base.pop("dataset", None)
        config[name] = {"base": base, "sweep": maker.random.choice(SWEEPS)}
    return config


# --- files that are no config ------------------------------------------------------------------------

VALID = b"study: {name: a}\nufm: {base: {classes: 2, samples: 3, dim: 4, solver: {name: lbfgs}}}\n"
LAUGHS = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
MERGES = "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12))
BOMBS = (
    b"", b"\x00", b"\xff\xfe\x00", b"- a\n- b\n", b"just text", b"3", b"null", b"---\n---\n",
    b"%YAML 9.9\n---\na: 1",
    b"a: 1\na: 2\n", VALID + b"study: {name: b}\n", VALID + b"ufm: {base: {}}\n", b"study: {name: a, name: b}\n",
    f"a0: &a0 [x]\n{LAUGHS}\nstudy: {{name: *a11}}\n".encode(), f"a0: &a0 {{x: 1}}\n{MERGES}\n".encode(),
    b"study: &a {name: *a}\n", b"&a [*a]", b"study: &a [*a]\n", b"? [a]\n: 1\n", b"? {a: b}\n: 1\n", b"<<: 3\n",
    b"study: {<<: [1]}\n", b"study: !!python/object/apply:os.system ['touch x']\n",
    b"study: !!python/name:os.system ''\n",
    b"study: !!python/object/new:type {}\n", b"study: !<tag:yaml.org,2002:python/module:os> ''\n",
    b"a: !!binary x\n",
    b"a: !!binary aGVsbG8=\n", b"study: {name: !!set {a, b}}\n", b"a: !!omap [a: 1]\n", b"a: !!timestamp x\n",
    b"study: {name: 2024-01-01}\n", b"study: {name: 2024-99-99}\n", b"study: {name: 12:30:99}\n", b"a: !!int x\n",
    b"a: !!float x\n", b"a: !!bool x\n", b"a: =\n", b"study: {name: " + b"9" * 5000 + b"}\n",
    b"a: 0x" + b"f" * 9000 + b"\n",
    b"study:\n\tname: a\n", b"study: {name: a\n", b"study: 'a\n", b"a: *b\n", b"a: &a\nb: &a\n",
    b"[" * 300 + b"]" * 300,
    b"[" * 100_000, b"{a: " * 100_000, b"- " * 50_000, b"x: " * 1000, b"? " * 20_000, b"a" * 100_000,
    b"a: " + b"x" * 10**7,
    b"a: [" + b"1, " * 3_000_000 + b"]", b"# " + b"x" * 10**7, b"\n" * 10**7, b'study: {name: "\\ud800"}\n',
    b'study: {name: "\\0"}\n', b'"\\ud83d\\ude42": 1\n', b"\xef\xbb\xbf" + VALID, VALID.replace(b"\n", b"\r\n"),
    VALID.decode().encode("utf-16"), VALID.decode().encode("utf-32"), b"__use_yte__: true\n" + VALID,
    b"a: |\n" + b" x\n" * 9,
    VALID + b"__definitions__: [import os]\n", VALID + b"1: 2\n", VALID + b"null: 2\n", VALID + b"true: 2\n",
    VALID + b"1.5: 2\n",
)  # fmt: skip


@st.composite
def rubbish(draw: st.DrawFn) -> bytes:
    """A bomb, a damaged file, or a valid one with a line too much or a tab."""
    kind = draw(st.sampled_from(("bomb", "bomb", "damaged", "lines", "text", "binary")))
    if kind == "bomb":
        return draw(st.sampled_from(BOMBS))
    if kind == "text":
        return draw(st.text(max_size=200)).encode(errors="surrogatepass")
    if kind == "binary":
        return draw(st.binary(max_size=200))
    content = draw(st.sampled_from(CONTENTS))
    if kind == "damaged":
        return draw(damaged(content))
    lines = content.splitlines(keepends=True)
    at, to = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    line = draw(
        st.sampled_from((lines[at], b"\t" + lines[at], b"  " + lines[at], b"- " + lines[at], lines[at].strip() * 2))
    )
    return b"".join([*lines[:to], line, *lines[to:]])


# --- as Snakemake reads it ---------------------------------------------------------------------------

READ_BY_SNAKEMAKE: tuple[tuple[bytes, tuple[str, ...]], ...] = (
    (VALID, ()),
    (VALID, ("scale=../x",)),
    (VALID, ("study={name: ../x}",)),
    (VALID, ("study={results: '$(touch x)'}",)),
    (VALID, ("study={results: 'a{run}b'}",)),
    (VALID, ("nets={}",)),
    (VALID, ("scale=[1",)),
    (VALID + b"study: {name: b}\n", ()),
    (VALID + b"scales: {test: {study: {title: b}}}\n", ("scale=../x",)),
    (VALID + b"measure: {epochs: 1000000000}\n", ()),
    (VALID.replace(b"name: a", b"name: 'a;b'"), ()),
    (VALID.replace(b"classes: 2", b"classes: 1e308"), ()),
    (VALID.replace(b"{base:", b"{sweep: {grid: {seed: [0], gamma: []}}, base:"), ()),
    (VALID.replace(b"name: a", "name: עברית".encode()), ()),
    (VALID.replace(b"name: a", b'name: "a\\nb"'), ()),
    (f"a0: &a0 [x]\n{LAUGHS}\n".encode() + VALID, ()),
    (b"study: !!python/object/apply:os.system ['touch x']\n", ()),
    (b"- a\n", ()),
    (b"", ()),
    (b"study:\n\tname: a\n", ()),
    (b"\x00\xff", ()),
)
"""Config file and values of --config. An alias within what it means is left out: it ends Snakemake by a traceback of
its own, before it reads a line of ours."""


def snakemake(case: tuple[bytes, tuple[str, ...]]) -> Outcome:
    """A dry run, as users start it: what it says at the end is one line of ncpipe or Snakemake's own message."""
    content, values = case
    Path("config.yaml").write_bytes(content)
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--dry-run",
        "--quiet",
        "--cores",
        "1",
        "--snakefile",
        ROOT / "Snakefile",
    ]
    command += ["--configfile", "config.yaml", *(["--config", *values] if values else [])]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    if done.returncode == 0:
        return Outcome(ACCEPTED)
    lines = (done.stdout + done.stderr).splitlines()
    told = [line for line in lines if line.startswith("ncpipe: ")]
    if not told and "WorkflowError:" in lines:
        told = [lines[lines.index("WorkflowError:") + 1]]
    if len(told) == 1 and not any(line.startswith("Traceback") for line in lines):
        return refusal(told[0])
    return Outcome(FAILED, f"{done.returncode}: {lines[-30:]}")


SNAKEMAKE = Surface(
    "config: snakemake -n", READ_BY_SNAKEMAKE, snakemake, len(READ_BY_SNAKEMAKE), 0,
    writes=lambda case: ["config.yaml", ".snakemake", "../home"],
)  # fmt: skip
SURFACES = (
    Surface("config: changed", mutated(TREES), of_tree, 5000, 20, writes=lambda case: ["config.yaml",
    "study.json"]),
    Surface("config: from the schema", from_schema(), of_tree, 1500, 20, writes=lambda case: ["config.yaml",
    "study.json"]),
    Surface("config: other files", rubbish(), of_bytes, 1000, 20, writes=lambda case: ["config.yaml",
    "study.json"]),
)  # fmt: skip


@pytest.mark.parametrize("surface", SURFACES, ids=str)
def test_a_config_is_planned_or_refused_in_one_line(surface, tmp_path):
    fuzz(surface, tmp_path, cases(surface.sample))
