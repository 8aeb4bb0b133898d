"""Compares two databases of views, row for row and point for point."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from events.codec import decode_block
from projections.lake import COLUMNS, DuckDB, Lake, open_duckdb
from projections.lake_changes import CHANGE_TABLES
from projections.metrics import blocks
from projections.point_columns import Gathered, PointColumns
from projections.schema import checkpoints, metadata, view_meta
from projections.segment_files import columns_query
from projections.segments import LAYOUT_TABLES, segment_runs, segments

DIFFERENCES_MAX = 5
"""So many differences of a table are told in full."""
CHUNK_ROWS = 2_000
BATCH_POINTS = 1_000_000
BATCH_RUNS = 500
GATHERED_POINTS = 500_000
MEMORY_MB = 128
THREADS = 2
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
    lake: Lake,
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
    live: sa.Connection, made: sa.Connection, lake: Lake, on_points: Callable[[int, int], None]
) -> Compared:
    """Compares the points of all runs as sets.

    A digest of each run's points tells at little cost which runs are equal. The points of the
    others are compared one by one, some runs at a time, on the disk where they don't fit the
    memory: there may be a difference, or only a point that is in two places.
    """
    result = Compared("metric points")
    ours, theirs = _Side(live, lake), _Side(made, lake)
    total = ours.points + theirs.points
    spill = lake.folder / SPILL
    duckdb = open_duckdb(memory_mb=MEMORY_MB, threads=THREADS, temp=spill)
    try:
        done = 0
        for side in (ours, theirs):
            for count in side.digest(duckdb):
                done += count
                on_points(done, total)
        for batch in _batches(_unequal(ours.digests, theirs.digests, result)):
            _compare_runs(duckdb, ours, theirs, batch, result)
        on_points(total, total)
    finally:
        duckdb.close()
        shutil.rmtree(spill, ignore_errors=True)
    return result


Digest = tuple[int, int, int]
"""How many points, and two sums over them of hashes that differ: unequal points with equal
digests would have to agree in 128 bits by chance."""
Digests = dict[str, Digest]
NOTHING: Digest = (0, 0, 0)
_HASHED = COLUMNS[1:]
_DIGEST = (
    f"run_id, count(*), sum(hash({', '.join(_HASHED)})), sum(hash({', '.join(_HASHED[::-1])}))"
)


def _unequal(ours: Digests, theirs: Digests, result: Compared) -> dict[str, int]:
    """The runs whose digests differ, with how many points they have; counts the others."""
    found: dict[str, int] = {}
    for run_id in ours.keys() | theirs.keys():
        one, other = ours.get(run_id, NOTHING), theirs.get(run_id, NOTHING)
        if one == other:
            result.live += one[0]
            result.rebuilt += other[0]
        else:
            found[run_id] = max(one[0], other[0])
    return found


class _Side:
    """The points of one database of views."""

    def __init__(self, connection: sa.Connection, lake: Lake) -> None:
        self._connection = connection
        self._lake = lake
        self.points = sum(
            int(connection.execute(sa.select(sa.func.sum(table.c.points))).scalar() or 0)
            for table in (segment_runs, blocks)
        )
        """At most so many; the same may be in two places."""
        self.digests: Digests = {}

    def digest(self, duckdb: DuckDB) -> Iterator[int]:
        """Finds the digest of each run; yields how many more points were read."""
        statement = sa.select(segments.c.segment_id, segments.c.path, segments.c.points)
        for segment_id, path, points in self._connection.execute(statement).all():
            query = f"SELECT {_DIGEST} FROM read_parquet(?, hive_partitioning = false) GROUP BY 1"
            rows = duckdb.execute(query, [self._lake.files([path])]).fetchall()
            of_segment = sa.select(segment_runs.c.run_id).where(
                segment_runs.c.segment_id == segment_id
            )
            named = set(self._connection.execute(of_segment).scalars())
            self._add([row for row in rows if row[0] in named])
            yield points
        for columns in self._unsealed(None):
            with columns_query(duckdb, columns) as query:
                found = duckdb.execute(f"SELECT {_DIGEST} FROM ({query}) GROUP BY 1")
                self._add(found.fetchall())
            yield len(columns)

    def _add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        for run_id, *more in rows:
            before = self.digests.get(run_id, NOTHING)
            self.digests[run_id] = (before[0] + more[0], before[1] + more[1], before[2] + more[2])

    def load(self, duckdb: DuckDB, is_live: bool, run_ids: list[str]) -> None:
        """Adds the points of these runs to the table `raw`."""
        statement = (
            sa.select(segments.c.path)
            .join(segment_runs, segment_runs.c.segment_id == segments.c.segment_id)
            .where(segment_runs.c.run_id.in_(run_ids))
            .distinct()
        )
        for path in self._connection.execute(statement).scalars().all():
            duckdb.execute(
                f"INSERT INTO raw SELECT ?, {', '.join(COLUMNS)} "
                "FROM read_parquet(?, hive_partitioning = false) "
                "WHERE run_id IN (SELECT unnest(?))",
                [is_live, self._lake.files([path]), run_ids],
            )
        for columns in self._unsealed(run_ids):
            with columns_query(duckdb, columns) as query:
                duckdb.execute(f"INSERT INTO raw SELECT ?, * FROM ({query})", [is_live])

    def _unsealed(self, run_ids: list[str] | None) -> Iterator[PointColumns]:
        """The points in blocks, of these runs or of all, a bounded number at a time."""
        statement = sa.select(blocks.c.run_id, blocks.c.data).order_by(blocks.c.run_id)
        if run_ids is not None:
            statement = statement.where(blocks.c.run_id.in_(run_ids))
        gathered = Gathered()
        streamed = self._connection.execution_options(yield_per=16)
        for run_id, data in streamed.execute(statement):
            gathered.add(run_id, decode_block(data))
            if gathered.points >= GATHERED_POINTS:
                yield gathered.take()
        if gathered.points:
            yield gathered.take()


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
    duckdb: DuckDB, live: _Side, made: _Side, run_ids: list[str], result: Compared
) -> None:
    columns = ", ".join(COLUMNS)
    types = "run_id VARCHAR, key VARCHAR, step BIGINT, timestamp BIGINT, value DOUBLE"
    types += ", model_id VARCHAR, dataset_name VARCHAR, dataset_digest VARCHAR"
    duckdb.execute(f"CREATE TEMP TABLE raw (is_live BOOLEAN, {types})")
    live.load(duckdb, True, run_ids)
    made.load(duckdb, False, run_ids)
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
