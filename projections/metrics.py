"""Metrics: the latest value of each key, and the blocks of points that are not sealed yet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import sqlalchemy as sa

from events.codec import Block, decode_block, encode_block, join_blocks
from events.event import Event
from events.metrics import POINTS_LOGGED, block_of
from events.runs import RUN_BATCH_LOGGED, RUN_PURGED, RunBatchLogged
from projections.schema import metadata
from projections.state import State
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
    sa.Index("latest_metrics_by_value", "key", "is_nan", "value", "run_id"),
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


def fold_batch_logged(state: State, event: Event, data: RunBatchLogged) -> None:
    """The points of a batch that also had params or tags."""
    if data.metrics:
        state.collect(_COLLECTED).append((event.subject, block_of(data.metrics), None))


def fold_points(state: State, event: Event, block: Block) -> None:
    """The points of a batch of metrics alone."""
    state.collect(_COLLECTED).append((event.subject, block, event.data))


def fold_run_purged(state: State, event: Event, _data: Any) -> None:
    """Latest values and blocks go; the sealer's segments are rewritten by gc."""
    collected = state.collect(_COLLECTED)
    collected[:] = [item for item in collected if item[0] != event.subject]
    state.execute(sa.delete(latest_metrics).where(latest_metrics.c.run_id == event.subject))
    state.execute(sa.delete(blocks).where(blocks.c.run_id == event.subject))


def finish(state: State) -> None:
    """Stores the blocks that the batch's events brought, and moves the latest values on."""
    collected = state.collect(_COLLECTED)
    if not collected:
        return
    by_run: dict[str, list[tuple[Block, bytes | None]]] = {}
    for run_id, block, data in collected:
        if len(block):
            by_run.setdefault(run_id, []).append((block, data))
    collected.clear()
    rows: list[tuple[str, int, bytes]] = []
    for run_id, given in by_run.items():
        joined = join_blocks([block for block, _ in given])
        _move_latest(state, run_id, joined)
        rows.extend(_block_rows(run_id, given))
    if not rows:
        return
    state.write_many(_insert_block(state.connection.dialect), rows)
    for run_id in {row[0] for row in rows if row[1] < KEEP_BLOCK_FROM_POINTS}:
        _join_small_blocks(state, run_id)


@lru_cache(maxsize=4)
def _insert_block(dialect: sa.Dialect) -> str:
    names = ["run_id", "points", "data"]
    return str(sa.insert(blocks).compile(dialect=dialect, column_keys=names))


@lru_cache(maxsize=16)
def _text_of(statement: sa.Executable, dialect: sa.Dialect) -> str:
    return str(statement.compile(dialect=dialect))  # type: ignore[attr-defined]


_SMALL = sa.select(sa.func.count()).where(
    blocks.c.run_id == sa.bindparam("run_id"), blocks.c.points < sa.bindparam("points")
)


def _join_small_blocks(state: State, run_id: str) -> None:
    """Makes one block of a run's small ones when there are many: a run that logs a point a request
    would otherwise leave thousands, each to be opened by every reader of its history."""
    connection = state.connection
    count = state.fetch(_text_of(_SMALL, connection.dialect), (run_id, KEEP_BLOCK_FROM_POINTS))
    if count[0][0] < SMALL_BLOCKS_MAX:
        return
    small = (blocks.c.run_id == run_id, blocks.c.points < KEEP_BLOCK_FROM_POINTS)
    found = connection.execute(sa.select(blocks.c.data).where(*small)).scalars()
    joined = join_blocks([decode_block(data) for data in found])
    connection.execute(sa.delete(blocks).where(*small))
    row = {"run_id": run_id, "points": len(joined), "data": encode_block(joined)}
    connection.execute(sa.insert(blocks), row)


def _block_rows(
    run_id: str, given: list[tuple[Block, bytes | None]]
) -> Iterator[tuple[str, int, bytes]]:
    small: list[Block] = []
    for block, data in given:
        if len(block) >= KEEP_BLOCK_FROM_POINTS:
            yield run_id, len(block), data or encode_block(block)
        else:
            small.append(block)
    if small:
        joined = join_blocks(small)
        yield run_id, len(joined), encode_block(joined)


def _move_latest(state: State, run_id: str, block: Block) -> None:
    keys: dict[str, int] = {}
    mapping = np.array([keys.setdefault(s.key, len(keys)) for s in block.series], np.uint32)
    key_index = mapping[block.index]
    names = list(keys)
    # Only the points at their key's greatest step can win: few are left to compare one by one.
    steps_max = np.full(len(names), np.iinfo(np.int64).min)
    np.maximum.at(steps_max, key_index, block.steps)
    rows = state.rows(latest_metrics)
    for place in np.flatnonzero(block.steps == steps_max[key_index]).tolist():
        key = names[key_index[place]]
        value = float(block.values[place])
        is_nan = math.isnan(value)
        # NaN and 0 at one step and time are a tie to MLflow; is_nan makes the winner independent
        # of the order in which they came.
        new = (
            int(block.steps[place]),
            int(block.timestamps[place]),
            0.0 if is_nan else value + 0.0,  # of -0.0 and 0.0, equal to all, one is stored
            is_nan,
        )
        old = rows.get(run_id, key)
        if old is None or new > (old["step"], old["timestamp"], old["value"], old["is_nan"]):
            rows.put(
                {
                    "run_id": run_id,
                    "key": key,
                    "value": new[2],
                    "timestamp": new[1],
                    "step": new[0],
                    "is_nan": new[3],
                }
            )


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
