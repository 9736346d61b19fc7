"""All values that two studies have of the same runs, put against each other: does a rerun reproduce?"""

# ruff: noqa: S608 - of names of ours alone
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from ncpipe.records.schemas import UFM

Tables = Mapping[str, pa.Table]

ENDS = ("parameters", "zero_error_epoch", "final_epoch", "final_train_loss", "final_test_loss",
        "final_train_accuracy", "final_test_accuracy")  # fmt: skip
"""Numbers of the table ``runs`` that are results, not settings."""
WORDS = ("status", "device", "precision")
"""Words of the table ``runs``: how a run ended, and what it was computed on."""
LISTS = [field.name for field in UFM if pa.types.is_list(field.type)]
NUMBERS = [field.name for field in UFM if not pa.types.is_list(field.type) and not pa.types.is_string(field.type)]
"""Columns of the table ``ufm`` by kind."""


@dataclass(frozen=True)
class Agreement:
    """All values of the common runs, and those that differ."""

    only_a: tuple[str, ...]
    """Quantities that B's tables do not have at all, as those of another version; not compared."""
    only_b: tuple[str, ...]
    values: int
    differing: int
    runs: int
    differing_runs: int
    deviations: list[dict[str, Any]]
    """The quantities that differ: table, quantity, values, differing; one_sided, of these a finite number on one
    side only, or missing there; relative, the largest |a - b| / max(|a|, |b|) of the others, or None; a, b, run_id,
    split, layer and time where that is (of a list its position; -1: no time). Largest first."""
    words: list[dict[str, Any]]
    """column, a, b and run_ids of ``WORDS`` that differ."""


def agreement(a: Tables, b: Tables, ids: Collection[str]) -> Agreement:
    """Compare every value that the tables hold of these runs: histories, collapse metrics, fits and ends.

    Equal means the same number (0 and -0 are), or undefined on both sides. Wall-clock times are left out.
    """
    with duckdb.connect() as db:
        db.register("ids", pa.table({"run_id": pa.array(ids, pa.string())}))
        for side, tables in (("a", a), ("b", b)):
            for name in ("history", "collapse", "runs", "ufm"):
                db.register(f"{side}_{name}", tables[name])
            db.execute(f"CREATE VIEW {side} AS {_long(side)}")
            db.execute(f"CREATE TABLE {side}_known AS SELECT DISTINCT kind, quantity FROM {side}")
        db.execute(_PAIRS)
        counts = "SELECT count(*), count(*) FILTER (differs), count(DISTINCT run_id) FILTER (differs) FROM pairs"
        ((values, differing, differing_runs),) = db.execute(counts).fetchall()
        only = "SELECT DISTINCT quantity FROM {} ANTI JOIN {} USING (kind, quantity) ORDER BY quantity"
        return Agreement(
            only_a=tuple(name for (name,) in db.execute(only.format("a_known", "b_known")).fetchall()),
            only_b=tuple(name for (name,) in db.execute(only.format("b_known", "a_known")).fetchall()),
            values=values,
            differing=differing,
            runs=len(ids),
            differing_runs=differing_runs,
            deviations=db.sql(_DEVIATIONS).to_arrow_table().to_pylist(),
            words=db.sql(_REWORDED).to_arrow_table().to_pylist(),
        )


def _long(side: str) -> str:
    """SQL of one row per value: kind (the table), quantity, run_id, value or word, and what places it in its run."""
    ranks = f"(SELECT DISTINCT ON (run_id, split, layer, time) * FROM {side}_collapse)"
    lists = _unpivoted(f"{side}_ufm", LISTS, "DOUBLE[]")
    return " UNION ALL BY NAME ".join(
        f"SELECT '{kind}' AS kind, * FROM ({source})"
        for kind, source in (
            ("history", f"SELECT run_id, quantity, time, value FROM {side}_history"),
            ("collapse", f"SELECT run_id, metric AS quantity, split, layer, time, value FROM {side}_collapse"),
            ("collapse", _unpivoted(ranks, ["rank", "condition"], places="run_id, split, layer, time")),
            ("runs", _unpivoted(f"{side}_runs", ENDS)),
            ("words", _unpivoted(f"{side}_runs", WORDS, "VARCHAR", entry="word")),
            ("ufm", _unpivoted(f"{side}_ufm", NUMBERS)),
            (
                "ufm",
                f"SELECT run_id, quantity, unnest(range(len(value))) AS time, unnest(value) AS value FROM ({lists})",
            ),
        )
    )


def _unpivoted(
    source: str, columns: Iterable[str], kind: str = "DOUBLE", places: str = "run_id", entry: str = "value"
) -> str:
    """SQL of columns of quantities as rows: places, quantity, entry."""
    cast = ", ".join(f'"{column}"::{kind} AS "{column}"' for column in columns)
    listed = ", ".join(f'"{column}"' for column in columns)
    rows = f"SELECT {places}, {cast} FROM {source}"
    return f"SELECT * FROM ({rows}) UNPIVOT INCLUDE NULLS ({entry} FOR quantity IN ({listed}))"


_CHOSEN = """(SELECT * REPLACE (coalesce(value, 'nan'::DOUBLE) AS value, coalesce(split, '') AS split,
    coalesce(layer, '') AS layer, coalesce(time, -1) AS time), true AS there
  FROM {} SEMI JOIN ids USING (run_id)
  SEMI JOIN a_known USING (kind, quantity) SEMI JOIN b_known USING (kind, quantity))"""
# To DuckDB, NaN is equal to itself.
_PAIRS = f"""
CREATE TABLE pairs AS
SELECT kind, quantity, run_id, split, layer, time, x.value AS a, y.value AS b, x.word AS word_a, y.word AS word_b,
  x.there IS NULL OR y.there IS NULL OR a != b OR word_a IS DISTINCT FROM word_b AS differs,
  CASE WHEN differs AND isfinite(a) AND isfinite(b) THEN abs(a - b) / greatest(abs(a), abs(b)) END AS relative
FROM {_CHOSEN.format("a")} x FULL JOIN {_CHOSEN.format("b")} y USING (kind, quantity, run_id, split, layer, time)"""
_DEVIATIONS = """
SELECT * EXCLUDE (worst), unnest(worst) FROM (
  SELECT kind AS "table", quantity, count(*) AS "values", count(*) FILTER (differs) AS differing,
    differing - count(relative) AS one_sided, max(relative) AS relative,
    first({run_id: run_id, split: split, layer: layer, time: time,
           a: CASE WHEN NOT isnan(a) THEN a END, b: CASE WHEN NOT isnan(b) THEN b END}
      ORDER BY relative DESC NULLS LAST, run_id, split, layer, time) FILTER (differs) AS worst
  FROM pairs WHERE kind != 'words' GROUP BY kind, quantity HAVING differing > 0)
ORDER BY relative DESC NULLS LAST, "table", quantity"""
_REWORDED = f"""
SELECT quantity AS "column", word_a AS a, word_b AS b, list(run_id ORDER BY run_id) AS run_ids
FROM pairs WHERE kind = 'words' AND differs
GROUP BY quantity, word_a, word_b ORDER BY list_position({list(WORDS)}, quantity), word_a, word_b"""
