"""Stores of MLflow: their kinds, and their errors as one line that shows no password."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from ncpipe.system.credentials import redacted
from ncpipe.system.errors import UserError


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
