"""The tables stage: the records of all runs of a study collected into ``results/tables``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

import ncpipe
from ncpipe.claims import claim_rows
from ncpipe.errors import UserError
from ncpipe.files import read_json
from ncpipe.provenance import git_commit
from ncpipe.study.identity import canonical, digest
from ncpipe.study.selection import flat, in_words
from ncpipe.study.spec import (
    CentralPath,
    GradientDescent,
    GradientFlow,
    HeadSpec,
    NetworkSpec,
    SelectSpec,
    Timm,
    UfmSpec,
)
from ncpipe.study.study import NetworkRun, Study
from ncpipe.tables.continual import continual_rows
from ncpipe.tables.origins import origins
from ncpipe.tables.records import read_table, write_rows
from ncpipe.tables.schemas import TABLES
from ncpipe.tables.selection import compared, selected

Row = dict[str, Any]
Frames = dict[str, pd.DataFrame]


def write_tables(study: Study) -> None:
    """Write every table of the study. A planned run without records appears as ``missing`` in ``runs``."""
    folders = record_folders(study)
    tables = {name: concatenated(folders, name) for name in ("history", "collapse", "grams", "timings")}
    tables["ufm"] = concatenated(folders, "ufm", file="fits.parquet")
    frames = {name: table.to_pandas() for name, table in tables.items()}
    rows: dict[str, list[Row]] = {name: table.to_pylist() for name, table in tables.items()}
    networks, continual = _network_rows(study, frames), continual_rows(study, frames["history"])
    rows["runs"] = labelled([*networks, *continual, *_problem_rows(study, frames)])
    rule = None if study.config.networks is None else study.config.networks.select
    if rule is not None:
        mark_selected(rule, study, rows["runs"])
    frames["runs"] = pd.DataFrame(rows["runs"], columns=TABLES["runs"].names)
    config, planned = study.config, [*study.networks, *study.continual_ids, *study.problems]
    rows["claims"] = claim_rows(compared(frames), config.claims, config.scale)
    keys, known = origins(study)
    for row in rows["runs"]:
        row["provenance"] = keys.get(row["run_id"])
    metadata = {
        "ncpipe_version": ncpipe.__version__,
        "git_commit": git_commit(),
        "provenance": known,
        "study": study.config.study.name,
        "scale": config.scale or "",
        "study_hash": digest([*planned, canonical(study.config.measure)]),
    } | ({} if rule is None else {"selection": in_words(rule)})
    for name, schema in TABLES.items():
        write_rows(study.layout.tables / f"{name}.parquet", schema, rows[name], metadata)


def mark_selected(rule: SelectSpec, study: Study, rows: Iterable[Row]) -> None:
    """Fill in the column ``selected`` of the networks."""
    networks = [row for row in rows if row["kind"] == "network"]
    chosen = selected(rule, {run.id: run.spec for run in study.networks.values()}, networks)
    for row in networks:
        row["selected"] = row["run_id"] in chosen


def read_tables(folder: Path) -> Frames:
    """The tables of a study by name, as data frames.

    Raises:
        UserError: a table is not there, as in a folder of an older version, or cannot be read.
    """
    remedy = "write the tables again, with `snakemake tables` or `ncpipe tables`"
    missing = [name for name in TABLES if not (folder / f"{name}.parquet").is_file()]
    if len(missing) == len(TABLES):
        raise UserError(f"no tables in {folder}: name a folder such as results/tables, or {remedy}")
    if missing:
        raise UserError(f"no {missing[0]}.parquet in {folder}, which this version of ncpipe needs: {remedy}")
    return {name: read_table(folder / f"{name}.parquet").to_pandas() for name in TABLES}


def record_folders(study: Study) -> list[Path]:
    """Folders that hold the records of planned runs, in the order of the plan."""
    layout = study.layout
    matched = [layout.ufm(run.matched_id) for run in study.networks.values()] if study.config.ufm.matched else []
    continual = map(layout.continual, study.continual)
    return [*map(layout.run, study.networks), *continual, *matched, *map(layout.ufm, study.ufm_batches)]


def concatenated(folders: Iterable[Path], name: str, file: str | None = None) -> pa.Table:
    """All rows of one kind of record, in the order of the folders; folders without it are passed over."""
    paths = [folder / (file or f"{name}.parquet") for folder in folders]
    parts = [read_table(path) for path in paths if path.exists()]
    return pa.concat_tables([TABLES[name].empty_table(), *(part.cast(TABLES[name]) for part in parts)])


def planned_networks(study: Study) -> list[Row]:
    """Rows of the ``runs`` table of all networks of the plan, as far as they are known before any result."""
    empty = {name: TABLES[name].empty_table().to_pandas() for name in ("history", "collapse")}
    return labelled(list(_network_rows(study, empty)))


WRITTEN = ("status", "final_epoch", "parameters", "device", "precision")
"""Columns that come from the record of a training run."""


def _network_rows(study: Study, frames: Frames) -> Iterator[Row]:
    history = dict(tuple(frames["history"].groupby("run_id")))
    final = frames["collapse"].query("layer == 'features'")
    collapse = dict(tuple(final.groupby("run_id")))
    for run in study.networks.values():
        record = study.layout.run(run.id) / "spec.json"
        row = {"source": "net", "run_id": run.id, "kind": "network", "status": "missing", **network_settings(run)}
        if record.exists():
            written = read_json(record)
            row |= {name: written[name] for name in WRITTEN}
        dataset = study.layout.dataset(run.dataset_id) / "dataset.json"
        if dataset.exists():
            about = read_json(dataset)
            row |= {"classes": len(about["classes"]), "train_samples": sum(about["counts"]["train"])}
        if run.id in history:
            row["zero_error_epoch"] = zero_error_epoch(history[run.id])
        if run.id in collapse:
            row |= _final_values(collapse[run.id])
        yield row


def network_settings(run: NetworkRun) -> Row:
    """Columns of the ``runs`` table that the settings decide."""
    spec, model = run.spec, model_name(run.spec)
    return {
        "dataset": spec.dataset.slug,
        "dataset_id": run.dataset_id,
        "model": model,
        "width": getattr(spec.model, "width", None),
        "depth": getattr(spec.model, "depth", None),
        "batch_norm": getattr(spec.model, "batch_norm", None),
        "loss": spec.loss.name,
        "loss_scaling": spec.loss.scaling if spec.loss.name == "mse" else None,
        "bias": "yes" if spec.head.bias else "no",
        "head": head_name(spec.head),
        "fixed_etf": spec.head.fixed_etf,
        "optimizer": spec.optimizer.name,
        "learning_rate": spec.optimizer.lr,
        "momentum": spec.optimizer.momentum if spec.optimizer.name == "sgd" else None,
        "weight_decay": _weight_decays(spec),
        "feature_decay": spec.head.feature_decay,
        "decay_group": spec.optimizer.decay,
        "schedule": spec.schedule.name,
        "epochs": spec.epochs,
        "batch_size": spec.batch_size,
        "gpus": spec.gpus,
        "seed": spec.seed,
        "settings": _json(spec),
        "label": f"{model} {loss_name(spec.loss.name)} {'bias' if spec.head.bias else 'no bias'}",
    }


def model_name(spec: NetworkSpec) -> str:
    """The architecture; of a model of timm also which."""
    return spec.model.slug if isinstance(spec.model, Timm) else spec.model.name


def head_name(head: HeadSpec) -> str:
    """'linear', or what the head has beside its classifier: 'hidden 2, temperature 10'."""
    parts = [f"hidden {head.hidden}"] if head.hidden else []
    parts += [] if head.temperature is None else [f"temperature {head.temperature:g}"]
    return ", ".join(parts) or "linear"


def loss_name(loss: str) -> str:
    """A loss as labels have it."""
    return loss.upper() if loss in ("mse", "ce") else loss.replace("_", " ")


def _weight_decays(spec: NetworkSpec) -> list[float]:
    head = spec.optimizer.head_weight_decay
    return [spec.optimizer.weight_decay] + ([] if head is None else [head])


def _final_values(collapse: pd.DataFrame) -> Row:
    last = collapse[collapse["time"] == collapse["time"].max()]
    values = last.pivot_table(index="metric", columns="split", values="value", dropna=False)
    return {
        f"final_{split}_{metric}": _or_none(values, metric, split)
        for split in ("train", "test")
        for metric in ("loss", "accuracy")
    }


def _or_none(values: pd.DataFrame, metric: str, split: str) -> float | None:
    return float(values.loc[metric, split]) if split in values and metric in values.index else None  # type: ignore[arg-type]


def zero_error_epoch(history: pd.DataFrame) -> int | None:
    """First epoch with 100 % running training accuracy, if any."""
    perfect = history.query("quantity == 'train_accuracy' and value >= 1")
    return None if perfect.empty else int(perfect["time"].min())


def _problem_rows(study: Study, frames: Frames) -> Iterator[Row]:
    fits = {fit["run_id"]: fit for fit in frames["ufm"].to_dict("records")}
    for problem_id, spec in study.problems.items():
        row: Row = {"source": "ufm", "run_id": problem_id, "kind": "declared", "status": "missing"}
        yield row | problem_settings(spec) | _fitted(fits.pop(problem_id, None))
    for fit in fits.values():
        row = {"source": "ufm", "run_id": fit["run_id"], "kind": "matched", "network_id": fit["network_id"]}
        copied = ("model", "loss", "bias", "classes", "samples", "dim", "activation", "seed", "feature_decay")
        row |= {name: fit[name] for name in copied} | {"optimizer": fit["solver"]}
        row |= {"weight_decay": list(fit["weight_decay"]), "depth": len(fit["weight_decay"])}
        row |= {"label": f"matched {fit['model']}", "settings": json.dumps({"network": fit["network_id"]})}
        yield row | _fitted(fit)


def problem_settings(spec: UfmSpec) -> Row:
    """Columns of the ``runs`` table that the settings of a declared UFM problem decide."""
    solver = spec.solver
    decays = spec.weight_decay if isinstance(spec.weight_decay, tuple | None) else (spec.weight_decay,)
    iterations, step_size = getattr(solver, "max_iterations", 0), None
    if isinstance(solver, GradientDescent | GradientFlow):
        iterations, step_size = solver.steps, solver.step_size
    if isinstance(solver, CentralPath):
        iterations = round(solver.end_time)
    names = {"gradient_descent": "GD", "lbfgs": "L-BFGS", "gradient_flow": "flow", "central_path": "central path"}
    bias = {"none": "no bias", "free": "bias"}.get(str(spec.bias), "penalised bias")
    kind = {1: "plain", 2: "extended"}.get(spec.depth, "deep")
    name = kind if spec.depth < 3 else f"{kind} {spec.depth}"
    if spec.temperature is not None:
        name, bias = "normalised", "no bias"
    if spec.classifier == "etf":
        name += ", ETF classifier,"
    return {
        "classes": spec.classes,
        "train_samples": spec.num_samples,
        "model": kind,
        "depth": spec.depth,
        "loss": spec.loss,
        "bias": str(spec.bias),
        "optimizer": solver.name,
        "learning_rate": step_size,
        "weight_decay": None if decays is None else list(decays),
        "feature_decay": spec.feature_decay,
        "epochs": iterations,
        "activation": spec.activation,
        "samples": round(spec.num_samples / spec.classes),
        "dim": spec.dim if isinstance(spec.dim, int) else spec.dim[0],
        "seed": spec.seed,
        "settings": _json(spec),
        "label": f"{name} {spec.activation} {loss_name(spec.loss)} {bias} ({names.get(solver.name, solver.name)})",
    }


def _fitted(fit: Mapping[Any, Any] | None) -> Row:
    if fit is None:
        return {}
    return {
        "status": fit["status"],
        "final_epoch": fit["iterations"],
        "final_train_loss": fit["value"],
        "device": "cpu",
    }


def labelled(rows: list[Row]) -> list[Row]:
    """Add to each label the settings that tell runs of one label apart, other than the seed."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["label"]), []).append(row)
    for (kind, _), group in groups.items():
        settings = [flat(json.loads(row["settings"])) for row in group] if kind != "matched" else []
        keys = sorted({key for tree in settings for key in tree} - NOT_IN_LABELS)
        varying = [key for key in keys if len({str(tree.get(key)) for tree in settings}) > 1]
        leaves = [key.rsplit(".", 1)[-1] for key in varying]
        names = {key: leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(varying, leaves)}
        names = {key: SHORT.get(name, name) for key, name in names.items()}
        for row, tree in zip(group, settings):
            row["label"] += "".join(_label_part(key, name, tree.get(key), row) for key, name in names.items())
    return rows


SHORT = {"weight_decay": "wd", "temperature": "tau"}
"""Names of settings as legends have them."""
NOT_IN_LABELS = {"seed", "dataset.path", "dataset.image_size"}


def _label_part(key: str, name: str, value: Any, row: Row) -> str:
    if key == "dataset.name":
        return f" {row['dataset']}"
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f" {name}={value:g}" if isinstance(value, float) else f" {name}={value}"


def _json(spec: NetworkSpec | UfmSpec) -> str:
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True)
