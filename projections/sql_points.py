"""The table `metrics` of a query's snapshot: sealed segments as they are, and unsealed blocks.

A point can be in two of these only where a client sent it twice. Where the steps or the timestamps
of a run in two files don't overlap it can't be; only the runs that this does not tell apart are
read with DISTINCT, so a query over millions of points is not slowed down by looking for what
hardly ever is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from events.codec import Int64s, decode_block
from projections.lake import COLUMNS, DuckDB
from projections.point_columns import Gathered, PointColumns
from projections.sql_rows import fetch_by_ids, quoted, timestamp

Range = tuple[int, int, int, int]
"""Least and greatest step, least and greatest timestamp."""
EVERYWHERE: Range = (-(1 << 63), (1 << 63) - 1, -(1 << 63), (1 << 63) - 1)
"""Of a segment that was written a moment ago it is not known yet."""
COLUMNS_SQL = (
    "run_id, experiment_id, key, step, "
    + timestamp("timestamp")
    + " AS timestamp, timestamp AS timestamp_ms, value, model_id, dataset_name, dataset_digest"
)


def unsealed(connection: sa.Connection, experiment_of: Mapping[str, str]) -> PointColumns:
    """The points of these runs that are in blocks, in the lake's order, none twice."""
    gathered = Gathered()
    found = connection.exec_driver_sql("SELECT DISTINCT run_id FROM blocks").scalars()
    runs = sorted(run_id for run_id in found if run_id in experiment_of)
    statement = "SELECT run_id, data FROM blocks WHERE run_id IN ({ids})"
    for run_id, data in fetch_by_ids(connection, statement, runs):
        gathered.add(run_id, decode_block(data))
    return gathered.take()


def write_points(
    cursor: DuckDB, columns: PointColumns, experiment_of: Mapping[str, str], path: Path
) -> None:
    """Writes points as a segment has them, with their experiment beside."""
    names: dict[str, Any] = {"place": np.arange(len(columns.names), dtype=np.uint32)}
    texts = [
        (run_id, experiment_of[run_id], series.key, *series[1:]) for run_id, series in columns.names
    ]
    labels = ("run_id", "experiment_id", "key", *COLUMNS[5:])
    for place, name in enumerate(labels):
        names[name] = np.array([row[place] for row in texts], object)
    points = {
        "place": columns.places,
        "step": columns.steps,
        "timestamp": columns.timestamps,
        "value": columns.values,
    }
    cursor.register("points", points)
    cursor.register("names", names)
    selected = ", ".join(f"{name}::VARCHAR AS {name}" for name in labels)
    try:
        cursor.execute(
            # DuckDB takes a NaN of numpy's for a null.
            f"COPY (SELECT {selected}, step, timestamp, coalesce(value, 'NaN'::DOUBLE) AS value"
            f" FROM points LEFT JOIN names USING (place)) TO {quoted(str(path))}"
            " (FORMAT parquet, COMPRESSION uncompressed, USE_TMP_FILE false)"
        )
    finally:
        cursor.unregister("points")
        cursor.unregister("names")


def ranges_of(columns: PointColumns) -> dict[str, Range]:
    """Where each run's points lie."""
    if not len(columns):
        return {}
    runs = list(dict.fromkeys(run_id for run_id, _ in columns.names))
    places = {run_id: place for place, run_id in enumerate(runs)}
    run_of_name = np.array([places[run_id] for run_id, _ in columns.names], np.int64)
    run_of_point = run_of_name[columns.places]
    starts = np.flatnonzero(np.append(True, run_of_point[1:] != run_of_point[:-1]))

    def bounds(values: Int64s) -> tuple[list[int], list[int]]:
        return (
            np.minimum.reduceat(values, starts).tolist(),
            np.maximum.reduceat(values, starts).tolist(),
        )

    found = zip(*bounds(columns.steps), *bounds(columns.timestamps), strict=True)
    return {
        runs[place]: bound
        for place, bound in zip(run_of_point[starts].tolist(), found, strict=True)
    }


def doubtful_runs(
    connection: sa.Connection, segment_ids: set[str], fresh: Mapping[str, Range]
) -> dict[str, set[str]]:
    """The runs that may have a point in two of these segments, or in one and among the fresh
    points; for each the segments that it is in."""
    by_run: dict[str, list[tuple[str, Range]]] = {}
    for run_id, segment_id, *found in connection.exec_driver_sql(
        "SELECT s.run_id, s.segment_id, r.step_min, r.step_max, r.time_min, r.time_max"
        " FROM segment_runs s LEFT JOIN segment_ranges r"
        " ON r.segment_id = s.segment_id AND r.run_id = s.run_id"
        " WHERE s.run_id IN (SELECT run_id FROM segment_runs GROUP BY run_id HAVING count(*) > 1)"
        " OR s.run_id IN (SELECT run_id FROM blocks)"
    ):
        if segment_id in segment_ids:
            known = EVERYWHERE if found[0] is None else (found[0], found[1], found[2], found[3])
            by_run.setdefault(run_id, []).append((segment_id, known))
    doubtful: dict[str, set[str]] = {}
    for run_id, parts in by_run.items():
        ranges = [found for _, found in parts]
        if run_id in fresh:
            ranges.append(fresh[run_id])
        if any(_overlap(one, other) for one, other in combinations(ranges, 2)):
            doubtful[run_id] = {segment_id for segment_id, _ in parts}
    return doubtful


def _overlap(one: Range, other: Range) -> bool:
    return one[0] <= other[1] and other[0] <= one[1] and one[2] <= other[3] and other[2] <= one[3]


def metrics_view(sources: Sequence[str], mixed: Sequence[str], doubtful: str, gone: str) -> str:
    """The view over files without a doubtful run, and others.

    `doubtful` and `gone` are lists in SQL: of the runs that DISTINCT is for, and of those of which
    nothing may be seen.
    """
    parts = [f"SELECT {COLUMNS_SQL} FROM {source}" for source in sources]
    left_out = f"list_contains(list_concat({doubtful}, {gone}), run_id)"
    parts += [f"SELECT {COLUMNS_SQL} FROM {source} WHERE NOT {left_out}" for source in mixed]
    if mixed and doubtful != "[]":
        names = ", ".join(("experiment_id", *COLUMNS))
        both = " UNION ALL ".join(
            f"SELECT {names} FROM {source} WHERE list_contains({doubtful}, run_id)"
            for source in mixed
        )
        parts.append(f"SELECT DISTINCT {COLUMNS_SQL} FROM ({both})")
    return "CREATE VIEW metrics AS " + " UNION ALL ".join(parts)
