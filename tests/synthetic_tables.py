"""Tables of a made-up study, for the tests of what is drawn and written from tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import write_rows

Row = dict[str, Any]
METRICS = (
    "nc1_pinv", "within_share", "nc2_means_etf", "nc2_means_of", "nc2_means_uncentred_etf", "nc2_weights_etf",
    "nc2_weights_of", "nc3_duality", "nc3_of", "nc3_etf", "nc4_mismatch", "accuracy",
)  # fmt: skip
MODELS = {
    "plain linear MSE no bias": ("plain", "linear", "none", ("features",)),
    "plain linear MSE bias": ("plain", "linear", "free", ("features",)),
    "extended linear MSE no bias": ("extended", "linear", "none", ("H1", "features")),
    "extended relu MSE no bias": ("extended", "relu", "none", ("H1", "W1H1", "features")),
}
METADATA = {"ncpipe_version": "0.1.0", "git_commit": "abc123", "study": "made-up", "study_hash": "deadbeef"}


@dataclass(frozen=True)
class MadeUp:
    """What the study holds; the defaults are an ordinary one."""

    labels: tuple[str, ...] = ("mlp MSE no bias", "mlp CE bias")
    seeds: int = 2
    epochs: tuple[int, ...] = (0, 1, 3, 10)
    own_epochs: tuple[int, ...] = ()
    """Zero-error epochs by seed, each measured in the networks of that seed alone."""
    classes: int = 4
    ufm: bool = True
    matched: bool = True
    status: str = "done"
    value: float | None = None
    """Of every metric at every time, instead of a decay."""
    prediction: float = 1.0
    """Factor of what the matched UFMs predict."""

    @classmethod
    def swept(cls, **fields: Any) -> MadeUp:
        """Two networks over three weight decays."""
        nets = ("mlp MSE no bias", "mlp CE bias")
        return cls(labels=tuple(f"{net} weight_decay={wd:g}" for net in nets for wd in (1e-3, 3e-3, 1e-2)), **fields)

    def write(self, folder: Path) -> Path:
        """Write all tables into ``folder``."""
        nets, ufms = list(self._networks()), list(self._ufms()) if self.ufm else []
        rows: dict[str, list[Row]] = {
            "runs": nets + ufms,
            "history": [row for run in nets + ufms for row in self._history(run)],
            "collapse": [row for run in nets + ufms for row in self._collapse(run)],
            "grams": [row for run in nets + ufms for row in self._grams(run)],
            "ufm": [*map(self._fit, ufms), *(self._match(n, m) for n in nets for m in ("plain", "extended"))],
            "claims": [CLAIM] if nets or ufms else [],
            "timings": [],
        }
        if not self.matched:
            rows["ufm"] = [row for row in rows["ufm"] if row["kind"] != "matched"]
        matched = [row for row in rows["ufm"] if row["kind"] == "matched"]
        rows["grams"] += [
            entry for fit in matched for entry in self._grams({"source": "ufm", "status": "done", **fit})
        ]
        for name, schema in TABLES.items():
            write_rows(folder / f"{name}.parquet", schema, rows[name], METADATA)
        return folder

    def _networks(self) -> Iterator[Row]:
        for label in self.labels:
            for seed in range(self.seeds):
                run = {"source": "net", "run_id": f"{label}-{seed}", "kind": "network", "label": label}
                run |= {"status": self.status, "classes": self.classes, "seed": seed, "dataset": "digits"}
                run |= {"weight_decay": self.weight_decay(label), "model": label.split()[0]}
                run |= {"loss": "ce" if " CE" in label else "mse", "bias": "no" if "no bias" in label else "yes"}
                run |= {"settings": json.dumps(self.settings(run)), "head": "linear", "fixed_etf": False}
                zero = self.own_epochs[seed] if self.own_epochs else self.epochs[-1] // 3
                done = {"zero_error_epoch": zero, "epochs": self.epochs[-1], "final_epoch": self.epochs[-1]}
                yield run | (done | {"final_test_accuracy": 0.987} if self.status == "done" else {})

    @staticmethod
    def settings(run: Row) -> Row:
        """As far as they tell sweeps apart."""
        kept = {name: run[name] for name in ("loss", "bias", "seed")} | {"model": {"name": run["model"]}}
        return (
            kept
            | {"network": run["label"].partition(" weight_decay=")[0]}
            | {"optimizer": {"weight_decay": run["weight_decay"][0], "head_weight_decay": None}}
        )

    @staticmethod
    def weight_decay(label: str) -> list[float]:
        """As a label ends, 'weight_decay=0.01'."""
        return [float(label.partition("weight_decay=")[2] or 1e-3)]

    def _ufms(self) -> Iterator[Row]:
        for label, (model, activation, bias, _) in MODELS.items():
            for solver, short in (("gradient_descent", "GD"), ("lbfgs", "L-BFGS")):
                run = {"source": "ufm", "kind": "declared", "label": f"{label} ({short})", "optimizer": solver}
                run |= {"model": model, "activation": activation, "bias": bias, "loss": "mse", "seed": 0}
                yield run | {"run_id": f"{label}-{solver}", "status": "done", "classes": self.classes}

    def _times(self, run: Row) -> tuple[int, ...]:
        if run["status"] == "missing":
            return ()
        if run["source"] == "net":
            own = {run["zero_error_epoch"]} if self.own_epochs and run["status"] == "done" else set()
            return tuple(sorted({*self.epochs, *own}))
        return (0, 1, 10, 1000) if run["optimizer"] == "gradient_descent" else (57,)

    def _history(self, run: Row) -> Iterator[Row]:
        net = {"train_loss": 1.0, "train_accuracy": None, "test_loss": 2.0, "test_accuracy": None}
        for time in self._times(run):
            values = net if run["source"] == "net" else {"objective": 1.0, "gap": 1e-17}
            for quantity, scale in values.items():
                value = min(1.0, 0.5 + time / 10) if scale is None else scale * math.exp(-time)
                yield self._row(run, time, quantity=quantity, value=value)
            if run["source"] == "net":
                yield self._row(run, time, quantity="learning_rate", value=0.1 if time < 5 else 0.01)

    def _collapse(self, run: Row) -> Iterator[Row]:
        layers = ("layer1", "features") if run["source"] == "net" else MODELS[run["label"].split(" (")[0]][3]
        for time in self._times(run):
            for depth, layer in enumerate(layers, start=1):
                for split in ("train", "test") if run["source"] == "net" else ("train",):
                    for metric in METRICS:
                        value = math.exp(-depth * min(time, 60)) if self.value is None else self.value
                        where = {"split": split, "layer": layer, "depth": depth, "metric": metric}
                        yield self._row(run, time, value=value * (1 + run["seed"]), **where)

    def _grams(self, run: Row) -> Iterator[Row]:
        """Networks: an OF plus as much in every entry as the seed tells; UFMs: an OF times ``prediction``."""
        net = run["source"] == "net"
        off, scale = (0.2 * (1 + run["seed"]), 1.0) if net else (0.0, self.prediction)
        times = self._times(run) if net else (0,)
        value = np.full((self.classes, self.classes), off if self.value is None or not net else self.value)
        for gram in ("means_uncentred", "means", "weights") if times else ():
            entries = scale * (np.eye(self.classes) + value * (gram == "means_uncentred"))
            for row, column in np.ndindex(entries.shape):
                where = {"gram": gram, "row": row, "column": column, "value": float(entries[row, column])}
                yield self._row(run, times[-1], layer="features", **where)

    @staticmethod
    def _row(run: Row, time: int, **rest: Any) -> Row:
        return {"source": run["source"], "run_id": run["run_id"], "time": time, **rest}

    def _fit(self, run: Row) -> Row:
        return {"run_id": run["run_id"], "kind": "declared", "model": run["model"], "gap": -1e-17}

    def _match(self, network: Row, model: str) -> Row:
        gram = np.eye(self.classes).ravel()
        row = {"run_id": f"matched-{model}-{network['run_id']}", "kind": "matched", "model": model}
        row |= {"network_id": network["run_id"], "activation": "linear", "basis": "a <theorem>"}
        decay = network["weight_decay"][0]
        for name, value in (("feature_norm", 30.0), ("weight_norm", 2.0 - 50 * decay), ("loss", decay)):
            row |= {f"measured_{name}": value, f"predicted_{name}": value * self.prediction}
        for name in ("means_gram", "weights_gram"):
            row |= {f"measured_{name}": (gram + 0.1).tolist(), f"predicted_{name}": (gram * self.prediction).tolist()}
            row |= {f"{name}_error": 0.25 if self.prediction else math.nan}
        return row


SAMPLES, DIM = 5, 6
GRID = ((1e-3, 1e-2, 1e-1, 1.0), (2e-3, 2e-2, 2e-1))
"""Penalties of features and of weights: ``Penalties`` has one model over their product."""
MISSED = (1e-2, 2e-3)


@dataclass(frozen=True)
class Penalties(MadeUp):
    """The plain model over a grid of penalties and over its bias's, and one without a closed form; two seeds each."""

    labels: tuple[str, ...] = ()

    def _ufms(self) -> Iterator[Row]:
        grid = [(h, w) for h in GRID[0] for w in GRID[1]]
        for seed in range(2):
            yield from (self._problem(h, [w], "none", seed, "plain linear MSE no bias") for h, w in grid)
            yield from (
                self._problem(1e-3, [5e-3], b, seed, "plain linear MSE penalised bias") for b in (0.01, 0.1, 1)
            )
            yield from (self._problem(h, [h, h], "free", seed, "extended relu MSE bias") for h in (1e-3, 1e-2, 1e-1))

    def _problem(self, feature_decay: float, weight_decay: list[float], bias: Any, seed: int, label: str) -> Row:
        settings = {
            "classes": self.classes,
            "samples": SAMPLES,
            "dim": DIM,
            "loss": "mse",
            "solver": {"name": "lbfgs"},
        }
        settings |= {"feature_decay": feature_decay, "weight_decay": weight_decay, "bias": bias, "seed": seed}
        return {
            "source": "ufm", "kind": "declared", "optimizer": "lbfgs", "status": self.status,
            "model": label.split()[0],
            "run_id": f"{label}-{feature_decay}-{weight_decay}-{bias}-{seed}", "classes": self.classes, "seed": seed,
            "label": f"{label} (L-BFGS) feature_decay={feature_decay}", "settings": json.dumps(settings),
            "feature_decay": feature_decay, "weight_decay": weight_decay, "bias": str(bias),
        }  # fmt: skip

    def _collapse(self, run: Row) -> Iterator[Row]:
        return iter(())

    def _fit(self, run: Row) -> Row:
        copied = ("run_id", "kind", "model", "classes", "feature_decay", "weight_decay", "bias", "status")
        row = {name: run[name] for name in copied} | {"loss": "mse", "starts": 8, "success_fraction": 0.5}
        if run["bias"] == "free":
            return row | {"value": 0.3, "dead_directions": 0, "basis": "no closed form: a reason", "missed": False}
        c = min(1.0, self.classes * math.sqrt(SAMPLES * run["feature_decay"] * run["weight_decay"][0]))
        missed = (run["feature_decay"], run["weight_decay"][0]) == MISSED
        row |= {"optimum": c - c * c / 2, "optimum_is_zero": c == 1, "scale": 1 - c, "rank": 0 if c == 1 else 4}
        row |= {"value": (1.1 if missed else 1) * row["optimum"], "dead_directions": 2 if missed else 4 - row["rank"]}
        threshold = 1 / (self.classes * math.sqrt(SAMPLES * run["feature_decay"] * run["weight_decay"][0]))
        return row | {"zero_threshold": threshold, "missed": missed, "is_global": True}


CLAIM: Row = {
    "paper": "tirer2022",
    "claim_id": "tirer2022-1",
    "source": "Tirer & Bruna 2022",
    "statement": "The bias-free MSE UFM ends at an orthogonal frame.",
    "statistic": "nc2_means_of at the last iteration",
    "direction": "below",
    "threshold": 0.01,
    "effect": 1e-9,
    "low": 1e-10,
    "high": 2e-9,
    "interval_low": 8e-10,
    "interval_high": 1.2e-9,
    "resolution": 2e-10,
    "count": 3,
    "holds": 3,
    "seeds": 2,
    "data": "UFM (K = 4, N = 200)",
    "scale": "small",
    "verdict": "supported",
    "reason": "the interval over seeds: on the stated side",
}

TWENTY = tuple(f"resnet18 MSE no bias dataset.name=mnist optimizer.lr={i}" for i in range(20))
CASES = {
    "ordinary": MadeUp(),
    "nothing": MadeUp(labels=(), ufm=False),
    "no UFM": MadeUp(ufm=False, matched=False),
    "no networks": MadeUp(labels=()),
    "one seed, one epoch": MadeUp(seeds=1, epochs=(0,)),
    "two classes": MadeUp(classes=2),
    "hundred classes": MadeUp(classes=100, labels=("a",), ufm=False),
    "undefined": MadeUp(value=float("nan")),
    "own epochs": MadeUp(seeds=3, own_epochs=(2, 4, 6)),
    "one seed, own epoch": MadeUp(seeds=1, own_epochs=(2,)),
    "exact": MadeUp(value=0.0),
    "tiny": MadeUp(value=1e-300),
    "diverged": MadeUp(status="diverged"),
    "missing": MadeUp(status="missing", matched=False),
    "predicts zero": MadeUp(prediction=0.0),
    "weight decays": MadeUp.swept(),
    "penalties": Penalties(),
    "penalties, nothing done": Penalties(status="diverged"),
    "twenty labels": MadeUp(labels=TWENTY, seeds=1, ufm=False),
}
"""Studies of any kind, for what has to draw them all."""
