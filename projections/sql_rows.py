"""Rows of the views as Parquet files: what a query's snapshot and the lake's exports are made of.

Rows are read with a plain cursor and handed to DuckDB as columns; a text of a million rows never
becomes a million Python objects twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from projections.lake import DuckDB
from projections.sql_tables import BY_NAME, TEXTS, timestamp
from projections.statements import native

IDS_MAX = 512
"""Ids in one IN list."""
CONTEXT_TAG = "mlflow.data.context"
Rows = list[tuple[Any, ...]]
Raw = Mapping[str, Sequence[Any] | npt.NDArray[Any]]
"""Columns as the views have them, by name."""


def fetch_by_ids(connection: sa.Connection, statement: str, ids: Sequence[str]) -> Rows:
    """The rows of a statement in the driver's language, whose `{ids}` is a list of ids."""
    found: Rows = []
    if not connection.in_transaction():
        connection.begin()
    with contextlib.closing(connection.connection.cursor()) as cursor:
        for start in range(0, len(ids), IDS_MAX):
            chunk = list(ids[start : start + IDS_MAX])
            text = statement.format(ids=", ".join("?" * len(chunk)))
            cursor.execute(native(connection.dialect.name, text), chunk)
            found += cursor.fetchall()
    return found


def _columns(names: Sequence[str], rows: Rows) -> dict[str, Sequence[Any]]:
    by_column = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return dict(zip(names, by_column, strict=True))


def _plain(names: str, statement: str) -> Callable[[sa.Connection, Sequence[str]], Raw]:
    """A reader whose columns are those of one statement."""

    def read(connection: sa.Connection, ids: Sequence[str]) -> Raw:
        return _columns(names.split(), fetch_by_ids(connection, statement, ids))

    return read


_read_runs = _plain(
    "run_id run_name user_id status lifecycle_stage start_time end_time deleted_time artifact_uri",
    "SELECT run_id, name, user_id, status, lifecycle_stage, start_time, end_time, deleted_time,"
    " artifact_uri FROM runs WHERE run_id IN ({ids})",
)
_read_latest = _plain(
    "run_id key value is_nan step timestamp",
    'SELECT run_id, "key", value, is_nan, step, timestamp FROM latest_metrics'
    " WHERE run_id IN ({ids})",
)


def _texts(table: str) -> Callable[[sa.Connection, Sequence[str]], Raw]:
    return _plain(
        "run_id key value", f'SELECT run_id, "key", value FROM {table} WHERE run_id IN ({{ids}})'
    )


def _grouped(rows: Rows, width: int) -> dict[tuple[Any, ...], tuple[list[str], list[str]]]:
    """Keys and values by what they belong to, which are the first columns."""
    found: dict[tuple[Any, ...], tuple[list[str], list[str]]] = {}
    for row in rows:
        keys, values = found.setdefault(row[:width], ([], []))
        keys.append(row[width])
        values.append(row[width + 1])
    return found


def _with_texts(raw: dict[str, Sequence[Any]], name: str, owners: Rows, texts: Rows) -> None:
    """Adds columns of lists of keys and of values, which become a map."""
    width = len(owners[0]) if owners else 1
    by_owner = _grouped(texts, width)
    none: tuple[list[str], list[str]] = ([], [])
    raw[f"{name}_keys"] = [by_owner.get(owner, none)[0] for owner in owners]
    raw[f"{name}_values"] = [by_owner.get(owner, none)[1] for owner in owners]


def _read_datasets(connection: sa.Connection, ids: Sequence[str]) -> Raw:
    rows = fetch_by_ids(
        connection,
        'SELECT i.run_id, i.dataset_id, d.name, d.digest, c.source_type, c.source, c."schema",'
        " c.profile FROM run_inputs i JOIN datasets d ON d.dataset_id = i.dataset_id"
        " JOIN dataset_contents c ON c.content_id = d.content_id"
        " WHERE i.run_id IN ({ids}) ORDER BY i.run_id, i.position, i.place",
        ids,
    )
    tags = fetch_by_ids(
        connection,
        'SELECT run_id, dataset_id, "key", value FROM input_tags WHERE run_id IN ({ids})',
        ids,
    )
    names = ("run_id", "dataset_id", "name", "digest", "source_type", "source", "schema", "profile")
    raw = _columns(names, rows)
    contexts = {row[:2]: row[3] for row in tags if row[2] == CONTEXT_TAG}
    owners = [row[:2] for row in rows]
    raw["context"] = [contexts.get(owner) for owner in owners]
    _with_texts(raw, "tags", owners, tags)
    return raw


def _read_experiments(connection: sa.Connection, ids: Sequence[str]) -> Raw:
    names = (
        "experiment_id",
        "name",
        "artifact_location",
        "lifecycle_stage",
        "creation_time",
        "last_update_time",
    )
    rows = fetch_by_ids(
        connection,
        f"SELECT {', '.join(names)} FROM experiments WHERE experiment_id IN ({{ids}})",
        ids,
    )
    tags = fetch_by_ids(
        connection,
        'SELECT experiment_id, "key", value FROM experiment_tags WHERE experiment_id IN ({ids})',
        ids,
    )
    raw = _columns(names, rows)
    _with_texts(raw, "tags", [row[:1] for row in rows], tags)
    return raw


def _read_models(connection: sa.Connection, ids: Sequence[str]) -> Raw:
    names = (
        "model_id",
        "experiment_id",
        "name",
        "source_run_id",
        "status",
        "lifecycle_stage",
        "model_type",
        "creation_timestamp",
        "last_updated_timestamp",
        "artifact_location",
    )
    rows = fetch_by_ids(
        connection,
        f"SELECT {', '.join(names)} FROM logged_models WHERE experiment_id IN ({{ids}})"
        " ORDER BY model_id",
        ids,
    )
    raw = _columns(names, rows)
    for name in ("params", "tags"):
        texts = fetch_by_ids(
            connection,
            f'SELECT t.model_id, t."key", t.value FROM logged_models m JOIN logged_model_{name} t'
            " ON t.model_id = m.model_id WHERE m.experiment_id IN ({ids})",
            ids,
        )
        _with_texts(raw, name, [row[:1] for row in rows], texts)
    return raw


READERS: dict[str, Callable[[sa.Connection, Sequence[str]], Raw]] = {
    "runs": _read_runs,
    "params": _texts("params"),
    "tags": _texts("tags"),
    "latest_metrics": _read_latest,
    "datasets": _read_datasets,
    "experiments": _read_experiments,
    "logged_models": _read_models,
}
"""Reads a table's rows: of these runs, or of these experiments."""

OF_RUNS = ("runs", "params", "tags", "latest_metrics", "datasets")
"""The tables whose rows belong to a run, and are read by run."""
OF_EXPERIMENTS = ("experiments", "logged_models")

_COMPUTED = {
    "duration_ms": ("TRY_CAST(end_time::BIGINT::HUGEINT - start_time::BIGINT::HUGEINT AS BIGINT)"),
    # DuckDB takes a NaN of numpy's for a null.
    "latest_metrics.value": "CASE WHEN is_nan THEN 'NaN'::DOUBLE ELSE value::DOUBLE END",
    "metrics.value": "coalesce(value, 'NaN'::DOUBLE)",
}


def _expression(table: str, name: str, kind: str) -> str:
    """What makes a column out of the columns as the views have them."""
    computed = _COMPUTED.get(f"{table}.{name}", _COMPUTED.get(name))
    if computed is not None:
        return f"{computed} AS {name}"
    if kind == TEXTS:
        return f"map({name}_keys::VARCHAR[], {name}_values::VARCHAR[]) AS {name}"
    if kind == "TIMESTAMP":
        return f"{timestamp(f'{name}::BIGINT')} AS {name}"
    if name.endswith("_ms"):
        return f"{name.removesuffix('_ms')}::BIGINT AS {name}"
    return f"{name}::{kind} AS {name}"


def _array(values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    # Filled by hand: numpy would make a table of lists of one length.
    array = np.empty(len(values), object)
    array[:] = values
    return array


def write_table(
    cursor: DuckDB,
    table: str,
    raw: Raw,
    path: Path,
    *,
    without: Iterable[str] = (),
    compression: str = "uncompressed",
) -> None:
    """Writes a table's rows as a Parquet file with the columns that it is declared with."""
    leave = set(without)
    columns = [column for column in BY_NAME[table].columns if column.name not in leave]
    selected = ", ".join(_expression(table, column.name, column.type) for column in columns)
    cursor.register("raw_rows", {name: _array(values) for name, values in raw.items()})
    try:
        cursor.execute(
            f"COPY (SELECT {selected} FROM raw_rows) TO {quoted(str(path))}"
            f" (FORMAT parquet, COMPRESSION {compression}, USE_TMP_FILE false)"
        )
    finally:
        cursor.unregister("raw_rows")


def quoted(text: str) -> str:
    """A text as DuckDB's SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
