"""The command line: every subcommand with arguments and files that are right, wrong, or made to hurt."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from extent import cases
from hypothesis import strategies as st
from synthetic_tables import MadeUp
from typer.main import get_command

from fuzz.runner import ACCEPTED, FAILED, REFUSED, Outcome, Surface, fuzz, refusal
from fuzz.strategies import TRICKS
from ncpipe.cli.main import app, main

COMMANDS: dict[str, Any] = get_command(app).commands
SERVERS = {"ui", "live"}
"""Commands that stay: they are given files only that they refuse."""
STUDY = """\
study: {name: a}
tracking: {enabled: false}
datasets: {base: {name: digits, samples_per_class: 3, test_samples_per_class: 3}}
networks:
  base:
    {model: {name: mlp, depth: 2, width: 4}, loss: {name: mse}, optimizer: {lr: 0.1}, epochs: 1, batch_size: 8}
ufm: {base: {classes: 2, samples: 2, dim: 2, solver: {name: lbfgs, starts: 1}}}
"""
FILES = (
    "a.yaml",
    "bad.yaml",
    "a.npz",
    "bad.npz",
    "bad.safetensors",
    "folder",
    "results",
    "results/tables",
    "nowhere",
)
WORDS = ("digits", "net", "ufm", "frames", "sweep", "collapse_curves", "train", "none", "free", "mse", "ce",
"lbfgs", "auto",
         "cpu", "cuda:99", "nc1_pinv", "0,1,2", "1:3,2:1", "20,10", "plain-mse-nobias-lbfgs-s0")  # fmt: skip
NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "0.5",
    "nan",
    "inf",
    "1e308",
    "9" * 400,
    "1e-300",
    "10000000000",
    "0x10",
    "1,2,3",
    "²",
)
TARGETS = ("out.svg", "out.html", "out.safetensors", "out.gif", "out", "folder/out.png", "folder")
SMALL = {"classes": ("2", "3", "0", "-1", "x"), "samples": ("2", "3", "2,2", "1:2", "0", "1:2,2:1", "x:y"),
"steps": ("3",),
         "dim": ("2", "4", "1", "0", "2,2"), "max-iterations": ("5",), "starts": ("1", "0")}  # fmt: skip
"""Options of ``ufm`` that would only make it take long."""


def prepare(folder: Path) -> None:

    import ncpipe.figures  # noqa: F401
    from ncpipe.system.vision import import_torchvision

    import_torchvision()
    labels = np.repeat(np.arange(2), 3)
    np.savez(folder / "a.npz", features=np.eye(2, 3)[labels], labels=labels)
    (folder / "a.yaml").write_text(STUDY)
    (folder / "bad.yaml").write_text("study: {name: a\n")
    for name in ("bad.npz", "bad.safetensors"):
        (folder / name).write_bytes(b"PK\x03\x04" + bytes(range(256)))
    (folder / "folder").mkdir(exist_ok=True)
    MadeUp(epochs=(0, 3), seeds=1).write(folder / "results/tables")


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """A subcommand with its arguments, some of its options, and perhaps words that it does not know."""
    random = draw(st.randoms(use_true_random=True))  # even chances, not hypothesis's own
    name = random.choice((*COMMANDS, "ufm", "measure", "figure", "compare", "plan", "none-of-these"))
    line = [name]
    for parameter in COMMANDS[name].params if name in COMMANDS else ():
        if parameter.param_type_name == "argument":
            if random.random() < 0.95:
                line.append(draw(_argument(name, parameter)))
        elif parameter.name in ("help",) or random.random() < 0.85:
            continue
        else:
            flag = parameter.opts[-1]
            line += [flag] if parameter.is_flag else [flag, draw(_option(name, parameter))]
    if name == "ufm" and "--classes" not in line:
        line += ["--classes", "2"]
    return line + (draw(st.lists(_words, max_size=2)) if random.random() < 0.1 else [])


_words = st.sampled_from(
    (*WORDS, *NUMBERS, *(t for t in TRICKS if "\x00" not in t and not any("\ud800" <= c <= "\udfff" for c in t)))
)


def _argument(command: str, parameter: Any) -> st.SearchStrategy[str]:
    if command in SERVERS:
        return st.sampled_from(("bad.yaml", "nowhere", "folder", "a.npz"))
    if parameter.name == "target":
        return st.sampled_from(TARGETS)
    right = {"study": "a.yaml", "file": "a.npz", "a": "results", "b": "results", "results": "results"}
    right |= {"name": "frames" if command == "figure" else "digits"}
    sound = st.just(right.get(parameter.name, "results"))
    return st.one_of(sound, sound, sound, st.sampled_from(FILES), _words)


def _option(command: str, parameter: Any) -> st.SearchStrategy[str]:
    name = parameter.opts[-1].removeprefix("--")
    if parameter.name in ("output", "save"):
        return st.sampled_from(TARGETS)
    if command == "ufm" and name in SMALL:
        return st.sampled_from(SMALL[name])
    if name in ("tables", "study"):
        return st.one_of(st.just("results/tables" if name == "tables" else "a.yaml"), st.sampled_from(FILES), _words)
    return _words


def act(line: list[str]) -> Outcome:
    """As the shell starts it."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=e) for e in ("strict", "backslashreplace"))
    code: Any = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["ncpipe", *line]),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # `dataset` has its own way to stop
    err.flush()
    told = err.buffer.getvalue().decode()
    if isinstance(code, str):
        return refusal(code)
    if code in (None, 0):
        return Outcome(ACCEPTED)
    if code == 2 and told.startswith("ncpipe: "):  # of `reproduce`, whose code 1 means another thing
        return refusal(told.strip())
    if code == 2 and "Traceback" not in told and "Error" in told:
        return Outcome(REFUSED, told.splitlines()[-2] if told.count("\n") > 1 else told)
    return Outcome(FAILED, f"code {code}: {told[-2000:]}")


def _written(line: list[str]) -> list[str]:
    return ["results", "../home/c", "collapse.gif", "grams.parquet", *(word for word in line if word in TARGETS),
            *(f"{word}.{kind}" for word in line for kind in ("svg", "pdf", "png") if word.isidentifier()),
            *(f"folder/{kind}" for kind in ("grams.parquet", "out.png"))]  # fmt: skip


SURFACES = (Surface("command line", commands(), act, 1200, 25, prepare, _written),)


@pytest.mark.parametrize("surface", SURFACES, ids=str)
def test_a_command_does_its_work_or_refuses_in_one_line(surface, tmp_path):
    fuzz(surface, tmp_path, cases(surface.sample))
