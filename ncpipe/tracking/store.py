"""The store of the mirror: a SQLite file in the results folder, unless the study names another."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy
from filelock import FileLock
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from ncpipe.system.credentials import redacted
from ncpipe.system.errors import UserError
from ncpipe.system.files import replacing
from ncpipe.tracking.client import DATABASES, SERVERS, is_database, scheme, store_errors

SCHEMA_LOCK = 0x6E637069
"""Number of ncpipe's lock in a PostgreSQL database."""


def create_store(uri: str | None, folder: Path) -> str:
    """Tracking URI of the store, ready for use: ``uri``, or SQLite in ``folder`` (``layout.mlflow``) without one.

    A missing SQLite file is created whole, in WAL mode; any number of processes may call this at once. Databases
    are asked for a sign of life here, since MLflow itself retries a dead one for minutes.
    """
    uri = uri or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    if scheme(uri) not in DATABASES + SERVERS:
        raise UserError(
            f"tracking.uri {redacted(uri)!r} is no MLflow store; give sqlite:///FILE, postgresql://..., mysql://...,"
            " or the http(s):// address of a tracking server"
        )
    with store_errors(uri):
        path = sqlite_file(uri)
        if path:
            _create_once(path, artifact_root(folder))
        if is_database(uri):
            _open_database(uri, artifact_root(folder))
    return uri


def _open_database(uri: str, artifacts: Path) -> None:
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            sqlalchemy.inspect(connection).get_table_names()
            if scheme(uri) == "postgresql":
                # Of those who come to an empty database one makes MLflow's tables. Disconnecting ends the lock.
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({SCHEMA_LOCK})"))
                SqlAlchemyStore(uri, artifacts.as_uri()).engine.dispose()
    finally:
        engine.dispose()


def artifact_root(folder: Path) -> Path:
    """Where artifacts lie when ncpipe, not a tracking server, decides."""
    return folder.resolve() / "artifacts"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; null for others, and for SQLite's own ``file:`` names, whose user knows best."""
    if scheme(uri) != "sqlite":
        return None
    name = sqlalchemy.make_url(uri).database
    if not name or name == ":memory:":
        raise UserError(f"tracking.uri {uri!r} names no file; give sqlite:///relative or sqlite:////absolute path")
    return None if name.startswith("file:") else Path(name)


def _create_once(path: Path, artifacts: Path) -> None:
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists() and path.stat().st_size > 0:
            return
        for journal in ("-wal", "-shm"):  # of a file that was deleted: SQLite would write it into the new one
            path.with_name(path.name + journal).unlink(missing_ok=True)
        # MLflow's migrations take seconds and processes that race through them break the file for good: build it
        # aside, so that a half-made one never bears the name.
        with replacing(path) as temporary:
            _create_schema(temporary, artifacts)


LOCATIONS = {"experiments": "artifact_location", "runs": "artifact_uri", "model_versions": "source"}


def follow(uri: str | None, folder: Path) -> None:
    """MLflow keeps whole paths: where the folder was moved or copied, make them those of the artifacts in it.

    Of the store in the folder alone; one that was named does not move with it.
    """
    path, artifacts = folder / "mlflow.db", artifact_root(folder).as_uri()
    if uri or not path.exists():
        return
    with store_errors(f"sqlite:///{path}"), closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        known = connection.execute("SELECT artifact_location FROM experiments")
        for old in {location.rpartition("/")[0] for (location,) in known} - {artifacts}:
            for table, column in LOCATIONS.items():
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                    (artifacts, len(old) + 1, len(old) + 1, f"{old}/"),
                )


def _create_schema(path: Path, artifacts: Path) -> None:
    SqlAlchemyStore(f"sqlite:///{path}", artifacts.as_uri()).engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
