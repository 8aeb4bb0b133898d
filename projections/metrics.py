"""Metrics: the latest value of each key, and the blocks of points that are not sealed yet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import sqlalchemy as sa

from events.codec import Block, decode_block, encode_block, join_blocks
from events.event import Event
from events.metrics import POINTS_LOGGED, Point, encode_points
from events.runs import RUN_BATCH_LOGGED, RUN_PURGED, RunBatchLogged
from projections.schema import FOR_SEARCH, metadata
from projections.state import State
from projections.statements import POSTGRESQL, inserting, keeping_greatest
from projections.view import EntityView

KEEP_BLOCK_FROM_POINTS = 256
"""An event with so many points is stored as a block as it came; smaller ones are joined."""

latest_metrics = sa.Table(
    "latest_metrics",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("is_nan", sa.Boolean, nullable=False),
    sa.Index("latest_metrics_by_value", "key", "is_nan", "value", "run_id", info=FOR_SEARCH),
    sqlite_with_rowid=False,
)
"""For each key the point with the greatest (step, timestamp, value). NaN is stored and compared
as 0 with `is_nan`, as in MLflow; the infinities as they are."""

blocks = sa.Table(
    "blocks",
    metadata,
    sa.Column("block_id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("points", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("blocks_by_run", "run_id", "points"),
    sqlite_autoincrement=True,
)
"""Points that are in no segment yet, in the log's columnar form (events/codec.py).

An id is never used again, so that the sealer removes no block but those it has sealed; its index
holds what it asks for at each round."""

SMALL_BLOCKS_MAX = 16
"""So many smaller blocks of a run become one."""
_COLLECTED = "points"
_FEW = "points of the journal"

_BLOCK_NAMES = ("run_id", "points", "data")
BlockRow = tuple[str, int, bytes]
"""A run's id, how many points, and the block that has them."""
LatestOfRun = dict[str, tuple[int, int, float, bool]]
"""The greatest (step, timestamp, value, is_nan) of each key."""

_COMPARED = ("step", "timestamp", "value", "is_nan")


def fold_batch_logged(state: State, event: Event, data: RunBatchLogged) -> None:
    """The points of a batch that also had params or tags."""
    if data.metrics:
        state.collect(_FEW).append((event.subject, data.metrics))


def fold_points(state: State, event: Event, block: Block) -> None:
    """The points of a batch of metrics alone."""
    state.collect(_COLLECTED).append((event.subject, block, event.data))


def fold_run_purged(state: State, event: Event, _data: Any) -> None:
    """Latest values and blocks go; the sealer's segments are rewritten by gc."""
    for collected in (state.collect(_COLLECTED), state.collect(_FEW)):
        collected[:] = [item for item in collected if item[0] != event.subject]
    state.execute(sa.delete(latest_metrics).where(latest_metrics.c.run_id == event.subject))
    state.execute(sa.delete(blocks).where(blocks.c.run_id == event.subject))


def finish(state: State) -> None:
    """Stores the blocks that the batch's events brought, and moves the latest values on."""
    latest: dict[str, LatestOfRun] = {}
    rows = [*_few_points(state, latest), *_many_points(state, latest)]
    if not rows:
        return
    state.insert_many(inserting(state.dialect, blocks, _BLOCK_NAMES), rows)
    _join_small_blocks(state, {row[0] for row in rows if row[1] < KEEP_BLOCK_FROM_POINTS})
    # SQLite's driver looks for a way to store a bool: a number takes 0.8 µs less.
    flag = bool if state.dialect == POSTGRESQL else int
    moved = [
        (run_id, key, step, timestamp, value, flag(is_nan))
        for run_id, of_run in latest.items()
        for key, (step, timestamp, value, is_nan) in of_run.items()
    ]
    moving = keeping_greatest(state.dialect, latest_metrics, _COMPARED)
    state.rows(latest_metrics).write(moved, moving)


def _few_points(state: State, latest: dict[str, LatestOfRun]) -> list[BlockRow]:
    """What the journal's events brought: for so few points columns are not worth making."""
    by_run: dict[str, list[Point]] = {}
    for run_id, points in state.collect(_FEW):
        by_run.setdefault(run_id, []).extend(points)
    state.collect(_FEW).clear()
    stored = []
    for run_id, points in by_run.items():
        of_run = latest.setdefault(run_id, {})
        for point in points:
            _move(of_run, point.key, point.step, point.timestamp, float(point.value))
        stored.append((run_id, len(points), encode_points(points)))
    return stored


def _many_points(state: State, latest: dict[str, LatestOfRun]) -> list[BlockRow]:
    """What the points lane brought."""
    by_run: dict[str, list[tuple[Block, bytes | None]]] = {}
    for run_id, block, data in state.collect(_COLLECTED):
        if len(block):
            by_run.setdefault(run_id, []).append((block, data))
    state.collect(_COLLECTED).clear()
    stored: list[BlockRow] = []
    for run_id, given in by_run.items():
        of_run = latest.setdefault(run_id, {})
        _move_latest(of_run, join_blocks([block for block, _ in given]))
        stored.extend(_block_rows(run_id, given))
    return stored


@lru_cache(maxsize=16)
def _text_of(statement: sa.Executable, dialect: sa.Dialect) -> str:
    return str(statement.compile(dialect=dialect))  # type: ignore[attr-defined]


_COUNTED_RUNS = 100
_SMALL = (
    sa.select(blocks.c.run_id)
    .where(
        blocks.c.run_id.in_([sa.bindparam(f"run_{place}") for place in range(_COUNTED_RUNS)]),
        blocks.c.points < sa.bindparam("points"),
    )
    .group_by(blocks.c.run_id)
    .having(sa.func.count() >= sa.bindparam("count"))
)


def _join_small_blocks(state: State, run_ids: set[str]) -> None:
    """Makes one block of a run's small ones when there are many: a run that logs a point a request
    would otherwise leave thousands, each to be opened by every reader of its history."""
    statement = _text_of(_SMALL, state.connection.dialect)
    wanted = sorted(run_ids)
    for start in range(0, len(wanted), _COUNTED_RUNS):
        some = wanted[start : start + _COUNTED_RUNS]
        # Statements of one size are prepared once.
        padded = (*some, *[None] * (_COUNTED_RUNS - len(some)))
        asked = (*padded, KEEP_BLOCK_FROM_POINTS, SMALL_BLOCKS_MAX)
        for (run_id,) in state.fetch(statement, asked):
            _join_small_blocks_of(state, run_id)


def _join_small_blocks_of(state: State, run_id: str) -> None:
    connection = state.connection
    small = (blocks.c.run_id == run_id, blocks.c.points < KEEP_BLOCK_FROM_POINTS)
    asked = sa.select(blocks.c.block_id, blocks.c.data).where(*small)
    # Another process may fold points of the same run: no block is deleted but those joined here.
    found = connection.execute(asked.with_for_update()).all()
    if not found:
        return
    joined = join_blocks([decode_block(data) for _, data in found])
    ids = [block_id for block_id, _ in found]
    connection.execute(sa.delete(blocks).where(blocks.c.block_id.in_(ids)))
    row = {"run_id": run_id, "points": len(joined), "data": encode_block(joined)}
    connection.execute(sa.insert(blocks), row)


def _block_rows(run_id: str, given: list[tuple[Block, bytes | None]]) -> Iterator[BlockRow]:
    small: list[Block] = []
    for block, data in given:
        if len(block) >= KEEP_BLOCK_FROM_POINTS:
            yield run_id, len(block), data or encode_block(block)
        else:
            small.append(block)
    if small:
        joined = join_blocks(small)
        yield run_id, len(joined), encode_block(joined)


def _move_latest(latest: LatestOfRun, block: Block) -> None:
    keys: dict[str, int] = {}
    mapping = np.array([keys.setdefault(s.key, len(keys)) for s in block.series], np.uint32)
    key_index = mapping[block.index]
    names = list(keys)
    # Only the points at their key's greatest step can win: few are left to compare one by one.
    steps_max = np.full(len(names), np.iinfo(np.int64).min)
    np.maximum.at(steps_max, key_index, block.steps)
    for place in np.flatnonzero(block.steps == steps_max[key_index]).tolist():
        step, timestamp = int(block.steps[place]), int(block.timestamps[place])
        _move(latest, names[key_index[place]], step, timestamp, float(block.values[place]))


def _move(latest: LatestOfRun, key: str, step: int, timestamp: int, value: float) -> None:
    """Makes a point the key's latest where it is greater than the one that is."""
    # NaN and 0 at one step and time are a tie to MLflow; is_nan makes the winner independent of the
    # order in which they came. Of -0.0 and 0.0, equal to all, one is stored.
    is_nan = value != value
    given = (step, timestamp, 0.0 if is_nan else value + 0.0, is_nan)
    greatest = latest.get(key)
    if greatest is None or given > greatest:
        latest[key] = given


VIEW = EntityView(
    name="metrics",
    tables=(latest_metrics, blocks),
    folds={
        RUN_BATCH_LOGGED: fold_batch_logged,
        POINTS_LOGGED: fold_points,
        RUN_PURGED: fold_run_purged,
    },
    finish=finish,
)
