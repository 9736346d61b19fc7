"""MLflow as ncpipe uses it: silent, without telemetry, and with its errors as one line that shows no password."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# MLflow reads these while it is imported. Its log is switched off since it prints tracebacks of errors that it also
# raises; a dead server is reported in seconds, not after its four minutes of retries. Whoever sets them is obeyed.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: E402
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: E402
from sqlalchemy import event  # noqa: E402
from sqlalchemy.engine import Engine  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from ncpipe.system.credentials import redacted  # noqa: E402
from ncpipe.system.errors import UserError  # noqa: E402

# Again for whoever imported MLflow first.
logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])


@event.listens_for(Engine, "connect")
def _commit_without_waiting(connection: object, _record: object) -> None:
    """SQLite need not wait for the disk at every call: a mirror that loses its last seconds is filled in again."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=NORMAL")


DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""URI schemes that MLflow opens itself, without a tracking server."""
SERVERS = ("http", "https", "databricks")


def scheme(uri: str) -> str:
    """``sqlite`` of ``sqlite:///file``, ``postgresql`` of ``postgresql+psycopg2://...``; empty for a bare path."""
    return uri.split(":", 1)[0].split("+", 1)[0].lower() if ":" in uri else ""


def is_database(uri: str) -> bool:
    return scheme(uri) in DATABASES


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn whatever a dead, read-only or damaged store raises into one line with its name and the remedy."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        raise UserError(
            f"MLflow store {redacted(uri)}: {_reason(error)}; {_remedy(uri, error)}, then run 'ncpipe sync'"
            " (the results themselves are on disk)"
        ) from None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if lines[0].startswith("API request to") and "failed with exception" in lines[0]:
        return "no answer"
    return redacted(lines[0])[:300]


def _remedy(uri: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return "install the driver of that database"
    if "database is locked" in str(error):
        return "end the program that uses it"
    if scheme(uri) == "sqlite":
        return "see that its folder is writable and that it is an MLflow database, or delete it"
    return "see that it runs, and that the address in tracking.uri and the credentials in the environment are right"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; wait for whoever holds it. The kernel frees it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


__all__ = [
    "Dataset",
    "DatasetInput",
    "Experiment",
    "InputTag",
    "Metric",
    "MlflowClient",
    "MlflowException",
    "Param",
    "Run",
    "RunTag",
    "SqlAlchemyStore",
    "get_artifact_repository",
    "is_database",
    "locked",
    "redacted",
    "scheme",
    "store_errors",
]
