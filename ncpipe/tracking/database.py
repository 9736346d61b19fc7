"""Values of a run written into MLflow's database at once; its own calls, which go value by value, take far longer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH
from sqlalchemy import delete, insert, update

from ncpipe.tracking.points import Point


def write_values(
    store: SqlAlchemyStore,
    run_id: str,
    points: Iterable[Point],
    missing: Iterable[Point],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    end: int,
) -> None:
    """Make a run hold these points, parameters and tags, and end it, in one transaction.

    Args:
        run_id: MLflow's id.
        points: all of the run, finite.
        missing: those that it does not hold.
        end: in milliseconds since 1970.
    """
    # MLflow's order: the latest is that of the largest step, then time, then value.
    latest = {point.key: point for point in sorted(points, key=lambda p: (p.step, p.timestamp, p.value))}
    settings = {key: value[:MAX_PARAM_VAL_LENGTH] for key, value in params.items()}
    rows: dict[Any, list[dict[str, Any]]] = {
        SqlMetric: [point._asdict() | {"is_nan": False} for point in missing],
        SqlLatestMetric: [point._asdict() | {"is_nan": False} for point in latest.values()],
        SqlParam: [{"key": key, "value": value} for key, value in settings.items()],
        SqlTag: [{"key": key, "value": value} for key, value in tags.items()],
    }
    with store.ManagedSessionMaker(read_only=False) as session:
        for table, values in rows.items():
            if table is not SqlMetric:
                keys = [row["key"] for row in values]
                session.execute(delete(table).where(table.run_uuid == run_id, table.key.in_(keys)))
            if values:
                session.execute(insert(table.__table__), [row | {"run_uuid": run_id} for row in values])
        session.execute(update(SqlRun).where(SqlRun.run_uuid == run_id).values(status="FINISHED", end_time=end))
