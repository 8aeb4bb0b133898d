"""What the table `metrics` of a query is made of, as the server hands it over.

Blocks that are not sealed are copied as they are stored: decoding them here would hold up the
process that takes in points. The query's own process does the rest (projections/query_points.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa

from projections.query_points import Plan, write_part
from projections.sql_rows import IDS_MAX, Rows, fetch_by_ids
from projections.statements import fetch_rows, native

BLOCKS_PER_PART = 256
"""So many blocks are in memory at a time."""
_PARTS = """
SELECT s.run_id, s.segment_id, r.step_min, r.step_max, r.time_min, r.time_max
FROM segment_runs s
LEFT JOIN segment_ranges r ON r.segment_id = s.segment_id AND r.run_id = s.run_id
WHERE s.run_id IN (SELECT run_id FROM segment_runs GROUP BY run_id HAVING count(*) > 1)
   OR s.run_id IN (SELECT run_id FROM blocks)
"""
_PURGED = """
SELECT r.run_id, r.segment_id FROM segment_runs r JOIN purged p ON p.subject = r.run_id
"""


def write_points(
    connection: sa.Connection,
    experiments: Collection[str],
    segments: Mapping[str, str],
    path: Path,
) -> None:
    """Writes the unsealed blocks of these experiments' runs, and which segments there are: their
    files by id. Rows of other segments are left out."""
    home = experiment_of_blocks(connection, experiments)
    plan = Plan(
        experiment_of=home,
        segments=dict(segments),
        parts=[row for row in fetch_rows(connection, _PARTS) if row[1] in segments],
        purged=[row for row in fetch_rows(connection, _PURGED) if row[1] in segments],
    )
    with path.open("wb") as file:
        write_part(file, plan)
        _copy_blocks(connection, list(home), file)


def experiment_of_blocks(connection: sa.Connection, experiments: Collection[str]) -> dict[str, str]:
    """The runs of these experiments that have blocks, each with its experiment."""
    found = [row[0] for row in fetch_rows(connection, "SELECT DISTINCT run_id FROM blocks")]
    statement = "SELECT run_id, experiment_id FROM runs WHERE run_id IN ({ids})"
    rows = fetch_by_ids(connection, statement, found)
    return {run_id: one for run_id, one in rows if one in experiments}


def _copy_blocks(connection: sa.Connection, run_ids: list[str], file: BinaryIO) -> None:
    with contextlib.closing(connection.connection.cursor()) as cursor:
        for start in range(0, len(run_ids), IDS_MAX):
            chunk = run_ids[start : start + IDS_MAX]
            marks = ", ".join("?" * len(chunk))
            text = f"SELECT run_id, data FROM blocks WHERE run_id IN ({marks})"
            cursor.execute(native(connection.dialect.name, text), chunk)
            while rows := _fetch(cursor):
                write_part(file, rows)


def _fetch(cursor: Any) -> Rows:
    return cursor.fetchmany(BLOCKS_PER_PART)  # type: ignore[no-any-return]
