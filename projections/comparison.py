"""Compares two databases of views, row for row and point for point."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from events.codec import decode_block
from projections.lake import COLUMNS, DuckDB, files, open_duckdb
from projections.metrics import blocks
from projections.schema import checkpoints, metadata, view_meta
from projections.segments import LAYOUT_TABLES, segment_runs, segments

DIFFERENCES_MAX = 5
"""So many differences of a table are told in full."""
CHUNK_ROWS = 2_000
BATCH_POINTS = 4_000_000
BATCH_RUNS = 500
MEMORY_MB = 512
NOT_COMPARED = {checkpoints.name, view_meta.name, *(table.name for table in LAYOUT_TABLES)}
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
    spill = lake / ".spill-verify"
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
    for name, connection in (("live", live), ("made", made)):
        _load(duckdb, name, connection, lake, run_ids)
    for name, other, label in (("live", "made", "live"), ("made", "live", "rebuilt")):
        found = duckdb.execute(f"SELECT count(*) FROM {name}").fetchone()
        count = int(found[0]) if found else 0
        if name == "live":
            result.live += count
        else:
            result.rebuilt += count
        missing = f"SELECT {columns} FROM {name} EXCEPT SELECT {columns} FROM {other}"
        found = duckdb.execute(f"SELECT count(*) FROM ({missing})").fetchone()
        if found and found[0]:
            for row in duckdb.execute(f"{missing} LIMIT {DIFFERENCES_MAX}").fetchall():
                result.differ(f"only {label}: {_shown(dict(zip(COLUMNS, row, strict=True)))}")
            result.different += int(found[0]) - min(int(found[0]), DIFFERENCES_MAX)
    for name in ("live", "made"):
        duckdb.execute(f"DROP TABLE {name}")


def _load(
    duckdb: DuckDB, name: str, connection: sa.Connection, lake: Path, run_ids: list[str]
) -> None:
    """Makes a table of the distinct points of these runs."""
    columns = ", ".join(COLUMNS)
    types = "run_id VARCHAR, key VARCHAR, step BIGINT, timestamp BIGINT, value DOUBLE"
    types += ", model_id VARCHAR, dataset_name VARCHAR, dataset_digest VARCHAR"
    duckdb.execute(f"CREATE TEMP TABLE raw ({types})")
    statement = (
        sa.select(segments.c.path)
        .join(segment_runs, segment_runs.c.segment_id == segments.c.segment_id)
        .where(segment_runs.c.run_id.in_(run_ids))
        .distinct()
    )
    for path in connection.execute(statement).scalars().all():
        duckdb.execute(
            f"INSERT INTO raw SELECT {columns} FROM read_parquet(?, hive_partitioning = false) "
            "WHERE run_id IN (SELECT unnest(?))",
            [files(lake, [path]), run_ids],
        )
    unsealed = sa.select(blocks.c.run_id, blocks.c.data).where(blocks.c.run_id.in_(run_ids))
    for run_id, data in connection.execution_options(yield_per=16).execute(unsealed):
        _insert_block(duckdb, run_id, data)
    duckdb.execute(f"CREATE TEMP TABLE {name} AS SELECT DISTINCT {columns} FROM raw")
    duckdb.execute("DROP TABLE raw")


def _insert_block(duckdb: DuckDB, run_id: str, data: bytes) -> None:
    block = decode_block(data)
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
        "INSERT INTO raw SELECT ?, key, step, timestamp, value, model_id::VARCHAR, "
        "dataset_name::VARCHAR, dataset_digest::VARCHAR FROM points JOIN names USING (place)",
        [run_id],
    )
    duckdb.unregister("points")
    duckdb.unregister("names")
