"""Writes segments: from points in memory, and from other segments.

How segments are named and locked is in projections/lake.py, what is in one in docs/lake.md.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from events.codec import Block, Series, encode_block
from projections.lake import (
    COLUMNS,
    ROW_GROUP_ROWS,
    DuckDB,
    Lake,
    escaped,
    spill_folder,
)
from projections.new_segments import new_segment
from projections.point_columns import Gathered, Name, PointColumns, Range, in_lake_order
from projections.segments import ViewsDatabase, Written, WrittenCurve, blocks_of
from projections.thinning import CURVE_POINTS, curve_of

PIECE_POINTS = 1_000_000
"""So many points are put in order in memory; what has more is written in pieces."""
PIECE_NAMES = 100_000
"""So many names of runs and series are handled in memory; a piece with more is sorted by DuckDB."""
PIECES, HELD = "pieces", "held"
_CUT_BY = ("run_id", "key", "step")
_STEP_BUCKETS = 4_096
_DICTIONARY_MAX = 1_024
"""Names of a row group are few. Numbers of which there are more are smaller, and written sooner, as
differences and as bytes in streams than as places in a dictionary."""
_PARQUET = (
    "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, USE_TMP_FILE false,"
    f" ROW_GROUP_SIZE {ROW_GROUP_ROWS}, DICTIONARY_SIZE_LIMIT {_DICTIONARY_MAX}"
)
_PART = (
    "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION lz4, USE_TMP_FILE false,"
    f" DICTIONARY_SIZE_LIMIT {_DICTIONARY_MAX}"
)
"""A part of a file is read once and deleted: so, and without names, it is written in no time."""
_NAMES = ("run_id", "key", *COLUMNS[5:])
_SELECTED = {
    # DuckDB takes a NaN of numpy's for a null.
    "value": "coalesce(value, 'NaN'::DOUBLE) AS value",
    # A column of nothing but None has no type of its own.
    **{name: f"{name}::VARCHAR AS {name}" for name in _NAMES},
}


Content = tuple[dict[str, int], list[WrittenCurve]]
"""What a file was filled with: how many points each run has, and the summaries."""


@dataclass(slots=True)
class Batch:
    """The blocks that become one segment, within these bounds."""

    points_max: int
    blocks_max: int
    names_max: int
    ids: list[int] = field(default_factory=list)
    """Those of the blocks."""
    ranges: dict[str, Range] = field(default_factory=dict)
    """Where the points of each run lie."""

    def pieces(self, views: ViewsDatabase, run_ids: Sequence[str]) -> Generator[Gathered]:
        """What is in blocks of these runs, whole runs a piece, in the order of runs. A run that is
        too large for a piece ends the batch. The caller takes a piece before the next."""
        points = names = 0
        piece, last = Gathered(), ""
        with views.read() as connection:
            for run_id, block_id, block in blocks_of(connection, sorted(run_ids)):
                if run_id != last and piece.points >= PIECE_POINTS // 2:
                    points, names = points + piece.points, names + piece.names
                    self.ranges |= piece.ranges
                    yield piece
                    piece = Gathered()
                last = run_id
                self.ids.append(block_id)
                piece.add(run_id, block)
                if (
                    piece.points >= PIECE_POINTS
                    or points + piece.points >= self.points_max
                    or names + piece.names >= self.names_max
                    or len(self.ids) >= self.blocks_max
                ):
                    break
        self.ranges |= piece.ranges
        if piece.points:
            yield piece


def write_points(
    cursor: DuckDB, lake: Lake, experiment_id: str, generation: str, pieces: Iterable[Gathered]
) -> Written:
    """Writes gathered points, of which nothing is left there, as one segment.

    Each piece's runs must come behind those of the piece before; no more than two pieces are in
    memory.
    """

    found: Content = ({}, [])
    columns = _in_order(pieces, found)
    waiting = next(columns)
    with (
        new_segment(lake, experiment_id, generation) as new,
        _Parts(cursor, spill_folder(lake, generation)) as parts,
    ):
        for following in columns:
            parts.add(waiting)
            waiting = following
        if parts.names:
            parts.add(waiting)
            parts.join(new.unfinished)
        else:
            _copy_columns(cursor, waiting, new.unfinished)
    return new.written(*found)


def _in_order(pieces: Iterable[Gathered], found: Content) -> Iterator[PointColumns]:
    """Pieces in the lake's order; what they are is added to `found`."""
    runs, curves = found
    for piece in pieces:
        columns = piece.take()
        runs.update(columns.runs())
        curves.extend(_curves(columns))
        yield columns


def merge_files(
    cursor: DuckDB,
    lake: Lake,
    experiment_id: str,
    generation: str,
    paths: Sequence[str],
    without: Sequence[str] = (),
) -> Generator[Written | None]:
    """Writes the points of several segments as one, leaving out some runs.

    Memory is bounded: they are put in order a piece at a time, and the pieces are joined. Gives
    None after each piece, when the caller may write other segments with the same cursor, and at
    last the segment.
    """
    spill = spill_folder(lake, generation)
    condition = f"run_id NOT IN ({', '.join(map(_quoted, without))})" if without else "true"
    with lake.held(paths, spill / HELD) as held:
        source = f"read_parquet({_listed(held)}, hive_partitioning = false)"
        merge = _Merge(cursor, source, spill)
        with new_segment(lake, experiment_id, generation) as new:
            yield from merge.into(new.unfinished, condition)
    yield new.written(*merge.content())


def _copy_columns(cursor: DuckDB, columns: PointColumns, path: Path) -> None:
    """Writes points that are in order."""
    with columns_query(cursor, columns) as query:
        _copy_named(cursor, query, path)


def _copy_named(cursor: DuckDB, query: str, path: Path) -> None:
    """Writes points in their order, which join their names."""
    # The points go through the join in their order: names are what it builds its table from.
    cursor.execute("SET disabled_optimizers = 'build_side_probe_side, join_order'")
    try:
        _copy(cursor, query, path)
    finally:
        cursor.execute("RESET disabled_optimizers")


def _curves(columns: PointColumns, *, of_parts: bool = False) -> Iterator[WrittenCurve]:
    """The summaries of long curves; `of_parts`: of all, which are parts of a very long one."""
    for (run_id, key), start, end in columns.curves(1 if of_parts else CURVE_POINTS):
        part = slice(start, end)
        steps, timestamps, values = (
            columns.steps[part],
            columns.timestamps[part],
            columns.values[part],
        )
        curve = curve_of(steps, timestamps, values, with_finest=of_parts)
        summaries = []
        for level, at in curve.summaries:
            index = np.zeros(len(at), np.uint32)
            block = Block([Series(key)], index, steps[at], timestamps[at], values[at])
            summaries.append((level, encode_block(block)))
        yield WrittenCurve(run_id, key, curve.points, summaries)


@contextlib.contextmanager
def columns_query(cursor: DuckDB, columns: PointColumns) -> Iterator[str]:
    """A query that gives points of memory as a segment's columns, within the block."""
    with _points(cursor, columns), _names(cursor, columns.names):
        yield _named("points")


@contextlib.contextmanager
def _points(cursor: DuckDB, columns: PointColumns, first_place: int = 0) -> Iterator[None]:
    """The points as a table, within the block."""
    points = {
        "place": columns.places + np.uint32(first_place),
        "step": columns.steps,
        "timestamp": columns.timestamps,
        "value": columns.values,
    }
    cursor.register("points", points)
    try:
        yield
    finally:
        cursor.unregister("points")


@contextlib.contextmanager
def _names(cursor: DuckDB, given: Sequence[Name]) -> Iterator[None]:
    """Names by their places as a table, within the block."""
    names: dict[str, Any] = {"place": np.arange(len(given), dtype=np.uint32)}
    names["run_id"] = np.array([run_id for run_id, _ in given], object)
    for place, name in enumerate(_NAMES[1:]):
        names[name] = np.array([series[place] for _, series in given], object)
    cursor.register("names", names)
    try:
        yield
    finally:
        cursor.unregister("names")


def _named(points: str) -> str:
    """A query that gives points with their names' places as a segment's columns."""
    selected = ", ".join(_SELECTED.get(name, name) for name in COLUMNS)
    return f"SELECT {selected} FROM {points} LEFT JOIN names USING (place)"


def _copy(cursor: DuckDB, query: str, path: Path) -> None:
    """Writes what a query finds, in its order, which several threads would not keep."""
    cursor.execute("SET threads = 1")
    cursor.execute(f"COPY ({query}) TO {_quoted(str(path))} ({_PARQUET})")


class _Parts:
    """Pieces of a file on their way into it, in its order, each in a file of its own meanwhile."""

    def __init__(self, cursor: DuckDB, spill: Path) -> None:
        self._cursor = cursor
        # Others may be written between two pieces of a merge.
        self._folder = spill / f"{PIECES}-{secrets.token_hex(4)}"
        self._parts: list[tuple[bool, str]] = []
        """Whether each has names, and its path."""
        self.names: list[Name] = []
        """Those of the parts without names, which have places here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, columns: PointColumns) -> None:
        """Writes points that are in order, without their names."""
        value = _SELECTED["value"]
        path = self._next(has_names=False)
        with _points(self._cursor, columns, len(self.names)):
            self._cursor.execute(
                f"COPY (SELECT place, step, timestamp, {value} FROM points) "
                f"TO {_quoted(str(path))} ({_PART})"
            )
        self.names.extend(columns.names)

    def with_names(self) -> Path:
        """Where the caller writes the next part, with its names."""
        return self._next(has_names=True)

    def _next(self, *, has_names: bool) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{len(self._parts)}.parquet"
        self._parts.append((has_names, str(path)))
        return path

    def join(self, path: Path) -> None:
        """Writes them all as one file."""
        queries = []
        for has_names, some in groupby(self._parts, itemgetter(0)):
            source = f"read_parquet({_listed([part for _, part in some])})"
            queries.append(
                f"SELECT {', '.join(COLUMNS)} FROM {source}" if has_names else _named(source)
            )
        with _names(self._cursor, self.names):
            _copy_named(self._cursor, " UNION ALL ".join(queries), path)


class _Piece(NamedTuple):
    """Points of segments that are put in order together."""

    condition: str
    is_part: bool
    """Whether it is of a curve that is cut, of which every part must be summarized."""


class _Merge:
    """The points of some segments on their way into one."""

    def __init__(self, cursor: DuckDB, source: str, spill: Path) -> None:
        self._cursor = cursor
        self._source = source
        self._spill = spill
        self._runs: dict[str, int] = {}
        self._curves: list[WrittenCurve] = []
        self._not_summarized: set[tuple[str, str]] = set()

    def into(self, path: Path, condition: str) -> Generator[None]:
        """Writes those that meet the condition; stops after each of many pieces."""
        pieces = list(self._pieces(condition))
        if len(pieces) == 1:
            self._write(pieces[0], path)
            return
        with _Parts(self._cursor, self._spill) as parts:
            for piece in pieces:
                self._write(piece, parts)
                yield
            parts.join(path)

    def content(self) -> Content:
        """What was written."""
        # A curve of which a part was too large to be summarized has no summary.
        curves = [one for one in self._curves if (one.run_id, one.key) not in self._not_summarized]
        return self._runs, curves

    def _pieces(self, condition: str, depth: int = 0) -> Iterator[_Piece]:
        """Pieces that are small enough, or can't be cut, in the lake's order:
        ranges of runs, within a large run of keys, and within a large key of steps."""
        low: Any = None
        high: Any = None
        points = 0
        for first, last, count in self._counted(condition, depth):
            if points and points + count > PIECE_POINTS:
                yield from self._piece(condition, depth, low, high, points)
                points = 0
            low, high, points = (low if points else first), last, points + count
        yield from self._piece(condition, depth, low, high, points)

    def _piece(
        self, condition: str, depth: int, low: Any, high: Any, points: int
    ) -> Iterator[_Piece]:
        column = _CUT_BY[depth]
        is_part = column == "step"
        if not points:
            yield _Piece(condition, is_part)
            return
        within = f"{condition} AND {column} BETWEEN {_literal(low)} AND {_literal(high)}"
        if points <= PIECE_POINTS:
            yield _Piece(within, is_part)
        elif low != high:
            # Of runs and keys one is too large alone; steps are cut again, as finely as they can.
            yield from self._pieces(within, depth)
        elif depth + 1 < len(_CUT_BY):
            yield from self._pieces(within, depth + 1)
        else:
            yield _Piece(within, is_part)

    def _counted(self, condition: str, depth: int) -> list[tuple[Any, Any, int]]:
        """(first, last, points) of what the column of this depth can be cut into, in its order."""
        column = bucket = _CUT_BY[depth]
        source = f"FROM {self._source} WHERE {condition}"
        if column == "step":
            low, high = self._one(f"SELECT min(step), max(step) {source}")
            bucket = f"step // {(high - low) // _STEP_BUCKETS + 1}"
        return self._cursor.execute(
            f"SELECT min({column}), max({column}), count(*) {source} GROUP BY {bucket} ORDER BY 1"
        ).fetchall()

    def _write(self, piece: _Piece, to: Path | _Parts) -> None:
        """Writes a piece as a file, or as one of the parts: without names, if that is possible."""
        names, points = f"{', '.join(_NAMES)}", f"FROM {self._source} WHERE {piece.condition}"
        self._cursor.execute(
            "CREATE OR REPLACE TEMP TABLE piece AS SELECT row_number() OVER () - 1 AS place, * "
            f"FROM (SELECT {names}, count(*) AS points {points} GROUP BY ALL)"
        )
        count, total = self._one("SELECT count(*), coalesce(sum(points), 0) FROM piece")
        if count > PIECE_NAMES or total > PIECE_POINTS:
            self._write_sorted(piece.condition, _path_of(to))
        elif isinstance(to, _Parts) and len(to.names) + count <= PIECE_NAMES:
            to.add(self._in_memory(piece))
        else:
            _copy_columns(self._cursor, self._in_memory(piece), _path_of(to))
        self._cursor.execute("DROP TABLE piece")

    def _in_memory(self, piece: _Piece) -> PointColumns:
        """The points of a piece, in order; they are counted and summarized."""
        rows = self._cursor.execute(f"SELECT {', '.join(_NAMES)} FROM piece ORDER BY place")
        names = [(row[0], Series(*row[1:])) for row in rows.fetchall()]
        equal = " AND ".join(f"p.{name} IS NOT DISTINCT FROM piece.{name}" for name in _NAMES)
        found = self._cursor.execute(
            "SELECT place, step, timestamp, value FROM "
            f"(SELECT * FROM {self._source} WHERE {piece.condition}) p JOIN piece ON {equal}"
        ).fetchnumpy()
        columns = in_lake_order(
            names, found.pop("place"), found.pop("step"), found.pop("timestamp"), found.pop("value")
        )
        self._count(columns.runs())
        self._curves.extend(_curves(columns, of_parts=piece.is_part))
        return columns

    def _write_sorted(self, condition: str, path: Path) -> None:
        """What is too much for this process's memory is sorted by DuckDB, which spills."""
        found = self._cursor.execute("SELECT DISTINCT run_id, key FROM piece LIMIT 2").fetchall()
        if len(found) == 1:
            self._not_summarized.add(found[0])
        columns = ", ".join(COLUMNS)
        # Sorted by every column, the same point twice is two neighbours. A window without an
        # order goes over the sorted rows as they come; DISTINCT would need memory for all.
        before = ", ".join(f"lag({name}) OVER () AS before_{name}" for name in COLUMNS)
        differs = " OR ".join(f"{name} IS DISTINCT FROM before_{name}" for name in COLUMNS)
        points = f"SELECT {columns} FROM {self._source} WHERE {condition} ORDER BY {columns}"
        query = f"SELECT {columns} FROM (SELECT {columns}, {before} FROM ({points}))"
        self._cursor.execute(f"COPY ({query} WHERE {differs}) TO {_quoted(str(path))} ({_PARQUET})")
        counted = "SELECT run_id, count(*) FROM read_parquet(?) GROUP BY run_id"
        self._count(dict(self._cursor.execute(counted, [escaped(path)]).fetchall()))

    def _count(self, runs: dict[str, int]) -> None:
        for run_id, points in runs.items():
            self._runs[run_id] = self._runs.get(run_id, 0) + points

    def _one(self, query: str) -> tuple[Any, ...]:
        return self._cursor.execute(query).fetchone() or ()


def _path_of(to: Path | _Parts) -> Path:
    return to.with_names() if isinstance(to, _Parts) else to


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else _quoted(value)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(paths: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, paths))}]"
