"""Compares two databases of views, row for row and point for point."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from events.codec import Block, decode_block, join_blocks
from projections.lake import COLUMNS, DuckDB, files, open_duckdb
from projections.lake_changes import CHANGE_TABLES
from projections.metrics import blocks
from projections.schema import checkpoints, metadata, view_meta
from projections.segments import LAYOUT_TABLES, segment_runs, segments

DIFFERENCES_MAX = 5
"""So many differences of a table are told in full."""
CHUNK_ROWS = 2_000
BATCH_POINTS = 2_000_000
BATCH_RUNS = 500
BLOCKS_AT_ONCE = 200
MEMORY_MB = 384
SPILL = ".spill-verify"
"""The folder in the lake for what does not fit that memory."""
NOT_COMPARED = {
    checkpoints.name,
    view_meta.name,
    *(table.name for table in (*LAYOUT_TABLES, *CHANGE_TABLES)),
}
"""Where the points are differs between views that have the same points; these are compared."""


@dataclass
class Compared:
    """What comparing one table, or the points, gave."""

    name: str
    live: int = 0
    rebuilt: int = 0
    different: int = 0
    examples: list[str] = field(default_factory=list)

    def differ(self, text: str) -> None:
        """One more difference; the first few are kept."""
        self.different += 1
        if len(self.examples) < DIFFERENCES_MAX:
            self.examples.append(text)

    def __str__(self) -> str:
        if not self.different:
            return f"{self.name}: {self.live:,} equal"
        return (
            f"{self.name}: {self.different:,} DIFFER ({self.live:,} live, {self.rebuilt:,} rebuilt)"
        )


def compare(
    live: sa.Connection,
    made: sa.Connection,
    lake: Path,
    on_points: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Compared]:
    """What comparing every table and all points gave.

    `on_points` is told how many points are compared, and of how many.
    """
    results = []
    for table in metadata.sorted_tables:
        if table.name not in NOT_COMPARED:
            results.append(compare_table(live, made, table))
    results.append(compare_points(live, made, lake, on_points))
    return results


def compare_table(live: sa.Connection, made: sa.Connection, table: sa.Table) -> Compared:
    """Compares a table's rows in order of the primary key, a few at a time."""
    result = Compared(table.name)
    width = len(table.primary_key.columns)
    left, right = _rows(live, table), _rows(made, table)
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[:width] < other[:width]):
            result.live += 1
            result.differ(f"only live: {_shown(one)}")
            one = next(left, None)
        elif one is None or other[:width] < one[:width]:
            result.rebuilt += 1
            result.differ(f"only rebuilt: {_shown(other)}")
            other = next(right, None)
        else:
            result.live += 1
            result.rebuilt += 1
            if one != other:
                result.differ(f"live {_shown(one)}, rebuilt {_shown(other)}")
            one, other = next(left, None), next(right, None)
    return result


def _shown(row: Any) -> str:
    text = repr(row)
    return text if len(text) <= 300 else text[:300] + "…"


def _rows(connection: sa.Connection, table: sa.Table) -> Iterator[tuple[Any, ...]]:
    """The rows, the primary key first, in its order."""
    keys = list(table.primary_key.columns)
    rest = [column for column in table.columns if column not in keys]
    statement = sa.select(*keys, *rest).order_by(*keys)
    result = connection.execution_options(yield_per=CHUNK_ROWS).execute(statement)
    for row in result:
        yield tuple(row)


def compare_points(
    live: sa.Connection, made: sa.Connection, lake: Path, on_points: Callable[[int, int], None]
) -> Compared:
    """Compares the points of all runs as sets, some runs at a time, on the disk where they don't
    fit the memory."""
    result = Compared("metric points")
    counts = _point_counts(live)
    for run_id, count in _point_counts(made).items():
        counts[run_id] = max(count, counts.get(run_id, 0))
    done, total = 0, sum(counts.values())
    spill = lake / SPILL
    duckdb = open_duckdb(memory_mb=MEMORY_MB, threads=2, temp=spill)
    try:
        for batch in _batches(counts):
            _compare_runs(duckdb, live, made, lake, batch, result)
            done += sum(counts[run_id] for run_id in batch)
            on_points(done, total)
    finally:
        duckdb.close()
        shutil.rmtree(spill, ignore_errors=True)
    return result


def _point_counts(connection: sa.Connection) -> dict[str, int]:
    """How many points each run has at most; the same may be in two places."""
    counts: dict[str, int] = {}
    for table in (segment_runs, blocks):
        statement = sa.select(table.c.run_id, sa.func.sum(table.c.points)).group_by(table.c.run_id)
        for run_id, points in connection.execute(statement):
            counts[run_id] = counts.get(run_id, 0) + int(points)
    return counts


def _batches(counts: dict[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    points = 0
    for run_id in sorted(counts):
        if batch and (points + counts[run_id] > BATCH_POINTS or len(batch) >= BATCH_RUNS):
            yield batch
            batch, points = [], 0
        batch.append(run_id)
        points += counts[run_id]
    if batch:
        yield batch


def _compare_runs(
    duckdb: DuckDB,
    live: sa.Connection,
    made: sa.Connection,
    lake: Path,
    run_ids: list[str],
    result: Compared,
) -> None:
    columns = ", ".join(COLUMNS)
    types = "run_id VARCHAR, key VARCHAR, step BIGINT, timestamp BIGINT, value DOUBLE"
    types += ", model_id VARCHAR, dataset_name VARCHAR, dataset_digest VARCHAR"
    duckdb.execute(f"CREATE TEMP TABLE raw (is_live BOOLEAN, {types})")
    _load(duckdb, True, live, lake, run_ids)
    _load(duckdb, False, made, lake, run_ids)
    # The same point may be on a side more than once, in blocks and segments.
    merged = (
        f"SELECT {columns}, bool_or(is_live) AS in_live, bool_or(NOT is_live) AS in_made "
        f"FROM raw GROUP BY {columns}"
    )
    counts = duckdb.execute(
        "SELECT count(*) FILTER (in_live), count(*) FILTER (in_made), "
        f"count(*) FILTER (NOT (in_live AND in_made)) FROM ({merged})"
    ).fetchone() or (0, 0, 0)
    result.live += int(counts[0])
    result.rebuilt += int(counts[1])
    if counts[2]:
        found = duckdb.execute(
            f"SELECT in_live, {columns} FROM ({merged}) WHERE NOT (in_live AND in_made) "
            f"ORDER BY ALL LIMIT {DIFFERENCES_MAX}"
        ).fetchall()
        for in_live, *point in found:
            shown = _shown(dict(zip(COLUMNS, point, strict=True)))
            result.differ(f"only {'live' if in_live else 'rebuilt'}: {shown}")
        result.different += int(counts[2]) - len(found)
    duckdb.execute("DROP TABLE raw")


def _load(
    duckdb: DuckDB, is_live: bool, connection: sa.Connection, lake: Path, run_ids: list[str]
) -> None:
    """Adds the points of these runs to the table `raw`."""
    columns = ", ".join(COLUMNS)
    statement = (
        sa.select(segments.c.path)
        .join(segment_runs, segment_runs.c.segment_id == segments.c.segment_id)
        .where(segment_runs.c.run_id.in_(run_ids))
        .distinct()
    )
    for path in connection.execute(statement).scalars().all():
        duckdb.execute(
            f"INSERT INTO raw SELECT ?, {columns} "
            "FROM read_parquet(?, hive_partitioning = false) "
            "WHERE run_id IN (SELECT unnest(?))",
            [is_live, files(lake, [path]), run_ids],
        )
    unsealed = (
        sa.select(blocks.c.run_id, blocks.c.data)
        .where(blocks.c.run_id.in_(run_ids))
        .order_by(blocks.c.run_id)
    )
    pending: list[Block] = []
    of_run = ""
    for run_id, data in connection.execution_options(yield_per=16).execute(unsealed):
        if pending and (run_id != of_run or len(pending) >= BLOCKS_AT_ONCE):
            _insert_block(duckdb, is_live, of_run, join_blocks(pending))
            pending = []
        of_run = run_id
        pending.append(decode_block(data))
    if pending:
        _insert_block(duckdb, is_live, of_run, join_blocks(pending))


def _insert_block(duckdb: DuckDB, is_live: bool, run_id: str, block: Block) -> None:
    points = {
        "place": block.index,
        "step": block.steps,
        "timestamp": block.timestamps,
        "value": block.values,
    }
    names: dict[str, Any] = {"place": np.arange(len(block.series), dtype=np.uint32)}
    for place, name in enumerate(("key", *COLUMNS[5:])):
        names[name] = np.array([series[place] for series in block.series], object)
    duckdb.register("points", points)
    duckdb.register("names", names)
    duckdb.execute(
        "INSERT INTO raw SELECT ?, ?, key, step, timestamp, value, model_id::VARCHAR, "
        "dataset_name::VARCHAR, dataset_digest::VARCHAR FROM points JOIN names USING (place)",
        [is_live, run_id],
    )
    duckdb.unregister("points")
    duckdb.unregister("names")
