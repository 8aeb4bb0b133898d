"""The table `metrics` of a query: sealed segments as they are, and points that are not sealed yet.

The server copies the unsealed blocks as they are stored (projections/sql_points.py); decoding and
sorting them is the work of the query's own process, which comes after everything else.

A point can be in two places only where a client sent it twice. Where the steps or the timestamps
of a run in two places don't overlap it can't be; only the runs that this does not tell apart are
read with DISTINCT, so a query over millions of points is not slowed down by looking for what
hardly ever is there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec
import numpy as np

from events.codec import Block, decode_together
from projections.point_columns import Gathered, PointColumns, Range
from projections.query_formats import quoted
from projections.sql_tables import BY_NAME, timestamp

POINTS_FILE = "points.msgpack"
"""Where a query's folder has this file, its table `metrics` is made of it."""
LENGTH = struct.Struct("<Q")
"""Stands before each part of the file: the plan, then lists of blocks."""

EVERYWHERE: Range = (-(1 << 63), (1 << 63) - 1, -(1 << 63), (1 << 63) - 1)
"""Of a segment whose ranges were forgotten it is not known until the exporter has looked."""
Stored = tuple[str, bytes]
"""A run's id and a block of its points, as the views store it."""

_TEXTS = ("run_id", "experiment_id", "key", "model_id", "dataset_name", "dataset_digest")
_COLUMNS = (*_TEXTS, "step", "timestamp", "value")
COLUMNS_SQL = ", ".join(
    {
        "timestamp": timestamp("timestamp") + " AS timestamp",
        "timestamp_ms": "timestamp AS timestamp_ms",
    }.get(name, name)
    for name in BY_NAME["metrics"].column_names()
)
"""The table's columns, made of a segment's."""
_MAKE_TABLES = """
CREATE SCHEMA unsealed;
CREATE TABLE unsealed.points (place UINTEGER, step BIGINT, timestamp BIGINT, value DOUBLE);
CREATE TABLE unsealed.names (
  place UINTEGER, run_id VARCHAR, experiment_id VARCHAR, key VARCHAR, model_id VARCHAR,
  dataset_name VARCHAR, dataset_digest VARCHAR
);
"""
_UNSEALED = f"(SELECT {', '.join(_COLUMNS)} FROM unsealed.points JOIN unsealed.names USING (place))"


class Connection(Protocol):
    """What is needed of DuckDB's."""

    def execute(self, query: str, parameters: object = None) -> Any:
        """Runs a statement."""

    def register(self, view_name: str, python_object: object) -> Any:
        """Makes columns of numpy's a view."""

    def unregister(self, view_name: str) -> Any:
        """Takes the view away."""


class Plan(msgspec.Struct, array_like=True, frozen=True):
    """What the table is made of, beside the blocks."""

    experiment_of: dict[str, str]
    """The experiment of each run that has blocks."""
    segments: dict[str, str]
    """The files of the lake by their segments' ids, from the folder on."""
    parts: list[tuple[str, str, int | None, int | None, int | None, int | None]]
    """Run, segment, and where the run's points lie in it: of the runs that are in several places.
    A run that is in one segment only, and has no blocks, need not be here."""
    purged: list[tuple[str, str]]
    """Run and segment: of what may not be seen any more and is in a file yet."""


_plan_decoder = msgspec.msgpack.Decoder(Plan)
_blocks_decoder = msgspec.msgpack.Decoder(list[Stored])
_encoder = msgspec.msgpack.Encoder()


def write_part(file: BinaryIO, part: Plan | Sequence[Stored]) -> None:
    """Writes one part of the file; the plan is the first."""
    data = _encoder.encode(part)
    file.write(LENGTH.pack(len(data)))
    file.write(data)


def _parts(file: BinaryIO) -> Iterator[bytes]:
    while prefix := file.read(LENGTH.size):
        yield file.read(LENGTH.unpack(prefix)[0])


def read_parts(file: BinaryIO) -> tuple[Plan, Iterator[Stored]]:
    """The plan and the blocks of a file."""
    parts = _parts(file)
    plan = _plan_decoder.decode(next(parts))
    return plan, (stored for part in parts for stored in _blocks_decoder.decode(part))


def declare_metrics(connection: Connection, folder: Path) -> None:
    """Makes the table `metrics` of what the folder has, where it has any of it.

    Points that are not sealed become a table in memory; of segments only a footer is read.
    """
    path = folder / POINTS_FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        plan, stored = read_parts(file)
        gathered, distinct = _gathered(stored)
    ranges = gathered.ranges
    columns = gathered.take_as_gathered() if distinct else gathered.take()
    connection.execute(_MAKE_TABLES)
    _insert(connection, columns, plan.experiment_of)
    doubtful = doubtful_runs(plan.parts, ranges)
    connection.execute(_view(plan, folder, doubtful, has_unsealed=len(columns) > 0))


def _gathered(stored: Iterable[Stored]) -> tuple[Gathered, bool]:
    """The points of blocks, and whether none can be there twice.

    Sorting, which tells for certain, costs as much as decoding and storing them. A training that
    logs step after step is known by less: no step is in two blocks of a run, and within a block
    series follow one another in each step.
    """
    gathered = Gathered()
    spans: dict[str, list[tuple[int, int]]] = {}
    distinct = True
    for run_id, block, blocks in decode_together(stored):
        gathered.add(run_id, block)
        if distinct and len(block):
            distinct = _step_by_step(block, blocks)
            steps = block.steps.reshape(blocks, -1)
            found = zip(steps[:, 0].tolist(), steps[:, -1].tolist(), strict=True)
            spans.setdefault(run_id, []).extend(found)
    return gathered, distinct and not any(_any_shared(found) for found in spans.values())


def _step_by_step(block: Block, blocks: int) -> bool:
    """Whether in each of so many blocks, which follow one another in one, the points are in order
    of step, then series, each pair of them once."""
    steps, index = block.steps.reshape(blocks, -1), block.index.reshape(blocks, -1)
    rises = steps[:, 1:] > steps[:, :-1]
    rises |= (steps[:, 1:] == steps[:, :-1]) & (index[:, 1:] > index[:, :-1])
    return bool(rises.all())


def _any_shared(spans: list[tuple[int, int]]) -> bool:
    """Whether two of these, each a first and a last step, have a step in common."""
    spans.sort()
    return any(later[0] <= earlier[1] for earlier, later in pairwise(spans))


def _insert(
    connection: Connection, columns: PointColumns, experiment_of: Mapping[str, str]
) -> None:
    texts: list[tuple[str | None, ...]] = [
        (run_id, experiment_of[run_id], *series) for run_id, series in columns.names
    ]
    names: dict[str, Any] = {"place": np.arange(len(texts), dtype=np.uint32)}
    for place, name in enumerate(_TEXTS):
        names[name] = np.array([row[place] for row in texts], object)
    points: dict[str, Any] = {
        "place": columns.places,
        "step": columns.steps,
        "timestamp": columns.timestamps,
        "value": columns.values,
    }
    # DuckDB takes a NaN of numpy's for a null.
    value = "coalesce(value, 'NaN'::DOUBLE)"
    for table, given, selected in (
        ("points", points, f"place, step, timestamp, {value}"),
        ("names", names, ", ".join(("place", *(f"{name}::VARCHAR" for name in _TEXTS)))),
    ):
        if len(given["place"]):
            connection.register("given", given)
            connection.execute(f"INSERT INTO unsealed.{table} SELECT {selected} FROM given")
            connection.unregister("given")


def doubtful_runs(
    parts: Iterable[tuple[str, str, int | None, int | None, int | None, int | None]],
    unsealed: Mapping[str, Range],
) -> dict[str, set[str]]:
    """The runs that may have a point in two segments, or in one and among the unsealed points;
    for each the segments that it is in."""
    by_run: dict[str, list[tuple[str, Range]]] = {}
    for run_id, segment_id, *found in parts:
        known = EVERYWHERE if None in found else (found[0], found[1], found[2], found[3])
        by_run.setdefault(run_id, []).append((segment_id, known))  # type: ignore[arg-type]
    doubtful: dict[str, set[str]] = {}
    for run_id, of_run in by_run.items():
        ranges = [found for _, found in of_run]
        if run_id in unsealed:
            ranges.append(unsealed[run_id])
        if any(_overlap(one, other) for one, other in combinations(ranges, 2)):
            doubtful[run_id] = {segment_id for segment_id, _ in of_run}
    return doubtful


def _overlap(one: Range, other: Range) -> bool:
    return one[0] <= other[1] and other[0] <= one[1] and one[2] <= other[3] and other[2] <= one[3]


def _view(plan: Plan, folder: Path, doubtful: Mapping[str, set[str]], *, has_unsealed: bool) -> str:
    """The view over segments without a doubtful run, over others, and over unsealed points."""
    gone = {run_id for run_id, _ in plan.purged}
    apart = {segment_id for found in doubtful.values() for segment_id in found}
    apart |= {segment_id for _, segment_id in plan.purged}
    clean = [path for one, path in plan.segments.items() if one not in apart]
    mixed = [path for one, path in plan.segments.items() if one in apart]
    sources = [_segments(folder, clean)] if clean else []
    others = [_segments(folder, mixed)] if mixed else []
    if has_unsealed or not plan.segments:
        (others if mixed else sources).append(_UNSEALED)
    return metrics_view(sources, others, _list(set(doubtful) - gone), _list(gone))


def metrics_view(sources: Sequence[str], mixed: Sequence[str], doubtful: str, gone: str) -> str:
    """The view over sources without a doubtful run, and others.

    `doubtful` and `gone` are lists in SQL: of the runs that DISTINCT is for, and of those of which
    nothing may be seen.
    """
    parts = [f"SELECT {COLUMNS_SQL} FROM {source}" for source in sources]
    left_out = f"list_contains(list_concat({doubtful}, {gone}), run_id)"
    parts += [f"SELECT {COLUMNS_SQL} FROM {source} WHERE NOT {left_out}" for source in mixed]
    if mixed and doubtful != "[]":
        names = ", ".join(_COLUMNS)
        both = " UNION ALL ".join(
            f"SELECT {names} FROM {source} WHERE list_contains({doubtful}, run_id)"
            for source in mixed
        )
        parts.append(f"SELECT DISTINCT {COLUMNS_SQL} FROM ({both})")
    return "CREATE VIEW metrics AS " + " UNION ALL ".join(parts)


def _segments(folder: Path, paths: Iterable[str]) -> str:
    """Segments as DuckDB reads them, which would expand `*`, `?` and `[`."""
    named = ", ".join(
        quoted(re.sub(r"([\[*?])", r"[\1]", str(folder / path))) for path in sorted(paths)
    )
    return (
        f"read_parquet([{named}], hive_partitioning = true,"
        " hive_types = {'experiment_id': VARCHAR})"
    )


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(quoted, sorted(texts)))}]"
