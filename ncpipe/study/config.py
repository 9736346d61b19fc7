"""Settings of a whole study: sweeps, measurement, figures, tracking."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ncpipe.collapse.metrics import METRICS
from ncpipe.continual.settings import ContinualSpec
from ncpipe.data.settings import DatasetSpec
from ncpipe.settings.base import Count, Name, PathText, Settings, nearest
from ncpipe.settings.registry import ModuleRegistry, NameIn
from ncpipe.settings.source import short_name
from ncpipe.settings.sweep import BaseOf, Block
from ncpipe.system.credentials import has_password
from ncpipe.training.settings import ComputeSpec, NetworkSpec
from ncpipe.ufm.settings import MatchedKind, UfmSpec


class KeepSpec(Settings):
    """Raw features kept on disk beside the statistics."""

    layers: tuple[str, ...] = Field((), description="Layer names or globs.")
    epochs: Literal["last", "all"] | tuple[Annotated[int, Field(ge=0)], ...] = "last"


Split = Literal["train", "test", "full_batch", "train_mode"]


class MeasureSpec(Settings):
    """What is measured in trained networks, and when."""

    layers: Literal["all"] | Count | tuple[str, ...] = Field(
        "all", description="All tapped layers, the last n, or names and globs; the last is always measured."
    )
    pool: Literal["average", "flatten"] = Field(
        "average", description="How a convolutional layer's map becomes a feature vector."
    )
    flatten: tuple[str, ...] = Field((), description="Layer names or globs that are flattened instead.")
    epochs: Annotated[int, Field(ge=1, le=10_000)] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        12, description="That many log-spaced epochs (with 0 and the last), or the listed ones."
    )
    splits: tuple[Split, ...] = Field(
        ("train", "test"),
        description="full_batch: training images with BatchNorm's statistics of all of them, and distances from"
        " stationarity there and in evaluation mode; train_mode: by the statistics of each batch.",
    )
    robustness: Annotated[int, Field(ge=0)] = Field(
        0, description="Test images whose smallest adversarial change (DeepFool) is measured; 0: none."
    )
    keep: KeepSpec = KeepSpec()

    @field_validator("splits")
    @classmethod
    def _train_is_measured(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "train" not in value:
            raise ValueError("'train' must be among the splits: test decisions use the train class means")
        return value


FIGURES = ModuleRegistry("ncpipe.figures")
"""Modules with ``draw(tables, options)`` and ``caption(tables, options)``, and perhaps ``KINDS`` of the runs that are
shown and ``applies(study)``, whether a study that lists no figures draws it: asked whenever a study is read, without
importing the figure if it uses nothing else of it. Files of a user's own may leave all but ``draw`` out."""
FigureName = Annotated[str, NameIn(FIGURES)]

PAPERS = ModuleRegistry("ncpipe.claims")
"""Papers whose claims can be decided: modules with their ``REFERENCE`` and ``CLAIMS``; or files of a user's own, see
``ncpipe.claims.evidence.own``."""
Paper = Annotated[str, NameIn(PAPERS)]

MetricName = Annotated[str, NameIn(METRICS)]


WIDTHS = {"page": 6.75, "column": 3.25, "icml": 3.25, "neurips": 5.5, "iclr": 5.5, "jmlr": 6.0, "tmlr": 6.5}
"""Inches of what figures are made for: a page of two columns, one column, and the text of venues, which is set in
Times or alike."""


def _inches(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return WIDTHS[value] if value in WIDTHS else float(value)
    except ValueError:
        raise ValueError(f"inches or a name; {nearest(value, WIDTHS)}") from None


Inches = Annotated[float, Field(ge=1, le=40)]
Width = Annotated[Inches, BeforeValidator(_inches, json_schema_input_type=Inches | Literal[tuple(WIDTHS)])]


class FigureOptions(Settings):
    """A figure to draw and its options."""

    name: FigureName
    file: Name | None = Field(None, description="File name without ending; null: the figure's name.")
    metrics: tuple[MetricName, ...] | None = Field(
        None, description="Metric names of docs/metrics.md; null: the usual."
    )
    split: Literal["train", "test"] = "train"
    over: str | None = Field(
        None, description="sweep: dotted key of the setting on the horizontal axis, as 'model.width'."
    )
    width: Width = Field(6.75, description=f"Inches, or {', '.join(WIDTHS)}; {WIDTHS['page']} is a page.")
    font: Literal["sans", "serif"] = Field("sans", description="serif, like Times, where the width is a venue's.")

    @property
    def stem(self) -> str:
        """File name of the drawing, without its ending."""
        return self.file or short_name(self.name)

    @model_validator(mode="before")
    @classmethod
    def _venues_have_their_font(cls, value: Any) -> Any:
        venue = isinstance(value, dict) and value.get("width") in WIDTHS.keys() - {"page", "column"}
        return {"font": "serif", **value} if venue else value

    @model_validator(mode="after")
    def _sweep_has_its_setting(self) -> FigureOptions:
        if (self.name == "sweep") != (self.over is not None):
            raise ValueError("'over' goes with figure 'sweep', and 'sweep' needs it, as over: model.width")
        return self


class TrackingSpec(Settings):
    """Where MLflow keeps the mirror of the records."""

    enabled: bool = True
    uri: str | None = Field(None, description="MLflow tracking URI; null: SQLite in the results folder.")
    experiment: str | None = Field(None, description="null: the study's name.")
    live: bool = Field(True, description="Show networks in MLflow while they train.")

    @model_validator(mode="after")
    def _uri_has_no_password(self) -> TrackingSpec:
        # the config is committed, and copied into every results folder
        if self.uri is not None and has_password(self.uri):
            raise ValueError(
                "'uri' holds a password, and a config is no place for one; set MLFLOW_TRACKING_USERNAME and"
                " MLFLOW_TRACKING_PASSWORD for a tracking server, PGPASSWORD or ~/.pgpass for PostgreSQL,"
                " ?read_default_file=FILE for MySQL"
            )
        return self


class StudyInfo(Settings):
    """Name and places of a study."""

    name: Name
    title: str = ""
    description: str = ""
    results: PathText = Field(
        "results",
        description="Folder of everything produced. Its path may hold letters, digits and _ - . / + @ % = : ,",
    )
    data_path: tuple[PathText, ...] = Field(
        (), description="Folders searched for data-set files before anything is downloaded."
    )

    @field_validator("results")
    @classmethod
    def _results_need_no_quotes(cls, value: str) -> str:
        if PurePath(value).name in ("", ".."):
            raise ValueError("must name a folder, as results")
        # the path stands in the shell commands of all rules, and in their wildcards
        if not re.fullmatch(r"(?!-)[\w./+@%=:,-]+", value):
            raise ValueError("may hold letters, digits and _ - . / + @ % = : , and not begin with '-'")
        return value


# --- sweeps --------------------------------------------------------------------------------------


class SelectSpec(Settings):
    """The rule that chooses among runs which differ in one setting (and their seed)."""

    over: str = Field("optimizer.lr", description="Dotted key of the setting to choose.")
    by: Literal["test_accuracy", "train_accuracy", "test_loss", "train_loss"] = Field(
        "test_accuracy",
        description="Last value, averaged over seeds; highest accuracy or lowest loss; a value with a diverged run"
        " is not chosen; of equals the smaller.",
    )


class NetworksBlock(Block):
    """The declared networks, and perhaps the rule that chooses among them."""

    select: SelectSpec | None = Field(None, description="Choose one value of a setting by a rule; figures show it.")


class UfmBlock(Block):
    """The declared UFM problems, and which models are matched to every trained network."""

    matched: tuple[MatchedKind, ...] = ("plain", "extended")


class Config(Settings):
    """A whole study as it stands in ``config.yaml`` or ``studies/*.yaml``, at the chosen scale."""

    study: StudyInfo
    scale: Name | None = Field(None, description="Size of the study: a key of scales.")
    scales: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="Name -> settings laid over all others where scale has that name."
    )
    datasets: Annotated[Block, BaseOf(DatasetSpec)] | None = None
    networks: Annotated[NetworksBlock, BaseOf(NetworkSpec, "dataset")] | None = None
    compute: ComputeSpec = ComputeSpec()
    ufm: Annotated[UfmBlock, BaseOf(UfmSpec)] = UfmBlock()
    continual: Annotated[Block, BaseOf(ContinualSpec)] | None = Field(
        None, description="Class-incremental learning on every network whose data set keeps some of the classes."
    )
    measure: MeasureSpec = MeasureSpec()
    figures: tuple[FigureName | FigureOptions, ...] | None = Field(None, description="null: all that apply.")
    claims: tuple[Paper, ...] = Field((), description="Papers whose claims are decided, and files of your own.")
    tracking: TrackingSpec = TrackingSpec()

    @field_validator("figures")
    @classmethod
    def _sweep_has_its_setting(
        cls, value: tuple[FigureName | FigureOptions, ...] | None
    ) -> tuple[FigureName | FigureOptions, ...] | None:
        if value is not None and "sweep" in value:
            raise ValueError("'sweep' needs the setting on its axis: write {name: sweep, over: model.width}")
        return value
