"""The manifest: which segment files of the lake belong to these views, and which run is in which.

A segment is part of the views from the transaction that adds its rows here, which is also the one
that removes the blocks or the older segments that it was made from. So a reader's snapshot holds
each point once, in a block or in a segment.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from events.codec import Block, decode_block
from projections.metrics import blocks
from projections.owned import owned_rows
from projections.runs import runs
from projections.schema import metadata, purged, view_meta
from projections.view import EntityView

segments = sa.Table(
    "segments",
    metadata,
    sa.Column("segment_id", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False, index=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("points", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
"""The segment files. `path` is relative to the lake."""

segment_runs = sa.Table(
    "segment_runs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("segment_id", sa.Text, primary_key=True, index=True),
    sa.Column("points", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Which runs have how many points in which segment."""

segment_curves = sa.Table(
    "segment_curves",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("grade", sa.Integer, primary_key=True),
    sa.Column("segment_id", sa.Text, primary_key=True, index=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("points", sa.BigInteger, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""The summaries of long curves (projections/thinning.py), from which a chart is drawn; the parts of
a segment's curve together are all of it. Grade 0 is the coarsest, which every part has. `points` is
how many the part has at least, `level` what its summary is cut at, `data` a block of points."""

retired_segments = sa.Table(
    "retired_segments",
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False, index=True),
    sa.Column("retired_ms", sa.BigInteger, nullable=False),
)
"""Files that were merged into others; a reader with an older snapshot may still want them."""

LAYOUT_TABLES = (blocks, segments, segment_runs, segment_curves, retired_segments)
"""How the points are stored rather than which there are. Views that were rebuilt may differ in
these rows; the points that `projections.history` reads from them may not."""

GENERATION = "lake_generation"
_IDS_MAX = 500
DURABLE_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class WrittenCurve:
    """The summaries of a long curve, or of a part of it, that is in a segment."""

    run_id: str
    key: str
    points: int
    """It has at least so many points."""
    summaries: list[tuple[int, bytes]]
    """The level and a block of points of each, the coarsest first (projections/thinning.py)."""


@dataclass(frozen=True, slots=True)
class Written:
    """A segment file that is whole and durable."""

    segment_id: str
    path: str
    """Relative to the lake."""
    size_bytes: int
    runs: dict[str, int]
    """How many points each run has in it."""
    curves: list[WrittenCurve]

    @property
    def points(self) -> int:
        return sum(self.runs.values())


class ViewsDatabase(Protocol):
    """What the sealer needs of a views database; `projections.database.Views` is one, and says what
    these do."""

    @property
    def is_on_server(self) -> bool:
        """Whether sealers on several machines may use it."""

    @property
    def folder(self) -> Path | None:
        """A folder that all have who use it; None: it is on a server."""

    def read(self) -> AbstractContextManager[sa.Connection]:
        """A connection in a read transaction."""

    def write(self) -> AbstractContextManager[sa.Connection]:
        """A connection in a write transaction, committed at the end."""

    def lock(
        self, name: str, wait_s: float = 0.0, lost: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[None]:
        """Holds a lock on its server. Raises AlreadyRunning where another does."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One row of the manifest."""

    segment_id: str
    experiment_id: str
    path: str
    points: int


@dataclass(frozen=True, slots=True)
class StoredCurve:
    """The summary of a part of a curve, as it is stored."""

    path: str
    """The segment that it is of."""
    part: int
    points: int
    """The part has at least so many."""
    level: int
    """What the summary is cut at."""
    data: bytes

    def block(self) -> Block:
        """The points that it is made of."""
        return decode_block(self.data)


@dataclass(slots=True)
class Pending:
    """What an experiment has in blocks."""

    run_ids: list[str]
    blocks: int
    points: int


def generation_of(connection: sa.Connection) -> str | None:
    """The name of these views that begins the names of their files; None while there is none.

    Views that are rebuilt beside the live ones write into the same lake, and a views database that
    takes another's place has other blocks under the same ids: this tells them apart.
    """
    found = connection.execute(
        sa.select(view_meta.c.value).where(view_meta.c.name == GENERATION)
    ).scalar()
    return None if found is None else str(found)


def create_generation(connection: sa.Connection) -> str:
    """The generation of these views; a new one where they have none. Needs a write transaction."""
    found = generation_of(connection)
    if found is None:
        found = secrets.token_hex(4)
        connection.execute(sa.insert(view_meta).values(name=GENERATION, value=found))
    return found


_PATHS = (
    sa.select(segment_runs.c.run_id, segments.c.path, segment_runs.c.points)
    .join(segments, segments.c.segment_id == segment_runs.c.segment_id)
    .order_by(segment_runs.c.run_id, segment_runs.c.segment_id)
)
_CURVES = (
    sa.select(
        segment_curves.c.run_id,
        segments.c.path,
        segment_curves.c.part,
        segment_curves.c.points,
        segment_curves.c.level,
        segment_curves.c.data,
    )
    .join(segments, segments.c.segment_id == segment_curves.c.segment_id)
    .where(
        segment_curves.c.key == sa.bindparam("key", ""),
        segment_curves.c.grade == sa.bindparam("grade", 0),
    )
)


def paths_of(connection: sa.Connection, run_ids: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """For each run the (path, points of the run) of its segments."""
    found: dict[str, list[tuple[str, int]]] = {run_id: [] for run_id in run_ids}
    for run_id, path, points in owned_rows(connection, _PATHS, segment_runs.c.run_id, run_ids):
        found[run_id].append((path, points))
    return found


def curves_of(
    connection: sa.Connection, run_ids: Sequence[str], key: str, grade: int
) -> dict[str, list[StoredCurve]]:
    """The summaries of this grade that there are of a key's curves, by run."""
    found: dict[str, list[StoredCurve]] = {}
    rows = owned_rows(connection, _CURVES, segment_curves.c.run_id, run_ids, [key, grade])
    for run_id, *row in rows:
        found.setdefault(run_id, []).append(StoredCurve(*row))
    return found


def segments_of(connection: sa.Connection, experiment_id: str) -> list[Segment]:
    """The experiment's segments, smallest first."""
    statement = (
        sa.select(
            segments.c.segment_id, segments.c.experiment_id, segments.c.path, segments.c.points
        )
        .where(segments.c.experiment_id == experiment_id)
        .order_by(segments.c.points, segments.c.segment_id)
    )
    return [Segment(*row) for row in connection.execute(statement)]


def with_many_segments(connection: sa.Connection, count_min: int) -> list[str]:
    """The experiments that have at least so many segments."""
    statement = (
        sa.select(segments.c.experiment_id)
        .group_by(segments.c.experiment_id)
        .having(sa.func.count() >= sa.literal(count_min, sa.BigInteger))
    )
    return list(connection.execute(statement).scalars())


def with_purged_runs(connection: sa.Connection) -> list[Segment]:
    """The segments that hold points of runs, or are of experiments, that gc has purged."""
    by_run = sa.select(segment_runs.c.segment_id).join(
        purged, purged.c.subject == segment_runs.c.run_id
    )
    by_experiment = sa.select(purged.c.subject)
    statement = sa.select(
        segments.c.segment_id, segments.c.experiment_id, segments.c.path, segments.c.points
    ).where(
        segments.c.segment_id.in_(by_run) | segments.c.experiment_id.in_(by_experiment),
    )
    return [Segment(*row) for row in connection.execute(statement)]


def purged_in(connection: sa.Connection, segment: Segment) -> list[str]:
    """The runs of a segment that gc has purged; all of them where the experiment is."""
    statement = sa.select(segment_runs.c.run_id).where(
        segment_runs.c.segment_id == segment.segment_id
    )
    gone = sa.select(purged.c.subject)
    whole = gone.where(purged.c.subject == segment.experiment_id)
    if connection.execute(whole).first() is None:
        statement = statement.where(segment_runs.c.run_id.in_(gone))
    return list(connection.execute(statement).scalars())


def add(connection: sa.Connection, experiment_id: str, written: Written) -> None:
    """Makes a file part of the views."""
    connection.execute(
        sa.insert(segments).values(
            segment_id=written.segment_id,
            experiment_id=experiment_id,
            path=written.path,
            points=written.points,
            bytes=written.size_bytes,
        )
    )
    connection.execute(
        sa.insert(segment_runs),
        [
            {"run_id": run_id, "segment_id": written.segment_id, "points": points}
            for run_id, points in written.runs.items()
        ],
    )
    rows = list(_curve_rows(written))
    if rows:
        connection.execute(sa.insert(segment_curves), rows)


def _curve_rows(written: Written) -> Iterator[dict[str, object]]:
    parts: dict[tuple[str, str], int] = {}
    for curve in written.curves:
        part = parts[curve.run_id, curve.key] = parts.get((curve.run_id, curve.key), 0) + 1
        for grade, (level, data) in enumerate(curve.summaries):
            yield {
                "run_id": curve.run_id,
                "key": curve.key,
                "grade": grade,
                "segment_id": written.segment_id,
                "part": part,
                "points": curve.points,
                "level": level,
                "data": data,
            }


def remove(connection: sa.Connection, given: Iterable[Segment]) -> bool:
    """Takes files out of the views; False where one of them was not part any more."""
    ids = [segment.segment_id for segment in given]
    gone = connection.execute(sa.delete(segments).where(segments.c.segment_id.in_(ids))).rowcount
    for table in (segment_runs, segment_curves):
        connection.execute(sa.delete(table).where(table.c.segment_id.in_(ids)))
    return gone == len(ids)


def retire(connection: sa.Connection, given: Iterable[Segment], now_ms: int) -> None:
    """Notes files for deletion after a grace time."""
    connection.execute(
        sa.insert(retired_segments),
        [
            {"path": item.path, "experiment_id": item.experiment_id, "retired_ms": now_ms}
            for item in given
        ],
    )


def retired_paths(
    connection: sa.Connection, until_ms: int, experiment_id: str | None = None
) -> list[str]:
    """The files that were retired by then; with an experiment all of its retired files."""
    condition = (
        retired_segments.c.retired_ms <= until_ms
        if experiment_id is None
        else retired_segments.c.experiment_id == experiment_id
    )
    return list(connection.execute(sa.select(retired_segments.c.path).where(condition)).scalars())


def forget_retired(connection: sa.Connection, paths: Sequence[str]) -> None:
    """Removes the rows of retired files that are deleted."""
    for path in paths:
        connection.execute(sa.delete(retired_segments).where(retired_segments.c.path == path))


def pending_blocks(connection: sa.Connection) -> dict[str, Pending]:
    """What each experiment has in blocks; runs that the views don't know yet wait."""
    per_run = (
        sa.select(
            blocks.c.run_id,
            sa.func.count().label("blocks"),
            sa.func.sum(blocks.c.points).label("points"),
        )
        .group_by(blocks.c.run_id)
        .subquery()
    )
    statement = (
        sa.select(runs.c.experiment_id, per_run)
        .join(runs, runs.c.run_id == per_run.c.run_id)
        .order_by(runs.c.experiment_id, per_run.c.run_id)
    )
    found: dict[str, Pending] = {}
    for experiment_id, run_id, count, points in connection.execute(statement):
        pending = found.setdefault(experiment_id, Pending([], 0, 0))
        pending.run_ids.append(run_id)
        pending.blocks += count
        pending.points += int(points)
    return found


_BLOCKS_READ = 64
"""Blocks that are held in memory together."""


def blocks_of(
    connection: sa.Connection, run_ids: Sequence[str]
) -> Iterator[tuple[str, int, Block]]:
    """The (run id, block id, block) of these runs, in order of run ids, oldest first."""
    for start in range(0, len(run_ids), _IDS_MAX):
        some = sorted(run_ids[start : start + _IDS_MAX])
        wanted = sa.select(blocks.c.run_id, blocks.c.block_id).where(blocks.c.run_id.in_(some))
        # The ids are in an index; the blocks themselves are never sorted, nor held all at once.
        owners = sorted(tuple(row) for row in connection.execute(wanted))
        for first in range(0, len(owners), _BLOCKS_READ):
            part = owners[first : first + _BLOCKS_READ]
            ids = [block_id for _, block_id in part]
            statement = sa.select(blocks.c.block_id, blocks.c.data)
            rows = connection.execute(statement.where(blocks.c.block_id.in_(ids)))
            data = {block_id: block for block_id, block in rows}
            for run_id, block_id in part:
                yield run_id, block_id, decode_block(data.pop(block_id))


def delete_blocks(connection: sa.Connection, ids: Sequence[int]) -> int:
    """Removes blocks; returns how many of them were there."""
    deleted = 0
    for start in range(0, len(ids), _IDS_MAX):
        chunk = list(ids[start : start + _IDS_MAX])
        deleted += connection.execute(
            sa.delete(blocks).where(blocks.c.block_id.in_(chunk))
        ).rowcount
    return deleted


def known_paths(connection: sa.Connection) -> set[str]:
    """The files that the views know: those they are made of, and the retired ones."""
    known = set(connection.execute(sa.select(segments.c.path)).scalars())
    known.update(connection.execute(sa.select(retired_segments.c.path)).scalars())
    return known


def make_durable(connection: sa.Connection) -> None:
    """Brings what was committed to the disk.

    The views need no fsync per commit, being made from the log. But once a file is deleted they
    must not fall back, after a loss of power, to a manifest that names it.
    """
    if connection.dialect.name == "postgresql":
        _wait_until_durable(connection)
    if connection.dialect.name != "sqlite":
        return
    # The file itself: the path it was opened by may be a link.
    database = connection.exec_driver_sql("PRAGMA database_list").all()[0][2]
    for path in (Path(database + "-wal"), Path(database)):
        if path.exists():
            opened = os.open(path, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


def _wait_until_durable(connection: sa.Connection) -> None:
    """The views' sessions commit without a wait for the disk, which the server sees to within a
    second. MySQL has no such sessions: what it does at a commit is the server's setting."""
    written = connection.exec_driver_sql("SELECT pg_current_wal_insert_lsn()").scalar()
    while not connection.exec_driver_sql(
        "SELECT pg_current_wal_flush_lsn() >= %s::pg_lsn", (written,)
    ).scalar():
        time.sleep(DURABLE_POLL_S)


VIEW = EntityView(
    name="segments",
    tables=(segments, segment_runs, segment_curves, retired_segments),
    folds={},
)
